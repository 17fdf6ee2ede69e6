// SPDX-License-Identifier: BSD-3-Clause
// Parameters of processing in memory beside an xPU: Duplex's Logic-PIM, and its comparison points by other values.
#pragma once

#include <cstdint>
#include <string>

#include "models/common/info.hh"
#include "models/dram/bundle.hh"
#include "models/dram/dram_params.hh"

namespace gempim::logic_pim {

/**
 * The PIM of one HBM stack: which banks act together, what computes on their columns, how the two controllers share.
 *
 * There are no defaults: a host fills every field (gempim/data/systems holds sets with sources).
 */
struct LogicPimParams {
    std::uint32_t pseudo_channels = 0;
    std::uint32_t bundle_ranks = 0;
    std::uint32_t bundle_banks = 0;
    std::uint32_t bundle_ccd_nCK = 0;
    std::uint32_t bundle_rank_switch_nCK = 0;
    std::string activation_limit;
    bool shared_group_io = false;
    bool units_on_logic_die = true;
    std::string priority;
    std::uint32_t rows_ahead = 0;
    bool reorder_spaces = false;
    double refresh_phase = 0;
    std::uint32_t unit_clock_nCK = 0;
    std::uint32_t macs_per_clock = 0;
    std::uint32_t unit_latency_clocks = 0;
    std::uint32_t module_buffer_bytes = 0;
    std::uint32_t input_buffer_bytes = 0;
    std::uint32_t result_buffer_bytes = 0;
    std::uint32_t sum_bytes = 0;
    std::string result_write;
    std::uint32_t softmax_lanes = 0;
    std::uint32_t softmax_latency_clocks = 0;
    std::uint32_t softmax_buffer_bytes = 0;
    std::uint32_t activation_lanes = 0;
    std::uint32_t activation_latency_clocks = 0;
    std::uint32_t instruction_ps = 0;

    template <class Self, class F> static void visit(Self &s, F &&f) {
        f("pseudo_channels", s.pseudo_channels, "pseudo-channels", "pseudo-channels, and GEMM modules, of one stack", 1,
          1024);
        f("bundle_ranks", s.bundle_ranks, "ranks", "ranks that a bundle spans (Bank-PIM, BankGroup-PIM: all)", 1, 8);
        f("bundle_banks", s.bundle_banks, "banks", "banks of each bank group of those ranks that are in a bundle", 1,
          16);
        f("bundle_ccd_nCK", s.bundle_ccd_nCK, "clocks",
          "distance of two column commands to bundles; more than tCCD_L is a power limit as AttAcc has it", 1, 255);
        f("bundle_rank_switch_nCK", s.bundle_rank_switch_nCK, "clocks",
          "more distance when the next column comes from another rank", 0, 255);
        f("activation_limit", s.activation_limit, "name",
          "none: one BACT opens all banks of a bundle and counts for no tRRD and tFAW; normal: its banks are opened "
          "one by "
          "one with ACT under tRRD and tFAW",
          0, 0);
        f("shared_group_io", s.shared_group_io, "flag",
          "column commands of xPU and PIM to one bank group keep tCCD_L, although they go to different bundles", 0, 1);
        f("units_on_logic_die", s.units_on_logic_die, "flag",
          "columns of the PIM cross TSVs; false: they are used in the DRAM die and only inputs and results cross", 0,
          1);
        f("priority", s.priority, "name", "whose command goes first at the same clock: pim or xpu", 0, 0);
        f("rows_ahead", s.rows_ahead, "rows", "rows in other bundles that are opened while one is read", 0, 7);
        f("reorder_spaces", s.reorder_spaces, "flag",
          "read the next row of another space of the same operand when the one in turn cannot be opened", 0, 1);
        f("refresh_phase", s.refresh_phase, "fraction",
          "part of the refresh interval that has passed when an operator starts", 0, 1);
        f("unit_clock_nCK", s.unit_clock_nCK, "clocks", "DRAM clocks of one clock of the GEMM modules", 1, 64);
        f("macs_per_clock", s.macs_per_clock, "MACs", "FP16 multiply-accumulates of one module in one of its clocks", 1,
          65536);
        f("unit_latency_clocks", s.unit_latency_clocks, "clocks",
          "module clocks from a column's data to its sums: adder tree and accumulator", 0, 1024);
        f("module_buffer_bytes", s.module_buffer_bytes, "byte",
          "buffer of one module: two weight columns, and for each token two columns of inputs and the sums of a row's "
          "columns; the tokens that it holds meet a column together",
          64, 16777216);
        f("input_buffer_bytes", s.input_buffer_bytes, "byte", "input vectors of one stack", 1024, 1073741824);
        f("result_buffer_bytes", s.result_buffer_bytes, "byte", "temporary results of one stack", 1024, 1073741824);
        f("sum_bytes", s.sum_bytes, "byte", "one partial sum", 2, 8);
        f("result_write", s.result_write, "name",
          "bundle: results go to memory with BWR; bank: with ordinary WR through the xPU's controller", 0, 0);
        f("softmax_lanes", s.softmax_lanes, "elements",
          "scores that one step of the stack's softmax unit takes a clock", 1, 65536);
        f("softmax_latency_clocks", s.softmax_latency_clocks, "clocks", "fill time of one of the three softmax steps",
          0, 65536);
        f("softmax_buffer_bytes", s.softmax_buffer_bytes, "byte", "scores that the softmax unit holds", 64, 1073741824);
        f("activation_lanes", s.activation_lanes, "elements", "outputs of the activation unit a clock", 1, 65536);
        f("activation_latency_clocks", s.activation_latency_clocks, "clocks", "fill time of the activation unit", 0,
          65536);
        f("instruction_ps", s.instruction_ps, "ps", "from the xPU's instruction to the PIM's first command", 0,
          1000000000);
    }
};

/** What follows from the parameters. */
struct Geometry {
    Geometry(const LogicPimParams &params, const dram::DramParams &dram);

    std::uint32_t spaces;         ///< bundles of a pseudo-channel
    std::uint32_t banks;          ///< banks of a bundle
    std::uint32_t column_bytes;   ///< one column of all banks of a bundle
    std::uint32_t row_columns;    ///< columns of a row
    std::uint32_t tokens_held;    ///< tokens that a module's buffer holds
    std::uint32_t quantum_tokens; ///< tokens that fill one step of a module...
    std::uint32_t quantum_clocks; ///< ...and its clocks for a column
    std::uint64_t space_bytes;    ///< one space of one pseudo-channel
};

/** @throws ParamError for a field outside its range or against another one, naming the parameter and what is allowed */
void check(const LogicPimParams &params, const dram::DramParams &dram);

/** The bundles, space by space, and the rules for their commands. */
dram::BundleRules bundle_rules(const LogicPimParams &params, const dram::DramParams &dram);

} // namespace gempim::logic_pim
