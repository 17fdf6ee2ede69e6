// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/lut_gemv.hh"

#include <algorithm>
#include <bit>

namespace gempim::sram_pim {

LutGemv::LutGemv(const GemvShape &shape, bool weight_signed, unsigned nbw)
    : shape_(shape), weight_signed_(weight_signed), nbw_(nbw) {}

void LutGemv::sub_block(const std::int8_t *weights, unsigned columns, const std::int8_t *activations,
                        std::size_t stride, std::size_t vectors, std::int32_t *sums) {
    table_.resize((std::size_t{1} << nbw_) * columns);
    std::fill(sums, sums + vectors * columns, 0);
    const std::int32_t unsigned_mask = (1 << shape_.weight_bits) - 1;
    for (unsigned first = 0; first < shape_.sub_elements; first += nbw_) {
        const unsigned t = std::min(nbw_, shape_.sub_elements - first);
        const unsigned entry_bits = shape_.weight_bits + ceil_log2(t);
        const std::int32_t entry_mask = static_cast<std::int32_t>((std::int64_t{1} << entry_bits) - 1);
        std::fill(table_.begin(), table_.begin() + columns, 0);
        for (unsigned pattern = 1; pattern < (1U << t); ++pattern) {
            // One addition an entry: the entry without its lowest weight, plus that weight.
            const unsigned lowest = static_cast<unsigned>(std::countr_zero(pattern));
            const std::int32_t *rest = table_.data() + std::size_t{pattern & (pattern - 1)} * columns;
            const std::int8_t *basis = weights + std::size_t{first + lowest} * columns;
            std::int32_t *entry = table_.data() + std::size_t{pattern} * columns;
            if (weight_signed_) {
                for (unsigned c = 0; c < columns; ++c) {
                    entry[c] = wrap(rest[c] + basis[c], entry_bits);
                }
            } else {
                for (unsigned c = 0; c < columns; ++c) {
                    entry[c] = (rest[c] + (basis[c] & unsigned_mask)) & entry_mask;
                }
            }
        }
        for (std::size_t v = 0; v < vectors; ++v) {
            const std::int8_t *from = activations + v * stride + first;
            std::int32_t *sum = sums + v * columns;
            for (unsigned bit = 0; bit < shape_.activation_bits; ++bit) {
                const unsigned pattern = bit_pattern(from, t, bit);
                const std::int32_t *entry = table_.data() + std::size_t{pattern} * columns;
                // Two's complement: the top bit weighs -2^(ba-1), so its pass subtracts.
                if (bit + 1 == shape_.activation_bits) {
                    for (unsigned c = 0; c < columns; ++c) {
                        sum[c] -= entry[c] * (1 << bit);
                    }
                } else {
                    for (unsigned c = 0; c < columns; ++c) {
                        sum[c] += entry[c] * (1 << bit);
                    }
                }
            }
        }
    }
    for (std::size_t i = 0; i < vectors * columns; ++i) {
        sums[i] = wrap(sums[i], shape_.sum_bits);
    }
}

} // namespace gempim::sram_pim
