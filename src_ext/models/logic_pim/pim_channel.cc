// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/pim_channel.hh"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "models/logic_pim/sequencer.hh"

namespace gempim::logic_pim {

namespace {

constexpr Ps kForever = dram::Controller::kForever;

/** Queue what the xPU's controller has room for, in order. `own`: requests of the xPU itself. */
void offer(XpuTraffic &traffic, bool own, dram::Controller &controller, Sequencer &pim) {
    while (traffic.left() > 0) {
        const XpuRequest request = traffic.front();
        if (controller.queue_full(request.write)) {
            return;
        }
        controller.push_now(request.at, request.write, own);
        pim.xpu_asks(request.at.bank, controller.now());
        traffic.pop();
    }
}

} // namespace

ChannelResult run_channel(const LogicPimParams &p, const dram::DramParams &d, std::vector<Job> jobs,
                          XpuTraffic &traffic, dram::Trace *trace) {
    dram::Controller controller(d, bundle_rules(p, d));
    const Ps interval = static_cast<Ps>(d.refresh_interval_nCK()) * d.tCK_ps;
    const Ps start = static_cast<Ps>(p.refresh_phase * static_cast<double>(interval / d.tCK_ps)) * d.tCK_ps;
    controller.run_until(start, trace);
    const dram::DramCounters before = controller.counters(start);
    controller.begin_transfer();
    const bool has_jobs = !jobs.empty();
    const bool has_traffic = traffic.left() > 0;
    const Ps instruction = (p.instruction_ps + d.tCK_ps - 1) / d.tCK_ps * d.tCK_ps;
    Sequencer pim(p, d, std::move(jobs), start + instruction);
    const bool pim_first = p.priority == "pim";
    std::uint64_t refreshes_without_command = 0;

    while (!pim.finished() || traffic.left() > 0 || controller.queued() > 0) {
        offer(traffic, true, controller, pim);
        pim.plan(controller);
        if (XpuTraffic *writes = pim.bank_writes()) {
            offer(*writes, false, controller, pim);
        }
        const dram::Controller::Candidate xpu = controller.peek();
        const dram::Controller::Candidate own = pim.peek(controller);
        const Ps wake = std::max(pim.wake(), controller.now());
        const Ps next = std::min({xpu.time, own.time, wake});
        if (controller.next_refresh_due() <= next) {
            controller.make_refresh_due();
            if (++refreshes_without_command > 1000) {
                throw std::logic_error("logic_pim: no command goes any more");
            }
            continue;
        }
        refreshes_without_command = 0;
        if (wake < std::min(xpu.time, own.time)) {
            controller.pass(wake);
        } else if (own.time < xpu.time || (own.time == xpu.time && pim_first && xpu.order != 0)) {
            const bool column = own.op == dram::Op::kBundleRd || own.op == dram::Op::kBundleWr;
            const bool alone = traffic.left() == 0 && controller.queued() == 0 && xpu.time == kForever;
            const Ps limit = controller.next_refresh_due();
            pim.issue(column && alone && !trace ? pim.skip_columns(own, controller, limit) : own, controller, trace);
        } else {
            controller.issue_next(xpu, trace);
        }
    }

    ChannelResult result;
    result.counters = pim.counters();
    const dram::DramCounters after = controller.counters(controller.now());
    result.counters.xpu_acts = after.acts - before.acts;
    result.counters.xpu_reads = after.reads - before.reads;
    result.counters.xpu_writes = after.writes - before.writes;
    result.counters.refs = after.refs - before.refs;
    // The operator's time starts with its instruction; clocks before it are waiting for it.
    result.counters.stall_operand_ps += has_jobs ? instruction : 0;
    result.pim_ps = has_jobs ? pim.end() - start : 0;
    result.xpu_ps = has_traffic ? controller.transfer_beat() - start : 0;
    return result;
}

} // namespace gempim::logic_pim
