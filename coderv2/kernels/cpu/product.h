// Which kernel multiplies a format, and how one block of rows meets many tiles of activations.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "formats.h"
#include "rows.h"
#include "simd.h"
#include "tiles.h"

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

// Tiles from which unpacking a superblock once pays for writing and reading it.
constexpr int64_t UNPACKED_BEFORE = BLOCKS == 2 ? 16 : 1;

// Sixteen results of some blocks for each of the tile's rows, [rows][blocks][16].
using Multiply = void (*)(const uint8_t* const* blocks, int groups, const Tile& tile, float* out);
// The same for some blocks and many tiles, [rows][blocks][16].
using MultiplyMany = void (*)(const uint8_t* const* blocks, int groups, const Tile* tiles, int64_t count, float* out);

struct Kernels {
    Multiply few[BLOCKS][TILE] = {};  // by blocks and rows, less one; none but of one block: one at a time
    MultiplyMany many[BLOCKS] = {};  // by blocks, less one; none: `few` takes any tile
    MultiplyMany tall[BLOCKS] = {};  // the same of tiles of more than TILE rows, with matrix registers; none: there are none
    void (*unpack)(const uint8_t* block, int groups, float* out) = nullptr;  // [columns][16]
};

const Kernels& kernels_of(int code);

// Some rows of a block as float32 numbers, [count][columns].
void unpack_rows(const Matrix& matrix, int64_t block, int first, int count, float* out);

// Rows cut into tiles of nearly equal size, which weights of all these formats take: of up to TILE rows, or, with matrix
// registers and more rows than that, TALL.
std::vector<int> tile_sizes(int64_t rows, std::initializer_list<int> codes);

// One matrix times some tiles, [rows][blocks][16]. A row's bits are the same whichever kernel computes them.
class Product {
public:
    Product(const Matrix& matrix, const Tile* tiles, int64_t count)
        : matrix_(matrix), kernels_(kernels_of(matrix.code)), tiles_(tiles), count_(count) {}

    // Up to BLOCKS blocks from `block` on.
    void times(int64_t block, int blocks, float* out) const {
        const uint8_t* at[BLOCKS];
        for (int b = 0; b < blocks; ++b) at[b] = matrix_.block(block + b);
        const bool tall = count_ > 0 && tiles_[0].rows > TILE;
        const auto many = tall ? kernels_.tall[blocks - 1] : kernels_.many[blocks - 1];
        if (tall || (count_ > UNPACKED_BEFORE && many)) return many(at, matrix_.groups(), tiles_, count_, out);
        const bool single = count_ == 1 && tiles_[0].rows == 1;  // whose sums are fewest: it reads one block after another
        if (single || !kernels_.few[blocks - 1][0])
            for (int b = 0; b < blocks; ++b) one_block(at[b], out + 16 * b, 16 * blocks);
        else
            for (int64_t i = 0; i < count_; out += 16 * blocks * tiles_[i++].rows)
                kernels_.few[blocks - 1][tiles_[i].rows - 1](at, matrix_.groups(), tiles_[i], out);
    }

private:
    void one_block(const uint8_t* at, float* out, int64_t stride) const {
        float sixteen[16 * TILE];
        for (int64_t i = 0; i < count_; ++i) {
            kernels_.few[0][tiles_[i].rows - 1](&at, matrix_.groups(), tiles_[i], sixteen);
            for (int m = 0; m < tiles_[i].rows; ++m, out += stride) std::memcpy(out, sixteen + 16 * m, 16 * sizeof(float));
        }
    }

    const Matrix& matrix_;
    const Kernels& kernels_;
    const Tile* tiles_;
    const int64_t count_;
};

}  // namespace coderv2
