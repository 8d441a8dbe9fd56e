// Number formats in kernel order: the same layout as coderv2/kernels/formats.py, which draws it.
#pragma once

#include <array>
#include <cstdint>

namespace coderv2 {

constexpr int ROWS = 16;    // rows in a block
constexpr int GROUP = 32;   // columns between two sets of scales
constexpr int SUPER = 256;  // columns in a superblock
constexpr int FP8_SPAN = 128;

enum class Scales { none, flat, flat_min, two, two_16, two_16_min, fp8 };

struct Format {
    int bits;
    Scales scales;
    int offset;

    constexpr bool quantised() const { return scales != Scales::none && scales != Scales::fp8; }
    constexpr bool has_min() const {
        return scales == Scales::flat_min || scales == Scales::two || scales == Scales::two_16_min;
    }
    // Minima are whole numbers, whose products with activations' sums are exact for a superblock.
    constexpr bool whole_min() const { return has_min() && head_bytes() > 0; }
    // Columns of activations that share a scale: as many as weights do at the first level.
    constexpr int span() const { return scales == Scales::flat || scales == Scales::flat_min ? GROUP : SUPER; }
    // Scales within a group: one, or one for each 16 columns.
    constexpr int halves() const { return scales == Scales::two_16 || scales == Scales::two_16_min ? 2 : 1; }

    constexpr int head_bytes() const {
        return scales == Scales::two || scales == Scales::two_16_min ? 64 : scales == Scales::two_16 ? 32 : 0;
    }
    constexpr int scale_bytes() const {
        return scales == Scales::flat_min || scales == Scales::two_16_min ? 64 : quantised() ? 32 : 0;
    }
    constexpr int quant_bytes() const { return ROWS * GROUP * bits / 8; }
    constexpr int group_bytes() const { return scale_bytes() + quant_bytes(); }

    constexpr int64_t block_bytes(int64_t columns) const {
        const int64_t groups = (columns + GROUP - 1) / GROUP;
        const int64_t supers = (columns + SUPER - 1) / SUPER;
        const int64_t spans = scales == Scales::fp8 ? (groups * GROUP + FP8_SPAN - 1) / FP8_SPAN : 0;
        return head_bytes() * supers + group_bytes() * groups + 64 * spans;
    }
    constexpr int64_t bytes(int64_t rows, int64_t columns) const {
        return (rows + ROWS - 1) / ROWS * block_bytes(columns);
    }
};

enum Code { F32, BF16, FP8, Q4_FLAT, Q4_FLAT_MIN, Q5_FLAT, Q5_FLAT_MIN, INT8, INT4, Q5_TWO, Q6_TWO, Q4_TWO, Q4_TWO_MIN, Q8_TWO };

constexpr std::array<Format, 14> FORMATS{{
    {32, Scales::none, 0},
    {16, Scales::none, 0},
    {8, Scales::fp8, 0},
    {4, Scales::flat, 8},
    {4, Scales::flat_min, 0},
    {5, Scales::flat, 16},
    {5, Scales::flat_min, 0},
    {8, Scales::flat, 128},
    {4, Scales::two, 0},
    {5, Scales::two, 0},
    {6, Scales::two_16, 32},
    {4, Scales::two_16, 4},
    {4, Scales::two_16_min, 0},
    {8, Scales::two_16, 128},
}};

}  // namespace coderv2
