// Numbers one at a time, as the lanes of simd.h have them sixteen at a time.
#pragma once

#include <cstdint>
#include <cstring>

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

}  // namespace coderv2
