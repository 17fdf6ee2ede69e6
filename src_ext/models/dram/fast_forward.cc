// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/fast_forward.hh"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gempim::dram {

namespace {

// How much is simulated; tests/src_ext/test_dram_fast_forward.py holds the result to 0.5 %.
constexpr std::uint64_t kSampleEvery = 512;   // requests from one sample of the events to the next
constexpr std::uint64_t kRefreshes = 86;      // at least so many refresh intervals (at peak rate) are in one window
constexpr std::uint64_t kWindow = 160 * 1024; // and at least so many requests
constexpr std::uint64_t kSections = 2;        // windows of one stream
constexpr std::uint64_t kWarmUp = 64 * 1024;  // requests before the first window: rows and refresh find their rhythm
constexpr std::uint64_t kAttemptEvery = 16;   // requests between two looks for repeating rounds
constexpr std::uint64_t kShort = 256;         // requests that are fed sooner than a look for repetition pays

void feed_some(Controller &controller, Stream &stream, std::uint64_t count, Trace *trace) {
    for (std::uint64_t i = 0; i < count; ++i) {
        controller.push(stream.next_location(), stream.next_is_write(), trace);
        stream.pop();
    }
}

/** Pushes the requests of a stream, leaving out repeating rounds (exact). */
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

    /** Push or leave out requests, up to `count`, of one direction, not beyond the end of the run. @return how many */
    std::uint64_t feed_within_run(std::uint64_t count) {
        count = std::min(count, stream_.left_in_direction());
        if (count < 2 * round_) {
            return feed_plainly(count);
        }
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
    std::uint64_t acts, misses, conflicts, turnarounds, active_ps;
};

Sample sample(const Controller &c) {
    const DramCounters k = c.counters(c.now());
    return {c.now(), k.acts, k.row_misses, k.row_conflicts, k.turnarounds, k.act_standby_ps};
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
        lag_ = static_cast<double>(n - starts_);
        // Lag: whole refresh intervals. Their length in samples needs the rate of time, so the first guess is refined.
        for (int pass = 0; pass < 3; ++pass) {
            const double samples = static_cast<double>(refresh_interval) / per_sample(&Sample::time);
            if (const double intervals = std::floor(static_cast<double>(n - starts_) / samples); intervals >= 1) {
                lag_ = intervals * samples;
            }
        }
    }

    /** Mean increase of `field` over `requests` requests, rounded. */
    template <class T> std::uint64_t of(T Sample::*field, std::uint64_t requests) const {
        return static_cast<std::uint64_t>(
            std::llround(per_sample(field) / kSampleEvery * static_cast<double>(requests)));
    }

  private:
    /** Mean increase of `field` from a sample to the next; a lag between two samples is interpolated. */
    template <class T> double per_sample(T Sample::*field) const {
        const auto whole = static_cast<std::size_t>(lag_);
        const double part = lag_ - static_cast<double>(whole);
        double sum = 0;
        for (std::size_t i = 0; i < starts_; ++i) {
            const auto low = static_cast<double>(samples_[i + whole].*field - samples_[i].*field);
            const std::size_t next = std::min(i + whole + 1, samples_.size() - 1);
            sum += low + part * static_cast<double>(samples_[next].*field - samples_[i + whole].*field);
        }
        return sum / static_cast<double>(starts_) / lag_;
    }

    std::vector<Sample> samples_;
    std::size_t starts_ = 0;
    double lag_ = 0;
};

/** Leave out `count` requests of a stream in one direction. */
void jump(Controller &controller, Stream &stream, const Rates &rates, std::uint64_t count) {
    const Ps clock = controller.clock();
    const Ps time = rates.of(&Sample::time, count) / clock * clock;
    DramCounters c;
    (stream.next_is_write() ? c.writes : c.reads) = count;
    c.acts = rates.of(&Sample::acts, count);
    c.pres = c.acts; // as many banks are open at both ends
    c.refs = (time * controller.ranks() * controller.refresh_commands() + controller.refresh_interval() / 2) /
             controller.refresh_interval();
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
    if (stream.left() < kShort) {
        feed(controller, stream, nullptr);
        return;
    }
    RoundSkipper skipper(controller, stream, map);
    const std::uint64_t refreshes = kRefreshes * controller.refresh_cycle() / controller.burst_distance();
    const std::uint64_t samples = std::max(kWindow, refreshes) / kSampleEvery;
    const std::uint64_t window = samples * kSampleEvery;
    if (stream.one_direction() && map.regular_walk() && stream.left() > kWarmUp + map.run() + 2 * kSections * window) {
        skipper.feed(kWarmUp + map.run() - stream.position() % map.run()); // samples start with a run
        for (std::uint64_t sections = kSections; sections > 0; --sections) {
            Rates rates;
            rates.add(sample(controller));
            for (std::uint64_t i = 0; i < samples; ++i) {
                skipper.feed(kSampleEvery);
                rates.add(sample(controller));
            }
            rates.settle(map.row_set(), controller.refresh_cycle());
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
