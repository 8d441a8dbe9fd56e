// One span of keys and sixteen heads of one query, over a cache in int8: a row is its numbers, filled up to fours, then what
// a step is worth (float32) and their sum (int32), see `latents.py`.
//
// Queries and weights become int8 too, each with one scale for a head. A head's weights are rounded in turn, each
// taking over what was lost before it: the many small ones of a long context would all be zero otherwise.
#pragma once

#include "lanes.h"
#include "rows.h"
#include "span.h"

namespace coderv2 {

constexpr int64_t whole_fours(int64_t width) { return (width + 3) / 4 * 4; }
constexpr int64_t int8_row_bytes(int64_t width) { return whole_fours(width) + 8; }

// An int8 row's last eight bytes.
struct Trailer {
    float step;
    int32_t sum;

    static Trailer of(const uint8_t* row, int64_t width) {
        Trailer trailer;
        std::memcpy(&trailer, row + whole_fours(width), sizeof trailer);
        return trailer;
    }
};

inline void store_int8_row(const float* x, int64_t width, uint8_t* to) {
    Trailer trailer;
    std::memset(to, 0, whole_fours(width));
    trailer.step = to_int8(x, width, reinterpret_cast<int8_t*>(to), &trailer.sum);
    std::memcpy(to + whole_fours(width), &trailer, sizeof trailer);
}

class Int8Span {
    static constexpr int TOGETHER = KEYS;           // keys whose scores are computed together
    static constexpr int COLUMNS_64 = 4 * COLUMNS;  // columns whose sums are

public:
    explicit Int8Span(const SpanShape& shape) : s_(shape) {}

    int64_t width() const { return (s_.C + COLUMNS_64 - 1) / COLUMNS_64 * COLUMNS_64; }
    int64_t latent_bytes() const { return int8_row_bytes(s_.C); }
    int64_t rope_bytes() const { return int8_row_bytes(s_.R); }
    int64_t query_bytes() const { return 2 * STEPS_AT + 16 * (whole_fours(s_.C) + whole_fours(s_.R)); }

    void lay(const float* const* latents, const float* const* ropes, uint8_t* to) const {
        lay_part(latents, s_.C, s_.scale, to, to + 2 * STEPS_AT);
        lay_part(ropes, s_.R, s_.scale, to + STEPS_AT, to + 2 * STEPS_AT + 16 * whole_fours(s_.C));
    }

    void attend(const uint8_t* query, const uint8_t** latents, const uint8_t** ropes, int64_t keys, float* out) const {
        thread_local Memory m;
        for (int64_t i = 0; i + TOGETHER <= keys; i += TOGETHER)
            score<TOGETHER>(query, latents + i, ropes + i, m.scores + i * LANES);
        for (int64_t i = keys / TOGETHER * TOGETHER; i < keys; ++i)
            score<1>(query, latents + i, ropes + i, m.scores + i * LANES);
        weigh(latents, keys, m, out);
        for (int64_t i = keys; i < whole_fours(keys); ++i) latents[i] = latents[keys - 1];  // their weights are zero
        for (int64_t c = 0; c < width(); c += COLUMNS_64) {
            lay_columns(latents, keys, c, m.columns);
            for (int head = 0; head < LANES; head += MIXED_HEADS)
                for (int v = 0; v < 4; v += MIXED_VALUES) sum_columns(keys, head, v, m, out + 2 * LANES + c, width());
        }
    }

private:
    static constexpr int64_t STEPS_AT = 64;  // bytes of sixteen heads' steps, before the queries themselves

    struct Memory {
        alignas(64) float scores[SPAN * LANES];
        alignas(64) uint8_t weights[SPAN * LANES];         // [fours of keys][16][4]
        alignas(64) uint8_t columns[SPAN * COLUMNS_64];    // [fours of keys][4 · 16 columns][4], 128 more than they are
        alignas(64) float back[LANES];                     // what a step of a head's weights is worth
        alignas(64) int32_t minus[LANES];                  // 128 times their sum, less than zero
    };

    // Heads' steps, times `scale`, and their numbers with 128 added, [fours][16][4].
    static void lay_part(const float* const* heads, int64_t width, float scale, uint8_t* steps, uint8_t* to) {
        thread_local std::vector<int8_t> row;
        row.assign(whole_fours(width), 0);
        float worth[LANES] = {};
        std::memset(to, 128, 16 * whole_fours(width));
        for (int lane = 0; lane < LANES && heads[lane]; ++lane) {
            int32_t sum;
            worth[lane] = scale * to_int8(heads[lane], width, row.data(), &sum);
            for (auto& number : row) number ^= -128;
            for (size_t i = 0; i < row.size(); i += 4) std::memcpy(to + 16 * i + 4 * lane, row.data() + i, 4);
        }
        std::memcpy(steps, worth, sizeof worth);
    }

    // Products of N keys' columns from `c` on, four to a step. Out of line, its sums would lie in memory.
    template <int N, int... STEP>
    [[gnu::always_inline]] static void add_steps(const uint8_t* query, const int8_t* const* keys, int64_t c, Dots<8>* dots,
                                                 std::integer_sequence<int, STEP...>) {
        auto add = [&]<int S>(std::integral_constant<int, S>) {
            const Bytes lanes = load_bytes(query + 64 * S);
            for (int n = 0; n < N; ++n) dots[n].template add<0>(lanes, spread_step<S>(keys[n] + c));
        };
        (add(std::integral_constant<int, STEP>()), ...);
    }

    // Sums of N keys' products with sixteen heads, times what both steps are worth.
    template <int N>
    static void add_part(const uint8_t* steps, const uint8_t* query, const uint8_t* const* given, int64_t width,
                         Floats* sums) {
        const int8_t* keys[N];
        Dots<8> dots[N];
        for (int n = 0; n < N; ++n) {
            keys[n] = reinterpret_cast<const int8_t*>(given[n]);
            dots[n] = Dots<8>(-128 * Trailer::of(given[n], width).sum);
        }
        int64_t c = 0;
        for (; c + 64 <= width; c += 64) {
            for (int n = 0; n < N; ++n) __builtin_prefetch(given[FAR + n] + c + 64);
            add_steps<N>(query + 16 * c, keys, c, dots, std::make_integer_sequence<int, 16>());
        }
        for (; c < width; c += 4) {
            const Bytes lanes = load_bytes(query + 16 * c);
            for (int n = 0; n < N; ++n) dots[n].template add<0>(lanes, spread(keys[n] + c));
        }
        for (int n = 0; n < N; ++n) __builtin_prefetch(given[FAR + n]);
        for (int n = 0; n < N; ++n) {
            const Floats worth = times(load(reinterpret_cast<const float*>(steps)), all(Trailer::of(given[n], width).step));
            sums[n] = fused(to_floats(dots[n].sum()), worth, sums[n]);
        }
    }

    template <int N>
    void score(const uint8_t* query, const uint8_t* const* latents, const uint8_t* const* ropes, float* to) const {
        Floats sums[N];
        for (auto& sum : sums) sum = zeros();
        const uint8_t* lanes = query + 2 * STEPS_AT;
        add_part<N>(query, lanes, latents, s_.C, sums);
        add_part<N>(query + STEPS_AT, lanes + 16 * whole_fours(s_.C), ropes, s_.R, sums);
        for (int n = 0; n < N; ++n) store(to + n * LANES, sums[n]);
    }

    // Scores become weights e^(score - largest) times what the key's step is worth, in whole numbers up to 127.
    void weigh(const uint8_t* const* latents, int64_t keys, Memory& m, float* out) const {
        Floats largest = load(m.scores), sum = zeros(), most = zeros();
        for (int64_t i = 1; i < keys; ++i) largest = at_least(load(m.scores + i * LANES), largest);
        const Floats minus = times(largest, all(-1.0f));
        for (int64_t i = 0; i < keys; ++i) {
            const Floats weight = exponential(plus(load(m.scores + i * LANES), minus));
            sum = plus(sum, weight);
            const Floats share = times(weight, all(Trailer::of(latents[i], s_.C).step));
            most = at_least(share, most);
            store(m.scores + i * LANES, share);
        }
        store(out, largest);
        store(out + LANES, sum);
        store(m.back, times(most, all(1.0f / 127)));
        round_weights(keys, most, m);
    }

    static void round_weights(int64_t keys, Floats most, Memory& m) {
        // Smaller ones than this are zero: 127 divided by them would overflow.
        const Floats inverse = divided(all(127), at_least(most, all(1e-30f)));
        Floats lost[2] = {zeros(), zeros()}, total = zeros();
        for (int64_t i = keys; i < whole_fours(keys); ++i) store(m.scores + i * LANES, zeros());
        for (int64_t i = 0; i < keys; i += 4) {
            Floats whole[4];
            for (int j = 0; j < 4; ++j) {
                Floats& rest = lost[j % 2];  // two chains, since one is as long as all its steps
                const Floats wanted = fused(load(m.scores + (i + j) * LANES), inverse, rest);
                whole[j] = i + j < keys ? at_least(at_most(nearest(wanted), all(127)), zeros()) : zeros();
                rest = fused(whole[j], all(-1.0f), wanted);
                total = plus(total, whole[j]);
            }
            store_bytes(m.weights + 16 * i, four_bytes(whole));
        }
        float totals[LANES];
        store(totals, total);
        for (int lane = 0; lane < LANES; ++lane) m.minus[lane] = -128 * static_cast<int32_t>(totals[lane]);
    }

    // Sixty-four columns of all keys, four keys beside each other; the keys go on to a whole four.
    void lay_columns(const uint8_t* const* latents, int64_t keys, int64_t c, uint8_t* to) const {
        if (c + COLUMNS_64 <= s_.C) {
#pragma GCC unroll 2
            for (int64_t i = 0; i < keys; i += 4) lay_fours(latents + i, c, to + i * COLUMNS_64);
            return;
        }
        uint8_t rest[4][COLUMNS_64] = {};
        for (int64_t i = 0; i < keys; i += 4) {
            const uint8_t* rows[4];
            for (int j = 0; j < 4; ++j) rows[j] = static_cast<uint8_t*>(std::memcpy(rest[j], latents[i + j] + c, s_.C - c));
            lay_fours(rows, 0, to + i * COLUMNS_64);
        }
    }

    static void lay_fours(const uint8_t* const* rows, int64_t c, uint8_t* to) {
        Bytes beside[4];
        four_rows(rows, c, beside);
        for (int v = 0; v < 4; ++v) store_bytes(to + 64 * v, beside[v]);
    }

    // Of some vectors of the sixty-four columns laid out, from `first` on, for some heads; a head's results are `stride`
    // apart.
    static void sum_columns(int64_t keys, int head, int first, const Memory& m, float* out, int64_t stride) {
        Dots<8> sums[MIXED_HEADS][MIXED_VALUES];
        for (int h = 0; h < MIXED_HEADS; ++h)
            for (auto& sum : sums[h]) sum = Dots<8>(m.minus[head + h]);
        const uint8_t* columns = m.columns + 64 * first;
        const auto* weights = reinterpret_cast<const int8_t*>(m.weights) + 4 * head;
        const uint8_t* const end = columns + whole_fours(keys) * COLUMNS_64;
#pragma GCC unroll 4
        for (; columns < end; columns += 4 * COLUMNS_64, weights += 64) {
            Bytes values[MIXED_VALUES];
            for (int v = 0; v < MIXED_VALUES; ++v) values[v] = load_bytes(columns + 64 * v);
            [&]<int... H>(std::integer_sequence<int, H...>) {
                (add_head(sums[H], values, spread_step<H>(weights)), ...);
            }(std::make_integer_sequence<int, MIXED_HEADS>());
        }
        for (int h = 0; h < MIXED_HEADS; ++h)
            for (int v = 0; v < MIXED_VALUES; ++v) {
                float mixed[LANES], *row = out + (head + h) * stride + 4 * (first + v);
                store(mixed, times(to_floats(sums[h][v].sum()), all(m.back[head + h])));
                for (int i = 0; i < LANES; i += 4) std::memcpy(row + 4 * i, mixed + i, 4 * sizeof(float));
            }
    }

    template <class Weights>
    static void add_head(Dots<8> (&sums)[MIXED_VALUES], const Bytes* values, Weights four) {
        for (int v = 0; v < MIXED_VALUES; ++v) sums[v].template add<0>(values[v], four);
    }

    const SpanShape s_;
};

}  // namespace coderv2
