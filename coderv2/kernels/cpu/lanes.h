// Attention of sixteen queries at once, a lane each: sixteen heads of a token (absorbed form), or sixteen tokens of a head
// (expanded form). Keys come in spans; what the spans give is put together in order.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "simd.h"

namespace coderv2 {

constexpr int LANES = 16;
constexpr int SPAN = 256;    // keys
constexpr int COLUMNS = 16;  // columns that lie together where values are laid out

constexpr int WIDE = 32;     // columns whose sums are computed together where values stay as they lie
constexpr int HEADS = SUMS / 2;  // lanes that go together then

// How a number format is multiplied: float32 a column at a time, bfloat16 in pairs.
struct Float32 {
    using Number = float;
    static constexpr int STEP = 1;
    static Floats add(Floats sum, const uint8_t* lanes, const float* a) {
        return fused(load(reinterpret_cast<const float*>(lanes)), all(*a), sum);
    }
    static void set(uint8_t* lanes, const Floats* x) { store(reinterpret_cast<float*>(lanes), x[0]); }
    static void beside(const float* const* rows, float* to) { std::memcpy(to, rows[0], COLUMNS * sizeof(float)); }
    // Thirty-two columns of a step of rows, times the weights of some lanes from `weights` on.
    template <int COUNT>
    static void add_columns(Floats (&sums)[COUNT][2], const float* const* rows, int64_t c, const uint8_t* weights) {
        const Floats values[2] = {load(rows[0] + c), load(rows[0] + c + 16)};
        for (int lane = 0; lane < COUNT; ++lane) {
            const Floats weight = all(reinterpret_cast<const float*>(weights)[lane]);
            for (int half = 0; half < 2; ++half) sums[lane][half] = fused(values[half], weight, sums[lane][half]);
        }
    }
    // Sums of thirty-two columns into their order.
    static void ordered(const Floats* sums, float* to) { store(to, sums[0]), store(to + 16, sums[1]); }
    static void rounded(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }
};

struct Bfloat16 {
    using Number = uint16_t;
    static constexpr int STEP = 2;
    static Floats add(Floats sum, const uint8_t* lanes, const uint16_t* a) { return pairs(sum, load_bytes(lanes), a); }
    static void set(uint8_t* lanes, const Floats* x) { store_bytes(lanes, bf16_pairs(x[0], x[1])); }
    static void beside(const uint16_t* const* rows, uint16_t* to) {
        store_bytes(reinterpret_cast<uint8_t*>(to), paired(rows[0], rows[1]));
    }
    template <int COUNT>
    static void add_columns(Floats (&sums)[COUNT][2], const uint16_t* const* rows, int64_t c, const uint8_t* weights) {
        Bytes values[2];
        pair_columns(rows[0] + c, rows[1] + c, values);
        for (int lane = 0; lane < COUNT; ++lane) {
            const auto* weight = reinterpret_cast<const uint16_t*>(weights) + 2 * lane;
            for (int half = 0; half < 2; ++half) sums[lane][half] = pairs(sums[lane][half], values[half], weight);
        }
    }
    static void ordered(const Floats* sums, float* to) {
        float mixed[2 * LANES];
        store(mixed, sums[0]), store(mixed + LANES, sums[1]);
        for (int i = 0; i < WIDE; i += 4) std::memcpy(to + i, mixed + i % 8 / 4 * LANES + i / 8 * 4, 4 * sizeof(float));
    }
    static void rounded(const float* from, int64_t count, uint16_t* to) { to_bf16(from, count, to); }
};

template <class Kind>
constexpr int64_t steps_of(int64_t count) {
    return (count + Kind::STEP - 1) / Kind::STEP;
}

// Queries with a lane each, a step of columns to a vector: [steps][16]. Lanes without a query are zero.
template <class Kind>
void lay_out(const float* const* queries, int64_t width, uint8_t* to) {
    for (int64_t step = 0; step < steps_of<Kind>(width); ++step) {
        Floats columns[Kind::STEP];
        for (int place = 0; place < Kind::STEP; ++place) {
            const int64_t c = step * Kind::STEP + place;
            float lanes[LANES];
            for (int lane = 0; lane < LANES; ++lane) lanes[lane] = queries[lane] && c < width ? queries[lane][c] : 0;
            columns[place] = load(lanes);
        }
        Kind::set(to + 64 * step, columns);
    }
}

// Adds up the products of N keys with sixteen queries, in chains that take turns; the keys that come `next`, if any, are
// asked for meanwhile.
template <class Kind, int N>
inline void add_products(const uint8_t* queries, const typename Kind::Number* const* given,
                         const typename Kind::Number* const* next, int64_t width, Floats* sums) {
    using Number = typename Kind::Number;
    constexpr int64_t LINE = 64 / sizeof(Number), STEP = Kind::STEP, TURN = KEY_CHAINS * STEP;
    const Number* keys[N];
    Floats chains[KEY_CHAINS][N];  // the caller's might be anywhere, as far as the compiler knows; these stay in registers
    for (int n = 0; n < N; ++n) keys[n] = given[n], chains[0][n] = sums[n];
    for (int chain = 1; chain < KEY_CHAINS; ++chain)
        for (auto& sum : chains[chain]) sum = zeros();
    int64_t c = 0;
    for (; c + TURN <= width; c += TURN, queries += 64 * KEY_CHAINS) {
        if (next && c % LINE == 0)
            for (int n = 0; n < N; ++n) __builtin_prefetch(next[n] + c);
        for (int chain = 0; chain < KEY_CHAINS; ++chain)
            for (int n = 0; n < N; ++n)
                chains[chain][n] = Kind::add(chains[chain][n], queries + 64 * chain, keys[n] + c + STEP * chain);
    }
    for (; c + STEP <= width; c += STEP, queries += 64)
        for (int n = 0; n < N; ++n) chains[0][n] = Kind::add(chains[0][n], queries, keys[n] + c);
    for (int n = 0; n < N && c < width; ++n) {  // beside a row's odd last number lies another row, or nothing
        const Number last[STEP] = {keys[n][c]};
        chains[0][n] = Kind::add(chains[0][n], queries, last);
    }
    for (int n = 0; n < N; ++n) {
        sums[n] = chains[0][n];
        for (int chain = 1; chain < KEY_CHAINS; ++chain) sums[n] = plus(sums[n], chains[chain][n]);
    }
}

// Rows of values, the numbers of a step of rows beside each other, sixteen columns after sixteen: the order in which the
// sums stream through them. A row that is null counts as zeros; `width` is a multiple of 16.
template <class Kind>
void lay_values(const typename Kind::Number* const* rows, int64_t count, int64_t width, typename Kind::Number* to) {
    static const typename Kind::Number NOTHING[COLUMNS] = {};
    const int64_t steps = steps_of<Kind>(count);
    for (int64_t c = 0; c < width; c += COLUMNS)
        for (int64_t step = 0; step < steps; ++step) {
            const typename Kind::Number* beside[Kind::STEP];
            for (int place = 0; place < Kind::STEP; ++place) {
                const int64_t key = step * Kind::STEP + place;
                beside[place] = key < count ? rows[key] + c : NOTHING;
            }
            Kind::beside(beside, to + (c * steps + step * COLUMNS) * Kind::STEP);
        }
}

// One span's scores and weights.
template <class Kind>
class Weights {
public:
    float* scores(int64_t key) { return scores_ + key * LANES; }

    // Scores become e^(score - largest), laid out for the sums.
    void weigh(int64_t count, Floats* largest, Floats* sum) {
        *largest = load(scores_), *sum = zeros();
        for (int64_t i = 1; i < count; ++i) *largest = at_least(load(scores(i)), *largest);
        const Floats minus = times(*largest, all(-1.0f));
        for (int64_t step = 0; step < steps_of<Kind>(count); ++step) {
            Floats weights[2];  // the second is not looked at where a step is one key
            weights[0] = exponential(plus(load(scores(step * Kind::STEP)), minus));
            weights[1] = zeros();
            if (Kind::STEP == 2 && 2 * step + 1 < count) weights[1] = exponential(plus(load(scores(2 * step + 1)), minus));
            *sum = plus(*sum, plus(weights[0], weights[1]));
            Kind::set(weights_ + 64 * step, weights);
        }
    }

    // Weighted sums of the first `count` of `laid` values, as `lay_values` left them, [width][16].
    void sum_values(const typename Kind::Number* laid_values, int64_t laid, int64_t count, int64_t width, float* out) const {
        constexpr int PARTS = (COLUMNS + SUMS - 1) / SUMS;
        for (int64_t c = 0; c < width; c += COLUMNS)
            [&]<int... PART>(std::integer_sequence<int, PART...>) {
                (sum_part<COLUMNS * PART / PARTS, COLUMNS * (PART + 1) / PARTS>(
                     laid_values + c * steps_of<Kind>(laid) * Kind::STEP, count, out + c * LANES),
                 ...);
            }(std::make_integer_sequence<int, PARTS>());
    }

    // Weighted sums of `count` rows of values where these lie, [16][width]; `width` is a multiple of WIDE, and where a step
    // has more rows than there are, the last ones must be readable: their weights are zero.
    void sum_rows(const typename Kind::Number* const* rows, int64_t count, int64_t width, float* out) const {
        const int64_t steps = steps_of<Kind>(count);
        for (int64_t c = 0; c < width; c += WIDE)
            for (int head = 0; head < LANES; head += HEADS) {
                Floats sums[HEADS][2];
                for (auto& pair : sums) pair[0] = pair[1] = zeros();
                for (int64_t step = 0; step < steps; ++step)
                    Kind::add_columns(sums, rows + step * Kind::STEP, c, weights_ + 64 * step + 4 * head);
                for (int h = 0; h < HEADS; ++h) Kind::ordered(sums[h], out + (head + h) * width + c);
            }
    }

private:
    // Columns FIRST … END of sixteen.
    template <int FIRST, int END>
    void sum_part(const typename Kind::Number* values, int64_t count, float* out) const {
        Floats sums[END - FIRST];
        for (auto& sum : sums) sum = zeros();
        for (int64_t step = 0; step < steps_of<Kind>(count); ++step, values += COLUMNS * Kind::STEP)
            for (int i = FIRST; i < END; ++i)
                sums[i - FIRST] = Kind::add(sums[i - FIRST], weights_ + 64 * step, values + i * Kind::STEP);
        for (int i = FIRST; i < END; ++i) store(out + i * LANES, sums[i - FIRST]);
    }

    alignas(64) float scores_[SPAN * LANES];
    alignas(64) uint8_t weights_[SPAN * 64];
};

}  // namespace coderv2
