// A file's bytes into memory, by all threads, with their checksum taken while they are in the cache.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "bind.h"
#include "pool.h"
#include "read.h"

namespace coderv2 {
namespace {

constexpr int64_t PIECE = 1 << 20;

// Word i counts 2i + 1 times, so that no single change and no swap of two words goes unseen; the end is filled up with
// zeros.
uint64_t checksum_from(int64_t first_word, const uint8_t* bytes, int64_t count) {
    uint64_t sum = 0, word;
    const int64_t words = count / 8;
    for (int64_t i = 0; i < words; ++i) {
        std::memcpy(&word, bytes + 8 * i, 8);
        sum += word * static_cast<uint64_t>(2 * (first_word + i) + 1);
    }
    word = 0;
    std::memcpy(&word, bytes + 8 * words, count % 8);
    return sum + word * static_cast<uint64_t>(2 * (first_word + words) + 1);
}

template <typename Piece>
uint64_t in_pieces(int64_t count, Piece piece) {
    std::atomic<uint64_t> sum = 0;
    parallel((count + PIECE - 1) / PIECE, [&](int64_t task, int) {
        const int64_t first = task * PIECE;
        sum += piece(first, std::min(PIECE, count - first));
    });
    return sum;
}

uint64_t checksum(uintptr_t data, int64_t count) {
    return in_pieces(count, [&](int64_t first, int64_t size) {
        return checksum_from(first / 8, at<const uint8_t>(data) + first, size);
    });
}

// (errno-like 0 or 1 where the file ended or could not be read, checksum).
std::tuple<int, uint64_t> read_file(int file, int64_t offset, uintptr_t to, int64_t count) {
    std::atomic<int> failed = 0;
    const uint64_t sum = in_pieces(count, [&](int64_t first, int64_t size) -> uint64_t {
        uint8_t* piece = at<uint8_t>(to) + first;
        if (!read_piece(file, offset + first, piece, size)) {
            failed = 1;
            return 0;
        }
        return checksum_from(first / 8, piece, size);
    });
    return {failed, sum};
}

}  // namespace

void bind_load(nanobind::module_& m) {
    m.def("checksum", &checksum, Unlocked());
    m.def("read_file", &read_file, Unlocked());
}

}  // namespace coderv2
