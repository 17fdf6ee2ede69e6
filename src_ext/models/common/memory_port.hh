// SPDX-License-Identifier: BSD-3-Clause
// How a device model asks its host for memory: the embedded engine answers with the DRAM model, gem5 with its ports.
#pragma once

#include "models/common/info.hh"

namespace gempim {

/** Timing of bulk transfers, in the order in which they are asked for. */
class MemoryPort {
  public:
    virtual ~MemoryPort() = default;

    /**
     * Transfer `bytes` contiguous bytes at `addr`.
     * @param start no request is issued before this time [ps]; calls come with non-decreasing `start`
     * @return the time at which the last byte has arrived (read) or was accepted by the device (write) [ps]
     */
    virtual Ps transfer(std::uint64_t addr, std::uint64_t bytes, bool write, Ps start) = 0;
};

} // namespace gempim
