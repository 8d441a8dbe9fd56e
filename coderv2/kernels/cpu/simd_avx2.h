// Sixteen lanes in two registers of AVX2, with AVX-VNNI's products of bytes where there are any.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "scalars.h"

namespace coderv2 {

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
template <int STEP>
inline Four spread_step(const int8_t* a) {  // step STEP of those from a on
    return spread(a + 4 * STEP);
}

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
constexpr int MIXED_HEADS = 1, MIXED_VALUES = 4;
constexpr bool MULTIPLIES_BF16 = false;

// An e4m3 number's bits, moved to where float32 has them, are the number divided by 2^120; subnormal ones too.
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

}  // namespace coderv2
