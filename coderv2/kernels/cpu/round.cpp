// Plain numbers into kernel order, rounded to nearest: bit for bit what coderv2/kernels/rounding.py does in PyTorch.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "bind.h"
#include "float16.h"
#include "float8.h"
#include "layout.h"
#include "pool.h"

namespace coderv2 {
namespace {

// 256 columns of a block, as float32; rows and columns that the matrix lacks are zeros.
struct Wide {
    alignas(64) float x[ROWS][SUPER];
};

// Of the magnitudes, compared as whole numbers, since these a compiler may compare in any order.
float largest(const float* x, int count) {
    uint32_t most = 0;
    for (int i = 0; i < count; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
    return std::bit_cast<float>(most);
}

void round_int8(const float* x, int groups, Super& to) {
    for (int g = 0; g < groups; ++g, x += GROUP) {
        to.wide_scales[g] = float_to_half(largest(x, GROUP) / 127.0f);
        const float by = inverse(half_to_float(to.wide_scales[g]));
        for (int i = 0; i < GROUP; ++i) {
            const float quant = std::clamp(std::nearbyint(x[i] * by), -127.0f, 127.0f);
            to.quants[GROUP * g + i] = static_cast<uint8_t>(static_cast<int>(quant) + 128);
        }
    }
}

// Numbers from 0 on as bytes times one float16, and what these come to.
uint16_t two_level(const float* x, int groups, uint8_t* codes, float* real) {
    const float least = *std::max_element(x, x + groups) / 255.0f;
    uint16_t unit = float_to_half(least);
    if (half_to_float(unit) < least) ++unit;  // so that 255 steps always reach the largest
    const float wide = half_to_float(unit), by = inverse(wide);
    for (int g = 0; g < groups; ++g) {
        const float code = std::clamp(std::nearbyint(x[g] * by), 0.0f, 255.0f);
        codes[g] = static_cast<uint8_t>(code);
        real[g] = code * wide;
    }
    return unit;
}

void round_int4(const float* x, int groups, Super& to) {
    float scales[8], lows[8], steps[8], offsets[8];
    for (int g = 0; g < groups; ++g) {
        float low = 0, high = 0;
        for (int i = 0; i < GROUP; ++i) {
            low = std::min(low, x[GROUP * g + i]);
            high = std::max(high, x[GROUP * g + i]);
        }
        scales[g] = (high - low) / 15.0f;
        lows[g] = 0.0f - low;
    }
    to.d = two_level(scales, groups, to.scales, steps);
    to.m = two_level(lows, groups, to.minima, offsets);
    for (int g = 0; g < groups; ++g) {
        const float by = inverse(steps[g]);
        for (int i = GROUP * g; i < GROUP * (g + 1); ++i)
            to.quants[i] = static_cast<uint8_t>(std::clamp(std::nearbyint((x[i] + offsets[g]) * by), 0.0f, 15.0f));
    }
}

uint8_t* write_quantised(int code, const Wide& wide, int count, uint8_t* to) {
    const Format& format = FORMATS[code];
    const int groups = (count + GROUP - 1) / GROUP;
    thread_local Super supers[ROWS];
    for (int r = 0; r < ROWS; ++r) (code == INT8 ? round_int8 : round_int4)(wide.x[r], groups, supers[r]);
    to = write_head(format, supers, to);
    for (int g = 0; g < groups; ++g, to += format.quant_bytes()) {
        to = write_scales(format, supers, g, to);
        write_quants(format, supers, g, to);
    }
    return to;
}

uint8_t* write_fp8(const Wide& wide, int count, uint8_t* to) {
    for (int first = 0; first < count; first += FP8_SPAN) {
        const int width = (std::min(FP8_SPAN, count - first) + GROUP - 1) / GROUP * GROUP;
        for (int r = 0; r < ROWS; ++r) {
            const float scale = largest(&wide.x[r][first], width) / 448.0f, by = std::max(scale, 1e-30f);
            std::memcpy(to + 4 * r, &scale, 4);
            for (int i = 0; i < width; ++i) to[64 + i / 4 * 64 + 4 * r + i % 4] = to_float8<E4m3>(wide.x[r][first + i] / by);
        }
        to += 64 + ROWS * width;
    }
    return to;
}

uint8_t* write_f32(const Wide& wide, int count, uint8_t* to) {
    const int whole = (count + GROUP - 1) / GROUP * GROUP;
    auto* numbers = reinterpret_cast<float*>(to);
    for (int i = 0; i < whole; ++i)
        for (int r = 0; r < ROWS; ++r) numbers[ROWS * i + r] = wide.x[r][i];
    return to + 4 * ROWS * whole;
}

uint16_t float_to_bf16(float f) {
    const uint32_t bits = std::bit_cast<uint32_t>(f);
    if (f != f) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint8_t* write_bf16(const Wide& wide, int count, uint8_t* to) {
    const int whole = (count + GROUP - 1) / GROUP * GROUP;
    auto* numbers = reinterpret_cast<uint16_t*>(to);
    for (int i = 0; i < whole; ++i)
        for (int r = 0; r < ROWS; ++r) numbers[i / 2 * 32 + 2 * r + i % 2] = float_to_bf16(wide.x[r][i]);
    return to + 2 * ROWS * whole;
}

uint8_t* write(int code, const Wide& wide, int count, uint8_t* to) {
    if (code == F32) return write_f32(wide, count, to);
    if (code == BF16) return write_bf16(wide, count, to);
    return code == FP8 ? write_fp8(wide, count, to) : write_quantised(code, wide, count, to);
}

float number(const float* p) { return *p; }
float number(const uint16_t* p) { return std::bit_cast<float>(static_cast<uint32_t>(*p) << 16); }

// [rows][I] of a matrix into one block; rows and columns up to whole ones are zeros.
template <typename T>
void round_block(int code, const T* from, int rows, int64_t I, uint8_t* to) {
    thread_local Wide wide;
    for (int64_t first = 0; first < I; first += SUPER) {
        const int count = static_cast<int>(std::min<int64_t>(SUPER, I - first));
        if (rows < ROWS || count < SUPER) std::memset(&wide, 0, sizeof wide);
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < count; ++i) wide.x[r][i] = number(from + r * I + first + i);
        to = write(code, wide, count, to);
    }
}

template <typename T>
void round_all(int code, const T* from, int64_t E, int64_t O, int64_t I, uint8_t* to) {
    const int64_t blocks = (O + ROWS - 1) / ROWS, bytes = FORMATS[code].block_bytes(I);
    parallel(E * blocks, [&](int64_t task, int) {
        const int64_t e = task / blocks, b = task % blocks;
        round_block(code, from + (e * O + b * ROWS) * I, static_cast<int>(std::min<int64_t>(ROWS, O - b * ROWS)), I,
                    to + task * bytes);
    });
}

// E matrices [O, I] of float32 or bfloat16, finite where the format is quantised, into kernel order.
void pack_plain(int code, bool bf16, uintptr_t from, int64_t E, int64_t O, int64_t I, uintptr_t to) {
    if (code != F32 && code != BF16 && code != FP8 && code != INT8 && code != INT4)
        throw std::invalid_argument("nothing is rounded to this format");
    if (bf16) round_all(code, at<const uint16_t>(from), E, O, I, at<uint8_t>(to));
    else round_all(code, at<const float>(from), E, O, I, at<uint8_t>(to));
}

}  // namespace

void bind_round(nanobind::module_& m) { m.def("pack_plain", &pack_plain, Unlocked()); }

}  // namespace coderv2
