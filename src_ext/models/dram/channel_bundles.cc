// SPDX-License-Identifier: BSD-3-Clause
// The part of ChannelState for commands to bundles of banks.
#include <algorithm>

#include "models/dram/channel_state.hh"

namespace gempim::dram {

bool ChannelState::any_open(std::uint32_t bundle) const {
    const std::vector<std::uint32_t> &banks = rules_.bundles[bundle].banks;
    return std::any_of(banks.begin(), banks.end(), [&](std::uint32_t b) { return banks_[b].open_row != kClosed; });
}

Ps ChannelState::refreshing_until(std::uint32_t bundle) const {
    Ps end = 0;
    for (const std::uint32_t b : rules_.bundles[bundle].banks) {
        end = std::max(end, banks_[b].refresh_end);
    }
    return end;
}

bool ChannelState::all_have(const Bundle &bundle, std::uint32_t row) const {
    return row != kClosed && std::all_of(bundle.banks.begin(), bundle.banks.end(),
                                         [&](std::uint32_t b) { return banks_[b].open_row == row; });
}

void ChannelState::hold(std::uint32_t bundle, bool held) {
    for (const std::uint32_t b : rules_.bundles[bundle].banks) {
        banks_[b].held = held;
    }
}

Ps ChannelState::earliest_bundle_act(std::uint32_t bundle) const {
    Ps time = bus_free_[0];
    for (const std::uint32_t r : rules_.bundles[bundle].ranks) {
        time = std::max(time, ranks_[r].after_ref_bank);
    }
    for (const std::uint32_t b : rules_.bundles[bundle].banks) {
        time = std::max(time, banks_[b].next_act);
    }
    return time;
}

Ps ChannelState::earliest_bundle_pre(std::uint32_t bundle) const {
    Ps time = bus_free_[0];
    for (const std::uint32_t r : rules_.bundles[bundle].ranks) {
        time = std::max(time, ranks_[r].next_pre);
    }
    for (const std::uint32_t b : rules_.bundles[bundle].banks) {
        if (banks_[b].open_row != kClosed) {
            time = std::max(time, banks_[b].next_pre);
        }
    }
    return time;
}

Ps ChannelState::earliest_bundle_column(std::uint32_t bundle, bool write) const {
    const Bundle &bun = rules_.bundles[bundle];
    const bool same = bun.ranks.front() == path_.last_rank;
    Ps time = bus_free_[column_bus_];
    time = std::max(time, write ? (same ? path_.next_wr : path_.next_wr_other)
                                : (same ? path_.next_rd : path_.next_rd_other));
    for (const std::uint32_t b : bun.banks) {
        time = std::max(time, write ? banks_[b].next_wr : banks_[b].next_rd);
    }
    if (rules_.shared_group_io) {
        for (const std::uint32_t b : bun.banks) {
            const Group &group = groups_[banks_[b].group];
            time = std::max(time, write ? group.next_wr : group.next_rd);
        }
    }
    return time;
}

void ChannelState::bundle_act(const Command &c, Ps now) {
    for (const std::uint32_t b : rules_.bundles[c.bank].banks) {
        open_bank(banks_[b], c.row, now);
    }
    bus_free_[0] = now + t_.act_slot;
}

void ChannelState::bundle_pre(const Command &c, Ps now) {
    for (const std::uint32_t b : rules_.bundles[c.bank].banks) {
        if (banks_[b].open_row != kClosed) {
            close_bank(banks_[b], now);
        }
    }
    for (const std::uint32_t r : rules_.bundles[c.bank].ranks) {
        ranks_[r].next_pre = now + t_.ppd;
    }
    bus_free_[0] = now + t_.clock;
}

void ChannelState::bundle_column(const Command &c, bool write, Ps now) {
    const Bundle &bun = rules_.bundles[c.bank];
    const Ps next = now + rules_.column_distance;
    const Ps other = next + rules_.rank_switch;
    path_.last_rank = bun.ranks.front();
    if (write) {
        path_.next_wr = next;
        path_.next_wr_other = other;
        path_.next_rd = now + t_.wr_to_rd_l;
        path_.next_rd_other = std::max(other, now + t_.rank_wr_to_rd);
    } else {
        path_.next_rd = next;
        path_.next_rd_other = other;
        path_.next_wr = now + t_.rtw;
        path_.next_wr_other = std::max(other, now + t_.rank_rd_to_wr);
    }
    for (const std::uint32_t b : bun.banks) {
        Bank &bank = banks_[b];
        bank.next_pre = std::max(bank.next_pre, now + (write ? t_.wr_to_pre : t_.rtp));
        if (rules_.shared_group_io) {
            Group &group = groups_[bank.group];
            group.next_rd = std::max(group.next_rd, now + (write ? t_.wr_to_rd_l : t_.ccd_l));
            group.next_wr = std::max(group.next_wr, write ? now + t_.ccd_l_wr : 0);
        }
    }
    bus_free_[column_bus_] = now + t_.column_slot;
}

} // namespace gempim::dram
