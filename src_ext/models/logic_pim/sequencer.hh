// SPDX-License-Identifier: BSD-3-Clause
// The PIM's controller on the logic die: rows of its bundles in turn, columns at the pace of the path and the module.
#pragma once

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "models/dram/controller.hh"
#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"
#include "models/logic_pim/work.hh"

namespace gempim::logic_pim {

/**
 * Works through a list of jobs, as the second controller of a channel.
 *
 * - Rows of a job are spread over its spaces in turn. While a row is read, `rows_ahead` more are opened in other
 * bundles; a bundle is held from then until its row is closed, and the xPU's requests to it wait.
 * - A bundle in which the xPU has rows open is closed first. A bundle that the PIM has left is not taken again before
 * the requests that waited at that time are served (those in the direction that the xPU's controller serves).
 * - When a refresh of one of its banks falls due, the PIM closes the bundle and opens the row again afterwards.
 * - A column is read as soon as the path, the module, the row and the job's operands allow.
 */
class Sequencer {
  public:
    using Candidate = dram::Controller::Candidate;
    static constexpr Ps kForever = dram::Controller::kForever;

    /** @param start when the first job may begin [ps, channel time] */
    Sequencer(const LogicPimParams &params, const dram::DramParams &dram, std::vector<Job> jobs, Ps start);

    /** Take and release bundles as far as that is possible without a command. */
    void plan(dram::Controller &controller);
    /** The next command of the PIM; kForever when it waits for something. */
    Candidate peek(const dram::Controller &controller) const;
    void issue(const Candidate &c, dram::Controller &controller, dram::Trace *trace);

    /**
     * Leave out columns that repeat (exact). `c` is the column that `peek` gave, and nothing of the xPU is queued or to
     * come. Further columns of the same sweep follow at the same distance, each superseding all that the one before has
     * changed, until the sweep ends, a row command can go, or `limit`: only the last of them is sent.
     * @return the candidate for that last column
     */
    Candidate skip_columns(const Candidate &c, const dram::Controller &controller, Ps limit);

    /** A request of the xPU has been queued for `bank`. */
    void xpu_asks(std::uint32_t bank, Ps now);
    /** Ordinary writes that wait to be queued (result_write = bank); they come after the xPU's own. */
    XpuTraffic *bank_writes() { return bank_writes_ ? &*bank_writes_ : nullptr; }
    /** When the sequencer wants to be asked again although no command goes before; kForever if it does not. */
    Ps wake() const { return wake_; }

    /** Whether all jobs are done and all bundles closed. */
    bool finished() const { return job_ == jobs_.size() && slots_.empty(); }
    /** Whether all jobs are done; rows may still be open. */
    bool jobs_done() const { return job_ == jobs_.size(); }
    /** When the last job ended [ps, channel time]. */
    Ps end() const { return end_; }
    const LogicPimCounters &counters() const { return counters_; }

  private:
    /** Why a row is opened later than its turn; of several reasons the later one in this list counts. */
    enum class Delay : std::uint8_t { kNone, kConflict, kRefresh };
    /** One row of a job, and how much of it has been moved. */
    struct RowTask {
        std::size_t job = 0;
        std::uint32_t space = 0;
        std::uint32_t row = 0;
        std::uint32_t columns = 0;
        std::uint32_t moved = 0; ///< columns so far, all sweeps
        Delay delay = Delay::kNone;
    };
    enum class Phase : std::uint8_t {
        kClear,   ///< taken; rows of the xPU may be open in it
        kOpening, ///< some of its banks are open (single activates)
        kOpen,
        kClosing,
    };
    /** A bundle that the PIM holds. */
    struct Slot {
        RowTask task;
        Phase phase = Phase::kClear;
        std::uint32_t opened = 0; ///< banks, with single activates
        Ps open_at = 0;           ///< the row can be read or written from here on
        bool fresh = true;        ///< no column since it was opened
    };

    const Job &job() const { return jobs_[job_]; }
    bool job_write(std::size_t job) const { return jobs_[job].kind == JobKind::kWrite; }
    void enter_job();
    void load_opening_job();
    void run_bank_writes(dram::Controller &controller);
    void make_room_for_refresh(dram::Controller &controller);
    bool acquire_one(dram::Controller &controller);
    bool may_take(std::uint32_t space, dram::Controller &controller);
    void take(RowTask task, dram::Controller &controller);
    RowTask next_row(std::size_t place);
    void release(std::size_t slot, dram::Controller &controller);
    std::size_t active_slots() const;
    const Slot *streaming() const;
    std::pair<dram::Op, Ps> row_command(std::size_t slot, const dram::ChannelState &state) const;
    void issue_column(Slot &slot, Ps now, dram::Controller &controller, dram::Trace *trace);
    void count_gap(const Slot &slot, Ps now);
    void job_done(Ps done);
    std::uint32_t sweep_clocks(const Job &job, std::uint32_t sweep) const;

    LogicPimParams params_;
    Geometry geometry_;
    dram::BundleRules rules_;
    std::vector<Job> jobs_;
    Ps unit_clock_, column_distance_, read_done_, write_done_, rcd_, rcd_wr_, column_slot_;
    std::uint32_t rows_, columns_, groups_;
    bool single_activates_;
    std::vector<std::uint32_t> space_of_bank_;

    std::size_t job_ = 0;            ///< whose columns are being moved
    std::uint64_t columns_left_ = 0; ///< of job_, all sweeps
    Ps job_ready_ = 0;               ///< operands of job_ are there
    std::vector<Ps> job_end_;        ///< results there, vector unit included
    std::array<Ps, 2> vector_free_{};
    std::size_t opening_ = 0;             ///< whose rows are being opened: job_ or a later one
    std::vector<std::uint64_t> unopened_; ///< columns of opening_ that are in no row task yet, by place in its spaces
    std::size_t turn_ = 0;                ///< place whose row is next
    std::vector<RowTask> suspended_;      ///< rows that a refresh has closed, oldest first
    std::vector<Slot> slots_;             ///< in the order in which they were taken
    std::vector<std::uint32_t> next_row_; ///< by space
    std::vector<Delay> delay_;            ///< by space: why its next row waits
    std::vector<std::uint64_t> yield_before_; ///< by space: requests older than this go before the PIM
    std::vector<Ps> asked_since_;             ///< by space: kForever if no request waits for it
    std::optional<XpuStream> bank_writes_;
    std::uint64_t bank_writes_before_ = 0; ///< all of them are older requests than this

    Ps wake_ = kForever;
    Ps start_;
    Ps path_free_;       ///< last column command plus the least distance, or the start
    Ps module_free_ = 0; ///< when the module can take another column
    Ps end_;
    LogicPimCounters counters_;
};

} // namespace gempim::logic_pim
