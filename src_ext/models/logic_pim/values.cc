// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/values.hh"

#include <algorithm>
#include <bit>
#include <cmath>

#include "models/ggml/fp16.hh"

namespace gempim::logic_pim {

namespace {

std::vector<float> widen(std::span<const std::uint16_t> bits, Format format) {
    std::vector<float> out(bits.size());
    std::transform(bits.begin(), bits.end(), out.begin(), [&](std::uint16_t b) { return to_float(b, format); });
    return out;
}

/** Sum of `width` numbers by an adder tree: neighbours first, an odd one moves up. Overwrites them. */
float tree_sum(float *numbers, std::size_t width) {
    while (width > 1) {
        const std::size_t pairs = width / 2;
        for (std::size_t i = 0; i < pairs; ++i) {
            numbers[i] = numbers[2 * i] + numbers[2 * i + 1];
        }
        if (width % 2) {
            numbers[pairs] = numbers[width - 1];
        }
        width = pairs + width % 2;
    }
    return numbers[0];
}

/** Sum of products in columns. */
float dot(const float *a, const float *b, std::size_t k, std::size_t column, std::vector<float> &scratch) {
    float sum = 0;
    for (std::size_t first = 0; first < k; first += column) {
        const std::size_t width = std::min(column, k - first);
        for (std::size_t i = 0; i < width; ++i) {
            scratch[i] = a[first + i] * b[first + i];
        }
        const float part = tree_sum(scratch.data(), width);
        sum = first == 0 ? part : sum + part;
    }
    return sum;
}

} // namespace

float to_float(std::uint16_t bits, Format format) {
    return format == Format::kFp16 ? ggml::fp16_to_fp32(bits)
                                   : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t from_float(float value, Format format) {
    if (format == Format::kFp16) {
        return ggml::fp32_to_fp16(value);
    }
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) { // a NaN stays one
        return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
    }
    return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

void gemm_values(std::span<const std::uint16_t> weights, std::span<const std::uint16_t> inputs,
                 std::span<std::uint16_t> results, std::size_t n, std::size_t k, std::size_t tokens, Format format,
                 const SumOrder &order) {
    const std::vector<float> w = widen(weights, format);
    const std::vector<float> x = widen(inputs, format);
    std::vector<float> scratch(order.column_weights);
    for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t row = 0; row < n; ++row) {
            results[t * n + row] = from_float(dot(&x[t * k], &w[row * k], k, order.column_weights, scratch), format);
        }
    }
}

void gated_values(std::span<const std::uint16_t> gate, std::span<const std::uint16_t> up,
                  std::span<std::uint16_t> results, Format format) {
    for (std::size_t i = 0; i < results.size(); ++i) {
        const float g = to_float(gate[i], format);
        results[i] = from_float(to_float(up[i], format) * (g / (1.0F + std::exp(-g))), format);
    }
}

void attention_values(std::span<const std::uint16_t> queries, std::span<const std::uint16_t> keys,
                      std::span<const std::uint16_t> values, std::span<std::uint16_t> outputs, std::size_t group,
                      std::size_t head_dim, std::size_t length, float scale, Format format, const SumOrder &order) {
    const std::vector<float> q = widen(queries, format);
    const std::vector<float> k = widen(keys, format);
    const std::vector<float> v = widen(values, format);
    std::vector<float> scratch(order.column_weights);
    std::vector<float> scores(length);
    std::vector<float> sums(order.modules * head_dim);
    for (std::size_t g = 0; g < group; ++g) {
        for (std::size_t l = 0; l < length; ++l) {
            scores[l] = scale * dot(&q[g * head_dim], &k[l * head_dim], head_dim, order.column_weights, scratch);
        }
        const float most = *std::max_element(scores.begin(), scores.end());
        float total = 0;
        for (float &s : scores) {
            s = std::exp(s - most);
            total += s;
        }
        std::fill(sums.begin(), sums.end(), 0.0F);
        for (std::size_t l = 0; l < length; ++l) {
            const float share = to_float(from_float(scores[l] / total, format), format);
            float *const of_module = &sums[l % order.modules * head_dim];
            for (std::size_t d = 0; d < head_dim; ++d) {
                of_module[d] += share * v[l * head_dim + d];
            }
        }
        for (std::size_t d = 0; d < head_dim; ++d) {
            float sum = 0;
            for (std::size_t m = 0; m < order.modules; ++m) {
                sum += sums[m * head_dim + d];
            }
            outputs[g * head_dim + d] = from_float(sum, format);
        }
    }
}

} // namespace gempim::logic_pim
