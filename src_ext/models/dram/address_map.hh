// SPDX-License-Identifier: BSD-3-Clause
// From byte addresses to channels, banks, rows and columns.
#pragma once

#include <array>
#include <cstdint>

#include "models/dram/dram_params.hh"

namespace gempim::dram {

/** Where one burst lives inside its channel. */
struct Location {
    std::uint32_t bank =
        0; ///< (rank * bank_groups + group) * banks_per_group + bank: banks of a channel are numbered through
    std::uint32_t row = 0;
    std::uint32_t column = 0; ///< in bursts
};

/** A half-open range of bursts, counted inside one channel. */
struct LocalRange {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    bool operator==(const LocalRange &) const = default;
};

/**
 * The address map: burst number = byte address / burst bytes, split into mixed-radix digits, one a field.
 *
 * `address_map` lists the fields most significant first, each exactly once: Ro row, Ra rank, Ba bank in its group, Bg
 * bank group, Co column (in bursts), Ch (sub-)channel. "RoRaBaCoBgCh": consecutive bursts go to consecutive channels,
 * then to consecutive bank groups, then along the row. Sizes need not be powers of two (six channels are fine). A
 * contiguous byte range is a contiguous range of bursts in each channel, whatever the order: taking one digit out of a
 * mixed-radix number keeps the order of the rest.
 */
class AddressMap {
  public:
    /**
     * @param channels sub-channels in all
     * @throws ParamError if params.address_map is not a permutation of the six fields
     */
    AddressMap(const DramParams &params, std::uint32_t channels);

    /** The bursts of `channel` among the bursts [begin, end) of the whole memory. */
    LocalRange local_range(std::uint32_t channel, std::uint64_t begin, std::uint64_t end) const;

    /** Bursts of one channel after which only the row (and what stands above it in the map) has changed. */
    std::uint64_t row_set() const { return row_set_; }

    /**
     * Whether the walk is of the kind whose extrapolation is tested (fast_forward.hh): bank groups, then columns, then
     * banks, then ranks, then rows; the channel anywhere.
     */
    bool regular_walk() const {
        return digits_[0].field == kBg && digits_[1].field == kCo && digits_[2].field == kBa &&
               digits_[3].field == kRa && digits_[4].field == kRo;
    }

    /**
     * Bursts of one channel from one column to the next: a round over what stands below the column in the map; 0 if the
     * row stands below it.
     */
    std::uint64_t round() const { return round_; }

    /** Bursts of one channel in which only the column and what stands below it change: columns * round(). */
    std::uint64_t run() const { return round_ * columns_; }

    /** Walks the bursts of one channel in address order. */
    class Cursor {
      public:
        Cursor(const AddressMap &map, std::uint64_t index) : map_(&map) { seek(index); }
        /** Go to burst `index` of the channel (modulo its capacity). */
        void seek(std::uint64_t index);
        /** Go to the next burst. */
        void next() {
            ++index_;
            for (const Digit &d : map_->digits_) {
                if (++value_[d.field] < d.size) {
                    return;
                }
                value_[d.field] = 0;
            }
        }
        std::uint64_t index() const { return index_; }
        Location location() const {
            return {(value_[kRa] * map_->groups_ + value_[kBg]) * map_->banks_ + value_[kBa], value_[kRo], value_[kCo]};
        }

      private:
        const AddressMap *map_;
        std::uint64_t index_ = 0;
        std::array<std::uint32_t, 5> value_{};
    };

  private:
    enum Field : std::uint8_t { kRo, kRa, kBa, kBg, kCo, kCh };
    struct Digit {
        std::uint32_t size;
        Field field;
    };

    std::array<Digit, 5> digits_{};   ///< least significant first, without the channel
    std::uint64_t below_channel_ = 1; ///< product of the sizes below the channel digit
    std::uint64_t row_set_ = 1;       ///< product of the sizes below the row digit, without the channel
    std::uint64_t round_ = 0;
    std::uint32_t channels_;
    std::uint32_t columns_;
    std::uint32_t groups_;
    std::uint32_t banks_;
};

} // namespace gempim::dram
