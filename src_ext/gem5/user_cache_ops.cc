// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/user_cache_ops.hh"

#include "arch/arm/regs/misc.hh"
#include "arch/arm/regs/misc_types.hh"
#include "cpu/thread_context.hh"
#include "sim/full_system.hh"

namespace gem5 {

void let_programs_flush(System &system) {
    if (FullSystem) {
        return; // there Linux does it
    }
    for (ThreadContext *tc : system.threads) {
        ArmISA::SCTLR sctlr = tc->readMiscReg(ArmISA::MISCREG_SCTLR_EL1);
        sctlr.uci = 1;
        tc->setMiscReg(ArmISA::MISCREG_SCTLR_EL1, sctlr);
    }
}

} // namespace gem5
