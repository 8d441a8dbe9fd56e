#include "bind.h"

namespace coderv2 {

void bind_attention(nanobind::module_&) {}

}  // namespace coderv2
