// What stands between the products: norms, rotation, and the cache's new rows. A row each, on the caller's thread: a decode
// step has a few of them, and a prompt's are little beside its products.
#include <cmath>
#include <cstring>

#include "bind.h"
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

// Rows of `width` numbers, `stride` apart, each to its slot of the cache, float32 or bfloat16.
void cache_write(uintptr_t x_at, int64_t T, int64_t width, int64_t stride, uintptr_t slots, uintptr_t cache, bool wide) {
    each_row(T, [&](int64_t t) {
        const float* x = at<const float>(x_at) + t * stride;
        const int64_t slot = at<const int64_t>(slots)[t];
        if (wide) {
            std::memcpy(at<float>(cache) + slot * width, x, width * sizeof(float));
            return;
        }
        to_bf16(x, width, at<uint16_t>(cache) + slot * width);
    });
}

}  // namespace

void bind_small(nanobind::module_& m) {
    m.def("rms_norm", &rms_norm, Unlocked());
    m.def("rope", &rope, Unlocked());
    m.def("cache_write", &cache_write, Unlocked());
}

}  // namespace coderv2
