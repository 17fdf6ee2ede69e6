// SPDX-License-Identifier: BSD-3-Clause
// How one matrix product is cut into tiles, and which slice computes which tile.
//
// Outputs are cut into strips of `tile_n` columns, the inner dimension into ranges of `tile_k` weights. The tiles of
// one strip that one slice computes are a chain: the slice adds each tile to the partial sums of the one before. With
// at least as many strips as slices every strip is one chain; with fewer, a strip's inner dimension is split over
// `parts` slices and their results are added at the end. Among the tile shapes that the parameters allow, the planner
// takes the one with the least estimated time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/sram_pim/cost.hh"

namespace gempim::sram_pim {

/** One tile = one command of the device to a slice. */
struct Tile {
    unsigned strip = 0;
    unsigned slice = 0;
    std::uint64_t first_column = 0;
    TileShape shape;
    bool ends_chain = false;
    std::uint64_t offset_bytes = 0; ///< of its weights; tiles lie in memory one after another, in plan order
    std::uint64_t bytes = 0;
};

/** A matrix product [m, k] x [n, k]^T on the device. */
struct MatmulPlan {
    std::uint64_t m = 0;
    std::uint64_t n = 0;
    std::uint64_t k = 0;
    GemvShape shape;
    unsigned nbw = 0;
    unsigned vectors_per_pass = 0;
    unsigned rows_used = 0;
    unsigned arrays_used = 0; ///< of the slice that uses the most
    unsigned tile_n = 0;
    unsigned tile_units = 0;
    unsigned strips = 0;
    unsigned k_tiles = 0;
    unsigned parts = 0; ///< chains per strip
    unsigned slices_used = 0;
    std::uint64_t weight_bytes = 0;
    std::uint64_t staging_bytes_per_slice = 0; ///< LLC bytes for the tiles that the fullest slice buffers
    std::vector<Tile> tiles;                   ///< in the order in which their weights are fetched

    std::uint64_t passes() const { return (m + vectors_per_pass - 1) / vectors_per_pass; }
    unsigned columns_of(unsigned strip) const {
        return static_cast<unsigned>(std::uint64_t{strip + 1} * tile_n <= n ? tile_n
                                                                            : n - std::uint64_t{strip} * tile_n);
    }
};

/**
 * Plan a product.
 * @param k multiple of the shape's unit
 * @throws ParamError naming what does not fit: an empty extent, k against the unit, nbw against array_rows, or the
 *         buffered tiles against slice_bytes
 */
MatmulPlan make_plan(const SramPimParams &params, const GemvShape &shape, std::uint64_t m, std::uint64_t n,
                     std::uint64_t k);

/** LLC bytes of a slice that its arrays take while they compute. */
std::uint64_t array_bytes_per_slice(const SramPimParams &params);

/** Whether at least one activation vector fits beside the table with the configured nbw (or any, with nbw_auto). */
bool fits(const SramPimParams &params, const GemvShape &shape);

} // namespace gempim::sram_pim
