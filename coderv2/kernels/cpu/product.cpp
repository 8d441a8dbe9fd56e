#include "product.h"

#include <algorithm>
#include <cstring>

#include "multiply.h"

namespace coderv2 {
namespace {

template <Code CODE, int... M>
Kernels quantised(std::integer_sequence<int, M...>) {
    Kernels kernels;
    kernels.unpack = unpack<CODE>;
    kernels.panel_group = PANEL_GROUP<CODE>;
    ((kernels.panel[M] = [](const uint8_t* at, int groups, const Tile& tile, float* out) {
         multiply<Panel<CODE>, M + 1>(Panel<CODE>(at), groups, tile, out);
     }), ...);
    auto few = [&]<int... N>(std::integer_sequence<int, N...>) {
        ((kernels.packed[N] = [](const uint8_t* at, int groups, const Tile& tile, float* out) {
             multiply<Packed<CODE>, N + 1>(Packed<CODE>(at), groups, tile, out);
         }), ...);
    };
    few(std::make_integer_sequence<int, FEW>());
    return kernels;
}

template <int... M>
Kernels plain(int code, std::integer_sequence<int, M...>) {
    Kernels kernels;
    ((kernels.packed[M] = code == F32 ? multiply_f32<M + 1> : code == BF16 ? multiply_bf16<M + 1> : multiply_fp8<M + 1>),
     ...);
    return kernels;
}

template <int... CODE>
std::array<Kernels, FORMATS.size()> all_kernels(std::integer_sequence<int, CODE...>) {
    constexpr auto rows = std::make_integer_sequence<int, TILE>();
    std::array<Kernels, FORMATS.size()> table;
    for (int code : {F32, BF16, FP8}) table[code] = plain(code, rows);
    ((table[CODE + Q4_FLAT] = quantised<static_cast<Code>(CODE + Q4_FLAT)>(rows)), ...);
    return table;
}

}  // namespace

thread_local std::vector<uint8_t> Product::panel_;

const Kernels& kernels_of(int code) {
    static const auto table = all_kernels(std::make_integer_sequence<int, FORMATS.size() - Q4_FLAT>());
    return table.at(code);
}

namespace {

// The row's quants of one group in a panel, with their scales.
void unpack_group(const uint8_t* panel, const Format& format, int panel_group, int row, float* out) {
    const auto* floats = reinterpret_cast<const float*>(panel);
    const uint8_t* quants = panel + panel_group - 512;
    const int halves = format.halves();
    for (int i = 0; i < GROUP; ++i) {
        const int half = i * halves / GROUP;
        const float scale = floats[16 * half + row];
        const float minimum = format.has_min() ? floats[16 * (halves + half) + row] : scale * static_cast<float>(format.offset);
        out[i] = scale * quants[64 * (i / 4) + 4 * row + i % 4] - minimum;
    }
}

float plain_number(const Matrix& matrix, const uint8_t* block, int row, int64_t column) {
    if (matrix.code == F32) return reinterpret_cast<const float*>(block)[ROWS * column + row];
    if (matrix.code == FP8) {
        const uint8_t* span = block + column / FP8_SPAN * (64 + ROWS * FP8_SPAN);
        float sixteen[16];
        const Bytes fours = load_bytes(span + 64 + column % FP8_SPAN / 4 * 64);
        const Floats four[] = {fp8<0>(fours), fp8<1>(fours), fp8<2>(fours), fp8<3>(fours)};
        store(sixteen, four[column % 4]);
        return sixteen[row] * reinterpret_cast<const float*>(span)[row];
    }
    const uint32_t bits =
        static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(block)[column / 2 * 32 + 2 * row + column % 2]) << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

}  // namespace

void unpack_row(const Matrix& matrix, int64_t b, int row, float* out) {
    const Kernels& kernels = kernels_of(matrix.code);
    const uint8_t* block = matrix.block(b);
    if (!kernels.unpack) {
        for (int64_t i = 0; i < matrix.columns; ++i) out[i] = plain_number(matrix, block, row, i);
        return;
    }
    const size_t size = static_cast<size_t>(matrix.groups()) * kernels.panel_group;
    thread_local std::vector<uint8_t> panel;
    panel.resize(size);
    kernels.unpack(block, matrix.groups(), panel.data());
    float group[GROUP];
    for (int64_t first = 0; first < matrix.columns; first += GROUP) {
        unpack_group(panel.data() + first / GROUP * kernels.panel_group, matrix.format(), kernels.panel_group, row, group);
        std::copy_n(group, std::min<int64_t>(GROUP, matrix.columns - first), out + first);
    }
}

std::vector<int> tile_sizes(int64_t rows) {
    const int64_t count = (rows + TILE - 1) / TILE;
    std::vector<int> sizes;
    for (int64_t i = 0; i < count; ++i) sizes.push_back(static_cast<int>(rows * (i + 1) / count - rows * i / count));
    return sizes;
}

}  // namespace coderv2
