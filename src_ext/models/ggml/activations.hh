// SPDX-License-Identifier: BSD-3-Clause
// Activation quantisation as ggml's CPU back end does it (reference rounding), with a narrower variant for fewer bits.
//
//   q8_0  d = amax / Q, stored as fp16; q = round half away from zero (x * (1 / d)), d unrounded
//   q8_1  as q8_0, and s = fp16(d * sum q), d unrounded
//   q8_k  v = the element of largest magnitude (the first of equals), iscale = -Q / v, q = min(Q, round half to even
//         (iscale * x)), d = 1 / iscale in fp32; integer sums of 16
// with Q = 2^(bits-1) - 1 (127 for ggml's own 8 bits). A block whose d would underflow or divide by zero is all zero.
// Source: quantize_row_q8_0_ref, quantize_row_q8_1_ref (ggml-quants.c), quantize_row_q8_K_ref (ggml-quants.c).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/ggml/formats.hh"

namespace gempim::ggml {

/** Quantised activations [m, k]. */
struct QuantizedActivations {
    std::size_t m = 0;
    std::size_t k = 0;
    unsigned block = 0;             ///< elements that share a scale
    std::vector<std::int8_t> q;     ///< [m, k]
    std::vector<float> d;           ///< [m, k / block], as a reader of the block sees it (fp16 values widened)
    std::vector<float> s;           ///< q8_1: [m, k / 32], d * sum q; else empty
    std::vector<std::int16_t> sums; ///< q8_k: [m, k / 16] integer sums; else empty
};

/** Elements in a block of that kind. */
unsigned activation_block_elements(ActivationKind kind);

/** Stored bytes of a block of that kind (ggml's 8-bit layout). */
unsigned activation_block_bytes(ActivationKind kind);

/**
 * Quantise a row-major [m, k] matrix.
 * @param bits activation bits, 2..8
 * @throws std::invalid_argument if k is no multiple of the block, bits are out of range or a value is not finite
 */
QuantizedActivations quantize_activations(const float *x, std::size_t m, std::size_t k, ActivationKind kind,
                                          unsigned bits);

} // namespace gempim::ggml
