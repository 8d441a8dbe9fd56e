// One span of keys and sixteen heads of one query, in the cache's own numbers: float32, or bfloat16 whose products are added
// up in float32.
#pragma once

#include "lanes.h"

namespace coderv2 {

// Keys from one whose score is computed to one that is asked for: the time in which memory answers.
constexpr int FAR = 2 * KEYS;
static_assert(FAR >= 3);  // latents that may have to fill up a step of keys

// Latents are C numbers wide and rotated keys R, each row of either where its address says.
struct SpanShape {
    int64_t C, R;
    float scale;
};

template <class Kind>
class PlainSpan {
    using Number = typename Kind::Number;

public:
    explicit PlainSpan(const SpanShape& shape) : s_(shape) {}

    int64_t width() const { return (s_.C + WIDE - 1) / WIDE * WIDE; }
    int64_t latent_bytes() const { return s_.C * sizeof(Number); }
    int64_t rope_bytes() const { return s_.R * sizeof(Number); }
    int64_t query_bytes() const { return (steps_of<Kind>(s_.C) + steps_of<Kind>(s_.R)) * 64; }

    // Sixteen heads' queries, null where there are fewer.
    void lay(const float* const* latents, const float* const* ropes, uint8_t* to) const {
        lay_out<Kind>(latents, s_.C, to);
        lay_out<Kind>(ropes, s_.R, rope_lanes(to));
    }

    // Maxima [16], sums [16] and weighted latents [16][width]; FAR more rows than there are keys are asked for, and their
    // addresses may be lost.
    void attend(const uint8_t* query, const uint8_t** latent_rows, const uint8_t** rope_rows, int64_t keys, float* out) const {
        auto latents = reinterpret_cast<const Number**>(latent_rows), ropes = reinterpret_cast<const Number**>(rope_rows);
        thread_local Weights<Kind> weights;
        for (int64_t i = 0; i + KEYS <= keys; i += KEYS)
            score<KEYS>(query, latents + i, ropes + i, weights.scores(i));
        for (int64_t i = keys / KEYS * KEYS; i < keys; ++i) score<1>(query, latents + i, ropes + i, weights.scores(i));
        Floats largest, sum;
        weights.weigh(keys, &largest, &sum);
        store(out, largest);
        store(out + LANES, sum);
        pad(latents, keys);
        weights.sum_rows(latents, keys, width(), out + 2 * LANES);
    }

private:
    template <typename Byte>
    Byte* rope_lanes(Byte* query) const {
        return query + steps_of<Kind>(s_.C) * 64;
    }

    template <int N>
    void score(const uint8_t* query, const Number* const* latents, const Number* const* ropes, float* scores) const {
        Floats sums[N];
        for (auto& sum : sums) sum = zeros();
        add_products<Kind, N>(query, latents, latents + FAR, s_.C, sums);
        add_products<Kind, N>(rope_lanes(query), ropes, ropes + FAR, s_.R, sums);
        for (int n = 0; n < N; ++n) store(scores + n * LANES, times(sums[n], all(s_.scale)));
    }

    // Latents whose width is no multiple of 32 are copied to where zeros follow them; beside an odd last one lies itself.
    void pad(const Number** latents, int64_t keys) const {
        thread_local std::vector<Number> wide;
        if (width() != s_.C) {
            wide.assign(keys * width(), 0);
            for (int64_t i = 0; i < keys; ++i) {
                std::memcpy(wide.data() + i * width(), latents[i], s_.C * sizeof(Number));
                latents[i] = wide.data() + i * width();
            }
        }
        latents[keys] = latents[keys - 1];
    }

    const SpanShape s_;
};

}  // namespace coderv2
