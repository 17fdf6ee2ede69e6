// SPDX-License-Identifier: BSD-3-Clause
// The simplest memory port: one queue, a bandwidth, a latency. A reference to test device models against.
#pragma once

#include <algorithm>
#include <cmath>

#include "models/common/memory_port.hh"

namespace gempim::engine {

class FixedBandwidthMemory : public MemoryPort {
  public:
    /** @throws ParamError unless bytes_per_s is positive */
    FixedBandwidthMemory(double bytes_per_s, Ps latency_ps)
        : ps_per_byte_(1e12 / bytes_per_s), latency_ps_(latency_ps) {
        if (!(bytes_per_s > 0.0) || !std::isfinite(ps_per_byte_)) {
            throw ParamError("FixedBandwidthMemory.bytes_per_s: must be positive");
        }
    }

    /** Transfers follow one another on the data bus; each also takes the latency, which overlaps with others' data. */
    Ps transfer(std::uint64_t, std::uint64_t bytes, bool write, Ps start) override {
        const auto duration = static_cast<Ps>(std::ceil(static_cast<double>(bytes) * ps_per_byte_));
        free_ps_ = std::max(free_ps_, start) + duration;
        (write ? write_bytes_ : read_bytes_) += bytes;
        return free_ps_ + latency_ps_;
    }

    std::uint64_t read_bytes() const { return read_bytes_; }
    std::uint64_t write_bytes() const { return write_bytes_; }

  private:
    double ps_per_byte_;
    Ps latency_ps_;
    Ps free_ps_ = 0;
    std::uint64_t read_bytes_ = 0;
    std::uint64_t write_bytes_ = 0;
};

} // namespace gempim::engine
