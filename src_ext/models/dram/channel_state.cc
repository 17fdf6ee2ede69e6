// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/channel_state.hh"

#include <stdexcept>
#include <string>
#include <utility>

namespace gempim::dram {

namespace {

void raise(Ps &bound, Ps value) {
    bound = std::max(bound, value);
}

/** a - b, or 0: a constraint that lies in the past. */
Ps positive(Ps a, Ps b) {
    return a > b ? a - b : 0;
}

} // namespace

Timing::Timing(const DramParams &p) {
    const Ps ck = p.tCK_ps;
    clock = ck;
    act_slot = p.act_slots_nCK * ck;
    column_slot = p.column_slots_nCK * ck;
    burst = p.burst_nCK() * ck;
    rcd = p.tRCD_nCK * ck;
    rcd_wr = (p.tRCD_nCK - p.tRCD_WR_cut_nCK) * ck;
    rp = p.tRP_nCK * ck;
    ras = p.tRAS_nCK * ck;
    rc = p.tRC_nCK * ck;
    rrd_s = p.tRRD_S_nCK * ck;
    rrd_l = p.tRRD_L_nCK * ck;
    faw = p.tFAW_nCK * ck;
    ccd_s = p.tCCD_S_nCK * ck;
    ccd_l = p.tCCD_L_nCK * ck;
    ccd_l_wr = p.tCCD_L_WR_nCK * ck;
    rtp = p.tRTP_nCK * ck;
    rtw = p.tRTW_nCK * ck;
    ppd = p.tPPD_nCK * ck;
    rfc = p.tRFC_nCK() * ck;
    rfc_bank = p.tRFCpb_nCK() * ck;
    rrefd = p.tRREFD_nCK * ck;
    refresh_interval = p.refresh_interval_nCK() * ck;
    const Ps cl = p.CL_nCK * ck;
    const Ps cwl = p.CWL_nCK * ck;
    read_done = cl + burst;
    write_done = cwl + burst;
    wr_to_pre = write_done + p.tWR_nCK * ck;
    wr_to_rd_s = write_done + p.tWTR_S_nCK * ck;
    wr_to_rd_l = write_done + p.tWTR_L_nCK * ck;
    // Between ranks only the data bus matters: the second burst starts tRTRS after the first one's end.
    const Ps rtrs = p.tRTRS_nCK * ck;
    rank_same = burst + rtrs;
    rank_rd_to_wr = positive(read_done + rtrs, cwl);
    rank_wr_to_rd = positive(write_done + rtrs, cl);
}

ChannelState::ChannelState(const DramParams &p, BundleRules bundles)
    : t_(p), rules_(std::move(bundles)), banks_per_rank_(p.banks_per_rank()), column_bus_(p.command_buses - 1),
      banks_(p.ranks * p.banks_per_rank()), groups_(p.ranks * p.bank_groups), ranks_(p.ranks) {
    for (std::uint32_t b = 0; b < banks_.size(); ++b) {
        banks_[b].group = b / p.banks_per_group;
        banks_[b].rank = b / banks_per_rank_;
    }
}

Ps ChannelState::earliest_ref(std::uint32_t rank) const {
    // next_act of a bank already holds tRP after PRE, tRC after ACT and tRFC after REF.
    Ps time = bus_free_[0];
    for (std::uint32_t b = rank * banks_per_rank_; b < (rank + 1) * banks_per_rank_; ++b) {
        raise(time, banks_[b].next_act);
    }
    return time;
}

Ps ChannelState::earliest(const Command &c, Ps now) const {
    switch (c.op) {
    case Op::kAct:
        return std::max(now, earliest_act(c.bank));
    case Op::kPre:
        return std::max(now, earliest_pre(c.bank));
    case Op::kRd:
        return std::max(now, earliest_rd(c.bank));
    case Op::kWr:
        return std::max(now, earliest_wr(c.bank));
    case Op::kRef:
        return std::max(now, earliest_ref(c.rank));
    case Op::kRefBank:
        return std::max(now, earliest_ref_bank(c.bank));
    case Op::kBundleAct:
        return std::max(now, earliest_bundle_act(c.bank));
    case Op::kBundlePre:
        return std::max(now, earliest_bundle_pre(c.bank));
    case Op::kBundleRd:
    case Op::kBundleWr:
        return std::max(now, earliest_bundle_column(c.bank, c.op == Op::kBundleWr));
    }
    throw std::logic_error("dram: unknown command");
}

void ChannelState::require(bool ok, const Command &c, Ps now, const char *why) const {
    if (!ok) {
        throw std::logic_error(std::string("dram: ") + op_name(c.op) + " to rank " + std::to_string(c.rank) + " bank " +
                               std::to_string(c.bank) + " at " + std::to_string(now) + " ps: " + why);
    }
}

Ps ChannelState::issue(const Command &c, Ps now) {
    require(earliest(c, now) == now, c, now, "too early");
    switch (c.op) {
    case Op::kAct:
        require(banks_[c.bank].open_row == kClosed, c, now, "a row is open");
        act(c, now);
        return now + t_.rcd;
    case Op::kPre:
        require(banks_[c.bank].open_row != kClosed, c, now, "no row is open");
        pre(c, now);
        return now + t_.rp;
    case Op::kRd:
        require(banks_[c.bank].open_row == c.row, c, now, "the row is not open");
        read(c, now);
        return now + t_.read_done;
    case Op::kWr:
        require(banks_[c.bank].open_row == c.row, c, now, "the row is not open");
        write(c, now);
        return now + t_.write_done;
    case Op::kRef:
        require(ranks_[c.rank].open_banks == 0, c, now, "a bank is open");
        refresh(c, now);
        return now + t_.rfc;
    case Op::kRefBank:
        require(banks_[c.bank].open_row == kClosed, c, now, "the bank is open");
        refresh_bank(c, now);
        return now + t_.rfc_bank;
    case Op::kBundleAct:
        require(!any_open(c.bank), c, now, "a row is open");
        bundle_act(c, now);
        return now + t_.rcd;
    case Op::kBundlePre:
        require(any_open(c.bank), c, now, "no row is open");
        bundle_pre(c, now);
        return now + t_.rp;
    case Op::kBundleRd:
    case Op::kBundleWr:
        require(all_have(rules_.bundles[c.bank], c.row), c, now, "the row is not open in all banks");
        bundle_column(c, c.op == Op::kBundleWr, now);
        return now + (c.op == Op::kBundleWr ? t_.write_done : t_.read_done);
    }
    throw std::logic_error("dram: unknown command");
}

void ChannelState::open_bank(Bank &bank, std::uint32_t row, Ps now) {
    Rank &rank = ranks_[bank.rank];
    bank.open_row = row;
    bank.next_rd = now + t_.rcd;
    bank.next_wr = now + t_.rcd_wr;
    raise(bank.next_pre, now + t_.ras);
    bank.next_act = now + t_.rc;
    if (rank.open_banks++ == 0) {
        rank.active_since = now;
    }
}

void ChannelState::close_bank(Bank &bank, Ps now) {
    Rank &rank = ranks_[bank.rank];
    bank.open_row = kClosed;
    raise(bank.next_act, now + t_.rp);
    if (--rank.open_banks == 0) {
        rank.active_ps += now - rank.active_since;
    }
}

void ChannelState::act(const Command &c, Ps now) {
    Bank &bank = banks_[c.bank];
    Rank &rank = ranks_[bank.rank];
    open_bank(bank, c.row, now);
    groups_[bank.group].next_act = now + t_.rrd_l;
    rank.window_end[rank.oldest] = now + t_.faw;
    rank.oldest = (rank.oldest + 1) % 4;
    raise(rank.next_act, std::max(now + t_.rrd_s, rank.window_end[rank.oldest]));
    raise(rank.next_ref_bank, now + t_.rrd_s);
    bus_free_[0] = now + t_.act_slot;
}

void ChannelState::pre(const Command &c, Ps now) {
    Bank &bank = banks_[c.bank];
    close_bank(bank, now);
    ranks_[bank.rank].next_pre = now + t_.ppd;
    bus_free_[0] = now + t_.clock;
}

void ChannelState::read(const Command &c, Ps now) {
    Bank &bank = banks_[c.bank];
    raise(bank.next_pre, now + t_.rtp);
    raise(groups_[bank.group].next_rd, now + t_.ccd_l);
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
        const bool same = r == bank.rank;
        raise(ranks_[r].next_rd, now + (same ? t_.ccd_s : t_.rank_same));
        raise(ranks_[r].next_wr, now + (same ? t_.rtw : t_.rank_rd_to_wr));
    }
    bus_free_[column_bus_] = now + t_.column_slot;
}

void ChannelState::write(const Command &c, Ps now) {
    Bank &bank = banks_[c.bank];
    Group &group = groups_[bank.group];
    raise(bank.next_pre, now + t_.wr_to_pre);
    raise(group.next_wr, now + t_.ccd_l_wr);
    raise(group.next_rd, now + t_.wr_to_rd_l);
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
        const bool same = r == bank.rank;
        raise(ranks_[r].next_wr, now + (same ? t_.ccd_s : t_.rank_same));
        raise(ranks_[r].next_rd, now + (same ? t_.wr_to_rd_s : t_.rank_wr_to_rd));
    }
    bus_free_[column_bus_] = now + t_.column_slot;
}

void ChannelState::refresh(const Command &c, Ps now) {
    for (std::uint32_t b = c.rank * banks_per_rank_; b < (c.rank + 1) * banks_per_rank_; ++b) {
        banks_[b].next_act = banks_[b].refresh_end = now + t_.rfc;
    }
    bus_free_[0] = now + t_.clock;
}

void ChannelState::refresh_bank(const Command &c, Ps now) {
    Bank &bank = banks_[c.bank];
    Rank &rank = ranks_[bank.rank];
    bank.next_act = bank.refresh_end = now + t_.rfc_bank;
    raise(rank.next_act, now + t_.rrefd);
    raise(rank.next_ref_bank, now + t_.rrefd);
    raise(rank.after_ref_bank, now + t_.rrefd);
    bus_free_[0] = now + t_.clock;
}

/**
 * Call `f(time of a, time of b, constrains row hits)` for every time that constrains commands, of two states of one
 * channel.
 */
template <class A, class B, class F> void ChannelState::visit_times(A &a, B &b, F &&f) {
    f(a.bus_free_[0], b.bus_free_[0], true);
    f(a.bus_free_[1], b.bus_free_[1], true);
    for (std::size_t i = 0; i < a.banks_.size(); ++i) {
        f(a.banks_[i].next_rd, b.banks_[i].next_rd, true);
        f(a.banks_[i].next_wr, b.banks_[i].next_wr, true);
        f(a.banks_[i].next_act, b.banks_[i].next_act, false);
        f(a.banks_[i].next_pre, b.banks_[i].next_pre, false);
    }
    for (std::size_t i = 0; i < a.groups_.size(); ++i) {
        f(a.groups_[i].next_rd, b.groups_[i].next_rd, true);
        f(a.groups_[i].next_wr, b.groups_[i].next_wr, true);
        f(a.groups_[i].next_act, b.groups_[i].next_act, false);
    }
    for (std::size_t i = 0; i < a.ranks_.size(); ++i) {
        auto &x = a.ranks_[i];
        auto &y = b.ranks_[i];
        f(x.next_rd, y.next_rd, true);
        f(x.next_wr, y.next_wr, true);
        f(x.next_act, y.next_act, false);
        f(x.next_pre, y.next_pre, false);
        f(x.next_ref_bank, y.next_ref_bank, false);
        f(x.after_ref_bank, y.after_ref_bank, false);
        for (std::size_t w = 0; w < x.window_end.size(); ++w) {
            f(x.window_end[w], y.window_end[w], false);
        }
    }
}

bool ChannelState::repeats_hits(const ChannelState &earlier, Ps then, Ps period) const {
    for (std::size_t b = 0; b < banks_.size(); ++b) {
        if (banks_[b].open_row != earlier.banks_[b].open_row) {
            return false;
        }
    }
    bool repeats = true;
    visit_times(*this, earlier, [&](Ps now, Ps before, bool for_hits) {
        const bool moved = now == before + period;
        const bool at_rest = now == before && (before <= then || !for_hits);
        repeats &= moved || at_rest;
    });
    return repeats;
}

void ChannelState::repeat_hits(const ChannelState &earlier, Ps time) {
    visit_times(*this, earlier, [&](Ps &now, Ps before, bool) { now += now != before ? time : 0; });
}

void ChannelState::shift_rows(std::uint32_t rows, std::uint32_t row_count) {
    for (Bank &b : banks_) {
        if (b.open_row != kClosed) {
            b.open_row = (b.open_row + rows) % row_count;
        }
    }
}

Ps ChannelState::act_standby(Ps now) const {
    Ps sum = 0;
    for (const Rank &r : ranks_) {
        sum += r.active_ps + (r.open_banks ? now - r.active_since : 0);
    }
    return sum;
}

void ChannelState::reset_standby(Ps now) {
    for (Rank &r : ranks_) {
        r.active_ps = 0;
        r.active_since = now;
    }
}

} // namespace gempim::dram
