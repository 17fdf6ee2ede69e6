// SPDX-License-Identifier: BSD-3-Clause
// Whose memory a command works on, in full system.
#pragma once

#include <optional>

#include "base/types.hh"

namespace gem5 {

class System;
class ThreadContext;

/**
 * The user half of the address space that a thread runs in: enough to walk its page tables later, when another thread
 * may be running on that core, or none of that program any more.
 *
 * In syscall emulation there is one program and gem5 keeps its pages, so nothing is looked at.
 */
class AddressSpace {
  public:
    AddressSpace() = default;

    /** That of `tc` now. */
    static AddressSpace of(ThreadContext *tc);

    /** What tells address spaces apart: where the page tables begin; 0 in syscall emulation. */
    Addr id() const { return root_; }

    /**
     * Whether `address` still lies in the physical page of `physical`. The walk takes no simulated time.
     * Source of the format: Arm Architecture Reference Manual (DDI 0487), D8.2 and D8.3.
     */
    bool maps(System &system, Addr address, Addr physical) const;

  private:
    std::optional<Addr> walk(System &system, Addr address) const;

    Addr root_ = 0;
    unsigned page_bits_ = 12;
    unsigned address_bits_ = 48;
};

} // namespace gem5
