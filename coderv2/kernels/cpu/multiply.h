// A block of sixteen weight rows times a tile of activations.
//
// The same operations in the same order whatever the number of rows in the tile and wherever the weights come from, so
// that a row's result does not depend on its company: for each superblock, minima times sums of activations; less that,
// integer sums of a group times the group's scale; then the superblock times the activations' scale (or each group, where
// they have one for each).
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "formats.h"
#include "rows.h"
#include "simd.h"

namespace coderv2 {

constexpr int AHEAD = 4096;  // bytes that a thread asks memory for in advance

// Weights as they lie in memory, unpacked on the way into the registers.
template <Code CODE>
class Packed {
public:
    static constexpr Format F = FORMATS[CODE];
    static constexpr int BITS = F.bits, HALVES = F.halves();
    static constexpr bool WHOLE_MINIMA = F.whole_min(), MINIMA = F.has_min() && !WHOLE_MINIMA;
    static constexpr bool OFFSET = F.offset != 0, OWN_SCALE = F.span() == GROUP;

    explicit Packed(const uint8_t* block) : at_(block) {}

    void next_super() {
        if constexpr (F.head_bytes() > 0) {
            scale_ = coderv2::halves(at_);
            if constexpr (F.head_bytes() == 64) minimum_ = coderv2::halves(at_ + 32);
            at_ += F.head_bytes();
        }
    }
    void next_group() { at_ += F.group_bytes(); }
    void skip_groups(int count) { at_ += count * F.group_bytes(); }
    void prefetch(int64_t skip) const {
        for (int i = 0; i < F.group_bytes(); i += 64) __builtin_prefetch(at_ + AHEAD + skip + i);
    }
    // Asks for part `part` of `parts` of the superblock that begins `skip` bytes from here.
    void prefetch_super(int64_t skip, int64_t part, int64_t parts) const {
        constexpr int64_t LINES = (F.head_bytes() + SUPER / GROUP * F.group_bytes()) / 64 + 1;
        for (int64_t line = LINES * part / parts; line < LINES * (part + 1) / parts; ++line)
            __builtin_prefetch(at_ + skip + 64 * line, 0, 2);
    }

    Floats scale(int half) const {
        if constexpr (F.scales == Scales::two_16) return times(scale_, signed_bytes(at_ + 16 * half));
        else if constexpr (F.head_bytes() > 0) return times(scale_, unsigned_bytes(at_ + 16 * half));
        else return coderv2::halves(at_);
    }
    Floats minimum(int half) const {
        if constexpr (F.head_bytes() > 0) return times(minimum_, unsigned_bytes(at_ + 16 * (HALVES + half)));
        else return coderv2::halves(at_ + 32);
    }

    // Two neighbouring minima of the superblock that begins here; beyond its `groups` any will do, since the sums are 0.
    Bytes minimum_pair(int pair, int groups) const {
        auto minimum = [&](int i) {
            const int group = i / HALVES < groups ? i / HALVES : 0;
            return at_ + group * F.group_bytes() + 16 * (HALVES + i % HALVES);
        };
        return paired_bytes(minimum(2 * pair), minimum(2 * pair + 1));
    }
    Floats minimum_unit() const { return minimum_; }

    template <int STEP>
    Bytes quants() const {
        const uint8_t* q = at_ + F.scale_bytes();
        if constexpr (BITS == 8) {
            return load_bytes(q + 64 * STEP);
        } else {
            const Bytes low = shifted<STEP % 2 * 4>(load_bytes(q + 64 * (STEP / 2)), 0x0f);
            if constexpr (BITS == 4) return low;
            else if constexpr (BITS == 5) return either(low, shifted<STEP - 4>(load_bytes(q + 256), 0x10));
            else return either(low, shifted<STEP % 4 * 2 - 4>(load_bytes(q + 256 + 64 * (STEP / 4)), 0x30));
        }
    }

private:
    const uint8_t* at_;
    Floats scale_{}, minimum_{};
};

// Bytes of a superblock's whole minima in a panel, and of one group: scales, minima, quants.
template <Code CODE>
constexpr int PANEL_HEAD = Packed<CODE>::WHOLE_MINIMA ? 64 * (1 + 4 * Packed<CODE>::HALVES) : 0;
template <Code CODE>
constexpr int PANEL_GROUP = 64 * (Packed<CODE>::HALVES * (Packed<CODE>::MINIMA ? 2 : 1) + 8);
template <Code CODE>
constexpr int PANEL_SUPER = PANEL_HEAD<CODE> + SUPER / GROUP * PANEL_GROUP<CODE>;

// A superblock unpacked beforehand, for more rows than pay for unpacking again each time.
template <Code CODE>
class Panel {
public:
    using P = Packed<CODE>;
    static constexpr int BITS = P::BITS, HALVES = P::HALVES;
    static constexpr bool WHOLE_MINIMA = P::WHOLE_MINIMA, MINIMA = P::MINIMA, OFFSET = P::OFFSET, OWN_SCALE = P::OWN_SCALE;

    explicit Panel(const uint8_t* panel) : at_(panel + PANEL_HEAD<CODE>) {}

    void next_group() { at_ += PANEL_GROUP<CODE>; }
    void skip_groups(int count) { at_ += count * PANEL_GROUP<CODE>; }
    void prefetch(int64_t) const {}
    Floats scale(int half) const { return load(reinterpret_cast<const float*>(at_) + 16 * half); }
    Floats minimum(int half) const { return load(reinterpret_cast<const float*>(at_) + 16 * (HALVES + half)); }
    Floats minimum_unit() const { return load(reinterpret_cast<const float*>(at_ - PANEL_HEAD<CODE>)); }
    Bytes minimum_pair(int pair, int) const { return load_bytes(at_ - PANEL_HEAD<CODE> + 64 * (1 + pair)); }
    template <int STEP>
    Bytes quants() const {
        return load_bytes(at_ + PANEL_GROUP<CODE> - 512 + 64 * STEP);
    }

private:
    const uint8_t* at_;
};

// The next superblock of a block, of `groups` groups.
template <Code CODE>
void unpack(Packed<CODE>& from, int groups, uint8_t* panel) {
    from.next_super();
    if constexpr (Packed<CODE>::WHOLE_MINIMA) {
        store(reinterpret_cast<float*>(panel), from.minimum_unit());
        for (int pair = 0; pair < 4 * from.HALVES; ++pair)
            store_bytes(panel + 64 * (1 + pair), from.minimum_pair(pair, groups));
        panel += PANEL_HEAD<CODE>;
    }
    for (int g = 0; g < groups; ++g, panel += PANEL_GROUP<CODE>) {
        auto* floats = reinterpret_cast<float*>(panel);
        for (int half = 0; half < from.HALVES; ++half) {
            store(floats + 16 * half, from.scale(half));
            if constexpr (Packed<CODE>::MINIMA) store(floats + 16 * (from.HALVES + half), from.minimum(half));
        }
        uint8_t* quants = panel + PANEL_GROUP<CODE> - 512;
        [&]<int... STEP>(std::integer_sequence<int, STEP...>) {
            (store_bytes(quants + 64 * STEP, from.template quants<STEP>()), ...);
        }(std::make_integer_sequence<int, 8>());
        from.next_group();
    }
}

// Few sums are taken in more chains, so that products of one group don't wait for each other so long.
template <int COUNT>
constexpr int CHAINS = COUNT == 1 ? 4 : COUNT <= 3 ? 2 : 1;

// The steps of one half (or the whole) of a group, for B blocks and M rows.
template <int FIRST, int B, int M, class Source, class Sums, int... STEP>
inline void dot(const Source* sources, const int8_t* a, Sums* dots, std::integer_sequence<int, STEP...>) {
    auto step = [&]<int S>(std::integral_constant<int, S>) {
        Bytes quants[B];
        for (int b = 0; b < B; ++b) quants[b] = sources[b].template quants<S>();
        for (int m = 0; m < M; ++m) {
            const auto four = spread_step<S>(a + GROUP * m);
            for (int b = 0; b < B; ++b) dots[B * m + b].template add<S - FIRST>(quants[b], four);
        }
    };
    (step(std::integral_constant<int, FIRST + STEP>()), ...);
}

// Adds integer sums of half a group (or the whole), `sum(B * m + b)`, times its scale, and takes off its minimum.
template <int HALF, int B, int M, class Source, class Sum>
inline void add_scaled(const Source* sources, const Tile& tile, int group, Floats* part, const Sum& sum) {
    for (int b = 0; b < B; ++b) {
        const Floats scale = sources[b].scale(HALF);
        for (int m = 0; m < M; ++m) {
            const Floats whole = to_floats(sum(B * m + b));
            Floats& to = part[B * m + b];
            if constexpr (Source::OWN_SCALE) to = fused(times(whole, scale), all(tile.scales[group * M + m]), to);
            else to = fused(whole, scale, to);
        }
        if constexpr (Source::MINIMA) {
            const Floats minimum = sources[b].minimum(HALF);
            for (int m = 0; m < M; ++m)
                part[B * m + b] = fused_minus(minimum, all(tile.sums[(group * Source::HALVES + HALF) * M + m]), part[B * m + b]);
        }
    }
}

template <class Source, int B, int M, int HALF, int... I>
inline void half_group(const Source* sources, const Tile& tile, int group, Floats* part, std::integer_sequence<int, I...>) {
    if constexpr (requires { sources->template sum<HALF, M>(tile, group, 0); }) {  // they are made already, of one block
        add_scaled<HALF, B, M>(sources, tile, group, part, [&](int m) { return sources->template sum<HALF, M>(tile, group, m); });
    } else {
        constexpr int STEPS = 8 / Source::HALVES;
        const int sums = (group * Source::HALVES + HALF) * M;
        using Sums = Dots<Source::BITS, CHAINS<B * M>>;
        Sums dots[B * M] = {Sums(Source::OFFSET ? tile.corrections[sums + I / B] : 0)...};
        dot<HALF * STEPS, B, M>(sources, tile.numbers.data() + static_cast<int64_t>(group) * M * GROUP, dots,
                                std::make_integer_sequence<int, STEPS>());
        add_scaled<HALF, B, M>(sources, tile, group, part, [&](int i) { return dots[i].sum(); });
    }
}

// Where blocks end for those who ask for memory in advance: from group `end` on they skip the blocks that go along.
struct Ahead {
    int end = 0;
    int64_t skip = 0;

    template <Code CODE>
    static Ahead of(int groups, int blocks) {
        constexpr Format F = FORMATS[CODE];
        return {groups - AHEAD / F.group_bytes(), (blocks - 1) * F.block_bytes(static_cast<int64_t>(groups) * GROUP)};
    }
    int64_t at(int group) const { return group >= end ? skip : 0; }
};

// What a superblock's parts begin with: nothing, or what whole minima take off.
template <class Source, int B, int M>
inline void start(const std::array<Source, B>& sources, int first, int end, const Tile& tile, Floats* part) {
    for (int i = 0; i < B * M; ++i) part[i] = zeros();
    if constexpr (Source::WHOLE_MINIMA) {
        constexpr int PAIRS = 4 * Source::HALVES;
        const int16_t* sums = tile.pairs.data() + static_cast<int64_t>(first / (SUPER / GROUP)) * PAIRS * M * 2;
        for (int b = 0; b < B; ++b) {
            Ints products[M];
            for (auto& one : products) one = no_ints();
            for (int pair = 0; pair < PAIRS; ++pair) {
                const Bytes minima = sources[b].minimum_pair(pair, end - first);
                for (int m = 0; m < M; ++m) products[m] = pairs(products[m], minima, sums + 2 * (pair * M + m));
            }
            for (int m = 0; m < M; ++m)
                part[B * m + b] = fused_minus(sources[b].minimum_unit(), to_floats(products[m]), part[B * m + b]);
        }
    }
}

// Adds a superblock's share, that of groups first … end, to the results of B blocks and the tile's M rows, [M][BESIDE][16]:
// B of BESIDE blocks that stand side by side.
template <class Source, int B, int M, int BESIDE = B>
[[gnu::always_inline]] inline void add_super(std::array<Source, B>& from, int first, int end, const Tile& tile, float* out,
                                           const Ahead& ahead) {
    constexpr auto rows = std::make_integer_sequence<int, B * M>();
    std::array<Source, B> sources = from;  // a local copy stays in registers
    Floats part[B * M];
    start<Source, B, M>(sources, first, end, tile, part);
    for (int group = first; group < end; ++group) {
        for (int b = 0; b < B; ++b) sources[b].prefetch(ahead.at(group));
        half_group<Source, B, M, 0>(sources.data(), tile, group, part, rows);
        if constexpr (Source::HALVES == 2) half_group<Source, B, M, 1>(sources.data(), tile, group, part, rows);
        for (int b = 0; b < B; ++b) sources[b].next_group();
    }
    // Not `from = sources`: reading as a whole what was just written in part has to wait until it is in memory.
    for (int b = 0; b < B; ++b) from[b].skip_groups(end - first);
    for (int i = 0; i < B * M; ++i) {
        float* to = out + 16 * (i / B * BESIDE + i % B);
        const Floats before = load(to);
        if constexpr (Source::OWN_SCALE) store(to, plus(part[i], before));
        else store(to, fused(part[i], all(tile.scales[first / (SUPER / GROUP) * M + i / B]), before));
    }
}

// Sixteen results of each of B blocks for each of the tile's M rows, [M][B][16], from weights as they lie.
template <Code CODE, int B, int M>
void multiply(const uint8_t* const* blocks, int groups, const Tile& tile, float* out) {
    auto sources = [&]<int... I>(std::integer_sequence<int, I...>) {
        return std::array<Packed<CODE>, B>{Packed<CODE>(blocks[I])...};
    }(std::make_integer_sequence<int, B>());
    const auto ahead = Ahead::of<CODE>(groups, B);
    for (int i = 0; i < B * M; ++i) store(out + 16 * i, zeros());
    for (int first = 0; first < groups; first += SUPER / GROUP) {
        for (auto& source : sources) source.next_super();
        add_super<Packed<CODE>, B, M>(sources, first, std::min(first + SUPER / GROUP, groups), tile, out, ahead);
    }
}

// Adds a superblock's share to a tile's results of some blocks, from the panels it was unpacked into.
using AddPanels = void (*)(const uint8_t* panels, int first, int end, const Tile& tile, float* out);

template <Code CODE, int M, int... B>
void add_panels(const uint8_t* panels, int first, int end, const Tile& tile, float* out) {
    std::array<Panel<CODE>, sizeof...(B)> open{Panel<CODE>(panels + B * PANEL_SUPER<CODE>)...};
    add_super<Panel<CODE>, sizeof...(B), M>(open, first, end, tile, out, Ahead());
}

// The same of B blocks for many tiles, [rows][B][16]: a superblock's panels stay in the nearest cache while all rows pass.
// `add` has what a tile takes, by its rows less one.
template <Code CODE, int... B>
void multiply_many(const AddPanels* add, const uint8_t* const* blocks, int groups, const Tile* tiles, int64_t count,
                   float* out) {
    constexpr int PER = SUPER / GROUP, N = sizeof...(B);
    alignas(64) uint8_t panels[N][PANEL_SUPER<CODE>];
    std::array<Packed<CODE>, N> sources{Packed<CODE>(blocks[B])...};
    int64_t rows = 0;
    for (int64_t i = 0; i < count; ++i) rows += tiles[i].rows;
    for (int64_t i = 0; i < rows * N; ++i) store(out + 16 * i, zeros());
    for (int first = 0; first < groups; first += PER) {
        const int end = std::min(first + PER, groups);
        for (int b = 0; b < N; ++b) unpack(sources[b], end - first, panels[b]);
        // What is unpacked next is asked for little by little, since memory has nothing else to do meanwhile.
        const int64_t skip = end == groups ? (N - 1) * FORMATS[CODE].block_bytes(groups * GROUP) : 0;
        float* to = out;
        for (int64_t i = 0; i < count; to += 16 * N * tiles[i++].rows) {
            add[tiles[i].rows - 1](panels[0], first, end, tiles[i], to);
            for (const auto& source : sources) source.prefetch_super(skip, i, count);
        }
    }
}

// The same for weights that are not quantised.
template <int M>
void multiply_bf16(const uint8_t* const* blocks, int groups, const Tile& tile, float* out) {
    const uint8_t* block = blocks[0];
    Floats sum[M];
    for (int m = 0; m < M; ++m) sum[m] = zeros();
    const auto* a = reinterpret_cast<const uint16_t*>(tile.numbers.data());
    for (int pair = 0; pair < groups * GROUP / 2; ++pair, block += 64, a += 2 * M) {
        __builtin_prefetch(block + AHEAD);
        const Bytes weights = load_bytes(block);
        for (int m = 0; m < M; ++m) sum[m] = pairs(sum[m], weights, a + 2 * m);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(out + 16 * m, sum[m]);
}

template <int M>
void multiply_f32(const uint8_t* const* blocks, int groups, const Tile& tile, float* out) {
    const uint8_t* block = blocks[0];
    Floats sum[M];
    for (int m = 0; m < M; ++m) sum[m] = zeros();
    const auto* a = reinterpret_cast<const float*>(tile.numbers.data());
    for (int column = 0; column < groups * GROUP; ++column, block += 64, a += M) {
        __builtin_prefetch(block + AHEAD);
        const Floats weights = load(reinterpret_cast<const float*>(block));
        for (int m = 0; m < M; ++m) sum[m] = fused(weights, all(a[m]), sum[m]);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(out + 16 * m, sum[m]);
}

// Scales stand before each 128 columns; activations stay float32.
template <int M>
void multiply_fp8(const uint8_t* const* blocks, int groups, const Tile& tile, float* out) {
    const uint8_t* block = blocks[0];
    Floats total[M];
    for (int m = 0; m < M; ++m) total[m] = zeros();
    const auto* a = reinterpret_cast<const float*>(tile.numbers.data());
    for (int first = 0; first < groups * GROUP; first += FP8_SPAN) {
        const Floats scale = load(reinterpret_cast<const float*>(block));
        block += 64;
        Floats sum[M];
        for (int m = 0; m < M; ++m) sum[m] = zeros();
        const int end = first + FP8_SPAN < groups * GROUP ? first + FP8_SPAN : groups * GROUP;
        for (int column = first; column < end; column += 4, block += 64, a += 4 * M) {
            __builtin_prefetch(block + AHEAD);
            const Bytes weights = load_bytes(block);
            const Floats four[] = {fp8<0>(weights), fp8<1>(weights), fp8<2>(weights), fp8<3>(weights)};
            for (int j = 0; j < 4; ++j)
                for (int m = 0; m < M; ++m) sum[m] = fused(four[j], all(a[j * M + m]), sum[m]);
        }
        for (int m = 0; m < M; ++m) total[m] = fused(sum[m], scale, total[m]);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(out + 16 * m, total[m]);
}

}  // namespace coderv2
