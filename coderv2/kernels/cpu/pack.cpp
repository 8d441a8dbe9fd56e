#include "bind.h"

namespace coderv2 {

void bind_pack(nanobind::module_&) {}

}  // namespace coderv2
