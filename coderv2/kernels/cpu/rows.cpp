#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "simd.h"
#include "tiles.h"

namespace coderv2 {
namespace {

// Below this a superblock counts as zero: 127 divided by it would overflow.
constexpr float TINY = 1e-30f;

float largest(const float* x, int count) {  // NaN where any is not finite
    float most[16] = {}, poison[16] = {};
    auto look = [&](int lane, float value) {
        const float size = std::fabs(value);
        most[lane] = most[lane] < size ? size : most[lane];
        poison[lane] += value * 0;
    };
    int i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; ++lane) look(lane, x[i + lane]);
    for (int lane = 0; i + lane < count; ++lane) look(lane, x[i + lane]);
    float all = 0, bad = 0;
    for (int lane = 0; lane < 16; ++lane) all = std::max(all, most[lane]), bad += poison[lane];
    return all + bad;
}

// Whole groups of int8 numbers, zeros after the last; sums of each sixteen; returns what a step is worth.
float round_span(const float* x, int count, int8_t* to, int32_t* sums) {
    const float most = largest(x, count);
    const Floats inverse = all(most > TINY ? 127 / most : 0);
    for (int i = 0; i < (count + GROUP - 1) / GROUP * GROUP; i += 16) {
        float rest[16] = {};
        if (i + 16 > count && i < count) std::memcpy(rest, x + i, (count - i) * sizeof(float));
        const Floats scaled = times(load(i + 16 > count ? rest : x + i), inverse);
        // What is not finite may become anything, since the scale is NaN then.
        sums[i / 16] = store_whole(to + i, at_least(at_most(scaled, all(127)), all(-127)));
    }
    return most > TINY ? most / 127 : most * 0;
}

}  // namespace

float to_int8(const float* x, int64_t count, int8_t* to, int32_t* sum) {
    thread_local std::vector<int8_t> numbers;
    thread_local std::vector<int32_t> sums;
    const int64_t whole = (count + GROUP - 1) / GROUP * GROUP;
    numbers.resize(whole);
    sums.resize(whole / 16);
    const float step = round_span(x, static_cast<int>(count), numbers.data(), sums.data());
    std::memcpy(to, numbers.data(), count);
    *sum = std::accumulate(sums.begin(), sums.end(), 0);
    return step;
}

void Rows::resize(int64_t rows, int64_t columns, const Format& format) {
    const Kind kind = kind_of(format);
    rows_ = rows, columns_ = columns, kind_ = kind, span_ = format.span();
    width_ = kind == Kind::int8 ? 1 : kind == Kind::bf16 ? 2 : 4;
    auto reserve = [](auto& vector, int64_t size) {
        if (static_cast<int64_t>(vector.size()) < size) vector.resize(size);
    };
    reserve(bytes_, rows * stride());
    if (kind == Kind::int8) {
        reserve(sums_, rows * groups() * 2);
        reserve(scales_, rows * spans());
    }
}

void Rows::fill(int64_t row, const float* x) {
    auto* to = bytes_.data() + row * stride();
    const int64_t rest = static_cast<int64_t>(groups()) * GROUP - columns_;
    if (kind_ == Kind::int8) {
        quantise(row, x);
    } else if (kind_ == Kind::f32) {
        std::memcpy(to, x, columns_ * 4);
        std::memset(to + columns_ * 4, 0, rest * 4);
    } else {
        auto* halves = reinterpret_cast<uint16_t*>(to);
        to_bf16(x, columns_, halves);
        std::memset(halves + columns_, 0, rest * 2);
    }
}

void Rows::quantise(int64_t row, const float* x) {
    auto* to = bytes_.data() + row * stride();
    auto* sums = sums_.data() + row * groups() * 2;
    for (int s = 0; s < spans(); ++s) {
        const int first = s * span_, count = static_cast<int>(std::min<int64_t>(span_, columns_ - first));
        scales_[row * spans() + s] = round_span(x + first, count, to + first, sums + first / 16);
    }
}

void Tile::gather(const Rows& from, const int32_t* ids, int count, const Format& format) {
    rows = count;
    const int groups = from.groups(), spans = from.spans();
    auto size = [](auto& vector, size_t wanted) {
        if (vector.size() < wanted) vector.resize(wanted);
    };
    if (from.kind() != Kind::int8) {
        const int step = from.kind() == Kind::bf16 ? 2 : 1;  // columns that lie together: four bytes either way
        const int steps = groups * GROUP / step;
        size(numbers, static_cast<size_t>(steps) * rows * 4);
        for (int m = 0; m < rows; ++m) {
            const auto* row = from.quants(ids[m]);
            for (int s = 0; s < steps; ++s) std::memcpy(&numbers[(s * rows + m) * 4], row + s * 4, 4);
        }
        return;
    }
    size(numbers, static_cast<size_t>(groups) * rows * GROUP + TALL * GROUP);  // matrix registers read sixteen rows always
    size(scales, static_cast<size_t>(spans) * rows);
    for (int m = 0; m < rows; ++m) {
        const auto* row = from.quants(ids[m]);
        for (int g = 0; g < groups; ++g) std::memcpy(&numbers[(g * rows + m) * GROUP], row + g * GROUP, GROUP);
        for (int s = 0; s < spans; ++s) scales[s * rows + m] = from.scales(ids[m])[s];
        gather_sums(from, ids[m], m, format);
    }
}

void Tile::gather_sums(const Rows& from, int32_t id, int m, const Format& format) {
    const int halves = format.halves(), count = from.groups() * halves;
    auto size = [](auto& vector, size_t wanted) {
        if (vector.size() < wanted) vector.resize(wanted);
    };
    if (format.offset) size(corrections, static_cast<size_t>(count) * rows);
    if (format.whole_min()) size(pairs, static_cast<size_t>(from.spans()) * 8 * halves * rows);
    else if (format.has_min()) size(sums, static_cast<size_t>(count) * rows);
    auto sum_of = [&](int i) {
        const auto* sixteens = from.sums(id);
        return halves == 2 ? sixteens[i] : sixteens[2 * i] + sixteens[2 * i + 1];
    };
    for (int i = 0; i < count; ++i) {
        if (format.offset) corrections[i * rows + m] = -format.offset * sum_of(i);
        if (format.has_min() && !format.whole_min())
            sums[i * rows + m] = static_cast<float>(sum_of(i)) * from.scales(id)[i / halves];
    }
    for (int i = 0; format.whole_min() && i < from.spans() * 8 * halves; ++i)
        pairs[(i / 2 * rows + m) * 2 + i % 2] = static_cast<int16_t>(i < count ? sum_of(i) : 0);
}

}  // namespace coderv2
