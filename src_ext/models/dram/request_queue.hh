// SPDX-License-Identifier: BSD-3-Clause
// A bounded queue of requests that finds, per bank, what FR-FCFS asks for without a search.
#pragma once

#include <cstdint>
#include <vector>

#include "models/dram/address_map.hh"
#include "models/dram/channel_state.hh"

namespace gempim::dram {

/** What a request found when it came to its turn. */
enum class RowOutcome : std::uint8_t { kHit, kMiss, kConflict };

struct Request {
    Location at;
    std::uint64_t age = 0;      ///< order of arrival in the channel
    std::uint32_t transfer = 0; ///< the transfer that it belongs to
    RowOutcome outcome = RowOutcome::kHit;
};

/**
 * Requests of one direction, listed per bank in order of arrival.
 *
 * Keeps for every bank its oldest request and its oldest hit (request to the open row), and the list of banks that have
 * any request, so that the scheduler looks at one candidate a bank.
 */
class RequestQueue {
  public:
    static constexpr std::uint16_t kNone = 0xFFFF;

    RequestQueue(std::uint32_t capacity, std::uint32_t banks) : slots_(capacity), banks_(banks) {
        free_.reserve(capacity);
        for (std::uint32_t i = capacity; i-- > 0;) {
            free_.push_back(static_cast<std::uint16_t>(i));
        }
        active_.reserve(banks);
    }

    std::size_t capacity() const { return slots_.size(); }
    bool full() const { return free_.empty(); }
    bool empty() const { return free_.size() == slots_.size(); }
    std::size_t size() const { return slots_.size() - free_.size(); }

    /** Banks that have a request, in no particular order. */
    const std::vector<std::uint16_t> &active() const { return active_; }
    std::uint16_t oldest(std::uint32_t bank) const { return banks_[bank].head; }
    std::uint16_t hit(std::uint32_t bank) const { return banks_[bank].hit; }
    const Request &operator[](std::uint16_t slot) const { return slots_[slot].request; }
    void set_outcome(std::uint16_t slot, RowOutcome outcome) { slots_[slot].request.outcome = outcome; }

    void push(const Request &request, std::uint32_t open_row) {
        const std::uint16_t slot = free_.back();
        free_.pop_back();
        Bank &bank = banks_[request.at.bank];
        slots_[slot] = {request, bank.tail, kNone};
        if (bank.tail == kNone) {
            bank.head = slot;
            bank.place = static_cast<std::uint16_t>(active_.size());
            active_.push_back(static_cast<std::uint16_t>(request.at.bank));
        } else {
            slots_[bank.tail].next = slot;
        }
        bank.tail = slot;
        if (bank.hit == kNone && request.at.row == open_row) {
            bank.hit = slot;
        }
    }

    /** Take out the oldest hit of `bank`. */
    void pop_hit(std::uint32_t bank_index) {
        Bank &bank = banks_[bank_index];
        const std::uint16_t slot = bank.hit;
        const Slot &s = slots_[slot];
        bank.hit = next_with_row(s.next, s.request.at.row);
        (s.previous == kNone ? bank.head : slots_[s.previous].next) = s.next;
        (s.next == kNone ? bank.tail : slots_[s.next].previous) = s.previous;
        free_.push_back(slot);
        if (bank.head == kNone) {
            const std::uint16_t moved = active_.back();
            active_[bank.place] = moved;
            banks_[moved].place = bank.place;
            active_.pop_back();
        }
    }

    /** `bank` has opened `row`, or closed (ChannelState::kClosed). */
    void row_changed(std::uint32_t bank, std::uint32_t row) {
        banks_[bank].hit = row == ChannelState::kClosed ? kNone : next_with_row(banks_[bank].head, row);
    }

    /** Whether every request is to the open row of its bank. */
    bool only_hits() const {
        for (const std::uint16_t bank : active_) {
            const Bank &b = banks_[bank];
            for (std::uint16_t s = b.head; s != kNone; s = slots_[s].next) {
                if (b.hit == kNone || slots_[s].request.at.row != slots_[b.hit].request.at.row) {
                    return false;
                }
            }
        }
        return true;
    }

    /** Move every request to the row `rows` further on (modulo `row_count`). */
    void shift_rows(std::uint32_t rows, std::uint32_t row_count) {
        for (const std::uint16_t bank : active_) {
            for (std::uint16_t s = banks_[bank].head; s != kNone; s = slots_[s].next) {
                std::uint32_t &row = slots_[s].request.at.row;
                row = (row + rows) % row_count;
            }
        }
    }

    /**
     * Whether this queue is `earlier` with every request replaced by one to the same row that came `newer` later: a
     * scheduler cannot tell the two apart.
     */
    bool same_but_newer(const RequestQueue &earlier, std::uint64_t newer) const {
        if (size() != earlier.size() || active_.size() != earlier.active_.size()) {
            return false;
        }
        for (const std::uint16_t bank : active_) {
            std::uint16_t a = banks_[bank].head;
            std::uint16_t b = earlier.banks_[bank].head;
            for (; a != kNone && b != kNone; a = slots_[a].next, b = earlier.slots_[b].next) {
                const Request &x = slots_[a].request;
                const Request &y = earlier.slots_[b].request;
                if (x.at.row != y.at.row || x.age != y.age + newer || x.transfer != y.transfer ||
                    x.outcome != y.outcome) {
                    return false;
                }
            }
            if (a != b) {
                return false;
            }
        }
        return true;
    }

  private:
    struct Slot {
        Request request;
        std::uint16_t previous = kNone, next = kNone;
    };
    struct Bank {
        std::uint16_t head = kNone, tail = kNone, hit = kNone, place = 0;
    };

    std::uint16_t next_with_row(std::uint16_t slot, std::uint32_t row) const {
        while (slot != kNone && slots_[slot].request.at.row != row) {
            slot = slots_[slot].next;
        }
        return slot;
    }

    std::vector<Slot> slots_;
    std::vector<Bank> banks_;
    std::vector<std::uint16_t> free_;
    std::vector<std::uint16_t> active_;
};

} // namespace gempim::dram
