// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/fast_forward.hh"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gempim::dram {

namespace {

// How much is simulated; tests/src_ext/test_dram_fast_forward.py holds the result to 0.5 %.
constexpr std::uint64_t kSampleEvery = 512;  // requests from one sample of the events to the next
constexpr std::uint64_t kSamples = 256;      // in one window
constexpr std::uint64_t kSections = 3;       // windows of one stream
constexpr std::uint64_t kWarmUp = 16 * 1024; // requests before the first window: rows and refresh find their rhythm
constexpr std::uint64_t kAttemptEvery = 32;  // requests between two looks for repeating rounds

void feed_some(Controller &controller, Stream &stream, std::uint64_t count, Trace *trace) {
    for (std::uint64_t i = 0; i < count; ++i) {
        controller.push(stream.next_location(), stream.next_is_write(), trace);
        stream.pop();
    }
}

/** Pushes the requests of a stream in one direction, leaving out repeating rounds (exact). */
class RoundSkipper {
  public:
    RoundSkipper(Controller &controller, Stream &stream, const AddressMap &map)
        : controller_(controller), stream_(stream), before_(controller), round_(map.round()), run_(map.run()) {}

    void feed(std::uint64_t count) {
        while (count > 0) {
            count -= run_ ? feed_within_run(count) : feed_plainly(count);
        }
    }

  private:
    std::uint64_t feed_plainly(std::uint64_t count) {
        feed_some(controller_, stream_, count, nullptr);
        return count;
    }

    /** Push or leave out requests, up to `count` and not beyond the end of the run. @return how many */
    std::uint64_t feed_within_run(std::uint64_t count) {
        const std::uint64_t place = stream_.position() % run_;
        const std::uint64_t left = std::min(count, run_ - place);
        // The requests of the run before must have left the queue.
        const std::uint64_t settled = controller_.queue_capacity(stream_.next_is_write());
        if (place < settled) {
            return feed_plainly(std::min(left, settled - place));
        }
        if (left < 2 * round_) {
            return feed_plainly(left);
        }
        before_ = controller_;
        feed_plainly(round_);
        const std::uint64_t rounds = controller_.skip_rounds(before_, round_, left / round_ - 1);
        stream_.skip(rounds * round_);
        const std::uint64_t done = (1 + rounds) * round_;
        return rounds ? done : done + feed_plainly(std::min(left - done, kAttemptEvery));
    }

    Controller &controller_;
    Stream &stream_;
    Controller before_;
    std::uint64_t round_;
    std::uint64_t run_;
};

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
        // Lag: whole refresh intervals; of the longer half of them the number that is nearest to whole samples.
        const double per_sample = static_cast<double>(samples_[n].time - samples_[0].time) / static_cast<double>(n);
        const double per_refresh = static_cast<double>(refresh_interval) / per_sample;
        const auto most = static_cast<std::size_t>(static_cast<double>(n - starts_) / per_refresh);
        lag_ = n - starts_;
        double least = 1;
        for (std::size_t intervals = most; intervals > most / 2; --intervals) {
            const double samples = static_cast<double>(intervals) * per_refresh;
            if (const double off = std::abs(samples - std::round(samples)) / samples; off < least && samples >= 1) {
                least = off;
                lag_ = static_cast<std::size_t>(std::lround(samples));
            }
        }
    }

    /** Mean increase of `field` over `requests` requests, rounded. */
    template <class T> std::uint64_t of(T Sample::*field, std::uint64_t requests) const {
        double sum = 0;
        for (std::size_t i = 0; i < starts_; ++i) {
            sum += static_cast<double>(samples_[i + lag_].*field - samples_[i].*field);
        }
        const double rate = sum / static_cast<double>(starts_) / static_cast<double>(lag_ * kSampleEvery);
        return static_cast<std::uint64_t>(std::llround(rate * static_cast<double>(requests)));
    }

  private:
    std::vector<Sample> samples_;
    std::size_t starts_ = 0;
    std::size_t lag_ = 0;
};

/** Leave out `count` requests of a stream in one direction. */
void jump(Controller &controller, Stream &stream, const Rates &rates, std::uint64_t count) {
    const Ps clock = controller.clock();
    const Ps time = rates.of(&Sample::time, count) / clock * clock;
    DramCounters c;
    (stream.next_is_write() ? c.writes : c.reads) = count;
    c.acts = rates.of(&Sample::acts, count);
    c.pres = c.acts; // as many banks are open at both ends
    c.refs = rates.of(&Sample::refs, count);
    c.row_misses = rates.of(&Sample::misses, count);
    c.row_conflicts = rates.of(&Sample::conflicts, count);
    c.row_hits = count - std::min(count, c.row_misses + c.row_conflicts);
    c.turnarounds = rates.of(&Sample::turnarounds, count);
    c.act_standby_ps = std::min(rates.of(&Sample::active_ps, count), time * controller.ranks());
    controller.skip_time(time, c);
    stream.skip(count);
}

} // namespace

void feed(Controller &controller, Stream &stream, Trace *trace) {
    feed_some(controller, stream, stream.left(), trace);
}

void feed_fast(Controller &controller, Stream &stream, const AddressMap &map, std::uint32_t row_count) {
    if (!stream.one_direction()) {
        feed(controller, stream, nullptr);
        return;
    }
    RoundSkipper skipper(controller, stream, map);
    constexpr std::uint64_t window = kSampleEvery * kSamples;
    if (map.regular_walk() && stream.left() > kWarmUp + 2 * kSections * window) {
        skipper.feed(kWarmUp);
        for (std::uint64_t sections = kSections; sections > 0; --sections) {
            Rates rates;
            rates.add(sample(controller));
            for (std::uint64_t i = 0; i < kSamples; ++i) {
                skipper.feed(kSampleEvery);
                rates.add(sample(controller));
            }
            rates.settle(map.row_set(), controller.refresh_interval());
            // Whole bank walks, so that the channel goes on where it stood, in other rows.
            const std::uint64_t rest = stream.left() - (sections - 1) * window;
            const std::uint64_t walks = rest / sections / map.row_set();
            jump(controller, stream, rates, walks * map.row_set());
            controller.shift_rows(static_cast<std::uint32_t>(walks % row_count), row_count);
        }
    }
    skipper.feed(stream.left());
}

} // namespace gempim::dram
