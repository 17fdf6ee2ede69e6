// SPDX-License-Identifier: BSD-3-Clause
// Parameters of the SRAM-PIM: compute-capable SRAM (C-SRAM) arrays beside each LLC slice.
//
// Source of the mechanism: SAIL, arXiv 2509.25853 (abstract) and third-party reviews of it. The paper's configuration
// table is not public, so most defaults are choices of this project; the reason stands in the description. README.md
// beside this file has the formulas.
#pragma once

#include <cstdint>
#include <string>

#include "models/common/info.hh"

namespace gempim::sram_pim {

struct SramPimParams {
    unsigned slices = 16;
    std::uint64_t slice_bytes = 1048576;
    unsigned arrays_per_slice = 32;
    unsigned array_rows = 256;
    unsigned array_columns = 256;
    std::uint64_t clock_ps = 1000;
    bool arrays_take_llc_capacity = true;

    unsigned nbw = 4;
    bool nbw_auto = false;
    unsigned activation_bits = 8;
    unsigned add_overhead_cycles = 1;
    unsigned lookup_carry_cycles = 2;
    unsigned row_write_cycles = 1;
    unsigned row_read_cycles = 1;
    unsigned scratch_rows = 96;

    bool prt_enable = true;
    unsigned prt_entries = 32;
    std::string prt_scope = "vector";
    std::string prt_policy = "lru";
    unsigned prt_hit_cycles = 1;

    double int_mul_quadratic = 0.5;
    double int_mul_linear = 1.5;
    bool convert_in_memory = true;
    unsigned convert_linear_cycles = 5;
    unsigned convert_fixed_cycles = 9;
    unsigned fp32_add_cycles = 351;
    unsigned fp32_mul_cycles = 346;

    unsigned reduce_links = 8;
    unsigned reduce_row_cycles = 1;

    unsigned tile_k = 1024;
    unsigned tile_n = 1024;
    unsigned tile_buffers = 2;
    unsigned command_cycles = 20;
    unsigned llc_link_bytes_per_cycle = 64;
    bool results_to_memory = false;
    double planner_bytes_per_s = 204.8e9;

    template <class Self, class F> static void visit(Self &self, F &&f) {
        f("slices", self.slices, "slices",
          "LLC slices that have C-SRAM arrays beside them; choice, the paper's count is not public", 1, 1024);
        f("slice_bytes", self.slice_bytes, "byte",
          "LLC capacity of a slice: what the arrays leave of it bounds the weight tiles that wait there", 65536,
          1073741824);
        f("arrays_per_slice", self.arrays_per_slice, "arrays",
          "C-SRAM arrays per slice; choice, 32 is an unconfirmed third-party figure", 1, 4096);
        f("array_rows", self.array_rows, "rows",
          "word-lines of an array; 256 as in Neural Cache and Infinity Stream (8 KB arrays)", 32, 4096);
        f("array_columns", self.array_columns, "columns",
          "bit-lines of an array, one output each; 256 as in the same works", 8, 4096);
        f("clock_ps", self.clock_ps, "ps",
          "array clock period; choice, 1 GHz lies between measured bit-serial silicon (0.475 GHz, JSSC 55(1)) and "
          "BLADE (2.2 GHz)",
          50, 100000);
        f("arrays_take_llc_capacity", self.arrays_take_llc_capacity, "flag",
          "the arrays are LLC storage while they do not compute, so compute mode takes their bytes from the LLC; the "
          "abstract says "
          "that arrays stay usable as storage",
          0, 1);
        f("nbw", self.nbw, "weights",
          "basis weights per lookup table: 2^nbw entries; choice, the paper's value is not public", 1, 8);
        f("nbw_auto", self.nbw_auto, "flag",
          "the planner picks the nbw that fits and takes the least time; `nbw` is then not read", 0, 1);
        f("activation_bits", self.activation_bits, "bits", "activation width, processed bit-serially; ggml uses 8", 4,
          8);
        f("add_overhead_cycles", self.add_overhead_cycles, "cycles",
          "cycles of a bit-serial addition beyond one a bit; 1 as in Neural Cache's n + 1 (MVE's tables have 0)", 0,
          64);
        f("lookup_carry_cycles", self.lookup_carry_cycles, "cycles",
          "extra rows that one lookup-accumulate touches above the entry's width; choice, 2: one absorbs the carry of "
          "the previous "
          "bit position, one is a guard; 0 is free carry, about the weight width would be a full ripple",
          0, 64);
        f("row_write_cycles", self.row_write_cycles, "cycles", "writing one row of an array from outside", 1, 64);
        f("row_read_cycles", self.row_read_cycles, "cycles", "reading one row of an array to the outside", 1, 64);
        f("scratch_rows", self.scratch_rows, "rows",
          "rows that scale multiplication and conversion need beside the operand (weight scale, product, mask: 3 x "
          "32); they reuse "
          "the table's rows, which are dead at the end of a scale group",
          0, 1024);
        f("prt_enable", self.prt_enable, "flag", "pattern reuse table present in each data feeding module", 0, 1);
        f("prt_entries", self.prt_entries, "entries", "entries of a pattern reuse table; 32 from a third-party review",
          1, 1024);
        f("prt_scope", self.prt_scope, "vector|group",
          "how long an entry may be reused: within one activation vector's bit positions of one weight group, or over "
          "the batch "
          "while the same table is live; choice, the paper's tag is not public",
          0, 0);
        f("prt_policy", self.prt_policy, "lru|fifo", "replacement of the pattern reuse table; choice", 0, 0);
        f("prt_hit_cycles", self.prt_hit_cycles, "cycles",
          "cycles of a lookup that hits the pattern reuse table; choice", 0, 64);
        f("int_mul_quadratic", self.int_mul_quadratic, "cycles/bit^2",
          "a of the in-array integer multiplication n x s bits = ceil(s (a n + b)); 0.5 from MVE's tables for s = n", 0,
          16);
        f("int_mul_linear", self.int_mul_linear, "cycles/bit", "b of the same formula; 1.5 from MVE's tables", 0, 64);
        f("convert_in_memory", self.convert_in_memory, "flag",
          "int -> fp32, scales and minima in the arrays; else integer sums leave the arrays and the CPU does it", 0, 1);
        f("convert_linear_cycles", self.convert_linear_cycles, "cycles/bit",
          "c of int -> fp32 of n bits = c n + n (ceil(log2 n) + 1) + f; estimate 5: sign and magnitude 2, leading-one "
          "scan 2, pack 1",
          0, 64);
        f("convert_fixed_cycles", self.convert_fixed_cycles, "cycles",
          "f of the same formula; estimate 9, the exponent subtraction (361 cycles in all for n = 32)", 0, 1024);
        f("fp32_add_cycles", self.fp32_add_cycles, "cycles",
          "bit-serial fp32 addition on all columns; 351 from MVE's tables", 1, 100000);
        f("fp32_mul_cycles", self.fp32_mul_cycles, "cycles",
          "bit-serial fp32 multiplication on all columns; 346 from MVE's tables", 1, 100000);
        f("reduce_links", self.reduce_links, "links",
          "row transfers between arrays of one slice that can go on at once; choice, a quarter of the arrays", 1, 4096);
        f("reduce_row_cycles", self.reduce_row_cycles, "cycles", "moving one row between two arrays of a slice; choice",
          1, 1024);
        f("tile_k", self.tile_k, "weights", "largest inner extent of a tile; choice, 1024 is unconfirmed", 256, 65536);
        f("tile_n", self.tile_n, "outputs", "largest output extent of a tile; choice, 1024 is unconfirmed", 8, 65536);
        f("tile_buffers", self.tile_buffers, "tiles", "weight tiles a slice can hold: 2 is double-buffering", 1, 16);
        f("command_cycles", self.command_cycles, "cycles", "decode and set-up of one tile command in the slice; choice",
          0, 100000);
        f("llc_link_bytes_per_cycle", self.llc_link_bytes_per_cycle, "bytes/cycle",
          "bandwidth between an LLC slice and its arrays; choice, one 64-byte line a cycle", 1, 65536);
        f("results_to_memory", self.results_to_memory, "flag",
          "results are written through the memory port; else they stay in the LLC for the CPU", 0, 1);
        f("planner_bytes_per_s", self.planner_bytes_per_s, "bytes/s",
          "memory bandwidth that the planner assumes when it picks tile shapes, 0 = infinitely fast; changes no timing "
          "by itself; "
          "choice, eight channels of DDR4-3200",
          0, 1e15);
    }
};

} // namespace gempim::sram_pim
