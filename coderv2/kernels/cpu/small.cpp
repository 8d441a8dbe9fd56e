#include "bind.h"

namespace coderv2 {

void bind_small(nanobind::module_&) {}

}  // namespace coderv2
