// SPDX-License-Identifier: BSD-3-Clause
// Parameters and event counters of the DRAM model.
#pragma once

#include <cstdint>
#include <string>

#include "models/common/info.hh"

namespace gempim::dram {

/**
 * One DRAM technology: organisation, timing (in clocks of the command bus), controller.
 *
 * Every timing is a minimum distance between the issue clocks of two commands unless its description says otherwise.
 * The two that the standards give in time, whatever the speed bin, are in picoseconds. There are no defaults: a host
 * fills every field (gempim/data/dram holds sets with sources).
 */
struct DramParams {
    std::uint32_t tCK_ps = 0;
    std::uint32_t bus_bits = 0;
    std::uint32_t subchannels = 0;
    std::uint32_t BL = 0;
    std::uint32_t beats_per_clock = 0;
    std::uint32_t ranks = 0;
    std::uint32_t bank_groups = 0;
    std::uint32_t banks_per_group = 0;
    std::uint32_t rows = 0;
    std::uint32_t row_bytes = 0;
    std::uint32_t CL_nCK = 0;
    std::uint32_t CWL_nCK = 0;
    std::uint32_t tRCD_nCK = 0;
    std::uint32_t tRCD_WR_cut_nCK = 0;
    std::uint32_t tRP_nCK = 0;
    std::uint32_t tRAS_nCK = 0;
    std::uint32_t tRC_nCK = 0;
    std::uint32_t tRRD_S_nCK = 0;
    std::uint32_t tRRD_L_nCK = 0;
    std::uint32_t tFAW_nCK = 0;
    std::uint32_t tCCD_S_nCK = 0;
    std::uint32_t tCCD_L_nCK = 0;
    std::uint32_t tCCD_L_WR_nCK = 0;
    std::uint32_t tRTP_nCK = 0;
    std::uint32_t tWR_nCK = 0;
    std::uint32_t tWTR_S_nCK = 0;
    std::uint32_t tWTR_L_nCK = 0;
    std::uint32_t tRTW_nCK = 0;
    std::uint32_t tRTRS_nCK = 0;
    std::uint32_t tPPD_nCK = 0;
    std::uint32_t tRFC_ps = 0;
    std::uint32_t tREFI_ps = 0;
    std::string refresh;
    std::uint32_t refresh_banks = 0;
    std::uint32_t tRFCpb_ps = 0;
    std::uint32_t tRREFD_nCK = 0;
    std::uint32_t command_buses = 0;
    std::uint32_t act_slots_nCK = 0;
    std::uint32_t column_slots_nCK = 0;
    std::uint32_t read_queue = 0;
    std::uint32_t write_queue = 0;
    std::uint32_t write_high = 0;
    std::uint32_t write_low = 0;
    std::string address_map;

    template <class Self, class F> static void visit(Self &s, F &&f) {
        f("tCK_ps", s.tCK_ps, "ps", "clock period of the command bus", 100, 10000);
        f("bus_bits", s.bus_bits, "bits", "data width of one (sub-)channel, without ECC", 8, 1024);
        f("subchannels", s.subchannels, "sub-channels",
          "independent sub-channels per channel (DDR4 1, DDR5 2; HBM: 2 pseudo-channels)", 1, 8);
        f("BL", s.BL, "beats", "burst length of one column command", 2, 64);
        f("beats_per_clock", s.beats_per_clock, "beats", "data beats in one clock (DDR, HBM2 2; HBM3 4)", 1, 8);
        f("ranks", s.ranks, "ranks", "ranks per channel, sharing its command and data bus", 1, 8);
        f("bank_groups", s.bank_groups, "bank groups", "bank groups per rank", 1, 16);
        f("banks_per_group", s.banks_per_group, "banks", "banks per bank group", 1, 16);
        f("rows", s.rows, "rows", "rows per bank", 1, 16777216);
        f("row_bytes", s.row_bytes, "bytes", "row buffer of one bank over all devices of the rank", 64, 65536);
        f("CL_nCK", s.CL_nCK, "clocks", "RD to its first data beat", 1, 255);
        f("CWL_nCK", s.CWL_nCK, "clocks", "WR to its first data beat", 1, 255);
        f("tRCD_nCK", s.tRCD_nCK, "clocks", "ACT to RD or WR, same bank", 1, 255);
        f("tRCD_WR_cut_nCK", s.tRCD_WR_cut_nCK, "clocks",
          "by how much ACT to WR is shorter than ACT to RD (HBM2: tRCDRD - tRCDWR; DDR 0)", 0, 254);
        f("tRP_nCK", s.tRP_nCK, "clocks", "PRE to ACT, same bank; PRE to REF, same rank", 1, 255);
        f("tRAS_nCK", s.tRAS_nCK, "clocks", "ACT to PRE, same bank", 1, 511);
        f("tRC_nCK", s.tRC_nCK, "clocks", "ACT to ACT, same bank", 1, 511);
        f("tRRD_S_nCK", s.tRRD_S_nCK, "clocks", "ACT to ACT, same rank, other bank group", 1, 255);
        f("tRRD_L_nCK", s.tRRD_L_nCK, "clocks", "ACT to ACT, same bank group", 1, 255);
        f("tFAW_nCK", s.tFAW_nCK, "clocks", "window of a rank that may hold four ACT", 1, 511);
        f("tCCD_S_nCK", s.tCCD_S_nCK, "clocks", "RD to RD or WR to WR, same rank, other bank group", 1, 255);
        f("tCCD_L_nCK", s.tCCD_L_nCK, "clocks", "RD to RD, same bank group", 1, 255);
        f("tCCD_L_WR_nCK", s.tCCD_L_WR_nCK, "clocks", "WR to WR, same bank group", 1, 255);
        f("tRTP_nCK", s.tRTP_nCK, "clocks", "RD to PRE, same bank", 1, 255);
        f("tWR_nCK", s.tWR_nCK, "clocks", "last write data beat to PRE, same bank", 1, 255);
        f("tWTR_S_nCK", s.tWTR_S_nCK, "clocks", "last write data beat to RD, same rank, other bank group", 1, 255);
        f("tWTR_L_nCK", s.tWTR_L_nCK, "clocks", "last write data beat to RD, same bank group", 1, 255);
        f("tRTW_nCK", s.tRTW_nCK, "clocks", "RD to WR, same rank (bus turnaround)", 1, 255);
        f("tRTRS_nCK", s.tRTRS_nCK, "clocks", "idle data-bus clocks between bursts of two ranks", 0, 64);
        f("tPPD_nCK", s.tPPD_nCK, "clocks", "PRE to PRE, same rank", 1, 64);
        f("tRFC_ps", s.tRFC_ps, "ps", "REF to the next ACT or REF, same rank; rounded up to whole clocks", 1, 10000000);
        f("tREFI_ps", s.tREFI_ps, "ps", "mean distance of the REF of a rank; rounded down to whole clocks", 10000,
          1000000000);
        f("refresh", s.refresh, "name",
          "all_bank: one REF a rank every tREFI; per_bank: REFpb bank by bank, every bank once in tREFI", 0, 0);
        f("refresh_banks", s.refresh_banks, "banks",
          "with per_bank: banks of a rank that fall due together, every tREFI * refresh_banks / banks", 1, 256);
        f("tRFCpb_ps", s.tRFCpb_ps, "ps",
          "REFpb to the next ACT or REFpb, same bank; rounded up to whole clocks; 0: the technology has no REFpb", 0,
          10000000);
        f("tRREFD_nCK", s.tRREFD_nCK, "clocks", "REFpb to REFpb or ACT, same rank, other bank", 1, 255);
        f("command_buses", s.command_buses, "buses",
          "1: all commands share one bus; 2: row commands and column commands have one each (HBM)", 1, 2);
        f("act_slots_nCK", s.act_slots_nCK, "clocks", "command-bus clocks of one ACT", 1, 4);
        f("column_slots_nCK", s.column_slots_nCK, "clocks", "command-bus clocks of one RD or WR", 1, 4);
        f("read_queue", s.read_queue, "requests", "read queue of one channel's controller", 1, 1024);
        f("write_queue", s.write_queue, "requests", "write queue of one channel's controller", 1, 1024);
        f("write_high", s.write_high, "requests", "queued writes at which the controller turns to writing", 1, 1024);
        f("write_low", s.write_low, "requests", "queued writes at which it turns back if reads wait", 0, 1023);
        f("address_map", s.address_map, "fields",
          "order of the address fields, most significant first: Ro Ra Ba Bg Co Ch", 0, 0);
    }

    std::uint32_t tRFC_nCK() const { return (tRFC_ps + tCK_ps - 1) / tCK_ps; }
    std::uint32_t tRFCpb_nCK() const { return (tRFCpb_ps + tCK_ps - 1) / tCK_ps; }
    std::uint32_t tREFI_nCK() const { return tREFI_ps / tCK_ps; }
    bool per_bank_refresh() const { return refresh == "per_bank"; }
    /** Clocks from one due time of a rank's refresh to the next. */
    std::uint32_t refresh_interval_nCK() const {
        return per_bank_refresh() ? tREFI_nCK() * refresh_banks / banks_per_rank() : tREFI_nCK();
    }
    /** Bytes of one column command (the unit of all requests). */
    std::uint32_t burst_bytes() const { return bus_bits / 8 * BL; }
    /** Clocks for which one burst holds the data bus. */
    std::uint32_t burst_nCK() const { return BL / beats_per_clock; }
    /** Bursts per row. */
    std::uint32_t columns() const { return row_bytes / burst_bytes(); }
    std::uint32_t banks_per_rank() const { return bank_groups * banks_per_group; }
    /** Bytes behind one (sub-)channel. */
    std::uint64_t channel_bytes() const {
        return static_cast<std::uint64_t>(row_bytes) * rows * banks_per_rank() * ranks;
    }
};

/** @throws ParamError for a field outside its range or a combination that no DRAM has, naming the parameter and what is
 * allowed */
void check(const DramParams &params);

/** Event counters, summed over the channels of a DramSystem. */
struct DramCounters {
    std::uint64_t acts = 0;
    std::uint64_t pres = 0;
    std::uint64_t reads = 0;
    std::uint64_t writes = 0;
    std::uint64_t refs = 0;
    std::uint64_t act_standby_ps = 0;
    std::uint64_t pre_standby_ps = 0;
    std::uint64_t read_bytes = 0;
    std::uint64_t write_bytes = 0;
    std::uint64_t row_hits = 0;
    std::uint64_t row_misses = 0;
    std::uint64_t row_conflicts = 0;
    std::uint64_t turnarounds = 0;

    template <class Self, class F> static void visit(Self &s, F &&f) {
        f("acts", s.acts, "commands", "ACT commands");
        f("pres", s.pres, "commands", "PRE commands, one a bank, those before REF included");
        f("reads", s.reads, "bursts", "RD commands");
        f("writes", s.writes, "bursts", "WR commands");
        f("refs", s.refs, "commands",
          "REF commands: all-bank ones, one a rank; with per_bank refresh REFpb, one a bank");
        f("act_standby_ps", s.act_standby_ps, "ps", "time with at least one open bank, summed over ranks");
        f("pre_standby_ps", s.pre_standby_ps, "ps", "time with all banks closed (refresh included), summed over ranks");
        f("read_bytes", s.read_bytes, "bytes", "bytes that the host asked to read; bursts move whole multiples");
        f("write_bytes", s.write_bytes, "bytes", "bytes that the host asked to write; bursts move whole multiples");
        f("row_hits", s.row_hits, "bursts", "bursts served by a row that was open for another one");
        f("row_misses", s.row_misses, "bursts", "bursts whose bank was closed: they caused an ACT");
        f("row_conflicts", s.row_conflicts, "bursts",
          "bursts whose bank had another row open: they caused PRE and ACT");
        f("turnarounds", s.turnarounds, "switches", "changes of the data-bus direction");
    }
};

} // namespace gempim::dram
