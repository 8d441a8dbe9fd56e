// What this machine gives at best: bytes read, and numbers multiplied and added, by all threads. The caller takes the time.
#include <cstring>
#include <utility>

#include "bind.h"
#include "formats.h"
#include "pool.h"
#include "simd.h"
#include "tiles.h"

namespace coderv2 {
namespace {

constexpr int64_t STRIDE = 512;  // bytes that one turn of the loop reads
constexpr int64_t AHEAD = 4096;  // of the reads: software asks for them this early, past the page where hardware stops

// The sum of [data, data + bytes) as 64-bit words, which is what keeps the reads from being left out. A multiple of STRIDE,
// aligned to 64.
uint64_t read(const uint8_t* data, int64_t bytes) {
    using Words = uint64_t __attribute__((vector_size(64)));
    Words sums[4] = {};
    for (int64_t i = 0; i < bytes; i += STRIDE) {
        for (int64_t line = 0; line < STRIDE; line += 64) __builtin_prefetch(data + i + AHEAD + line);
        for (int64_t line = 0; line < STRIDE; line += 64)
            sums[line / 64 % 4] += *reinterpret_cast<const Words*>(data + i + line);
    }
    const Words sum = sums[0] + sums[1] + sums[2] + sums[3];
    uint64_t all = 0;
    for (int i = 0; i < 8; ++i) all += sum[i];
    return all;
}

// Blocks of `size` bytes, each read through by one thread, in the given order.
uint64_t read_blocks(uintptr_t data, int64_t size, const std::vector<int64_t>& order) {
    std::vector<uint64_t> sums(order.size());
    parallel(static_cast<int64_t>(order.size()),
             [&](int64_t i, int) { sums[i] = read(at<const uint8_t>(data) + order[i] * size, size); });
    uint64_t all = 0;
    for (uint64_t sum : sums) all += sum;
    return all;
}

// Eight steps of operands, 64 bytes each, in the first-level cache. They count as new at each turn, so that no product is
// taken out of the loop.
struct Operands {
    alignas(64) uint8_t weights[8 * 64];
    alignas(64) int8_t a[TILE * GROUP];

    explicit Operands(int byte) {
        std::memset(weights, byte, sizeof weights);
        std::memset(a, byte, sizeof a);
    }
    void renew() const { asm volatile("" : : "r"(this) : "memory"); }
};

// Sums that advance side by side, as many as hide an instruction's latency without spilling registers.
constexpr int CHAINS = SUMS;

template <class Multiply>
float chains(int64_t turns, const Multiply& multiply) {
    const Operands operands(0x30);  // 6.4e-10 as float32 and as bfloat16: products that neither overflow nor vanish
    Floats sums[CHAINS];
    for (auto& sum : sums) sum = zeros();
    for (; turns > 0; --turns) {
        operands.renew();
        for (int step = 0; step < 8; ++step)
            for (auto& sum : sums) sum = multiply(operands, step, sum);
    }
    Floats all = sums[0];
    for (int i = 1; i < CHAINS; ++i) all = plus(all, sums[i]);
    float lanes[16];
    store(lanes, all);
    return lanes[0];
}

float fp32(int64_t turns) {
    return chains(turns, [](const Operands& operands, int step, Floats sum) {
        const Floats w = load(reinterpret_cast<const float*>(operands.weights + 64 * step));
        return fused(w, w, sum);
    });
}

float bf16(int64_t turns) {
    return chains(turns, [](const Operands& operands, int step, Floats sum) {
        return pairs(sum, load_bytes(operands.weights + 64 * step), reinterpret_cast<const uint16_t*>(operands.a));
    });
}

template <int... CHAIN>
float int8(int64_t turns, std::integer_sequence<int, CHAIN...>) {
    const Operands operands(0x03);
    // Four-bit weights, as the quantised formats mostly have. Rows of their own, or one product would serve all sums.
    Dots<4> sums[] = {Dots<4>(CHAIN)...};
    auto step = [&]<int STEP>(std::integral_constant<int, STEP>) {
        const Bytes w = load_bytes(operands.weights + 64 * STEP);
        (sums[CHAIN].template add<STEP>(w, spread_step<STEP>(operands.a + CHAIN / BLOCKS * GROUP)), ...);
    };
    for (; turns > 0; --turns) {
        operands.renew();
        [&]<int... STEP>(std::integer_sequence<int, STEP...>) {
            (step(std::integral_constant<int, STEP>()), ...);
        }(std::make_integer_sequence<int, 8>());
    }
    float lanes[16], all = 0;
    for (auto& sum : sums) {
        store(lanes, to_floats(sum.sum()));
        all += lanes[0];
    }
    return all;
}

#if defined(__AMX_INT8__)

// Sixteen rows by sixteen by 64 columns at a time, four sums side by side.
float int8_tiles(int64_t turns) {
    alignas(64) int8_t numbers[TALL * 64];
    std::memset(numbers, 3, sizeof numbers);
    const TileShapes<16> shapes;
    _tile_loadd(4, numbers, 64);
    _tile_loadd(5, numbers, 64);
    _tile_loadd(6, numbers, 64);
    _tile_loadd(7, numbers, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; turns > 0; --turns) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    alignas(64) int32_t sums[TALL * ROWS];
    _tile_stored(0, sums, 64);
    return static_cast<float>(sums[0]);
}

#endif

enum Arithmetic { FP32, BF16_PAIRS, INT8_FOURS };

// What one turn of a thread multiplies and adds, and the turns.
struct Loop {
    float (*run)(int64_t turns);
    int64_t per_turn;
};

Loop loop_of(int kind) {
    if (kind == FP32) return {fp32, 8 * 16 * CHAINS};
    if (kind == BF16_PAIRS) return {bf16, 8 * 32 * CHAINS};
#if defined(__AMX_INT8__)
    if (uses_tiles()) return {int8_tiles, 4 * TALL * ROWS * 64};
#endif
    return {[](int64_t turns) { return int8(turns, std::make_integer_sequence<int, BLOCKS * TILE>()); },
            8 * 64 * BLOCKS * TILE};
}

// Every thread multiplies for `turns` turns; how many multiply-adds that were, all threads together.
int64_t multiply_adds(int kind, int64_t turns) {
    const Loop loop = loop_of(kind);
    std::vector<float> results(threads());
    parallel(threads(), [&](int64_t i, int) { results[i] = loop.run(turns); });
    volatile float kept = 0;
    for (float result : results) kept = kept + result;
    return loop.per_turn * turns * threads();
}

}  // namespace

void bind_probe(nanobind::module_& m) {
    m.def("read_blocks", &read_blocks, Unlocked());
    m.def("multiply_adds", &multiply_adds, Unlocked());
}

}  // namespace coderv2
