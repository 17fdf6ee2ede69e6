// SPDX-License-Identifier: BSD-3-Clause
// What the PIM and the xPU beside it are counted for. Energy is counts x table, in `analysis`.
#pragma once

#include <cstdint>

namespace gempim::logic_pim {

struct LogicPimCounters {
    std::uint64_t pim_acts = 0;
    std::uint64_t xpu_acts = 0;
    std::uint64_t pim_columns = 0;
    std::uint64_t pim_column_writes = 0;
    std::uint64_t pim_reads = 0;
    std::uint64_t pim_writes = 0;
    std::uint64_t xpu_reads = 0;
    std::uint64_t xpu_writes = 0;
    std::uint64_t pim_tsv_bits = 0;
    std::uint64_t xpu_tsv_bits = 0;
    std::uint64_t refs = 0;
    std::uint64_t weight_streams = 0;
    std::uint64_t macs = 0;
    std::uint64_t unit_clocks = 0;
    std::uint64_t module_buffer_bytes = 0;
    std::uint64_t input_buffer_writes = 0;
    std::uint64_t input_buffer_reads = 0;
    std::uint64_t result_buffer_writes = 0;
    std::uint64_t result_buffer_reads = 0;
    std::uint64_t softmax_elements = 0;
    std::uint64_t activation_elements = 0;
    std::uint64_t pim_busy_ps = 0;
    std::uint64_t stall_compute_ps = 0;
    std::uint64_t stall_operand_ps = 0;
    std::uint64_t stall_refresh_ps = 0;
    std::uint64_t stall_conflict_ps = 0;
    std::uint64_t stall_row_ps = 0;
    std::uint64_t stall_bus_ps = 0;
    std::uint64_t drain_ps = 0;
    std::uint64_t xpu_conflict_ps = 0;
    std::uint64_t conflicts = 0;

    template <class Self, class F> static void visit(Self &s, F &&f) {
        f("pim_acts", s.pim_acts, "activations",
          "rows opened for the PIM, one a bank: a BACT is as many as its bundle has");
        f("xpu_acts", s.xpu_acts, "activations", "rows opened for the xPU's requests");
        f("pim_columns", s.pim_columns, "commands", "BRD commands");
        f("pim_column_writes", s.pim_column_writes, "commands", "BWR commands");
        f("pim_reads", s.pim_reads, "bursts", "bursts of one bank read by the PIM: BRD times the banks of a bundle");
        f("pim_writes", s.pim_writes, "bursts",
          "bursts of one bank written by the PIM: BWR times the banks of a bundle");
        f("xpu_reads", s.xpu_reads, "bursts", "RD commands, on the xPU's path");
        f("xpu_writes", s.xpu_writes, "bursts",
          "WR commands, on the xPU's path; with result_write = bank those of the PIM's results");
        f("pim_tsv_bits", s.pim_tsv_bits, "bits",
          "bits over the PIM's TSVs; without units on the logic die only inputs and results");
        f("xpu_tsv_bits", s.xpu_tsv_bits, "bits", "bits over the ordinary TSVs");
        f("refs", s.refs, "commands", "REF (one a rank) or REFpb (one a bank) while the operator ran");
        f("weight_streams", s.weight_streams, "streams",
          "times that an operand was read from memory by a stack because of the stack's buffers, summed over stacks");
        f("macs", s.macs, "MACs", "multiply-accumulates of the operator, without padding");
        f("unit_clocks", s.unit_clocks, "clocks", "clocks in which a GEMM module computed, summed");
        f("module_buffer_bytes", s.module_buffer_bytes, "bytes", "weights and inputs written into module buffers");
        f("input_buffer_writes", s.input_buffer_writes, "bytes", "bytes written into the stacks' input buffers");
        f("input_buffer_reads", s.input_buffer_reads, "bytes", "bytes read from them: a token's inputs once a row");
        f("result_buffer_writes", s.result_buffer_writes, "bytes", "bytes written into the stacks' result buffers");
        f("result_buffer_reads", s.result_buffer_reads, "bytes", "bytes read from the stacks' result buffers");
        f("softmax_elements", s.softmax_elements, "elements",
          "scores through the three steps of the softmax units, and outputs rescaled between parts of one row of "
          "scores");
        f("activation_elements", s.activation_elements, "elements", "outputs of the activation units");
        f("pim_busy_ps", s.pim_busy_ps, "ps",
          "bundle columns times their least distance, summed over pseudo-channels like all times here");
        f("stall_compute_ps", s.stall_compute_ps, "ps", "the PIM's path waited for a GEMM module");
        f("stall_operand_ps", s.stall_operand_ps, "ps",
          "it waited for the instruction, inputs, softmax, activation, or results to write");
        f("stall_refresh_ps", s.stall_refresh_ps, "ps", "it waited for a refresh");
        f("stall_conflict_ps", s.stall_conflict_ps, "ps", "it waited for the xPU's requests to the bundle");
        f("stall_row_ps", s.stall_row_ps, "ps", "it waited for its next row to be opened");
        f("stall_bus_ps", s.stall_bus_ps, "ps", "it waited for the command bus or to turn from reading to writing");
        f("drain_ps", s.drain_ps, "ps", "from the PIM's last column command to its last result");
        f("xpu_conflict_ps", s.xpu_conflict_ps, "ps",
          "time with requests of the xPU to a bundle that the PIM held, summed over bundles");
        f("conflicts", s.conflicts, "times", "times that the PIM found rows or requests of the xPU in its next bundle");
    }

    /** Add `times` times the counts of `other`. */
    void add(const LogicPimCounters &other, std::uint64_t times = 1) {
        const std::uint64_t *from[64];
        unsigned n = 0;
        visit(other, [&](const char *, const std::uint64_t &value, const char *, const char *) { from[n++] = &value; });
        unsigned i = 0;
        visit(*this,
              [&](const char *, std::uint64_t &value, const char *, const char *) { value += *from[i++] * times; });
    }
};

static_assert(sizeof(LogicPimCounters) <= 64 * sizeof(std::uint64_t), "LogicPimCounters::add holds 64 pointers");

} // namespace gempim::logic_pim
