// float16 and float32, to and fro.
#pragma once

#include <bit>
#include <cstdint>

namespace coderv2 {

inline float half_to_float(uint16_t h) {
    const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    return std::bit_cast<float>(sign | magnitude << 13) * 0x1p112f;
}

// To nearest, ties to even; what is too large becomes infinite.
inline uint16_t float_to_half(float f) {
    const uint32_t bits = std::bit_cast<uint32_t>(f), magnitude = bits & 0x7fffffffu;
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    if (magnitude >= 0x47800000u) return sign | 0x7c00u;
    // A float's own rounding does it: below 2^-14 at float16's least step, above at its eleventh bit.
    if (magnitude < 0x38800000u) return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u);
    return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

// What is multiplied by in place of a division; 0 for 0, so that rows of zeros need no branch.
inline float inverse(float x) { return x == 0.0f ? 0.0f : 1.0f / x; }

}  // namespace coderv2
