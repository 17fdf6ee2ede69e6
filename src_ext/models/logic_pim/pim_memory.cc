// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/pim_memory.hh"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "models/logic_pim/logic_pim.hh"
#include "models/logic_pim/pim_channel.hh"
#include "models/logic_pim/values.hh"

namespace gempim::logic_pim {

namespace {

constexpr std::uint64_t kFp16 = 2;

/** Half-open. */
struct Range {
    std::uint64_t begin = 0, end = 0;
    bool meets(const Range &o) const { return begin < end && o.begin < o.end && begin < o.end && o.begin < end; }
};

Range range_of(std::uint64_t begin, std::uint64_t bytes) {
    return {begin, begin + bytes};
}

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

std::uint64_t weight_bytes(const gempim_pimq_desc &d) {
    return kFp16 * d.n * d.k;
}

std::uint64_t input_bytes(const gempim_pimq_desc &d) {
    return kFp16 * d.tokens * d.k;
}

/** Bytes of the weights in the `i`-th of their spaces. */
std::uint64_t weight_bytes_in(const gempim_pimq_desc &d, std::uint64_t row, std::uint64_t i) {
    const std::uint64_t whole = weight_bytes(d) / row;
    const std::uint64_t rest = weight_bytes(d) % row;
    return (whole / d.spaces + (i < whole % d.spaces)) * row + (i == whole % d.spaces ? rest : 0);
}

} // namespace

struct PimMemory::State {
    struct Channel {
        PimChannel model;
        Ps next = kForever;
        std::unordered_map<std::uint64_t, std::uint64_t> tags; ///< by age, of what is queued
    };

    State(const LogicPimParams &p, const dram::DramParams &d, std::uint32_t stacks, PimMemoryHost &host)
        : device(p, d, stacks), params(p), dram(d), geometry(p, d), rules(bundle_rules(p, d)), timing(d),
          stacks(stacks), host(host) {
        channels.reserve(static_cast<std::size_t>(stacks) * p.pseudo_channels);
        for (std::uint32_t c = 0; c < stacks * p.pseudo_channels; ++c) {
            channels.push_back({PimChannel(p, d), kForever, {}});
        }
    }

    std::uint64_t results_bytes(const gempim_pimq_desc &d) const {
        return kFp16 * d.tokens * d.n * (d.split == GEMPIM_PIMQ_SPLIT_K ? stacks : 1);
    }

    void run_channel(std::uint32_t index, Ps now);
    LogicPimCounters total() const;
    dram::DramCounters dram_total(Ps now);

    LogicPim device;
    LogicPimParams params;
    dram::DramParams dram;
    Geometry geometry;
    dram::BundleRules rules;
    dram::Timing timing;
    std::uint32_t stacks;
    PimMemoryHost &host;
    std::vector<Channel> channels;
    LogicPimCounters programs; ///< what the commands' programs say
    LogicPimCounters base;     ///< at the last reset
    dram::DramCounters dram_base;
};

PimMemory::PimMemory(const LogicPimParams &params, const dram::DramParams &dram, std::uint32_t stacks,
                     PimMemoryHost &host)
    : s_(std::make_unique<State>(params, dram, stacks, host)) {}

PimMemory::~PimMemory() = default;

std::uint32_t PimMemory::channels() const {
    return static_cast<std::uint32_t>(s_->channels.size());
}

std::uint32_t PimMemory::stacks() const {
    return s_->stacks;
}

std::uint32_t PimMemory::burst_bytes() const {
    return s_->dram.burst_bytes();
}

std::uint32_t PimMemory::spaces() const {
    return s_->geometry.spaces;
}

std::uint64_t PimMemory::space_bytes() const {
    return s_->device.space_bytes();
}

std::uint64_t PimMemory::row_bytes() const {
    return static_cast<std::uint64_t>(s_->geometry.column_bytes) * s_->geometry.row_columns * channels();
}

std::uint64_t PimMemory::constant_register(std::uint64_t offset, std::uint64_t window_bytes) const {
    switch (offset) {
    case GEMPIM_PIMQ_REG_MAGIC:
        return GEMPIM_PIMQ_MAGIC;
    case GEMPIM_PIMQ_REG_BYTES:
        return bytes();
    case GEMPIM_PIMQ_REG_SPACES:
        return spaces();
    case GEMPIM_PIMQ_REG_SPACE_BYTES:
        return space_bytes();
    case GEMPIM_PIMQ_REG_ROW_BYTES:
        return row_bytes();
    case GEMPIM_PIMQ_REG_WINDOW_OFFSET:
        return window_offset();
    case GEMPIM_PIMQ_REG_WINDOW_BYTES:
        return window_bytes;
    case GEMPIM_PIMQ_REG_STACKS:
        return stacks();
    default:
        return 0;
    }
}

Ps PimMemory::clock_ps() const {
    return s_->dram.tCK_ps;
}

Ps PimMemory::idle_read_ps() const {
    return s_->timing.rcd + s_->timing.read_done;
}

// Requests ----------------------------------------------------------------------------------------------------

std::uint32_t PimMemory::channel_of(std::uint64_t address) const {
    return static_cast<std::uint32_t>(address / burst_bytes() % channels());
}

bool PimMemory::full(std::uint32_t channel, bool write) const {
    return s_->channels[channel].model.queue_full(write);
}

void PimMemory::push(std::uint64_t address, bool write, std::uint64_t tag, Ps now) {
    State::Channel &channel = s_->channels[channel_of(address)];
    const Geometry &g = s_->geometry;
    std::uint64_t rest = address / burst_bytes() / channels();
    const auto bank = static_cast<std::size_t>(rest % g.banks);
    rest /= g.banks;
    const auto column = static_cast<std::uint32_t>(rest % g.row_columns);
    rest /= g.row_columns;
    const auto row = static_cast<std::uint32_t>(rest % s_->dram.rows);
    const std::uint64_t space = rest / s_->dram.rows;
    channel.model.arrive_at(now);
    channel.tags.emplace(channel.model.push({{s_->rules.bundles.at(space).banks[bank], row, column}, write}), tag);
    channel.next = std::min(channel.next, channel.model.now());
}

// Commands ----------------------------------------------------------------------------------------------------

std::uint32_t PimMemory::check_address(std::uint64_t address) const {
    if (address % GEMPIM_PIMQ_DESC_BYTES != 0) {
        return GEMPIM_PIMQ_ERR_ALIGNMENT;
    }
    return address > bytes() - GEMPIM_PIMQ_DESC_BYTES ? std::uint32_t{GEMPIM_PIMQ_ERR_ADDRESS} : 0;
}

std::uint32_t PimMemory::check(const gempim_pimq_desc &d, std::uint64_t address, PimCommand &command) const {
    if (const std::uint32_t error = check_address(address); error != 0) {
        return error;
    }
    if (d.magic != GEMPIM_PIMQ_MAGIC) {
        return GEMPIM_PIMQ_ERR_VERSION;
    }
    if (std::any_of(std::begin(d.reserved), std::end(d.reserved), [](std::uint64_t r) { return r != 0; })) {
        return GEMPIM_PIMQ_ERR_RESERVED;
    }
    for (std::uint32_t i = d.spaces; i < GEMPIM_PIMQ_MAX_SPACES; ++i) {
        if (d.weights[i] != 0) {
            return GEMPIM_PIMQ_ERR_RESERVED;
        }
    }
    if (d.operation != GEMPIM_PIMQ_GEMM || d.format > GEMPIM_PIMQ_BF16 || d.split > GEMPIM_PIMQ_SPLIT_K) {
        return GEMPIM_PIMQ_ERR_OPERATION;
    }
    if (d.n == 0 || d.n > GEMPIM_PIMQ_MAX_N || d.k == 0 || d.k > GEMPIM_PIMQ_MAX_K || d.tokens == 0 ||
        d.tokens > GEMPIM_PIMQ_MAX_TOKENS) {
        return GEMPIM_PIMQ_ERR_SHAPE;
    }
    if (d.spaces == 0 || d.spaces > std::min(spaces(), GEMPIM_PIMQ_MAX_SPACES)) {
        return GEMPIM_PIMQ_ERR_SPACE;
    }
    const std::uint64_t row = row_bytes();
    std::vector<Range> reads = {range_of(d.inputs, input_bytes(d)), range_of(address, GEMPIM_PIMQ_DESC_BYTES)};
    for (std::uint32_t i = 0; i < d.spaces; ++i) {
        if (d.weights[i] % row != 0) {
            return GEMPIM_PIMQ_ERR_ALIGNMENT;
        }
        reads.push_back(range_of(d.weights[i], weight_bytes_in(d, row, i)));
    }
    if (d.inputs % GEMPIM_PIMQ_OPERAND_ALIGNMENT != 0 || d.results % GEMPIM_PIMQ_OPERAND_ALIGNMENT != 0) {
        return GEMPIM_PIMQ_ERR_ALIGNMENT;
    }
    const Range results = range_of(d.results, s_->results_bytes(d));
    const auto outside = [&](const Range &r) { return r.begin >= bytes() || r.end > bytes(); };
    if (outside(results) || std::any_of(reads.begin(), reads.end(), outside)) {
        return GEMPIM_PIMQ_ERR_ADDRESS;
    }
    command.spaces.clear();
    const auto space_of = [&](std::uint64_t at) { return static_cast<std::uint32_t>(at / space_bytes()); };
    const auto known = [&](std::uint32_t space) {
        return std::find(command.spaces.begin(), command.spaces.end(), space) != command.spaces.end();
    };
    for (std::uint32_t i = 0; i < d.spaces; ++i) {
        const Range &r = reads[2 + i];
        if (known(space_of(r.begin)) || (r.end > r.begin && space_of(r.end - 1) != space_of(r.begin))) {
            return GEMPIM_PIMQ_ERR_SPACE;
        }
        command.spaces.push_back(space_of(r.begin));
    }
    for (const Range &r : {reads[0], results}) {
        if (!known(space_of(r.begin)) || space_of(r.end - 1) != space_of(r.begin)) {
            return GEMPIM_PIMQ_ERR_SPACE;
        }
    }
    try {
        s_->device.gemm_program(d.n, d.k, d.tokens, command.spaces, d.split == GEMPIM_PIMQ_SPLIT_K);
    } catch (const std::invalid_argument &) {
        return GEMPIM_PIMQ_ERR_SHAPE;
    }
    if (std::any_of(reads.begin(), reads.end(), [&](const Range &r) { return r.meets(results); })) {
        return GEMPIM_PIMQ_ERR_OVERLAP;
    }
    command.desc = d;
    return 0;
}

void PimMemory::start(const PimCommand &command, Ps now) {
    if (running()) {
        throw std::logic_error("logic_pim: a command is started while another one runs");
    }
    const gempim_pimq_desc &d = command.desc;
    const Program program = s_->device.gemm_program(d.n, d.k, d.tokens, command.spaces, d.split == GEMPIM_PIMQ_SPLIT_K);
    LogicPimCounters counts = s_->device.program_counts(program, s_->stacks);
    counts.macs = static_cast<std::uint64_t>(d.n) * d.k * d.tokens;
    s_->programs.add(counts);
    for (State::Channel &c : s_->channels) {
        c.model.arrive_at(now);
        c.model.start(program.jobs);
        c.next = std::min(c.next, c.model.now());
    }
}

bool PimMemory::running() const {
    return std::any_of(s_->channels.begin(), s_->channels.end(),
                       [](const State::Channel &c) { return c.model.pim_runs(); });
}

std::optional<Ps> PimMemory::command_end() const {
    Ps end = 0;
    for (const State::Channel &c : s_->channels) {
        if (!c.model.jobs_done()) {
            return std::nullopt;
        }
        end = std::max(end, c.model.pim_end());
    }
    return end;
}

void PimMemory::compute(const PimCommand &command, std::uint8_t *memory) const {
    const gempim_pimq_desc &d = command.desc;
    const std::uint64_t row = row_bytes();
    std::vector<std::uint16_t> weights(static_cast<std::size_t>(d.n) * d.k);
    auto *const to = reinterpret_cast<std::uint8_t *>(weights.data());
    for (std::uint64_t piece = 0; piece * row < weight_bytes(d); ++piece) {
        std::memcpy(to + piece * row, memory + d.weights[piece % d.spaces] + piece / d.spaces * row,
                    std::min(row, weight_bytes(d) - piece * row));
    }
    std::vector<std::uint16_t> inputs(static_cast<std::size_t>(d.tokens) * d.k);
    std::memcpy(inputs.data(), memory + d.inputs, input_bytes(d));
    std::vector<std::uint16_t> results(s_->results_bytes(d) / kFp16);
    const Format format = d.format == GEMPIM_PIMQ_BF16 ? Format::kBf16 : Format::kFp16;
    const SumOrder order{s_->geometry.column_bytes / kFp16, s_->params.pseudo_channels};
    if (d.split == GEMPIM_PIMQ_SPLIT_N || s_->stacks == 1) {
        gemm_values(weights, inputs, results, d.n, d.k, d.tokens, format, order);
    } else {
        const std::uint64_t share = ceil_div(d.k, s_->stacks);
        const auto part = [&](const std::vector<std::uint16_t> &rows, std::uint64_t first, std::uint64_t count) {
            std::vector<std::uint16_t> out;
            for (std::size_t r = 0; r < rows.size(); r += d.k) {
                const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(r + first);
                out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(count));
            }
            return out;
        };
        const std::size_t part_results = static_cast<std::size_t>(d.tokens) * d.n;
        for (std::uint64_t s = 0; s < s_->stacks && s * share < d.k; ++s) {
            const std::uint64_t count = std::min(share, d.k - s * share);
            gemm_values(part(weights, s * share, count), part(inputs, s * share, count),
                        std::span(results).subspan(s * part_results, part_results), d.n, count, d.tokens, format,
                        order);
        }
    }
    std::memcpy(memory + d.results, results.data(), results.size() * kFp16);
}

// Time --------------------------------------------------------------------------------------------------------

void PimMemory::State::run_channel(std::uint32_t index, Ps now) {
    Channel &c = channels[index];
    for (;;) {
        if (c.model.idle()) {
            c.next = kForever;
            return;
        }
        const PimChannel::Step step = c.model.step(now + 1, false, nullptr);
        if (!step.done) {
            c.next = c.model.idle() ? kForever : step.next;
            return;
        }
        if (step.served) {
            const auto tag = c.tags.find(step.age);
            if (tag != c.tags.end()) { // else it is a result of the PIM itself
                const std::uint64_t value = tag->second;
                c.tags.erase(tag);
                host.served(value, step.beat);
            }
            host.has_room(index, step.write);
        }
    }
}

Ps PimMemory::run(Ps now) {
    std::vector<State::Channel> &channels = s_->channels;
    Ps next = 0;
    do {
        next = kForever;
        for (std::uint32_t i = 0; i < channels.size(); ++i) {
            if (channels[i].next <= now) {
                s_->run_channel(i, now);
            }
        }
        for (const State::Channel &c : channels) {
            next = std::min(next, c.next);
        }
        // The host may have pushed to a channel whose turn was over.
    } while (next <= now);
    return next;
}

bool PimMemory::idle() const {
    return std::all_of(s_->channels.begin(), s_->channels.end(),
                       [](const State::Channel &c) { return c.model.idle(); });
}

LogicPimCounters PimMemory::State::total() const {
    LogicPimCounters sum;
    for (const Channel &c : channels) {
        sum.add(c.model.counters());
    }
    sum = device.channel_counts(sum);
    sum.add(programs);
    return sum;
}

dram::DramCounters PimMemory::State::dram_total(Ps now) {
    dram::DramCounters sum;
    for (Channel &c : channels) {
        if (c.model.idle()) {
            c.model.arrive_at(now); // refreshes up to here
        }
        const dram::DramCounters channel = c.model.dram_counters(std::max(now, c.model.now()));
        std::vector<std::uint64_t> one;
        dram::DramCounters::visit(
            channel, [&](const char *, std::uint64_t value, const char *, const char *) { one.push_back(value); });
        std::size_t i = 0;
        dram::DramCounters::visit(
            sum, [&](const char *, std::uint64_t &value, const char *, const char *) { value += one[i++]; });
    }
    sum.read_bytes = sum.reads * dram.burst_bytes();
    sum.write_bytes = sum.writes * dram.burst_bytes();
    return sum;
}

namespace {

/** a - b, field by field. */
template <class Counters> Counters difference(Counters a, const Counters &b) {
    std::vector<std::uint64_t> less;
    Counters::visit(b, [&](const char *, std::uint64_t value, const char *, const char *) { less.push_back(value); });
    std::size_t i = 0;
    Counters::visit(a, [&](const char *, std::uint64_t &value, const char *, const char *) { value -= less[i++]; });
    return a;
}

} // namespace

LogicPimCounters PimMemory::counters() const {
    return difference(s_->total(), s_->base);
}

dram::DramCounters PimMemory::dram_counters(Ps now) {
    return difference(s_->dram_total(now), s_->dram_base);
}

void PimMemory::reset_counters(Ps now) {
    s_->base = s_->total();
    s_->dram_base = s_->dram_total(now);
}

} // namespace gempim::logic_pim
