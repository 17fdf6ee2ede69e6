// SPDX-License-Identifier: BSD-3-Clause
// One pseudo-channel with its two controllers, command by command.
#pragma once

#include "models/dram/controller.hh"
#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"
#include "models/logic_pim/work.hh"

namespace gempim::logic_pim {

/** What one pseudo-channel did; times count from the operator's start. */
struct ChannelResult {
    Ps pim_ps = 0;             ///< the last job's end; 0 without jobs
    Ps xpu_ps = 0;             ///< the xPU's last data beat; 0 without requests
    LogicPimCounters counters; ///< commands and times only: what a channel alone can count
};

/**
 * Run the PIM's jobs and the xPU's requests beside each other until both are done.
 *
 * The xPU's controller is that of `dram/`: it takes requests as its queues have room. Both controllers share the
 * command buses and the banks; of two commands for the same clock the one of `params.priority` goes first, after a
 * refresh.
 */
ChannelResult run_channel(const LogicPimParams &params, const dram::DramParams &dram, std::vector<Job> jobs,
                          XpuTraffic &traffic, dram::Trace *trace);

} // namespace gempim::logic_pim
