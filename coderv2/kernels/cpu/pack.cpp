// From GGUF's blocks of quants into kernel order, without loss; and from kernel order to float32.
//
// Sixteen rows' superblocks are first taken apart into plain bytes, one quant each, then laid out as formats.py draws it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "bind.h"
#include "layout.h"
#include "pool.h"
#include "product.h"
#include "read.h"

namespace coderv2 {
namespace {

uint16_t half_at(const uint8_t* p) {
    uint16_t value;
    std::memcpy(&value, p, 2);
    return value;
}

// Bytes side by side, which compilers turn into whatever vectors there are.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Bytes32 = uint8_t __attribute__((vector_size(32)));

template <class V>
V take(const uint8_t* from) {
    V bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

template <class V>
void put(uint8_t* to, const V& bytes) {
    std::memcpy(to, &bytes, sizeof bytes);
}

// Sixteen bytes of nibbles: the low ones are numbers 0-15, the high ones 16-31.
void nibbles(const uint8_t* from, uint8_t* to) {
    const auto both = take<Bytes16>(from);
    put(to, both & 15);
    put(to + 16, both >> 4);
}

// Bit j of 32 becomes bit 4 of number j, eight numbers at a time.
void fifth_bits(const uint8_t* from, uint8_t* to) {
    for (int i = 0; i < 4; ++i, to += 8) {
        const uint64_t bits = from[i] * 0x0101010101010101u & 0x8040201008040201u;
        const uint64_t sixteens = ((bits + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
        uint64_t quants;
        std::memcpy(&quants, to, 8);
        quants |= sixteens;
        std::memcpy(to, &quants, 8);
    }
}

void read_q4_0(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    nibbles(b + 2, to.quants + 32 * g);
}

void read_q4_1(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    to.wide_minima[g] = half_at(b + 2) ^ 0x8000;  // what is added there is taken off here
    nibbles(b + 4, to.quants + 32 * g);
}

void read_q5_0(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    nibbles(b + 6, to.quants + 32 * g);
    fifth_bits(b + 2, to.quants + 32 * g);
}

void read_q5_1(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    to.wide_minima[g] = half_at(b + 2) ^ 0x8000;
    nibbles(b + 8, to.quants + 32 * g);
    fifth_bits(b + 4, to.quants + 32 * g);
}

void read_q8_0(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    put(to.quants + 32 * g, take<Bytes32>(b + 2) ^ 0x80);
}

constexpr int8_t LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void levels(const uint8_t* from, uint8_t* to) {
    nibbles(from, to);
    for (int j = 0; j < 32; ++j) to[j] = static_cast<uint8_t>(LEVELS[to[j]] + 128);
}

void read_iq4_nl(const uint8_t* b, int g, Super& to) {
    to.wide_scales[g] = half_at(b);
    levels(b + 2, to.quants + 32 * g);
}

void read_iq4_xs(const uint8_t* b, int, Super& to) {
    to.d = half_at(b);
    const int high = half_at(b + 2);
    for (int g = 0; g < 8; ++g) {
        const int scale = (b[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
        to.scales[2 * g] = to.scales[2 * g + 1] = static_cast<uint8_t>(scale - 32);
        levels(b + 8 + 16 * g, to.quants + 32 * g);
    }
}

void read_q2_k(const uint8_t* b, int, Super& to) {
    to.d = half_at(b + 80);
    to.m = half_at(b + 82);
    for (int i = 0; i < 16; ++i) {
        to.scales[i] = b[i] & 15;
        to.minima[i] = b[i] >> 4;
    }
    for (int n = 0; n < 2; ++n) {
        const auto four = take<Bytes32>(b + 16 + 32 * n);
        for (int j = 0; j < 4; ++j) put(to.quants + 128 * n + 32 * j, four >> 2 * j & 3);
    }
}

void read_q3_k(const uint8_t* b, int, Super& to) {
    const uint8_t *high = b, *low = b + 32, *scales = b + 96;
    to.d = half_at(b + 108);
    for (int i = 0; i < 16; ++i) {
        const int four = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
        to.scales[i] = static_cast<uint8_t>((four | (scales[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
    }
    const auto thirds = take<Bytes32>(high);
    for (int n = 0; n < 2; ++n) {
        const auto four = take<Bytes32>(low + 32 * n);
        for (int j = 0; j < 4; ++j)
            put(to.quants + 128 * n + 32 * j, (four >> 2 * j & 3) | (thirds >> (4 * n + j) & 1) << 2);
    }
}

// Eight scales and minima of six bits each in twelve bytes.
void six_bits(const uint8_t* b, Super& to) {
    for (int g = 0; g < 4; ++g) {
        to.scales[g] = b[g] & 63;
        to.minima[g] = b[g + 4] & 63;
        to.scales[g + 4] = static_cast<uint8_t>((b[g + 8] & 15) | b[g] >> 6 << 4);
        to.minima[g + 4] = static_cast<uint8_t>(b[g + 8] >> 4 | b[g + 4] >> 6 << 4);
    }
}

void read_q4_k(const uint8_t* b, int, Super& to) {
    to.d = half_at(b);
    to.m = half_at(b + 2);
    six_bits(b + 4, to);
    for (int c = 0; c < 4; ++c) {
        const auto both = take<Bytes32>(b + 16 + 32 * c);
        put(to.quants + 64 * c, both & 15);
        put(to.quants + 64 * c + 32, both >> 4);
    }
}

void read_q5_k(const uint8_t* b, int, Super& to) {
    to.d = half_at(b);
    to.m = half_at(b + 2);
    six_bits(b + 4, to);
    const auto high = take<Bytes32>(b + 16);
    for (int c = 0; c < 4; ++c) {
        const auto low = take<Bytes32>(b + 48 + 32 * c);
        put(to.quants + 64 * c, (low & 15) | (high >> 2 * c & 1) << 4);
        put(to.quants + 64 * c + 32, low >> 4 | (high >> (2 * c + 1) & 1) << 4);
    }
}

void read_q6_k(const uint8_t* b, int, Super& to) {
    to.d = half_at(b + 208);
    std::memcpy(to.scales, b + 192, 16);
    for (int n = 0; n < 2; ++n) {
        const auto first = take<Bytes32>(b + 64 * n), second = take<Bytes32>(b + 64 * n + 32);
        const auto high = take<Bytes32>(b + 128 + 32 * n);
        uint8_t* q = to.quants + 128 * n;
        put(q, (first & 15) | (high & 3) << 4);
        put(q + 32, (second & 15) | (high >> 2 & 3) << 4);
        put(q + 64, first >> 4 | (high >> 4 & 3) << 4);
        put(q + 96, second >> 4 | high >> 6 << 4);
    }
}

// NaN and infinities have all bits of the exponent set.
bool is_finite(const Format& format, const Super& super) {
    auto fails = [](uint16_t half) { return (half & 0x7c00) == 0x7c00; };
    if (format.head_bytes()) return !fails(super.d) && !fails(super.m);
    int failures = 0;
    for (int g = 0; g < 8; ++g) failures += fails(super.wide_scales[g]) + fails(super.wide_minima[g]);
    return failures == 0;
}

// One block of sixteen rows; fewer at a matrix's end. False where a scale or minimum is not finite.
template <Code CODE, int COLUMNS, int BYTES, auto READ>
bool pack_block(const uint8_t* from, int64_t row_bytes, int rows, int64_t columns, uint8_t* to) {
    constexpr Format FORMAT = FORMATS[CODE];
    Super supers[ROWS] = {};
    bool finite = true;
    for (int64_t first = 0; first < columns; first += SUPER) {
        const int count = static_cast<int>(std::min<int64_t>(SUPER, columns - first));
        for (int r = 0; r < rows; ++r) {
            const uint8_t* block = from + r * row_bytes + first / COLUMNS * BYTES;
            for (int done = 0; done < count; done += COLUMNS, block += BYTES) READ(block, done / GROUP, supers[r]);
            finite &= is_finite(FORMAT, supers[r]);
        }
        to = write_head(FORMAT, supers, to);
        for (int group = 0; group < count / GROUP; ++group) {
            to = write_scales(FORMAT, supers, group, to);
            write_quants(FORMAT, supers, group, to);
            to += FORMAT.quant_bytes();
        }
    }
    return finite;
}

// One type of GGUF by its own number: how many columns a block has and bytes it takes, what it becomes, and how.
struct Source {
    int type, columns, bytes, code;
    bool (*pack)(const uint8_t* from, int64_t row_bytes, int rows, int64_t columns, uint8_t* to);

    int64_t row_bytes(int64_t I) const { return I / columns * bytes; }
};

template <int TYPE, int COLUMNS, int BYTES, Code CODE, auto READ>
constexpr Source FROM{TYPE, COLUMNS, BYTES, CODE, pack_block<CODE, COLUMNS, BYTES, READ>};

constexpr Source SOURCES[] = {
    FROM<2, 32, 18, Q4_FLAT, read_q4_0>,    FROM<3, 32, 20, Q4_FLAT_MIN, read_q4_1>, FROM<6, 32, 22, Q5_FLAT, read_q5_0>,
    FROM<7, 32, 24, Q5_FLAT_MIN, read_q5_1>, FROM<8, 32, 34, INT8, read_q8_0>,       FROM<10, 256, 84, Q4_TWO_MIN, read_q2_k>,
    FROM<11, 256, 110, Q4_TWO, read_q3_k>,  FROM<12, 256, 144, INT4, read_q4_k>,     FROM<13, 256, 176, Q5_TWO, read_q5_k>,
    FROM<14, 256, 210, Q6_TWO, read_q6_k>,  FROM<20, 32, 18, INT8, read_iq4_nl>,     FROM<23, 256, 136, Q8_TWO, read_iq4_xs>,
};

const Source& source_of(int type) {
    for (const Source& source : SOURCES)
        if (source.type == type) return source;
    throw std::invalid_argument("this type of GGUF has no quants that can be packed");
}

enum Outcome { FINE, NOT_FINITE, UNREADABLE };

// E matrices [O, I], rows end to end, into kernel order; rows(first, count) are their bytes, or null.
template <typename Rows>
int pack_all(const Source& source, int64_t E, int64_t O, int64_t I, uint8_t* to, Rows rows) {
    constexpr int64_t PIECE = 1 << 19;  // bytes, about: a piece stays in a core's own cache
    const int64_t row_bytes = source.row_bytes(I), block_bytes = FORMATS[source.code].block_bytes(I);
    const int64_t blocks = (O + ROWS - 1) / ROWS, together = std::max<int64_t>(1, PIECE / (ROWS * row_bytes));
    const int64_t tasks = (blocks + together - 1) / together;
    std::atomic<int> outcome = FINE;
    parallel(E * tasks, [&](int64_t task, int) {
        const int64_t e = task / tasks, first = task % tasks * together * ROWS, end = std::min(O, first + together * ROWS);
        const uint8_t* from = rows(e * O + first, end - first);
        if (!from) outcome = UNREADABLE;
        for (int64_t row = first; from && row < end; row += ROWS, from += ROWS * row_bytes) {
            const int count = static_cast<int>(std::min<int64_t>(ROWS, end - row));
            if (!source.pack(from, row_bytes, count, I, to + (e * blocks + row / ROWS) * block_bytes)) outcome = NOT_FINITE;
        }
    });
    return outcome;
}

int pack_ggml(int type, uintptr_t from, int64_t E, int64_t O, int64_t I, uintptr_t to) {
    const Source& source = source_of(type);
    return pack_all(source, E, O, I, at<uint8_t>(to),
                    [&](int64_t first, int64_t) { return at<const uint8_t>(from) + first * source.row_bytes(I); });
}

// The same from an open file. Read piece by piece, since to map a file's pages takes longer than to copy them.
int pack_ggml_file(int type, int file, int64_t offset, int64_t E, int64_t O, int64_t I, uintptr_t to) {
    const Source& source = source_of(type);
    const int64_t row_bytes = source.row_bytes(I);
    return pack_all(source, E, O, I, at<uint8_t>(to), [&](int64_t first, int64_t count) -> const uint8_t* {
        thread_local std::vector<uint8_t> piece;
        piece.resize(count * row_bytes);
        return read_piece(file, offset + first * row_bytes, piece.data(), count * row_bytes) ? piece.data() : nullptr;
    });
}

// Chosen rows of one matrix as float32: by way of a product with the columns of an identity would be exact too, but slow.
void embed(int code, uintptr_t data, int64_t O, int64_t I, uintptr_t ids, int64_t count, uintptr_t to) {
    const Matrix matrix{code, at<const uint8_t>(data), O, I};
    parallel(count, [&](int64_t i, int) {
        const int64_t row = at<const int64_t>(ids)[i];
        unpack_rows(matrix, row / ROWS, static_cast<int>(row % ROWS), 1, at<float>(to) + i * I);
    });
}

// All rows of E matrices [O, I], one after another.
void unpack(int code, uintptr_t data, int64_t E, int64_t O, int64_t I, uintptr_t to) {
    const int64_t blocks = (O + ROWS - 1) / ROWS, bytes = blocks * FORMATS[code].block_bytes(I);
    parallel(E * blocks, [&](int64_t task, int) {
        const int64_t e = task / blocks, b = task % blocks, first = b * ROWS;
        const Matrix matrix{code, at<const uint8_t>(data) + e * bytes, O, I};
        unpack_rows(matrix, b, 0, static_cast<int>(std::min<int64_t>(ROWS, O - first)), at<float>(to) + (e * O + first) * I);
    });
}

}  // namespace

void bind_pack(nanobind::module_& m) {
    m.def("pack_ggml", &pack_ggml, Unlocked());
    m.def("pack_ggml_file", &pack_ggml_file, Unlocked());
    m.def("embed", &embed, Unlocked());
    m.def("unpack", &unpack, Unlocked());
    m.def("ggml_types", [] {
        std::vector<std::tuple<int, int, int, int>> all;  // type, columns and bytes of a block, format
        for (const Source& source : SOURCES) all.emplace_back(source.type, source.columns, source.bytes, source.code);
        return all;
    });
}

}  // namespace coderv2
