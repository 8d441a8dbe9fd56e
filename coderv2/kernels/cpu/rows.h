// Activations as the kernels read them: rows made ready once, then laid side by side in tiles.
//
// For quantised weights a row becomes int8, with one scale for each 256 columns (32 where the weights' own scales have one
// level) and the sums that minima and offsets need; for bf16 weights it is rounded to bfloat16; for f32 and fp8 it stays.
#pragma once

#include <cstdint>
#include <vector>

#include "formats.h"

namespace coderv2 {

enum class Kind { int8, bf16, f32 };

constexpr Kind kind_of(const Format& format) {
    return format.quantised() ? Kind::int8 : format.bits == 16 ? Kind::bf16 : Kind::f32;
}

// A row in int8, with one scale: returns what a step is worth, NaN where a number is not finite.
float to_int8(const float* x, int64_t count, int8_t* to, int32_t* sum);

// T rows of I columns, filled up with zeros to whole groups.
class Rows {
public:
    // Memory is kept from call to call.
    void resize(int64_t rows, int64_t columns, const Format& format);
    // Row `row` from float32 numbers; threads may fill different rows at a time.
    void fill(int64_t row, const float* x);

    Kind kind() const { return kind_; }
    int64_t count() const { return rows_; }
    int64_t columns() const { return columns_; }
    int groups() const { return static_cast<int>((columns_ + GROUP - 1) / GROUP); }
    int spans() const { return static_cast<int>((columns_ + span_ - 1) / span_); }
    int span() const { return span_; }

    const int8_t* quants(int64_t row) const { return bytes_.data() + row * stride(); }
    const int32_t* sums(int64_t row) const { return sums_.data() + row * groups() * 2; }  // of each 16 columns
    const float* scales(int64_t row) const { return scales_.data() + row * spans(); }
    const uint16_t* halves(int64_t row) const { return reinterpret_cast<const uint16_t*>(quants(row)); }
    const float* floats(int64_t row) const { return reinterpret_cast<const float*>(quants(row)); }

private:
    int64_t stride() const { return static_cast<int64_t>(groups()) * GROUP * width_; }
    void quantise(int64_t row, const float* x);

    int64_t rows_ = 0, columns_ = 0;
    Kind kind_ = Kind::int8;
    int width_ = 1;  // bytes of a number
    int span_ = SUPER;  // columns that share a scale
    std::vector<int8_t> bytes_;
    std::vector<int32_t> sums_;
    std::vector<float> scales_;
};

// Up to TILE rows (TALL for matrix registers) side by side: all rows' numbers of one group (four columns, a pair, one) before the next.
struct Tile {
    int rows = 0;
    std::vector<int8_t> numbers;      // int8: [groups][rows][32]; bf16: [pairs][rows][2]; f32: [columns][rows]
    std::vector<int32_t> corrections;  // -offset · sum, [groups · halves][rows]; none where the offset is 0
    std::vector<float> sums;           // for minima that are not whole: sum · scale, [groups · halves][rows]
    std::vector<int16_t> pairs;        // for whole minima: sums of two neighbours, [spans][4 · halves][rows][2]
    std::vector<float> scales;         // [spans][rows]

    // From rows `ids[0..rows)` of `from`, for a weight of this format.
    void gather(const Rows& from, const int32_t* ids, int rows, const Format& format);

private:
    void gather_sums(const Rows& from, int32_t id, int m, const Format& format);
};

}  // namespace coderv2
