#include "product.h"

#include <stdexcept>

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
Kernels plain(bool wide, std::integer_sequence<int, M...>) {
    Kernels kernels;
    ((kernels.packed[M] = wide ? multiply_f32<M + 1> : multiply_bf16<M + 1>), ...);
    return kernels;
}

template <int... CODE>
std::array<Kernels, FORMATS.size()> all_kernels(std::integer_sequence<int, CODE...>) {
    constexpr auto rows = std::make_integer_sequence<int, TILE>();
    std::array<Kernels, FORMATS.size()> table;
    table[F32] = plain(true, rows);
    table[BF16] = plain(false, rows);
    ((table[CODE + Q4_FLAT] = quantised<static_cast<Code>(CODE + Q4_FLAT)>(rows)), ...);
    return table;
}

}  // namespace

thread_local std::vector<uint8_t> Product::panel_;

const Kernels& kernels_of(int code) {
    static const auto table = all_kernels(std::make_integer_sequence<int, FORMATS.size() - Q4_FLAT>());
    if (!table[code].packed[0]) throw std::invalid_argument("no kernel for this format");
    return table[code];
}

std::vector<int> tile_sizes(int64_t rows) {
    const int64_t count = (rows + TILE - 1) / TILE;
    std::vector<int> sizes;
    for (int64_t i = 0; i < count; ++i) sizes.push_back(static_cast<int>(rows * (i + 1) / count - rows * i / count));
    return sizes;
}

}  // namespace coderv2
