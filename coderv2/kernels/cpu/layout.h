// Sixteen rows of plain bytes, one quant each, into a superblock as formats.py draws it.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats.h"

namespace coderv2 {

// What 256 columns of a row are made of: fewer at a row's end.
struct Super {
    alignas(64) uint8_t quants[SUPER];
    uint8_t scales[16] = {}, minima[16] = {};       // two-level: bytes
    uint16_t wide_scales[8] = {}, wide_minima[8] = {};  // flat: float16
    uint16_t d = 0, m = 0;
};

// Sixteen rows of lanes, each a step of four columns for sixteen rows.
inline void lanes_of(const Super* rows, int step, uint8_t* to) {
    for (int r = 0; r < ROWS; ++r) std::memcpy(to + 4 * r, rows[r].quants + 4 * step, 4);
}

inline void write_quants(const Format& format, const Super* rows, int group, uint8_t* to) {
    alignas(64) uint8_t steps[8][64];
    for (int s = 0; s < 8; ++s) lanes_of(rows, 8 * group + s, steps[s]);
    if (format.bits == 8) {
        std::memcpy(to, steps, 512);
        return;
    }
    for (int v = 0; v < 4; ++v)
        for (int i = 0; i < 64; ++i)
            to[64 * v + i] = static_cast<uint8_t>((steps[2 * v][i] & 15) | steps[2 * v + 1][i] << 4);
    to += 256;
    if (format.bits == 5)
        for (int i = 0; i < 64; ++i) {
            int plane = 0;
            for (int s = 0; s < 8; ++s) plane |= (steps[s][i] >> 4 & 1) << s;
            to[i] = static_cast<uint8_t>(plane);
        }
    if (format.bits == 6)
        for (int v = 0; v < 2; ++v)
            for (int i = 0; i < 64; ++i) {
                int plane = 0;
                for (int j = 0; j < 4; ++j) plane |= (steps[4 * v + j][i] >> 4) << 2 * j;
                to[64 * v + i] = static_cast<uint8_t>(plane);
            }
}

// Sixteen numbers, one of each row.
template <typename T, typename Get>
uint8_t* column(uint8_t* to, Get get) {
    T numbers[ROWS];
    for (int r = 0; r < ROWS; ++r) numbers[r] = get(r);
    std::memcpy(to, numbers, sizeof numbers);
    return to + sizeof numbers;
}

inline uint8_t* write_head(const Format& format, const Super* rows, uint8_t* to) {
    if (format.head_bytes()) to = column<uint16_t>(to, [&](int r) { return rows[r].d; });
    if (format.head_bytes() == 64) to = column<uint16_t>(to, [&](int r) { return rows[r].m; });
    return to;
}

inline uint8_t* write_scales(const Format& format, const Super* rows, int group, uint8_t* to) {
    if (!format.head_bytes()) {
        to = column<uint16_t>(to, [&](int r) { return rows[r].wide_scales[group]; });
        return format.has_min() ? column<uint16_t>(to, [&](int r) { return rows[r].wide_minima[group]; }) : to;
    }
    const int halves = format.halves();
    for (int h = 0; h < halves; ++h) to = column<uint8_t>(to, [&](int r) { return rows[r].scales[group * halves + h]; });
    for (int h = 0; h < halves && format.has_min(); ++h)
        to = column<uint8_t>(to, [&](int r) { return rows[r].minima[group * halves + h]; });
    return to;
}

}  // namespace coderv2
