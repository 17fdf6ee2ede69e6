// SPDX-License-Identifier: BSD-3-Clause
// The requests of one transfer in one channel, in the order in which they are offered to the controller.
#pragma once

#include <algorithm>
#include <cstdint>

#include "models/dram/address_map.hh"

namespace gempim::dram {

/**
 * A sequential read stream and a sequential write stream, evenly interleaved: after any prefix the bursts of the two
 * stand in the ratio of their lengths, within one burst.
 */
class Stream {
  public:
    Stream(const AddressMap &map, LocalRange reads, LocalRange writes)
        : reads_(map, reads.begin), writes_(map, writes.begin), reads_left_(reads.end - reads.begin),
          writes_left_(writes.end - writes.begin), read_share_(static_cast<std::int64_t>(reads_left_)),
          write_share_(static_cast<std::int64_t>(writes_left_)) {}

    std::uint64_t left() const { return reads_left_ + writes_left_; }
    /** Burst number of the next request, counted in the channel. */
    std::uint64_t position() const { return next_is_write() ? writes_.index() : reads_.index(); }
    /** Requests from the next one on that go in its direction, before the first one that does not. */
    std::uint64_t left_in_direction() const {
        if (one_direction()) {
            return left();
        }
        return next_is_write() ? std::min(writes_left_, static_cast<std::uint64_t>((-balance_ - 1) / read_share_ + 1))
                               : std::min(reads_left_, static_cast<std::uint64_t>(balance_ / write_share_ + 1));
    }
    bool one_direction() const { return reads_left_ == 0 || writes_left_ == 0; }

    /** Direction of the next request. */
    bool next_is_write() const { return reads_left_ == 0 || (writes_left_ != 0 && balance_ < 0); }
    Location next_location() const { return next_is_write() ? writes_.location() : reads_.location(); }

    void pop() {
        if (next_is_write()) {
            writes_.next();
            --writes_left_;
            balance_ += read_share_;
        } else {
            reads_.next();
            --reads_left_;
            balance_ -= write_share_;
        }
    }

    /** Leave out the next `count` requests, at most left_in_direction(). */
    void skip(std::uint64_t count) {
        const auto n = static_cast<std::int64_t>(count);
        if (next_is_write()) {
            writes_.seek(writes_.index() + count);
            writes_left_ -= count;
            balance_ += n * read_share_;
        } else {
            reads_.seek(reads_.index() + count);
            reads_left_ -= count;
            balance_ -= n * write_share_;
        }
    }

  private:
    AddressMap::Cursor reads_, writes_;
    std::uint64_t reads_left_, writes_left_;
    std::int64_t read_share_, write_share_;
    std::int64_t balance_ = 0; ///< negative: reads are ahead of their share
};

} // namespace gempim::dram
