// SPDX-License-Identifier: BSD-3-Clause
// LUT-GEMV itself: builds every table from its weights and adds table entries picked by activation bits, row by row as
// the arrays do, with entries and accumulators cut to the widths that the cycle and row formulas assume.
#pragma once

#include <cstdint>
#include <vector>

#include "models/sram_pim/cost.hh"

namespace gempim::sram_pim {

/** Integer dot products of up to one array's columns. */
class LutGemv {
  public:
    /**
     * @param weight_signed two's complement weights (else unsigned)
     * @param nbw basis weights per table
     */
    LutGemv(const GemvShape &shape, bool weight_signed, unsigned nbw);

    /**
     * One sub-block: sums[v * columns + c] = sum over e of weights[e * columns + c] * activations[v * stride + e].
     * @param weights [sub_elements, columns]
     * @param activations `vectors` rows, `stride` apart
     * @param sums [vectors, columns], overwritten
     */
    void sub_block(const std::int8_t *weights, unsigned columns, const std::int8_t *activations, std::size_t stride,
                   std::size_t vectors, std::int32_t *sums);

    /** Sign-extend the low `bits` bits: what a row group of that height holds. */
    static std::int32_t wrap(std::int32_t value, unsigned bits) {
        const unsigned shift = 32 - bits;
        return static_cast<std::int32_t>(static_cast<std::uint32_t>(value) << shift) >> shift;
    }

  private:
    GemvShape shape_;
    bool weight_signed_;
    unsigned nbw_;
    std::vector<std::int32_t> table_; ///< [2^nbw, columns]
};

} // namespace gempim::sram_pim
