// What stands between the products: norms, rotation, and the cache's new rows. A row each, on the caller's thread: a decode
// step has a few of them, and a prompt's are little beside its products.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "bind.h"
#include "float8.h"
#include "int8_span.h"
#include "latents.h"
#include "operations.h"
#include "pool.h"
#include "simd.h"

namespace coderv2 {
namespace {

constexpr int64_t PER_TASK = 16;  // rows

template <typename Work>
void each_row(int64_t rows, const Work& work) {
    parallel((rows + PER_TASK - 1) / PER_TASK, [&](int64_t task, int) {
        for (int64_t t = task * PER_TASK; t < std::min(rows, (task + 1) * PER_TASK); ++t) work(t);
    });
}

int64_t row_bytes(Latents kind, int64_t width) {
    switch (kind) {
        case Latents::f32: return 4 * width;
        case Latents::bf16: return 2 * width;
        case Latents::int8: return int8_row_bytes(width);
        default: return width;
    }
}

void store_row(Latents kind, const float* x, int64_t width, uint8_t* to) {
    switch (kind) {
        case Latents::f32: std::memcpy(to, x, width * sizeof(float)); break;
        case Latents::bf16: to_bf16(x, width, reinterpret_cast<uint16_t*>(to)); break;
        case Latents::int8: store_int8_row(x, width, to); break;
        case Latents::e4m3: std::transform(x, x + width, to, to_float8<E4m3>); break;
        case Latents::e5m2: std::transform(x, x + width, to, to_float8<E5m2>); break;
    }
}

float widened(uint16_t number) { return std::bit_cast<float>(static_cast<uint32_t>(number) << 16); }

void load_row(Latents kind, const uint8_t* from, int64_t width, float* out) {
    const auto each = [&](auto number) {
        for (int64_t c = 0; c < width; ++c) out[c] = number(c);
    };
    switch (kind) {
        case Latents::f32: std::memcpy(out, from, width * sizeof(float)); break;
        case Latents::bf16: each([&](int64_t c) { return widened(reinterpret_cast<const uint16_t*>(from)[c]); }); break;
        case Latents::int8:
            each([&, step = Trailer::of(from, width).step](int64_t c) {
                return step * static_cast<float>(static_cast<int8_t>(from[c]));
            });
            break;
        case Latents::e4m3: each([&](int64_t c) { return widened(WIDENED<E4m3>[from[c]]); }); break;
        case Latents::e5m2: each([&](int64_t c) { return widened(WIDENED<E5m2>[from[c]]); }); break;
    }
}

}  // namespace

// Rows of x are `stride` apart; out is [T, D].
void rms_norm(uintptr_t x_at, int64_t T, int64_t D, int64_t stride, uintptr_t weight_at, float eps, uintptr_t out_at) {
    const float* weight = at<const float>(weight_at);
    each_row(T, [&](int64_t t) {
        const float* x = at<const float>(x_at) + t * stride;
        float* out = at<float>(out_at) + t * D;
        float lanes[16] = {};
        int64_t i = 0;
        for (; i + 16 <= D; i += 16)
            for (int lane = 0; lane < 16; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
        for (; i < D; ++i) lanes[0] += x[i] * x[i];
        float sum = 0;
        for (float lane : lanes) sum += lane;
        const float scale = 1 / std::sqrt(sum / static_cast<float>(D) + eps);
        for (int64_t d = 0; d < D; ++d) out[d] = weight[d] * (x[d] * scale);
    });
}

// x [T, H, R] with given strides, interleaved pairs turned by cos and sin [T, R/2]; out [T, H, R].
void rope(uintptr_t x_at, int64_t T, int64_t H, int64_t R, int64_t stride_t, int64_t stride_h, uintptr_t cos_at,
          uintptr_t sin_at, uintptr_t out_at) {
    each_row(T, [&](int64_t t) {
        const float *cos = at<const float>(cos_at) + t * R / 2, *sin = at<const float>(sin_at) + t * R / 2;
        for (int64_t h = 0; h < H; ++h) {
            const float* x = at<const float>(x_at) + t * stride_t + h * stride_h;
            float* out = at<float>(out_at) + (t * H + h) * R;
            for (int64_t i = 0; i < R / 2; ++i) {
                out[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i];
                out[2 * i + 1] = x[2 * i] * sin[i] + x[2 * i + 1] * cos[i];
            }
        }
    });
}

// Rows of `width` numbers, `stride` apart, each to its slot of the cache.
void cache_write(uintptr_t x_at, int64_t T, int64_t width, int64_t stride, uintptr_t slots, uintptr_t cache, int number) {
    const Latents kind = latents_of(number);
    each_row(T, [&](int64_t t) {
        const float* x = at<const float>(x_at) + t * stride;
        store_row(kind, x, width, at<uint8_t>(cache) + at<const int64_t>(slots)[t] * row_bytes(kind, width));
    });
}

namespace {

// The rows in the cache's `slots` as float32, [S, width].
void cache_read(uintptr_t cache, int number, uintptr_t slots, int64_t S, int64_t width, uintptr_t out_at) {
    const Latents kind = latents_of(number);
    each_row(S, [&](int64_t i) {
        const uint8_t* from = at<const uint8_t>(cache) + at<const int64_t>(slots)[i] * row_bytes(kind, width);
        load_row(kind, from, width, at<float>(out_at) + i * width);
    });
}

}  // namespace

void bind_small(nanobind::module_& m) {
    m.def("rms_norm", &rms_norm, Unlocked());
    m.def("rope", &rope, Unlocked());
    m.def("cache_write", &cache_write, Unlocked());
    m.def("cache_read", &cache_read, Unlocked());
}

}  // namespace coderv2
