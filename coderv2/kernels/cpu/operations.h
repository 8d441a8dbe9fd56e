// The operations that Python calls one by one and `layer.cpp` one after another; addresses as in bind.h.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

namespace coderv2 {

// (code, address, rows, columns): one matrix, or a stack of equal ones.
using Given = std::tuple<int, uintptr_t, int64_t, int64_t>;

template <typename T>
uintptr_t address(const T* x) {
    return reinterpret_cast<uintptr_t>(x);
}

void rms_norm(uintptr_t x, int64_t T, int64_t D, int64_t stride, uintptr_t weight, float eps, uintptr_t out);
void rope(uintptr_t x, int64_t T, int64_t H, int64_t R, int64_t stride_t, int64_t stride_h, uintptr_t cos, uintptr_t sin,
          uintptr_t out);
void cache_write(uintptr_t x, int64_t T, int64_t width, int64_t stride, uintptr_t slots, uintptr_t cache, int kind);
void linear(int code, uintptr_t data, int64_t E, int64_t O, int64_t I, uintptr_t x, int64_t T, uintptr_t out);
void mla_decode(uintptr_t q_latent, uintptr_t q_rope, uintptr_t latent, uintptr_t k_rope, int kind,
                const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
                int64_t H, int64_t C, int64_t R, int64_t page_size, float scale, uintptr_t out);
void route(uintptr_t scores, int64_t T, int64_t E, int64_t K, int64_t groups, int64_t kept, bool renormalise, float factor,
           uintptr_t weights, uintptr_t experts);
void experts(uintptr_t x, int64_t T, int64_t D, uintptr_t weights, uintptr_t experts, int64_t K, int64_t E,
             const std::vector<Given>& routed, const std::vector<Given>& shared, uintptr_t out);

}  // namespace coderv2
