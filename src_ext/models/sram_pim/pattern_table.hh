// SPDX-License-Identifier: BSD-3-Clause
// The pattern reuse table (PRT) of a data feeding module: remembers which activation bit patterns were looked up in the
// live table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gempim::sram_pim {

/** What may be reused, and what is thrown out. */
struct PatternPolicy {
    unsigned entries = 32;
    bool over_batch = false; ///< scope "group" (else "vector")
    bool fifo = false;       ///< else LRU
};

/** Fully associative table of patterns of up to 8 bits. */
class PatternTable {
  public:
    PatternTable(unsigned entries, bool fifo);

    /** @return true if the pattern is in the table; else it is put in, in place of the oldest if full */
    bool access(unsigned pattern);
    void clear();

  private:
    unsigned entries_;
    bool fifo_;
    unsigned used_ = 0;
    std::uint64_t clock_ = 0;
    std::vector<std::uint64_t> stamp_; ///< by pattern: time of insertion (FIFO) or last use (LRU); 0 = absent
};

/** Split of the inner dimension into the weight groups of one lookup table each. */
struct LutSlot {
    unsigned first;   ///< first element, in the unit
    unsigned weights; ///< 1..nbw
    bool ends_sub;    ///< last of its sub-block
};

/** The tables of one unit: nbw weights each, the last of a sub-block may have fewer (tables never span sub-blocks). */
std::vector<LutSlot> lut_slots(unsigned unit_elements, unsigned sub_elements, unsigned nbw);

/** The bit pattern of `weights` activations at one bit position: bit j is bit `position` of element j. */
inline unsigned bit_pattern(const std::int8_t *activations, unsigned weights, unsigned position) {
    unsigned pattern = 0;
    for (unsigned j = 0; j < weights; ++j) {
        pattern |= ((static_cast<unsigned>(static_cast<std::uint8_t>(activations[j])) >> position) & 1U) << j;
    }
    return pattern;
}

/** Pattern reuse measured on real activations. */
struct PatternHits {
    std::uint64_t lookups = 0;
    std::uint64_t hits = 0;
    std::size_t tables_per_pass = 0;
    std::vector<std::uint32_t> per_table; ///< [passes, k / unit * tables per unit] hits while that table was live
};

/**
 * Run every lookup of a [m, k] activation matrix through a pattern reuse table, in the order of the hardware: passes of
 * `vectors_per_pass` activation vectors; table by table; vector by vector; bit position from LSB to MSB.
 */
PatternHits measure_pattern_hits(const std::int8_t *activations, std::size_t m, std::size_t k, unsigned unit_elements,
                                 unsigned sub_elements, unsigned nbw, unsigned activation_bits,
                                 std::size_t vectors_per_pass, const PatternPolicy &policy);

} // namespace gempim::sram_pim
