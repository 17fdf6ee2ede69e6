// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/sequencer.hh"

#include <algorithm>

namespace gempim::logic_pim {

using dram::Command;
using dram::Controller;
using dram::Op;

Sequencer::Sequencer(const LogicPimParams &p, const dram::DramParams &d, std::vector<Job> jobs, Ps start)
    : params_(p), geometry_(p, d), rules_(bundle_rules(p, d)), jobs_(std::move(jobs)),
      unit_clock_(static_cast<Ps>(p.unit_clock_nCK) * d.tCK_ps), column_distance_(rules_.column_distance),
      read_done_(dram::Timing(d).read_done), write_done_(dram::Timing(d).write_done), rcd_(dram::Timing(d).rcd),
      rcd_wr_(dram::Timing(d).rcd_wr), column_slot_(dram::Timing(d).column_slot), rows_(d.rows), columns_(d.columns()),
      groups_(d.bank_groups), single_activates_(p.activation_limit == "normal"),
      space_of_bank_(d.ranks * d.banks_per_rank()), job_end_(jobs_.size(), 0), next_row_(geometry_.spaces, 0),
      delay_(geometry_.spaces, Delay::kNone), yield_before_(geometry_.spaces, 0),
      asked_since_(geometry_.spaces, kForever), start_(start), path_free_(start), end_(start) {
    for (std::uint32_t s = 0; s < geometry_.spaces; ++s) {
        for (const std::uint32_t b : rules_.bundles[s].banks) {
            space_of_bank_[b] = s;
        }
    }
    enter_job();
    load_opening_job();
}

/** Make `job_` the one whose columns move. */
void Sequencer::enter_job() {
    if (job_ == jobs_.size()) {
        return;
    }
    const std::int32_t after = job().after;
    job_ready_ = std::max(start_, after < 0 ? 0 : job_end_[static_cast<std::size_t>(after)]);
    columns_left_ = job().columns * job().sweeps;
}

/**
 * Spread the rows of `opening_` over its spaces in turn; the last row may be shorter. Rows behind ordinary writes are
 * not opened before these are done: they could hold the bundle that the writes go to.
 */
void Sequencer::load_opening_job() {
    unopened_.clear();
    if (opening_ == jobs_.size() || jobs_[opening_].kind == JobKind::kBankWrite) {
        return;
    }
    const Job &j = jobs_[opening_];
    const std::uint64_t spaces = j.spaces.size();
    const std::uint64_t full = j.columns / columns_;
    turn_ %= spaces;
    unopened_.assign(spaces, full / spaces * columns_);
    for (std::uint64_t i = 0; i < full % spaces; ++i) {
        unopened_[(turn_ + i) % spaces] += columns_;
    }
    unopened_[(turn_ + full) % spaces] += j.columns % columns_;
}

Sequencer::RowTask Sequencer::next_row(std::size_t place) {
    RowTask task;
    task.job = opening_;
    task.space = jobs_[opening_].spaces[place];
    task.row = next_row_[task.space];
    task.columns = static_cast<std::uint32_t>(std::min<std::uint64_t>(columns_, unopened_[place]));
    next_row_[task.space] = (task.row + 1) % rows_;
    unopened_[place] -= task.columns;
    turn_ = place + 1;
    if (std::all_of(unopened_.begin(), unopened_.end(), [](std::uint64_t c) { return c == 0; })) {
        ++opening_;
        load_opening_job();
    }
    return task;
}

std::size_t Sequencer::active_slots() const {
    return static_cast<std::size_t>(
        std::count_if(slots_.begin(), slots_.end(), [](const Slot &s) { return s.phase != Phase::kClosing; }));
}

/** Whether a bundle can be taken now; if not, why is remembered for its next row. */
bool Sequencer::may_take(std::uint32_t space, Controller &controller) {
    for (const Slot &s : slots_) {
        if (s.task.space == space) {
            return false;
        }
    }
    const Ps refreshed = controller.state().refreshing_until(space);
    if (refreshed > controller.now() || controller.refresh_wanted(rules_.bundles[space])) {
        delay_[space] = Delay::kRefresh;
        if (refreshed > controller.now()) {
            wake_ = std::min(wake_, refreshed);
        }
        return false;
    }
    if (controller.serves_older(rules_.bundles[space], yield_before_[space])) {
        delay_[space] = std::max(delay_[space], Delay::kConflict);
        return false;
    }
    return true;
}

void Sequencer::take(RowTask task, Controller &controller) {
    const std::uint32_t space = task.space;
    const bool rows_of_xpu = controller.state().any_open(space);
    task.delay = std::max({task.delay, delay_[space], rows_of_xpu ? Delay::kConflict : Delay::kNone});
    counters_.conflicts += rows_of_xpu || delay_[space] == Delay::kConflict;
    delay_[space] = Delay::kNone;
    controller.state().hold(space, true);
    if (controller.has_requests(rules_.bundles[space])) {
        asked_since_[space] = controller.now();
    }
    slots_.push_back({task, Phase::kClear, 0, 0, true});
}

/** Take the bundle of one more row. @return whether one was taken */
bool Sequencer::acquire_one(Controller &controller) {
    // Rows that a refresh has closed come first; rows of later jobs leave one place for them.
    const std::size_t places = params_.rows_ahead + 1 - std::min<std::size_t>(active_slots(), params_.rows_ahead + 1);
    if (places == 0) {
        return false;
    }
    for (std::size_t i = 0; i < suspended_.size(); ++i) {
        if (may_take(suspended_[i].space, controller)) {
            const RowTask task = suspended_[i];
            suspended_.erase(suspended_.begin() + static_cast<std::ptrdiff_t>(i));
            take(task, controller);
            return true;
        }
        if (!params_.reorder_spaces) {
            return false;
        }
    }
    if (opening_ == jobs_.size() || (!suspended_.empty() && places == 1 && opening_ > suspended_.front().job)) {
        return false;
    }
    const std::size_t spaces = unopened_.size();
    for (std::size_t i = 0; i < spaces; ++i) {
        const std::size_t place = (turn_ + i) % spaces;
        if (unopened_[place] > 0) {
            if (may_take(jobs_[opening_].spaces[place], controller)) {
                take(next_row(place), controller);
                return true;
            }
            if (!params_.reorder_spaces) {
                return false;
            }
        }
    }
    return false;
}

void Sequencer::release(std::size_t index, Controller &controller) {
    const std::uint32_t space = slots_[index].task.space;
    controller.state().hold(space, false);
    yield_before_[space] = controller.arrivals();
    if (asked_since_[space] != kForever) {
        counters_.xpu_conflict_ps += controller.now() - asked_since_[space];
        asked_since_[space] = kForever;
    }
    slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(index));
}

/** Leave bundles in which a bank waits for its refresh. */
void Sequencer::make_room_for_refresh(Controller &controller) {
    for (std::size_t i = 0; i < slots_.size();) {
        Slot &slot = slots_[i];
        if (slot.phase == Phase::kClosing || !controller.refresh_wanted(rules_.bundles[slot.task.space])) {
            ++i;
            continue;
        }
        slot.task.delay = Delay::kRefresh;
        suspended_.push_back(slot.task);
        if (slot.phase == Phase::kClear) {
            release(i, controller);
        } else {
            slot.phase = Phase::kClosing;
            ++i;
        }
    }
}

void Sequencer::run_bank_writes(Controller &controller) {
    if (job_ == jobs_.size() || job().kind != JobKind::kBankWrite) {
        return;
    }
    if (controller.now() < job_ready_) {
        wake_ = std::min(wake_, job_ready_);
        return;
    }
    if (!bank_writes_) {
        std::vector<std::vector<std::uint32_t>> banks;
        for (const std::uint32_t s : job().spaces) {
            banks.push_back(rules_.bundles[s].banks);
        }
        bank_writes_.emplace(std::move(banks), groups_, columns_, rows_, rows_ / 4 * 3, job().columns * geometry_.banks,
                             true);
    }
    if (bank_writes_->left() > 0) {
        bank_writes_before_ = kForever;
        return;
    }
    bank_writes_before_ = std::min(bank_writes_before_, controller.arrivals());
    if (controller.oldest(true) >= bank_writes_before_) {
        bank_writes_.reset();
        job_done(controller.now() + write_done_);
        opening_ = job_;
        load_opening_job();
    }
}

void Sequencer::plan(Controller &controller) {
    wake_ = kForever;
    run_bank_writes(controller);
    make_room_for_refresh(controller);
    while (acquire_one(controller)) {
    }
}

void Sequencer::xpu_asks(std::uint32_t bank, Ps now) {
    const std::uint32_t space = space_of_bank_[bank];
    if (asked_since_[space] != kForever) {
        return;
    }
    for (const Slot &s : slots_) {
        if (s.task.space == space) {
            asked_since_[space] = now;
        }
    }
}

/** The open row whose column is next. */
const Sequencer::Slot *Sequencer::streaming() const {
    const Slot *first = nullptr;
    for (const Slot &s : slots_) {
        if (s.phase == Phase::kClosing || s.task.job != job_) {
            continue;
        }
        if (!params_.reorder_spaces) {
            // The oldest one or none: and none while an older row waits for its refresh.
            return s.phase == Phase::kOpen && suspended_.empty() ? &s : nullptr;
        }
        if (s.phase == Phase::kOpen && (!first || (s.task.moved > 0 && first->task.moved == 0))) {
            first = &s;
        }
    }
    return first;
}

/** The row command that a bundle needs next, and when it may go. */
std::pair<Op, Ps> Sequencer::row_command(std::size_t index, const dram::ChannelState &state) const {
    const Slot &slot = slots_[index];
    const std::uint32_t space = slot.task.space;
    if (slot.phase == Phase::kClosing || (slot.phase == Phase::kClear && state.any_open(space))) {
        return {Op::kBundlePre, state.earliest_bundle_pre(space)};
    }
    if (single_activates_) {
        return {Op::kAct, state.earliest_act(rules_.bundles[space].banks[slot.opened])};
    }
    return {Op::kBundleAct, state.earliest_bundle_act(space)};
}

Sequencer::Candidate Sequencer::peek(const Controller &controller) const {
    Candidate best;
    const dram::ChannelState &state = controller.state();
    const auto consider = [&](Op op, std::size_t slot, Ps earliest, std::uint64_t order) {
        const Ps time = std::max(earliest, controller.now());
        if (time < best.time || (time == best.time && order < best.order)) {
            best = {time, order, op, static_cast<std::uint32_t>(slot)};
        }
    };
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].phase != Phase::kOpen) {
            const auto [op, earliest] = row_command(i, state);
            consider(op, i, earliest, i + 1);
        }
    }
    if (const Slot *slot = streaming()) {
        const bool write = job().kind == JobKind::kWrite;
        const Ps ready = std::max(module_free_, job_ready_);
        consider(write ? Op::kBundleWr : Op::kBundleRd, static_cast<std::size_t>(slot - slots_.data()),
                 std::max(ready, state.earliest_bundle_column(slot->task.space, write)), 0);
    }
    return best;
}

Sequencer::Candidate Sequencer::skip_columns(const Candidate &c, const Controller &controller, Ps limit) {
    Slot &slot = slots_[c.bank];
    RowTask &task = slot.task;
    const std::uint32_t left = task.columns - task.moved % task.columns; // of this sweep
    // The first column of a row has a wait of its own, the last of a sweep an end: both are sent one by one.
    if (slot.fresh || left < 3) {
        return c;
    }
    Ps until = std::min(limit, wake_);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].phase != Phase::kOpen) {
            until = std::min(until, row_command(i, controller.state()).second);
        }
    }
    const Ps module = sweep_clocks(job(), task.moved / task.columns) * unit_clock_;
    const Ps distance = std::max({column_distance_, module, column_slot_});
    if (until <= c.time) {
        return c;
    }
    const std::uint64_t skipped = std::min<std::uint64_t>(left - 2, (until - c.time - 1) / distance);
    if (skipped == 0) {
        return c;
    }
    count_gap(slot, c.time);
    const std::uint64_t more = skipped - 1; // columns that are left out and follow another one of the same sweep
    counters_.pim_busy_ps += more * column_distance_;
    counters_.stall_compute_ps += more * (std::max(column_distance_, module) - column_distance_);
    counters_.stall_bus_ps += more * (distance - std::max(column_distance_, module));
    counters_.unit_clocks += skipped * sweep_clocks(job(), task.moved / task.columns);
    (job().kind == JobKind::kWrite ? counters_.pim_column_writes : counters_.pim_columns) += skipped;
    task.moved += static_cast<std::uint32_t>(skipped);
    columns_left_ -= skipped;
    const Ps last_left_out = c.time + more * distance;
    path_free_ = last_left_out + column_distance_;
    module_free_ = last_left_out + module;
    Candidate last = c;
    last.time = c.time + skipped * distance;
    return last;
}

void Sequencer::issue(const Candidate &c, Controller &controller, dram::Trace *trace) {
    Slot &slot = slots_[c.bank];
    const std::uint32_t space = slot.task.space;
    const dram::Bundle &bundle = rules_.bundles[space];
    const std::uint32_t rank = bundle.ranks.front();
    const Ps row_to_column = job_write(slot.task.job) ? rcd_wr_ : rcd_;
    switch (c.op) {
    case Op::kBundlePre:
        controller.send_for_guest({Op::kBundlePre, rank, space, 0, 0}, c.time, trace);
        if (slot.phase == Phase::kClosing) {
            release(c.bank, controller);
        }
        break;
    case Op::kBundleAct:
        controller.send_for_guest({Op::kBundleAct, rank, space, slot.task.row, 0}, c.time, trace);
        slot.phase = Phase::kOpen;
        slot.open_at = c.time + row_to_column;
        slot.fresh = true;
        counters_.pim_acts += bundle.banks.size();
        break;
    case Op::kAct: {
        const std::uint32_t bank = bundle.banks[slot.opened];
        controller.send_for_guest({Op::kAct, controller.state().rank_of(bank), bank, slot.task.row, 0}, c.time, trace);
        slot.phase = ++slot.opened == bundle.banks.size() ? Phase::kOpen : Phase::kOpening;
        slot.open_at = c.time + row_to_column;
        slot.fresh = true;
        ++counters_.pim_acts;
        break;
    }
    default:
        issue_column(slot, c.time, controller, trace);
        break;
    }
}

void Sequencer::issue_column(Slot &slot, Ps now, Controller &controller, dram::Trace *trace) {
    RowTask &task = slot.task;
    const Job &j = job();
    const bool write = j.kind == JobKind::kWrite;
    count_gap(slot, now);
    controller.send_for_guest({write ? Op::kBundleWr : Op::kBundleRd, rules_.bundles[task.space].ranks.front(),
                               task.space, task.row, task.moved % task.columns},
                              now, trace);
    const std::uint32_t clocks = sweep_clocks(j, task.moved / task.columns);
    counters_.unit_clocks += clocks;
    ++(write ? counters_.pim_column_writes : counters_.pim_columns);
    path_free_ = now + column_distance_;
    module_free_ = now + clocks * unit_clock_;
    slot.fresh = false;
    if (++task.moved == task.columns * j.sweeps) {
        slot.phase = Phase::kClosing;
    }
    if (--columns_left_ == 0) {
        const Ps computed = j.quanta ? (clocks + params_.unit_latency_clocks) * unit_clock_ : 0;
        job_done(now + (write ? write_done_ : read_done_ + computed));
    }
}

/** Divide the time since the last column into what kept the path busy and what it waited for. */
void Sequencer::count_gap(const Slot &slot, Ps now) {
    counters_.pim_busy_ps += column_distance_;
    Ps at = path_free_;
    const auto until = [&](Ps time) {
        const Ps waited = std::min(now, std::max(time, at)) - at;
        at += waited;
        return waited;
    };
    counters_.stall_compute_ps += until(module_free_);
    counters_.stall_operand_ps += until(job_ready_);
    (slot.task.delay == Delay::kRefresh    ? counters_.stall_refresh_ps
     : slot.task.delay == Delay::kConflict ? counters_.stall_conflict_ps
                                           : counters_.stall_row_ps) += slot.fresh ? until(slot.open_at) : 0;
    counters_.stall_bus_ps += until(now);
}

void Sequencer::job_done(Ps done) {
    const Job &j = job();
    Ps end = done;
    if (j.vector_unit >= 0) {
        Ps &free = vector_free_[static_cast<std::size_t>(j.vector_unit)];
        end = std::max(done, free) + j.vector_ps;
        free = end;
    }
    job_end_[job_] = end;
    end_ = std::max(end_, end);
    ++job_;
    if (job_ == jobs_.size()) {
        counters_.drain_ps = end_ - std::min(end_, path_free_);
    }
    enter_job();
}

/** Clocks of the module for one column in one of its sweeps. */
std::uint32_t Sequencer::sweep_clocks(const Job &j, std::uint32_t sweep) const {
    return (j.quanta / j.sweeps + (sweep < j.quanta % j.sweeps)) * geometry_.quantum_clocks;
}

} // namespace gempim::logic_pim
