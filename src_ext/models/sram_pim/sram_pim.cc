// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/sram_pim.hh"

#include <algorithm>
#include <string>

namespace gempim::sram_pim {

namespace {

// What is remembered of a guest that asks for a new shape every time.
constexpr std::size_t kMostPlans = 1024;
constexpr std::size_t kMostPlannedTiles = std::size_t{1} << 21;

void check_combinations(const SramPimParams &p) {
    const auto fail = [](const std::string &message) { throw ParamError("sram_pim." + message); };
    if (p.prt_scope != "vector" && p.prt_scope != "group") {
        fail("prt_scope = \"" + p.prt_scope + "\": allowed are \"vector\" and \"group\"");
    }
    if (p.prt_policy != "lru" && p.prt_policy != "fifo") {
        fail("prt_policy = \"" + p.prt_policy + "\": allowed are \"lru\" and \"fifo\"");
    }
    if (p.array_columns % 8 != 0) {
        fail("array_columns = " + std::to_string(p.array_columns) + ": must be a multiple of 8, a row is whole bytes");
    }
    if (p.tile_n % p.array_columns != 0) {
        fail("tile_n = " + std::to_string(p.tile_n) +
             ": must be a multiple of array_columns = " + std::to_string(p.array_columns));
    }
    if (p.tile_n / p.array_columns > p.arrays_per_slice) {
        fail("tile_n = " + std::to_string(p.tile_n) + ": a slice has columns for " +
             std::to_string(std::uint64_t{p.arrays_per_slice} * p.array_columns) + " outputs at most");
    }
    if (p.tile_k % 256 != 0) {
        fail("tile_k = " + std::to_string(p.tile_k) + ": must be a multiple of 256, the super-block of the k-quants");
    }
    if (!p.nbw_auto) {
        // The narrowest weights the device claims: if not even these fit, no format does.
        const RowBudget rows = CostModel(p, raw_shape(2, p.activation_bits, 32), p.nbw).rows();
        if (rows.vectors(p.array_rows) == 0) {
            fail("nbw = " + std::to_string(p.nbw) + ": even 2-bit weights need " +
                 std::to_string(rows.shared + rows.per_vector) + " rows, array_rows = " + std::to_string(p.array_rows));
        }
    }
}

} // namespace

SramPim::SramPim(const SramPimParams &params) : params_(params), slice_free_() {
    check_ranges(params_, "sram_pim");
    check_combinations(params_);
    slice_free_.assign(params_.slices, 0);
}

bool SramPim::supports(const ggml::BlockFormat &format) const {
    return fits(params_, shape_of(format, params_.activation_bits));
}

std::shared_ptr<const MatmulPlan> SramPim::plan(const GemvShape &s, std::uint64_t m, std::uint64_t n, std::uint64_t k) {
    const PlanKey key{
        m, n, k, s.unit_bytes, s.unit_elements, s.weight_bits, s.activation_bits, s.sum_bits, s.raw_integer};
    if (const auto known = plans_.find(key); known != plans_.end()) {
        return known->second;
    }
    try {
        auto made = std::make_shared<const MatmulPlan>(make_plan(params_, s, m, n, k));
        if (plans_.size() >= kMostPlans || planned_tiles_ + made->tiles.size() > kMostPlannedTiles) {
            plans_.clear();
            planned_tiles_ = 0;
        }
        plans_.emplace(key, made);
        planned_tiles_ += made->tiles.size();
        return made;
    } catch (const ParamError &) {
        count_rejected();
        throw;
    }
}

Matmul SramPim::with_source(std::shared_ptr<const MatmulPlan> plan, const HitSource &source) const {
    Matmul work;
    const CostModel model(params_, plan->shape, plan->nbw);
    const auto m = static_cast<unsigned>(plan->m);
    using Key = std::tuple<unsigned, unsigned, bool, std::uint64_t>;
    std::map<Key, std::uint32_t> known;
    work.cost_of.reserve(plan->tiles.size());
    for (const Tile &tile : plan->tiles) {
        const TileShape &t = tile.shape;
        // Without measured hits, where a tile lies in the inner dimension does not matter.
        const Key key{t.columns, t.units, t.merges, source.measured != nullptr ? t.first_unit : 0};
        const auto [at, is_new] = known.try_emplace(key, static_cast<std::uint32_t>(work.costs.size()));
        if (is_new) {
            work.costs.push_back(model.tile(t, m, plan->vectors_per_pass, source));
        }
        work.cost_of.push_back(at->second);
    }
    if (plan->parts > 1) {
        for (unsigned strip = 0; strip < plan->strips; ++strip) {
            work.combine_costs.push_back(model.combine(plan->columns_of(strip), m, plan->parts));
        }
    }
    work.plan = std::move(plan);
    return work;
}

Matmul SramPim::with_hit_rate(std::shared_ptr<const MatmulPlan> plan, double hit_rate) const {
    if (!(hit_rate >= 0.0 && hit_rate <= 1.0)) {
        throw ParamError("hit_rate = " + std::to_string(hit_rate) + " hits/lookup: allowed are 0 to 1");
    }
    if (hit_rate > 0.0 && !params_.prt_enable) {
        throw ParamError("hit_rate = " + std::to_string(hit_rate) + ": sram_pim.prt_enable is false, allowed is 0");
    }
    return with_source(std::move(plan), HitSource{hit_rate, nullptr});
}

Matmul SramPim::with_hits(std::shared_ptr<const MatmulPlan> plan, const PatternHits &hits) const {
    return with_source(std::move(plan), HitSource{0.0, &hits});
}

PatternHits SramPim::measure_hits(const MatmulPlan &plan, const std::int8_t *activations) const {
    const GemvShape &s = plan.shape;
    if (!params_.prt_enable) {
        PatternHits none;
        none.tables_per_pass = plan.k / s.unit_elements * lut_slots(s.unit_elements, s.sub_elements, plan.nbw).size();
        none.lookups = none.tables_per_pass * plan.m * s.activation_bits;
        none.per_table.assign(none.tables_per_pass * plan.passes(), 0);
        return none;
    }
    const PatternPolicy policy{params_.prt_entries, params_.prt_scope == "group", params_.prt_policy == "fifo"};
    return measure_pattern_hits(activations, plan.m, plan.k, s.unit_elements, s.sub_elements, plan.nbw,
                                s.activation_bits, plan.vectors_per_pass, policy);
}

Ps SramPim::issue(unsigned slice, const TileCost &cost, Ps now) {
    if (slice >= params_.slices) {
        count_rejected();
        throw ParamError("slice " + std::to_string(slice) + ": sram_pim.slices = " + std::to_string(params_.slices));
    }
    const Ps done = earliest(slice, now) + cost.cycles * params_.clock_ps;
    slice_free_[slice] = done;
    counters_.add(cost.counts);
    return done;
}

Ps SramPim::issue_combine(const TileCost &cost, Ps now) {
    counters_.add(cost.counts);
    return now + cost.cycles * params_.clock_ps;
}

void SramPim::idle_all_slices() {
    std::fill(slice_free_.begin(), slice_free_.end(), 0);
}

std::uint64_t SramPim::llc_bytes_lost() const {
    return params_.slices * array_bytes_per_slice(params_);
}

} // namespace gempim::sram_pim
