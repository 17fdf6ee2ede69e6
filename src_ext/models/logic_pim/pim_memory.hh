// SPDX-License-Identifier: BSD-3-Clause
// The memory of a device with its PIM, as long as a host keeps it: addresses, requests, commands, time.
//
// C++17: gem5's headers do not compile as C++20.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "isa/pimq.h"
#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"

namespace gempim::logic_pim {

/** What a PimMemory tells its host, from within `PimMemory::run`. The host may push requests at once. */
class PimMemoryHost {
  public:
    virtual ~PimMemoryHost() = default;
    /** The request with that tag was served; its last data beat is at `beat` [ps]. */
    virtual void served(std::uint64_t tag, Ps beat) = 0;
    /** A queue of that pseudo-channel has room for one more. */
    virtual void has_room(std::uint32_t channel, bool write) = 0;
};

/** A command that `PimMemory::check` has accepted. */
struct PimCommand {
    gempim_pimq_desc desc{};
    std::vector<std::uint32_t> spaces; ///< of the weights, in their order
};

/**
 * All pseudo-channels of a device, each simulated command by command, with what the host asks for in the order in which
 * it asks.
 *
 * Addresses are device addresses. From the least significant field: the burst's bytes, stack, pseudo-channel, bank
 * group, bank in the bundle, column, row, space. So a space is a contiguous part of the memory, and consecutive bytes
 * fill one column of a bundle in all pseudo-channels before the next one.
 *
 * A command runs on all pseudo-channels at once. What is read and written there are the operands of `LogicPim::gemm`:
 * packed, evenly spread, in rows that are numbered from 0 (no time depends on the number of a row).
 */
class PimMemory {
  public:
    static constexpr Ps kForever = ~Ps{0};

    /** @throws ParamError bad parameters, or stacks outside 1 to 64 */
    PimMemory(const LogicPimParams &params, const dram::DramParams &dram, std::uint32_t stacks, PimMemoryHost &host);
    ~PimMemory();

    std::uint32_t channels() const;
    std::uint32_t stacks() const;
    std::uint32_t burst_bytes() const;
    std::uint32_t spaces() const;
    std::uint64_t space_bytes() const;
    /** One row of a space over all pseudo-channels. */
    std::uint64_t row_bytes() const;
    std::uint64_t bytes() const { return spaces() * space_bytes(); }
    /** Of every space programs have bytes for themselves from here on: below are gem5's own pages of a guest. */
    std::uint64_t window_offset() const { return space_bytes() / 2; }
    /** What a register of pimq.h that never changes reads as; 0 where there is none. */
    std::uint64_t constant_register(std::uint64_t offset, std::uint64_t window_bytes) const;
    Ps clock_ps() const;
    /** A read of an idle pseudo-channel with closed rows. */
    Ps idle_read_ps() const;

    // Requests --------------------------------------------------------------------------------------------------

    std::uint32_t channel_of(std::uint64_t address) const;
    bool full(std::uint32_t channel, bool write) const;
    /** Queue the burst at `address` at `now` [ps]; its queue is not full. `now` never decreases. */
    void push(std::uint64_t address, bool write, std::uint64_t tag, Ps now);

    // Commands --------------------------------------------------------------------------------------------------

    /** @return 0, or the gempim_pimq_status that refuses a descriptor at that address without looking at it */
    std::uint32_t check_address(std::uint64_t address) const;
    /** @return 0, or the gempim_pimq_status that refuses the command; `address`: of the descriptor */
    std::uint32_t check(const gempim_pimq_desc &desc, std::uint64_t address, PimCommand &command) const;
    /** Run a command from the clock edge at or after `now` on; none runs. */
    void start(const PimCommand &command, Ps now);
    /** Whether a command runs, or rows that it opened are still to be closed. */
    bool running() const;
    /** When the last result of the command that runs is in memory [ps]; known shortly before that time. */
    std::optional<Ps> command_end() const;
    /**
     * Compute a command on the memory's bytes, with the rounding of `values.hh`: inputs and weights are read, results
     * written. @param memory byte 0 of the device
     */
    void compute(const PimCommand &command, std::uint8_t *memory) const;

    // Time ------------------------------------------------------------------------------------------------------

    /** Let everything happen that comes up to and including `now` [ps]. @return when to call again */
    Ps run(Ps now);
    /** Whether no request is queued and no command runs. */
    bool idle() const;

    /** Events of commands and of what ran beside them, whole device; times summed over pseudo-channels. */
    LogicPimCounters counters() const;
    /** All ordinary commands up to `now`; bytes are the bursts'. */
    dram::DramCounters dram_counters(Ps now);
    void reset_counters(Ps now);

  private:
    struct State;
    std::unique_ptr<State> s_;
};

} // namespace gempim::logic_pim
