// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/dram_system.hh"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "models/dram/fast_forward.hh"

namespace gempim::dram {

namespace {

const DramParams &checked(const DramParams &params, std::uint32_t channels) {
    check(params);
    if (channels < 1 || channels > 1024) {
        throw ParamError("dram.channels = " + std::to_string(channels) + ": allowed are 1 to 1024");
    }
    return params;
}

} // namespace

DramSystem::DramSystem(const DramParams &params, std::uint32_t channels, bool fast_forward)
    : params_(checked(params, channels)), map_(params, channels * params.subchannels),
      class_of_(channels * params.subchannels, 0), scratch_(params), fast_forward_(fast_forward) {
    classes_.push_back({Controller(params), {}, subchannels()});
}

double DramSystem::peak_bytes_per_s() const {
    return 1e12 * params_.burst_bytes() / (params_.burst_nCK() * static_cast<double>(params_.tCK_ps)) * subchannels();
}

DramSystem::Bursts DramSystem::bursts(std::uint64_t addr, std::uint64_t bytes) const {
    if (addr > capacity_bytes() || bytes > capacity_bytes() - addr) {
        throw std::invalid_argument("dram: " + std::to_string(bytes) + " bytes at address " + std::to_string(addr) +
                                    " end beyond the memory's " + std::to_string(capacity_bytes()) + " bytes (" +
                                    std::to_string(subchannels()) + " channels)");
    }
    const std::uint64_t size = params_.burst_bytes();
    return bytes ? Bursts{addr / size, (addr + bytes + size - 1) / size} : Bursts{0, 0};
}

Ps DramSystem::transfer(std::uint64_t addr, std::uint64_t bytes, bool write, Ps start) {
    const Bursts range = bursts(addr, bytes);
    const Ps end = write ? run({0, 0}, range, start) : run(range, {0, 0}, start);
    (write ? write_bytes_ : read_bytes_) += bytes;
    return end;
}

Ps DramSystem::mixed(std::uint64_t read_addr, std::uint64_t read_bytes, std::uint64_t write_addr,
                     std::uint64_t write_bytes, Ps start) {
    const Bursts reads = bursts(read_addr, read_bytes);
    const Ps end = run(reads, bursts(write_addr, write_bytes), start);
    read_bytes_ += read_bytes;
    write_bytes_ += write_bytes;
    return end;
}

std::uint64_t DramSystem::default_write_addr(std::uint64_t write_bytes) const {
    const std::uint64_t walk = map_.row_set() * params_.burst_bytes() * subchannels();
    const std::uint64_t last = capacity_bytes() - std::min(capacity_bytes(), write_bytes + walk);
    return last / walk * walk + walk / 2 / params_.burst_bytes() * params_.burst_bytes();
}

Ps DramSystem::run(Bursts reads, Bursts writes, Ps start) {
    if (start < last_start_) {
        throw std::invalid_argument("dram: start = " + std::to_string(start) +
                                    " ps: transfers come in order, an earlier one had " + std::to_string(last_start_));
    }
    last_start_ = start;
    if (reads.begin == reads.end && writes.begin == writes.end) {
        return start;
    }
    std::vector<std::pair<LocalRange, LocalRange>> ranges;
    ranges.reserve(subchannels());
    for (std::uint32_t c = 0; c < subchannels(); ++c) {
        ranges.emplace_back(map_.local_range(c, reads.begin, reads.end), map_.local_range(c, writes.begin, writes.end));
    }
    split_classes(ranges);
    Ps end = start;
    std::vector<bool> done(classes_.size(), false);
    for (std::uint32_t c = 0; c < subchannels(); ++c) {
        if (!done[class_of_[c]]) {
            done[class_of_[c]] = true;
            end = std::max(end, run_class(classes_[class_of_[c]], ranges[c].first, ranges[c].second, start));
        }
    }
    now_ = std::max(now_, end);
    return end;
}

/** Give each channel whose requests differ from those of its class a class of its own kind. */
void DramSystem::split_classes(const std::vector<std::pair<LocalRange, LocalRange>> &ranges) {
    struct Part {
        std::uint32_t old_class, new_class, first;
    };
    std::vector<Part> parts;
    for (std::uint32_t c = 0; c < subchannels(); ++c) {
        const std::uint32_t old_class = class_of_[c];
        bool old_class_taken = false;
        auto part = parts.begin();
        for (; part != parts.end(); ++part) {
            old_class_taken |= part->old_class == old_class;
            if (part->old_class == old_class && ranges[part->first] == ranges[c]) {
                break;
            }
        }
        if (part == parts.end()) {
            std::uint32_t id = old_class;
            if (old_class_taken) {
                id = static_cast<std::uint32_t>(classes_.size());
                classes_.push_back(classes_[old_class]);
                classes_.back().members = 0;
            }
            parts.push_back({old_class, id, c});
            part = parts.end() - 1;
        }
        if (part->new_class != old_class) {
            --classes_[old_class].members;
            ++classes_[part->new_class].members;
            class_of_[c] = part->new_class;
        }
    }
}

Ps DramSystem::run_class(ChannelClass &cls, LocalRange reads, LocalRange writes, Ps start) {
    Stream stream(map_, reads, writes);
    if (stream.left() == 0) {
        return start;
    }
    Trace *const trace = trace_of(cls);
    cls.controller.run_until(start, trace);
    cls.controller.begin_transfer();
    if (fast_forward_) {
        feed_fast(cls.controller, stream, map_, params_.rows);
    } else {
        feed(cls.controller, stream, trace);
    }
    // Everything is queued. What is not served yet goes on in the next transfer, so its end is looked up on a copy.
    scratch_ = cls.controller;
    return scratch_.finish_transfer(nullptr);
}

void DramSystem::advance(Ps time) {
    now_ = std::max(now_, time);
}

/** Copies of all classes that have served all their requests and let time pass to the end of the last channel. */
std::vector<DramSystem::ChannelClass> DramSystem::finished(Ps &end) const {
    std::vector<ChannelClass> copies = classes_;
    end = now_;
    for (ChannelClass &cls : copies) {
        cls.controller.finish_all(trace_of(cls));
        end = std::max({end, cls.controller.now(), cls.controller.last_beat()});
    }
    for (ChannelClass &cls : copies) {
        cls.controller.run_until(end, trace_of(cls));
    }
    return copies;
}

DramCounters DramSystem::counters() const {
    Ps end = 0;
    DramCounters sum;
    for (const ChannelClass &cls : finished(end)) {
        const DramCounters channel = cls.controller.counters(end);
        std::vector<std::uint64_t> one;
        DramCounters::visit(
            channel, [&](const char *, std::uint64_t value, const char *, const char *) { one.push_back(value); });
        std::size_t i = 0;
        DramCounters::visit(sum, [&](const char *, std::uint64_t &value, const char *, const char *) {
            value += one[i++] * cls.members;
        });
    }
    sum.read_bytes = read_bytes_;
    sum.write_bytes = write_bytes_;
    return sum;
}

void DramSystem::reset_counters() {
    classes_ = finished(now_);
    for (ChannelClass &cls : classes_) {
        cls.controller.reset_counters(now_);
    }
    read_bytes_ = 0;
    write_bytes_ = 0;
}

void DramSystem::record_trace(std::size_t limit) {
    if (fast_forward_) {
        throw std::logic_error("dram: a trace needs every command; construct the DramSystem with fast_forward = false");
    }
    classes_ = finished(now_);
    tracing_ = limit > 0;
    for (ChannelClass &cls : classes_) {
        cls.trace = {};
        cls.trace.limit = limit;
    }
}

std::vector<ChannelCommand> DramSystem::trace() const {
    Ps end = 0;
    const std::vector<ChannelClass> done = finished(end);
    std::vector<ChannelCommand> out;
    for (std::uint32_t c = 0; c < subchannels(); ++c) {
        for (const TracedCommand &t : done[class_of_[c]].trace.commands) {
            out.push_back({c, t});
        }
    }
    return out;
}

bool DramSystem::trace_truncated() const {
    Ps end = 0;
    const std::vector<ChannelClass> done = finished(end);
    return std::any_of(done.begin(), done.end(), [](const ChannelClass &c) { return c.trace.truncated; });
}

} // namespace gempim::dram
