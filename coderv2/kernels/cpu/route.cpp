// From the router's products to each token's experts: softmax, the best groups, the best experts among them.
#include <algorithm>
#include <vector>

#include "bind.h"
#include "operations.h"
#include "pool.h"
#include "simd.h"

namespace coderv2 {
namespace {

constexpr int64_t PER_TASK = 8;  // tokens

void softmax(float* x, int64_t count) {
    const float most = *std::max_element(x, x + count);
    thread_local std::vector<float> padded;
    padded.assign((count + 15) / 16 * 16, -INFINITY);
    std::copy_n(x, count, padded.data());
    float lanes[16] = {}, sum = 0;
    for (size_t i = 0; i < padded.size(); i += 16) {
        store(&padded[i], exponential(plus(load(&padded[i]), all(-most))));
        const int64_t here = std::min<int64_t>(16, count - static_cast<int64_t>(i));
        for (int64_t lane = 0; lane < here; ++lane) lanes[lane] += padded[i + lane];
    }
    for (float lane : lanes) sum += lane;
    for (int64_t i = 0; i < count; ++i) x[i] = padded[i] / sum;
}

// The best of `x` that is not taken, the first of equal ones; where none compares, the first.
int64_t best(const float* x, const std::vector<char>& taken) {
    int64_t found = -1;
    for (size_t i = 0; i < taken.size(); ++i)
        if (!taken[i] && (found < 0 || x[i] > x[found])) found = static_cast<int64_t>(i);
    return found;
}

// Marks all but the best `kept` of `groups` groups; a group is as good as its best expert.
void drop_groups(const float* scores, int64_t E, int64_t groups, int64_t kept, std::vector<char>& taken) {
    const int64_t size = E / groups;
    std::vector<float> of_group(groups);
    for (int64_t g = 0; g < groups; ++g) of_group[g] = *std::max_element(scores + g * size, scores + (g + 1) * size);
    std::vector<char> chosen(groups);
    for (int64_t k = 0; k < kept; ++k) chosen[best(of_group.data(), chosen)] = 1;
    for (int64_t e = 0; e < E; ++e) taken[e] = !chosen[e / size];
}

}  // namespace

// scores [T, E]: products in, affinities out; weights and experts [T, K].
void route(uintptr_t scores_at, int64_t T, int64_t E, int64_t K, int64_t groups, int64_t kept, bool renormalise, float factor,
           uintptr_t weights_at, uintptr_t experts_at) {
    parallel((T + PER_TASK - 1) / PER_TASK, [&](int64_t task, int) {
        std::vector<char> taken(E);
        for (int64_t t = task * PER_TASK; t < std::min(T, (task + 1) * PER_TASK); ++t) {
            float *scores = at<float>(scores_at) + t * E, *weights = at<float>(weights_at) + t * K, sum = 0;
            int64_t* chosen = at<int64_t>(experts_at) + t * K;
            softmax(scores, E);
            std::fill(taken.begin(), taken.end(), 0);
            if (kept < groups) drop_groups(scores, E, groups, kept, taken);
            for (int64_t k = 0; k < K; ++k) {
                chosen[k] = best(scores, taken);
                taken[chosen[k]] = 1;
                sum += weights[k] = scores[chosen[k]];
            }
            for (int64_t k = 0; k < K; ++k) weights[k] = renormalise ? weights[k] / (sum + 1e-20f) : weights[k] * factor;
        }
    });
}

void bind_route(nanobind::module_& m) { m.def("route", &route, Unlocked()); }

}  // namespace coderv2
