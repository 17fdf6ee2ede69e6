// SPDX-License-Identifier: BSD-3-Clause
// The main memory of a system: all channels of one DRAM technology.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "models/common/memory_port.hh"
#include "models/dram/address_map.hh"
#include "models/dram/controller.hh"
#include "models/dram/stream.hh"

namespace gempim::dram {

/** What the model leaves out; hosts print it. */
inline constexpr const char *kNotModelled[] = {
    "DRAM: power-down, self-refresh and page-close timers: rows stay open until a conflict or a refresh",
    "DRAM: refresh postponing, fine-granularity and DDR5 same-bank refresh: no REF is early or late by choice",
    "DRAM: REFpb counts as an activate for tRRD, not for tFAW",
    "DRAM: ECC, data inversion, CRC, on-die read-modify-write; a partial burst costs a whole one",
    "DRAM: controller pipeline, PHY and on-chip network latency: a request is in the queue at its start time",
    "DRAM: forwarding of queued writes to reads, and temperature-dependent refresh rates",
};

/** One command of a trace, with its sub-channel. */
struct ChannelCommand {
    std::uint32_t channel;
    TracedCommand traced;
};

/**
 * The channels of a socket behind one MemoryPort.
 *
 * `channels` counts what a board calls a memory channel (one 64-bit DIMM channel). A technology with sub-channels
 * (DDR5: two of 32 bits) has channels * subchannels independent command buses; the address map and traces number those.
 *
 * Transfers are pipelined: the requests of a transfer queue behind those of the earlier ones, as many at a time as the
 * queues hold, and a transfer that starts before an earlier one has ended overlaps with it. The time that `transfer`
 * returned earlier stays what it was then; a later overlapping transfer can still delay its last few requests in the
 * queues.
 *
 * Channels that have had the same requests are in the same state, because a channel is deterministic; such channels
 * share one Controller object until their requests differ. This is exact.
 */
class DramSystem final : public MemoryPort {
  public:
    /**
     * @param channels DIMM channels, 1 to 1024
     * @param fast_forward extrapolate the steady state of long transfers (within 0.5 %, see fast_forward.hh)
     * @throws ParamError bad parameters or channels
     */
    DramSystem(const DramParams &params, std::uint32_t channels, bool fast_forward);

    /**
     * Transfer contiguous bytes; whole bursts move, also for unaligned ends. Zero bytes take no time.
     * @return last data beat on the bus, of reads and of writes [ps]
     * @throws std::invalid_argument if the range leaves the memory, or if `start` is before an earlier call's `start`
     */
    Ps transfer(std::uint64_t addr, std::uint64_t bytes, bool write, Ps start) override;

    /**
     * A read stream and a write stream, evenly interleaved (a KV cache that is read and appended, a copy).
     * @return last data beat of either [ps]
     * @throws std::invalid_argument as `transfer`
     */
    Ps mixed(std::uint64_t read_addr, std::uint64_t read_bytes, std::uint64_t write_addr, std::uint64_t write_bytes,
             Ps start);

    /** Where `mixed` writes if the host does not care: the far end of the memory, half a bank walk away from the reads.
     */
    std::uint64_t default_write_addr(std::uint64_t write_bytes) const;

    /** Let time pass to `time` [ps]: idle banks are refreshed, standby time counts. No effect if it has passed already.
     */
    void advance(Ps time);

    /** All events of all channels up to the latest of all completions and `advance` calls. */
    DramCounters counters() const;

    /** Finish what is queued, then set every counter to zero. */
    void reset_counters();

    /** Finish what is queued, then record the next `limit` commands of every channel; forgets what was recorded.
     * @throws std::logic_error if fast-forwarding */
    void record_trace(std::size_t limit);
    /** Commands recorded up to the same time as `counters`, channel by channel in order of time. */
    std::vector<ChannelCommand> trace() const;
    /** Whether a channel had more commands than the limit. */
    bool trace_truncated() const;

    /** Latest of all completions and `advance` calls [ps]. */
    Ps now() const { return now_; }
    std::uint32_t subchannels() const { return static_cast<std::uint32_t>(class_of_.size()); }
    std::uint64_t capacity_bytes() const { return params_.channel_bytes() * class_of_.size(); }
    double peak_bytes_per_s() const;
    bool fast_forward() const { return fast_forward_; }
    const DramParams &params() const { return params_; }

  private:
    /** Channels with the same history. */
    struct ChannelClass {
        Controller controller;
        Trace trace;
        std::uint32_t members;
    };
    struct Bursts {
        std::uint64_t begin, end;
    };

    Bursts bursts(std::uint64_t addr, std::uint64_t bytes) const;
    Ps run(Bursts reads, Bursts writes, Ps start);
    void split_classes(const std::vector<std::pair<LocalRange, LocalRange>> &ranges);
    Ps run_class(ChannelClass &cls, LocalRange reads, LocalRange writes, Ps start);
    Trace *trace_of(ChannelClass &cls) const { return tracing_ ? &cls.trace : nullptr; }
    std::vector<ChannelClass> finished(Ps &end) const;

    DramParams params_;
    AddressMap map_;
    std::vector<ChannelClass> classes_;
    std::vector<std::uint32_t> class_of_; ///< by sub-channel
    Controller scratch_;                  ///< a copy to finish a transfer on
    bool fast_forward_;
    bool tracing_ = false;
    Ps last_start_ = 0;
    Ps now_ = 0;
    std::uint64_t read_bytes_ = 0;
    std::uint64_t write_bytes_ = 0;
};

} // namespace gempim::dram
