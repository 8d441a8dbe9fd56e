// Plain loops over the lanes, which the compiler turns into what the processor has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "float16.h"
#include "scalars.h"

namespace coderv2 {

struct Floats {
    float v[16];
};
struct Ints {
    int32_t v[16];
};
struct Bytes {
    uint8_t v[64];
};
struct Four {
    const int8_t* v;
};
inline Four spread(const int8_t* a) { return {a}; }

template <typename F>
inline Floats lanes(F f) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}
inline float half(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return half_to_float(bits);
}
inline Floats zeros() { return lanes([](int) { return 0.0f; }); }
inline Floats all(float x) { return lanes([x](int) { return x; }); }
inline Floats load(const float* p) { return lanes([p](int i) { return p[i]; }); }
inline void store(float* p, Floats x) { std::memcpy(p, x.v, sizeof x.v); }
inline Floats halves(const uint8_t* p) { return lanes([p](int i) { return half(p + 2 * i); }); }
inline Floats unsigned_bytes(const uint8_t* p) { return lanes([p](int i) { return static_cast<float>(p[i]); }); }
inline Floats signed_bytes(const uint8_t* p) {
    return lanes([p](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
inline Floats times(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats plus(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats divided(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] / b.v[i]; }); }
inline Floats fused(Floats a, Floats b, Floats c) { return lanes([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
inline Floats fused_minus(Floats a, Floats b, Floats c) {
    return lanes([&](int i) { return std::fma(-a.v[i], b.v[i], c.v[i]); });
}
inline Floats to_floats(Ints x) { return lanes([&](int i) { return static_cast<float>(x.v[i]); }); }
inline Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline void store_bytes(uint8_t* p, Bytes x) { std::memcpy(p, x.v, 64); }

template <int SHIFT>
inline Bytes shifted(Bytes x, int mask) {
    for (auto& b : x.v) b = static_cast<uint8_t>((SHIFT > 0 ? b >> SHIFT : b << -SHIFT) & mask);
    return x;
}
inline Bytes either(Bytes a, Bytes b) {
    for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
    return a;
}

inline Ints no_ints() { return {}; }
inline Bytes paired_bytes(const uint8_t* a, const uint8_t* b) {
    Bytes out;
    for (int i = 0; i < 16; ++i) out.v[4 * i] = a[i], out.v[4 * i + 1] = 0, out.v[4 * i + 2] = b[i], out.v[4 * i + 3] = 0;
    return out;
}
inline Ints pairs(Ints sum, Bytes numbers, const int16_t* a) {
    int16_t n[32];
    std::memcpy(n, numbers.v, 64);
    for (int i = 0; i < 16; ++i) sum.v[i] += n[2 * i] * a[0] + n[2 * i + 1] * a[1];
    return sum;
}

template <int BITS, int CHAINS = 1>
class Dots {
public:
    explicit Dots(int32_t minus_offset = 0) {
        for (auto& s : sum_.v) s = minus_offset;
    }
    template <int STEP>
    void add(Bytes quants, Four a) {
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 4; ++j) sum_.v[i] += quants.v[4 * i + j] * a.v[j];
    }
    Ints sum() const { return sum_; }

private:
    Ints sum_;
};

constexpr int TILE = 4, BLOCKS = 1;
constexpr int SUMS = 8;
constexpr int KEYS = 4, KEY_CHAINS = 2;
constexpr bool MULTIPLIES_BF16 = false;

// An e4m3 number's bits, moved to where float32 has them, are the number divided by 2^120; subnormal ones too.
template <int COLUMN>
inline Floats fp8(Bytes x) {
    return lanes([&](int i) {
        const uint32_t b = x.v[4 * i + COLUMN], bits = (b & 0x7f) << 20 | (b & 0x80) << 24;
        float f;
        std::memcpy(&f, &bits, 4);
        return f * 0x1p120f;
    });
}

inline Floats nearest(Floats x) { return lanes([&](int i) { return std::nearbyint(x.v[i]); }); }
inline Floats at_most(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Floats at_least(Floats a, Floats b) { return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline int32_t store_whole(int8_t* to, Floats x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += to[i] = static_cast<int8_t>(std::nearbyint(x.v[i]));
    return sum;
}
inline Floats two_to(Floats whole) { return lanes([&](int i) { return std::ldexp(1.0f, static_cast<int>(whole.v[i])); }); }

inline Floats load_bf16(const uint16_t* p) { return lanes([p](int i) { return from_bfloat16(p[i]); }); }
inline Floats pairs(Floats x, Bytes weights, const uint16_t* a) {
    uint16_t w[32];
    std::memcpy(w, weights.v, 64);
    return lanes([&](int i) {
        return std::fma(from_bfloat16(w[2 * i + 1]), from_bfloat16(a[1]),
                        std::fma(from_bfloat16(w[2 * i]), from_bfloat16(a[0]), x.v[i]));
    });
}

inline void pair_columns(const uint16_t* a, const uint16_t* b, Bytes* to) {
    for (int i = 0; i < 32; ++i) {
        uint8_t* at = to[i % 8 / 4].v + 4 * (i / 8 * 4 + i % 4);
        std::memcpy(at, a + i, 2);
        std::memcpy(at + 2, b + i, 2);
    }
}
inline Bytes four_bytes(const Floats* x) {
    Bytes out;
    for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(x[i % 4].v[i / 4]);
    return out;
}
inline void four_rows(const uint8_t* const* rows, int64_t first, Bytes* to) {
    for (int c = 0; c < 64; ++c)
        for (int row = 0; row < 4; ++row)
            to[c % 16 / 4].v[4 * (c / 16 * 4 + c % 4) + row] = static_cast<uint8_t>(rows[row][first + c] ^ 0x80);
}
inline Bytes paired(const uint16_t* a, const uint16_t* b) {
    Bytes out;
    for (int i = 0; i < 16; ++i) {
        std::memcpy(out.v + 4 * i, a + i, 2);
        std::memcpy(out.v + 4 * i + 2, b + i, 2);
    }
    return out;
}
inline void store_bf16(uint16_t* to, Floats x) {
    for (int i = 0; i < 16; ++i) to[i] = bfloat16(x.v[i]);
}
inline Bytes bf16_pairs(Floats a, Floats b) {
    uint16_t first[16], second[16];
    for (int i = 0; i < 16; ++i) first[i] = bfloat16(a.v[i]), second[i] = bfloat16(b.v[i]);
    return paired(first, second);
}

}  // namespace coderv2
