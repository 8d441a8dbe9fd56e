#include "bind.h"

namespace coderv2 {

void bind_linear(nanobind::module_&) {}

}  // namespace coderv2
