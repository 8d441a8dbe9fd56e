// One span of keys and sixteen heads of one query, over a cache in float8: widened to bfloat16, which loses nothing, and
// multiplied as such a cache is. A span's numbers stay in the nearest cache from their scores to their sums.
#pragma once

#include "float8.h"
#include "span.h"

namespace coderv2 {

template <class Format, class Bfloat16Span>
class Float8Span : public Bfloat16Span {
public:
    explicit Float8Span(const SpanShape& shape) : Bfloat16Span(shape), C_(shape.C), R_(shape.R) {}

    int64_t latent_bytes() const { return C_; }
    int64_t rope_bytes() const { return R_; }

    void attend(const uint8_t* query, const uint8_t** latents, const uint8_t** ropes, int64_t keys, float* out) const {
        thread_local std::vector<uint16_t> wide_latents, wide_ropes;
        widen(latents, keys, C_, wide_latents);
        widen(ropes, keys, R_, wide_ropes);
        Bfloat16Span::attend(query, latents, ropes, keys, out);
    }

private:
    // Rows are replaced by wide ones.
    static void widen(const uint8_t** rows, int64_t keys, int64_t width, std::vector<uint16_t>& to) {
        to.resize(keys * width);
        for (int64_t i = 0; i < keys; ++i) {
            uint16_t* wide = to.data() + i * width;
            const uint8_t* row = rows[i];
            for (int64_t c = 0; c < width; ++c) wide[c] = WIDENED<Format>[row[c]];
            rows[i] = reinterpret_cast<const uint8_t*>(wide);
        }
        std::fill(rows + keys, rows + keys + FAR, rows[keys - 1]);
    }

    const int64_t C_, R_;
};

}  // namespace coderv2
