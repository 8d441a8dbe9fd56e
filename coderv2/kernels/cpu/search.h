// Scales for rounding, found by weighted least squares over several tries, sixteen groups of columns side by side: bit
// for bit what coderv2/kernels/ggml_encode.py does in PyTorch, which says what is sought.
#pragma once

#include <cmath>

#include "float16.h"
#include "simd.h"

namespace coderv2 {

constexpr int ABREAST = 16;  // groups
constexpr int TRIES = 9;

// Each of sixteen groups of COLUMNS numbers in a lane of its own.
template <int COLUMNS>
struct Groups {
    alignas(64) float x[COLUMNS][ABREAST];

    explicit Groups(const float* rows) {
        for (int i = 0; i < COLUMNS; ++i)
            for (int g = 0; g < ABREAST; ++g) x[i][g] = rows[g * COLUMNS + i];
    }
};

// Sixteen sums, each in four parts that are added at the end: the order that the definition adds in.
class Sum {
public:
    template <int PART>
    void add(Floats x) {
        part_[PART] = plus(part_[PART], x);
    }
    void store_to(float* sums) const { store(sums, plus(plus(part_[0], part_[1]), plus(part_[2], part_[3]))); }

private:
    Floats part_[4] = {zeros(), zeros(), zeros(), zeros()};
};

// visit<i % 4>(i) for each column.
template <int COLUMNS, typename Visit>
inline void each_column(Visit visit) {
    for (int i = 0; i < COLUMNS; i += 4) {
        visit.template operator()<0>(i);
        visit.template operator()<1>(i + 1);
        visit.template operator()<2>(i + 2);
        visit.template operator()<3>(i + 3);
    }
}

inline Floats minus(Floats a, Floats b) { return plus(a, times(b, all(-1.0f))); }
inline Floats magnitude(Floats x) { return at_least(x, times(x, all(-1.0f))); }
inline Floats whole(Floats x, float least, float most) { return nearest(at_least(at_most(x, all(most)), all(least))); }

// Quants of a try, columns outermost, and what is searched for in the lanes of `Groups`.
template <int COLUMNS>
class Search {
public:
    explicit Search(const float* rows) : groups_(rows) {
        for (float& error : least_) error = INFINITY;
    }

    // The scale of each group for quants from -half to half - 1, the largest number put at -half.
    void symmetric(int half, float* scales) {
        float largest[ABREAST], per[ABREAST], scale[ABREAST], wqx[ABREAST], wqq[ABREAST], error[ABREAST];
        farthest(largest);
        for (int i = 0; i < COLUMNS; ++i) store(weights_[i], times(column(i), column(i)));
        for (int g = 0; g < ABREAST; ++g) scales[g] = largest[g] / static_cast<float>(-half);
        for (int step = 0; step < TRIES; ++step) {
            const auto factor = static_cast<float>(-(half + 0.2 * (step - TRIES / 2)));
            for (int g = 0; g < ABREAST; ++g) per[g] = inverse(largest[g]) * factor;
            round_by(per, nullptr, static_cast<float>(-half), static_cast<float>(half - 1), nullptr, wqx, wqq);
            for (int g = 0; g < ABREAST; ++g) scale[g] = wqx[g] * inverse(wqq[g]);
            errors<false>(scale, nullptr, error);
            for (int g = 0; g < ABREAST; ++g) {
                const bool better = error[g] < least_[g];
                least_[g] = better ? error[g] : least_[g];
                scales[g] = better ? scale[g] : scales[g];
            }
        }
    }

    // Scale and minimum of each group for quants from 0 to `most`; what is taken off is at least 0 unless `is_signed`.
    void with_minimum(int most, bool is_signed, float* scales, float* minima) {
        float low[ABREAST], high[ABREAST], per[ABREAST], error[ABREAST];
        float w[ABREAST], wx[ABREAST], wq[ABREAST], wqx[ABREAST], wqq[ABREAST];
        range(low, high, is_signed);
        weigh(w, wx);
        for (int g = 0; g < ABREAST; ++g) {
            scales[g] = (high[g] - low[g]) / static_cast<float>(most);
            minima[g] = -low[g];
        }
        for (int step = 0; step < TRIES; ++step) {
            const auto factor = static_cast<float>(most + 0.2 * (step - TRIES / 2));
            float slope[ABREAST], offset[ABREAST];
            for (int g = 0; g < ABREAST; ++g) per[g] = inverse(high[g] - low[g]) * factor;
            round_by(per, low, 0, static_cast<float>(most), wq, wqx, wqq);
            for (int g = 0; g < ABREAST; ++g) {
                const float by = inverse(w[g] * wqq[g] - wq[g] * wq[g]);
                slope[g] = (w[g] * wqx[g] - wq[g] * wx[g]) * by;
                offset[g] = (wqq[g] * wx[g] - wq[g] * wqx[g]) * by;
                const bool through_zero = !is_signed && offset[g] > 0;
                slope[g] = through_zero ? wqx[g] * inverse(wqq[g]) : slope[g];
                offset[g] = through_zero ? 0 : offset[g];
            }
            errors<true>(slope, offset, error);
            for (int g = 0; g < ABREAST; ++g) {
                const bool better = slope[g] > 0 && error[g] < least_[g];
                least_[g] = better ? error[g] : least_[g];
                scales[g] = better ? slope[g] : scales[g];
                minima[g] = better ? -offset[g] : minima[g];
            }
        }
    }

private:
    Floats column(int i) const { return load(groups_.x[i]); }

    // The number of largest magnitude, the first of several.
    void farthest(float* largest) const {
        for (int g = 0; g < ABREAST; ++g) largest[g] = groups_.x[0][g];
        for (int i = 1; i < COLUMNS; ++i)
            for (int g = 0; g < ABREAST; ++g)
                largest[g] = std::fabs(groups_.x[i][g]) > std::fabs(largest[g]) ? groups_.x[i][g] : largest[g];
    }

    void range(float* low, float* high, bool is_signed) const {
        Floats least = is_signed ? column(0) : at_most(column(0), zeros()), most = column(0);
        for (int i = 1; i < COLUMNS; ++i) least = at_most(least, column(i)), most = at_least(most, column(i));
        store(low, least);
        store(high, most);
    }

    // Large numbers count more; the sums of the weights, and of weight times number.
    void weigh(float* w, float* wx) {
        Sum squares, weights, weighted;
        float mean[ABREAST];
        each_column<COLUMNS>([&]<int PART>(int i) { squares.add<PART>(times(column(i), column(i))); });
        squares.store_to(mean);
        for (float& x : mean) x = std::sqrt(x / COLUMNS);
        each_column<COLUMNS>([&]<int PART>(int i) {
            const Floats weight = plus(magnitude(column(i)), load(mean));
            store(weights_[i], weight);
            weights.add<PART>(weight);
            weighted.add<PART>(times(weight, column(i)));
        });
        weights.store_to(w);
        weighted.store_to(wx);
    }

    // Quants of (x - low) · per, and the sums that a least-squares line goes by; `wq` may be left out.
    void round_by(const float* per, const float* low, float least, float most, float* wq, float* wqx, float* wqq) {
        const Floats by = load(per), from = low ? load(low) : zeros();
        Sum with_weight, with_number, with_itself;
        each_column<COLUMNS>([&]<int PART>(int i) {
            const Floats x = column(i), quant = whole(times(minus(x, from), by), least, most);
            const Floats weighted = times(load(weights_[i]), quant);
            store(quants_[i], quant);
            with_weight.add<PART>(weighted);
            with_number.add<PART>(times(weighted, x));
            with_itself.add<PART>(times(weighted, quant));
        });
        if (wq) with_weight.store_to(wq);
        with_number.store_to(wqx);
        with_itself.store_to(wqq);
    }

    template <bool OFFSET>
    void errors(const float* scale, const float* offset, float* error) const {
        const Floats by = load(scale), more = OFFSET ? load(offset) : zeros();
        Sum sum;
        each_column<COLUMNS>([&]<int PART>(int i) {
            Floats rounded = times(load(quants_[i]), by);
            if constexpr (OFFSET) rounded = plus(rounded, more);
            const Floats apart = minus(rounded, column(i));
            sum.add<PART>(times(times(apart, apart), load(weights_[i])));
        });
        sum.store_to(error);
    }

    Groups<COLUMNS> groups_;
    alignas(64) float weights_[COLUMNS][ABREAST], quants_[COLUMNS][ABREAST];
    float least_[ABREAST];  // error so far
};

}  // namespace coderv2
