// SPDX-License-Identifier: BSD-3-Clause
// The quantised block formats of ggml as integers: what a processing-in-memory device stores and multiplies.
//
// A weight of every format here is an affine function of a small integer q:
//   legacy (q4_0 q4_1 q5_0 q5_1 q8_0), block of 32:   x = d * q + m                (m = 0 for the *_0 types)
//   k-quants (q2_K .. q6_K), super-block of 256:      x = d * scale[s] * q - dmin * min[s],  s = sub-block of 16 or 32
// Types that ggml stores with an offset (q4_0: nibble - 8) are given as the two's complement number after the offset:
// that costs the hardware an inverted top bit on the load path, and it makes every sum a plain integer dot product.
// Layouts: ggml-common.h and ggml-quants.c of llama.cpp, restated in this project's own words and checked against the
// `gguf` package with random bytes (tests/src_ext/test_ggml_blocks.py).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gempim::ggml {

/** How ggml's CPU back end quantises the activations that meet a weight type. */
enum class ActivationKind {
    q8_0, ///< 32 elements, fp16 scale
    q8_1, ///< 32 elements, fp16 scale and fp16 d * sum
    q8_k, ///< 256 elements, fp32 scale, integer sums of 16
};

/** One block format. All sizes are per block. */
struct BlockFormat {
    const char *name;        ///< ggml's own type name
    unsigned elements;       ///< weights in a block: 32 or 256
    unsigned bytes;          ///< stored size
    unsigned weight_bits;    ///< bits of q
    bool weight_signed;      ///< q is two's complement (else unsigned)
    unsigned sub_elements;   ///< weights that share an integer scale; = elements for the legacy types
    unsigned sub_scale_bits; ///< bits of the integer sub-block scale; 0 for the legacy types
    unsigned sub_min_bits;   ///< bits of the integer sub-block minimum; 0 if there is none
    bool has_min;            ///< has a minimum term (m or dmin)
    ActivationKind activation;

    unsigned sub_blocks() const { return elements / sub_elements; }
};

/** A block taken apart. Entries above the format's element or sub-block count are not written. */
struct DecodedBlock {
    std::array<std::int8_t, 256> q;
    std::array<std::int8_t, 16> scale; ///< sub-block scales (k-quants)
    std::array<std::uint8_t, 16> min;  ///< sub-block minima (k-quants with minima)
    float d;                           ///< block scale
    float m;                           ///< legacy: added minimum; k-quants: dmin, subtracted times min[s]
};

/** Every format known here. */
const std::array<BlockFormat, 10> &formats();

/** The format of that ggml name (upper or lower case), or null. */
const BlockFormat *find_format(std::string_view name);

/** Names of all formats, comma separated, for error messages. */
std::string_view format_names();

/** Take one block apart. @param block `format.bytes` readable bytes */
void decode_block(const BlockFormat &format, const std::uint8_t *block, DecodedBlock &out);

/** The real values of one block, in the order of operations of ggml's reference (fp32). @param out `format.elements`
 * floats */
void dequantize_block(const BlockFormat &format, const std::uint8_t *block, float *out);

} // namespace gempim::ggml
