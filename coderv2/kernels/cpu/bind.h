// What each file of kernels gives to Python. Tensors come as addresses: their shapes, types and contiguity are checked
// in Python, once, beside the operation's documentation (coderv2/kernels/native.py).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>

namespace coderv2 {

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Every function that computes is bound with this: other Python threads go on meanwhile.
using Unlocked = nanobind::call_guard<nanobind::gil_scoped_release>;

void bind_pack(nanobind::module_& m);
void bind_round(nanobind::module_& m);
void bind_encode(nanobind::module_& m);
void bind_load(nanobind::module_& m);
void bind_linear(nanobind::module_& m);
void bind_experts(nanobind::module_& m);
void bind_absorbed(nanobind::module_& m);
void bind_expanded(nanobind::module_& m);
void bind_route(nanobind::module_& m);
void bind_layer(nanobind::module_& m);
void bind_sample(nanobind::module_& m);
void bind_small(nanobind::module_& m);
void bind_tiles(nanobind::module_& m);
void bind_probe(nanobind::module_& m);

}  // namespace coderv2
