// Tiles of more rows than vector registers hold sums of, up to sixteen: matrix registers (tiles.h) make a superblock's integer
// sums, of one block or of two, and the rest is as elsewhere, in the same order.
#pragma once

#include "multiply.h"
#include "tiles.h"

#if defined(__AMX_INT8__)

namespace coderv2 {

// A panel whose integer sums are made, [groups][halves][16 rows][16].
template <Code CODE>
class Summed : public Panel<CODE> {
public:
    using Panel<CODE>::HALVES, Panel<CODE>::OFFSET;

    Summed(const uint8_t* panel, const int32_t* sums) : Panel<CODE>(panel), sums_(sums) {}

    void next_group() {
        Panel<CODE>::next_group();
        sums_ += HALVES * TALL * ROWS;
    }
    // Half a group's (or the whole's) for row m of M, less the quants' offset.
    template <int HALF, int M>
    Ints sum(const Tile& tile, int group, int m) const {
        const Ints sum = load_ints(sums_ + (HALF * TALL + m) * ROWS);
        if constexpr (OFFSET) return plus(sum, all_ints(tile.corrections[(group * HALVES + HALF) * M + m]));
        else return sum;
    }

private:
    const int32_t* sums_;
};

template <Code CODE, int M, int... B>
void add_tall(const uint8_t* panels, int first, int end, const Tile& tile, float* out) {
    constexpr int HALVES = Panel<CODE>::HALVES, N = sizeof...(B), BYTES = 512 / HALVES;
    alignas(64) int32_t sums[N][SUPER / GROUP * HALVES][TALL * ROWS];
    for (int i = 0; i < (end - first) * HALVES; ++i) {
        const int group = i / HALVES, half = i % HALVES;
        const int8_t* a = tile.numbers.data() + static_cast<int64_t>(first + group) * M * GROUP + half * GROUP / HALVES;
        const uint8_t* quants = panels + PANEL_HEAD<CODE> + (group + 1) * PANEL_GROUP<CODE> - 512 + half * BYTES;
        tile_sums(a, (quants + B * PANEL_SUPER<CODE>)..., sums[B][i]...);
    }
    for (int b = 0; b < N; ++b) {
        std::array<Summed<CODE>, 1> block{Summed<CODE>(panels + b * PANEL_SUPER<CODE>, sums[b][0])};
        add_super<Summed<CODE>, 1, M, N>(block, first, end, tile, out + ROWS * b, Ahead());
    }
}

// The first format whose panels look the same: quants of any width are bytes there, and one function is enough for all.
template <Code CODE>
constexpr Code ALIKE = [] {
    int code = Q4_FLAT;
    while (FORMATS[code].scales != FORMATS[CODE].scales || !FORMATS[code].offset != !FORMATS[CODE].offset) ++code;
    return static_cast<Code>(code);
}();

template <Code CODE, int... B>
void multiply_tall(const uint8_t* const* blocks, int groups, const Tile* tiles, int64_t count, float* out) {
    static constexpr auto ADD = []<int... M>(std::integer_sequence<int, M...>) {
        std::array<AddPanels, TALL> add{};
        ((add[TILE + M] = add_tall<ALIKE<CODE>, TILE + M + 1, B...>), ...);
        return add;
    }(std::make_integer_sequence<int, TALL - TILE>());
    const TileShapes<8 / Panel<CODE>::HALVES> shapes;
    multiply_many<CODE, B...>(ADD.data(), blocks, groups, tiles, count, out);
}

}  // namespace coderv2

#endif
