// Whole layers for tokens whose attention is absorbed: the operations of a decode step one after another, in memory that
// stays, where Python would need longer between them than some of them take.
#include <algorithm>
#include <vector>

#include "bind.h"
#include "operations.h"

namespace coderv2 {
namespace {

struct Sizes {
    int64_t D, H, N, R, C, V;
    float scale;  // of attention's scores
    float eps, latent_eps;
};

struct Router {
    std::vector<Given> weight;  // none in a dense layer
    int64_t K, groups, kept;
    bool renormalise;
    float factor;
};

// What all layers of a pass share.
struct Pass {
    int64_t T;
    uintptr_t cos, sin, slots;
    int kind;
    const std::vector<int64_t>&starts, &lengths;
    const std::vector<uintptr_t>& tables;
    int64_t page_size;
};

class Layer {
public:
    Layer(Sizes sizes, uintptr_t input_norm, std::vector<Given> queries, uintptr_t query_norm, Given latent,
          uintptr_t latent_norm, Given key_absorb, Given value_up, Given output, uintptr_t mixture_norm, Router router,
          std::vector<Given> routed, int64_t E, std::vector<Given> shared)
        : s_(sizes), input_norm_(input_norm), queries_(queries), query_norm_(query_norm), latent_(latent),
          latent_norm_(latent_norm), key_absorb_(key_absorb), value_up_(value_up), output_(output), mixture_norm_(mixture_norm),
          router_(router), routed_(routed), E_(E), shared_(shared) {}

    // x [T, D] in place; `latent` and `k_rope` are this layer's pages.
    void run(float* x, const Pass& pass, uintptr_t latent, uintptr_t k_rope) const {
        Memory& m = memory();
        attend(x, pass, latent, k_rope, m);
        add(x, pass.T * s_.D, m.out.data());
        mix(x, pass.T, m);
        add(x, pass.T * s_.D, m.out.data());
    }

private:
    using Floats = std::vector<float>;

    struct Memory {
        Floats normed, compressed, query, nope, rope, raw, latent, key, absorbed, attended, value, scores, weights, out;
        std::vector<int64_t> experts;
    };

    static Memory& memory() {
        thread_local Memory mine;
        return mine;
    }

    static float* room(Floats& to, int64_t size) {
        if (static_cast<int64_t>(to.size()) < size) to.resize(size);
        return to.data();
    }

    static void add(float* x, int64_t count, const float* more) {
        for (int64_t i = 0; i < count; ++i) x[i] += more[i];
    }

    // A matrix, or H of them with rows of their own, times x.
    static const float* times(const Given& matrix, int64_t H, const float* x, int64_t T, Floats& to) {
        const auto [code, data, O, I] = matrix;
        linear(code, data, H, O, I, address(x), T, address(room(to, T * H * O)));
        return to.data();
    }

    static const float* normed(const float* x, int64_t T, int64_t width, int64_t stride, uintptr_t weight, float eps,
                               Floats& to) {
        rms_norm(address(x), T, width, stride, weight, eps, address(room(to, T * width)));
        return to.data();
    }

    const float* query(const float* x, int64_t T, Memory& m) const {
        if (queries_.size() == 1) return times(queries_[0], 1, x, T, m.query);
        const float* compressed = times(queries_[0], 1, x, T, m.compressed);
        const int64_t width = std::get<2>(queries_[0]);
        return times(queries_[1], 1, normed(compressed, T, width, width, query_norm_, s_.latent_eps, m.normed), T, m.query);
    }

    void attend(const float* x, const Pass& pass, uintptr_t latent, uintptr_t k_rope, Memory& m) const {
        const auto [D, H, N, R, C, V, scale, eps, latent_eps] = s_;
        const int64_t T = pass.T, X = N + R;
        const float* h = normed(x, T, D, D, input_norm_, eps, m.normed);
        const float* raw = times(latent_, 1, h, T, m.raw);
        cache(raw, pass, latent, k_rope, m);
        const float* q = query(h, T, m);
        rope(address(q + N), T, H, R, H * X, X, pass.cos, pass.sin, address(room(m.rope, T * H * R)));
        float* nope = room(m.nope, T * H * N);
        for (int64_t i = 0; i < T * H; ++i) std::copy_n(q + i * X, N, nope + i * N);
        const float* absorbed = times(key_absorb_, H, nope, T, m.absorbed);
        mla_decode(address(absorbed), address(m.rope.data()), latent, k_rope, pass.kind, pass.starts, pass.lengths, pass.tables, H,
                   C, R, pass.page_size, scale, address(room(m.attended, T * H * C)));
        const float* value = times(value_up_, H, m.attended.data(), T, m.value);
        times(output_, 1, value, T, m.out);
    }

    void cache(const float* raw, const Pass& pass, uintptr_t latent, uintptr_t k_rope, Memory& m) const {
        const int64_t T = pass.T, C = s_.C, R = s_.R;
        const float* rows = normed(raw, T, C, C + R, latent_norm_, s_.latent_eps, m.latent);
        rope(address(raw + C), T, 1, R, C + R, 0, pass.cos, pass.sin, address(room(m.key, T * R)));
        cache_write(address(rows), T, C, C, pass.slots, latent, pass.kind);
        cache_write(address(m.key.data()), T, R, R, pass.slots, k_rope, pass.kind);
    }

    void mix(const float* x, int64_t T, Memory& m) const {
        const float* h = normed(x, T, s_.D, s_.D, mixture_norm_, s_.eps, m.normed);
        const int64_t K = router_.weight.empty() ? 0 : router_.K;
        room(m.weights, T * K);
        m.experts.resize(T * K);
        if (K) {
            times(router_.weight[0], 1, h, T, m.scores);
            route(address(m.scores.data()), T, std::get<2>(router_.weight[0]), K, router_.groups, router_.kept,
                  router_.renormalise, router_.factor, address(m.weights.data()), address(m.experts.data()));
        }
        experts(address(h), T, s_.D, address(m.weights.data()), address(m.experts.data()), K, E_, routed_, shared_,
                address(room(m.out, T * s_.D)));
    }

    const Sizes s_;
    const uintptr_t input_norm_;
    const std::vector<Given> queries_;
    const uintptr_t query_norm_;
    const Given latent_;
    const uintptr_t latent_norm_;
    const Given key_absorb_, value_up_, output_;
    const uintptr_t mixture_norm_;
    const Router router_;
    const std::vector<Given> routed_;
    const int64_t E_;
    const std::vector<Given> shared_;
};

// x [T, D] in place through all layers; a layer's pages lie `latent_bytes` and `k_rope_bytes` behind the last one's.
void run_layers(const std::vector<const Layer*>& layers, uintptr_t x, int64_t T, uintptr_t cos, uintptr_t sin, uintptr_t slots,
                uintptr_t latent, int64_t latent_bytes, uintptr_t k_rope, int64_t k_rope_bytes, int kind,
                const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
                int64_t page_size) {
    const Pass pass{T, cos, sin, slots, kind, starts, lengths, tables, page_size};
    for (size_t i = 0; i < layers.size(); ++i)
        layers[i]->run(at<float>(x), pass, latent + i * latent_bytes, k_rope + i * k_rope_bytes);
}

}  // namespace

void bind_layer(nanobind::module_& m) {
    nanobind::class_<Sizes>(m, "Sizes").def(nanobind::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float, float, float>());
    nanobind::class_<Router>(m, "Router").def(nanobind::init<std::vector<Given>, int64_t, int64_t, int64_t, bool, float>());
    nanobind::class_<Layer>(m, "Layer")
        .def(nanobind::init<Sizes, uintptr_t, std::vector<Given>, uintptr_t, Given, uintptr_t, Given, Given, Given, uintptr_t,
                            Router, std::vector<Given>, int64_t, std::vector<Given>>());
    m.def("run_layers", &run_layers, Unlocked());
}

}  // namespace coderv2
