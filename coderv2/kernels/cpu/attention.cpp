// Absorbed latent attention over a paged cache: all heads of a token read each latent once.
//
// Lanes are heads. A token's keys are taken in spans of 256, counted from its sequence's start; each span gives a maximum,
// a sum and a weighted sum of latents, and these are put together in order. So a token's bits depend on its own keys only:
// not on its neighbours, nor on how its sequence was cut into chunks.
#include <algorithm>
#include <cstring>
#include <vector>

#include "bind.h"
#include "pool.h"
#include "simd.h"

namespace coderv2 {
namespace {

constexpr int SPAN = 256;
constexpr int LANES = 16;
constexpr int KEYS = 8;     // keys whose scores are computed together
constexpr int COLUMNS = 16;  // columns whose sums are computed together

uint16_t to_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// How one number format of the cache is multiplied: float32 a column at a time, bfloat16 in pairs.
struct Float32 {
    using Number = float;
    static constexpr int STEP = 1;
    static Floats add(Floats sum, const uint8_t* lanes, const float* a) {
        return fused(load(reinterpret_cast<const float*>(lanes)), all(*a), sum);
    }
    static void set(uint8_t* lanes, int lane, int, float x) { std::memcpy(lanes + 4 * lane, &x, 4); }
};

struct Bfloat16 {
    using Number = uint16_t;
    static constexpr int STEP = 2;
    static Floats add(Floats sum, const uint8_t* lanes, const uint16_t* a) { return pairs(sum, load_bytes(lanes), a); }
    static void set(uint8_t* lanes, int lane, int place, float x) {
        const uint16_t half = to_bfloat16(x);
        std::memcpy(lanes + 4 * lane + 2 * place, &half, 2);
    }
};

// Shapes of one call.
struct Shape {
    int64_t H, C, R, page_size;
    float scale;

    int64_t groups() const { return (H + LANES - 1) / LANES; }
};

// One query token, sixteen of its heads, one span of its keys.
struct Task {
    int64_t token, group, first, count;
    const int64_t* table;
    int64_t partial;  // which of the partial results it fills
};

template <class Kind>
class Span {
public:
    using Number = typename Kind::Number;

    Span(const Shape& shape, const Number* latent, const Number* k_rope) : s_(shape), latent_(latent), k_rope_(k_rope) {}

    // out: maxima [16], sums [16], weighted latents [C][16].
    void run(const Task& task, const float* q_latent, const float* q_rope, float* out) {
        locate(task);
        lay_out(q_latent, s_.C, task, latent_q_);
        lay_out(q_rope, s_.R, task, rope_q_);
        score(task.count);
        weigh(task.count, out);
        gather_values(task.count);
        sum_values(task.count, out + 2 * LANES);
    }

private:
    void locate(const Task& task) {
        for (int64_t i = 0; i < task.count; ++i) {
            const int64_t key = task.first + i;
            rows_[i] = task.table[key / s_.page_size] * s_.page_size + key % s_.page_size;
        }
    }

    // Queries with heads in lanes, a step of columns to a vector.
    void lay_out(const float* q, int64_t width, const Task& task, std::vector<uint8_t>& to) {
        to.assign((width + Kind::STEP - 1) / Kind::STEP * 64, 0);
        const int64_t heads = std::min<int64_t>(LANES, s_.H - task.group * LANES);
        for (int64_t h = 0; h < heads; ++h) {
            const float* row = q + (task.token * s_.H + task.group * LANES + h) * width;
            for (int64_t c = 0; c < width; ++c)
                Kind::set(to.data() + c / Kind::STEP * 64, static_cast<int>(h), static_cast<int>(c % Kind::STEP), row[c]);
        }
    }

    void score(int64_t count) {
        for (int64_t i = 0; i < count; i += KEYS) {
            if (i + KEYS <= count) score_keys<KEYS>(i);
            else
                for (int64_t j = i; j < count; ++j) score_keys<1>(j);
        }
    }

    template <int N>
    void score_keys(int64_t first) {
        Floats sums[N];
        for (int n = 0; n < N; ++n) sums[n] = zeros();
        add_products<N>(latent_q_, latent_, s_.C, first, sums);
        add_products<N>(rope_q_, k_rope_, s_.R, first, sums);
        for (int n = 0; n < N; ++n) store(scores_ + (first + n) * LANES, times(sums[n], all(s_.scale)));
    }

    template <int N>
    void add_products(const std::vector<uint8_t>& q, const Number* keys, int64_t width, int64_t first, Floats* sums) {
        const Number* rows[N];
        for (int n = 0; n < N; ++n) rows[n] = keys + rows_[first + n] * width;
        const uint8_t* lanes = q.data();
        for (int64_t c = 0; c < width; c += Kind::STEP, lanes += 64)
            for (int n = 0; n < N; ++n) sums[n] = Kind::add(sums[n], lanes, rows[n] + c);
    }

    // Scores become weights, e^(score - largest), and are laid out for the sums.
    void weigh(int64_t count, float* out) {
        Floats largest = load(scores_), sum = zeros();
        for (int64_t i = 1; i < count; ++i) largest = at_least(load(scores_ + i * LANES), largest);
        const int64_t whole = (count + Kind::STEP - 1) / Kind::STEP * Kind::STEP;
        std::memset(weights_, 0, whole / Kind::STEP * 64);
        for (int64_t i = 0; i < count; ++i) {
            const Floats weight = exponential(plus(load(scores_ + i * LANES), times(largest, all(-1.0f))));
            sum = plus(sum, weight);
            float lanes[LANES];
            store(lanes, weight);
            for (int lane = 0; lane < LANES; ++lane)
                Kind::set(weights_ + i / Kind::STEP * 64, lane, static_cast<int>(i % Kind::STEP), lanes[lane]);
        }
        store(out, largest);
        store(out + LANES, sum);
    }

    // Latents of a step of keys beside each other, [C / 16][steps][16][step], so that the sums stream through them.
    void gather_values(int64_t count) {
        const int64_t steps = (count + Kind::STEP - 1) / Kind::STEP, chunk = steps * COLUMNS * Kind::STEP;
        const int64_t chunks = (s_.C + COLUMNS - 1) / COLUMNS;
        if (static_cast<int64_t>(values_.size()) < chunks * chunk) values_.resize(chunks * chunk);
        for (int64_t step = 0; step < steps; ++step)
            for (int place = 0; place < Kind::STEP; ++place) {
                const int64_t key = step * Kind::STEP + place;
                const Number* row = key < count ? latent_ + rows_[key] * s_.C : nullptr;
                Number* to = values_.data() + step * COLUMNS * Kind::STEP + place;
                for (int64_t c = 0; c < s_.C; ++c)
                    to[c / COLUMNS * chunk + c % COLUMNS * Kind::STEP] = row ? row[c] : Number(0);
            }
    }

    void sum_values(int64_t count, float* out) {
        const int64_t steps = (count + Kind::STEP - 1) / Kind::STEP;
        for (int64_t first = 0; first < s_.C; first += COLUMNS) {
            Floats sums[COLUMNS];
            for (auto& sum : sums) sum = zeros();
            const Number* values = values_.data() + first * steps * Kind::STEP;
            for (int64_t step = 0; step < steps; ++step, values += COLUMNS * Kind::STEP)
                for (int c = 0; c < COLUMNS; ++c)
                    sums[c] = Kind::add(sums[c], weights_ + 64 * step, values + c * Kind::STEP);
            for (int64_t c = first; c < std::min(first + COLUMNS, s_.C); ++c) store(out + c * LANES, sums[c - first]);
        }
    }

    const Shape& s_;
    const Number *latent_, *k_rope_;
    int64_t rows_[SPAN];
    std::vector<uint8_t> latent_q_, rope_q_;
    alignas(64) float scores_[SPAN * LANES];
    alignas(64) uint8_t weights_[SPAN * 64];
    std::vector<Number> values_;
};

// The spans of one token's sixteen heads, in order, as one.
void merge(const Shape& s, const float* partials, int64_t spans, int64_t token, int64_t group, float* out) {
    const int64_t stride = (2 + s.C) * LANES;
    Floats largest = load(partials), total = zeros();
    for (int64_t i = 1; i < spans; ++i) largest = at_least(load(partials + i * stride), largest);
    std::vector<Floats> shares(spans);
    for (int64_t i = 0; i < spans; ++i) {
        shares[i] = exponential(plus(load(partials + i * stride), times(largest, all(-1.0f))));
        total = fused(shares[i], load(partials + i * stride + LANES), total);
    }
    for (auto& share : shares) share = divided(share, total);
    const int64_t heads = std::min<int64_t>(LANES, s.H - group * LANES);
    for (int64_t c = 0; c < s.C; ++c) {
        Floats sum = zeros();
        for (int64_t i = 0; i < spans; ++i) sum = fused(shares[i], load(partials + i * stride + (2 + c) * LANES), sum);
        float lanes[LANES];
        store(lanes, sum);
        for (int64_t h = 0; h < heads; ++h) out[(token * s.H + group * LANES + h) * s.C + c] = lanes[h];
    }
}

// A token's share of the merging.
struct Result {
    int64_t token, group, spans, partial;
};

template <class Kind>
void attend(const Shape& s, const float* q_latent, const float* q_rope, uintptr_t latent, uintptr_t k_rope,
            const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
            float* out) {
    using Number = typename Kind::Number;
    std::vector<Task> tasks;
    std::vector<Result> results;
    for (size_t b = 0; b < lengths.size(); ++b)
        for (int64_t t = starts[b]; t < starts[b + 1]; ++t)
            for (int64_t group = 0; group < s.groups(); ++group) {
                const int64_t keys = lengths[b] - (starts[b + 1] - 1 - t), spans = (keys + SPAN - 1) / SPAN;
                results.push_back({t, group, spans, static_cast<int64_t>(tasks.size())});
                for (int64_t first = 0; first < keys; first += SPAN)
                    tasks.push_back({t, group, first, std::min<int64_t>(SPAN, keys - first), at<const int64_t>(tables[b]),
                                     static_cast<int64_t>(tasks.size())});
            }
    const int64_t stride = (2 + s.C) * LANES;
    thread_local std::vector<float> kept;
    std::vector<float>& partials = kept;
    if (static_cast<int64_t>(partials.size()) < static_cast<int64_t>(tasks.size()) * stride)
        partials.resize(tasks.size() * stride);
    parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
        thread_local std::vector<Span<Kind>> mine;
        mine.clear();
        mine.emplace_back(s, at<const Number>(latent), at<const Number>(k_rope));
        mine[0].run(tasks[i], q_latent, q_rope, partials.data() + tasks[i].partial * stride);
    });
    parallel(static_cast<int64_t>(results.size()), [&](int64_t i, int) {
        const Result& r = results[i];
        merge(s, partials.data() + r.partial * stride, r.spans, r.token, r.group, out);
    });
}

// q_latent [T, H, C], q_rope [T, H, R], out [T, H, C] in float32; pages [P, S, C] and [P, S, R] in float32 or bfloat16.
void mla_decode(uintptr_t q_latent, uintptr_t q_rope, uintptr_t latent, uintptr_t k_rope, bool wide,
                const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
                int64_t H, int64_t C, int64_t R, int64_t page_size, float scale, uintptr_t out) {
    const Shape shape{H, C, R, page_size, scale};
    auto run = wide ? attend<Float32> : attend<Bfloat16>;
    run(shape, at<const float>(q_latent), at<const float>(q_rope), latent, k_rope, starts, lengths, tables, at<float>(out));
}

}  // namespace

void bind_attention(nanobind::module_& m) { m.def("mla_decode", &mla_decode, Unlocked()); }

}  // namespace coderv2
