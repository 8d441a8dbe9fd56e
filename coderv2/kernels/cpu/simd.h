// Sixteen lanes, one for each row of a block, on whatever vectors the instruction set has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "float16.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace coderv2 {

inline int32_t four(const int8_t* a) {
    int32_t value;
    std::memcpy(&value, a, 4);
    return value;
}

inline int32_t pair(const int16_t* a) {
    int32_t value;
    std::memcpy(&value, a, 4);
    return value;
}

inline uint16_t bfloat16(float x) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline float from_bfloat16(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

// An e4m3 number's bits, moved to where float32 has them, are the number divided by 2^120; subnormal ones too.

#if defined(__AVX512VNNI__)

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
constexpr bool MULTIPLIES_BF16 = true;

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

#elif defined(__AVX2__)

struct Floats {
    __m256 lo, hi;
};
struct Ints {
    __m256i lo, hi;
};
struct Bytes {
    __m256i lo, hi;
};
struct Four {
    __m256i v;
};
inline Four spread(const int8_t* a) { return {_mm256_set1_epi32(four(a))}; }

inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
}
inline Floats halves(const uint8_t* p) {
    auto at = [p](int i) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i)); };
    return {at(0), at(1)};
}
inline Floats unsigned_bytes(const uint8_t* p) {
    auto at = [p](int i) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i))));
    };
    return {at(0), at(1)};
}
inline Floats signed_bytes(const uint8_t* p) {
    auto at = [p](int i) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i))));
    };
    return {at(0), at(1)};
}
inline Floats times(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Floats plus(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Floats divided(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Floats fused(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Floats fused_minus(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
inline Bytes load_bytes(const uint8_t* p) {
    auto v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
inline void store_bytes(uint8_t* p, Bytes x) {
    auto v = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(v, x.lo);
    _mm256_storeu_si256(v + 1, x.hi);
}

template <int SHIFT>
inline __m256i shifted(__m256i x, int mask) {
    if constexpr (SHIFT > 0) x = _mm256_srli_epi16(x, SHIFT);
    if constexpr (SHIFT < 0) x = _mm256_slli_epi16(x, -SHIFT);
    return _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(mask)));
}
template <int SHIFT>
inline Bytes shifted(Bytes x, int mask) {
    return {shifted<SHIFT>(x.lo, mask), shifted<SHIFT>(x.hi, mask)};
}
inline Bytes either(Bytes a, Bytes b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }

inline Ints no_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Bytes paired_bytes(const uint8_t* a, const uint8_t* b) {
    auto wide = [](const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); };
    auto both = [&](int i) { return _mm256_or_si256(wide(a + i), _mm256_slli_epi32(wide(b + i), 16)); };
    return {both(0), both(8)};
}
inline Ints pairs(Ints sum, Bytes numbers, const int16_t* a) {
    const __m256i x = _mm256_set1_epi32(pair(a));
    return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(numbers.lo, x)),
            _mm256_add_epi32(sum.hi, _mm256_madd_epi16(numbers.hi, x))};
}

#if defined(__AVXVNNI__)

template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0) {
        for (int i = 0; i < CHAINS; ++i) lo_[i] = hi_[i] = _mm256_set1_epi32(i ? 0 : minus_offset);
    }
    template <int STEP>
    void add(Bytes quants, Four a) {
        lo_[STEP % CHAINS] = _mm256_dpbusd_avx_epi32(lo_[STEP % CHAINS], quants.lo, a.v);
        hi_[STEP % CHAINS] = _mm256_dpbusd_avx_epi32(hi_[STEP % CHAINS], quants.hi, a.v);
    }
    Ints sum() const {
        Ints sum{lo_[0], hi_[0]};
        for (int i = 1; i < CHAINS; ++i)
            sum = {_mm256_add_epi32(sum.lo, lo_[i]), _mm256_add_epi32(sum.hi, hi_[i])};
        return sum;
    }

private:
    __m256i lo_[CHAINS], hi_[CHAINS];
};

constexpr int TILE = 3;

#else

// Products of bytes are added up in 16 bits for as many steps as cannot overflow, then in 32.
template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0)
        : lo_(_mm256_set1_epi32(BITS == 8 ? 0 : minus_offset)), hi_(lo_),
          narrow_lo_(_mm256_setzero_si256()), narrow_hi_(_mm256_setzero_si256()) {}

    template <int STEP>
    void add(Bytes quants, Four a) {
        const __m256i x = a.v;
        if constexpr (BITS == 8) {  // unsigned times signed could overflow, so the quant's offset comes off first
            const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
            const __m256i lo = _mm256_xor_si256(quants.lo, top), hi = _mm256_xor_si256(quants.hi, top);
            widen(lo_, _mm256_maddubs_epi16(_mm256_abs_epi8(lo), _mm256_sign_epi8(x, lo)));
            widen(hi_, _mm256_maddubs_epi16(_mm256_abs_epi8(hi), _mm256_sign_epi8(x, hi)));
        } else {
            narrow_lo_ = kept(_mm256_add_epi16(narrow_lo_, _mm256_maddubs_epi16(quants.lo, x)));
            narrow_hi_ = kept(_mm256_add_epi16(narrow_hi_, _mm256_maddubs_epi16(quants.hi, x)));
            if constexpr ((STEP + 1) % MOST == 0) flush();
        }
    }
    Ints sum() {
        if constexpr (BITS == 4) flush();
        return {lo_, hi_};
    }

private:
    static constexpr int MOST = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;
    static void widen(__m256i& sum, __m256i x) {
        sum = kept(_mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_set1_epi16(1))));
    }
    // A sum in its register: left to itself, GCC makes all products first, to add them up as a tree, and spills most.
    static __m256i kept(__m256i sum) {
        asm("" : "+x"(sum));
        return sum;
    }
    void flush() {
        widen(lo_, narrow_lo_);
        widen(hi_, narrow_hi_);
        narrow_lo_ = narrow_hi_ = _mm256_setzero_si256();
    }
    __m256i lo_, hi_, narrow_lo_, narrow_hi_;
};

constexpr int TILE = 4;

#endif

constexpr int BLOCKS = 1;
constexpr int SUMS = 6;
constexpr int KEYS = 5, KEY_CHAINS = 1;
constexpr bool MULTIPLIES_BF16 = false;

template <int COLUMN>
inline __m256 fp8(__m256i x) {
    const __m256i b = _mm256_srli_epi32(x, 8 * COLUMN);
    const __m256i size = _mm256_slli_epi32(_mm256_and_si256(b, _mm256_set1_epi32(0x7f)), 20);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(b, _mm256_set1_epi32(0x80)), 24);
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(size, sign)), _mm256_set1_ps(0x1p120f));
}
template <int COLUMN>
inline Floats fp8(Bytes x) {
    return {fp8<COLUMN>(x.lo), fp8<COLUMN>(x.hi)};
}

inline Floats nearest(Floats x) {
    constexpr int MODE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.lo, MODE), _mm256_round_ps(x.hi, MODE)};
}
inline Floats at_most(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Floats at_least(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline int32_t store_whole(int8_t* to, Floats x) {
    const __m256i lo = _mm256_cvtps_epi32(x.lo), hi = _mm256_cvtps_epi32(x.hi);
    // Packing works within halves: the four quarters come out as lo, hi, lo, hi of four numbers each.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    __m256i sum = _mm256_add_epi32(lo, hi);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline Floats two_to(Floats whole) {
    auto power = [](__m256 n) {
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    };
    return {power(whole.lo), power(whole.hi)};
}

inline Floats pairs(Floats x, Bytes weights, const uint16_t* a) {
    int32_t both;
    std::memcpy(&both, a, 4);
    const __m256i pair = _mm256_set1_epi32(both), top = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    const auto first = [](__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); };
    const auto second = [top](__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, top)); };
    const auto two = [&](__m256 sum, __m256i w) {
        return _mm256_fmadd_ps(second(w), second(pair), _mm256_fmadd_ps(first(w), first(pair), sum));
    };
    return {two(x.lo, weights.lo), two(x.hi, weights.hi)};
}

inline Floats load_bf16(const uint16_t* p) {
    const auto at = [p](int i) {
        const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(numbers), 16));
    };
    return {at(0), at(1)};
}
inline __m256i bf16_bits(__m256 x) {  // to nearest, ties to even, in the low halves; NaN stays one
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), none);
}
inline void store_bf16(uint16_t* to, Floats x) {
    const __m256i both = _mm256_packus_epi32(bf16_bits(x.lo), bf16_bits(x.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(both, 0xd8));
}
inline Bytes bf16_pairs(Floats a, Floats b) {
    auto both = [](__m256 x, __m256 y) { return _mm256_or_si256(bf16_bits(x), _mm256_slli_epi32(bf16_bits(y), 16)); };
    return {both(a.lo, b.lo), both(a.hi, b.hi)};
}
// The numbers of thirty-two columns of two rows as pairs, in the order that AVX-512 has.
inline void pair_columns(const uint16_t* a, const uint16_t* b, Bytes* to) {
    auto four = [](const uint16_t* p) { return reinterpret_cast<const __m256i*>(p); };
    const __m256i x0 = _mm256_loadu_si256(four(a)), x1 = _mm256_loadu_si256(four(a + 16));
    const __m256i y0 = _mm256_loadu_si256(four(b)), y1 = _mm256_loadu_si256(four(b + 16));
    to[0] = {_mm256_unpacklo_epi16(x0, y0), _mm256_unpacklo_epi16(x1, y1)};
    to[1] = {_mm256_unpackhi_epi16(x0, y0), _mm256_unpackhi_epi16(x1, y1)};
}
inline Bytes four_bytes(const Floats* x) {
    const auto at = [](__m256 v, int i) { return _mm256_slli_epi32(_mm256_cvtps_epi32(v), 8 * i); };
    const auto lo = [&](int i) { return at(x[i].lo, i); };
    const auto hi = [&](int i) { return at(x[i].hi, i); };
    return {_mm256_or_si256(_mm256_or_si256(lo(0), lo(1)), _mm256_or_si256(lo(2), lo(3))),
            _mm256_or_si256(_mm256_or_si256(hi(0), hi(1)), _mm256_or_si256(hi(2), hi(3)))};
}
inline void four_rows(const uint8_t* const* rows, int64_t first, Bytes* to) {
    const auto half = [&](int at, auto part) {
        const auto row = [&](int i) {
            const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + first + at));
            return _mm256_xor_si256(numbers, _mm256_set1_epi8(-128));
        };
        const __m256i low = _mm256_unpacklo_epi8(row(0), row(1)), high = _mm256_unpackhi_epi8(row(0), row(1));
        const __m256i low2 = _mm256_unpacklo_epi8(row(2), row(3)), high2 = _mm256_unpackhi_epi8(row(2), row(3));
        to[0].*part = _mm256_unpacklo_epi16(low, low2);
        to[1].*part = _mm256_unpackhi_epi16(low, low2);
        to[2].*part = _mm256_unpacklo_epi16(high, high2);
        to[3].*part = _mm256_unpackhi_epi16(high, high2);
    };
    half(0, &Bytes::lo);
    half(32, &Bytes::hi);
}
inline Bytes paired(const uint16_t* a, const uint16_t* b) {
    auto wide = [](const uint16_t* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); };
    auto both = [&](int i) { return _mm256_or_si256(wide(a + i), _mm256_slli_epi32(wide(b + i), 16)); };
    return {both(0), both(8)};
}

#else

// Plain loops over the lanes, which the compiler turns into what the processor has.
struct Floats {
    float v[16];
};
struct Ints {
    int32_t v[16];
};
struct Bytes {
    uint8_t v[64];
};
struct Four {
    const int8_t* v;
};
inline Four spread(const int8_t* a) { return {a}; }

template <typename F>
inline Floats lanes(F f) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}
inline float half(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return half_to_float(bits);
}
inline Floats zeros() { return lanes([](int) { return 0.0f; }); }
inline Floats all(float x) { return lanes([x](int) { return x; }); }
inline Floats load(const float* p) { return lanes([p](int i) { return p[i]; }); }
inline void store(float* p, Floats x) { std::memcpy(p, x.v, sizeof x.v); }
inline Floats halves(const uint8_t* p) { return lanes([p](int i) { return half(p + 2 * i); }); }
inline Floats unsigned_bytes(const uint8_t* p) { return lanes([p](int i) { return static_cast<float>(p[i]); }); }
inline Floats signed_bytes(const uint8_t* p) {
    return lanes([p](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
inline Floats times(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats plus(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats divided(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] / b.v[i]; }); }
inline Floats fused(Floats a, Floats b, Floats c) { return lanes([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
inline Floats fused_minus(Floats a, Floats b, Floats c) {
    return lanes([&](int i) { return std::fma(-a.v[i], b.v[i], c.v[i]); });
}
inline Floats to_floats(Ints x) { return lanes([&](int i) { return static_cast<float>(x.v[i]); }); }
inline Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline void store_bytes(uint8_t* p, Bytes x) { std::memcpy(p, x.v, 64); }

template <int SHIFT>
inline Bytes shifted(Bytes x, int mask) {
    for (auto& b : x.v) b = static_cast<uint8_t>((SHIFT > 0 ? b >> SHIFT : b << -SHIFT) & mask);
    return x;
}
inline Bytes either(Bytes a, Bytes b) {
    for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
    return a;
}

inline Ints no_ints() { return {}; }
inline Bytes paired_bytes(const uint8_t* a, const uint8_t* b) {
    Bytes out;
    for (int i = 0; i < 16; ++i) out.v[4 * i] = a[i], out.v[4 * i + 1] = 0, out.v[4 * i + 2] = b[i], out.v[4 * i + 3] = 0;
    return out;
}
inline Ints pairs(Ints sum, Bytes numbers, const int16_t* a) {
    int16_t n[32];
    std::memcpy(n, numbers.v, 64);
    for (int i = 0; i < 16; ++i) sum.v[i] += n[2 * i] * a[0] + n[2 * i + 1] * a[1];
    return sum;
}

template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0) {
        for (auto& s : sum_.v) s = minus_offset;
    }
    template <int STEP>
    void add(Bytes quants, Four a) {
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 4; ++j) sum_.v[i] += quants.v[4 * i + j] * a.v[j];
    }
    Ints sum() const { return sum_; }

private:
    Ints sum_;
};

constexpr int TILE = 4, BLOCKS = 1;
constexpr int SUMS = 8;
constexpr int KEYS = 4, KEY_CHAINS = 2;
constexpr bool MULTIPLIES_BF16 = false;

template <int COLUMN>
inline Floats fp8(Bytes x) {
    return lanes([&](int i) {
        const uint32_t b = x.v[4 * i + COLUMN], bits = (b & 0x7f) << 20 | (b & 0x80) << 24;
        float f;
        std::memcpy(&f, &bits, 4);
        return f * 0x1p120f;
    });
}

inline Floats nearest(Floats x) { return lanes([&](int i) { return std::nearbyint(x.v[i]); }); }
inline Floats at_most(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Floats at_least(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline int32_t store_whole(int8_t* to, Floats x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += to[i] = static_cast<int8_t>(std::nearbyint(x.v[i]));
    return sum;
}
inline Floats two_to(Floats whole) { return lanes([&](int i) { return std::ldexp(1.0f, static_cast<int>(whole.v[i])); }); }

inline Floats load_bf16(const uint16_t* p) { return lanes([p](int i) { return from_bfloat16(p[i]); }); }
inline Floats pairs(Floats x, Bytes weights, const uint16_t* a) {
    uint16_t w[32];
    std::memcpy(w, weights.v, 64);
    return lanes([&](int i) {
        return std::fma(from_bfloat16(w[2 * i + 1]), from_bfloat16(a[1]),
                        std::fma(from_bfloat16(w[2 * i]), from_bfloat16(a[0]), x.v[i]));
    });
}

inline void pair_columns(const uint16_t* a, const uint16_t* b, Bytes* to) {
    for (int i = 0; i < 32; ++i) {
        uint8_t* at = to[i % 8 / 4].v + 4 * (i / 8 * 4 + i % 4);
        std::memcpy(at, a + i, 2);
        std::memcpy(at + 2, b + i, 2);
    }
}
inline Bytes four_bytes(const Floats* x) {
    Bytes out;
    for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(x[i % 4].v[i / 4]);
    return out;
}
inline void four_rows(const uint8_t* const* rows, int64_t first, Bytes* to) {
    for (int c = 0; c < 64; ++c)
        for (int row = 0; row < 4; ++row)
            to[c % 16 / 4].v[4 * (c / 16 * 4 + c % 4) + row] = static_cast<uint8_t>(rows[row][first + c] ^ 0x80);
}
inline Bytes paired(const uint16_t* a, const uint16_t* b) {
    Bytes out;
    for (int i = 0; i < 16; ++i) {
        std::memcpy(out.v + 4 * i, a + i, 2);
        std::memcpy(out.v + 4 * i + 2, b + i, 2);
    }
    return out;
}
inline void store_bf16(uint16_t* to, Floats x) {
    for (int i = 0; i < 16; ++i) to[i] = bfloat16(x.v[i]);
}
inline Bytes bf16_pairs(Floats a, Floats b) {
    uint16_t first[16], second[16];
    for (int i = 0; i < 16; ++i) first[i] = bfloat16(a.v[i]), second[i] = bfloat16(b.v[i]);
    return paired(first, second);
}

#endif

// `count` numbers rounded to bfloat16.
inline void to_bf16(const float* from, int64_t count, uint16_t* to) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) store_bf16(to + i, load(from + i));
    for (; i < count; ++i) to[i] = bfloat16(from[i]);
}

// e^x to within two units in the last place; below -87 and above 88 as at these. NaN stays.
inline Floats exponential(Floats x) {
    x = at_most(all(88.0f), at_least(all(-87.0f), x));
    const Floats n = nearest(times(x, all(1.44269504f)));
    // ln 2 in two parts, so that the difference is exact.
    const Floats r = fused_minus(n, all(-2.12194440e-4f), fused_minus(n, all(0.693359375f), x));
    Floats p = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
        p = fused(p, r, all(c));
    return times(p, two_to(n));
}

inline Floats silu(Floats x) { return divided(x, plus(all(1.0f), exponential(times(x, all(-1.0f))))); }

}  // namespace coderv2
