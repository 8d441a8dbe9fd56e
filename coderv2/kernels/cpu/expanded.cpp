// Causal attention in expanded form, where every head has keys and values of its own: sixteen queries of a head at once.
// Scores are multiplied in float32; weights and values in float32, or in bfloat16 where the model's weights are rounded
// already: of what bfloat16 costs in quality, scores are nearly all. Where the processor has no products of bfloat16, these
// are float32 too.
#include <cmath>

#include "bind.h"
#include "lanes.h"
#include "pool.h"

namespace coderv2 {
namespace {

struct Shape {
    int64_t H, X, V;
    float scale;

    int64_t values_width() const { return (V + COLUMNS - 1) / COLUMNS * COLUMNS; }
};

// One head of one sequence: its keys and values, laid out once for all of its queries.
template <class Kind>
class Head {
    using Number = typename Kind::Number;

public:
    void prepare(const Shape& s, const float* k, const float* v, int64_t keys) {
        count_ = keys;
        keys_.resize(keys * s.X);
        values_.resize((keys + SPAN) * s.values_width());
        std::vector<Number> rows(SPAN * s.values_width());
        for (int64_t first = 0; first < keys; first += SPAN) {
            const int64_t count = std::min<int64_t>(SPAN, keys - first);
            const Number* pointers[SPAN];
            for (int64_t i = 0; i < count; ++i) {
                const int64_t key = first + i;
                std::memcpy(keys_.data() + key * s.X, k + key * s.H * s.X, s.X * sizeof(float));
                Kind::rounded(v + key * s.H * s.V, s.V, rows.data() + i * s.values_width());
                pointers[i] = rows.data() + i * s.values_width();
            }
            lay_values<Kind>(pointers, count, s.values_width(), values_.data() + first * s.values_width());
        }
    }

    const float* key(const Shape& s, int64_t i) const { return keys_.data() + i * s.X; }
    const Number* values(const Shape& s, int64_t first) const { return values_.data() + first * s.values_width(); }

    int64_t laid(int64_t first) const { return std::min<int64_t>(SPAN, count_ - first); }

private:
    int64_t count_ = 0;
    std::vector<float> keys_;
    std::vector<Number> values_;
};

// Sixteen queries, the first of which sees `seen` of the `keys` keys and each later one key more.
template <class Kind>
class Block {
public:
    void run(const Shape& s, const Head<Kind>& head, const float* const* queries, int count, int64_t seen, int64_t keys,
             float* const* out, float* const* spread) {
        lanes_.resize(s.X * 64);
        lay_out<Float32>(queries, s.X, lanes_.data());
        total_.assign(s.values_width() * LANES, 0.0f);
        part_.resize(s.values_width() * LANES);
        largest_ = all(-1e30f), sum_ = zeros();
        for (int64_t first = 0; first < keys; first += SPAN)
            add_span(s, head, first, std::min<int64_t>(SPAN, keys - first), seen);
        for (int64_t c = 0; c < s.V; ++c) {
            float lanes[LANES];
            store(lanes, divided(load(total_.data() + c * LANES), sum_));
            for (int lane = 0; lane < count; ++lane) out[lane][c] = lanes[lane];
        }
        float sums[LANES], most[LANES];
        store(sums, sum_), store(most, largest_);
        for (int lane = 0; lane < count && spread[lane]; ++lane) *spread[lane] = most[lane] + std::log(sums[lane]);
    }

private:
    void add_span(const Shape& s, const Head<Kind>& head, int64_t first, int64_t count, int64_t seen) {
        int64_t i = 0;
        for (; i + KEYS <= count; i += KEYS) score<KEYS>(s, head, first + i, weights_.scores(i));
        for (; i < count; ++i) score<1>(s, head, first + i, weights_.scores(i));
        for (i = std::max<int64_t>(0, seen - first); i < count; ++i) hide(weights_.scores(i), first + i - seen);
        Floats largest, sum;
        weights_.weigh(count, &largest, &sum);
        weights_.sum_values(head.values(s, first), head.laid(first), count, s.values_width(), part_.data());
        // A lane that sees none of the span's keys has weights of one for hidden ones; its share is nothing.
        const Floats both = at_least(largest, largest_), minus = times(both, all(-1.0f));
        const Floats old_share = exponential(plus(largest_, minus)), new_share = exponential(plus(largest, minus));
        sum_ = fused(new_share, sum, times(old_share, sum_));
        for (int64_t c = 0; c < s.values_width(); ++c) {
            float* total = total_.data() + c * LANES;
            store(total, fused(new_share, load(part_.data() + c * LANES), times(old_share, load(total))));
        }
        largest_ = both;
    }

    template <int N>
    void score(const Shape& s, const Head<Kind>& head, int64_t key, float* scores) {
        Floats sums[N];
        const float* rows[N];
        for (int n = 0; n < N; ++n) sums[n] = zeros(), rows[n] = head.key(s, key + n);
        add_products<Float32, N>(lanes_.data(), rows, nullptr, s.X, sums);
        for (int n = 0; n < N; ++n) store(scores + n * LANES, times(sums[n], all(s.scale)));
    }

    // Key `seen + late` is hidden from lanes 0 … late.
    static void hide(float* scores, int64_t late) {
        for (int64_t lane = 0; lane <= std::min<int64_t>(late, LANES - 1); ++lane) scores[lane] = -1e30f;
    }

    std::vector<uint8_t> lanes_;
    std::vector<float> total_, part_;
    Floats largest_, sum_;
    Weights<Kind> weights_;
};

struct Operands {
    const float *q, *k, *v;  // [T, H, X], [S, H, X], [S, H, V]
    float *out, *spread;     // [T, H, V]; [T, H], or null
};

// One sequence with T queries, the last keys' own where `causal`, or later than all keys.
template <class Kind>
void sequence(const Shape& s, const Operands& given, int64_t T, int64_t keys, bool causal) {
    parallel(s.H, [&, H = s.H, X = s.X, V = s.V](int64_t h, int) {
        thread_local Head<Kind> head;
        thread_local Block<Kind> block;
        head.prepare(s, given.k + h * X, given.v + h * V, keys);
        for (int64_t first = 0; first < T; first += LANES) {
            const int count = static_cast<int>(std::min<int64_t>(LANES, T - first));
            const float* queries[LANES] = {};
            float *out[LANES] = {}, *spread[LANES] = {};
            for (int lane = 0; lane < count; ++lane) {
                const int64_t row = (first + lane) * H + h;
                queries[lane] = given.q + row * X;
                out[lane] = given.out + row * V;
                spread[lane] = given.spread ? given.spread + row : nullptr;
            }
            const int64_t seen = causal ? keys - T + first + 1 : keys;
            block.run(s, head, queries, count, seen, causal ? seen + count - 1 : keys, out, spread);
        }
    });
}

// Sequence b has rows starts[b] … starts[b + 1] of each. `wide`: weights and values in float32, else in bfloat16; sums are
// float32. `spread`, if any: the logarithm of each query's sum of e^score, by which parts of its keys are put together.
void mla_prefill(uintptr_t q, uintptr_t k, uintptr_t v, const std::vector<int64_t>& q_starts,
                 const std::vector<int64_t>& k_starts, int64_t H, int64_t X, int64_t V, float scale, bool wide, bool causal,
                 uintptr_t out, uintptr_t spread) {
    const Shape s{H, X, V, scale};
    for (size_t b = 0; b + 1 < q_starts.size(); ++b) {
        const int64_t first = q_starts[b], key = k_starts[b];
        const Operands given{at<const float>(q) + first * H * X, at<const float>(k) + key * H * X, at<const float>(v) + key * H * V,
                             at<float>(out) + first * H * V, spread ? at<float>(spread) + first * H : nullptr};
        auto run = wide || !MULTIPLIES_BF16 ? sequence<Float32> : sequence<Bfloat16>;
        run(s, given, q_starts[b + 1] - first, k_starts[b + 1] - key, causal);
    }
}

}  // namespace

void bind_expanded(nanobind::module_& m) { m.def("mla_prefill", &mla_prefill, Unlocked()); }

}  // namespace coderv2
