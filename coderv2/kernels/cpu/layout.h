// Sixteen rows of plain bytes, one quant each, into a superblock as formats.py draws it.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "formats.h"
#include "simd.h"

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

// A bit-plane: what stands from bit 4 on in each of PER steps, moved side by side into bytes.
template <int PER, int... STEP>
inline Bytes plane(const Bytes* steps, std::integer_sequence<int, STEP...>) {
    constexpr int WIDTH = 8 / PER, MASK = (1 << WIDTH) - 1;
    Bytes all = shifted<4>(steps[0], MASK);
    ((all = either(all, shifted<4 - WIDTH * (STEP + 1)>(steps[STEP + 1], MASK << WIDTH * (STEP + 1)))), ...);
    return all;
}

inline void write_quants(const Format& format, const Super* rows, int group, uint8_t* to) {
    alignas(64) uint8_t lanes[8][64];
    for (int s = 0; s < 8; ++s) lanes_of(rows, 8 * group + s, lanes[s]);
    if (format.bits == 8) {
        std::memcpy(to, lanes, 512);
        return;
    }
    Bytes steps[8];
    for (int s = 0; s < 8; ++s) steps[s] = load_bytes(lanes[s]);
    for (int v = 0; v < 4; ++v)
        store_bytes(to + 64 * v, either(shifted<0>(steps[2 * v], 0x0f), shifted<-4>(steps[2 * v + 1], 0xf0)));
    if (format.bits == 5) store_bytes(to + 256, plane<8>(steps, std::make_integer_sequence<int, 7>()));
    for (int v = 0; format.bits == 6 && v < 2; ++v)
        store_bytes(to + 256 + 64 * v, plane<4>(steps + 4 * v, std::make_integer_sequence<int, 3>()));
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
