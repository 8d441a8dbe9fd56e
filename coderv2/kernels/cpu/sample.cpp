// From logits to tokens: the likeliest, and draws under temperature, min_p, top_k and top_p.
//
// What is right is defined in coderv2/kernels/drawing.py, and this gives the same bit by bit. A token's weight is a whole
// number, so sums of weights are exact in any order: that is why a few of the heaviest may be looked at here where the
// definition sorts them all. One pass finds the peak, one the weights; the rest looks at those chunks of the vocabulary
// whose sum says that they can hold one of the kept.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "bind.h"
#include "pool.h"
#include "simd.h"

namespace coderv2 {
namespace {

// Weight and token in one number that sorts: heavier above lighter, of equals the first token above.
using Key = uint64_t;
using Keys = std::vector<Key>;

constexpr int64_t CHUNK = 64;    // tokens whose weights are added up together
constexpr int64_t BLOCK = 1024;  // tokens whose peak is looked for together
constexpr float ONE = 0x1p35f;   // the weight of the likeliest
constexpr float STEP = 32;       // how much lighter what is looked at next may be
constexpr double COLDEST = 1e-30;  // temperature
constexpr double LOG2_E = 1.4426950408889634;
constexpr int BITS = 12;         // of keys that are looked at together
constexpr Key BUCKETS = 1 << BITS;
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct Peak {
    float value = NOTHING;
    int64_t id = 0;  // the first of equals
    bool finite = true;  // all of the row
};

// NaN counts as minus infinity. `scores` has a whole number of vectors.
float largest(const float* scores, int64_t count, float* poison) {
    Floats most = all(NOTHING), sum = zeros();
    for (int64_t i = 0; i < count; i += 16) {
        const Floats x = load(scores + i);
        most = at_least(x, most);
        sum = plus(sum, times(x, zeros()));
    }
    float lanes[16], poisons[16];
    store(lanes, most), store(poisons, sum);
    for (float one : poisons) *poison += one;
    return *std::max_element(lanes, lanes + 16);
}

Peak peak_of(const float* scores, int64_t W) {
    Peak peak;
    float poison = 0, rest[BLOCK];
    for (int64_t first = 0; first < W; first += BLOCK) {
        const int64_t count = std::min(BLOCK, W - first), whole = (count + 15) / 16 * 16;
        const float* block = scores + first;
        if (whole != count) {
            std::memcpy(rest, block, count * sizeof(float));
            std::fill(rest + count, rest + whole, block[0]);
            block = rest;
        }
        const float value = largest(block, whole, &poison);
        if (value > peak.value) peak.value = value, peak.id = first + (std::find(block, block + count, value) - block);
    }
    peak.finite = poison == 0;
    return peak;
}

// How a row's token is drawn, as Python lays it out.
struct Rule {
    double temperature, top_k, top_p, min_p, luck;
    bool cuts() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

// A row's weights, a chunk at a time.
class Row {
public:
    Row(const float* scores, int64_t W, float peak, float scale)
        : scores_(scores), W_(W), minus_peak_(all(-peak)), scale_(all(scale)) {}

    int64_t chunks() const { return (W_ + CHUNK - 1) / CHUNK; }

    void weigh(int64_t chunk, float* to) const {
        const float* scores = scores_ + chunk * CHUNK;
        float padded[CHUNK];
        if (const int64_t count = W_ - chunk * CHUNK; count < CHUNK) {
            std::memcpy(padded, scores, count * sizeof(float));
            std::fill(padded + count, padded + CHUNK, NOTHING);
            scores = padded;
        }
        for (int64_t i = 0; i < CHUNK; i += 16) store(to + i, weight(load(scores + i)));
    }

private:
    // Every product and sum is rounded by itself, as PyTorch does it; NaN weighs nothing.
    Floats weight(Floats score) const {
        const Floats x = at_least(times(plus(score, minus_peak_), scale_), all(-36.0f));
        const Floats whole = nearest(x), rest = plus(x, times(whole, all(-1.0f)));
        Floats power = all(1.32647273e-3f);
        for (float c : {9.67151299e-3f, 5.55073358e-2f, 0.240222424f, 0.693147004f, 1.0f}) power = plus(times(power, rest), all(c));
        return nearest(times(times(power, two_to(whole)), all(ONE)));
    }

    const float* scores_;
    int64_t W_;
    Floats minus_peak_, scale_;
};

double sum_of(const float* weights) {
    double lanes[8] = {};
    for (int64_t i = 0; i < CHUNK; i += 8)
        for (int lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(weights[i + lane]);
    double sum = 0;
    for (double lane : lanes) sum += lane;
    return sum;
}

Key key_of(float weight, int64_t id) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return static_cast<Key>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
double weight_of(Key key) {
    const uint32_t bits = static_cast<uint32_t>(key >> 32);
    float weight;
    std::memcpy(&weight, &bits, 4);
    return weight;
}
int64_t id_of(Key key) { return 0xffffffffu - static_cast<uint32_t>(key); }

double sum_of(const Keys& keys) {
    double sum = 0;
    for (Key key : keys) sum += weight_of(key);
    return sum;
}

// Where, heaviest first, the weights so far reach `target` (which they do), and what they have come to there. Looks at
// twelve bits of the keys at a time, and goes on with those keys that share the bits of the one that is sought.
std::pair<Key, double> reach(const Keys& all, double target) {
    thread_local Keys keys;
    keys = all;
    double before = 0;
    for (int shift = 52; keys.size() > 64; shift = std::max(shift - BITS, 0)) {
        const auto bucket_of = [shift](Key key) { return key >> shift & (BUCKETS - 1); };
        double masses[BUCKETS] = {};
        for (Key key : keys) masses[bucket_of(key)] += weight_of(key);
        Key bucket = BUCKETS - 1;
        while (bucket > 0 && before + masses[bucket] < target) before += masses[bucket--];
        std::erase_if(keys, [&](Key key) { return bucket_of(key) != bucket; });
    }
    std::sort(keys.begin(), keys.end(), std::greater<>());
    auto key = keys.begin();
    while (key + 1 < keys.end() && before + weight_of(*key) < target) before += weight_of(*key++);
    return {*key, before + weight_of(*key)};
}

// All tokens that weigh `least` or more.
void gather(const Row& row, const std::vector<double>& sums, float least, Keys& keys) {
    size_t count = 0;
    float weights[CHUNK];
    for (int64_t g = 0; g < row.chunks(); ++g) {
        if (sums[g] < least) continue;
        row.weigh(g, weights);
        if (keys.size() < count + CHUNK) keys.resize(2 * count + CHUNK);
        for (int64_t i = 0; i < CHUNK; ++i) {
            keys[count] = key_of(weights[i], g * CHUNK + i);
            count += weights[i] >= least;
        }
    }
    keys.resize(count);
}

// Leaves those that top_k and min_p keep, and says what top_p counts in: their weight, or `total` where they keep all.
// Minus one where tokens lighter than `least`, which are not here, may be kept too.
double cut(Keys& keys, const Rule& rule, float least, double total) {
    const double lightest = rule.min_p * ONE;
    const bool enough = rule.top_k > 0 && rule.top_k <= static_cast<double>(keys.size());
    if (enough) {
        const auto end = keys.begin() + static_cast<int64_t>(rule.top_k);
        std::nth_element(keys.begin(), end - 1, keys.end(), std::greater<>());
        keys.erase(end, keys.end());
    }
    std::erase_if(keys, [&](Key key) { return weight_of(key) < lightest; });
    const double mass = sum_of(keys);
    if (enough || lightest >= least || least <= 1) return mass;
    const bool all_kept = rule.top_k <= 0 && rule.min_p <= 0;
    return all_kept && mass >= rule.top_p * total ? total : -1;
}

int64_t draw_best(const Row& row, const std::vector<double>& sums, double total, const Rule& rule, Keys& keys) {
    double mass = -1;
    for (float least = ONE / STEP; mass < 0; least /= STEP) {
        gather(row, sums, least, keys);
        mass = cut(keys, rule, least, total);
    }
    const double end = rule.top_p < 1 ? reach(keys, rule.top_p * mass).second : mass;
    return id_of(reach(keys, std::floor(rule.luck * end) + 1).first);
}

// From all tokens, in the vocabulary's order.
int64_t draw_any(const Row& row, const std::vector<double>& sums, double total, const Rule& rule) {
    const double target = std::floor(rule.luck * total) + 1;
    int64_t g = 0, i = 0;
    double before = 0;
    while (before + sums[g] < target) before += sums[g++];
    float weights[CHUNK];
    row.weigh(g, weights);
    while (before + weights[i] < target) before += weights[i++];
    return g * CHUNK + i;
}

int64_t draw_one(const float* scores, int64_t W, const Rule& rule) {
    const Peak peak = peak_of(scores, W);
    if (!std::isfinite(peak.value)) return peak.id;
    thread_local std::vector<double> sums;
    thread_local Keys keys;
    const Row row(scores, W, peak.value, static_cast<float>(LOG2_E / std::max(rule.temperature, COLDEST)));
    sums.resize(row.chunks());
    float weights[CHUNK];
    double total = 0;
    for (int64_t g = 0; g < row.chunks(); ++g) {
        row.weigh(g, weights);
        total += sums[g] = sum_of(weights);
    }
    return rule.cuts() ? draw_best(row, sums, total, rule, keys) : draw_any(row, sums, total, rule);
}

// Rows [N, W], `stride` apart; ids [N], finite [N].
void peaks(uintptr_t scores, int64_t N, int64_t W, int64_t stride, uintptr_t ids, uintptr_t finite) {
    parallel(N, [&](int64_t n, int) {
        const Peak peak = peak_of(at<const float>(scores) + n * stride, W);
        at<int64_t>(ids)[n] = peak.id, at<bool>(finite)[n] = peak.finite;
    });
}

// A row [W] at each address; rules [N, 5]; ids [N].
void draw(const std::vector<uintptr_t>& rows, int64_t W, uintptr_t rules, uintptr_t ids) {
    parallel(static_cast<int64_t>(rows.size()), [&](int64_t n, int) {
        at<int64_t>(ids)[n] = draw_one(at<const float>(rows[n]), W, at<const Rule>(rules)[n]);
    });
}

}  // namespace

void bind_sample(nanobind::module_& m) {
    m.def("peaks", &peaks, Unlocked());
    m.def("draw", &draw, Unlocked());
}

}  // namespace coderv2
