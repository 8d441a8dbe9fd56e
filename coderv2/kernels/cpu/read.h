// Bytes of an open file.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace coderv2 {

// All `count` of them; false where the file ends before or cannot be read.
inline bool read_piece(int file, int64_t offset, uint8_t* to, int64_t count) {
    while (count > 0) {
        const ssize_t got = pread(file, to, static_cast<size_t>(count), offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got;
        offset += got;
        count -= got;
    }
    return true;
}

}  // namespace coderv2
