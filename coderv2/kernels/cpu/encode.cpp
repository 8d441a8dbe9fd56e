// Numbers into GGUF's blocks of quants: bit for bit what coderv2/kernels/ggml_encode.py does in PyTorch, fifteen times
// as fast. Sixteen groups of columns go at a time, as many blocks as these make.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "bind.h"
#include "formats.h"
#include "pool.h"
#include "search.h"

namespace coderv2 {
namespace {

uint8_t* put(uint8_t* to, uint16_t half) {
    std::memcpy(to, &half, 2);
    return to + 2;
}

// A whole number within bounds. What is none (a block of numbers beyond its scale's float16, which nobody keeps) becomes
// the largest; std::clamp would hand it on, and its conversion to an integer is not defined.
float whole_within(float least, float x, float most) { return std::nearbyint(std::max(least, std::min(most, x))); }

// x · by - or (x + more) · by - as whole numbers.
void quantise(const float* x, int count, float more, float by, float least, float most, int offset, uint8_t* to) {
    for (int i = 0; i < count; ++i)
        to[i] = static_cast<uint8_t>(static_cast<int>(whole_within(least, (x[i] + more) * by, most)) + offset);
}

void low_nibbles(const uint8_t* quants, int count, uint8_t* to) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<uint8_t>((quants[i] & 15) | (quants[i + count] & 15) << 4);
}

void write_q8_0(const float* x, uint8_t* to) {
    for (int block = 0; block < ABREAST; ++block, x += GROUP, to += GROUP) {
        float largest = 0;
        for (int i = 0; i < GROUP; ++i) largest = std::max(largest, std::fabs(x[i]));
        const uint16_t d = float_to_half(largest / 127.0f);
        to = put(to, d);
        quantise(x, GROUP, 0, inverse(half_to_float(d)), -127, 127, 0, to);
    }
}

// 32 fifth bits in four bytes, then nibbles.
uint8_t* five_bits(const uint8_t* quants, uint8_t* to) {
    uint32_t bits = 0;
    for (int i = 0; i < GROUP; ++i) bits |= static_cast<uint32_t>(quants[i] >> 4) << i;
    std::memcpy(to, &bits, 4);
    low_nibbles(quants, 16, to + 4);
    return to + 20;
}

void write_q5_0(const float* x, uint8_t* to) {
    float scales[ABREAST];
    Search<GROUP>(x).symmetric(16, scales);
    for (float scale : scales) {
        uint8_t quants[GROUP];
        const uint16_t d = float_to_half(scale);
        quantise(x, GROUP, 0, inverse(half_to_float(d)), -16, 15, 16, quants);
        to = five_bits(quants, put(to, d));
        x += GROUP;
    }
}

void write_q5_1(const float* x, uint8_t* to) {
    float scales[ABREAST], minima[ABREAST];
    Search<GROUP>(x).with_minimum(31, true, scales, minima);
    for (int block = 0; block < ABREAST; ++block, x += GROUP) {
        uint8_t quants[GROUP];
        const uint16_t d = float_to_half(scales[block]), m = float_to_half(minima[block]);
        quantise(x, GROUP, half_to_float(m), inverse(half_to_float(d)), 0, 31, 0, quants);
        to = five_bits(quants, put(put(to, d), m ^ 0x8000));
    }
}

// A float16 for all eight and six bits for each, which these come to `real`.
uint16_t six_bits(const float* x, uint8_t* codes, float* real) {
    const uint16_t unit = float_to_half(*std::max_element(x, x + 8) / 63.0f);
    const float wide = half_to_float(unit), by = inverse(wide);
    for (int g = 0; g < 8; ++g) {
        const float code = whole_within(0, x[g] * by, 63);
        codes[g] = static_cast<uint8_t>(code);
        real[g] = wide * code;
    }
    return unit;
}

// d, m, scales and minima in sixteen bytes, and quants of a superblock of eight groups.
uint8_t* two_level(const float* x, const float* scales, const float* minima, int most, uint8_t* quants, uint8_t* to) {
    uint8_t s[8], m[8];
    float steps[8], offsets[8];
    to = put(to, six_bits(scales, s, steps));
    to = put(to, six_bits(minima, m, offsets));
    for (int g = 0; g < 4; ++g) {
        to[g] = static_cast<uint8_t>(s[g] | s[g + 4] >> 4 << 6);
        to[g + 4] = static_cast<uint8_t>(m[g] | m[g + 4] >> 4 << 6);
        to[g + 8] = static_cast<uint8_t>((s[g + 4] & 15) | (m[g + 4] & 15) << 4);
    }
    for (int g = 0; g < 8; ++g)
        quantise(x + GROUP * g, GROUP, offsets[g], inverse(steps[g]), 0, static_cast<float>(most), 0, quants + GROUP * g);
    return to + 12;
}

template <int MOST>
void write_two_level(const float* x, uint8_t* to) {
    float scales[ABREAST], minima[ABREAST];
    Search<GROUP>(x).with_minimum(MOST, false, scales, minima);
    for (int first = 0; first < ABREAST; first += 8, x += SUPER) {
        uint8_t quants[SUPER];
        to = two_level(x, scales + first, minima + first, MOST, quants, to);
        if (MOST == 31) {
            for (int i = 0; i < GROUP; ++i) {
                int bits = 0;
                for (int g = 0; g < 8; ++g) bits |= quants[GROUP * g + i] >> 4 << g;
                to[i] = static_cast<uint8_t>(bits);
            }
            to += GROUP;
        }
        for (int c = 0; c < 4; ++c, to += GROUP) low_nibbles(quants + 64 * c, GROUP, to);
    }
}

void write_q6_k(const float* x, uint8_t* to) {
    float scales[16], largest = 0;
    int8_t codes[16];
    uint8_t quants[SUPER];
    Search<16>(x).symmetric(32, scales);
    for (float scale : scales) largest = std::fabs(scale) > std::fabs(largest) ? scale : largest;
    const uint16_t d = float_to_half(largest / -128.0f);
    const float wide = half_to_float(d), by = inverse(wide);
    for (int g = 0; g < 16; ++g) {
        const float code = whole_within(-128, scales[g] * by, 127);
        codes[g] = static_cast<int8_t>(code);
        quantise(x + 16 * g, 16, 0, inverse(wide * code), -32, 31, 32, quants + 16 * g);
    }
    for (int n = 0; n < 2; ++n) {
        const uint8_t* q = quants + 128 * n;
        low_nibbles(q, 64, to + 64 * n);
        for (int i = 0; i < 32; ++i)
            to[128 + 32 * n + i] = static_cast<uint8_t>(q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
    }
    std::memcpy(to + 192, codes, 16);
    put(to + 208, d);
}

// By GGUF's own numbers of types: columns and bytes of a block, and sixteen groups' columns.
struct Target {
    int type, columns, bytes, abreast;
    void (*write)(const float* x, uint8_t* to);
};

constexpr Target TARGETS[] = {
    {6, 32, 22, 512, write_q5_0},  {7, 32, 24, 512, write_q5_1},           {8, 32, 34, 512, write_q8_0},
    {12, 256, 144, 512, write_two_level<15>}, {13, 256, 176, 512, write_two_level<31>}, {14, 256, 210, 256, write_q6_k},
};

const Target& target_of(int type) {
    for (const Target& target : TARGETS)
        if (target.type == type) return target;
    throw std::invalid_argument("nothing is rounded to this type of GGUF");
}

float number(const float* p) { return *p; }
float number(const uint16_t* p) { return std::bit_cast<float>(static_cast<uint32_t>(*p) << 16); }

template <typename T>
void encode_all(const Target& target, const T* from, int64_t count, uint8_t* to) {
    constexpr int64_t AT_A_TIME = 1 << 14;
    parallel((count + AT_A_TIME - 1) / AT_A_TIME, [&](int64_t task, int) {
        const int64_t end = std::min(count, (task + 1) * AT_A_TIME);
        for (int64_t first = task * AT_A_TIME; first < end; first += target.abreast) {
            const int64_t some = std::min<int64_t>(target.abreast, end - first);
            float x[512] = {};
            uint8_t blocks[ABREAST * 34];
            for (int64_t i = 0; i < some; ++i) x[i] = number(from + first + i);
            target.write(x, blocks);
            std::memcpy(to + first / target.columns * target.bytes, blocks, some / target.columns * target.bytes);
        }
    });
}

// `count` numbers, whole blocks of them.
void encode_ggml(int type, bool bf16, uintptr_t from, int64_t count, uintptr_t to) {
    const Target& target = target_of(type);
    if (bf16) encode_all(target, at<const uint16_t>(from), count, at<uint8_t>(to));
    else encode_all(target, at<const float>(from), count, at<uint8_t>(to));
}

}  // namespace

void bind_encode(nanobind::module_& m) { m.def("encode_ggml", &encode_ggml, Unlocked()); }

}  // namespace coderv2
