// SPDX-License-Identifier: BSD-3-Clause
// The PIM of one device (several HBM stacks), operator by operator.
#pragma once

#include <cstdint>
#include <vector>

#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"
#include "models/logic_pim/program.hh"

namespace gempim::logic_pim {

/** What the model leaves out; hosts print it. */
inline constexpr const char *kNotModelled[] = {
    "PIM: bandwidth and conflicts of the stack's input, result and softmax buffers, which feed all modules at their "
    "pace",
    "PIM: adding partial sums of the modules of a stack takes no time beyond unit_latency_clocks",
    "PIM: its instruction queue: an operator starts instruction_ps after it was sent, with no other one before it",
    "PIM: differences between pseudo-channels: all refresh at the same time and all have the largest share of the work",
    "PIM: rows of the KV cache that two sequences share, and pages; every K and V starts a row of its own",
    "PIM: power and temperature beyond tFAW, tRRD (activation_limit) and bundle_ccd_nCK",
};

/** An operator's end times and events. Times count from the moment at which both units may start. */
struct Cost {
    Ps pim_ps = 0;
    Ps xpu_ps = 0;
    LogicPimCounters counters; ///< of the whole device; times summed over its pseudo-channels
};

/** What the xPU reads at the same time. */
struct Beside {
    std::uint64_t bytes = 0;
    std::vector<std::uint32_t> spaces;
};

/**
 * Costs of operators. Without state: every operator starts with idle channels and closed rows, `refresh_phase` into a
 * refresh interval, so a cost depends on the arguments alone.
 *
 * One pseudo-channel of each kind of stack is simulated command by command; all others have the same work and the same
 * history, so they take the same time and have the same events. This is exact.
 */
class LogicPim {
  public:
    /** @throws ParamError bad parameters, or stacks outside 1 to 64 */
    LogicPim(const LogicPimParams &params, const dram::DramParams &dram, std::uint32_t stacks);

    /**
     * Weights [n, k] over all stacks. @param split_k the stacks share k (each has partial sums of all outputs), not n
     * @throws std::invalid_argument empty sizes, bad spaces, more than fits the spaces or the buffers
     */
    Cost gemm(std::uint64_t n, std::uint64_t k, std::uint64_t tokens, const std::vector<std::uint32_t> &spaces,
              const Beside &beside, bool split_k) const;

    /** What `gemm` runs on the pseudo-channels of one stack. @throws std::invalid_argument as gemm */
    Program gemm_program(std::uint64_t n, std::uint64_t k, std::uint64_t tokens,
                         const std::vector<std::uint32_t> &spaces, bool split_k) const;

    /** Counts of an operator on `stacks` stacks that its commands do not say. */
    LogicPimCounters program_counts(const Program &program, std::uint32_t stacks) const;

    /** Counts of one pseudo-channel with what follows from them: bursts and bits. */
    LogicPimCounters channel_counts(const LogicPimCounters &channel) const;

    /** Gate, up, activation, down; d_ff is the device's. @throws std::invalid_argument as gemm */
    Cost expert(std::uint64_t d_model, std::uint64_t d_ff, std::uint64_t tokens, bool gated,
                const std::vector<std::uint32_t> &spaces, const Beside &beside) const;

    /** Decode attention of `heads` KV heads with `group` queries each. @throws std::invalid_argument as gemm */
    Cost attention(std::uint32_t heads, std::uint32_t group, std::uint32_t head_dim,
                   const std::vector<std::uint64_t> &lengths, const std::vector<std::uint32_t> &spaces,
                   const Beside &beside) const;

    /** The xPU alone. @throws std::invalid_argument as gemm */
    Cost xpu_stream(const Beside &traffic) const;

    std::uint32_t spaces() const { return geometry_.spaces; }
    const Geometry &geometry() const { return geometry_; }
    /** Bytes of one space on the device. */
    std::uint64_t space_bytes() const { return geometry_.space_bytes * params_.pseudo_channels * stacks_; }
    double pim_peak_bytes_per_s() const;
    double xpu_peak_bytes_per_s() const;
    double peak_flops_per_s() const;

  private:
    void check_spaces(const std::vector<std::uint32_t> &spaces) const;
    void check_fits(const Program &program, const std::vector<std::uint32_t> &spaces) const;
    std::uint64_t beside_bursts(const Beside &beside) const;
    /** Add `stacks` stacks that each run `program`. */
    void run(Cost &cost, const Program &program, const std::vector<std::uint32_t> &spaces, const Beside &beside,
             std::uint32_t stacks) const;
    std::vector<std::vector<std::uint64_t>> deal(std::uint32_t heads, const std::vector<std::uint64_t> &lengths) const;

    LogicPimParams params_;
    dram::DramParams dram_;
    Geometry geometry_;
    std::uint32_t stacks_;
};

} // namespace gempim::logic_pim
