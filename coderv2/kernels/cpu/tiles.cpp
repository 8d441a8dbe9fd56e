#include "tiles.h"

#include "bind.h"

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace coderv2 {
namespace {

bool used = false;

// Linux gives a process the registers' contents to keep when it asks, and then to all its threads.
bool granted() {
#if defined(__AMX_INT8__)
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}

}  // namespace

bool uses_tiles() { return used; }

void bind_tiles(nanobind::module_& m) {
    // From now on, where the compiler knew them and the operating system grants them: returns whether they are.
    m.def("use_tiles", [](bool wanted) { return used = wanted && granted(); });
    m.def("uses_tiles", &uses_tiles);
}

}  // namespace coderv2
