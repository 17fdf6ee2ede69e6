// SPDX-License-Identifier: BSD-3-Clause
// Random descriptors: valid ones, valid ones with a few fields changed, and noise. For each of them the answer that
// the contract (isa/lutmm.h) demands is worked out here, apart from the device's own checks; then
//   - the device must give that answer,
//   - a refused descriptor must change no byte of memory,
//   - an accepted one must write its results, its status word, and nothing else; the results must be right.
//
// Everything that a descriptor may point at lies in one small arena, so that weights, activations, results and the
// descriptor itself meet in every way. A descriptor that the rules accept but that points out of the arena is moved
// into it first: its fault would end the program, rightly (the program `illegal` shows that).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "blocks.hh"
#include "isa/lutmm.h"
#include "micro.h"
#include "status_name.hh"

namespace {

using namespace gempim::micro;

using Wide = unsigned __int128;

constexpr std::uint64_t kArenaBytes = 8192;
constexpr std::uint64_t kFullCheckEvery = 32; ///< refused descriptors: the rest of the arena is compared this often

/** Addresses of the first and the last byte of rows of memory, unlimited. */
struct Span {
    Wide first;
    Wide last;
};

Span span_of(std::uint64_t address, std::uint64_t rows, std::uint64_t stride, std::uint64_t row_bytes) {
    const Wide first = address;
    return {first, first + Wide{rows - 1} * stride + row_bytes - 1};
}

bool meet(const Span &a, const Span &b) {
    return !(a.last < b.first || b.last < a.first);
}

struct Spans {
    Span weights;
    Span activations;
    Span results;
};

/** Pieces of memory that the weights are, and bytes of each: rows, or columns of blocks. */
std::uint64_t weight_pieces(const WeightType &type, const gempim_lutmm_desc &d) {
    return d.flags == 1 ? d.k / type.elements : d.n;
}

std::uint64_t weight_piece_bytes(const WeightType &type, const gempim_lutmm_desc &d) {
    return d.flags == 1 ? std::uint64_t{d.n} * type.bytes : type.row_bytes(d.k);
}

Spans spans_of(const WeightType &type, const gempim_lutmm_desc &d) {
    return {span_of(d.weights, weight_pieces(type, d), d.weight_stride, weight_piece_bytes(type, d)),
            span_of(d.activations, d.m, d.activation_stride, type.activation_row_bytes(d.k)),
            span_of(d.results, d.m, d.result_stride, std::uint64_t{4} * d.n)};
}

/** What the contract demands: DONE for a descriptor that must be accepted, else the error. */
gempim_lutmm_status demanded(const gempim_lutmm_desc &d, std::uint64_t address) {
    if ((address & 63) != 0) {
        return GEMPIM_ERR_ALIGNMENT;
    }
    if (d.magic != 0x4C4D0002) {
        return GEMPIM_ERR_VERSION;
    }
    if (d.flags > 1 || d.reserved != 0) {
        return GEMPIM_ERR_RESERVED;
    }
    const WeightType *type = find_weight_type(d.weight_type);
    if (type == nullptr) {
        return GEMPIM_ERR_TYPE;
    }
    if (d.m < 1 || d.n < 1 || d.k < 1 || d.m > 4096 || d.n > 1048576 || d.k > 1048576 ||
        d.k / type->elements * type->elements != d.k) {
        return GEMPIM_ERR_SHAPE;
    }
    if (d.weight_stride < weight_piece_bytes(*type, d) || d.activation_stride < type->activation_row_bytes(d.k) ||
        d.result_stride / 4.0 < d.n) {
        return GEMPIM_ERR_STRIDE;
    }
    for (const std::uint64_t even :
         {d.weights, d.activations, std::uint64_t{d.weight_stride}, std::uint64_t{d.activation_stride}}) {
        if ((even & 1) != 0) {
            return GEMPIM_ERR_ALIGNMENT;
        }
    }
    if ((d.results & 3) != 0 || (d.result_stride & 3) != 0) {
        return GEMPIM_ERR_ALIGNMENT;
    }
    const Spans spans = spans_of(*type, d);
    constexpr Wide kEnd = Wide{1} << 64;
    if (spans.weights.last >= kEnd || spans.activations.last >= kEnd || spans.results.last >= kEnd) {
        return GEMPIM_ERR_ADDRESS;
    }
    if (meet(spans.results, spans.weights) || meet(spans.results, spans.activations) ||
        meet(spans.results, {address, Wide{address} + 63})) {
        return GEMPIM_ERR_OVERLAP;
    }
    return GEMPIM_STATUS_DONE;
}

class Fuzzer {
  public:
    explicit Fuzzer(std::uint64_t seed)
        : random_(seed), arena_(static_cast<std::uint8_t *>(micro_alloc(kArenaBytes))), shadow_(kArenaBytes),
          weights_(kArenaBytes), activations_(kArenaBytes) {
        for (std::uint64_t at = 0; at < kArenaBytes; at += 8) {
            const std::uint64_t word = random_.next();
            std::memcpy(arena_ + at, &word, 8);
        }
        std::memcpy(shadow_.data(), arena_, kArenaBytes);
    }

    void run(std::uint64_t count) {
        for (index_ = 0; index_ < count; ++index_) {
            one_descriptor();
            if (random_.below(16) == 0) {
                tickets();
            }
            if (random_.below(64) == 0) {
                queries();
            }
        }
        compare(0, kArenaBytes, "at the end");
    }

    void print_counts() const {
        for (std::size_t status = 0; status < counts_.size(); ++status) {
            if (counts_[status] != 0) {
                printf("%s %" PRIu64 "\n", status_name(static_cast<std::int64_t>(status)), counts_[status]);
            }
        }
    }

  private:
    std::uint64_t base() const { return reinterpret_cast<std::uintptr_t>(arena_); }

    bool in_arena(const Span &span) const { return span.first >= base() && span.last < Wide{base()} + kArenaBytes; }

    /** A write of the program's own, in the arena and in its copy. */
    void write(std::uint64_t offset, const void *from, std::uint64_t bytes) {
        std::memcpy(arena_ + offset, from, bytes);
        std::memcpy(shadow_.data() + offset, from, bytes);
    }

    __attribute__((noreturn)) void fail(const gempim_lutmm_desc &d, const char *what) {
        micro_die(MICRO_EXIT_WRONG_RESULT,
                  "descriptor %" PRIu64 ": %s; magic=0x%x type=%u flags=%u m=%u n=%u k=%u strides=%u,%u,%u "
                  "weights=0x%" PRIx64 " activations=0x%" PRIx64 " results=0x%" PRIx64 " reserved=%u arena=0x%" PRIx64,
                  index_, what, d.magic, d.weight_type, d.flags, d.m, d.n, d.k, d.weight_stride, d.activation_stride,
                  d.result_stride, d.weights, d.activations, d.results, d.reserved, base());
    }

    void compare(std::uint64_t offset, std::uint64_t bytes, const char *when) {
        if (std::memcmp(arena_ + offset, shadow_.data() + offset, bytes) != 0) {
            while (arena_[offset] == shadow_[offset]) {
                ++offset;
            }
            micro_die(MICRO_EXIT_WRONG_RESULT,
                      "descriptor %" PRIu64 ": %s, byte %" PRIu64 " of the arena: expected 0x%02x, is 0x%02x", index_,
                      when, offset, shadow_[offset], arena_[offset]);
        }
    }

    std::uint64_t offset_below(std::uint64_t limit, std::uint64_t multiple) {
        return limit < multiple ? 0 : random_.below(limit / multiple) * multiple;
    }

    /** An offset at which `bytes` bytes fit into the arena. */
    std::uint64_t place(std::uint64_t bytes, std::uint64_t multiple) {
        return offset_below(kArenaBytes - bytes + multiple, multiple);
    }

    /** Small enough for the arena, with gaps between the rows; anywhere in it, so that ranges may overlap. */
    gempim_lutmm_desc valid() {
        const WeightType &type = weight_types()[random_.below(weight_types().size())];
        gempim_lutmm_desc d{};
        d.magic = GEMPIM_LUTMM_MAGIC;
        d.weight_type = type.number;
        d.k = static_cast<std::uint32_t>(type.elements * (1 + random_.below(type.elements == 32 ? 5 : 2)));
        d.m = static_cast<std::uint32_t>(1 + random_.below(4));
        d.n = static_cast<std::uint32_t>(1 + random_.below(6));
        d.flags = static_cast<std::uint16_t>(random_.below(2));
        d.weight_stride = static_cast<std::uint32_t>(weight_piece_bytes(type, d) + 2 * random_.below(9));
        d.activation_stride = static_cast<std::uint32_t>(type.activation_row_bytes(d.k) + 2 * random_.below(9));
        d.result_stride = static_cast<std::uint32_t>(4 * (d.n + random_.below(5)));
        place_ranges(type, d);
        d.status = GEMPIM_STATUS_PENDING;
        return d;
    }

    void place_ranges(const WeightType &type, gempim_lutmm_desc &d) {
        const std::uint64_t weight_bytes =
            (weight_pieces(type, d) - 1) * std::uint64_t{d.weight_stride} + weight_piece_bytes(type, d);
        const std::uint64_t activation_bytes =
            (d.m - 1) * std::uint64_t{d.activation_stride} + type.activation_row_bytes(d.k);
        const std::uint64_t result_bytes = (d.m - 1) * std::uint64_t{d.result_stride} + std::uint64_t{4} * d.n;
        d.weights = base() + place(weight_bytes, 2);
        d.activations = base() + place(activation_bytes, 2);
        d.results = base() + place(result_bytes, 4);
    }

    /** A number near a limit, a power of two, zero, all ones, or anything. */
    std::uint64_t interesting(std::uint64_t near) {
        const std::uint64_t little = random_.below(5) - 2;
        switch (random_.below(6)) {
        case 0:
            return 0;
        case 1:
            return ~std::uint64_t{0} - random_.below(4);
        case 2:
            return (std::uint64_t{1} << random_.below(64)) + little;
        case 3:
            return random_.next();
        default:
            return near + little;
        }
    }

    void mutate(gempim_lutmm_desc &d) {
        const auto small = [&](std::uint64_t near) { return static_cast<std::uint32_t>(interesting(near)); };
        switch (random_.below(14)) {
        case 0:
            d.magic = random_.below(2) == 0 ? small(d.magic) : d.magic ^ 1U << random_.below(32);
            break;
        case 1:
            d.weight_type = static_cast<std::uint16_t>(random_.below(2) == 0 ? random_.below(40) : random_.next());
            break;
        case 2:
            d.flags ^= static_cast<std::uint16_t>(1U << random_.below(16));
            break;
        case 3:
            d.m = small(random_.below(2) == 0 ? d.m : GEMPIM_LUTMM_MAX_M);
            break;
        case 4:
            d.n = small(random_.below(2) == 0 ? d.n : GEMPIM_LUTMM_MAX_N);
            break;
        case 5:
            d.k = random_.below(2) == 0 ? small(d.k) : static_cast<std::uint32_t>(32 * random_.below(1 << 17));
            break;
        case 6:
            d.weight_stride = small(d.weight_stride);
            break;
        case 7:
            d.activation_stride = small(d.activation_stride);
            break;
        case 8:
            d.result_stride = small(d.result_stride);
            break;
        case 9:
            d.weights = interesting(d.weights);
            break;
        case 10:
            d.activations = interesting(d.activations);
            break;
        case 11:
            d.results = interesting(d.results);
            break;
        case 12:
            d.results = (random_.below(2) == 0 ? d.weights : d.activations) + 4 * random_.below(8) - 16;
            break;
        default:
            d.reserved = 1U << random_.below(32);
            break;
        }
    }

    /** Noise whose first fields are good, so that it does not all end at the magic. */
    gempim_lutmm_desc noise() {
        gempim_lutmm_desc d;
        auto *bytes = reinterpret_cast<std::uint8_t *>(&d);
        for (std::size_t at = 0; at < sizeof d; at += 8) {
            const std::uint64_t word = random_.next();
            std::memcpy(bytes + at, &word, 8);
        }
        const std::uint64_t good = random_.below(6);
        if (good >= 1) {
            d.magic = GEMPIM_LUTMM_MAGIC;
        }
        if (good >= 2) {
            d.flags = static_cast<std::uint16_t>(random_.below(2));
            d.reserved = 0;
        }
        if (good >= 3) {
            d.weight_type = weight_types()[random_.below(weight_types().size())].number;
        }
        if (good >= 4) {
            d.m = static_cast<std::uint32_t>(random_.below(GEMPIM_LUTMM_MAX_M + 2));
            d.n = static_cast<std::uint32_t>(random_.below(GEMPIM_LUTMM_MAX_N + 2));
            d.k = static_cast<std::uint32_t>(256 * random_.below(GEMPIM_LUTMM_MAX_K / 256 + 2));
        }
        if (good >= 5) {
            d.weight_stride &= ~1U;
            d.activation_stride &= ~1U;
            d.result_stride &= ~3U;
            d.weights = (d.weights | ~std::uint64_t{0xFFFFFFFFFF}) & ~std::uint64_t{1};
            d.activations &= ~std::uint64_t{1};
            d.results &= ~std::uint64_t{3};
        }
        return d;
    }

    /** Address of a block of weights. */
    static std::uint64_t block_at(const WeightType &type, const gempim_lutmm_desc &d, std::uint64_t row,
                                  std::uint64_t block) {
        return d.flags == 1 ? d.weights + block * d.weight_stride + row * type.bytes
                            : d.weights + row * d.weight_stride + block * type.bytes;
    }

    /** Valid operands for an accepted descriptor whose weights and activations are apart. */
    void fill_operands(const WeightType &type, const gempim_lutmm_desc &d) {
        std::uint8_t *const row = weights_.data();
        for (std::uint64_t r = 0; r < d.n; ++r) {
            random_weights(type, random_, row, d.k / type.elements);
            for (std::uint64_t b = 0; b < d.k / type.elements; ++b) {
                write(block_at(type, d, r, b) - base(), row + b * type.bytes, type.bytes);
            }
        }
        std::vector<float> x(d.k);
        for (std::uint64_t v = 0; v < d.m; ++v) {
            for (float &value : x) {
                value = random_.uniform();
            }
            quantize_row(type, x.data(), d.k, row);
            write(d.activations - base() + v * d.activation_stride, row, type.activation_row_bytes(d.k));
        }
    }

    /** Compare the results, then take them over into the copy: everything else must be as it was. */
    void check_results(const WeightType &type, const gempim_lutmm_desc &d, bool values) {
        for (std::uint64_t v = 0; v < d.m; ++v) {
            const std::uint64_t row = d.results - base() + v * d.result_stride;
            for (std::uint64_t r = 0; values && r < d.n; ++r) {
                for (std::uint64_t b = 0; b < d.k / type.elements; ++b) {
                    std::memcpy(weights_.data() + b * type.bytes, arena_ + (block_at(type, d, r, b) - base()),
                                type.bytes);
                }
                const Expected expected = multiply_rows(
                    type, decode_weights(type, weights_.data(), d.k),
                    decode_activations(type, arena_ + (d.activations - base()) + v * d.activation_stride, d.k));
                float got;
                std::memcpy(&got, arena_ + row + 4 * r, 4);
                if (!(std::fabs(got - expected.value) <= device_tolerance(type, d.k, expected))) {
                    char text[160];
                    std::snprintf(text, sizeof text, "result [%" PRIu64 ", %" PRIu64 "]: expected %.9g, got %.9g", v, r,
                                  expected.value, got);
                    fail(d, text);
                }
            }
            std::memcpy(shadow_.data() + row, arena_ + row, std::size_t{4} * d.n);
        }
    }

    void one_descriptor() {
        gempim_lutmm_desc d;
        const std::uint64_t kind = random_.below(8);
        if (kind == 0) {
            d = noise();
        } else {
            d = valid();
            for (std::uint64_t left = kind < 3 ? 0 : 1 + random_.below(2); left > 0; --left) {
                mutate(d);
            }
        }
        std::uint64_t at = place(sizeof d, 64);
        if (random_.below(16) == 0) {
            at = place(sizeof d, 4);
        }
        const WeightType *type = find_weight_type(d.weight_type);
        gempim_lutmm_status want = demanded(d, base() + at);
        for (int tries = 0; want == GEMPIM_STATUS_DONE; ++tries) {
            const Spans spans = spans_of(*type, d);
            if (in_arena(spans.weights) && in_arena(spans.activations) && in_arena(spans.results)) {
                break;
            }
            if (tries == 0 && spans.weights.last - spans.weights.first < kArenaBytes &&
                spans.activations.last - spans.activations.first < kArenaBytes &&
                spans.results.last - spans.results.first < kArenaBytes) {
                place_ranges(*type, d);
            } else {
                d = valid();
                type = find_weight_type(d.weight_type);
            }
            want = demanded(d, base() + at);
        }
        bool values = false;
        if (want == GEMPIM_STATUS_DONE) {
            const Spans spans = spans_of(*type, d);
            const Span own = {base() + at, Wide{base()} + at + 63};
            values =
                !meet(spans.weights, spans.activations) && !meet(spans.weights, own) && !meet(spans.activations, own);
            if (values) {
                fill_operands(*type, d);
            }
        }
        ++counts_[want];
        write(at, &d, sizeof d);
        const std::int64_t ticket = gempim_lutmm_issue(reinterpret_cast<gempim_lutmm_desc *>(arena_ + at));
        const std::int64_t answer = ticket > 0 ? std::int64_t{GEMPIM_STATUS_DONE} : -ticket;
        if (answer != want) {
            char text[96];
            std::snprintf(text, sizeof text, "expected %s, the device answers %s (%" PRId64 ")", status_name(want),
                          status_name(answer), ticket);
            fail(d, text);
        }
        if (want != GEMPIM_STATUS_DONE) {
            compare(at, sizeof d, "refused, but the descriptor has changed");
            if (index_ % kFullCheckEvery == 0) {
                compare(0, kArenaBytes, "one of the last was refused, but has changed memory");
            }
            return;
        }
        const std::int64_t status = gempim_lutmm_finish(ticket);
        if (status != GEMPIM_STATUS_DONE) {
            fail(d, "accepted, but it did not end as DONE");
        }
        const std::uint32_t done = GEMPIM_STATUS_DONE;
        std::memcpy(shadow_.data() + at + offsetof(gempim_lutmm_desc, status), &done, sizeof done);
        check_results(*type, d, values);
        compare(0, kArenaBytes, "accepted, but has changed other memory");
        last_ticket_ = ticket;
    }

    void expect(std::int64_t got, std::int64_t want, const char *what) {
        if (got != want) {
            micro_die(MICRO_EXIT_WRONG_RESULT, "after descriptor %" PRIu64 ": %s: expected %" PRId64 ", got %" PRId64,
                      index_, what, want, got);
        }
    }

    void tickets() {
        static const std::int64_t never[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1};
        expect(gempim_lutmm_wait(never[random_.below(std::size(never))]), GEMPIM_ERR_TICKET, "waiting for no ticket");
        if (last_ticket_ != 0) {
            expect(gempim_lutmm_wait(last_ticket_), GEMPIM_ERR_TICKET, "waiting twice for a ticket");
        }
        // Nothing is under way: it must not sleep for ever. PENDING says that it may have slept.
        const std::int64_t any = gempim_lutmm_wait(0);
        if (any != GEMPIM_STATUS_PENDING) {
            expect(any, GEMPIM_STATUS_DONE, "waiting for any completion");
        }
    }

    void queries() {
        expect(gempim_lutmm_query(GEMPIM_QUERY_VERSION), 2, "query of the version");
        expect(gempim_lutmm_query(GEMPIM_QUERY_MAX_M), 4096, "query of the largest m");
        expect(gempim_lutmm_query(GEMPIM_QUERY_MAX_N), 1048576, "query of the largest n");
        expect(gempim_lutmm_query(GEMPIM_QUERY_MAX_K), 1048576, "query of the largest k");
        static const std::int64_t unknown[] = {7, -1, 1000, INT64_MIN, INT64_MAX};
        expect(gempim_lutmm_query(unknown[random_.below(std::size(unknown))]), -std::int64_t{GEMPIM_ERR_QUERY},
               "query of nothing");
    }

    Random random_;
    std::uint8_t *arena_;
    std::vector<std::uint8_t> shadow_; ///< what the arena must hold
    std::vector<std::uint8_t> weights_;
    std::vector<std::uint8_t> activations_;
    std::array<std::uint64_t, 16> counts_{}; ///< by demanded status
    std::uint64_t index_ = 0;
    std::int64_t last_ticket_ = 0;
};

/**
 * As many commands as may be outstanding, then one more, then all waited for in another order. The one more is turned
 * away only if none of the others is done yet.
 */
void fill_the_device() {
    const std::int64_t tickets = gempim_lutmm_query(GEMPIM_QUERY_TICKETS);
    const std::int64_t types = gempim_lutmm_query(GEMPIM_QUERY_WEIGHT_TYPES);
    if (tickets < 1 || tickets > 65536 || types != 0x7DCC) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "queries: %" PRId64 " tickets, types 0x%" PRIx64, tickets,
                  static_cast<std::uint64_t>(types));
    }
    const auto count = static_cast<std::size_t>(tickets) + 1;
    auto *descriptors = static_cast<gempim_lutmm_desc *>(micro_alloc(count * sizeof(gempim_lutmm_desc)));
    auto *operands = static_cast<std::uint8_t *>(micro_alloc(128));
    auto *results = static_cast<float *>(micro_alloc(count * sizeof(float)));
    std::vector<std::int64_t> issued;
    for (std::size_t i = 0; i < count; ++i) {
        gempim_lutmm_desc &d = descriptors[i];
        d.magic = GEMPIM_LUTMM_MAGIC;
        d.weight_type = 2;
        d.m = d.n = 1;
        d.k = 32;
        d.weight_stride = 18;
        d.activation_stride = 34;
        d.result_stride = 4;
        d.weights = reinterpret_cast<std::uintptr_t>(operands);
        d.activations = reinterpret_cast<std::uintptr_t>(operands + 64);
        d.results = reinterpret_cast<std::uintptr_t>(results + i);
        const std::int64_t ticket = gempim_lutmm_issue(&d);
        if (ticket <= 0 && (i < count - 1 || ticket != -std::int64_t{GEMPIM_ERR_BUSY})) {
            micro_die(MICRO_EXIT_WRONG_RESULT, "command %zu of %" PRId64 " that may be outstanding: answer %" PRId64, i,
                      tickets, ticket);
        }
        if (ticket > 0) {
            issued.push_back(ticket);
        }
    }
    for (std::size_t i = 0; i < issued.size(); ++i) {
        const std::size_t from_both_ends = i % 2 == 0 ? i / 2 : issued.size() - 1 - i / 2;
        const std::int64_t status = gempim_lutmm_finish(issued[from_both_ends]);
        if (status != GEMPIM_STATUS_DONE || descriptors[from_both_ends].status != GEMPIM_STATUS_DONE) {
            micro_die(MICRO_EXIT_WRONG_RESULT, "command %zu of a full device ends as %" PRId64, from_both_ends, status);
        }
    }
    if (issued.size() < count && descriptors[count - 1].status != GEMPIM_STATUS_PENDING) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "a command that found the device busy has a status");
    }
}

} // namespace

int main(int argc, char **argv) {
    std::uint64_t count = 1000;
    std::uint64_t seed = 1;
    const micro_option options[] = {
        micro_number("--count", &count, 1, 1000000000, "descriptors"),
        micro_number("--seed", &seed, 0, UINT64_MAX, "of the descriptors"),
        micro_m5_option(),
    };
    micro_parse(argc, argv, "fuzz", "[options]", options, std::size(options), nullptr, 0);
    micro_roi_begin();
    fill_the_device();
    Fuzzer fuzzer(seed);
    fuzzer.run(count);
    micro_roi_end("fuzz.c%" PRIu64 ".s%" PRIu64, count, seed);
    fuzzer.print_counts();
    printf("%" PRIu64 " descriptors ok\n", count);
    return 0;
}
