// A block of sixteen weight rows times a tile of activations.
//
// The same operations in the same order whatever the number of rows in the tile and wherever the weights come from, so
// that a row's result does not depend on its company: for each superblock, integer sums of a group times the group's scale,
// less minimum times the sum of activations; then the superblock times the activations' scale (or each group, where they
// have one for each).
#pragma once

#include <utility>

#include "formats.h"
#include "rows.h"
#include "simd.h"

namespace coderv2 {

constexpr int AHEAD = 2048;  // bytes that a thread asks memory for in advance

// Weights as they lie in memory, unpacked on the way into the registers.
template <Code CODE>
class Packed {
public:
    static constexpr Format F = FORMATS[CODE];
    static constexpr int BITS = F.bits, HALVES = F.halves();
    static constexpr bool MINIMA = F.has_min(), OWN_SCALE = F.span() == GROUP;

    explicit Packed(const uint8_t* block) : at_(block) {}

    void next_super() {
        if constexpr (F.head_bytes() > 0) {
            scale_ = coderv2::halves(at_);
            if constexpr (F.head_bytes() == 64) minimum_ = coderv2::halves(at_ + 32);
            at_ += F.head_bytes();
        }
    }
    void next_group() { at_ += F.group_bytes(); }
    void prefetch() const {
        for (int i = 0; i < F.group_bytes(); i += 64) __builtin_prefetch(at_ + AHEAD + i);
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

// Bytes of one group in a panel: scales, minima, quants.
template <Code CODE>
constexpr int PANEL_GROUP = 64 * (Packed<CODE>::HALVES * (Packed<CODE>::MINIMA ? 2 : 1) + 8);

// Weights unpacked beforehand, for more rows than pay for unpacking again each time.
template <Code CODE>
class Panel {
public:
    using P = Packed<CODE>;
    static constexpr int BITS = P::BITS, HALVES = P::HALVES;
    static constexpr bool MINIMA = P::MINIMA, OWN_SCALE = P::OWN_SCALE;

    explicit Panel(const uint8_t* panel) : at_(panel) {}

    void next_super() {}
    void next_group() { at_ += PANEL_GROUP<CODE>; }
    void prefetch() const {}
    Floats scale(int half) const { return load(reinterpret_cast<const float*>(at_) + 16 * half); }
    Floats minimum(int half) const { return load(reinterpret_cast<const float*>(at_) + 16 * (HALVES + half)); }
    template <int STEP>
    Bytes quants() const {
        return load_bytes(at_ + PANEL_GROUP<CODE> - 512 + 64 * STEP);
    }

private:
    const uint8_t* at_;
};

template <Code CODE>
void unpack(const uint8_t* block, int groups, uint8_t* panel) {
    Packed<CODE> from(block);
    for (int g = 0; g < groups; ++g, panel += PANEL_GROUP<CODE>) {
        if (g % (SUPER / GROUP) == 0) from.next_super();
        from.prefetch();
        auto* floats = reinterpret_cast<float*>(panel);
        for (int half = 0; half < from.HALVES; ++half) {
            store(floats + 16 * half, from.scale(half));
            if constexpr (from.MINIMA) store(floats + 16 * (from.HALVES + half), from.minimum(half));
        }
        uint8_t* quants = panel + PANEL_GROUP<CODE> - 512;
        [&]<int... STEP>(std::integer_sequence<int, STEP...>) {
            (store_bytes(quants + 64 * STEP, from.template quants<STEP>()), ...);
        }(std::make_integer_sequence<int, 8>());
        from.next_group();
    }
}

// The steps of one half (or the whole) of a group, for M rows.
template <class Source, int M, int FIRST, int... STEP>
inline void dot(const Source& source, const int8_t* a, Dots<Source::BITS>* dots, std::integer_sequence<int, STEP...>) {
    auto step = [&]<int S>(std::integral_constant<int, S>) {
        const Bytes quants = source.template quants<S>();
        for (int m = 0; m < M; ++m) dots[m].template add<S - FIRST>(quants, a + GROUP * m + 4 * S);
    };
    (step(std::integral_constant<int, FIRST + STEP>()), ...);
}

template <class Source, int M, int HALF, int... I>
inline void half_group(const Source& source, const Tile& tile, int group, Floats* part, std::integer_sequence<int, I...>) {
    constexpr int STEPS = 8 / Source::HALVES;
    const int sums = (group * Source::HALVES + HALF) * M;
    Dots<Source::BITS> dots[M] = {Dots<Source::BITS>(tile.corrections[sums + I])...};
    dot<Source, M, HALF * STEPS>(source, tile.numbers.data() + static_cast<int64_t>(group) * M * GROUP, dots,
                                 std::make_integer_sequence<int, STEPS>());
    const Floats scale = source.scale(HALF);
    for (int m = 0; m < M; ++m) {
        const Floats sum = to_floats(dots[m].sum());
        if constexpr (Source::OWN_SCALE) part[m] = fused(times(sum, scale), all(tile.scales[group * M + m]), part[m]);
        else part[m] = fused(sum, scale, part[m]);
    }
    if constexpr (Source::MINIMA) {
        const Floats minimum = source.minimum(HALF);
        for (int m = 0; m < M; ++m) part[m] = fused_minus(minimum, all(tile.sums[sums + m]), part[m]);
    }
}

// Sixteen results for each of the tile's M rows, [M][16].
template <class Source, int M>
void multiply(Source source, int groups, const Tile& tile, float* out) {
    constexpr auto rows = std::make_integer_sequence<int, M>();
    for (int m = 0; m < M; ++m) store(out + 16 * m, zeros());
    for (int first = 0, super = 0; first < groups; first += SUPER / GROUP, ++super) {
        Floats part[M];
        for (int m = 0; m < M; ++m) part[m] = zeros();
        source.next_super();
        const int end = first + SUPER / GROUP < groups ? first + SUPER / GROUP : groups;
        for (int group = first; group < end; ++group) {
            source.prefetch();
            half_group<Source, M, 0>(source, tile, group, part, rows);
            if constexpr (Source::HALVES == 2) half_group<Source, M, 1>(source, tile, group, part, rows);
            source.next_group();
        }
        for (int m = 0; m < M; ++m) {
            const Floats before = load(out + 16 * m);
            if constexpr (Source::OWN_SCALE) store(out + 16 * m, plus(part[m], before));
            else store(out + 16 * m, fused(part[m], all(tile.scales[super * M + m]), before));
        }
    }
}

// The same for weights that are not quantised.
template <int M>
void multiply_bf16(const uint8_t* block, int groups, const Tile& tile, float* out) {
    Floats sum[M];
    for (int m = 0; m < M; ++m) sum[m] = zeros();
    const auto* a = reinterpret_cast<const uint16_t*>(tile.numbers.data());
    for (int pair = 0; pair < groups * GROUP / 2; ++pair, block += 64, a += 2 * M) {
        __builtin_prefetch(block + AHEAD);
        const Bytes weights = load_bytes(block);
        for (int m = 0; m < M; ++m) sum[m] = pairs(sum[m], weights, a + 2 * m);
    }
    for (int m = 0; m < M; ++m) store(out + 16 * m, sum[m]);
}

template <int M>
void multiply_f32(const uint8_t* block, int groups, const Tile& tile, float* out) {
    Floats sum[M];
    for (int m = 0; m < M; ++m) sum[m] = zeros();
    const auto* a = reinterpret_cast<const float*>(tile.numbers.data());
    for (int column = 0; column < groups * GROUP; ++column, block += 64, a += M) {
        __builtin_prefetch(block + AHEAD);
        const Floats weights = load(reinterpret_cast<const float*>(block));
        for (int m = 0; m < M; ++m) sum[m] = fused(weights, all(a[m]), sum[m]);
    }
    for (int m = 0; m < M; ++m) store(out + 16 * m, sum[m]);
}

// Scales stand before each 128 columns; activations stay float32.
template <int M>
void multiply_fp8(const uint8_t* block, int groups, const Tile& tile, float* out) {
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
    for (int m = 0; m < M; ++m) store(out + 16 * m, total[m]);
}

}  // namespace coderv2
