// SPDX-License-Identifier: BSD-3-Clause
// What the SRAM-PIM counts. Energy is counts x table, in `analysis`.
#pragma once

#include <cstdint>

namespace gempim::sram_pim {

struct SramPimCounters {
    std::uint64_t commands = 0;
    std::uint64_t rejected_commands = 0;
    std::uint64_t tiles = 0;
    std::uint64_t passes = 0;
    std::uint64_t lut_builds = 0;
    std::uint64_t lut_build_cycles = 0;
    std::uint64_t basis_row_writes = 0;
    std::uint64_t prt_accesses = 0;
    std::uint64_t lookups = 0;
    std::uint64_t prt_hits = 0;
    std::uint64_t lookup_cycles = 0;
    std::uint64_t accumulates = 0;
    std::uint64_t accumulate_cycles = 0;
    std::uint64_t int_muls = 0;
    std::uint64_t int_mul_cycles = 0;
    std::uint64_t convert_ops = 0;
    std::uint64_t convert_cycles = 0;
    std::uint64_t fp_muls = 0;
    std::uint64_t fp_adds = 0;
    std::uint64_t fp_cycles = 0;
    std::uint64_t reduce_transfers = 0;
    std::uint64_t row_reads = 0;
    std::uint64_t row_writes = 0;
    std::uint64_t array_active_cycles = 0;
    std::uint64_t compute_cycles = 0;
    std::uint64_t load_stall_ps = 0;
    std::uint64_t weight_bytes = 0;
    std::uint64_t fill_bytes = 0;
    std::uint64_t activation_bytes = 0;
    std::uint64_t result_bytes = 0;
    std::uint64_t partial_bytes = 0;
    std::uint64_t cpu_converts = 0;

    template <class Self, class F> static void visit(Self &self, F &&f) {
        f("commands", self.commands, "commands",
          "tile commands, one a tile: a lutmm is as many as its product has tiles");
        f("rejected_commands", self.rejected_commands, "commands",
          "requests refused: unsupported type or impossible shape");
        f("tiles", self.tiles, "tiles", "weight tiles computed");
        f("passes", self.passes, "passes", "walks over a tile: a batch whose accumulators do not fit takes several");
        f("lut_builds", self.lut_builds, "tables", "lookup tables built, one an array and weight group");
        f("lut_build_cycles", self.lut_build_cycles, "cycles", "array cycles that built table entries");
        f("basis_row_writes", self.basis_row_writes, "rows",
          "rows of basis weights written into arrays (part of row_writes)");
        f("prt_accesses", self.prt_accesses, "accesses",
          "probes of pattern reuse tables by data feeding modules; one serves every array that shares the inner range");
        f("lookups", self.lookups, "lookups",
          "table lookups asked of arrays, hits of the pattern reuse table included");
        f("prt_hits", self.prt_hits, "lookups", "of those, answered by the pattern reuse table");
        f("lookup_cycles", self.lookup_cycles, "cycles", "array cycles of lookups and their accumulation");
        f("accumulates", self.accumulates, "operations",
          "integer additions on all columns outside lookups (carry resolve, "
          "sub-block and integer partial sums)");
        f("accumulate_cycles", self.accumulate_cycles, "cycles", "array cycles of those additions");
        f("int_muls", self.int_muls, "operations",
          "integer multiplications by sub-block scales and minima, on all columns");
        f("int_mul_cycles", self.int_mul_cycles, "cycles", "array cycles of those multiplications");
        f("convert_ops", self.convert_ops, "operations", "int -> fp32 conversions, on all columns");
        f("convert_cycles", self.convert_cycles, "cycles", "array cycles of those conversions");
        f("fp_muls", self.fp_muls, "operations", "fp32 multiplications, on all columns");
        f("fp_adds", self.fp_adds, "operations", "fp32 additions, on all columns");
        f("fp_cycles", self.fp_cycles, "cycles", "array cycles of fp32 operations");
        f("reduce_transfers", self.reduce_transfers, "rows",
          "rows moved between arrays of a slice to add partial sums (each also "
          "one row read and one row write)");
        f("row_reads", self.row_reads, "rows", "rows read to the outside of an array");
        f("row_writes", self.row_writes, "rows",
          "rows written from the outside: basis weights, scales, constants, partial sums");
        f("array_active_cycles", self.array_active_cycles, "cycles",
          "cycles in which an array was active, summed over arrays");
        f("compute_cycles", self.compute_cycles, "cycles",
          "cycles in which a slice worked on a tile or added partial results, summed");
        f("load_stall_ps", self.load_stall_ps, "ps",
          "time in which a slice with work left waited for a tile's weights, summed");
        f("weight_bytes", self.weight_bytes, "bytes", "weight bytes read from memory");
        f("fill_bytes", self.fill_bytes, "bytes", "weight bytes moved from LLC slices into arrays, once a pass");
        f("activation_bytes", self.activation_bytes, "bytes", "quantised activations read from LLC slices");
        f("result_bytes", self.result_bytes, "bytes", "sums sent from arrays to LLC slices");
        f("partial_bytes", self.partial_bytes, "bytes", "partial sums read back from LLC slices to be added to");
        f("cpu_converts", self.cpu_converts, "values", "integer sums left for the CPU to convert and scale");
    }

    /** Add `times` times the counts of `other`. */
    void add(const SramPimCounters &other, std::uint64_t times = 1) {
        const std::uint64_t *from[64];
        unsigned n = 0;
        visit(other, [&](const char *, const std::uint64_t &value, const char *, const char *) { from[n++] = &value; });
        unsigned i = 0;
        visit(*this,
              [&](const char *, std::uint64_t &value, const char *, const char *) { value += *from[i++] * times; });
    }
};

static_assert(sizeof(SramPimCounters) <= 64 * sizeof(std::uint64_t), "SramPimCounters::add holds 64 pointers");

} // namespace gempim::sram_pim
