// Sixteen lanes in a register of AVX-512, with its products of bytes (VNNI) and of bfloat16 numbers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "scalars.h"

namespace coderv2 {

struct Floats {
    __m512 v;
};
struct Ints {
    __m512i v;
};
struct Bytes {
    __m512i v;
};
struct Four {  // four activations, in every lane
    __m512i v;
};
inline Four spread(const int8_t* a) { return {_mm512_set1_epi32(four(a))}; }
template <int STEP>
inline Four spread_step(const int8_t* a) {  // step STEP of those from a on
    return spread(a + 4 * STEP);
}

inline Floats zeros() { return {_mm512_setzero_ps()}; }
inline Floats all(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x.v); }
inline Floats halves(const uint8_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Floats unsigned_bytes(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Floats signed_bytes(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Floats times(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats plus(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats divided(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fused(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }           // a·b + c
inline Floats fused_minus(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a·b
inline Floats to_floats(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x.v); }

template <int SHIFT>
inline Bytes shifted(Bytes x, int mask) {  // right when positive
    if constexpr (SHIFT > 0) x.v = _mm512_srli_epi16(x.v, SHIFT);
    if constexpr (SHIFT < 0) x.v = _mm512_slli_epi16(x.v, -SHIFT);
    return {_mm512_and_si512(x.v, _mm512_set1_epi8(static_cast<char>(mask)))};
}
inline Bytes either(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }

inline Ints no_ints() { return {_mm512_setzero_si512()}; }
inline Ints all_ints(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline Ints plus(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
// Sixteen bytes at a and sixteen at b as pairs of 16-bit numbers.
inline Bytes paired_bytes(const uint8_t* a, const uint8_t* b) {
    auto wide = [](const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); };
    return {_mm512_or_si512(wide(a), _mm512_slli_epi32(wide(b), 16))};
}
// sum + pairs times the pair at `a`.
inline Ints pairs(Ints sum, Bytes numbers, const int16_t* a) {
    return {_mm512_dpwssd_epi32(sum.v, numbers.v, _mm512_set1_epi32(pair(a)))};
}

// Sixteen integer sums of quant times activation, four columns at a time, in so many CHAINS: a product waits for the one
// before it in its chain.
template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0) {
        sums_[0] = _mm512_set1_epi32(minus_offset);
        for (int i = 1; i < CHAINS; ++i) sums_[i] = _mm512_setzero_si512();
    }
    template <int STEP>
    void add(Bytes quants, Four a) {
        sums_[STEP % CHAINS] = _mm512_dpbusd_epi32(sums_[STEP % CHAINS], quants.v, a.v);
    }
    Ints sum() const {
        __m512i sum = sums_[0];
        for (int i = 1; i < CHAINS; ++i) sum = _mm512_add_epi32(sum, sums_[i]);
        return {sum};
    }

private:
    __m512i sums_[CHAINS];
};

// Rows of activations that go together, and blocks of weights: their sums, and what these are added to, fill the registers.
constexpr int TILE = 6, BLOCKS = 2;
constexpr int SUMS = 16;  // sums of attention that registers hold at once
constexpr int KEYS = 8, KEY_CHAINS = 2;  // keys scored together, and chains of sums for each, which hide a product's time
constexpr int MIXED_HEADS = 2, MIXED_VALUES = 4;  // heads, and vectors of int8 values, whose weighted sums go together
constexpr bool MULTIPLIES_BF16 = true;

// An e4m3 number's bits, moved to where float32 has them, are the number divided by 2^120; subnormal ones too.
template <int COLUMN>
inline Floats fp8(Bytes x) {  // e4m3 numbers of one of four columns
    const __m512i b = _mm512_srli_epi32(x.v, 8 * COLUMN);
    const __m512i size = _mm512_slli_epi32(_mm512_and_si512(b, _mm512_set1_epi32(0x7f)), 20);
    const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(b, _mm512_set1_epi32(0x80)), 24);
    return {_mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(size, sign)), _mm512_set1_ps(0x1p120f))};
}

inline Floats nearest(Floats x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Floats at_most(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats at_least(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
// Rounded to whole numbers, which must lie within ±127; their sum.
inline int32_t store_whole(int8_t* to, Floats x) {
    const __m512i whole = _mm512_cvtps_epi32(x.v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(whole));
    return _mm512_reduce_add_epi32(whole);
}
inline Floats two_to(Floats whole) {  // -126 to 127
    const __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(whole.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
}

// x + pairs of bfloat16 weights times the pair at `a`.
inline Floats pairs(Floats x, Bytes weights, const uint16_t* a) {
    int32_t pair;
    std::memcpy(&pair, a, 4);
    return {_mm512_dpbf16_ps(x.v, (__m512bh)weights.v, (__m512bh)_mm512_set1_epi32(pair))};
}

inline Floats load_bf16(const uint16_t* p) {
    const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16))};
}
inline void store_bf16(uint16_t* to, Floats x) {  // subnormal numbers too, which the instruction for this makes zero
    const __m512i bits = _mm512_castps_si512(x.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
// Sixteen pairs of numbers rounded to bfloat16, a's first.
inline Bytes bf16_pairs(Floats a, Floats b) {
    const auto wide = [](Floats x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x.v)); };
    return {_mm512_or_si512(wide(a), _mm512_slli_epi32(wide(b), 16))};
}
// The numbers of thirty-two columns of two rows as pairs: columns interleaved by fours, 0-3, 8-11, 16-19 … in the first.
inline void pair_columns(const uint16_t* a, const uint16_t* b, Bytes* to) {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    to[0] = {_mm512_unpacklo_epi16(x, y)};
    to[1] = {_mm512_unpackhi_epi16(x, y)};
}
// Whole numbers from 0 to 127, four to a lane.
inline Bytes four_bytes(const Floats* x) {
    const auto at = [x](int i) { return _mm512_slli_epi32(_mm512_cvtps_epi32(x[i].v), 8 * i); };
    return {_mm512_or_si512(_mm512_or_si512(at(0), at(1)), _mm512_or_si512(at(2), at(3)))};
}
// Sixty-four columns of four rows of int8 as fours, 128 added; the first has columns 0-3, 16-19, 32-35, 48-51, and so on.
inline void four_rows(const uint8_t* const* rows, int64_t first, Bytes* to) {
    const auto at = [=](int i) { return _mm512_xor_si512(_mm512_loadu_si512(rows[i] + first), _mm512_set1_epi8(-128)); };
    const __m512i low = _mm512_unpacklo_epi8(at(0), at(1)), high = _mm512_unpackhi_epi8(at(0), at(1));
    const __m512i low2 = _mm512_unpacklo_epi8(at(2), at(3)), high2 = _mm512_unpackhi_epi8(at(2), at(3));
    to[0] = {_mm512_unpacklo_epi16(low, low2)};
    to[1] = {_mm512_unpackhi_epi16(low, low2)};
    to[2] = {_mm512_unpacklo_epi16(high, high2)};
    to[3] = {_mm512_unpackhi_epi16(high, high2)};
}
// Sixteen pairs of the numbers at a and at b.
inline Bytes paired(const uint16_t* a, const uint16_t* b) {
    const auto wide = [](const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); };
    return {_mm512_or_si512(wide(a), _mm512_slli_epi32(wide(b), 16))};
}

}  // namespace coderv2
