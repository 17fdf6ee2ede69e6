// SPDX-License-Identifier: BSD-3-Clause
// The memory controller of one channel: FR-FCFS, open page, write batches, refresh.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "models/dram/channel_state.hh"
#include "models/dram/request_queue.hh"

namespace gempim::dram {

/**
 * Schedules the commands of one channel.
 *
 * - FR-FCFS: of all commands that could go at the earliest possible clock, column commands before ACT and PRE, then the
 *   oldest request. A row is closed only when no queued request of the current direction hits it, or for refresh.
 * - Reads are served until `write_high` writes are queued or no read is left; writes until only `write_low` are left
 * and reads wait, or none is left.
 * - Each rank is refreshed every tREFI, ranks at equal distances. When its REF falls due, the rank takes no further
 * requests, its rows are closed as soon as the timings allow, and REF is sent. Nothing is postponed or pulled in.
 *
 * Time is the channel's own and moves only by `run_until`, `make_room` and `finish`; `skip_time` shifts it against the
 * host's time. Copyable: a copy is the same channel with the same future.
 */
class Controller {
  public:
    static constexpr Ps kForever = std::numeric_limits<Ps>::max();

    explicit Controller(const DramParams &params);

    /** Issue every command that goes before `limit` [ps, host time]; afterwards the channel's time is at least `limit`.
     */
    void run_until(Ps limit, Trace *trace);

    /** Requests pushed from now on belong to a new transfer. */
    void begin_transfer();

    /** Take one request now, as soon as its queue has room. */
    void push(const Location &at, bool write, Trace *trace) {
        while (queues_[write].full()) {
            step(kForever, trace);
        }
        queues_[write].push({at, next_age_++, transfer_, RowOutcome::kHit}, state_.open_row(at.bank));
        ++pending_;
        choose_direction();
    }

    /** Issue commands until all requests of the current transfer are done. @return their last data beat [ps, host time]
     */
    Ps finish_transfer(Trace *trace);

    /** Issue commands until no request is queued. */
    void finish_all(Trace *trace);

    /** Time of the last command or of the last `run_until` [ps, host time]. */
    Ps now() const { return now_ + skipped_; }

    /** Last data beat of all column commands so far [ps, host time]. */
    Ps last_beat() const { return last_beat_ ? last_beat_ + skipped_ : 0; }

    /** Events so far, standby times up to `now` [host time] included, bytes excluded. */
    DramCounters counters(Ps now) const;

    /** Set all counters to zero; standby time counts from `now` [host time] on. */
    void reset_counters(Ps now);

    /**
     * Let `time` [ps, whole clocks] pass with the events of `events` in it and the channel afterwards in the same state
     * as before: the extrapolation of a steady state. Standby times of `events`: only act_standby_ps is read.
     */
    void skip_time(Ps time, const DramCounters &events);

    /**
     * Steady rounds of row hits, left out exactly.
     *
     * `earlier` is this channel `requests` pushed requests ago. If the channel is now in the same state but for time,
     * and only row hits happened in between, then every further round of requests to the same rows repeats it.
     * @param max_rounds rounds that would be pushed to the same rows
     * @return rounds that were left out: at most max_rounds, and none beyond the next refresh
     */
    std::uint64_t skip_rounds(const Controller &earlier, std::uint64_t requests, std::uint64_t max_rounds);

    /** Move open rows and queued requests `rows` further on (modulo `row_count`). */
    void shift_rows(std::uint32_t rows, std::uint32_t row_count);

    std::size_t queue_capacity(bool write) const { return queues_[write].capacity(); }
    Ps clock() const { return state_.timing().clock; }
    Ps refresh_interval() const { return state_.timing().refi; }
    /** Least distance of column commands [ps]. */
    Ps burst_distance() const { return state_.timing().ccd_s; }
    std::uint32_t ranks() const { return static_cast<std::uint32_t>(refresh_.size()); }

  private:
    struct Refresh {
        Ps due;
        bool pending = false; ///< due has passed: rows are being closed
    };
    struct Candidate {
        Ps time = kForever;
        std::uint64_t order = std::numeric_limits<std::uint64_t>::max(); ///< among equal times the lowest goes
        Op op = Op::kAct;
        std::uint32_t bank = 0; ///< or rank, for REF
    };

    bool step(Ps limit, Trace *trace);
    template <bool kWrite> Candidate best_request() const;
    void consider_refresh(Candidate &best) const;
    void make_refresh_due();
    void skip_idle_refreshes(Ps limit);
    void issue(const Candidate &c, Trace *trace);
    void issue_column(const Candidate &c, Trace *trace);
    Ps send(const Command &command, Trace *trace);
    void row_changed(std::uint32_t bank, std::uint32_t row);
    void choose_direction();
    bool idle() const { return queues_[0].empty() && queues_[1].empty(); }

    ChannelState state_;
    std::array<RequestQueue, 2> queues_; ///< reads, writes
    std::vector<Refresh> refresh_;       ///< by rank
    std::vector<std::uint8_t> conflict_; ///< by bank: its last row was closed for a request
    Ps next_due_;                        ///< earliest `due` of the ranks that are not pending
    std::uint32_t refreshes_pending_ = 0;
    std::uint32_t banks_per_rank_;
    std::uint32_t write_high_;
    std::uint32_t write_low_;
    bool writing_ = false; ///< queue that is being served
    bool last_column_write_ = false;
    bool any_column_ = false;
    Ps now_ = 0;     ///< channel time
    Ps skipped_ = 0; ///< host time - channel time
    Ps last_beat_ = 0;
    std::uint64_t next_age_ = 0;
    std::uint32_t transfer_ = 0;
    std::uint64_t pending_ = 0; ///< requests of the current transfer that are queued
    Ps transfer_beat_ = 0;      ///< last data beat of the current transfer
    DramCounters counters_;
    Ps standby_origin_ = 0; ///< host time
};

} // namespace gempim::dram
