// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/pattern_table.hh"

#include <algorithm>
#include <bitset>

namespace gempim::sram_pim {

PatternTable::PatternTable(unsigned entries, bool fifo) : entries_(entries), fifo_(fifo), stamp_(256, 0) {}

void PatternTable::clear() {
    std::fill(stamp_.begin(), stamp_.end(), 0);
    used_ = 0;
    clock_ = 0;
}

bool PatternTable::access(unsigned pattern) {
    ++clock_;
    if (stamp_[pattern] != 0) {
        if (!fifo_) {
            stamp_[pattern] = clock_;
        }
        return true;
    }
    if (used_ == entries_) {
        auto oldest = stamp_.end();
        for (auto it = stamp_.begin(); it != stamp_.end(); ++it) {
            if (*it != 0 && (oldest == stamp_.end() || *it < *oldest)) {
                oldest = it;
            }
        }
        *oldest = 0;
    } else {
        ++used_;
    }
    stamp_[pattern] = clock_;
    return false;
}

std::vector<LutSlot> lut_slots(unsigned unit_elements, unsigned sub_elements, unsigned nbw) {
    std::vector<LutSlot> slots;
    for (unsigned sub = 0; sub < unit_elements; sub += sub_elements) {
        for (unsigned at = 0; at < sub_elements; at += nbw) {
            const unsigned weights = std::min(nbw, sub_elements - at);
            slots.push_back({sub + at, weights, at + weights == sub_elements});
        }
    }
    return slots;
}

PatternHits measure_pattern_hits(const std::int8_t *activations, std::size_t m, std::size_t k, unsigned unit_elements,
                                 unsigned sub_elements, unsigned nbw, unsigned activation_bits,
                                 std::size_t vectors_per_pass, const PatternPolicy &policy) {
    const std::vector<LutSlot> slots = lut_slots(unit_elements, sub_elements, nbw);
    const std::size_t units = k / unit_elements;
    const std::size_t passes = (m + vectors_per_pass - 1) / vectors_per_pass;
    PatternHits result;
    result.tables_per_pass = units * slots.size();
    result.per_table.reserve(passes * result.tables_per_pass);
    PatternTable table(policy.entries, policy.fifo);
    // While nothing is ever thrown out, every pattern misses exactly once.
    const bool never_full = policy.entries >= (1U << nbw) || (!policy.over_batch && policy.entries >= activation_bits);
    for (std::size_t pass = 0; pass < passes; ++pass) {
        const std::size_t v_end = std::min(m, (pass + 1) * vectors_per_pass);
        for (std::size_t unit = 0; unit < units; ++unit) {
            for (const LutSlot &slot : slots) {
                std::uint32_t hits = 0;
                std::bitset<256> seen;
                table.clear();
                for (std::size_t v = pass * vectors_per_pass; v < v_end; ++v) {
                    const std::int8_t *at = activations + v * k + unit * unit_elements + slot.first;
                    if (!policy.over_batch) {
                        seen.reset();
                        if (!never_full) {
                            table.clear();
                        }
                    }
                    for (unsigned bit = 0; bit < activation_bits; ++bit) {
                        const unsigned pattern = bit_pattern(at, slot.weights, bit);
                        if (never_full) {
                            hits += seen[pattern] ? 1U : 0U;
                            seen[pattern] = true;
                        } else {
                            hits += table.access(pattern) ? 1U : 0U;
                        }
                    }
                    result.lookups += activation_bits;
                }
                result.hits += hits;
                result.per_table.push_back(hits);
            }
        }
    }
    return result;
}

} // namespace gempim::sram_pim
