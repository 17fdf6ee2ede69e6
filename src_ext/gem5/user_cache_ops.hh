// SPDX-License-Identifier: BSD-3-Clause
// Syscall emulation: what Linux lets programs do with caches.
#pragma once

#include "sim/system.hh"

namespace gem5 {

/** Let programs clean and invalidate cache lines (SCTLR_EL1.UCI), as Linux does; gem5's emulation of it forgets to. */
void let_programs_flush(System &system);

} // namespace gem5
