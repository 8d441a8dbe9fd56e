// Matrix registers (AMX): the integer sums of one group for sixteen rows of activations and the sixteen of a block at once.
//
// They are whole numbers, so that all that follows gives the same bits as without these registers. Compilers that don't
// know them leave them out; whether they are used is asked at import (coderv2/kernels/cpu/__init__.py).
#pragma once

#include <cstdint>

#include "formats.h"

#if defined(__AMX_INT8__)
#include <immintrin.h>
#endif

namespace coderv2 {

constexpr int TALL = 16;  // rows of activations that a matrix register holds

// Whether matrix registers are used.
bool uses_tiles();

#if defined(__AMX_INT8__)

// The registers' shapes, as long as this lives: sums [16][16], activations [16][STEPS · 4], quants [STEPS][16][4].
template <int STEPS>
class TileShapes {
public:
    TileShapes() {
        Config config;
        for (int sums : {0, 1, 2, 3}) config.shape(sums, TALL, 64);
        for (int activations : {4, 5}) config.shape(activations, TALL, 4 * STEPS);
        for (int quants : {6, 7}) config.shape(quants, STEPS, 64);
        _tile_loadconfig(&config);
    }
    ~TileShapes() { _tile_release(); }
    TileShapes(const TileShapes&) = delete;
    TileShapes& operator=(const TileShapes&) = delete;

private:
    struct alignas(64) Config {  // as the processor reads it
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};

        void shape(int tile, int count, int bytes) {
            rows[tile] = static_cast<uint8_t>(count);
            row_bytes[tile] = static_cast<uint16_t>(bytes);
        }
    };
};

// Sums of the sixteen rows at `a`, GROUP bytes apart, with the quants of one or two blocks: [16][16] each.
inline void tile_sums(const int8_t* a, const uint8_t* quants, int32_t* sums) {
    _tile_loadd(4, a, GROUP);
    _tile_loadd(6, quants, 64);
    _tile_zero(0);
    _tile_dpbsud(0, 4, 6);
    _tile_stored(0, sums, 64);
}
inline void tile_sums(const int8_t* a, const uint8_t* quants, const uint8_t* others, int32_t* sums, int32_t* other_sums) {
    _tile_loadd(4, a, GROUP);
    _tile_loadd(6, quants, 64);
    _tile_loadd(7, others, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_stored(0, sums, 64);
    _tile_stored(1, other_sums, 64);
}

#endif

}  // namespace coderv2
