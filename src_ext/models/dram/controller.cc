// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/controller.hh"

#include <algorithm>
#include <utility>

namespace gempim::dram {

namespace {

// Candidate::order: refresh first, then column commands, then row commands; the request's age decides within a kind.
constexpr std::uint64_t kRefreshFirst = 0;
constexpr std::uint64_t kColumn = std::uint64_t{1} << 62;
constexpr std::uint64_t kRow = std::uint64_t{2} << 62;

} // namespace

Controller::Controller(const DramParams &p, BundleRules bundles)
    : state_(p, std::move(bundles)), queues_{RequestQueue(p.read_queue, p.ranks * p.banks_per_rank()),
                                             RequestQueue(p.write_queue, p.ranks * p.banks_per_rank())},
      refresh_(p.ranks), conflict_(p.ranks * p.banks_per_rank(), 0), banks_per_rank_(p.banks_per_rank()),
      banks_per_group_(p.banks_per_group), refresh_banks_(p.refresh_banks), per_bank_(p.per_bank_refresh()),
      write_high_(p.write_high), write_low_(p.write_low) {
    const Ps clocks = p.refresh_interval_nCK();
    for (std::uint32_t r = 0; r < p.ranks; ++r) {
        refresh_[r].due = clocks * (r + 1) / p.ranks * p.tCK_ps;
    }
    next_due_ = refresh_[0].due;
}

void Controller::run_until(Ps limit, Trace *trace) {
    if (limit <= skipped_) {
        return;
    }
    limit -= skipped_;
    do {
        if (!trace) {
            skip_idle_refreshes(limit);
        }
    } while (step(limit, trace));
    // Commands go on clock edges.
    const Ps clock = state_.timing().clock;
    now_ = std::max(now_, (limit + clock - 1) / clock * clock);
}

void Controller::begin_transfer() {
    ++transfer_;
    pending_ = 0;
    transfer_beat_ = 0;
}

Ps Controller::finish_transfer(Trace *trace) {
    while (pending_ > 0) {
        step(kForever, trace);
    }
    return transfer_beat_ + skipped_;
}

void Controller::finish_all(Trace *trace) {
    while (!idle()) {
        step(kForever, trace);
    }
}

DramCounters Controller::counters(Ps now) const {
    DramCounters c = counters_;
    c.act_standby_ps += state_.act_standby(now - skipped_);
    c.pre_standby_ps = (now - standby_origin_) * refresh_.size() - c.act_standby_ps;
    return c;
}

void Controller::reset_counters(Ps now) {
    counters_ = {};
    standby_origin_ = now;
    state_.reset_standby(now - skipped_);
}

void Controller::skip_time(Ps time, const DramCounters &events) {
    skipped_ += time;
    counters_.acts += events.acts;
    counters_.pres += events.pres;
    counters_.reads += events.reads;
    counters_.writes += events.writes;
    counters_.refs += events.refs;
    counters_.act_standby_ps += events.act_standby_ps;
    counters_.row_hits += events.row_hits;
    counters_.row_misses += events.row_misses;
    counters_.row_conflicts += events.row_conflicts;
    counters_.turnarounds += events.turnarounds;
}

std::uint64_t Controller::skip_rounds(const Controller &earlier, std::uint64_t requests, std::uint64_t max_rounds) {
    const DramCounters &c = counters_;
    const DramCounters &e = earlier.counters_;
    const bool write = writing_;
    if (refreshes_pending_ || earlier.refreshes_pending_ || write != earlier.writing_ || idle() ||
        c.row_hits != e.row_hits + requests || c.acts != e.acts || c.pres != e.pres || c.refs != e.refs ||
        c.turnarounds != e.turnarounds || c.reads != e.reads + (write ? 0 : requests) ||
        c.writes != e.writes + (write ? requests : 0) || last_beat_ - now_ != earlier.last_beat_ - earlier.now_ ||
        !queues_[write].same_but_newer(earlier.queues_[write], requests) ||
        !queues_[!write].same_but_newer(earlier.queues_[!write], 0) || !queues_[write].only_hits() ||
        !state_.repeats_hits(earlier.state_, earlier.now_, now_ - earlier.now_)) {
        return 0;
    }
    const Ps round = now_ - earlier.now_;
    const Ps before_refresh = (next_due_ - now_) / round;
    const std::uint64_t rounds = std::min(max_rounds, before_refresh > 0 ? before_refresh - 1 : 0);
    const Ps time = rounds * round;
    state_.repeat_hits(earlier.state_, time);
    now_ += time;
    last_beat_ += time;
    transfer_beat_ += time;
    (write ? counters_.writes : counters_.reads) += rounds * requests;
    counters_.row_hits += rounds * requests;
    return rounds;
}

void Controller::shift_rows(std::uint32_t rows, std::uint32_t row_count) {
    state_.shift_rows(rows, row_count);
    queues_[0].shift_rows(rows, row_count);
    queues_[1].shift_rows(rows, row_count);
}

void Controller::choose_direction() {
    const RequestQueue &reads = queues_[0];
    const RequestQueue &writes = queues_[1];
    if (writing_) {
        writing_ = !(writes.empty() || (writes.size() <= write_low_ && !reads.empty()));
    } else {
        writing_ = writes.size() >= write_high_ || (reads.empty() && !writes.empty());
    }
}

/** Issue the next command if it goes before `limit` (channel time). @return whether there was one */
bool Controller::step(Ps limit, Trace *trace) {
    for (;;) {
        Candidate best = writing_ ? best_request<true>() : best_request<false>();
        if (refreshes_pending_) {
            consider_refresh(best);
        }
        if (next_due_ <= best.time) {
            // From its due time on the rank takes no requests, so the choice is open again.
            if (next_due_ >= limit) {
                return false;
            }
            make_refresh_due();
            continue;
        }
        if (best.time >= limit) {
            return false;
        }
        now_ = best.time;
        issue(best, trace);
        return true;
    }
}

template <bool kWrite> Controller::Candidate Controller::best_request() const {
    const RequestQueue &queue = queues_[kWrite];
    Ps best_time = kForever;
    std::uint64_t best_order = std::numeric_limits<std::uint64_t>::max();
    std::uint32_t best_bank = 0;
    for (const std::uint16_t bank : queue.active()) {
        if ((refreshes_pending_ && waits_for_refresh(bank)) || state_.held(bank)) {
            continue;
        }
        Ps time;
        std::uint64_t order;
        if (const std::uint16_t hit = queue.hit(bank); hit != RequestQueue::kNone) {
            time = kWrite ? state_.earliest_wr(bank) : state_.earliest_rd(bank);
            order = kColumn + queue[hit].age;
        } else {
            time =
                state_.open_row(bank) == ChannelState::kClosed ? state_.earliest_act(bank) : state_.earliest_pre(bank);
            order = kRow + queue[queue.oldest(bank)].age;
        }
        time = std::max(time, now_);
        if (time < best_time || (time == best_time && order < best_order)) {
            best_time = time;
            best_order = order;
            best_bank = bank;
        }
    }
    Op op = kWrite ? Op::kWr : Op::kRd;
    if (best_order >= kRow) {
        op = state_.open_row(best_bank) == ChannelState::kClosed ? Op::kAct : Op::kPre;
    }
    return {best_time, best_order, op, best_bank};
}

void Controller::consider_refresh(Candidate &best) const {
    for (std::uint32_t r = 0; r < refresh_.size(); ++r) {
        if (!refresh_[r].pending) {
            continue;
        }
        const auto consider = [&](Op op, std::uint32_t target, Ps earliest) {
            const Ps time = std::max(earliest, now_);
            if (time < best.time || (time == best.time && kRefreshFirst < best.order)) {
                best = {time, kRefreshFirst, op, target};
            }
        };
        if (per_bank_) {
            // One after the other: REFpb in the order of the banks, while rows of later ones are being closed.
            bool first = true;
            for (std::uint32_t i = refresh_[r].next; i < refresh_[r].next + refresh_[r].left; ++i, first = false) {
                const std::uint32_t bank = bank_in_turn(r, i);
                if (state_.open_row(bank) == ChannelState::kClosed) {
                    if (first) {
                        consider(Op::kRefBank, bank, state_.earliest_ref_bank(bank));
                    }
                } else if (!state_.held(bank)) {
                    consider(Op::kPre, bank, state_.earliest_pre(bank));
                }
            }
            continue;
        }
        if (state_.open_banks(r) == 0) {
            consider(Op::kRef, r, state_.earliest_ref(r));
            continue;
        }
        for (std::uint32_t bank = r * banks_per_rank_; bank < (r + 1) * banks_per_rank_; ++bank) {
            if (state_.open_row(bank) != ChannelState::kClosed && !state_.held(bank)) {
                consider(Op::kPre, bank, state_.earliest_pre(bank));
            }
        }
    }
}

/** The bank of a rank that is refreshed at `place` in turn: by number in the bank group, then by group. */
std::uint32_t Controller::bank_in_turn(std::uint32_t rank, std::uint32_t place) const {
    const std::uint32_t groups = banks_per_rank_ / banks_per_group_;
    return rank * banks_per_rank_ + place % groups * banks_per_group_ + place / groups;
}

bool Controller::waits_for_refresh(std::uint32_t bank) const {
    const std::uint32_t rank = state_.rank_of(bank);
    const Refresh &r = refresh_[rank];
    if (!r.pending || !per_bank_) {
        return r.pending;
    }
    const std::uint32_t in_rank = bank - rank * banks_per_rank_;
    const std::uint32_t groups = banks_per_rank_ / banks_per_group_;
    const std::uint32_t place = in_rank % banks_per_group_ * groups + in_rank / banks_per_group_;
    return place >= r.next && place < r.next + r.left;
}

bool Controller::refresh_wanted(const Bundle &bundle) const {
    return refreshes_pending_ &&
           std::any_of(bundle.banks.begin(), bundle.banks.end(), [&](std::uint32_t b) { return waits_for_refresh(b); });
}

bool Controller::serves_older(const Bundle &bundle, std::uint64_t age) const {
    const RequestQueue &queue = queues_[writing_];
    return std::any_of(bundle.banks.begin(), bundle.banks.end(), [&](std::uint32_t b) {
        const std::uint16_t slot = queue.oldest(b);
        return slot != RequestQueue::kNone && queue[slot].age < age;
    });
}

std::uint64_t Controller::oldest(bool write) const {
    std::uint64_t age = std::numeric_limits<std::uint64_t>::max();
    for (const std::uint16_t bank : queues_[write].active()) {
        age = std::min(age, queues_[write][queues_[write].oldest(bank)].age);
    }
    return age;
}

bool Controller::has_requests(const Bundle &bundle) const {
    return std::any_of(bundle.banks.begin(), bundle.banks.end(), [&](std::uint32_t b) {
        return queues_[0].oldest(b) != RequestQueue::kNone || queues_[1].oldest(b) != RequestQueue::kNone;
    });
}

Controller::Candidate Controller::peek() const {
    Candidate best = writing_ ? best_request<true>() : best_request<false>();
    if (refreshes_pending_) {
        consider_refresh(best);
    }
    return best;
}

Ps Controller::send_for_guest(const Command &command, Ps time, Trace *trace) {
    now_ = time;
    const Ps done = send(command, trace);
    const bool opens = command.op == Op::kBundleAct;
    if (opens || command.op == Op::kBundlePre) {
        for (const std::uint32_t b : state_.bundles()[command.bank].banks) {
            row_changed(b, opens ? command.row : ChannelState::kClosed);
        }
    } else if (command.op == Op::kAct) {
        row_changed(command.bank, command.row);
    }
    return done;
}

void Controller::make_refresh_due() {
    now_ = std::max(now_, next_due_);
    Ps next = kForever;
    for (Refresh &r : refresh_) {
        if (!r.pending && r.due == next_due_) {
            r.pending = true;
            r.left = refresh_banks_;
            ++refreshes_pending_;
        } else if (!r.pending) {
            next = std::min(next, r.due);
        }
    }
    next_due_ = next;
}

/** An idle channel with closed rows only refreshes: count all but the last REF before `limit` instead of sending them.
 */
void Controller::skip_idle_refreshes(Ps limit) {
    if (!idle() || refreshes_pending_ || limit < next_due_ + 2 * refresh_interval()) {
        return;
    }
    for (std::uint32_t r = 0; r < refresh_.size(); ++r) {
        if (state_.open_banks(r)) {
            return;
        }
    }
    next_due_ = kForever;
    for (Refresh &r : refresh_) {
        const Ps intervals = (limit - 1 - r.due) / refresh_interval();
        r.due += intervals * refresh_interval();
        counters_.refs += intervals * refresh_commands();
        if (per_bank_) {
            r.next = static_cast<std::uint32_t>((r.next + intervals * refresh_banks_) % banks_per_rank_);
        }
        next_due_ = std::min(next_due_, r.due);
    }
}

Ps Controller::send(const Command &command, Trace *trace) {
    if (trace) {
        trace->record(now_ + skipped_, command);
    }
    return state_.issue(command, now_);
}

void Controller::row_changed(std::uint32_t bank, std::uint32_t row) {
    queues_[0].row_changed(bank, row);
    queues_[1].row_changed(bank, row);
}

void Controller::issue(const Candidate &c, Trace *trace) {
    RequestQueue &queue = queues_[writing_];
    switch (c.op) {
    case Op::kAct: {
        const std::uint16_t slot = queue.oldest(c.bank);
        const std::uint32_t row = queue[slot].at.row;
        queue.set_outcome(slot, conflict_[c.bank] ? RowOutcome::kConflict : RowOutcome::kMiss);
        conflict_[c.bank] = 0;
        send({Op::kAct, state_.rank_of(c.bank), c.bank, row, 0}, trace);
        row_changed(c.bank, row);
        ++counters_.acts;
        break;
    }
    case Op::kPre:
        conflict_[c.bank] = c.order != kRefreshFirst;
        send({Op::kPre, state_.rank_of(c.bank), c.bank, state_.open_row(c.bank), 0}, trace);
        row_changed(c.bank, ChannelState::kClosed);
        ++counters_.pres;
        break;
    case Op::kRef:
        send({Op::kRef, c.bank, c.bank * banks_per_rank_, 0, 0}, trace);
        refreshed(c.bank);
        break;
    case Op::kRefBank: {
        const std::uint32_t rank = state_.rank_of(c.bank);
        send({Op::kRefBank, rank, c.bank, 0, 0}, trace);
        Refresh &r = refresh_[rank];
        r.next = (r.next + 1) % banks_per_rank_;
        if (--r.left == 0) {
            refreshed(rank);
        } else {
            ++counters_.refs;
        }
        break;
    }
    case Op::kRd:
    case Op::kWr:
        issue_column(c, trace);
        break;
    default:
        break; // commands to bundles come from a second controller (send_for_guest)
    }
}

/** The last REF of a due time has been sent. */
void Controller::refreshed(std::uint32_t rank) {
    Refresh &r = refresh_[rank];
    r.pending = false;
    r.due += refresh_interval();
    --refreshes_pending_;
    next_due_ = std::min(next_due_, r.due);
    ++counters_.refs;
}

void Controller::issue_column(const Candidate &c, Trace *trace) {
    RequestQueue &queue = queues_[writing_];
    const Request request = queue[queue.hit(c.bank)];
    const Ps beat = send({c.op, state_.rank_of(c.bank), c.bank, request.at.row, request.at.column}, trace);
    queue.pop_hit(c.bank);
    last_beat_ = std::max(last_beat_, beat);
    if (request.transfer == transfer_) {
        --pending_;
        transfer_beat_ = std::max(transfer_beat_, beat);
    }
    ++(writing_ ? counters_.writes : counters_.reads);
    ++(request.outcome == RowOutcome::kHit    ? counters_.row_hits
       : request.outcome == RowOutcome::kMiss ? counters_.row_misses
                                              : counters_.row_conflicts);
    counters_.turnarounds += any_column_ && last_column_write_ != writing_;
    any_column_ = true;
    last_column_write_ = writing_;
    choose_direction();
}

} // namespace gempim::dram
