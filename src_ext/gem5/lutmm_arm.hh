// SPDX-License-Identifier: BSD-3-Clause
// `lutmm` as AArch64 instructions of gem5. The encoding is isa/lutmm.h's.
#pragma once

#include "arch/arm/types.hh"
#include "cpu/static_inst.hh"
#include "gem5/sram_pim.hh"

namespace gem5::ArmISA {

/** Whether the word is one of the defined functions of `lutmm`; every other word stays what gem5 makes of it. */
bool isLutmm(uint32_t word);

/** The instruction of a word that isLutmm. */
StaticInstPtr makeLutmm(ExtMachInst inst, SramPim &device);

} // namespace gem5::ArmISA
