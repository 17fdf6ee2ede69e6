// SPDX-License-Identifier: BSD-3-Clause
// Random operands in ggml's block formats, and what their product must be.
//
// The reference knows nothing of the device model: it walks the blocks in the order of ggml's own dequantisation
// loops, multiplies integers exactly and scales in double precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/ggml/activations.hh"

namespace gempim::micro {

/** A weight type of ggml and the type of the activations that it is multiplied with. */
struct WeightType {
    const char *name;
    std::uint16_t number; ///< in enum ggml_type
    unsigned elements;    ///< of a block
    unsigned bytes;       ///< of a block
    ggml::ActivationKind activation;

    unsigned activation_elements() const { return activation == ggml::ActivationKind::q8_k ? 256 : 32; }
    unsigned activation_bytes() const {
        return activation == ggml::ActivationKind::q8_k ? 292 : activation == ggml::ActivationKind::q8_1 ? 36 : 34;
    }
    std::uint64_t row_bytes(std::uint64_t k) const { return k / elements * bytes; }
    std::uint64_t activation_row_bytes(std::uint64_t k) const { return k / activation_elements() * activation_bytes(); }
};

std::span<const WeightType> weight_types();

/** The type of that name (ggml's spelling), or null. */
const WeightType *find_weight_type(std::string_view name);

/** The type of that number, or null. */
const WeightType *find_weight_type(unsigned number);

/** Names, comma separated, for messages. */
std::string weight_type_names();

/** A small fast generator (xorshift64*): a simulated core must not spend its time here. */
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 0x2545F4914F6CDD1DU) {
        if (state_ == 0) {
            state_ = 1;
        }
    }

    std::uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545F4914F6CDD1DU;
    }

    /** 0 .. limit - 1. @param limit positive, below 2^32 */
    std::uint64_t below(std::uint64_t limit) { return (next() >> 32) * limit >> 32; }

    /** [-1, 1) */
    float uniform() { return static_cast<float>(static_cast<std::int32_t>(next() >> 32)) * 0x1p-31F; }

  private:
    std::uint64_t state_;
};

/** `blocks` valid blocks with random quants and sub-scales, and random finite scales of the size that models have. */
void random_weights(const WeightType &type, Random &random, std::uint8_t *out, std::uint64_t blocks);

/** The blocks of n rows, column of blocks after column (GEMPIM_LUTMM_TRANSPOSED of isa/lutmm.h). */
void transpose_blocks(const WeightType &type, const std::uint8_t *rows, std::uint64_t n, std::uint64_t k,
                      std::uint8_t *out);

/** Quantise k floats with the reference rounding of ggml (models/ggml/activations.hh), as blocks. */
void quantize_row(const WeightType &type, const float *x, std::uint64_t k, std::uint8_t *out);

/** One element of the product. */
struct Expected {
    double value = 0.0;
    double unit_magnitude = 0.0;    ///< sum of |terms| that are added as fp32 by the device: one or two a weight block
    double product_magnitude = 0.0; ///< sum of |weight x activation| over elements, minima apart
};

/** A row of weights or activations, taken apart. */
struct Row {
    std::vector<std::int16_t> q;     ///< [k]
    std::vector<std::int32_t> scale; ///< by sub-block: integer factor (weights)
    std::vector<std::int32_t> min;   ///< by sub-block: integer minimum (weights, k-quants)
    std::vector<std::int32_t> sums;  ///< by 16 elements, as stored (activations, q8_K)
    std::vector<double> d;           ///< by block
    std::vector<double> m;           ///< by block: q4_1, q5_1: minimum; k-quants: dmin; q8_1 activations: s
};

Row decode_weights(const WeightType &type, const std::uint8_t *blocks, std::uint64_t k);
Row decode_activations(const WeightType &type, const std::uint8_t *blocks, std::uint64_t k);
Expected multiply_rows(const WeightType &type, const Row &weights, const Row &activations);

/**
 * How far a result of the device may be from `expected`: the bound of models/sram_pim/multiply.hh with the largest r
 * that any plan can have, r = 3 + 3 units + 2 ceil(log2 units), units = k / block.
 */
double device_tolerance(const WeightType &type, std::uint64_t k, const Expected &expected);

/**
 * How far a kernel may be that adds fp32 terms in any order, fused or not: r / (2^24 - r) x product_magnitude with
 * r = 16 + 4 blocks. (Sums of integers inside a block are exact; a block adds at most four rounded terms to a lane.)
 */
double kernel_tolerance(const WeightType &type, std::uint64_t k, const Expected &expected);

} // namespace gempim::micro
