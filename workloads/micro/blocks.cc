// SPDX-License-Identifier: BSD-3-Clause
#include "blocks.hh"

#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "models/ggml/fp16.hh"

namespace gempim::micro {

namespace {

using enum ggml::ActivationKind;

constexpr std::array<WeightType, 10> kTypes{{
    {"q4_0", 2, 32, 18, q8_0},
    {"q4_1", 3, 32, 20, q8_1},
    {"q5_0", 6, 32, 22, q8_0},
    {"q5_1", 7, 32, 24, q8_1},
    {"q8_0", 8, 32, 34, q8_0},
    {"q2_K", 10, 256, 84, q8_k},
    {"q3_K", 11, 256, 110, q8_k},
    {"q4_K", 12, 256, 144, q8_k},
    {"q5_K", 13, 256, 176, q8_k},
    {"q6_K", 14, 256, 210, q8_k},
}};

/** Where a block keeps its fp16 scales; the second is the minimum's, or -1. */
std::array<int, 2> scale_offsets(const WeightType &type) {
    switch (type.number) {
    case 10:
        return {80, 82};
    case 11:
        return {108, -1};
    case 14:
        return {208, -1};
    case 2:
    case 6:
    case 8:
        return {0, -1};
    default:
        return {0, 2};
    }
}

/** An fp16 bit pattern as a number, from the definition (finite ones only occur here). */
double half(const std::uint8_t *at) {
    const int bits = at[0] + 256 * at[1];
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    const double magnitude = exponent == 0    ? std::ldexp(fraction, -24)
                             : exponent == 31 ? HUGE_VAL
                                              : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 != 0 ? -magnitude : magnitude;
}

void legacy_block(const WeightType &type, const std::uint8_t *b, std::uint64_t index, Row &row) {
    std::int16_t *q = row.q.data() + index * 32;
    row.scale[index] = 1;
    row.d[index] = half(b);
    const bool with_min = type.number == 3 || type.number == 7;
    if (with_min) {
        row.m[index] = half(b + 2);
    }
    const std::uint8_t *at = b + (with_min ? 4 : 2);
    if (type.number == 8) {
        for (int j = 0; j < 32; ++j) {
            q[j] = static_cast<std::int8_t>(at[j]);
        }
        return;
    }
    std::uint32_t fifth = 0;
    if (type.number == 6 || type.number == 7) {
        std::memcpy(&fifth, at, 4); // little-endian, as every machine that this is built for
        at += 4;
    }
    const int offset = type.number == 2 ? 8 : type.number == 6 ? 16 : 0;
    for (int j = 0; j < 16; ++j) {
        q[j] = static_cast<std::int16_t>((at[j] % 16 | (fifth >> j & 1) << 4) - offset);
        q[j + 16] = static_cast<std::int16_t>((at[j] / 16 | (fifth >> (j + 16) & 1) << 4) - offset);
    }
}

/** q2_K and q3_K: per 128 elements four planes of two bits over 32 bytes. @param bit the third bit's mask byte, or null
 */
void two_bit_planes(const std::uint8_t *two, const std::uint8_t *third, std::int16_t *q) {
    int plane = 0;
    for (int half_block = 0; half_block < 2; ++half_block, two += 32) {
        for (int shift = 0; shift < 8; shift += 2, ++plane) {
            for (int l = 0; l < 32; ++l) {
                const int low = two[l] >> shift & 3;
                const bool minus = third != nullptr && (third[l] & 1 << plane) == 0;
                *q++ = static_cast<std::int16_t>(minus ? low - 4 : low);
            }
        }
    }
}

void q3_scales(const std::uint8_t *packed, std::int32_t *scale) {
    // Twelve bytes as three words; each output word holds four scales: nibbles of words 0 and 1, bit pairs of word 2.
    std::array<std::uint32_t, 3> word;
    std::memcpy(word.data(), packed, 12);
    for (int group = 0; group < 4; ++group) {
        const std::uint32_t low = word[group % 2] >> (group < 2 ? 0 : 4) & 0x0F0F0F0FU;
        const std::uint32_t high = word[2] >> 2 * group & 0x03030303U;
        const std::uint32_t four = low | high << 4;
        for (int byte = 0; byte < 4; ++byte) {
            scale[4 * group + byte] = static_cast<int>(four >> 8 * byte & 63) - 32;
        }
    }
}

void six_bit_scales(const std::uint8_t *s, std::int32_t *scale, std::int32_t *min) {
    for (int j = 0; j < 8; ++j) {
        scale[j] = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        min[j] = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

void k_block(const WeightType &type, const std::uint8_t *b, std::uint64_t index, Row &row) {
    std::int16_t *q = row.q.data() + index * 256;
    const std::array<int, 2> offsets = scale_offsets(type);
    row.d[index] = half(b + offsets[0]);
    if (offsets[1] >= 0) {
        row.m[index] = half(b + offsets[1]);
    }
    const unsigned subs = type.number == 12 || type.number == 13 ? 8 : 16;
    std::int32_t *scale = row.scale.data() + index * subs;
    std::int32_t *min = row.min.data() + index * subs;
    switch (type.number) {
    case 10:
        for (int s = 0; s < 16; ++s) {
            scale[s] = b[s] % 16;
            min[s] = b[s] / 16;
        }
        two_bit_planes(b + 16, nullptr, q);
        break;
    case 11:
        q3_scales(b + 96, scale);
        two_bit_planes(b + 32, b, q);
        break;
    case 12:
    case 13: {
        six_bit_scales(b + 4, scale, min);
        const std::uint8_t *high = type.number == 13 ? b + 16 : nullptr;
        const std::uint8_t *nibbles = b + (high != nullptr ? 48 : 16);
        for (int chunk = 0; chunk < 8; ++chunk) {
            for (int l = 0; l < 32; ++l) {
                const int low = chunk % 2 == 0 ? nibbles[l] & 15 : nibbles[l] >> 4;
                const int fifth = high != nullptr && (high[l] & 1 << chunk) != 0 ? 16 : 0;
                *q++ = static_cast<std::int16_t>(low + fifth);
            }
            nibbles += chunk % 2 == 0 ? 0 : 32;
        }
        break;
    }
    default: { // q6_K
        for (int s = 0; s < 16; ++s) {
            scale[s] = static_cast<std::int8_t>(b[192 + s]);
        }
        const std::uint8_t *low = b;
        const std::uint8_t *high = b + 128;
        for (int half_block = 0; half_block < 2; ++half_block, low += 64, high += 32, q += 128) {
            for (int l = 0; l < 32; ++l) {
                q[l] = static_cast<std::int16_t>((low[l] & 15) + (high[l] & 3) * 16 - 32);
                q[l + 32] = static_cast<std::int16_t>((low[l + 32] & 15) + (high[l] >> 2 & 3) * 16 - 32);
                q[l + 64] = static_cast<std::int16_t>((low[l] >> 4) + (high[l] >> 4 & 3) * 16 - 32);
                q[l + 96] = static_cast<std::int16_t>((low[l + 32] >> 4) + (high[l] >> 6) * 16 - 32);
            }
        }
        break;
    }
    }
}

unsigned sub_blocks(const WeightType &type) {
    return type.elements == 32 ? 1 : type.number == 12 || type.number == 13 ? 8 : 16;
}

/** |error| <= r u / (1 - r u) x magnitude, u = 2^-24, plus what `adds` results can lose below the smallest normal. */
double bound(double r, double magnitude) {
    const double g = std::ldexp(r, -24);
    return g / (1.0 - g) * magnitude + std::ldexp(r, -149);
}

} // namespace

std::span<const WeightType> weight_types() {
    return kTypes;
}

const WeightType *find_weight_type(std::string_view name) {
    for (const WeightType &type : kTypes) {
        if (name == type.name) {
            return &type;
        }
    }
    return nullptr;
}

const WeightType *find_weight_type(unsigned number) {
    for (const WeightType &type : kTypes) {
        if (number == type.number) {
            return &type;
        }
    }
    return nullptr;
}

std::string weight_type_names() {
    std::string names;
    for (const WeightType &type : kTypes) {
        names += (names.empty() ? "" : ", ") + std::string(type.name);
    }
    return names;
}

void random_weights(const WeightType &type, Random &random, std::uint8_t *out, std::uint64_t blocks) {
    const std::uint64_t bytes = blocks * type.bytes;
    for (std::uint64_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = random.next();
        std::memcpy(out + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
    // Legacy scales of 2^-8 to 2^-4, k-quants' (times a 4 to 8 bit integer) of 2^-12 to 2^-8; either sign.
    const unsigned exponent = type.elements == 32 ? 7 : 3;
    const std::array<int, 2> offsets = scale_offsets(type);
    for (std::uint64_t b = 0; b < blocks; ++b) {
        std::uint64_t word = random.next();
        for (const int offset : offsets) {
            if (offset >= 0) {
                const unsigned bits = (word & 0x83FFU) | (exponent + (word >> 16 & 3)) << 10;
                std::uint8_t *at = out + b * type.bytes + offset;
                at[0] = static_cast<std::uint8_t>(bits);
                at[1] = static_cast<std::uint8_t>(bits >> 8);
                word >>= 32;
            }
        }
    }
}

void transpose_blocks(const WeightType &type, const std::uint8_t *rows, std::uint64_t n, std::uint64_t k,
                      std::uint8_t *out) {
    const std::uint64_t columns = k / type.elements;
    for (std::uint64_t column = 0; column < columns; ++column) {
        for (std::uint64_t row = 0; row < n; ++row, out += type.bytes) {
            std::memcpy(out, rows + (row * columns + column) * type.bytes, type.bytes);
        }
    }
}

void quantize_row(const WeightType &type, const float *x, std::uint64_t k, std::uint8_t *out) {
    const ggml::QuantizedActivations a = ggml::quantize_activations(x, 1, k, type.activation, 8);
    const auto put_half = [&](float value) {
        const std::uint16_t bits = ggml::fp32_to_fp16(value); // exact: the quantiser has rounded already
        *out++ = static_cast<std::uint8_t>(bits);
        *out++ = static_cast<std::uint8_t>(bits >> 8);
    };
    for (std::uint64_t b = 0; b < a.d.size(); ++b) {
        if (type.activation == q8_k) {
            std::memcpy(out, &a.d[b], 4);
            out += 4;
        } else {
            put_half(a.d[b]);
            if (type.activation == q8_1) {
                put_half(a.s[b]);
            }
        }
        std::memcpy(out, a.q.data() + b * a.block, a.block);
        out += a.block;
        if (type.activation == q8_k) {
            std::memcpy(out, a.sums.data() + b * 16, 32);
            out += 32;
        }
    }
}

Row decode_weights(const WeightType &type, const std::uint8_t *blocks, std::uint64_t k) {
    const std::uint64_t count = k / type.elements;
    Row row;
    row.q.resize(k);
    row.scale.resize(count * sub_blocks(type));
    row.min.resize(count * sub_blocks(type));
    row.d.resize(count);
    row.m.resize(count);
    for (std::uint64_t b = 0; b < count; ++b) {
        (type.elements == 32 ? legacy_block : k_block)(type, blocks + b * type.bytes, b, row);
    }
    return row;
}

Row decode_activations(const WeightType &type, const std::uint8_t *blocks, std::uint64_t k) {
    const unsigned elements = type.activation_elements();
    const std::uint64_t count = k / elements;
    Row row;
    row.q.resize(k);
    row.d.resize(count);
    row.m.resize(count);
    if (type.activation == q8_k) {
        row.sums.resize(k / 16);
    }
    for (std::uint64_t b = 0; b < count; ++b) {
        const std::uint8_t *block = blocks + b * type.activation_bytes();
        const std::uint8_t *q = block + (type.activation == q8_0 ? 2 : 4);
        if (type.activation == q8_k) {
            float d;
            std::memcpy(&d, block, 4);
            row.d[b] = d;
            for (int g = 0; g < 16; ++g) {
                std::int16_t sum;
                std::memcpy(&sum, block + 260 + 2 * g, 2);
                row.sums[b * 16 + g] = sum;
            }
        } else {
            row.d[b] = half(block);
            row.m[b] = type.activation == q8_1 ? half(block + 2) : 0.0;
        }
        for (unsigned e = 0; e < elements; ++e) {
            row.q[b * elements + e] = static_cast<std::int8_t>(q[e]);
        }
    }
    return row;
}

Expected multiply_rows(const WeightType &type, const Row &weights, const Row &activations) {
    const unsigned subs = sub_blocks(type);
    const unsigned sub = type.elements / subs;
    Expected out;
    for (std::uint64_t b = 0; b < weights.d.size(); ++b) {
        std::int64_t dot = 0;
        std::int64_t absolute = 0;
        std::int64_t minima = 0;
        std::int64_t absolute_minima = 0;
        for (unsigned s = 0; s < subs; ++s) {
            const std::uint64_t first = b * type.elements + s * sub;
            const std::int16_t *w = weights.q.data() + first;
            const std::int16_t *a = activations.q.data() + first;
            std::int32_t sum = 0;
            std::int32_t sum_absolute = 0;
            for (unsigned e = 0; e < sub; ++e) {
                const std::int32_t product = w[e] * a[e];
                sum += product;
                sum_absolute += std::abs(product);
            }
            const std::int64_t scale = weights.scale[b * subs + s];
            dot += scale * sum;
            absolute += std::abs(scale) * sum_absolute;
            if (!activations.sums.empty()) {
                for (unsigned g = 0; g < sub / 16; ++g) {
                    const std::int64_t term =
                        std::int64_t{weights.min[b * subs + s]} * activations.sums[first / 16 + g];
                    minima += term;
                    absolute_minima += std::abs(term);
                }
            }
        }
        const double d = weights.d[b] * activations.d[b];
        const double product = static_cast<double>(dot) * d;
        out.value += product;
        out.unit_magnitude += std::fabs(product);
        out.product_magnitude += static_cast<double>(absolute) * std::fabs(d);
        if (type.activation == q8_k) {
            const double d_min = weights.m[b] * activations.d[b];
            out.value -= static_cast<double>(minima) * d_min;
            out.unit_magnitude += std::fabs(static_cast<double>(minima) * d_min);
            out.product_magnitude += static_cast<double>(absolute_minima) * std::fabs(d_min);
        } else {
            const double minimum = weights.m[b] * activations.m[b];
            out.value += minimum;
            out.unit_magnitude += std::fabs(minimum);
            out.product_magnitude += std::fabs(minimum);
        }
    }
    return out;
}

double device_tolerance(const WeightType &type, std::uint64_t k, const Expected &expected) {
    const std::uint64_t units = k / type.elements;
    const double levels = std::bit_width(units - 1);
    return bound(3.0 + 3.0 * static_cast<double>(units) + 2.0 * levels, expected.unit_magnitude);
}

double kernel_tolerance(const WeightType &type, std::uint64_t k, const Expected &expected) {
    const std::uint64_t blocks = k / type.elements;
    return bound(16.0 + 4.0 * static_cast<double>(blocks), expected.product_magnitude);
}

} // namespace gempim::micro
