// x · Wᵀ for a packed matrix, or for a stack of matrices of which each has rows of its own (attention heads).
#include <algorithm>
#include <cstring>

#include "bind.h"
#include "operations.h"
#include "pool.h"
#include "product.h"

namespace coderv2 {
namespace {

struct Scratch {
    Rows rows;
    std::vector<Tile> tiles;
    std::vector<int32_t> ids;
};

// The caller's; threads that help get a reference.
Scratch& scratch() {
    thread_local Scratch mine;
    return mine;
}

// [rows][blocks · 16] to rows `stride` apart, the first `width` of each.
void write(float* out, int64_t stride, int64_t width, int64_t rows, const float* from, int64_t from_stride) {
    for (int64_t m = 0; m < rows; ++m) std::memcpy(out + m * stride, from + m * from_stride, width * sizeof(float));
}

int64_t chunk(int64_t blocks) { return std::clamp<int64_t>(blocks / (threads() * 6), 1, 8); }

}  // namespace

// E matrices [O, I]; matrix e takes x[t, e] and gives out[t, e]: x [T, E, I], out [T, E, O].
void linear(int code, uintptr_t data, int64_t E, int64_t O, int64_t I, uintptr_t x_at, int64_t T, uintptr_t out_at) {
    const Matrix all{code, at<const uint8_t>(data), O, I};
    const float* x = at<const float>(x_at);
    float* out = at<float>(out_at);
    Scratch& s = scratch();
    const int64_t rows = T * E;
    const auto sizes = tile_sizes(T, {code});
    const int64_t tiles = static_cast<int64_t>(sizes.size());
    s.rows.resize(rows, I, all.format());
    if (static_cast<int64_t>(s.tiles.size()) < tiles * E) s.tiles.resize(tiles * E);
    s.ids.resize(rows);
    for (int64_t e = 0, n = 0; e < E; ++e)
        for (int64_t t = 0; t < T; ++t) s.ids[n++] = static_cast<int32_t>(t * E + e);
    std::vector<int64_t> firsts{0};
    for (int size : sizes) firsts.push_back(firsts.back() + size);

    parallel(tiles * E, [&](int64_t task, int) {
        const int64_t e = task / tiles, i = task % tiles;
        const int32_t* ids = s.ids.data() + e * T + firsts[i];
        for (int m = 0; m < sizes[i]; ++m) s.rows.fill(ids[m], x + ids[m] * I);
        s.tiles[task].gather(s.rows, ids, sizes[i], all.format());
    });

    const int64_t per = chunk(all.blocks() * E), chunks = (all.blocks() + per - 1) / per;
    parallel(chunks * E, [&](int64_t task, int) {
        const int64_t e = task / chunks;
        Matrix matrix = all;
        matrix.data += e * all.format().bytes(O, I);
        const Product product(matrix, s.tiles.data() + e * tiles, tiles);
        thread_local std::vector<float> results;
        results.resize(T * BLOCKS * ROWS);
        const int64_t end = std::min(all.blocks(), (task % chunks + 1) * per);
        for (int64_t block = task % chunks * per; block < end; block += BLOCKS) {
            const int blocks = static_cast<int>(std::min<int64_t>(BLOCKS, end - block));
            product.times(block, blocks, results.data());
            write(out + e * O + block * ROWS, E * O, std::min<int64_t>(ROWS * blocks, O - block * ROWS), T, results.data(),
                  ROWS * blocks);
        }
    });
}

void bind_linear(nanobind::module_& m) {
    m.def("linear", &linear, Unlocked());
    m.def("matrix_bytes", [](int code, int64_t rows, int64_t columns) { return FORMATS.at(code).bytes(rows, columns); });
}

}  // namespace coderv2
