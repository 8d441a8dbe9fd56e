// One span of keys and sixteen heads of one query where nothing smaller than float32 is multiplied sooner: the cache's
// numbers are widened as they are read.
#pragma once

#include "span.h"

namespace coderv2 {

// Numbers as the cache has them: `count` from column `first` of a row on, `to` float32.
struct StoredFloat32 {
    using Number = float;
    static void widen(const float* row, int64_t first, int64_t count, float* to) {
        std::memcpy(to, row + first, count * sizeof(float));
    }
};

struct StoredBfloat16 {
    using Number = uint16_t;
    static void widen(const uint16_t* row, int64_t first, int64_t count, float* to) {
        int64_t i = 0;
        for (; i + 16 <= count; i += 16) store(to + i, load_bf16(row + first + i));
        for (; i < count; ++i) to[i] = from_bfloat16(row[first + i]);
    }
};

template <class Stored>
class WideSpan {
    using Number = typename Stored::Number;

public:
    explicit WideSpan(const SpanShape& shape) : s_(shape) {}

    int64_t width() const { return (s_.C + COLUMNS - 1) / COLUMNS * COLUMNS; }
    int64_t latent_bytes() const { return s_.C * sizeof(Number); }
    int64_t rope_bytes() const { return s_.R * sizeof(Number); }
    int64_t query_bytes() const { return (s_.C + s_.R) * 64; }

    // Sixteen heads' queries, null where there are fewer.
    void lay(const float* const* latents, const float* const* ropes, uint8_t* to) const {
        lay_out<Float32>(latents, s_.C, to);
        lay_out<Float32>(ropes, s_.R, to + s_.C * 64);
    }

    // As PlainSpan's.
    void attend(const uint8_t* query, const uint8_t** latents, const uint8_t** ropes, int64_t keys, float* out) const {
        thread_local Weights<Float32> weights;
        thread_local std::vector<float> room;
        room.resize(std::max<int64_t>(KEYS * (s_.C + s_.R), SPAN * COLUMNS));
        int64_t i = 0;
        for (; i + KEYS <= keys; i += KEYS) score<KEYS>(query, latents + i, ropes + i, room.data(), weights.scores(i));
        for (; i < keys; ++i) score<1>(query, latents + i, ropes + i, room.data(), weights.scores(i));
        Floats largest, sum;
        weights.weigh(keys, &largest, &sum);
        store(out, largest);
        store(out + LANES, sum);
        for (int64_t c = 0; c < s_.C; c += COLUMNS) {
            lay_columns(latents, keys, c, room.data());
            sum_columns(weights, room.data(), keys, out + 2 * LANES + c);
        }
    }

private:
    static const Number* numbers(const uint8_t* row) { return reinterpret_cast<const Number*>(row); }

    template <int N>
    void score(const uint8_t* query, const uint8_t* const* latents, const uint8_t* const* ropes, float* room,
               float* scores) const {
        const float *wide_latents[N], *wide_ropes[N];
        for (int n = 0; n < N; ++n, room += s_.C + s_.R) {
            for (int64_t at = 0; at < latent_bytes(); at += 64) __builtin_prefetch(latents[FAR + n] + at);
            __builtin_prefetch(ropes[FAR + n]);
            Stored::widen(numbers(latents[n]), 0, s_.C, room);
            Stored::widen(numbers(ropes[n]), 0, s_.R, room + s_.C);
            wide_latents[n] = room, wide_ropes[n] = room + s_.C;
        }
        Floats sums[N];
        for (auto& sum : sums) sum = zeros();
        add_products<Float32, N>(query, wide_latents, nullptr, s_.C, sums);
        add_products<Float32, N>(query + s_.C * 64, wide_ropes, nullptr, s_.R, sums);
        for (int n = 0; n < N; ++n) store(scores + n * LANES, times(sums[n], all(s_.scale)));
    }

    // Sixteen columns of all keys, [keys][16]; what lies beyond a row's end is of no account.
    void lay_columns(const uint8_t* const* latents, int64_t keys, int64_t c, float* to) const {
        const int64_t count = std::min<int64_t>(COLUMNS, s_.C - c);
        if (count == COLUMNS)  // known to the compiler: nearly always
            for (int64_t i = 0; i < keys; ++i) Stored::widen(numbers(latents[i]), c, COLUMNS, to + i * COLUMNS);
        else
            for (int64_t i = 0; i < keys; ++i) Stored::widen(numbers(latents[i]), c, count, to + i * COLUMNS);
    }

    // Their weighted sums, a head's `width` apart.
    void sum_columns(const Weights<Float32>& weights, const float* columns, int64_t keys, float* out) const {
        alignas(64) float sums[COLUMNS * LANES];
        weights.sum_values(columns, keys, keys, COLUMNS, sums);
        for (int lane = 0; lane < LANES; ++lane)
            for (int c = 0; c < COLUMNS; ++c) out[lane * width() + c] = sums[c * LANES + lane];
    }

    const SpanShape s_;
};

}  // namespace coderv2
