// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/pim_channel.hh"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace gempim::logic_pim {

namespace {

/** The clock edge at `time` or after it. */
Ps on_edge(Ps time, Ps clock) {
    return (time + clock - 1) / clock * clock;
}

} // namespace

PimChannel::PimChannel(const LogicPimParams &p, const dram::DramParams &d)
    : params_(p), dram_(d), controller_(d, bundle_rules(p, d)), instruction_(on_edge(p.instruction_ps, d.tCK_ps)),
      pim_first_(p.priority == "pim") {}

void PimChannel::arrive_at(Ps time) {
    if (idle()) {
        controller_.run_until(time, nullptr);
    }
    controller_.pass(on_edge(time, dram_.tCK_ps));
}

std::uint64_t PimChannel::push(const XpuRequest &request) {
    const std::uint64_t age = controller_.arrivals();
    controller_.push_now(request.at, request.write, true);
    if (pim_) {
        pim_->xpu_asks(request.at.bank, controller_.now());
    }
    return age;
}

void PimChannel::start(std::vector<Job> jobs) {
    if (!counting_) {
        counting_ = true;
        before_ = controller_.counters(controller_.now());
    }
    if (jobs.empty()) {
        return;
    }
    pim_ = std::make_unique<Sequencer>(params_, dram_, std::move(jobs), controller_.now() + instruction_);
    // The operator's time starts with its instruction; clocks before it are waiting for it.
    ended_.stall_operand_ps += instruction_;
}

/** Queue results that go to memory with ordinary writes, as far as there is room. */
void PimChannel::offer_bank_writes() {
    XpuTraffic *const writes = pim_->bank_writes();
    while (writes && writes->left() > 0) {
        const XpuRequest request = writes->front();
        if (controller_.queue_full(request.write)) {
            return;
        }
        controller_.push_now(request.at, request.write, false);
        pim_->xpu_asks(request.at.bank, controller_.now());
        writes->pop();
    }
}

PimChannel::Step PimChannel::step(Ps limit, bool nothing_to_come, dram::Trace *trace) {
    Step result;
    for (unsigned refreshes = 0;; ++refreshes) {
        if (refreshes > 1000) {
            throw std::logic_error("logic_pim: no command goes any more");
        }
        if (pim_) {
            pim_->plan(controller_);
            offer_bank_writes();
        }
        const dram::Controller::Candidate xpu = controller_.peek();
        const dram::Controller::Candidate own = pim_ ? pim_->peek(controller_) : dram::Controller::Candidate{};
        const Ps wake = pim_ ? std::max(pim_->wake(), controller_.now()) : kForever;
        const Ps next = std::min({xpu.time, own.time, wake});
        const Ps due = controller_.next_refresh_due();
        result.next = std::min(next, due);
        if (result.next >= limit) {
            end_jobs();
            return result;
        }
        if (due <= next) {
            controller_.make_refresh_due();
            continue;
        }
        result.done = true;
        if (wake < std::min(xpu.time, own.time)) {
            controller_.pass(wake);
        } else if (own.time < xpu.time || (own.time == xpu.time && pim_first_ && xpu.order != 0)) {
            const bool column = own.op == dram::Op::kBundleRd || own.op == dram::Op::kBundleWr;
            const bool alone = nothing_to_come && controller_.queued() == 0 && xpu.time == kForever;
            pim_->issue(column && alone && !trace ? pim_->skip_columns(own, controller_, due) : own, controller_,
                        trace);
        } else {
            result.served = xpu.op == dram::Op::kRd || xpu.op == dram::Op::kWr;
            result.write = xpu.op == dram::Op::kWr;
            result.age = dram::Controller::age_of(xpu);
            const dram::Timing &timing = controller_.state().timing();
            result.beat = xpu.time + (result.write ? timing.write_done : timing.read_done);
            controller_.issue_next(xpu, trace);
        }
        end_jobs();
        return result;
    }
}

/** Fold the jobs' counts once their rows are closed, and the ordinary commands' once the channel is idle. */
void PimChannel::end_jobs() {
    if (pim_ && pim_->finished()) {
        ended_.add(pim_->counters());
        pim_end_ = pim_->end();
        pim_.reset();
    }
    if (counting_ && idle()) {
        add_ordinary(ended_);
        counting_ = false;
    }
}

void PimChannel::add_ordinary(LogicPimCounters &sum) const {
    const dram::DramCounters now = controller_.counters(controller_.now());
    sum.xpu_acts += now.acts - before_.acts;
    sum.xpu_reads += now.reads - before_.reads;
    sum.xpu_writes += now.writes - before_.writes;
    sum.refs += now.refs - before_.refs;
}

LogicPimCounters PimChannel::counters() const {
    LogicPimCounters sum = ended_;
    if (pim_) {
        sum.add(pim_->counters());
    }
    if (counting_) {
        add_ordinary(sum);
    }
    return sum;
}

ChannelResult run_channel(const LogicPimParams &p, const dram::DramParams &d, std::vector<Job> jobs,
                          XpuTraffic &traffic, dram::Trace *trace) {
    PimChannel channel(p, d);
    const Ps interval = static_cast<Ps>(d.refresh_interval_nCK()) * d.tCK_ps;
    const Ps start = static_cast<Ps>(p.refresh_phase * static_cast<double>(interval / d.tCK_ps)) * d.tCK_ps;
    channel.idle_until(start, trace);
    channel.begin_transfer();
    const bool has_jobs = !jobs.empty();
    const bool has_traffic = traffic.left() > 0;
    channel.start(std::move(jobs));
    for (;;) {
        while (traffic.left() > 0 && !channel.queue_full(traffic.front().write)) {
            channel.push(traffic.front());
            traffic.pop();
        }
        if (channel.idle() && traffic.left() == 0) {
            break;
        }
        channel.step(PimChannel::kForever, traffic.left() == 0, trace);
    }
    ChannelResult result;
    result.counters = channel.counters();
    result.pim_ps = has_jobs ? channel.pim_end() - start : 0;
    result.xpu_ps = has_traffic ? channel.xpu_beat() - start : 0;
    return result;
}

} // namespace gempim::logic_pim
