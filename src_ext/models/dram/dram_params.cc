// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/dram_params.hh"

#include "models/dram/address_map.hh"

namespace gempim::dram {

namespace {

void require(bool ok, const std::string &name, std::uint64_t value, const std::string &allowed) {
    if (!ok) {
        throw ParamError("dram." + name + " = " + std::to_string(value) + ": allowed is " + allowed);
    }
}

std::string at_least(const std::string &formula, std::uint64_t bound) {
    return ">= " + formula + " = " + std::to_string(bound);
}

/** A rank must be able to close its rows, refresh, and still serve requests within one refresh interval. */
void check_refresh(const DramParams &p) {
    if (p.refresh != "all_bank" && p.refresh != "per_bank") {
        throw ParamError("dram.refresh = '" + p.refresh + "': allowed are all_bank, per_bank");
    }
    const std::uint32_t closing = p.CWL_nCK + p.burst_nCK() + p.tWR_nCK + p.tRC_nCK + p.banks_per_rank() * p.tPPD_nCK;
    if (!p.per_bank_refresh()) {
        const std::uint64_t busy_ps = static_cast<std::uint64_t>(p.tRFC_nCK() + closing + 1) * p.tCK_ps;
        require(p.tREFI_ps >= busy_ps, "tREFI_ps", p.tREFI_ps,
                at_least("tRFC_ps + tCK_ps * (tRC + tWR + CWL + BL / " + std::to_string(p.beats_per_clock) +
                             " + banks * tPPD + 1)",
                         busy_ps));
        return;
    }
    require(p.tRFCpb_ps > 0, "tRFCpb_ps", p.tRFCpb_ps, "> 0 with refresh = per_bank");
    require(p.banks_per_rank() % p.refresh_banks == 0, "refresh_banks", p.refresh_banks,
            "a divisor of the banks of a rank, " + std::to_string(p.banks_per_rank()));
    const std::uint64_t busy =
        static_cast<std::uint64_t>(p.tRFCpb_nCK()) + closing + p.refresh_banks * p.tRREFD_nCK + 1;
    require(p.refresh_interval_nCK() >= busy, "tREFI_ps", p.tREFI_ps,
            "such that tREFI * refresh_banks / banks, " + std::to_string(p.refresh_interval_nCK()) + " clocks, is " +
                at_least("tRFCpb + refresh_banks * tRREFD + closing a bank", busy));
}

} // namespace

void check(const DramParams &p) {
    check_ranges(p, "dram");
    require(p.bus_bits % 8 == 0, "bus_bits", p.bus_bits, "a multiple of 8");
    const std::string beats = std::to_string(p.beats_per_clock);
    require(p.BL % p.beats_per_clock == 0, "BL", p.BL,
            "a multiple of beats_per_clock = " + beats + " (even with two beats a clock)");
    require(p.row_bytes % p.burst_bytes() == 0, "row_bytes", p.row_bytes,
            "a multiple of the burst, bus_bits / 8 * BL = " + std::to_string(p.burst_bytes()));
    const std::uint64_t banks = static_cast<std::uint64_t>(p.ranks) * p.banks_per_rank();
    require(banks <= 1024, "ranks", p.ranks, "at most 1024 banks a channel (ranks * bank_groups * banks_per_group)");

    require(p.tRCD_WR_cut_nCK < p.tRCD_nCK, "tRCD_WR_cut_nCK", p.tRCD_WR_cut_nCK,
            "< tRCD_nCK = " + std::to_string(p.tRCD_nCK));
    require(p.tRAS_nCK >= p.tRCD_nCK, "tRAS_nCK", p.tRAS_nCK, at_least("tRCD_nCK", p.tRCD_nCK));
    require(p.tRC_nCK >= p.tRAS_nCK + p.tRP_nCK, "tRC_nCK", p.tRC_nCK,
            at_least("tRAS_nCK + tRP_nCK", p.tRAS_nCK + p.tRP_nCK));
    require(p.tRRD_L_nCK >= p.tRRD_S_nCK, "tRRD_L_nCK", p.tRRD_L_nCK, at_least("tRRD_S_nCK", p.tRRD_S_nCK));
    require(p.tFAW_nCK >= p.tRRD_S_nCK, "tFAW_nCK", p.tFAW_nCK, at_least("tRRD_S_nCK", p.tRRD_S_nCK));
    require(p.tCCD_S_nCK >= p.burst_nCK(), "tCCD_S_nCK", p.tCCD_S_nCK,
            at_least("BL / " + beats + " (bursts must not overlap)", p.burst_nCK()));
    require(p.tCCD_L_nCK >= p.tCCD_S_nCK, "tCCD_L_nCK", p.tCCD_L_nCK, at_least("tCCD_S_nCK", p.tCCD_S_nCK));
    require(p.tCCD_L_WR_nCK >= p.tCCD_S_nCK, "tCCD_L_WR_nCK", p.tCCD_L_WR_nCK, at_least("tCCD_S_nCK", p.tCCD_S_nCK));
    require(p.tWTR_L_nCK >= p.tWTR_S_nCK, "tWTR_L_nCK", p.tWTR_L_nCK, at_least("tWTR_S_nCK", p.tWTR_S_nCK));
    require(p.CWL_nCK <= p.CL_nCK, "CWL_nCK", p.CWL_nCK, "<= CL_nCK = " + std::to_string(p.CL_nCK));
    const std::uint32_t rtw = p.CL_nCK + p.burst_nCK() - p.CWL_nCK;
    require(p.tRTW_nCK >= rtw, "tRTW_nCK", p.tRTW_nCK,
            at_least("CL_nCK + BL / " + beats + " - CWL_nCK (bursts must not overlap)", rtw));
    check_refresh(p);
    require(p.write_high <= p.write_queue, "write_high", p.write_high,
            "<= write_queue = " + std::to_string(p.write_queue));
    require(p.write_low < p.write_high, "write_low", p.write_low, "< write_high = " + std::to_string(p.write_high));
    AddressMap(p, 1);
}

} // namespace gempim::dram
