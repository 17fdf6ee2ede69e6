// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/plan.hh"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

namespace gempim::sram_pim {

namespace {

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

/** The free choices of a plan. */
struct Choice {
    unsigned nbw;
    unsigned vectors_per_pass;
    unsigned tile_n;
    unsigned tile_units;
};

unsigned chains_per_strip(const SramPimParams &p, std::uint64_t strips, std::uint64_t k_tiles) {
    const std::uint64_t free = std::max<std::uint64_t>(1, p.slices / strips);
    return static_cast<unsigned>(std::min(k_tiles, free));
}

/** LLC bytes that hold the tiles of the busiest slice on their way to the arrays. */
std::uint64_t staging_bytes(const SramPimParams &p, const GemvShape &shape, std::uint64_t n, std::uint64_t units,
                            const Choice &c) {
    const std::uint64_t strips = ceil_div(n, c.tile_n);
    const std::uint64_t k_tiles = ceil_div(units, c.tile_units);
    const unsigned parts = chains_per_strip(p, strips, k_tiles);
    const std::uint64_t tiles = ceil_div(strips * parts, p.slices) * ceil_div(k_tiles, parts);
    return std::min<std::uint64_t>(p.tile_buffers, tiles) * std::min<std::uint64_t>(n, c.tile_n) * c.tile_units *
           shape.unit_bytes;
}

/** Estimated time of the product [ps]: the longer of the weight stream and the busiest slice, and what cannot overlap.
 */
double estimate_ps(const SramPimParams &p, const CostModel &model, std::uint64_t m, std::uint64_t n,
                   std::uint64_t units, const Choice &c) {
    const std::uint64_t strips = ceil_div(n, c.tile_n);
    const std::uint64_t k_tiles = ceil_div(units, c.tile_units);
    const unsigned parts = chains_per_strip(p, strips, k_tiles);
    const std::uint64_t rounds = ceil_div(strips * parts, p.slices);
    const unsigned columns = static_cast<unsigned>(std::min<std::uint64_t>(n, c.tile_n));
    const auto vectors = static_cast<unsigned>(m);
    const std::uint64_t tiles_in_chain = ceil_div(k_tiles, parts);
    const TileCost first = model.tile({columns, c.tile_units, 0, false}, vectors, c.vectors_per_pass, {});
    const TileCost next =
        tiles_in_chain > 1 ? model.tile({columns, c.tile_units, 0, true}, vectors, c.vectors_per_pass, {}) : first;
    const std::uint64_t chain = first.cycles + (tiles_in_chain - 1) * next.cycles;
    const double clock = static_cast<double>(p.clock_ps);
    const double compute = static_cast<double>(rounds * chain) * clock;
    const double last = static_cast<double>(next.cycles) * clock;
    double load = 0.0;
    double first_load = 0.0; // until every slice has a tile
    if (p.planner_bytes_per_s > 0.0) {
        const double ps_per_byte = 1e12 / p.planner_bytes_per_s;
        load = static_cast<double>(n * units * model.shape().unit_bytes) * ps_per_byte;
        // The slices get their first tiles one after another; the one served last also ends last.
        first_load =
            static_cast<double>(std::min<std::uint64_t>(strips * parts, p.slices) * first.counts.weight_bytes) *
            ps_per_byte;
    }
    const double combine = static_cast<double>(model.combine(columns, vectors, parts).cycles) * clock;
    return std::max(load + last, first_load + compute) + combine;
}

/** Tile heights worth trying: the largest, its halves, and an even split over the slices that a strip can have. */
std::set<unsigned> unit_choices(const SramPimParams &p, const GemvShape &shape, std::uint64_t strips,
                                std::uint64_t units) {
    std::set<unsigned> choices;
    const std::uint64_t most = std::min<std::uint64_t>(units, p.tile_k / shape.unit_elements);
    for (std::uint64_t u = most; u >= 1; u = u == 1 ? 0 : ceil_div(u, 2)) {
        choices.insert(static_cast<unsigned>(u));
    }
    const std::uint64_t share = ceil_div(units, std::max<std::uint64_t>(1, p.slices / strips));
    choices.insert(static_cast<unsigned>(ceil_div(share, ceil_div(share, most))));
    return choices;
}

std::optional<Choice> best_choice(const SramPimParams &p, const GemvShape &shape, std::uint64_t m, std::uint64_t n,
                                  std::uint64_t units) {
    const std::uint64_t taken = array_bytes_per_slice(p);
    const std::uint64_t room = p.slice_bytes > taken ? p.slice_bytes - taken : 0;
    std::optional<Choice> best;
    double best_ps = 0.0;
    for (unsigned nbw = p.nbw_auto ? 1 : p.nbw; nbw <= (p.nbw_auto ? 8 : p.nbw); ++nbw) {
        const CostModel model(p, shape, nbw);
        const auto vectors = static_cast<unsigned>(std::min<std::uint64_t>(m, model.rows().vectors(p.array_rows)));
        if (vectors == 0) {
            continue;
        }
        for (unsigned tile_n = p.tile_n;;
             tile_n = static_cast<unsigned>(ceil_div(tile_n / p.array_columns, 2)) * p.array_columns) {
            const std::set<unsigned> heights = unit_choices(p, shape, ceil_div(n, tile_n), units);
            // From the largest tile down: of equals, the one with the fewest commands stays.
            for (auto units_of_tile = heights.rbegin(); units_of_tile != heights.rend(); ++units_of_tile) {
                const Choice choice{nbw, vectors, tile_n, *units_of_tile};
                if (staging_bytes(p, shape, n, units, choice) > room) {
                    continue;
                }
                const double ps = estimate_ps(p, model, m, n, units, choice);
                if (!best || ps < best_ps) {
                    best = choice;
                    best_ps = ps;
                }
            }
            if (tile_n == p.array_columns) {
                break;
            }
        }
    }
    return best;
}

} // namespace

std::uint64_t array_bytes_per_slice(const SramPimParams &params) {
    return params.arrays_take_llc_capacity
               ? std::uint64_t{params.arrays_per_slice} * params.array_rows * params.array_columns / 8
               : 0;
}

bool fits(const SramPimParams &params, const GemvShape &shape) {
    for (unsigned nbw = params.nbw_auto ? 1 : params.nbw; nbw <= (params.nbw_auto ? 8 : params.nbw); ++nbw) {
        if (CostModel(params, shape, nbw).rows().vectors(params.array_rows) != 0) {
            return true;
        }
    }
    return false;
}

MatmulPlan make_plan(const SramPimParams &params, const GemvShape &shape, std::uint64_t m, std::uint64_t n,
                     std::uint64_t k) {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 24; // keeps every product of extents far from 64 bits
    const auto check = [](const char *name, std::uint64_t value) {
        if (value == 0 || value > kMost) {
            throw ParamError(std::string("matmul ") + name + " = " + std::to_string(value) + ": allowed are 1 to " +
                             std::to_string(kMost));
        }
    };
    check("m", m);
    check("n", n);
    check("k", k);
    if (k % shape.unit_elements != 0) {
        throw ParamError("matmul k = " + std::to_string(k) + ": must be a multiple of the block of " +
                         std::to_string(shape.unit_elements) + " weights");
    }
    const std::uint64_t units = k / shape.unit_elements;
    const std::optional<Choice> choice = best_choice(params, shape, m, n, units);
    if (!choice && fits(params, shape)) {
        throw ParamError("sram_pim.tile_buffers = " + std::to_string(params.tile_buffers) +
                         ": the smallest weight tiles do not fit in what sram_pim.slice_bytes = " +
                         std::to_string(params.slice_bytes) + " leaves beside the arrays (" +
                         std::to_string(array_bytes_per_slice(params)) + " bytes); allowed are fewer buffers");
    }
    if (!choice) {
        const RowBudget need = CostModel(params, shape, params.nbw_auto ? 1 : params.nbw).rows();
        throw ParamError("sram_pim.nbw = " + std::to_string(params.nbw_auto ? 1 : params.nbw) +
                         ": table, staged weights and one " + "accumulator of " + std::to_string(shape.weight_bits) +
                         "-bit weights need " + std::to_string(need.shared + need.per_vector) +
                         " rows, sram_pim.array_rows has " + std::to_string(params.array_rows) +
                         "; allowed are a smaller nbw or more rows");
    }
    const CostModel model(params, shape, choice->nbw);
    MatmulPlan plan;
    plan.m = m;
    plan.n = n;
    plan.k = k;
    plan.shape = shape;
    plan.nbw = choice->nbw;
    plan.vectors_per_pass = choice->vectors_per_pass;
    plan.rows_used = model.rows().shared + model.rows().per_vector * choice->vectors_per_pass;
    plan.tile_n = choice->tile_n;
    plan.tile_units = choice->tile_units;
    plan.strips = static_cast<unsigned>(ceil_div(n, plan.tile_n));
    plan.k_tiles = static_cast<unsigned>(ceil_div(units, plan.tile_units));
    plan.parts = chains_per_strip(params, plan.strips, plan.k_tiles);
    plan.weight_bytes = n * units * shape.unit_bytes;

    // Chain c = strip * parts + part runs on slice c mod slices; its k tiles are an even, contiguous share.
    std::vector<std::vector<Tile>> of_slice(params.slices);
    for (unsigned strip = 0; strip < plan.strips; ++strip) {
        unsigned k_tile = 0;
        for (unsigned part = 0; part < plan.parts; ++part) {
            const unsigned slice = static_cast<unsigned>((std::uint64_t{strip} * plan.parts + part) % params.slices);
            const unsigned share = plan.k_tiles / plan.parts + (part < plan.k_tiles % plan.parts ? 1 : 0);
            for (unsigned i = 0; i < share; ++i, ++k_tile) {
                Tile tile;
                tile.strip = strip;
                tile.slice = slice;
                tile.first_column = std::uint64_t{strip} * plan.tile_n;
                tile.shape.columns = plan.columns_of(strip);
                tile.shape.first_unit = std::uint64_t{k_tile} * plan.tile_units;
                tile.shape.units =
                    static_cast<unsigned>(std::min<std::uint64_t>(plan.tile_units, units - tile.shape.first_unit));
                tile.shape.merges = i != 0;
                tile.ends_chain = i + 1 == share;
                tile.bytes = std::uint64_t{tile.shape.columns} * tile.shape.units * shape.unit_bytes;
                of_slice[slice].push_back(tile);
            }
        }
    }
    // Fetch order: the first tile of every slice, then the second of every slice, ...
    for (std::size_t round = 0;; ++round) {
        bool any = false;
        for (const auto &tiles : of_slice) {
            if (round < tiles.size()) {
                any = true;
                plan.tiles.push_back(tiles[round]);
            }
        }
        if (!any) {
            break;
        }
    }
    std::uint64_t offset = 0;
    for (Tile &tile : plan.tiles) {
        tile.offset_bytes = offset;
        offset += tile.bytes;
        const TileLayout layout = model.layout(tile.shape.columns, tile.shape.units);
        plan.arrays_used = std::max(plan.arrays_used, layout.column_groups * layout.parts);
    }
    plan.slices_used = static_cast<unsigned>(
        std::count_if(of_slice.begin(), of_slice.end(), [](const auto &tiles) { return !tiles.empty(); }));
    plan.staging_bytes_per_slice = staging_bytes(params, shape, n, units, *choice);
    return plan;
}

} // namespace gempim::sram_pim
