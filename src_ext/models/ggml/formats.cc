// SPDX-License-Identifier: BSD-3-Clause
#include "models/ggml/formats.hh"

#include <cctype>
#include <string>

#include "models/ggml/fp16.hh"

namespace gempim::ggml {

namespace {

using enum ActivationKind;

constexpr std::array<BlockFormat, 10> kFormats{{
    // name, elements, bytes, bits, signed, sub, scale bits, min bits, min, activation
    {"q4_0", 32, 18, 4, true, 32, 0, 0, false, q8_0},
    {"q4_1", 32, 20, 4, false, 32, 0, 0, true, q8_1},
    {"q5_0", 32, 22, 5, true, 32, 0, 0, false, q8_0},
    {"q5_1", 32, 24, 5, false, 32, 0, 0, true, q8_1},
    {"q8_0", 32, 34, 8, true, 32, 0, 0, false, q8_0},
    {"q2_K", 256, 84, 2, false, 16, 4, 4, true, q8_k},
    {"q3_K", 256, 110, 3, true, 16, 6, 0, false, q8_k},
    {"q4_K", 256, 144, 4, false, 32, 6, 6, true, q8_k},
    {"q5_K", 256, 176, 5, false, 32, 6, 6, true, q8_k},
    {"q6_K", 256, 210, 6, true, 16, 8, 0, false, q8_k},
}};

float half_at(const std::uint8_t *p) {
    return fp16_to_fp32(static_cast<std::uint16_t>(p[0] | (p[1] << 8)));
}

// q4_0/q4_1/q5_0/q5_1: byte j holds element j low and element j + 16 high; bit e of qh is the fifth bit of element e.
void decode_nibbles(const std::uint8_t *qs, const std::uint8_t *qh, int offset, DecodedBlock &out) {
    std::uint32_t high = 0;
    if (qh != nullptr) {
        high = qh[0] | (qh[1] << 8) | (qh[2] << 16) | (static_cast<std::uint32_t>(qh[3]) << 24);
    }
    for (unsigned e = 0; e < 32; ++e) {
        const unsigned nibble = e < 16 ? qs[e] & 15U : qs[e - 16] >> 4;
        const unsigned value = nibble | (((high >> e) & 1U) << 4);
        out.q[e] = static_cast<std::int8_t>(static_cast<int>(value) - offset);
    }
}

// The eight 6-bit scales and minima that q4_K and q5_K pack in 12 bytes.
void decode_scales_6bit(const std::uint8_t *s, DecodedBlock &out) {
    for (unsigned j = 0; j < 4; ++j) {
        out.scale[j] = static_cast<std::int8_t>(s[j] & 63);
        out.min[j] = static_cast<std::uint8_t>(s[j + 4] & 63);
        out.scale[j + 4] = static_cast<std::int8_t>((s[j + 8] & 15) | ((s[j] >> 6) << 4));
        out.min[j + 4] = static_cast<std::uint8_t>((s[j + 8] >> 4) | ((s[j + 4] >> 6) << 4));
    }
}

void decode_q2_k(const std::uint8_t *b, DecodedBlock &out) {
    const std::uint8_t *scales = b;
    const std::uint8_t *qs = b + 16;
    for (unsigned s = 0; s < 16; ++s) {
        out.scale[s] = static_cast<std::int8_t>(scales[s] & 15);
        out.min[s] = static_cast<std::uint8_t>(scales[s] >> 4);
    }
    for (unsigned e = 0; e < 256; ++e) {
        const unsigned half = e / 128;
        const unsigned plane = (e % 128) / 32;
        out.q[e] = static_cast<std::int8_t>((qs[32 * half + e % 32] >> (2 * plane)) & 3);
    }
    out.d = half_at(b + 80);
    out.m = half_at(b + 82);
}

void decode_q3_k(const std::uint8_t *b, DecodedBlock &out) {
    const std::uint8_t *hmask = b;
    const std::uint8_t *qs = b + 32;
    const std::uint8_t *packed = b + 96;
    for (unsigned s = 0; s < 16; ++s) {
        const unsigned low = s < 8 ? packed[s] & 15U : packed[s - 8] >> 4;
        const unsigned high = (packed[8 + s % 4] >> (2 * (s / 4))) & 3U;
        out.scale[s] = static_cast<std::int8_t>(static_cast<int>(low | (high << 4)) - 32);
    }
    for (unsigned e = 0; e < 256; ++e) {
        const unsigned half = e / 128;
        const unsigned plane = (e % 128) / 32;
        const int low = (qs[32 * half + e % 32] >> (2 * plane)) & 3;
        const bool top = ((hmask[e % 32] >> (4 * half + plane)) & 1) != 0;
        out.q[e] = static_cast<std::int8_t>(top ? low : low - 4); // a CLEAR bit means minus 4
    }
    out.d = half_at(b + 108);
    out.m = 0.0F;
}

void decode_q45_k(const std::uint8_t *qs, const std::uint8_t *qh, DecodedBlock &out) {
    for (unsigned e = 0; e < 256; ++e) {
        const unsigned chunk = e / 64;
        const unsigned lane = e % 32;
        const unsigned upper = (e % 64) / 32;
        unsigned value = (qs[32 * chunk + lane] >> (4 * upper)) & 15U;
        if (qh != nullptr) {
            value |= ((qh[lane] >> (2 * chunk + upper)) & 1U) << 4;
        }
        out.q[e] = static_cast<std::int8_t>(value);
    }
}

void decode_q6_k(const std::uint8_t *b, DecodedBlock &out) {
    const std::uint8_t *ql = b;
    const std::uint8_t *qh = b + 128;
    for (unsigned e = 0; e < 256; ++e) {
        const unsigned half = e / 128;
        const unsigned plane = (e % 128) / 32; // planes 0, 1: low nibbles of the two 32-byte rows; 2, 3: high nibbles
        const unsigned lane = e % 32;
        const unsigned low = (ql[64 * half + 32 * (plane % 2) + lane] >> (4 * (plane / 2))) & 15U;
        const unsigned high = (qh[32 * half + lane] >> (2 * plane)) & 3U;
        out.q[e] = static_cast<std::int8_t>(static_cast<int>(low | (high << 4)) - 32);
    }
    for (unsigned s = 0; s < 16; ++s) {
        out.scale[s] = static_cast<std::int8_t>(b[192 + s]);
    }
    out.d = half_at(b + 208);
    out.m = 0.0F;
}

} // namespace

const std::array<BlockFormat, 10> &formats() {
    return kFormats;
}

const BlockFormat *find_format(std::string_view name) {
    for (const BlockFormat &format : kFormats) {
        const std::string_view known = format.name;
        bool same = known.size() == name.size();
        for (std::size_t i = 0; same && i < known.size(); ++i) {
            same =
                std::tolower(static_cast<unsigned char>(known[i])) == std::tolower(static_cast<unsigned char>(name[i]));
        }
        if (same) {
            return &format;
        }
    }
    return nullptr;
}

std::string_view format_names() {
    static const std::string names = [] {
        std::string all;
        for (const BlockFormat &format : kFormats) {
            all += (all.empty() ? "" : ", ") + std::string(format.name);
        }
        return all;
    }();
    return names;
}

void decode_block(const BlockFormat &format, const std::uint8_t *b, DecodedBlock &out) {
    const std::string_view name = format.name;
    if (name == "q4_0") {
        out.d = half_at(b);
        out.m = 0.0F;
        decode_nibbles(b + 2, nullptr, 8, out);
    } else if (name == "q4_1") {
        out.d = half_at(b);
        out.m = half_at(b + 2);
        decode_nibbles(b + 4, nullptr, 0, out);
    } else if (name == "q5_0") {
        out.d = half_at(b);
        out.m = 0.0F;
        decode_nibbles(b + 6, b + 2, 16, out);
    } else if (name == "q5_1") {
        out.d = half_at(b);
        out.m = half_at(b + 2);
        decode_nibbles(b + 8, b + 4, 0, out);
    } else if (name == "q8_0") {
        out.d = half_at(b);
        out.m = 0.0F;
        for (unsigned e = 0; e < 32; ++e) {
            out.q[e] = static_cast<std::int8_t>(b[2 + e]);
        }
    } else if (name == "q2_K") {
        decode_q2_k(b, out);
    } else if (name == "q3_K") {
        decode_q3_k(b, out);
    } else if (name == "q4_K" || name == "q5_K") {
        const bool five = name == "q5_K";
        out.d = half_at(b);
        out.m = half_at(b + 2);
        decode_scales_6bit(b + 4, out);
        decode_q45_k(b + (five ? 48 : 16), five ? b + 16 : nullptr, out);
    } else {
        decode_q6_k(b, out);
    }
}

void dequantize_block(const BlockFormat &format, const std::uint8_t *block, float *out) {
    DecodedBlock decoded;
    decode_block(format, block, decoded);
    for (unsigned e = 0; e < format.elements; ++e) {
        const float q = decoded.q[e];
        if (format.sub_scale_bits == 0) {
            const float scaled = decoded.d * q;
            out[e] = scaled + decoded.m;
            continue;
        }
        const unsigned s = e / format.sub_elements;
        const float scale = decoded.d * static_cast<float>(decoded.scale[s]);
        const float scaled = scale * q;
        if (format.has_min) {
            const float minimum = decoded.m * static_cast<float>(decoded.min[s]);
            out[e] = scaled - minimum;
        } else {
            out[e] = scaled;
        }
    }
}

} // namespace gempim::ggml
