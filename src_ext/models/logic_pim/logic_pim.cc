// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/logic_pim.hh"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "models/logic_pim/pim_channel.hh"

namespace gempim::logic_pim {

namespace {

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

void require(bool ok, const std::string &what) {
    if (!ok) {
        throw std::invalid_argument("logic_pim: " + what);
    }
}

const LogicPimParams &checked(const LogicPimParams &params, const dram::DramParams &dram, std::uint32_t stacks) {
    check(params, dram);
    if (stacks < 1 || stacks > 64) {
        throw ParamError("logic_pim.stacks = " + std::to_string(stacks) + ": allowed are 1 to 64");
    }
    return params;
}

} // namespace

LogicPim::LogicPim(const LogicPimParams &params, const dram::DramParams &dram, std::uint32_t stacks)
    : params_(checked(params, dram, stacks)), dram_(dram), geometry_(params, dram), stacks_(stacks) {}

double LogicPim::pim_peak_bytes_per_s() const {
    const double column_ps = static_cast<double>(params_.bundle_ccd_nCK) * dram_.tCK_ps;
    return 1e12 * geometry_.column_bytes / column_ps * params_.pseudo_channels * stacks_;
}

double LogicPim::xpu_peak_bytes_per_s() const {
    const double burst_ps = static_cast<double>(dram_.burst_nCK()) * dram_.tCK_ps;
    return 1e12 * dram_.burst_bytes() / burst_ps * params_.pseudo_channels * stacks_;
}

double LogicPim::peak_flops_per_s() const {
    const double clock_ps = static_cast<double>(params_.unit_clock_nCK) * dram_.tCK_ps;
    return 2e12 * params_.macs_per_clock / clock_ps * params_.pseudo_channels * stacks_;
}

void LogicPim::check_spaces(const std::vector<std::uint32_t> &spaces) const {
    require(!spaces.empty(), "spaces: empty, expected at least one of 0 to " + std::to_string(geometry_.spaces - 1));
    std::vector<bool> seen(geometry_.spaces, false);
    for (const std::uint32_t s : spaces) {
        require(s < geometry_.spaces,
                "spaces: " + std::to_string(s) + ", allowed are 0 to " + std::to_string(geometry_.spaces - 1));
        require(!seen[s], "spaces: " + std::to_string(s) + " occurs twice");
        seen[s] = true;
    }
}

/** Bursts of one pseudo-channel. */
std::uint64_t LogicPim::beside_bursts(const Beside &beside) const {
    if (beside.bytes == 0) {
        return 0;
    }
    check_spaces(beside.spaces);
    require(beside.bytes <= space_bytes() * beside.spaces.size(),
            std::to_string(beside.bytes) + " bytes of the xPU do not fit " + std::to_string(beside.spaces.size()) +
                " spaces of " + std::to_string(space_bytes()));
    return ceil_div(beside.bytes, static_cast<std::uint64_t>(dram_.burst_bytes()) * params_.pseudo_channels * stacks_);
}

void LogicPim::check_fits(const Program &program, const std::vector<std::uint32_t> &spaces) const {
    const std::uint64_t capacity = spaces.size() * geometry_.space_bytes / geometry_.column_bytes;
    require(program.jobs.empty() || program.extent <= capacity,
            "operands of " + std::to_string(program.extent) + " columns a pseudo-channel do not fit " +
                std::to_string(spaces.size()) + " spaces of together " + std::to_string(capacity));
}

void LogicPim::run(Cost &cost, const Program &program, const std::vector<std::uint32_t> &spaces, const Beside &beside,
                   std::uint32_t stacks) const {
    check_fits(program, spaces);
    std::vector<std::vector<std::uint32_t>> banks;
    const dram::BundleRules rules = bundle_rules(params_, dram_);
    for (const std::uint32_t s : beside.spaces) {
        banks.push_back(rules.bundles[s].banks);
    }
    XpuStream traffic(std::move(banks), dram_.bank_groups, dram_.columns(), dram_.rows, dram_.rows / 2,
                      beside_bursts(beside), false);
    const ChannelResult one = run_channel(params_, dram_, program.jobs, traffic, nullptr);
    cost.pim_ps = std::max(cost.pim_ps, one.pim_ps);
    cost.xpu_ps = std::max(cost.xpu_ps, one.xpu_ps);
    cost.counters.add(program_counts(program, stacks));
    cost.counters.add(channel_counts(one.counters), static_cast<std::uint64_t>(stacks) * params_.pseudo_channels);
}

LogicPimCounters LogicPim::program_counts(const Program &program, std::uint32_t stacks) const {
    LogicPimCounters sum;
    sum.add(program.counters, stacks);
    if (!params_.units_on_logic_die) {
        // Inputs go down to the modules, sums come back up.
        sum.pim_tsv_bits += 8 * stacks * (program.counters.input_buffer_reads + program.counters.result_buffer_writes);
    }
    return sum;
}

LogicPimCounters LogicPim::channel_counts(const LogicPimCounters &channel) const {
    LogicPimCounters counts = channel;
    const std::uint64_t burst_bits = 8ULL * dram_.burst_bytes();
    counts.pim_reads = counts.pim_columns * geometry_.banks;
    counts.pim_writes = counts.pim_column_writes * geometry_.banks;
    counts.xpu_tsv_bits = (counts.xpu_reads + counts.xpu_writes) * burst_bits;
    if (params_.units_on_logic_die) {
        counts.pim_tsv_bits = (counts.pim_reads + counts.pim_writes) * burst_bits;
    }
    return counts;
}

Program LogicPim::gemm_program(std::uint64_t n, std::uint64_t k, std::uint64_t tokens,
                               const std::vector<std::uint32_t> &spaces, bool split_k) const {
    require(n > 0 && k > 0 && tokens > 0, "n, k and tokens must be at least 1");
    check_spaces(spaces);
    const Planner planner(params_, dram_, spaces);
    Program program = planner.gemm({split_k ? n : ceil_div(n, stacks_), split_k ? ceil_div(k, stacks_) : k, tokens});
    check_fits(program, spaces);
    return program;
}

Cost LogicPim::gemm(std::uint64_t n, std::uint64_t k, std::uint64_t tokens, const std::vector<std::uint32_t> &spaces,
                    const Beside &beside, bool split_k) const {
    Cost cost;
    run(cost, gemm_program(n, k, tokens, spaces, split_k), spaces, beside, stacks_);
    cost.counters.macs = n * k * tokens;
    return cost;
}

Cost LogicPim::expert(std::uint64_t d_model, std::uint64_t d_ff, std::uint64_t tokens, bool gated,
                      const std::vector<std::uint32_t> &spaces, const Beside &beside) const {
    require(d_model > 0 && d_ff > 0 && tokens > 0, "d_model, d_ff and tokens must be at least 1");
    check_spaces(spaces);
    const Planner planner(params_, dram_, spaces);
    Cost cost;
    run(cost, planner.expert(d_model, ceil_div(d_ff, stacks_), tokens, gated), spaces, beside, stacks_);
    cost.counters.macs = tokens * d_model * d_ff * (gated ? 3 : 2);
    cost.counters.activation_elements = tokens * d_ff;
    return cost;
}

/** Pairs of sequence and head for each stack: the longest first, to the stack with the least tokens so far. */
std::vector<std::vector<std::uint64_t>> LogicPim::deal(std::uint32_t heads,
                                                       const std::vector<std::uint64_t> &lengths) const {
    std::vector<std::uint64_t> sorted = lengths;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    std::vector<std::vector<std::uint64_t>> out(stacks_);
    std::vector<std::uint64_t> load(stacks_, 0);
    for (const std::uint64_t length : sorted) {
        for (std::uint32_t h = 0; h < heads; ++h) {
            const auto least = static_cast<std::size_t>(std::min_element(load.begin(), load.end()) - load.begin());
            out[least].push_back(length);
            load[least] += length;
        }
    }
    return out;
}

Cost LogicPim::attention(std::uint32_t heads, std::uint32_t group, std::uint32_t head_dim,
                         const std::vector<std::uint64_t> &lengths, const std::vector<std::uint32_t> &spaces,
                         const Beside &beside) const {
    require(heads > 0 && group > 0 && head_dim > 0, "heads, group and head_dim must be at least 1");
    require(!lengths.empty(), "lengths: empty, expected the cached tokens of each sequence");
    require(std::all_of(lengths.begin(), lengths.end(), [](std::uint64_t l) { return l > 0; }),
            "lengths: 0, expected at least one cached token");
    check_spaces(spaces);
    const Planner planner(params_, dram_, spaces);
    Cost cost;
    std::vector<std::vector<std::uint64_t>> dealt = deal(heads, lengths);
    std::sort(dealt.begin(), dealt.end());
    for (std::size_t i = 0; i < dealt.size();) {
        const std::size_t first = i;
        while (i < dealt.size() && dealt[i] == dealt[first]) {
            ++i;
        }
        const auto stacks = static_cast<std::uint32_t>(i - first);
        run(cost, dealt[first].empty() ? Program{} : planner.attention({group, head_dim, dealt[first]}), spaces, beside,
            stacks);
    }
    return cost;
}

Cost LogicPim::xpu_stream(const Beside &traffic) const {
    Cost cost;
    check_spaces(traffic.spaces);
    run(cost, {}, {}, traffic, stacks_);
    return cost;
}

} // namespace gempim::logic_pim
