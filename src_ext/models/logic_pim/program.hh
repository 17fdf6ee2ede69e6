// SPDX-License-Identifier: BSD-3-Clause
// From an operator to the jobs of one stack's pseudo-channels, within the stack's buffers.
#pragma once

#include <cstdint>
#include <vector>

#include "models/logic_pim/counters.hh"
#include "models/logic_pim/params.hh"
#include "models/logic_pim/work.hh"

namespace gempim::logic_pim {

/**
 * One stack's part of an operator.
 *
 * `jobs` are those of each of its pseudo-channels, which all have the same: operands are spread evenly, the last
 * columns are padded. `counters` has what the jobs' commands do not say, for the whole stack.
 */
struct Program {
    std::vector<Job> jobs;
    LogicPimCounters counters;
    std::uint64_t extent = 0; ///< columns of one pseudo-channel that the operands take in memory
};

/** Of one stack: weights [n, k], inputs [tokens, k]. */
struct GemmShape {
    std::uint64_t n = 0, k = 0, tokens = 0;
};

/** Parts of the KV cache of one stack: tokens of each pair of sequence and KV head. */
struct AttentionShape {
    std::uint64_t group = 0, head_dim = 0;
    std::vector<std::uint64_t> lengths;
};

/** Builds programs. All sizes are of one stack; weights, inputs and results are FP16 (or BF16), sums `sum_bytes`. */
class Planner {
  public:
    Planner(const LogicPimParams &params, const dram::DramParams &dram, std::vector<std::uint32_t> spaces);

    /**
     * Inputs, weights, results. All tokens go together if their inputs fit the input buffer, or if the partial sums of
     * all outputs fit the result buffer, so that k can be taken in parts; otherwise in groups of tokens, each with the
     * weights read again. Results that do not fit the result buffer are written in several goes.
     * @throws std::invalid_argument when not even one token fits
     */
    Program gemm(const GemmShape &shape) const;

    /** Gate and up projection [n, k] (n counts both), activation in place, down projection [k, inner]. Groups of tokens
     * as above. */
    Program expert(std::uint64_t k, std::uint64_t inner, std::uint64_t tokens, bool gated) const;

    /**
     * Queries, then for each pair K, softmax, V, then outputs; K of a pair comes before V of the one before it, so that
     * the softmax has time. Scores of more than half of the softmax buffer are cut into equal parts with a softmax of
     * their own, whose outputs are rescaled.
     */
    Program attention(const AttentionShape &shape) const;

    /** Columns of one pseudo-channel for `bytes` of a stack. */
    std::uint64_t columns(std::uint64_t bytes) const;

  private:
    std::int32_t load_inputs(Program &program, std::uint64_t bytes, std::int32_t after) const;
    std::int32_t stream(Program &program, std::uint64_t columns, std::uint64_t tokens, std::int32_t after) const;
    void store(Program &program, std::uint64_t bytes) const;
    std::uint64_t gemm_group(const GemmShape &shape) const;
    void gemm_pass(Program &program, const GemmShape &shape) const;
    Ps vector_ps(std::uint64_t elements, std::uint32_t lanes, std::uint32_t latency, std::uint32_t steps) const;

    LogicPimParams params_;
    Geometry geometry_;
    Ps unit_clock_;
    std::vector<std::uint32_t> spaces_;
};

} // namespace gempim::logic_pim
