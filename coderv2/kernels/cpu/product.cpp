#include "product.h"

#include <algorithm>
#include <cstring>

#include "multiply.h"
#include "tall.h"

namespace coderv2 {
namespace {

// A whole block as float32 numbers, [columns][16].
template <Code CODE>
void unpack_block(const uint8_t* block, int groups, float* out) {
    constexpr Format F = FORMATS[CODE];
    Packed<CODE> from(block);
    for (int group = 0; group < groups; ++group) {
        if (group % (SUPER / GROUP) == 0) from.next_super();
        uint8_t quants[512];
        [&]<int... STEP>(std::integer_sequence<int, STEP...>) {
            (store_bytes(quants + 64 * STEP, from.template quants<STEP>()), ...);
        }(std::make_integer_sequence<int, 8>());
        for (int half = 0; half < F.halves(); ++half) {
            float scales[ROWS], minima[ROWS];
            store(scales, from.scale(half));
            store(minima, F.has_min() ? from.minimum(half) : times(from.scale(half), all(F.offset)));
            for (int i = half * GROUP / F.halves(); i < (half + 1) * GROUP / F.halves(); ++i)
                for (int r = 0; r < ROWS; ++r)
                    out[(group * GROUP + i) * ROWS + r] = scales[r] * quants[64 * (i / 4) + 4 * r + i % 4] - minima[r];
        }
        from.next_group();
    }
}

// Kernels of B blocks side by side.
template <Code CODE, int... B, int... M>
void side_by_side(Kernels& kernels, std::integer_sequence<int, B...>, std::integer_sequence<int, M...>) {
    constexpr int N = sizeof...(B);
    ((kernels.few[N - 1][M] = multiply<CODE, N, M + 1>), ...);
    kernels.many[N - 1] = [](auto... operands) {
        static constexpr AddPanels ADD[] = {add_panels<CODE, M + 1, B...>...};
        multiply_many<CODE, B...>(ADD, operands...);
    };
#if defined(__AMX_INT8__)
    kernels.tall[N - 1] = multiply_tall<CODE, B...>;
#endif
}

template <Code CODE, int... B>
Kernels quantised(std::integer_sequence<int, B...>) {
    Kernels kernels;
    kernels.unpack = unpack_block<CODE>;
    (side_by_side<CODE>(kernels, std::make_integer_sequence<int, B + 1>(), std::make_integer_sequence<int, TILE>()), ...);
    return kernels;
}

template <int... M>
Kernels plain(int code, std::integer_sequence<int, M...>) {
    Kernels kernels;
    ((kernels.few[0][M] = code == F32 ? multiply_f32<M + 1> : code == BF16 ? multiply_bf16<M + 1> : multiply_fp8<M + 1>),
     ...);
    return kernels;
}

template <int... CODE>
std::array<Kernels, FORMATS.size()> all_kernels(std::integer_sequence<int, CODE...>) {
    std::array<Kernels, FORMATS.size()> table;
    for (int code : {F32, BF16, FP8}) table[code] = plain(code, std::make_integer_sequence<int, TILE>());
    ((table[CODE + Q4_FLAT] = quantised<static_cast<Code>(CODE + Q4_FLAT)>(std::make_integer_sequence<int, BLOCKS>())), ...);
    return table;
}

}  // namespace

const Kernels& kernels_of(int code) {
    static const auto table = all_kernels(std::make_integer_sequence<int, FORMATS.size() - Q4_FLAT>());
    return table.at(code);
}

namespace {

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

void unpack_rows(const Matrix& matrix, int64_t b, int first, int count, float* out) {
    const Kernels& kernels = kernels_of(matrix.code);
    const uint8_t* block = matrix.block(b);
    thread_local std::vector<float> numbers;
    if (kernels.unpack) {
        numbers.resize(static_cast<size_t>(matrix.groups()) * GROUP * ROWS);
        kernels.unpack(block, matrix.groups(), numbers.data());
    }
    for (int row = first; row < first + count; ++row)
        for (int64_t i = 0; i < matrix.columns; ++i)
            *out++ = kernels.unpack ? numbers[i * ROWS + row] : plain_number(matrix, block, row, i);
}

std::vector<int> tile_sizes(int64_t rows, std::initializer_list<int> codes) {
    const bool tall = uses_tiles() && std::all_of(codes.begin(), codes.end(), [](int code) { return kernels_of(code).tall[0]; });
    const int most = tall ? TALL : TILE;
    const int64_t count = (rows + most - 1) / most;
    std::vector<int> sizes;
    for (int64_t i = 0; i < count; ++i) sizes.push_back(static_cast<int>(rows * (i + 1) / count - rows * i / count));
    return sizes;
}

}  // namespace coderv2
