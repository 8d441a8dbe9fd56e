// Which kernel multiplies a format, and how one block of rows meets many tiles of activations.
#pragma once

#include <cstdint>
#include <vector>

#include "formats.h"
#include "rows.h"
#include "simd.h"

namespace coderv2 {

// A matrix in kernel order.
struct Matrix {
    int code = 0;
    const uint8_t* data = nullptr;
    int64_t rows = 0, columns = 0;

    const Format& format() const { return FORMATS[code]; }
    int groups() const { return static_cast<int>((columns + GROUP - 1) / GROUP); }
    int64_t blocks() const { return (rows + ROWS - 1) / ROWS; }
    const uint8_t* block(int64_t b) const { return data + b * format().block_bytes(columns); }
};

using Multiply = void (*)(const uint8_t* block, int groups, const Tile& tile, float* out);

struct Kernels {
    Multiply packed[TILE] = {};  // by rows, less one
    Multiply panel[TILE] = {};
    void (*unpack)(const uint8_t* block, int groups, uint8_t* panel) = nullptr;  // none: `packed` takes any tile
    int panel_group = 0;
};

const Kernels& kernels_of(int code);

// One row of a block as float32 numbers.
void unpack_row(const Matrix& matrix, int64_t block, int row, float* out);

// Rows cut into tiles of nearly equal size.
std::vector<int> tile_sizes(int64_t rows);

// One matrix, on one thread; the panel is its own memory.
class Product {
public:
    Product(const Matrix& matrix, int64_t rows)
        : matrix_(matrix), kernels_(kernels_of(matrix.code)), panels_(kernels_.unpack && rows > FEW) {}

    // The block that the next multiplications are with.
    void open(int64_t block) {
        at_ = matrix_.block(block);
        if (!panels_) return;
        const size_t size = static_cast<size_t>(matrix_.groups()) * kernels_.panel_group;
        if (panel_.size() < size + 64) panel_.resize(size + 64);
        auto* aligned = panel_.data() + (64 - reinterpret_cast<uintptr_t>(panel_.data()) % 64);
        kernels_.unpack(at_, matrix_.groups(), aligned);
        at_ = aligned;
    }

    // [tile.rows][16].
    void times(const Tile& tile, float* out) const {
        const auto& by_rows = panels_ ? kernels_.panel : kernels_.packed;
        by_rows[tile.rows - 1](at_, matrix_.groups(), tile, out);
    }

private:
    const Matrix& matrix_;
    const Kernels& kernels_;
    const bool panels_;
    const uint8_t* at_ = nullptr;
    static thread_local std::vector<uint8_t> panel_;
};

}  // namespace coderv2
