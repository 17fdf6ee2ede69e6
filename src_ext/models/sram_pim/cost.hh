// SPDX-License-Identifier: BSD-3-Clause
// Cycles and event counts of one tile. Every formula is in README.md; nothing here knows of time, memory or data.
#pragma once

#include <cstdint>
#include <vector>

#include "models/ggml/formats.hh"
#include "models/sram_pim/counters.hh"
#include "models/sram_pim/params.hh"
#include "models/sram_pim/pattern_table.hh"

namespace gempim::sram_pim {

/** ceil(log2 x) for x >= 1. */
unsigned ceil_log2(std::uint64_t x);

/** Everything of a number format that cycles, rows and bytes depend on. */
struct GemvShape {
    unsigned unit_elements = 0; ///< weights that stay together in one array: a block
    unsigned unit_bytes = 0;    ///< stored bytes of a unit of one output
    unsigned sub_elements = 0;  ///< weights per integer accumulation
    unsigned weight_bits = 0;
    unsigned sub_scale_bits = 0; ///< 0: no integer sub-block scale
    unsigned sub_min_bits = 0;   ///< 0: no integer sub-block minimum
    bool float_min = false;      ///< a minimum per unit, added in fp32 (q4_1, q5_1)
    bool raw_integer = false;    ///< no scales: the result is one integer sum over the whole inner dimension
    unsigned activation_bits = 0;
    unsigned activation_unit_bytes = 0;
    unsigned sum_bits = 0;            ///< integer sum of a sub-block (raw: of everything)
    unsigned super_bits = 0;          ///< sum of scaled sub-block sums; 0 without sub-block scales
    unsigned activation_sum_bits = 0; ///< sum of a sub-block's activations, for integer minima
    unsigned min_bits = 0;            ///< sum of min x activation sum; 0 without integer minima

    unsigned sub_blocks() const { return unit_elements / sub_elements; }
    /** Bits of the integer that is converted to fp32 at the end of a unit. */
    unsigned convert_bits() const { return super_bits != 0 ? super_bits : sum_bits; }
};

GemvShape shape_of(const ggml::BlockFormat &format, unsigned activation_bits);

/** Plain integers of `weight_bits`, k of them summed. Weights are staged in units of 32. */
GemvShape raw_shape(unsigned weight_bits, unsigned activation_bits, std::uint64_t k);

/** Rows of an array. */
struct RowBudget {
    unsigned shared = 0;     ///< table (or scratch, whichever is larger) and the staged next weight group
    unsigned per_vector = 0; ///< accumulators of one activation vector
    /** Activation vectors whose accumulators fit beside the table; 0 if not even one does. */
    unsigned vectors(unsigned array_rows) const {
        return array_rows < shared + per_vector ? 0 : (array_rows - shared) / per_vector;
    }
};

/** Where the hits of the pattern reuse table come from: a rate, or the measured hits of every table. */
struct HitSource {
    double rate = 0.0;
    const PatternHits *measured = nullptr;
};

/** One tile: a range of outputs and units on one slice, computed by one command. */
struct TileShape {
    unsigned columns = 0;         ///< outputs
    unsigned units = 0;           ///< units of the inner dimension
    std::uint64_t first_unit = 0; ///< in the whole inner dimension (only measured hits depend on it)
    bool merges = false;          ///< adds to partial sums of an earlier tile of the same slice
};

/** How a tile lies on a slice's arrays. */
struct TileLayout {
    unsigned column_groups = 0; ///< arrays side by side over the outputs
    unsigned parts = 0;         ///< arrays that share the inner dimension
    unsigned units_of(unsigned part, unsigned units) const { return units / parts + (part < units % parts ? 1 : 0); }
};

struct TileCost {
    std::uint64_t cycles = 0;         ///< from command to the last result row in the LLC
    std::uint64_t convert_cycles = 0; ///< of those, conversion and scaling on the critical array
    std::uint64_t reduce_cycles = 0;  ///< of those, partial sums, merging and result transfer
    SramPimCounters counts;           ///< everything but stalls
};

/** The cost formulas for one format, one nbw. */
class CostModel {
  public:
    CostModel(const SramPimParams &params, const GemvShape &shape, unsigned nbw);

    unsigned entry_bits(unsigned weights) const;
    std::uint64_t build_cycles(unsigned weights) const;
    std::uint64_t lookup_cycles(unsigned weights) const; ///< without a pattern reuse hit
    std::uint64_t int_mul_cycles(unsigned n, unsigned s) const;
    std::uint64_t convert_cycles(unsigned n) const;

    RowBudget rows() const;
    TileLayout layout(unsigned columns, unsigned units) const;

    /** @param m activation vectors, in passes of `vectors_per_pass` */
    TileCost tile(const TileShape &tile, unsigned m, unsigned vectors_per_pass, const HitSource &hits) const;

    /** Adding the `parts` partial results of one strip that different slices hold, as a tree through the LLC. */
    TileCost combine(unsigned columns, unsigned m, unsigned parts) const;

    /** Rows and bytes of one partial sum of one output. */
    unsigned result_rows() const { return shape_.raw_integer ? shape_.sum_bits : 32; }
    const GemvShape &shape() const { return shape_; }
    const std::vector<LutSlot> &slots() const { return slots_; }

  private:
    struct Pass;
    void add_pass(TileCost &total, const Pass &pass) const;
    std::uint64_t end_of_sub(unsigned vectors, SramPimCounters &counts) const;
    std::uint64_t end_of_unit(const Pass &pass, SramPimCounters &counts) const;
    std::uint64_t add_partial(SramPimCounters &counts, std::uint64_t operations, std::uint64_t sequential) const;
    void finish_counts(SramPimCounters &counts) const;
    std::uint64_t link_cycles(std::uint64_t bytes) const;

    SramPimParams params_;
    GemvShape shape_;
    unsigned nbw_;
    std::vector<LutSlot> slots_;
};

} // namespace gempim::sram_pim
