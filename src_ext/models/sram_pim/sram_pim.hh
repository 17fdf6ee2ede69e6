// SPDX-License-Identifier: BSD-3-Clause
// The SRAM-PIM device: slices that compute one tile at a time. It has no clock and no memory of its own: a host says
// when a tile's weights have arrived (tile_pipeline.hh), the device says when the tile is done.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "models/ggml/formats.hh"
#include "models/sram_pim/cost.hh"
#include "models/sram_pim/counters.hh"
#include "models/sram_pim/params.hh"
#include "models/sram_pim/pattern_table.hh"
#include "models/sram_pim/plan.hh"

namespace gempim::sram_pim {

/** A planned product with the cost of every tile. */
struct Matmul {
    std::shared_ptr<const MatmulPlan> plan;
    std::vector<TileCost> costs;         ///< distinct costs
    std::vector<std::uint32_t> cost_of;  ///< by tile: index into `costs`
    std::vector<TileCost> combine_costs; ///< by strip: adding its chains; empty if every strip is one chain

    const TileCost &cost(std::size_t tile) const { return costs[cost_of[tile]]; }
};

class SramPim {
  public:
    /** @throws ParamError for a value out of range or a combination that no hardware could have */
    explicit SramPim(const SramPimParams &params);

    const SramPimParams &params() const { return params_; }

    /** Whether tables and accumulators of that format fit into an array. */
    bool supports(const ggml::BlockFormat &format) const;

    /** @throws ParamError, and counts the command as rejected, if the product cannot be planned */
    std::shared_ptr<const MatmulPlan> plan(const GemvShape &shape, std::uint64_t m, std::uint64_t n, std::uint64_t k);

    /** Costs for a plan, with an assumed hit rate of the pattern reuse table. @throws ParamError if not 0..1, or > 0
     * without a table */
    Matmul with_hit_rate(std::shared_ptr<const MatmulPlan> plan, double hit_rate) const;

    /** Costs for a plan, with the hits of real activations. */
    Matmul with_hits(std::shared_ptr<const MatmulPlan> plan, const PatternHits &hits) const;

    /** Hits of [m, k] quantised activations under a plan; all zero without a pattern reuse table. */
    PatternHits measure_hits(const MatmulPlan &plan, const std::int8_t *activations) const;

    /** The first time at which a slice can take another command. */
    Ps earliest(unsigned slice, Ps now) const { return std::max(now, slice_free_.at(slice)); }

    /**
     * Start a tile whose weights are there.
     * @return completion time [ps]; the slice is busy until then, a command issued earlier waits
     */
    Ps issue(unsigned slice, const TileCost &cost, Ps now);

    /** Add partial results of several slices. @return completion time [ps] */
    Ps issue_combine(const TileCost &cost, Ps now);

    /** A slice waited that long for weights. */
    void count_load_stall(Ps stall) { counters_.load_stall_ps += stall; }

    /** Forget which slices are busy: a new timeline begins. Counters stay. */
    void idle_all_slices();

    /** LLC bytes that are not available as cache while the arrays compute. */
    std::uint64_t llc_bytes_lost() const;

    const SramPimCounters &counters() const { return counters_; }
    void reset_counters() { counters_ = {}; }
    void count_rejected() { ++counters_.rejected_commands; }

  private:
    Matmul with_source(std::shared_ptr<const MatmulPlan> plan, const HitSource &source) const;

    SramPimParams params_;
    SramPimCounters counters_;
    std::vector<Ps> slice_free_;
    using PlanKey =
        std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, unsigned, unsigned, unsigned, unsigned, unsigned, bool>;
    std::map<PlanKey, std::shared_ptr<const MatmulPlan>>
        plans_;                     ///< planning tries many shapes; a model has few distinct ones
    std::size_t planned_tiles_ = 0; ///< in `plans_`, which is emptied before it grows without bound
};

} // namespace gempim::sram_pim
