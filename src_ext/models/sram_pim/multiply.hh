// SPDX-License-Identifier: BSD-3-Clause
// The values of a planned product: integer dot products from LUT-GEMV, then scaling and summation in the order of the
// hardware.
//
// Order of the fp32 operations, each rounded to nearest, none fused:
//   1. an array adds its units in ascending order: t = float(I); t = t * d_w; t = t * d_a; acc = acc + t; then the
//   minimum:
//      q4_1, q5_1: u = m_w * s_a; acc = acc + u.   k-quants: u = float(M); u = u * dmin; u = u * d_a; acc = acc - u.
//   2. the arrays of a slice that share the inner dimension: a tree; with `a` partial sums left, sum i takes sum
//      i + ceil(a / 2), for i < floor(a / 2).
//   3. the tiles of a chain in ascending inner order: earlier + tile.
//   4. the chains of a strip: the same tree as 2.
// Bound against exact arithmetic on the same integers and scales: |error| <= g / (1 - g) * sum |terms| with g = r *
// 2^-24 and r = 3
// + (additions that a term passes through, at most 2 * units of an array + levels + tiles of a chain + levels), barring
// overflow and underflow.
#pragma once

#include <cstdint>
#include <vector>

#include "models/ggml/activations.hh"
#include "models/ggml/formats.hh"
#include "models/sram_pim/params.hh"
#include "models/sram_pim/plan.hh"

namespace gempim::sram_pim {

/** Where the blocks of weights are: that of output n and unit u at bytes + n * row_step + u * unit_step. */
struct WeightBlocks {
    const std::uint8_t *bytes = nullptr;
    std::uint64_t row_step = 0;
    std::uint64_t unit_step = 0;

    /** n rows of k / block blocks, as ggml lays out a tensor. */
    static WeightBlocks rows(const std::uint8_t *bytes, const MatmulPlan &plan) {
        return {bytes, plan.k / plan.shape.unit_elements * plan.shape.unit_bytes, plan.shape.unit_bytes};
    }
};

/** Additions in step 1 to 4 that one term passes through at most, plus its 3 own roundings: r of the bound above. */
unsigned rounding_steps(const SramPimParams &params, const MatmulPlan &plan);

/** @return [m, n] */
std::vector<float> multiply(const SramPimParams &params, const MatmulPlan &plan, const ggml::BlockFormat &format,
                            const WeightBlocks &weights, const ggml::QuantizedActivations &activations);

/**
 * One strip of the same product, for a host that has the strip's weights before the others'.
 * @param weights only the blocks of the strip's outputs are read
 * @return [m, columns of the strip]
 */
std::vector<float> multiply_strip(const SramPimParams &params, const MatmulPlan &plan, unsigned strip,
                                  const ggml::BlockFormat &format, const WeightBlocks &weights,
                                  const ggml::QuantizedActivations &activations);

/**
 * Plain integers.
 * @param weights [n, k], @param activations [m, k]
 * @return [m, n]
 */
std::vector<std::int32_t> multiply_raw(const SramPimParams &params, const MatmulPlan &plan, bool weight_signed,
                                       const std::int8_t *weights, const std::int8_t *activations);

} // namespace gempim::sram_pim
