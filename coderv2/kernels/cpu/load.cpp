// A file's bytes where they are mapped: their checksum, by all threads, and the way into memory of our own.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bind.h"
#include "pool.h"

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

#if defined(__linux__)
// Bytes of a private mapping, the same at the same addresses, in huge pages of our own: `data` and `count` are multiples of
// a huge page. Who reads meanwhile sees the old pages or the new ones, since the system swaps them in one step; nobody may
// write. False where the system has no room.
bool to_huge_pages(uintptr_t data, int64_t count) {
    constexpr int64_t HUGE = 1 << 21;
    const auto room = static_cast<uint8_t*>(
        mmap(nullptr, count + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (room == MAP_FAILED) return false;
    const int64_t before = -reinterpret_cast<intptr_t>(room) & (HUGE - 1);
    uint8_t* const fresh = room + before;
    madvise(fresh, count, MADV_HUGEPAGE);
    std::memcpy(fresh, at<const uint8_t>(data), count);
    const bool moved = mremap(fresh, count, count, MREMAP_MAYMOVE | MREMAP_FIXED, at<void>(data)) != MAP_FAILED;
    if (before) munmap(room, before);
    munmap(moved ? fresh + count : fresh, moved ? HUGE - before : count + HUGE - before);
    return moved;
}
#else
bool to_huge_pages(uintptr_t, int64_t) { return false; }
#endif

}  // namespace

void bind_load(nanobind::module_& m) {
    m.def("checksum", &checksum, Unlocked());
    m.def("to_huge_pages", &to_huge_pages, Unlocked());
}

}  // namespace coderv2
