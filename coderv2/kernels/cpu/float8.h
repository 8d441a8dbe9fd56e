// float8 and wider numbers, to and fro: e4m3 (three bits of fraction, up to 448) and e5m2 (two, up to 57,344).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace coderv2 {

template <int BITS, int OFFSET, uint32_t LAST>
struct Float8 {
    static constexpr int FRACTION = BITS, BIAS = OFFSET;
    static constexpr uint32_t MOST = LAST;  // the code of the largest number; what follows it is no number
};
using E4m3 = Float8<3, 7, 0x7e>;
using E5m2 = Float8<2, 15, 0x7b>;

// To nearest, ties to even; what is larger than the largest becomes it, and NaN stays one.
template <class Format>
uint8_t to_float8(float f) {
    constexpr int DROPPED = 23 - Format::FRACTION;
    constexpr uint32_t NORMAL = (128u - Format::BIAS) << 23;
    // A float's own rounding makes subnormal ones, where its last bit is their step.
    constexpr uint32_t STEP = (127u + 24 - Format::BIAS - Format::FRACTION) << 23;
    const uint32_t bits = std::bit_cast<uint32_t>(f), magnitude = bits & 0x7fffffffu;
    const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
    if (magnitude > 0x7f800000u) return sign | 0x7fu;
    if (magnitude < NORMAL)
        return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(STEP)) - STEP);
    const uint32_t half = (1u << (DROPPED - 1)) - 1, odd = magnitude >> DROPPED & 1u;
    return sign | static_cast<uint8_t>(std::min(Format::MOST, (magnitude - (NORMAL - (1u << 23)) + half + odd) >> DROPPED));
}

template <class Format>
constexpr float magnitude_of(uint32_t code) {
    const uint32_t one = 1u << Format::FRACTION, exponent = code / one, fraction = code % one;
    const float step = std::bit_cast<float>((127 + std::max(exponent, 1u) - Format::BIAS - Format::FRACTION) << 23);
    return step * static_cast<float>(exponent ? one + fraction : fraction);
}

// Every number of either format is one of bfloat16's, found here by its code: as fast as AVX2 can compute it.
template <class Format>
constexpr std::array<uint16_t, 256> WIDENED = [] {
    std::array<uint16_t, 256> wide{};
    for (uint32_t code = 0; code < 128; ++code) {
        const uint32_t bits = code > Format::MOST ? 0x7fc00000u : std::bit_cast<uint32_t>(magnitude_of<Format>(code));
        wide[code] = static_cast<uint16_t>(bits >> 16);
        wide[code | 0x80u] = static_cast<uint16_t>(bits >> 16 | 0x8000u);
    }
    return wide;
}();

}  // namespace coderv2
