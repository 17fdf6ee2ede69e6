// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/fast_forward.hh"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gempim::dram {

namespace {

// How much is simulated. Checked by tests/src_ext/test_dram_fast_forward.py, which holds the result to 0.5 %.
constexpr std::uint64_t kSampleEvery = 32; // requests
constexpr std::uint64_t kWarmUp = 1024; // requests after a jump that no rate is taken from: queues refill, rows reopen
constexpr std::uint64_t kWindow = 24 * 1024; // requests that are sampled in one section
constexpr std::uint64_t kSections = 4;       // of a stream in one direction
constexpr std::uint64_t kMixedSkip = 8; // of a mixed stream, at most this many requests are left out for one sampled

/** What is extrapolated, cumulative at one point of the stream. */
struct Sample {
    Ps time;
    std::uint64_t acts, misses, conflicts, turnarounds, refs, active_ps;
};

Sample sample(const Controller &c) {
    const DramCounters k = c.counters(c.now());
    return {c.now(), k.acts, k.row_misses, k.row_conflicts, k.turnarounds, k.refs, k.act_standby_ps};
}

/** Samples over a window of a stream, and rates per request from them. */
class Rates {
  public:
    void add(const Sample &s) { samples_.push_back(s); }

    /**
     * Fix the two spans of the average.
     * @param bank_walk requests of one walk through all banks
     * @param refresh_interval [ps]
     */
    void settle(std::uint64_t bank_walk, Ps refresh_interval) {
        const std::size_t n = samples_.size() - 1;
        // Starting points: whole bank walks if at least one fits into half of the window.
        const std::size_t walk = std::max<std::size_t>(1, bank_walk / kSampleEvery);
        starts_ = n / 2 >= walk ? n / 2 / walk * walk : n / 2;
        // Lag: whole refresh intervals, as near as the samples allow.
        const double per_sample = static_cast<double>(samples_[n].time - samples_[0].time) / static_cast<double>(n);
        const double per_refresh = static_cast<double>(refresh_interval) / per_sample;
        const double intervals = std::floor(static_cast<double>(n - starts_) / per_refresh);
        lag_ = intervals >= 1 ? static_cast<std::size_t>(std::lround(intervals * per_refresh)) : n - starts_;
        lag_ = std::clamp<std::size_t>(lag_, 1, n - starts_);
    }

    /** Mean increase of `field` per request. */
    template <class T> double of(T Sample::*field) const {
        double sum = 0;
        for (std::size_t i = 0; i < starts_; ++i) {
            sum += static_cast<double>(samples_[i + lag_].*field - samples_[i].*field);
        }
        return sum / static_cast<double>(starts_) / static_cast<double>(lag_ * kSampleEvery);
    }

  private:
    std::vector<Sample> samples_;
    std::size_t starts_ = 0;
    std::size_t lag_ = 0;
};

void feed_some(Controller &controller, Stream &stream, std::uint64_t count, Trace *trace) {
    for (std::uint64_t i = 0; i < count; ++i) {
        controller.push(stream.next_location(), stream.next_is_write(), trace);
        stream.pop();
    }
}

void jump(Controller &controller, Stream &stream, const Rates &rates, std::uint64_t count) {
    const double n = static_cast<double>(count);
    const auto events = [&](auto field) { return static_cast<std::uint64_t>(std::llround(rates.of(field) * n)); };
    const Ps clock = controller.clock();
    const Ps time = events(&Sample::time) / clock * clock;
    DramCounters c;
    c.reads = stream.reads_among(count);
    c.writes = count - c.reads;
    c.acts = events(&Sample::acts);
    c.pres = c.acts; // the same banks are open at both ends
    c.refs = events(&Sample::refs);
    c.row_misses = events(&Sample::misses);
    c.row_conflicts = events(&Sample::conflicts);
    c.row_hits = count - std::min(count, c.row_misses + c.row_conflicts);
    c.turnarounds = events(&Sample::turnarounds);
    c.act_standby_ps = std::min(events(&Sample::active_ps), time * controller.ranks());
    controller.skip_time(time, c);
    stream.skip(c.reads, c.writes);
}

} // namespace

void feed(Controller &controller, Stream &stream, Trace *trace) {
    feed_some(controller, stream, stream.left(), trace);
}

void feed_fast(Controller &controller, Stream &stream, const AddressMap &map) {
    const bool mixed = !stream.one_direction();
    std::uint64_t sections = kSections;
    if (mixed) {
        sections = std::max(sections, stream.left() / (kWindow * (kMixedSkip + 1)));
    }
    const std::uint64_t simulated = kWarmUp + kWindow;
    for (; sections > 0 && stream.left() > (sections + 1) * simulated; --sections) {
        feed_some(controller, stream, kWarmUp, nullptr);
        Rates rates;
        rates.add(sample(controller));
        for (std::uint64_t i = 0; i < kWindow; i += kSampleEvery) {
            feed_some(controller, stream, kSampleEvery, nullptr);
            rates.add(sample(controller));
        }
        rates.settle(map.row_set(), controller.refresh_interval());
        // The last section ends in front of the tail that is simulated below: one more window.
        const std::uint64_t after = (sections - 1) * simulated + simulated;
        std::uint64_t count = (stream.left() - after) / sections;
        if (!mixed && count > map.row_set()) {
            count -= count % map.row_set(); // go on at the same place of the bank walk
        }
        jump(controller, stream, rates, count);
    }
    feed(controller, stream, nullptr);
}

} // namespace gempim::dram
