// SPDX-License-Identifier: BSD-3-Clause
// Debug flags of the plug-in's components: `run.py --pim-debug SramPim,PimDecoder`.
#pragma once

#include "base/debug.hh"

namespace gem5::debug {

inline SimpleFlag SramPim("SramPim", "Commands, tiles and memory traffic of the SRAM-PIM");
inline SimpleFlag PimDram("PimDram", "Commands of memory with PIM");
inline SimpleFlag PimDecoder("PimDecoder", "Decoding of lutmm");

} // namespace gem5::debug
