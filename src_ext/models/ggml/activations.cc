// SPDX-License-Identifier: BSD-3-Clause
#include "models/ggml/activations.hh"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "models/ggml/fp16.hh"

namespace gempim::ggml {

namespace {

void quantize_block_32(const float *x, float q_max, std::int8_t *q, float &d, float *s) {
    float amax = 0.0F;
    for (unsigned j = 0; j < 32; ++j) {
        amax = std::max(amax, std::fabs(x[j]));
    }
    const float scale = amax / q_max;
    const float inverse = scale != 0.0F ? 1.0F / scale : 0.0F;
    int sum = 0;
    for (unsigned j = 0; j < 32; ++j) {
        // A scale so small that its inverse overflows cannot be represented: the clamp keeps the conversion defined.
        const float scaled = std::isinf(inverse) ? 0.0F : x[j] * inverse;
        const float rounded = std::clamp(std::round(scaled), -q_max, q_max);
        q[j] = static_cast<std::int8_t>(rounded);
        sum += q[j];
    }
    d = fp16_to_fp32(fp32_to_fp16(scale));
    if (s != nullptr) {
        const float product = static_cast<float>(sum) * scale;
        *s = fp16_to_fp32(fp32_to_fp16(product));
    }
}

void quantize_block_256(const float *x, float q_max, std::int8_t *q, float &d, std::int16_t *sums) {
    float amax = 0.0F;
    float extreme = 0.0F;
    for (unsigned j = 0; j < 256; ++j) {
        const float magnitude = std::fabs(x[j]);
        if (magnitude > amax) {
            amax = magnitude;
            extreme = x[j];
        }
    }
    const float iscale = amax != 0.0F ? -q_max / extreme : 0.0F;
    if (iscale == 0.0F || std::isinf(iscale)) {
        std::fill(q, q + 256, std::int8_t{0});
        d = 0.0F;
    } else {
        for (unsigned j = 0; j < 256; ++j) {
            const float scaled = iscale * x[j];
            // nearbyint under the default rounding mode is ggml's nearest_int: ties to even.
            q[j] = static_cast<std::int8_t>(std::min(q_max, std::nearbyint(scaled)));
        }
        d = 1.0F / iscale;
    }
    for (unsigned g = 0; g < 16; ++g) {
        int sum = 0;
        for (unsigned j = 0; j < 16; ++j) {
            sum += q[16 * g + j];
        }
        sums[g] = static_cast<std::int16_t>(sum);
    }
}

} // namespace

unsigned activation_block_elements(ActivationKind kind) {
    return kind == ActivationKind::q8_k ? 256 : 32;
}

unsigned activation_block_bytes(ActivationKind kind) {
    switch (kind) {
    case ActivationKind::q8_0:
        return 34;
    case ActivationKind::q8_1:
        return 36;
    case ActivationKind::q8_k:
        break;
    }
    return 292;
}

QuantizedActivations quantize_activations(const float *x, std::size_t m, std::size_t k, ActivationKind kind,
                                          unsigned bits) {
    const unsigned block = activation_block_elements(kind);
    if (bits < 2 || bits > 8) {
        throw std::invalid_argument("activation bits = " + std::to_string(bits) + ": allowed are 2 to 8");
    }
    if (k == 0 || k % block != 0) {
        throw std::invalid_argument("k = " + std::to_string(k) + ": must be a positive multiple of the block of " +
                                    std::to_string(block));
    }
    if (!std::all_of(x, x + m * k, [](float v) { return std::isfinite(v); })) {
        throw std::invalid_argument("activations: every value must be finite");
    }
    const float q_max = static_cast<float>((1 << (bits - 1)) - 1);
    QuantizedActivations out;
    out.m = m;
    out.k = k;
    out.block = block;
    out.q.resize(m * k);
    out.d.resize(m * k / block);
    if (kind == ActivationKind::q8_1) {
        out.s.resize(m * k / block);
    } else if (kind == ActivationKind::q8_k) {
        out.sums.resize(m * k / 16);
    }
    for (std::size_t b = 0; b < out.d.size(); ++b) {
        const float *from = x + b * block;
        std::int8_t *to = out.q.data() + b * block;
        if (kind == ActivationKind::q8_k) {
            quantize_block_256(from, q_max, to, out.d[b], out.sums.data() + b * 16);
        } else {
            quantize_block_32(from, q_max, to, out.d[b], out.s.empty() ? nullptr : &out.s[b]);
        }
    }
    return out;
}

} // namespace gempim::ggml
