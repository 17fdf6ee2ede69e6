// SPDX-License-Identifier: BSD-3-Clause
// The results of the PIM: FP16 or BF16 operands, exact products, FP32 sums in the order of the hardware.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gempim::logic_pim {

enum class Format : std::uint8_t { kFp16, kBf16 };

float to_float(std::uint16_t bits, Format format);
/** Nearest, ties to even; overflow gives infinity. */
std::uint16_t from_float(float value, Format format);

/** How a stack divides its work, as far as the order of additions depends on it. */
struct SumOrder {
    std::size_t column_weights = 128; ///< products of one column, added in a tree
    std::size_t modules = 32;         ///< of a stack, whose sums are added one after the other
};

/**
 * results[t, n] = sum over k of inputs[t, k] * weights[n, k], rounded to `format`.
 *
 * Products of two operands are exact in FP32. A column's products are added pairwise in a tree, columns one after the
 * other, all in FP32. With m = ceil(log2(column_weights)) + ceil(k / column_weights) - 1 additions behind one another,
 * the sum before rounding is within m u / (1 - m u) * sum |inputs * weights| of the exact one, u = 2^-24, unless FP32
 * overflows.
 */
void gemm_values(std::span<const std::uint16_t> weights, std::span<const std::uint16_t> inputs,
                 std::span<std::uint16_t> results, std::size_t n, std::size_t k, std::size_t tokens, Format format,
                 const SumOrder &order);

/** results[i] = up[i] * gate[i] / (1 + exp(-gate[i])) in FP32, rounded to `format`. */
void gated_values(std::span<const std::uint16_t> gate, std::span<const std::uint16_t> up,
                  std::span<std::uint16_t> results, Format format);

/**
 * Decode attention of one KV head: outputs[g, d] = softmax(scale * queries[g] . keys[l]) . values[l, d].
 *
 * Scores as in `gemm_values` but left in FP32; softmax in three FP32 steps (maximum; exponential of the difference, and
 * its sum; division); weights of V rounded to `format`, because the modules take such inputs; token l is added by
 * module l mod modules, then modules are added one after the other; outputs rounded to `format`.
 */
void attention_values(std::span<const std::uint16_t> queries, std::span<const std::uint16_t> keys,
                      std::span<const std::uint16_t> values, std::span<std::uint16_t> outputs, std::size_t group,
                      std::size_t head_dim, std::size_t length, float scale, Format format, const SumOrder &order);

} // namespace gempim::logic_pim
