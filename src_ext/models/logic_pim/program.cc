// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/program.hh"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace gempim::logic_pim {

namespace {

constexpr std::uint64_t kFp16 = 2;

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

/** Part `i` of `parts` of `whole`, as equal as whole numbers allow; they add up to `whole`. */
std::uint64_t part_of(std::uint64_t whole, std::uint64_t i, std::uint64_t parts) {
    return whole * (i + 1) / parts - whole * i / parts;
}

} // namespace

Planner::Planner(const LogicPimParams &p, const dram::DramParams &d, std::vector<std::uint32_t> spaces)
    : params_(p), geometry_(p, d), unit_clock_(static_cast<Ps>(p.unit_clock_nCK) * d.tCK_ps),
      spaces_(std::move(spaces)) {}

std::uint64_t Planner::columns(std::uint64_t bytes) const {
    return ceil_div(bytes, static_cast<std::uint64_t>(geometry_.column_bytes) * params_.pseudo_channels);
}

/** Read vectors from memory into the input buffer. @return the job */
std::int32_t Planner::load_inputs(Program &program, std::uint64_t bytes, std::int32_t after) const {
    Job job;
    job.columns = columns(bytes);
    job.spaces = spaces_;
    job.after = after;
    program.jobs.push_back(job);
    program.counters.input_buffer_writes += bytes;
    return static_cast<std::int32_t>(program.jobs.size()) - 1;
}

/** Read weights (or K, or V) that `tokens` inputs meet. @return the job */
std::int32_t Planner::stream(Program &program, std::uint64_t columns, std::uint64_t tokens, std::int32_t after) const {
    Job job;
    job.columns = columns;
    job.spaces = spaces_;
    job.after = after;
    job.quanta = static_cast<std::uint32_t>(ceil_div(tokens, geometry_.quantum_tokens));
    job.sweeps = static_cast<std::uint32_t>(ceil_div(job.quanta, geometry_.tokens_held / geometry_.quantum_tokens));
    program.jobs.push_back(job);
    // Inputs of a row's columns are brought to the module once a row.
    const std::uint64_t rows = ceil_div(columns, geometry_.row_columns);
    const std::uint64_t inputs = rows * tokens * geometry_.column_bytes * params_.pseudo_channels;
    program.counters.input_buffer_reads += inputs;
    program.counters.module_buffer_bytes +=
        inputs + columns * job.sweeps * geometry_.column_bytes * params_.pseudo_channels;
    return static_cast<std::int32_t>(program.jobs.size()) - 1;
}

/** Write results to memory after everything before. */
void Planner::store(Program &program, std::uint64_t bytes) const {
    Job job;
    job.kind = params_.result_write == "bank" ? JobKind::kBankWrite : JobKind::kWrite;
    job.columns = columns(bytes);
    job.spaces = {spaces_.front()};
    job.after = static_cast<std::int32_t>(program.jobs.size()) - 1;
    program.jobs.push_back(job);
    program.counters.result_buffer_reads += bytes;
}

Ps Planner::vector_ps(std::uint64_t elements, std::uint32_t lanes, std::uint32_t latency, std::uint32_t steps) const {
    return steps * (ceil_div(elements, lanes) + latency) * unit_clock_;
}

/** Tokens that go through all weights together. */
std::uint64_t Planner::gemm_group(const GemmShape &s) const {
    const std::uint64_t inputs_fit = params_.input_buffer_bytes / (kFp16 * s.k);
    const std::uint64_t sums_fit = params_.result_buffer_bytes / (params_.sum_bytes * s.n);
    const std::uint64_t group = std::min(s.tokens, std::max(inputs_fit, sums_fit));
    if (group == 0) {
        throw std::invalid_argument(
            "logic_pim: weights [" + std::to_string(s.n) + ", " + std::to_string(s.k) +
            "] of one stack: neither the inputs nor the partial sums of one token fit a buffer");
    }
    return group;
}

void Planner::gemm_pass(Program &program, const GemmShape &s) const {
    const std::uint64_t inputs = kFp16 * s.tokens * s.k;
    const std::uint64_t results = kFp16 * s.tokens * s.n;
    const std::uint64_t weights = columns(kFp16 * s.n * s.k);
    const std::uint64_t k_parts = ceil_div(inputs, params_.input_buffer_bytes);
    ++program.counters.weight_streams;
    if (k_parts > 1) {
        for (std::uint64_t i = 0; i < k_parts; ++i) {
            const std::uint64_t columns_of_part = part_of(weights, i, k_parts);
            // The inputs before are still in use until the weights that they meet have been read.
            const auto before = static_cast<std::int32_t>(program.jobs.size()) - 1;
            const std::int32_t loaded = load_inputs(program, part_of(inputs, i, k_parts), before);
            if (columns_of_part > 0) {
                stream(program, columns_of_part, s.tokens, loaded);
            }
            const std::uint64_t sums = s.tokens * s.n * params_.sum_bytes;
            program.counters.result_buffer_writes += sums;
            program.counters.result_buffer_reads += i > 0 ? sums : 0;
        }
        store(program, results);
        return;
    }
    const std::int32_t loaded = load_inputs(program, inputs, static_cast<std::int32_t>(program.jobs.size()) - 1);
    const std::uint64_t goes = std::min(weights, ceil_div(results, params_.result_buffer_bytes));
    for (std::uint64_t i = 0; i < goes; ++i) {
        stream(program, part_of(weights, i, goes), s.tokens, loaded);
        store(program, part_of(results, i, goes));
    }
    program.counters.result_buffer_writes += results;
}

Program Planner::gemm(const GemmShape &s) const {
    Program program;
    const std::uint64_t group = gemm_group(s);
    for (std::uint64_t done = 0; done < s.tokens; done += group) {
        gemm_pass(program, {s.n, s.k, std::min(group, s.tokens - done)});
    }
    program.counters.macs = s.n * s.k * s.tokens;
    program.extent = columns(kFp16 * s.n * s.k) + columns(kFp16 * s.tokens * s.k) + columns(kFp16 * s.tokens * s.n);
    return program;
}

Program Planner::expert(std::uint64_t k, std::uint64_t inner, std::uint64_t tokens, bool gated) const {
    const std::uint64_t first = gated ? 2 * inner : inner;
    const std::uint64_t group = std::min({tokens, params_.input_buffer_bytes / (kFp16 * std::max(k, inner)),
                                          params_.result_buffer_bytes / (kFp16 * std::max(first, k))});
    if (group == 0) {
        throw std::invalid_argument("logic_pim: an expert of " + std::to_string(k) + " x " + std::to_string(inner) +
                                    " a stack: the vectors of one token do not fit the stack's buffers");
    }
    Program program;
    for (std::uint64_t done = 0; done < tokens; done += group) {
        const std::uint64_t t = std::min(group, tokens - done);
        ++program.counters.weight_streams;
        const std::int32_t loaded =
            load_inputs(program, kFp16 * t * k, static_cast<std::int32_t>(program.jobs.size()) - 1);
        const std::int32_t up = stream(program, columns(kFp16 * first * k), t, loaded);
        program.jobs.back().vector_unit = 1;
        program.jobs.back().vector_ps =
            vector_ps(t * inner, params_.activation_lanes, params_.activation_latency_clocks, 1);
        stream(program, columns(kFp16 * inner * k), t, up);
        store(program, kFp16 * t * k);
        program.counters.activation_elements += t * inner;
        // Up and gate outputs, then the activated ones into the input buffer, then partial sums of the down projection.
        program.counters.result_buffer_writes += kFp16 * t * (first + k);
        program.counters.result_buffer_reads += kFp16 * t * first;
        program.counters.input_buffer_writes += kFp16 * t * inner;
    }
    program.counters.macs = tokens * k * (first + inner);
    program.extent = columns(kFp16 * first * k) + columns(kFp16 * inner * k) + 2 * columns(kFp16 * tokens * k);
    return program;
}

Program Planner::attention(const AttentionShape &s) const {
    Program program;
    const std::uint64_t vector = kFp16 * s.group * s.head_dim; // queries, or outputs, of one pair
    const std::uint64_t most_pairs =
        std::min<std::uint64_t>(params_.input_buffer_bytes, params_.result_buffer_bytes) / vector;
    const std::uint64_t most_scores = params_.softmax_buffer_bytes / 2 / (params_.sum_bytes * s.group);
    if (most_pairs == 0 || most_scores == 0) {
        throw std::invalid_argument("logic_pim: attention of " + std::to_string(s.group) + " queries of " +
                                    std::to_string(s.head_dim) + ": one pair does not fit the stack's buffers");
    }
    for (std::uint64_t first = 0; first < s.lengths.size(); first += most_pairs) {
        const std::uint64_t pairs = std::min<std::uint64_t>(most_pairs, s.lengths.size() - first);
        const std::int32_t loaded =
            load_inputs(program, pairs * vector, static_cast<std::int32_t>(program.jobs.size()) - 1);
        std::uint64_t waiting = 0; // columns of V whose scores are in the softmax unit
        std::int32_t scores = -1;
        const auto read_v = [&] {
            if (waiting > 0) {
                stream(program, waiting, s.group, scores);
            }
        };
        for (std::uint64_t i = first; i < first + pairs; ++i) {
            const std::uint64_t length = s.lengths[i];
            const std::uint64_t parts = ceil_div(length, most_scores);
            for (std::uint64_t part = 0; part < parts; ++part) {
                const std::uint64_t tokens = part_of(length, part, parts);
                const std::uint64_t rescaled = parts > 1 ? s.group * s.head_dim : 0;
                const std::uint64_t cols = columns(kFp16 * tokens * s.head_dim);
                const std::int32_t k_job = stream(program, cols, s.group, loaded);
                program.jobs.back().vector_unit = 0;
                program.jobs.back().vector_ps =
                    vector_ps(tokens * s.group + rescaled, params_.softmax_lanes, params_.softmax_latency_clocks, 3);
                read_v();
                waiting = cols;
                scores = k_job;
                program.counters.softmax_elements += tokens * s.group + rescaled;
                program.extent += 2 * cols;
            }
            program.counters.macs += 2 * length * s.group * s.head_dim;
            // Every module has partial sums of the outputs, which are added in the result buffer.
            const std::uint64_t sums = parts * params_.pseudo_channels * s.group * s.head_dim * params_.sum_bytes;
            program.counters.result_buffer_writes += sums;
            program.counters.result_buffer_reads += sums;
        }
        read_v();
        store(program, pairs * vector);
        ++program.counters.weight_streams;
    }
    return program;
}

} // namespace gempim::logic_pim
