// SPDX-License-Identifier: BSD-3-Clause
#include "engine/bind_fields.hh"

namespace gempim::bind {
void bind_dram(py::module_ &) {}
} // namespace gempim::bind
