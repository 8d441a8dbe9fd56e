// How a row of the cache stores its numbers; `coderv2/kernels/latents.py` numbers them alike.
#pragma once

#include <stdexcept>

namespace coderv2 {

enum class Latents { f32, bf16, int8, e4m3, e5m2 };

inline Latents latents_of(int kind) {
    if (kind < 0 || kind > 4) throw std::invalid_argument("no such kind of cache");
    return static_cast<Latents>(kind);
}

}  // namespace coderv2
