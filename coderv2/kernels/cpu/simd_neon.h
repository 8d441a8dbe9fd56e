// Sixteen lanes in four registers of NEON, with the dot products of ARMv8.2.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "scalars.h"

namespace coderv2 {

struct Floats {
    float32x4_t v[4];
};
struct Ints {
    int32x4_t v[4];
};
struct Bytes {
    uint8x16_t v[4];
};
struct Four {  // four activations, in every lane
    int8x16_t v;
};
template <int LANE>
struct FourOf {  // four of sixteen activations: a product takes a lane of a register to all lanes by itself
    int8x16_t v;
};
inline Four spread(const int8_t* a) { return {vreinterpretq_s8_s32(vdupq_n_s32(four(a)))}; }
template <int STEP>
inline FourOf<STEP % 4> spread_step(const int8_t* a) {
    return {vld1q_s8(a + STEP / 4 * 16)};
}

// Each register's share of sixteen lanes: no loop, in which GCC would keep them in memory.
template <class Share>
inline Floats floats(Share share) {
    return {{share(0), share(1), share(2), share(3)}};
}
template <class Share>
inline Ints ints(Share share) {
    return {{share(0), share(1), share(2), share(3)}};
}
template <class Share>
inline Bytes bytes(Share share) {
    return {{share(0), share(1), share(2), share(3)}};
}

inline Floats all(float x) {
    return floats([x](int) { return vdupq_n_f32(x); });
}
inline Floats zeros() { return all(0); }
inline Floats load(const float* p) {
    return floats([p](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, Floats x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline Floats halves(const uint8_t* p) {
    return floats([p](int i) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i)));
    });
}
inline Floats unsigned_bytes(const uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
             vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))}};
}
inline Floats signed_bytes(const uint8_t* p) {
    const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))}};
}
inline Floats times(Floats a, Floats b) {
    return floats([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Floats plus(Floats a, Floats b) {
    return floats([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline Floats divided(Floats a, Floats b) {
    return floats([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline Floats fused(Floats a, Floats b, Floats c) {  // a·b + c
    return floats([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline Floats fused_minus(Floats a, Floats b, Floats c) {  // c - a·b
    return floats([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline Floats to_floats(Ints x) {
    return floats([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline Bytes load_bytes(const uint8_t* p) {
    return bytes([p](int i) { return vld1q_u8(p + 16 * i); });
}
inline void store_bytes(uint8_t* p, Bytes x) {
    for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, x.v[i]);
}

template <int SHIFT>
inline uint8x16_t shifted(uint8x16_t x, int mask) {  // right when positive
    constexpr int RIGHT = SHIFT > 0 ? SHIFT : 0, LEFT = SHIFT < 0 ? -SHIFT : 0, REACHED = 0xff >> RIGHT & 0xff << LEFT;
    if constexpr (RIGHT > 0) x = vshrq_n_u8(x, RIGHT);
    if constexpr (LEFT > 0) x = vshlq_n_u8(x, LEFT);
    return mask == REACHED ? x : vandq_u8(x, vdupq_n_u8(static_cast<uint8_t>(mask)));
}
template <int SHIFT>
inline Bytes shifted(Bytes x, int mask) {
    return bytes([&](int i) { return shifted<SHIFT>(x.v[i], mask); });
}
inline Bytes either(Bytes a, Bytes b) {
    return bytes([&](int i) { return vorrq_u8(a.v[i], b.v[i]); });
}

inline Ints no_ints() {
    return ints([](int) { return vdupq_n_s32(0); });
}
// Sixteen bytes at a and sixteen at b as pairs of 16-bit numbers.
inline Bytes paired_bytes(const uint8_t* a, const uint8_t* b) {
    const uint8x16_t x = vld1q_u8(a), y = vld1q_u8(b);
    const uint8x16_t low = vzip1q_u8(x, vdupq_n_u8(0)), high = vzip2q_u8(x, vdupq_n_u8(0));
    const uint8x16_t low2 = vzip1q_u8(y, vdupq_n_u8(0)), high2 = vzip2q_u8(y, vdupq_n_u8(0));
    const auto first = [](uint8x16_t x, uint8x16_t y) {
        return vreinterpretq_u8_u16(vzip1q_u16(vreinterpretq_u16_u8(x), vreinterpretq_u16_u8(y)));
    };
    const auto second = [](uint8x16_t x, uint8x16_t y) {
        return vreinterpretq_u8_u16(vzip2q_u16(vreinterpretq_u16_u8(x), vreinterpretq_u16_u8(y)));
    };
    return {{first(low, low2), second(low, low2), first(high, high2), second(high, high2)}};
}
// sum + pairs times the pair at `a`.
inline Ints pairs(Ints sum, Bytes numbers, const int16_t* a) {
    const int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(pair(a)));
    return ints([&](int i) {
        const int16x8_t n = vreinterpretq_s16_u8(numbers.v[i]);
        return vaddq_s32(sum.v[i], vpaddq_s32(vmull_s16(vget_low_s16(n), vget_low_s16(x)), vmull_high_s16(n, x)));
    });
}

// Sixteen integer sums of quant times activation, four columns at a time. Quants of fewer than eight bits are signed numbers
// as they are; of eight the offset comes off first. Four registers are chains enough, whatever CHAINS asks for.
template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0)
        : sums_(ints([=](int) { return vdupq_n_s32(BITS == 8 ? 0 : minus_offset); })) {}

    template <int STEP, class Activations>
    void add(Bytes quants, Activations a) {
        sums_ = ints([&](int i) { return product(sums_.v[i], signed_numbers(quants.v[i]), a); });
    }
    Ints sum() const { return sums_; }

private:
    static int8x16_t signed_numbers(uint8x16_t x) {
        return vreinterpretq_s8_u8(BITS == 8 ? veorq_u8(x, vdupq_n_u8(0x80)) : x);
    }
    static int32x4_t product(int32x4_t sum, int8x16_t quants, Four a) { return vdotq_s32(sum, quants, a.v); }
    template <int LANE>
    static int32x4_t product(int32x4_t sum, int8x16_t quants, FourOf<LANE> a) {
        return vdotq_laneq_s32(sum, quants, a.v, LANE);
    }

    Ints sums_;
};

// A block's sums take four registers for each row: sixteen of 32, and quants, activations and masks the others.
constexpr int TILE = 4, BLOCKS = 1;
constexpr int SUMS = 6;
constexpr int KEYS = 5, KEY_CHAINS = 1;
constexpr int MIXED_HEADS = 4, MIXED_VALUES = 1;
constexpr bool MULTIPLIES_BF16 = false;

// An e4m3 number's bits, moved to where float32 has them, are the number divided by 2^120; subnormal ones too.
template <int COLUMN>
inline Floats fp8(Bytes x) {
    return floats([&](int i) {
        const int32x4_t top = vshlq_n_s32(vreinterpretq_s32_u8(x.v[i]), 24 - 8 * COLUMN);
        const int32x4_t bits = vandq_s32(vshrq_n_s32(top, 4), vdupq_n_s32(static_cast<int32_t>(0x87f00000u)));
        return vmulq_f32(vreinterpretq_f32_s32(bits), vdupq_n_f32(0x1p120f));
    });
}

inline Floats nearest(Floats x) {
    return floats([&](int i) { return vrndnq_f32(x.v[i]); });
}
// b where either is NaN, as on x86: this decides what becomes of rows that are not finite.
inline Floats at_most(Floats a, Floats b) {
    return floats([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Floats at_least(Floats a, Floats b) {
    return floats([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
// Rounded to whole numbers, which must lie within ±127; their sum.
inline int32_t store_whole(int8_t* to, Floats x) {
    const Ints whole = ints([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
    const auto narrow = [&](int i) { return vcombine_s16(vmovn_s32(whole.v[i]), vmovn_s32(whole.v[i + 1])); };
    vst1q_s8(to, vcombine_s8(vmovn_s16(narrow(0)), vmovn_s16(narrow(2))));
    return vaddvq_s32(vaddq_s32(vaddq_s32(whole.v[0], whole.v[1]), vaddq_s32(whole.v[2], whole.v[3])));
}
inline Floats two_to(Floats whole) {  // -126 to 127
    return floats([&](int i) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(whole.v[i]), vdupq_n_s32(127)), 23));
    });
}

// x + pairs of bfloat16 weights times the pair at `a`.
inline Floats pairs(Floats x, Bytes weights, const uint16_t* a) {
    uint32_t both;
    std::memcpy(&both, a, 4);
    const auto first = [](uint32x4_t x) { return vreinterpretq_f32_u32(vshlq_n_u32(x, 16)); };
    const auto second = [](uint32x4_t x) { return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u))); };
    const uint32x4_t pair = vdupq_n_u32(both);
    return floats([&](int i) {
        const uint32x4_t w = vreinterpretq_u32_u8(weights.v[i]);
        return vfmaq_f32(vfmaq_f32(x.v[i], first(w), first(pair)), second(w), second(pair));
    });
}

inline Floats load_bf16(const uint16_t* p) {
    const auto wide = [](uint16x8_t x) { return vreinterpretq_f32_u16(x); };
    const uint16x8_t none = vdupq_n_u16(0), low = vld1q_u16(p), high = vld1q_u16(p + 8);
    return {{wide(vzip1q_u16(none, low)), wide(vzip2q_u16(none, low)), wide(vzip1q_u16(none, high)),
             wide(vzip2q_u16(none, high))}};
}
inline uint32x4_t bf16_bits(float32x4_t x) {  // to nearest, ties to even, in the high halves; NaN stays one
    const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc00000));
}
inline void store_bf16(uint16_t* to, Floats x) {
    for (int i = 0; i < 4; ++i) vst1_u16(to + 4 * i, vshrn_n_u32(bf16_bits(x.v[i]), 16));
}
// Sixteen pairs of numbers rounded to bfloat16, a's first.
inline Bytes bf16_pairs(Floats a, Floats b) {
    return bytes([&](int i) { return vreinterpretq_u8_u32(vsriq_n_u32(bf16_bits(b.v[i]), bf16_bits(a.v[i]), 16)); });
}
// The numbers of thirty-two columns of two rows as pairs, in the order that AVX-512 has.
inline void pair_columns(const uint16_t* a, const uint16_t* b, Bytes* to) {
    to[0] = bytes([=](int i) { return vreinterpretq_u8_u16(vzip1q_u16(vld1q_u16(a + 8 * i), vld1q_u16(b + 8 * i))); });
    to[1] = bytes([=](int i) { return vreinterpretq_u8_u16(vzip2q_u16(vld1q_u16(a + 8 * i), vld1q_u16(b + 8 * i))); });
}
// Whole numbers from 0 to 127, four to a lane.
inline Bytes four_bytes(const Floats* x) {
    return bytes([=](int i) {
        const auto at = [=](int row) { return vcvtnq_u32_f32(x[row].v[i]); };
        const uint32x4_t two = vsliq_n_u32(at(0), at(1), 8);
        return vreinterpretq_u8_u32(vsliq_n_u32(vsliq_n_u32(two, at(2), 16), at(3), 24));
    });
}
// Sixty-four columns of four rows of int8 as fours, 128 added; the first has columns 0-3, 16-19, 32-35, 48-51, and so on.
inline void four_rows(const uint8_t* const* rows, int64_t first, Bytes* to) {
    for (int i = 0; i < 4; ++i) {
        const auto row = [=](int r) { return veorq_u8(vld1q_u8(rows[r] + first + 16 * i), vdupq_n_u8(0x80)); };
        const uint8x16_t a = row(0), b = row(1), c = row(2), d = row(3);
        const uint16x8_t low = vreinterpretq_u16_u8(vzip1q_u8(a, b)), high = vreinterpretq_u16_u8(vzip2q_u8(a, b));
        const uint16x8_t low2 = vreinterpretq_u16_u8(vzip1q_u8(c, d)), high2 = vreinterpretq_u16_u8(vzip2q_u8(c, d));
        to[0].v[i] = vreinterpretq_u8_u16(vzip1q_u16(low, low2));
        to[1].v[i] = vreinterpretq_u8_u16(vzip2q_u16(low, low2));
        to[2].v[i] = vreinterpretq_u8_u16(vzip1q_u16(high, high2));
        to[3].v[i] = vreinterpretq_u8_u16(vzip2q_u16(high, high2));
    }
}
// Sixteen pairs of the numbers at a and at b.
inline Bytes paired(const uint16_t* a, const uint16_t* b) {
    const uint16x8_t x = vld1q_u16(a), y = vld1q_u16(b), x2 = vld1q_u16(a + 8), y2 = vld1q_u16(b + 8);
    return {{vreinterpretq_u8_u16(vzip1q_u16(x, y)), vreinterpretq_u8_u16(vzip2q_u16(x, y)),
             vreinterpretq_u8_u16(vzip1q_u16(x2, y2)), vreinterpretq_u8_u16(vzip2q_u16(x2, y2))}};
}

}  // namespace coderv2
