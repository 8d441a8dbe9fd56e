// Absorbed latent attention over a paged cache: all heads of a token read each latent once.
//
// A token's keys are taken in spans of 256, counted from its sequence's start, so that its bits depend on its own keys
// only: not on its neighbours, nor on how its sequence was cut into chunks.
#include <cmath>

#include "bind.h"
#include "lanes.h"
#include "pool.h"

namespace coderv2 {
namespace {

struct Shape {
    int64_t H, C, R, page_size;
    float scale;

    int64_t groups() const { return (H + LANES - 1) / LANES; }
    int64_t width() const { return (C + WIDE - 1) / WIDE * WIDE; }
    int64_t partial() const { return (2 + width()) * LANES; }  // maxima, sums, [16][width] weighted latents
};

// Sixteen heads of one query token.
struct Query {
    int64_t token, group, keys;
    const int64_t* table;
    int64_t partial;  // the first of its partial results

    int64_t spans() const { return (keys + SPAN - 1) / SPAN; }
};

struct Task {
    int64_t query, first;  // key
};

template <class Kind>
class Absorbed {
    using Number = typename Kind::Number;

public:
    Absorbed(const Shape& shape, const Number* latent, const Number* k_rope) : s_(shape), latent_(latent), k_rope_(k_rope) {}

    void add(const Query& query) {
        for (int64_t first = 0; first < query.keys; first += SPAN) tasks_.push_back({count(queries_), first});
        queries_.push_back(query);
        queries_.back().partial = count(tasks_) - query.spans();
    }

    void run(const float* q_latent, const float* q_rope, float* out) {
        latent_q_.resize(queries_.size() * steps_of<Kind>(s_.C) * 64);
        rope_q_.resize(queries_.size() * steps_of<Kind>(s_.R) * 64);
        partials_.resize(tasks_.size() * s_.partial());
        parallel(count(queries_), [&](int64_t i, int) {
            lay(q_latent, s_.C, queries_[i], latent_lanes(i));
            lay(q_rope, s_.R, queries_[i], rope_lanes(i));
        });
        parallel(count(tasks_), [&](int64_t i, int) { attend(tasks_[i], partials_.data() + i * s_.partial()); });
        parallel(count(queries_), [&](int64_t i, int) { merge(queries_[i], out); });
        queries_.clear();
        tasks_.clear();
    }

private:
    template <typename T>
    static int64_t count(const std::vector<T>& items) {
        return static_cast<int64_t>(items.size());
    }
    uint8_t* latent_lanes(int64_t query) { return latent_q_.data() + query * steps_of<Kind>(s_.C) * 64; }
    uint8_t* rope_lanes(int64_t query) { return rope_q_.data() + query * steps_of<Kind>(s_.R) * 64; }

    void lay(const float* q, int64_t width, const Query& query, uint8_t* to) const {
        const float* rows[LANES] = {};
        for (int64_t lane = 0; lane < LANES && query.group * LANES + lane < s_.H; ++lane)
            rows[lane] = q + (query.token * s_.H + query.group * LANES + lane) * width;
        lay_out<Kind>(rows, width, to);
    }

    void attend(const Task& task, float* out) {
        const Query& query = queries_[task.query];
        const int64_t keys = std::min<int64_t>(SPAN, query.keys - task.first);
        const Number *latents[SPAN + 1], *ropes[SPAN];
        for (int64_t i = 0; i < keys; ++i) {
            const int64_t key = task.first + i;
            const int64_t row = query.table[key / s_.page_size] * s_.page_size + key % s_.page_size;
            latents[i] = latent_ + row * s_.C;
            ropes[i] = k_rope_ + row * s_.R;
        }
        thread_local Weights<Kind> weights;
        for (int64_t i = 0; i + KEYS <= keys; i += KEYS) {
            const bool more = i + 2 * KEYS <= keys;
            score<KEYS>(task.query, latents + i, ropes + i, more ? KEYS : 0, weights.scores(i));
        }
        for (int64_t i = keys / KEYS * KEYS; i < keys; ++i) score<1>(task.query, latents + i, ropes + i, 0, weights.scores(i));
        Floats largest, sum;
        weights.weigh(keys, &largest, &sum);
        store(out, largest);
        store(out + LANES, sum);
        pad(latents, keys);
        weights.sum_rows(latents, keys, s_.width(), out + 2 * LANES);
    }

    template <int N>
    void score(int64_t query, const Number* const* latents, const Number* const* ropes, int next, float* scores) {
        Floats sums[N];
        for (auto& sum : sums) sum = zeros();
        add_products<Kind, N>(latent_lanes(query), latents, next ? latents + next : nullptr, s_.C, sums);
        add_products<Kind, N>(rope_lanes(query), ropes, next ? ropes + next : nullptr, s_.R, sums);
        for (int n = 0; n < N; ++n) store(scores + n * LANES, times(sums[n], all(s_.scale)));
    }

    // Latents whose width is no multiple of 32 are copied to where zeros follow them; beside an odd last one lies itself.
    void pad(const Number** latents, int64_t keys) const {
        thread_local std::vector<Number> wide;
        if (s_.width() != s_.C) {
            wide.assign(keys * s_.width(), 0);
            for (int64_t i = 0; i < keys; ++i) {
                std::memcpy(wide.data() + i * s_.width(), latents[i], s_.C * sizeof(Number));
                latents[i] = wide.data() + i * s_.width();
            }
        }
        latents[keys] = latents[keys - 1];
    }

    void merge(const Query& query, float* out) const {
        const float* partials = partials_.data() + query.partial * s_.partial();
        const int64_t spans = query.spans();
        Floats largest = load(partials), total = zeros();
        for (int64_t i = 1; i < spans; ++i) largest = at_least(load(partials + i * s_.partial()), largest);
        thread_local std::vector<float> kept;
        kept.resize(spans * LANES);
        float* shares = kept.data();
        for (int64_t i = 0; i < spans; ++i) {
            const float* partial = partials + i * s_.partial();
            const Floats share = exponential(plus(load(partial), times(largest, all(-1.0f))));
            store(shares + i * LANES, share);
            total = fused(share, load(partial + LANES), total);
        }
        for (int64_t i = 0; i < spans; ++i) store(shares + i * LANES, divided(load(shares + i * LANES), total));
        float* rows = out + (query.token * s_.H + query.group * LANES) * s_.C;
        const int64_t heads = std::min<int64_t>(LANES, s_.H - query.group * LANES);
        for (int64_t h = 0; h < heads; ++h) {
            float* row = rows + h * s_.C;
            for (int64_t i = 0; i < spans; ++i) {
                const float* values = partials + i * s_.partial() + 2 * LANES + h * s_.width();
                const float share = shares[i * LANES + h];
                for (int64_t c = 0; c < s_.C; ++c) row[c] = i ? std::fma(share, values[c], row[c]) : share * values[c];
            }
        }
    }

    const Shape s_;
    const Number *latent_, *k_rope_;
    std::vector<Query> queries_;
    std::vector<Task> tasks_;
    std::vector<uint8_t> latent_q_, rope_q_;
    std::vector<float> partials_;
};

template <class Kind>
void decode(const Shape& s, uintptr_t q_latent, uintptr_t q_rope, uintptr_t latent, uintptr_t k_rope,
            const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
            uintptr_t out) {
    using Number = typename Kind::Number;
    Absorbed<Kind> absorbed(s, at<const Number>(latent), at<const Number>(k_rope));
    for (size_t b = 0; b < lengths.size(); ++b)
        for (int64_t t = starts[b]; t < starts[b + 1]; ++t)
            for (int64_t group = 0; group < s.groups(); ++group)
                absorbed.add({t, group, lengths[b] - (starts[b + 1] - 1 - t), at<const int64_t>(tables[b]), 0});
    absorbed.run(at<const float>(q_latent), at<const float>(q_rope), at<float>(out));
}

// q_latent [T, H, C], q_rope [T, H, R], out [T, H, C] in float32; pages [P, S, C] and [P, S, R] in float32 or bfloat16.
void mla_decode(uintptr_t q_latent, uintptr_t q_rope, uintptr_t latent, uintptr_t k_rope, bool wide,
                const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
                int64_t H, int64_t C, int64_t R, int64_t page_size, float scale, uintptr_t out) {
    auto run = wide ? decode<Float32> : decode<Bfloat16>;
    run({H, C, R, page_size, scale}, q_latent, q_rope, latent, k_rope, starts, lengths, tables, out);
}

}  // namespace

void bind_absorbed(nanobind::module_& m) { m.def("mla_decode", &mla_decode, Unlocked()); }

}  // namespace coderv2
