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
 * requests, its rows are closed as soon as the timings allow, and REF is sent. Nothing is postponed or pulled in. With
 * per-bank refresh the same holds for the next `refresh_banks` banks of the rank, in the order of their number in the
 * bank group, then of the group.
 * - Requests to the banks of a bundle that is held (ChannelState::hold) wait; `peek`, `issue_next` and `send_for_guest`
 * let a second controller share the channel.
 *
 * Time is the channel's own and moves only by `run_until`, `make_room` and `finish`; `skip_time` shifts it against the
 * host's time. Copyable: a copy is the same channel with the same future.
 */
class Controller {
  public:
    static constexpr Ps kForever = std::numeric_limits<Ps>::max();
    static constexpr std::uint32_t kNoTransfer = std::numeric_limits<std::uint32_t>::max();

    explicit Controller(const DramParams &params, BundleRules bundles = {});

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
        push_now(at, write, true);
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
    /** From one due time of a rank's refresh to the next [ps]; `refresh_commands` REF or REFpb go in it. */
    Ps refresh_interval() const { return state_.timing().refresh_interval; }
    /** Until every bank has been refreshed once [ps]. */
    Ps refresh_cycle() const {
        return per_bank_ ? refresh_interval() * banks_per_rank_ / refresh_banks_ : refresh_interval();
    }
    std::uint64_t refresh_commands() const { return per_bank_ ? refresh_banks_ : 1; }
    /** Least distance of column commands [ps]. */
    Ps burst_distance() const { return state_.timing().ccd_s; }
    std::uint32_t ranks() const { return static_cast<std::uint32_t>(refresh_.size()); }

    /** A command that could go next. */
    struct Candidate {
        Ps time = kForever;
        std::uint64_t order = std::numeric_limits<std::uint64_t>::max(); ///< among equal times the lowest goes
        Op op = Op::kAct;
        std::uint32_t bank = 0; ///< or rank, for REF
    };

    // For a second controller on the same channel. All times are those of the channel, which has skipped none.
    ChannelState &state() { return state_; }
    const ChannelState &state() const { return state_; }
    /** Of a request's command that `peek` returned: the request's age, as `arrivals` was before it came. */
    static std::uint64_t age_of(const Candidate &c) { return c.order & ((std::uint64_t{1} << 62) - 1); }
    /** The next command of this controller unless something else happens first (a refresh falls due, the guest sends).
     */
    Candidate peek() const;
    /** Send the command that `peek` returned. */
    void issue_next(const Candidate &c, Trace *trace) {
        now_ = c.time;
        issue(c, trace);
    }
    /** Send a command of the second controller. @return its completion, as ChannelState::issue */
    Ps send_for_guest(const Command &command, Ps time, Trace *trace);
    /** First time at which another refresh falls due. */
    Ps next_refresh_due() const { return next_due_; }
    /** Take up the refreshes that fall due at `next_refresh_due`. */
    void make_refresh_due();
    /** Whether a bank of the bundle waits for its refresh. */
    bool refresh_wanted(const Bundle &bundle) const;
    /** Take one request now; its queue has room. `own`: it belongs to the current transfer. */
    void push_now(const Location &at, bool write, bool own) {
        queues_[write].push({at, next_age_++, own ? transfer_ : kNoTransfer, RowOutcome::kHit},
                            state_.open_row(at.bank));
        pending_ += own;
        choose_direction();
    }
    /** Last data beat of the current transfer so far [ps]. */
    Ps transfer_beat() const { return transfer_beat_; }
    bool queue_full(bool write) const { return queues_[write].full(); }
    /** Requests that have come so far: the age that the next one will have. */
    std::uint64_t arrivals() const { return next_age_; }
    /** Whether the queue that is being served has a request for the bundle that is older than `age`. */
    bool serves_older(const Bundle &bundle, std::uint64_t age) const;
    /** Age of the oldest queued request of a direction; the greatest number if there is none. */
    std::uint64_t oldest(bool write) const;
    /** Let the channel's time pass to `time` without a command. */
    void pass(Ps time) { now_ = std::max(now_, time); }
    /** Whether any queue has a request for the bundle. */
    bool has_requests(const Bundle &bundle) const;
    std::uint64_t queued() const { return queues_[0].size() + queues_[1].size(); }

  private:
    struct Refresh {
        Ps due;
        bool pending = false;   ///< due has passed: rows are being closed
        std::uint32_t next = 0; ///< per_bank: place in the order of the banks
        std::uint32_t left = 0; ///< per_bank: banks of this due time that still wait
    };

    bool step(Ps limit, Trace *trace);
    template <bool kWrite> Candidate best_request() const;
    void consider_refresh(Candidate &best) const;
    std::uint32_t bank_in_turn(std::uint32_t rank, std::uint32_t place) const;
    bool waits_for_refresh(std::uint32_t bank) const;
    void refreshed(std::uint32_t rank);
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
    std::uint32_t banks_per_group_;
    std::uint32_t refresh_banks_;
    bool per_bank_;
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
