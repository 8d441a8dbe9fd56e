// Absorbed latent attention over a paged cache: all heads of a token read each latent once.
//
// A token's keys are taken in spans of 256, counted from its sequence's start, and put together in an order that depends on
// how many there are, so that its bits depend on its own keys only: not on its neighbours, nor on how its sequence was cut
// into chunks. What a span gives depends on the cache's numbers and on what the processor multiplies: `Int8Span`,
// `PlainSpan`, `WideSpan`, `Float8Span`.
#include <cmath>

#include "bind.h"
#include "float8_span.h"
#include "int8_span.h"
#include "latents.h"
#include "operations.h"
#include "pool.h"
#include "wide_span.h"

namespace coderv2 {
namespace {

constexpr int64_t MOST = 2048;  // runs at a time, 33 KB of partial results each
// Spans in a run, which one thread adds up: what it leaves to merge may have to come from another core's cache.
constexpr int64_t RUNS = 8, LONGEST = 8;

// Sixteen heads of one query token.
struct Query {
    int64_t token, group, keys;
    const int64_t* table;
    int64_t partial;  // the first of its partial results

    int64_t spans() const { return (keys + SPAN - 1) / SPAN; }
    int64_t run_spans() const { return std::clamp<int64_t>(spans() / RUNS, 1, LONGEST); }
    int64_t runs() const { return (spans() + run_spans() - 1) / run_spans(); }
};

struct Task {
    int64_t query, first, end;  // keys
};

template <class Span>
class Absorbed {
public:
    Absorbed(const SpanShape& shape, int64_t H, int64_t page_size, const uint8_t* latent, const uint8_t* k_rope)
        : s_(shape), span_(shape), H_(H), page_size_(page_size), latent_(latent), k_rope_(k_rope) {}

    int64_t groups() const { return (H_ + LANES - 1) / LANES; }

    void add(const Query& query) {
        const int64_t run = query.run_spans() * SPAN;
        queries_.push_back(query);
        queries_.back().partial = count(tasks_);
        for (int64_t first = 0; first < query.keys; first += run)
            tasks_.push_back({count(queries_) - 1, first, std::min(query.keys, first + run)});
    }

    bool full() const { return count(tasks_) >= MOST; }

    // Everything that was added since.
    void run(const float* q_latent, const float* q_rope, float* out) {
        lanes_.resize(queries_.size() * span_.query_bytes());
        partials_.resize(tasks_.size() * partial_size());
        parallel(count(queries_), [&](int64_t i, int) { lay(q_latent, q_rope, i); });
        parallel(count(tasks_), [&](int64_t i, int) { attend_run(tasks_[i], partials_.data() + i * partial_size()); });
        // A long context's partial results are as much as the threads share.
        const int64_t parts = count(tasks_) > 4 * count(queries_) ? 4 : 1;
        parallel(count(queries_) * parts, [&](int64_t i, int) {
            merge(queries_[i / parts], LANES / parts * (i % parts), LANES / parts, out);
        });
        queries_.clear();
        tasks_.clear();
    }

private:
    template <typename T>
    static int64_t count(const std::vector<T>& items) {
        return static_cast<int64_t>(items.size());
    }
    int64_t partial_size() const { return (2 + span_.width()) * LANES; }  // maxima, sums, [16][width] weighted latents
    uint8_t* lanes(int64_t query) { return lanes_.data() + query * span_.query_bytes(); }

    void lay(const float* q_latent, const float* q_rope, int64_t i) {
        const Query& query = queries_[i];
        const float *latents[LANES] = {}, *ropes[LANES] = {};
        for (int64_t lane = 0; lane < LANES && query.group * LANES + lane < H_; ++lane) {
            const int64_t row = query.token * H_ + query.group * LANES + lane;
            latents[lane] = q_latent + row * s_.C;
            ropes[lane] = q_rope + row * s_.R;
        }
        span_.lay(latents, ropes, lanes(i));
    }

    void attend_run(const Task& task, float* out) {
        thread_local std::vector<float> more;
        more.resize(partial_size());
        attend(task, task.first, out);
        for (int64_t key = task.first + SPAN; key < task.end; key += SPAN) {
            attend(task, key, more.data());
            fold(more.data(), out);
        }
    }

    // The span that begins with `first_key`.
    void attend(const Task& task, int64_t first_key, float* out) {
        const Query& query = queries_[task.query];
        const int64_t keys = std::min<int64_t>(SPAN, task.end - first_key);
        const uint8_t *latents[SPAN + FAR], *ropes[SPAN + FAR];
        const int64_t latent_bytes = span_.latent_bytes(), rope_bytes = span_.rope_bytes();
        const int64_t here = std::min(keys + FAR, query.keys - first_key);
        int64_t page = first_key / page_size_, place = first_key % page_size_;
        for (int64_t i = 0; i < here; ++page, place = 0) {
            const int64_t first = query.table[page] * page_size_;
            for (; i < here && place < page_size_; ++i, ++place) {
                latents[i] = latent_ + (first + place) * latent_bytes;
                ropes[i] = k_rope_ + (first + place) * rope_bytes;
            }
        }
        std::fill(latents + here, latents + keys + FAR, latents[here - 1]);
        std::fill(ropes + here, ropes + keys + FAR, ropes[here - 1]);
        span_.attend(lanes(task.query), latents, ropes, keys, out);
    }

    // Partial results of later keys are added to those of earlier ones.
    void fold(const float* later, float* to) const {
        const Floats largest = at_least(load(later), load(to)), minus = times(largest, all(-1.0f));
        float old_share[LANES], share[LANES];
        store(old_share, exponential(plus(load(to), minus)));
        store(share, exponential(plus(load(later), minus)));
        store(to, largest);
        store(to + LANES, fused(load(share), load(later + LANES), times(load(old_share), load(to + LANES))));
        const int64_t width = span_.width();
        for (int lane = 0; lane < LANES; ++lane) {
            const int64_t row = 2 * LANES + lane * width;
            for (int64_t c = row; c < row + width; c += 16)
                store(to + c, fused(all(share[lane]), load(later + c), times(all(old_share[lane]), load(to + c))));
        }
    }

    // Some of the sixteen heads' runs, put together in order.
    void merge(const Query& query, int64_t first_head, int64_t count, float* out) const {
        const float* partials = partials_.data() + query.partial * partial_size();
        const int64_t runs = query.runs();
        Floats largest = load(partials), total = zeros();
        for (int64_t i = 1; i < runs; ++i) largest = at_least(load(partials + i * partial_size()), largest);
        thread_local std::vector<float> kept;
        kept.resize(runs * LANES);
        float* shares = kept.data();
        for (int64_t i = 0; i < runs; ++i) {
            const float* partial = partials + i * partial_size();
            const Floats share = exponential(plus(load(partial), times(largest, all(-1.0f))));
            store(shares + i * LANES, share);
            total = fused(share, load(partial + LANES), total);
        }
        for (int64_t i = 0; i < runs; ++i) store(shares + i * LANES, divided(load(shares + i * LANES), total));
        float* rows = out + (query.token * H_ + query.group * LANES) * s_.C;
        const int64_t end = std::min<int64_t>(first_head + count, H_ - query.group * LANES);
        for (int64_t h = first_head; h < end; ++h) {
            float* row = rows + h * s_.C;
            for (int64_t i = 0; i < runs; ++i) {
                const float* values = partials + i * partial_size() + 2 * LANES + h * span_.width();
                const float share = shares[i * LANES + h];
                for (int64_t c = 0; c < s_.C; ++c) row[c] = i ? std::fma(share, values[c], row[c]) : share * values[c];
            }
        }
    }

    const SpanShape s_;
    const Span span_;
    const int64_t H_, page_size_;
    const uint8_t *latent_, *k_rope_;
    std::vector<Query> queries_;
    std::vector<Task> tasks_;
    std::vector<uint8_t> lanes_;
    std::vector<float> partials_;
};

using Float32Span = std::conditional_t<MULTIPLIES_BF16, PlainSpan<Float32>, WideSpan<StoredFloat32>>;
using Bfloat16Span = std::conditional_t<MULTIPLIES_BF16, PlainSpan<Bfloat16>, WideSpan<StoredBfloat16>>;

}  // namespace

// q_latent [T, H, C], q_rope [T, H, R], out [T, H, C] in float32; pages [P, S, …] of latents and of keys, see `latents.h`.
void mla_decode(uintptr_t q_latent, uintptr_t q_rope, uintptr_t latent, uintptr_t k_rope, int kind,
                const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths, const std::vector<uintptr_t>& tables,
                int64_t H, int64_t C, int64_t R, int64_t page_size, float scale, uintptr_t out) {
    auto decode = [&]<class Span>(std::type_identity<Span>) {
        Absorbed<Span> absorbed({C, R, scale}, H, page_size, at<const uint8_t>(latent), at<const uint8_t>(k_rope));
        for (size_t b = 0; b < lengths.size(); ++b)
            for (int64_t t = starts[b]; t < starts[b + 1]; ++t)
                for (int64_t group = 0; group < absorbed.groups(); ++group) {
                    absorbed.add({t, group, lengths[b] - (starts[b + 1] - 1 - t), at<const int64_t>(tables[b]), 0});
                    if (absorbed.full()) absorbed.run(at<const float>(q_latent), at<const float>(q_rope), at<float>(out));
                }
        absorbed.run(at<const float>(q_latent), at<const float>(q_rope), at<float>(out));
    };
    switch (latents_of(kind)) {
        case Latents::f32: return decode(std::type_identity<Float32Span>());
        case Latents::bf16: return decode(std::type_identity<Bfloat16Span>());
        case Latents::int8: return decode(std::type_identity<Int8Span>());
        case Latents::e4m3: return decode(std::type_identity<Float8Span<E4m3, Bfloat16Span>>());
        case Latents::e5m2: return decode(std::type_identity<Float8Span<E5m2, Bfloat16Span>>());
    }
}

void bind_absorbed(nanobind::module_& m) { m.def("mla_decode", &mla_decode, Unlocked()); }

}  // namespace coderv2
