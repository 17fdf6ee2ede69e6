// SPDX-License-Identifier: BSD-3-Clause
// What the devices of one channel allow: open rows and the earliest time of every command.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "models/dram/bundle.hh"
#include "models/dram/command.hh"
#include "models/dram/dram_params.hh"

namespace gempim::dram {

/** The timing parameters in picoseconds (whole clocks), and the sums of them that commands need. */
struct Timing {
    explicit Timing(const DramParams &params);

    Ps clock, act_slot, column_slot, burst;
    Ps rcd, rcd_wr, rp, ras, rc, rrd_s, rrd_l, faw, ccd_s, ccd_l, ccd_l_wr, rtp, rtw, ppd, rfc, rfc_bank, rrefd,
        refresh_interval;
    Ps read_done, write_done;                   ///< RD or WR to its last data beat
    Ps wr_to_pre, wr_to_rd_s, wr_to_rd_l;       ///< WR to PRE or RD, write data included
    Ps rank_same, rank_rd_to_wr, rank_wr_to_rd; ///< column commands to two ranks: same direction, RD to WR, WR to RD
};

/**
 * The timing state of one channel: banks, bank groups, ranks and the command buses.
 *
 * Knows what is legal, not what is wise: `earliest` says when a command may go, `issue` sends it. Times are picoseconds
 * on clock edges. Copyable, so that a controller can try out the future on a copy.
 */
class ChannelState {
  public:
    static constexpr std::uint32_t kClosed = 0xFFFFFFFF;

    explicit ChannelState(const DramParams &params, BundleRules bundles = {});

    /**
     * First time >= now [ps] at which `command` meets every timing constraint, command-bus slots included.
     * The row state must fit already: ACT a closed bank, PRE an open one, RD and WR the open row, REF no open bank;
     * BACT closed banks, BPRE at least one open one, BRD and BWR the open row in all of them.
     */
    Ps earliest(const Command &command, Ps now) const;

    /**
     * Send `command` at `now`.
     * @return when it is complete [ps]: last data beat of RD and WR, bank usable after ACT, PRE and REF
     * @throws std::logic_error if `now` is too early or the row state does not fit
     */
    Ps issue(const Command &command, Ps now);

    std::uint32_t open_row(std::uint32_t bank) const { return banks_[bank].open_row; }
    const std::vector<Bundle> &bundles() const { return rules_.bundles; }
    /** Whether a bank of the bundle has an open row. */
    bool any_open(std::uint32_t bundle) const;
    /** End of the last refresh of its banks [ps]. */
    Ps refreshing_until(std::uint32_t bundle) const;
    /** Keep ordinary requests away from the banks of a bundle, or let them come again. */
    void hold(std::uint32_t bundle, bool held);
    bool held(std::uint32_t bank) const { return banks_[bank].held; }
    std::uint32_t rank_of(std::uint32_t bank) const { return banks_[bank].rank; }
    /** Open banks of a rank. */
    std::uint32_t open_banks(std::uint32_t rank) const { return ranks_[rank].open_banks; }
    const Timing &timing() const { return t_; }

    /** Time with an open bank up to `now`, summed over the ranks [ps]. */
    Ps act_standby(Ps now) const;
    /** Count standby time from `now` on. */
    void reset_standby(Ps now);

    /**
     * Whether row hits can go on from here as they did since `earlier`, `period` ago (at `then`): every constraint has
     * moved along by `period`, or has stayed and either has passed already or does not constrain row hits.
     */
    bool repeats_hits(const ChannelState &earlier, Ps then, Ps period) const;
    /** After `repeats_hits`: let the same row hits go on for `time`, a multiple of the period. */
    void repeat_hits(const ChannelState &earlier, Ps time);
    /** Move every open row `rows` further on (modulo `row_count`). */
    void shift_rows(std::uint32_t rows, std::uint32_t row_count);

    // The parts of `earliest` for a scheduler that has looked at the row state itself.
    Ps earliest_act(std::uint32_t bank) const {
        const Bank &b = banks_[bank];
        return std::max({bus_free_[0], b.next_act, groups_[b.group].next_act, ranks_[b.rank].next_act});
    }
    Ps earliest_pre(std::uint32_t bank) const {
        const Bank &b = banks_[bank];
        return std::max({bus_free_[0], b.next_pre, ranks_[b.rank].next_pre});
    }
    Ps earliest_rd(std::uint32_t bank) const {
        const Bank &b = banks_[bank];
        return std::max({bus_free_[column_bus_], b.next_rd, groups_[b.group].next_rd, ranks_[b.rank].next_rd});
    }
    Ps earliest_wr(std::uint32_t bank) const {
        const Bank &b = banks_[bank];
        return std::max({bus_free_[column_bus_], b.next_wr, groups_[b.group].next_wr, ranks_[b.rank].next_wr});
    }
    Ps earliest_ref(std::uint32_t rank) const;
    Ps earliest_ref_bank(std::uint32_t bank) const {
        const Bank &b = banks_[bank];
        return std::max({bus_free_[0], b.next_act, groups_[b.group].next_act, ranks_[b.rank].next_ref_bank});
    }
    Ps earliest_bundle_act(std::uint32_t bundle) const;
    Ps earliest_bundle_pre(std::uint32_t bundle) const;
    Ps earliest_bundle_column(std::uint32_t bundle, bool write) const;

  private:
    struct Bank {
        Ps next_act = 0, next_pre = 0, next_rd = 0, next_wr = 0;
        Ps refresh_end = 0;
        std::uint32_t open_row = kClosed;
        std::uint32_t group = 0; ///< counted through all ranks
        std::uint32_t rank = 0;
        bool held = false;
    };
    struct Group {
        Ps next_act = 0, next_rd = 0, next_wr = 0;
    };
    struct Rank {
        Ps next_act = 0, next_pre = 0, next_rd = 0, next_wr = 0;
        Ps next_ref_bank = 0, after_ref_bank = 0; ///< REFpb: the next one of the rank, and BACT after it
        std::array<Ps, 4> window_end{};           ///< ends of the tFAW windows of the last four ACT
        std::uint32_t oldest = 0;                 ///< index into window_end
        std::uint32_t open_banks = 0;
        Ps active_since = 0;
        Ps active_ps = 0;
    };

    template <class A, class B, class F> static void visit_times(A &a, B &b, F &&f);
    void require(bool ok, const Command &command, Ps now, const char *why) const;
    void act(const Command &command, Ps now);
    void pre(const Command &command, Ps now);
    void read(const Command &command, Ps now);
    void write(const Command &command, Ps now);
    void refresh(const Command &command, Ps now);
    void refresh_bank(const Command &command, Ps now);
    void open_bank(Bank &bank, std::uint32_t row, Ps now);
    void close_bank(Bank &bank, Ps now);
    void bundle_act(const Command &command, Ps now);
    void bundle_pre(const Command &command, Ps now);
    void bundle_column(const Command &command, bool write, Ps now);
    bool all_have(const Bundle &bundle, std::uint32_t row) const;

    /** The data path of the bundles: its next column from the rank that it served last, and from another one. */
    struct Path {
        Ps next_rd = 0, next_wr = 0, next_rd_other = 0, next_wr_other = 0;
        std::uint32_t last_rank = 0;
    };

    Timing t_;
    BundleRules rules_;
    std::uint32_t banks_per_rank_;
    std::uint32_t column_bus_; ///< index into bus_free_: 0 if row and column commands share one
    std::vector<Bank> banks_;
    std::vector<Group> groups_;
    std::vector<Rank> ranks_;
    std::array<Ps, 2> bus_free_{}; ///< row (or only) command bus, column command bus
    Path path_;
};

} // namespace gempim::dram
