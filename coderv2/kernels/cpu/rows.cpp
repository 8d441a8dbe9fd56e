#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simd.h"

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

}  // namespace

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
        for (int64_t i = 0; i < columns_; ++i) halves[i] = bfloat16(x[i]);
        std::memset(halves + columns_, 0, rest * 2);
    }
}

void Rows::quantise(int64_t row, const float* x) {
    auto* to = bytes_.data() + row * stride();
    auto* sums = sums_.data() + row * groups() * 2;
    for (int s = 0; s < spans(); ++s) {
        const int first = s * span_, count = static_cast<int>(std::min<int64_t>(span_, columns_ - first));
        const float most = largest(x + first, count);
        const float inverse = most > TINY ? 127 / most : 0;
        scales_[row * spans() + s] = most > TINY ? most / 127 : most * 0;
        for (int i = 0; i < count; ++i) {
            // Adding and taking off 1.5·2^23 rounds to nearest even; a number that is not finite may become anything,
            // since the scale is NaN then.
            const float rounded = (x[first + i] * inverse + 12582912.0f) - 12582912.0f;
            to[first + i] = static_cast<int8_t>(static_cast<int32_t>(std::min(std::max(rounded, -127.0f), 127.0f)));
        }
        const int whole = (count + GROUP - 1) / GROUP * GROUP;
        std::memset(to + first + count, 0, whole - count);
        for (int i = 0; i < whole; i += 16) {
            int32_t sum = 0;
            for (int j = 0; j < 16; ++j) sum += to[first + i + j];
            sums[(first + i) / 16] = sum;
        }
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
    const int halves = format.halves();
    size(numbers, static_cast<size_t>(groups) * rows * GROUP);
    size(corrections, static_cast<size_t>(groups) * halves * rows);
    size(sums, static_cast<size_t>(groups) * halves * rows);
    size(scales, static_cast<size_t>(spans) * rows);
    for (int m = 0; m < rows; ++m) {
        const auto* row = from.quants(ids[m]);
        const auto* row_sums = from.sums(ids[m]);
        for (int g = 0; g < groups; ++g) std::memcpy(&numbers[(g * rows + m) * GROUP], row + g * GROUP, GROUP);
        for (int g = 0; g < groups * halves; ++g) {
            const int32_t sum = halves == 2 ? row_sums[g] : row_sums[2 * g] + row_sums[2 * g + 1];
            corrections[g * rows + m] = -format.offset * sum;
            const float scale = from.span() == GROUP ? from.scales(ids[m])[g] : 1.0f;
            sums[g * rows + m] = static_cast<float>(sum) * scale;
        }
        for (int s = 0; s < spans; ++s) scales[s * rows + m] = from.scales(ids[m])[s];
    }
}

}  // namespace coderv2
