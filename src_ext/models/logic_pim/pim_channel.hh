// SPDX-License-Identifier: BSD-3-Clause
// One pseudo-channel with its two controllers, command by command.
#pragma once

#include <memory>
#include <vector>

#include "models/dram/controller.hh"
#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"
#include "models/logic_pim/sequencer.hh"
#include "models/logic_pim/work.hh"

namespace gempim::logic_pim {

/**
 * The channel as long as a host keeps it: requests and jobs come whenever the host has some.
 *
 * The xPU's controller is that of `dram/`: it takes requests as its queues have room. Both controllers share the
 * command buses and the banks; of two commands for the same clock the one of `params.priority` goes first, after a
 * refresh. Time moves by `idle_until`, `arrive_at` and `step` only.
 */
class PimChannel {
  public:
    static constexpr Ps kForever = dram::Controller::kForever;

    PimChannel(const LogicPimParams &params, const dram::DramParams &dram);

    /** Nothing is queued and no job runs: let that go on until `time` [ps]; from then on commands go. */
    void idle_until(Ps time, dram::Trace *trace) { controller_.run_until(time, trace); }
    /** A request or jobs come at `time` [ps], later than every step so far: they count from the clock edge then. */
    void arrive_at(Ps time);

    bool queue_full(bool write) const { return controller_.queue_full(write); }
    /** Queue a request now; there is room. @return its age, which `step` tells when it is served */
    std::uint64_t push(const XpuRequest &request);
    /** Run jobs from now on; those before are done and their rows closed. */
    void start(std::vector<Job> jobs);
    /** Requests from now on count for `xpu_beat`. */
    void begin_transfer() { controller_.begin_transfer(); }

    /** What a step did. */
    struct Step {
        bool done = false;  ///< something was done; without it `next` is when there will be something
        Ps next = kForever; ///< [ps]
        bool served = false;
        bool write = false;
        std::uint64_t age = 0; ///< of the request that was served
        Ps beat = 0;           ///< its last data beat [ps]
    };
    /**
     * Do the next thing that comes before `limit` [ps]: one command, or passing the time to where the PIM looks again.
     * @param nothing_to_come no request will be pushed any more: columns that repeat may be left out (exact)
     * @throws std::logic_error when no command ever goes
     */
    Step step(Ps limit, bool nothing_to_come, dram::Trace *trace);

    Ps now() const { return controller_.now(); }
    bool idle() const { return !pim_ && controller_.queued() == 0; }
    /** Whether the jobs are not done, or their rows not closed. */
    bool pim_runs() const { return pim_ != nullptr; }
    bool jobs_done() const { return !pim_ || pim_->jobs_done(); }
    /** When the last job of the last `start` ended [ps]; known when `jobs_done`. */
    Ps pim_end() const { return pim_ ? pim_->end() : pim_end_; }
    /** Last data beat of the requests since `begin_transfer` [ps]. */
    Ps xpu_beat() const { return controller_.transfer_beat(); }
    /**
     * Commands and times of the jobs so far; commands of the xPU and refreshes only from the start of jobs until the
     * channel was idle again.
     */
    LogicPimCounters counters() const;
    /** All ordinary commands so far, whoever they were for; standby times up to `time` [ps]. */
    dram::DramCounters dram_counters(Ps time) const { return controller_.counters(time); }

  private:
    void offer_bank_writes();
    void end_jobs();
    void add_ordinary(LogicPimCounters &sum) const;

    LogicPimParams params_;
    dram::DramParams dram_;
    dram::Controller controller_;
    Ps instruction_; ///< whole clocks
    bool pim_first_;
    std::unique_ptr<Sequencer> pim_; ///< while jobs run
    Ps pim_end_ = 0;
    LogicPimCounters ended_;    ///< of jobs whose rows are closed, and of ordinary commands beside them
    bool counting_ = false;     ///< ordinary commands count
    dram::DramCounters before_; ///< when that began
};

/** What one pseudo-channel did; times count from the operator's start. */
struct ChannelResult {
    Ps pim_ps = 0;             ///< the last job's end; 0 without jobs
    Ps xpu_ps = 0;             ///< the xPU's last data beat; 0 without requests
    LogicPimCounters counters; ///< commands and times only: what a channel alone can count
};

/** Run the PIM's jobs and the xPU's requests beside each other until both are done, from an idle channel on. */
ChannelResult run_channel(const LogicPimParams &params, const dram::DramParams &dram, std::vector<Job> jobs,
                          XpuTraffic &traffic, dram::Trace *trace);

} // namespace gempim::logic_pim
