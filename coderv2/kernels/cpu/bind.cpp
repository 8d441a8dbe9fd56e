#include "bind.h"

#include "pool.h"

NB_MODULE(MODULE, m) {
    // A model that lives to the end of the program is not a leak.
    nanobind::set_leak_warnings(false);
    m.def("set_threads", &coderv2::set_threads, nanobind::arg("count"));
    m.def("threads", &coderv2::threads);
    m.def("keep_memory", &coderv2::keep_memory);
    coderv2::bind_pack(m);
    coderv2::bind_round(m);
    coderv2::bind_encode(m);
    coderv2::bind_load(m);
    coderv2::bind_linear(m);
    coderv2::bind_experts(m);
    coderv2::bind_absorbed(m);
    coderv2::bind_expanded(m);
    coderv2::bind_route(m);
    coderv2::bind_layer(m);
    coderv2::bind_sample(m);
    coderv2::bind_small(m);
    coderv2::bind_tiles(m);
    coderv2::bind_probe(m);
}
