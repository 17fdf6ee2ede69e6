/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory bandwidth: the four loops of STREAM, and a sum that only reads. Bytes are counted as STREAM does: what the
 * loop reads and writes, without the lines that a write allocates. Threads work on neighbouring shares of the arrays.
 */
#include <stdint.h>

#include "micro.h"

enum kernel { COPY, SCALE, ADD, TRIAD, SUM, KERNELS };

static const char *const kernel_names[KERNELS] = {"copy", "scale", "add", "triad", "sum"};
static const unsigned arrays_touched[KERNELS] = {2, 2, 3, 3, 1};

struct arrays {
    enum kernel kernel;
    uint64_t elements;
    double *a; /* written by no kernel */
    double *b; /* written by no kernel */
    double *c;
    uint64_t sums[MICRO_MAX_THREADS][8];
};

static const double factor = 3.0;

static void share(void *context, struct micro_team *team, unsigned thread) {
    struct arrays *arrays = (struct arrays *)context;
    uint64_t end;
    const uint64_t first = micro_share(arrays->elements, team->threads, thread, &end);
    const double *restrict a = arrays->a;
    const double *restrict b = arrays->b;
    double *restrict c = arrays->c;
    uint64_t i;
    switch (arrays->kernel) {
    case COPY:
        for (i = first; i < end; ++i) {
            c[i] = a[i];
        }
        break;
    case SCALE:
        for (i = first; i < end; ++i) {
            c[i] = factor * a[i];
        }
        break;
    case ADD:
        for (i = first; i < end; ++i) {
            c[i] = a[i] + b[i];
        }
        break;
    case TRIAD:
        for (i = first; i < end; ++i) {
            c[i] = a[i] + factor * b[i];
        }
        break;
    default: {
        /* Integers: a sum of doubles would wait for itself and could not be vectorised. */
        const uint64_t *restrict bits = (const uint64_t *)(const void *)arrays->a;
        uint64_t sum = 0;
        for (i = first; i < end; ++i) {
            sum += bits[i];
        }
        arrays->sums[thread][0] = sum;
        break;
    }
    }
}

static double a_of(uint64_t i) {
    return (double)(i % 1021);
}
static double b_of(uint64_t i) {
    return (double)(i % 509) + 0.5;
}

static void check(const struct arrays *arrays, unsigned threads) {
    const uint64_t *bits = (const uint64_t *)(const void *)arrays->a;
    uint64_t expected_sum = 0;
    uint64_t sum = 0;
    uint64_t i;
    for (i = 0; i < arrays->elements; ++i) {
        double expected = a_of(i);
        expected_sum += bits[i];
        switch (arrays->kernel) {
        case SCALE:
            expected *= factor;
            break;
        case ADD:
            expected += b_of(i);
            break;
        case TRIAD:
            expected += factor * b_of(i);
            break;
        default:
            break;
        }
        if (arrays->kernel != SUM && arrays->c[i] != expected) { /* all are small multiples of a half: exact */
            micro_die(MICRO_EXIT_WRONG_RESULT, "%s: element %" PRIu64 ": expected %g, got %g",
                      kernel_names[arrays->kernel], i, expected, arrays->c[i]);
        }
    }
    for (i = 0; i < threads; ++i) {
        sum += arrays->sums[i][0];
    }
    if (arrays->kernel == SUM && sum != expected_sum) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "sum: expected %" PRIu64 ", got %" PRIu64, expected_sum, sum);
    }
}

int main(int argc, char **argv) {
    const char *kernel_name = "all";
    uint64_t bytes = 1 << 20;
    uint64_t threads = 1;
    uint64_t repeat = 1;
    int with_check = 0;
    const struct micro_option options[] = {
        micro_text("--kernel", &kernel_name, "copy, scale, add, triad, sum or all (default all)"),
        micro_number("--bytes", &bytes, 64, UINT64_C(1) << 32, "bytes of one array; there are three"),
        micro_number("--threads", &threads, 1, MICRO_MAX_THREADS, "threads; in gem5 at most the cores"),
        micro_number("--repeat", &repeat, 1, 1000, "runs of each kernel, each a region of interest"),
        micro_flag("--check", &with_check, "compare the arrays with what they must be, after each region"),
        micro_m5_option(),
    };
    struct arrays *arrays = (struct arrays *)micro_alloc(sizeof *arrays);
    struct micro_team *team;
    unsigned kernel;
    int ran = 0;
    uint64_t i;
    micro_parse(argc, argv, "stream", "[options]", options, sizeof options / sizeof options[0], NULL, 0);
    arrays->elements = bytes / sizeof(double);
    arrays->a = (double *)micro_alloc(bytes);
    arrays->b = (double *)micro_alloc(bytes);
    arrays->c = (double *)micro_alloc(bytes);
    for (i = 0; i < arrays->elements; ++i) {
        arrays->a[i] = a_of(i);
        arrays->b[i] = b_of(i);
    }
    team = micro_team_start((unsigned)threads);
    for (kernel = 0; kernel < KERNELS; ++kernel) {
        if (strcmp(kernel_name, "all") != 0 && strcmp(kernel_name, kernel_names[kernel]) != 0) {
            continue;
        }
        ran = 1;
        arrays->kernel = (enum kernel)kernel;
        for (i = 0; i < repeat; ++i) {
            const uint64_t moved = arrays_touched[kernel] * arrays->elements * sizeof(double);
            uint64_t ns;
            micro_roi_begin();
            ns = micro_now_ns();
            micro_team_run(team, share, arrays);
            ns = micro_now_ns() - ns;
            micro_roi_end("stream.%s.b%" PRIu64 ".t%" PRIu64, kernel_names[kernel], bytes, threads);
            if (with_check) {
                check(arrays, (unsigned)threads);
            }
            printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %.3f GB/s\n", kernel_names[kernel], bytes,
                   threads, moved, ns, ns != 0 ? (double)moved / (double)ns : 0.0);
        }
    }
    micro_team_stop(team);
    if (!ran) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--kernel %s: expected copy, scale, add, triad, sum or all", kernel_name);
    }
    return 0;
}
