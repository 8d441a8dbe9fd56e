// Sixteen lanes, one for each row of a block, on whatever vectors the instruction set has: a file for each set has the same
// functions.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "scalars.h"

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#error "no lanes for this instruction set"
#endif

namespace coderv2 {

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
