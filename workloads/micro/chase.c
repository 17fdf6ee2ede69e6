/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory latency: a chain of dependent loads through every 64-byte line of an array, in random order. The lines form
 * one cycle (Sattolo's shuffle), so that no part of the array is left out and no prefetcher can follow.
 */
#include <stdint.h>

#include "micro.h"

struct line {
    struct line *next;
    char rest[64 - sizeof(struct line *)];
};

static uint64_t random_state;

static uint64_t random_below(uint64_t limit) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return ((random_state * UINT64_C(0x2545F4914F6CDD1D)) >> 32) * limit >> 32;
}

static void make_cycle(struct line *lines, uint64_t count) {
    uint64_t i;
    for (i = 0; i < count; ++i) {
        lines[i].next = &lines[i];
    }
    for (i = count - 1; i > 0; --i) {
        const uint64_t other = random_below(i);
        struct line *const swap = lines[i].next;
        lines[i].next = lines[other].next;
        lines[other].next = swap;
    }
}

/* Not inlined: the loads of a region must not mix with what is round it. */
__attribute__((noinline)) static const struct line *chase(const struct line *at, uint64_t loads) {
    uint64_t left;
    for (left = loads / 8; left > 0; --left) {
        at = at->next->next->next->next->next->next->next->next;
    }
    for (left = loads % 8; left > 0; --left) {
        at = at->next;
    }
    return at;
}

int main(int argc, char **argv) {
    uint64_t bytes = 1 << 20;
    uint64_t loads = 0;
    uint64_t repeat = 1;
    uint64_t seed = 1;
    const struct micro_option options[] = {
        micro_number("--bytes", &bytes, 128, UINT64_C(1) << 37, "bytes of the array, a multiple of 64"),
        micro_number("--loads", &loads, 0, UINT64_C(1) << 40, "loads of a region; 0: one for every line"),
        micro_number("--repeat", &repeat, 1, 1000, "regions of interest"),
        micro_number("--seed", &seed, 0, UINT64_MAX, "of the order"),
        micro_m5_option(),
    };
    struct line *lines;
    const struct line *at;
    uint64_t count;
    uint64_t seen;
    uint64_t i;
    micro_parse(argc, argv, "chase", "[options]", options, sizeof options / sizeof options[0], NULL, 0);
    if (bytes % 64 != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--bytes %" PRIu64 ": expected a multiple of 64", bytes);
    }
    count = bytes / 64;
    loads = loads != 0 ? loads : count;
    random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    random_state += random_state == 0;
    lines = (struct line *)micro_alloc(bytes);
    make_cycle(lines, count);
    /* One way round: the caches are as they will stay, and the cycle is known to be whole. */
    for (at = lines->next, seen = 1; at != lines; at = at->next) {
        ++seen;
    }
    if (seen != count) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "the cycle has %" PRIu64 " of %" PRIu64 " lines", seen, count);
    }
    for (i = 0; i < repeat; ++i) {
        const struct line *end;
        uint64_t ns;
        micro_roi_begin();
        ns = micro_now_ns();
        end = chase(at, loads);
        ns = micro_now_ns() - ns;
        micro_roi_end("chase.b%" PRIu64 ".l%" PRIu64, bytes, loads);
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %.3f ns/load\n", bytes, loads, ns, (double)ns / (double)loads);
        if (loads % count == 0 && end != at) {
            micro_die(MICRO_EXIT_WRONG_RESULT, "whole rounds of the cycle did not end where they began");
        }
        at = end;
    }
    return 0;
}
