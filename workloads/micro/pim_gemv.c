/* SPDX-License-Identifier: BSD-3-Clause
 *
 * results[tokens, n] = inputs[tokens, k] . weights[n, k]^T on memory with PIM (isa/pimq.h), while the other threads
 * read ordinary memory: what the PIM and the cores cost each other.
 *
 * Thread 0 rings the doorbell and asks for the status; it touches no memory while the command runs. Threads 1 and up
 * each sum an array of their own, again and again, until the command is done.
 */
#include <math.h>
#include <stdint.h>

#include "isa/pimq.h"
#include "micro.h"

#ifdef GEMPIM_HAVE_PIMQ

struct problem {
    uint64_t n, k, tokens;
    uint32_t format; /**< gempim_pimq_format */
    uint32_t split;  /**< gempim_pimq_split */
    uint64_t first_space, spaces;
    uint64_t row_bytes, stacks;
    uint64_t desc, inputs, results; /**< device addresses */
    uint64_t results_bytes;
    uint16_t *w; /**< the matrix as the program has it, row-major; pieces of it are copied into the spaces */
    uint16_t *x;
    uint64_t status;
    uint64_t rest_ns;
    int done;
    uint64_t stream_bytes;
    uint64_t *array[MICRO_MAX_THREADS];
    uint64_t sum_of_one[MICRO_MAX_THREADS]; /**< what one pass over the array must give */
    uint64_t passes[MICRO_MAX_THREADS];
    uint64_t sum[MICRO_MAX_THREADS];
};

static uint64_t random_state;

/** splitmix64 */
static uint64_t random_bits(void) {
    uint64_t z = (random_state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/** A number of the format between 2^-6 and 2 in size. */
static uint16_t random_number(uint32_t format) {
    const uint64_t bits = random_bits();
    const unsigned below = (unsigned)(bits >> 20) % 7;
    const uint16_t sign = (uint16_t)((bits & 1) << 15);
    if (format == GEMPIM_PIMQ_BF16) {
        return (uint16_t)(sign | (127 - below) << 7 | (bits >> 32 & 0x7F));
    }
    return (uint16_t)(sign | (15 - below) << 10 | (bits >> 32 & 0x3FF));
}

/** Bits of FP16 or BF16 as a double, by the definition of the formats. */
static double value_of(uint16_t bits, uint32_t format) {
    const int mantissa_bits = format == GEMPIM_PIMQ_BF16 ? 7 : 10;
    const int bias = format == GEMPIM_PIMQ_BF16 ? 127 : 15;
    const int exponent = (bits & 0x7FFF) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    double size;
    if (exponent == 2 * bias + 1) {
        size = mantissa != 0 ? (double)NAN : (double)INFINITY;
    } else if (exponent == 0) {
        size = ldexp(mantissa, 1 - bias - mantissa_bits);
    } else {
        size = ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    }
    return bits & 0x8000 ? -size : size;
}

/** Write `bytes` of the program's memory to device memory, through to where the device sees it. */
static void put(uint64_t device_address, const void *from, uint64_t bytes) {
    void *to = gempim_pimq_pointer(device_address);
    memcpy(to, from, bytes);
    gempim_pimq_flush(to, bytes);
}

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/** Place the operands in the windows and write the weights there. */
static void place(struct problem *p) {
    const uint64_t spaces = gempim_pimq_read(GEMPIM_PIMQ_REG_SPACES);
    const uint64_t space_bytes = gempim_pimq_read(GEMPIM_PIMQ_REG_SPACE_BYTES);
    const uint64_t offset = gempim_pimq_read(GEMPIM_PIMQ_REG_WINDOW_OFFSET);
    const uint64_t window = gempim_pimq_read(GEMPIM_PIMQ_REG_WINDOW_BYTES);
    const uint64_t weight_bytes = 2 * p->n * p->k;
    struct gempim_pimq_desc desc = {0};
    uint64_t piece, in_first;
    if (p->first_space + p->spaces > spaces) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--first-space %" PRIu64 " --spaces %" PRIu64 ": the memory has %" PRIu64,
                  p->first_space, p->spaces, spaces);
    }
    p->row_bytes = gempim_pimq_read(GEMPIM_PIMQ_REG_ROW_BYTES);
    p->stacks = gempim_pimq_read(GEMPIM_PIMQ_REG_STACKS);
    p->results_bytes = 2 * p->tokens * p->n * (p->split == GEMPIM_PIMQ_SPLIT_K ? p->stacks : 1);
    desc.magic = GEMPIM_PIMQ_MAGIC;
    desc.operation = GEMPIM_PIMQ_GEMM;
    desc.format = (uint8_t)p->format;
    desc.split = (uint8_t)p->split;
    desc.n = (uint32_t)p->n;
    desc.k = (uint32_t)p->k;
    desc.tokens = (uint32_t)p->tokens;
    desc.spaces = (uint32_t)p->spaces;
    for (piece = 0; piece < p->spaces; ++piece) {
        desc.weights[piece] = (p->first_space + piece) * space_bytes + offset;
    }
    in_first = round_up(round_up(weight_bytes, p->row_bytes) / p->spaces, p->row_bytes);
    p->desc = desc.weights[0] + in_first;
    p->inputs = p->desc + 4096;
    p->results = p->inputs + round_up(2 * p->tokens * p->k, 4096);
    if (p->results + p->results_bytes - desc.weights[0] > window) {
        micro_die(MICRO_EXIT_BAD_INPUT, "the operands do not fit a window of %" PRIu64 " bytes (run.py --pim-window)",
                  window);
    }
    desc.inputs = p->inputs;
    desc.results = p->results;
    for (piece = 0; piece * p->row_bytes < weight_bytes; ++piece) {
        const uint64_t from = piece * p->row_bytes;
        const uint64_t left = weight_bytes - from;
        put(desc.weights[piece % p->spaces] + piece / p->spaces * p->row_bytes, (const char *)p->w + from,
            left < p->row_bytes ? left : p->row_bytes);
    }
    put(p->inputs, p->x, 2 * p->tokens * p->k);
    put(p->desc, &desc, sizeof desc);
}

static void wait_ns(uint64_t ns) {
    const uint64_t end = micro_now_ns() + ns;
    while (micro_now_ns() < end) {
    }
}

static void work(void *context, struct micro_team *team, unsigned thread) {
    struct problem *p = (struct problem *)context;
    (void)team;
    if (thread == 0) {
        gempim_pimq_ring(0, p->desc);
        p->status = gempim_pimq_finish(0);
        __atomic_store_n(&p->done, 1, __ATOMIC_RELEASE);
        wait_ns(p->rest_ns);
        return;
    }
    while (!__atomic_load_n(&p->done, __ATOMIC_ACQUIRE)) {
        const uint64_t *restrict array = p->array[thread];
        uint64_t sum = 0;
        uint64_t i;
        for (i = 0; i < p->stream_bytes / sizeof(uint64_t); ++i) {
            sum += array[i];
        }
        p->sum[thread] += sum;
        ++p->passes[thread];
    }
}

static double *decode(const uint16_t *bits, uint64_t count, uint32_t format) {
    double *values = (double *)micro_alloc(count * sizeof(double));
    uint64_t i;
    for (i = 0; i < count; ++i) {
        values[i] = value_of(bits[i], format);
    }
    return values;
}

/**
 * Ends the program at the first wrong result of `repeat` commands. The bound: models/logic_pim/values.hh, for sums in
 * any order.
 */
static void check(const struct problem *p, const uint16_t *results, uint64_t repeat) {
    const double *w = decode(p->w, p->n * p->k, p->format);
    const double *x = decode(p->x, p->tokens * p->k, p->format);
    const double u = ldexp(1, -24);
    const double rounding = ldexp(1, p->format == GEMPIM_PIMQ_BF16 ? -8 : -11);
    const double tiny = ldexp(1, -25);
    const uint64_t parts = p->split == GEMPIM_PIMQ_SPLIT_K ? p->stacks : 1;
    const uint64_t share = (p->k + parts - 1) / parts;
    uint64_t part, token, row, run, i;
    for (part = 0; part < parts; ++part) {
        const uint64_t first = part * share < p->k ? part * share : p->k;
        const uint64_t end = first + share < p->k ? first + share : p->k;
        for (token = 0; token < p->tokens; ++token) {
            for (row = 0; row < p->n; ++row) {
                const double depth = (double)(end - first);
                double sum = 0;
                double size = 0;
                double bound;
                for (i = first; i < end; ++i) {
                    const double product = w[row * p->k + i] * x[token * p->k + i];
                    sum += product;
                    size += fabs(product);
                }
                bound = depth * u / (1 - depth * u) * size;
                bound += (fabs(sum) + bound) * rounding + tiny;
                for (run = 0; run < repeat; ++run) {
                    const uint64_t at = run * p->results_bytes / 2 + (part * p->tokens + token) * p->n + row;
                    const double got = value_of(results[at], p->format);
                    if (!(fabs(got - sum) <= bound)) {
                        micro_die(MICRO_EXIT_WRONG_RESULT,
                                  "run %" PRIu64 ": part %" PRIu64 ", token %" PRIu64 ", output %" PRIu64
                                  ": expected %.9g +- %.2g, got %.9g",
                                  run, part, token, row, sum, bound, got);
                    }
                }
            }
        }
    }
}

int main(int argc, char **argv) {
    struct problem *p = (struct problem *)micro_alloc(sizeof *p);
    const char *format = "fp16";
    const char *split = "n";
    uint64_t threads = 1, repeat = 1, seed = 1, settle_ns = 0, sweep_ns = 0, bytes = 1 << 20;
    int with_check = 0, corrupt = 0;
    struct micro_team *team;
    uint16_t *results;
    uint64_t run, i;
    const struct micro_option options[] = {
        micro_number("--n", &p->n, 1, GEMPIM_PIMQ_MAX_N, "outputs: rows of weights"),
        micro_number("--k", &p->k, 1, GEMPIM_PIMQ_MAX_K, "inner extent"),
        micro_number("--tokens", &p->tokens, 1, GEMPIM_PIMQ_MAX_TOKENS, "input vectors"),
        micro_text("--format", &format, "fp16 or bf16 (default fp16)"),
        micro_text("--split", &split, "what the stacks share: n or k (default n)"),
        micro_number("--first-space", &p->first_space, 0, 255, "first memory space of the weights"),
        micro_number("--spaces", &p->spaces, 1, GEMPIM_PIMQ_MAX_SPACES, "memory spaces that they lie in"),
        micro_number("--threads", &threads, 1, MICRO_MAX_THREADS, "threads; all but one read ordinary memory"),
        micro_number("--bytes", &bytes, 64, UINT64_C(1) << 32, "bytes of the array of each of those"),
        micro_number("--settle-ns", &settle_ns, 0, UINT64_C(1000000000),
                     "time to wait before a region, so that the memory is at rest"),
        micro_number("--sweep-ns", &sweep_ns, 0, UINT64_C(1000000000),
                     "with --repeat R: command r starts r / R into such a period of time (of the memory's refresh)"),
        micro_number("--rest-ns", &p->rest_ns, 0, UINT64_C(1000000000),
                     "time by which a region outlasts its command, for what an xPU still reads"),
        micro_number("--repeat", &repeat, 1, 1000, "commands, each a region of interest"),
        micro_number("--seed", &seed, 0, UINT64_MAX, "of the random operands"),
        micro_flag("--check", &with_check, "compare every result with an exact reference, after the regions"),
        micro_flag("--corrupt", &corrupt, "for the tests of --check: change the last result before it is compared"),
        micro_m5_option(),
    };
    p->n = 256;
    p->k = 256;
    p->tokens = 1;
    p->spaces = 1;
    micro_parse(argc, argv, "pim_gemv", "[options]", options, sizeof options / sizeof options[0], NULL, 0);
    if (strcmp(format, "fp16") != 0 && strcmp(format, "bf16") != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--format %s: expected fp16 or bf16", format);
    }
    if (strcmp(split, "n") != 0 && strcmp(split, "k") != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--split %s: expected n or k", split);
    }
    p->format = strcmp(format, "bf16") == 0 ? GEMPIM_PIMQ_BF16 : GEMPIM_PIMQ_FP16;
    p->split = strcmp(split, "k") == 0 ? GEMPIM_PIMQ_SPLIT_K : GEMPIM_PIMQ_SPLIT_N;
    if (gempim_pimq_read(GEMPIM_PIMQ_REG_MAGIC) != GEMPIM_PIMQ_MAGIC) {
        micro_die(MICRO_EXIT_BAD_INPUT, "there is no PIM memory of version %u", GEMPIM_PIMQ_VERSION);
    }
    random_state = seed;
    p->w = (uint16_t *)micro_alloc(2 * p->n * p->k);
    p->x = (uint16_t *)micro_alloc(2 * p->tokens * p->k);
    for (i = 0; i < p->n * p->k; ++i) {
        p->w[i] = random_number(p->format);
    }
    for (i = 0; i < p->tokens * p->k; ++i) {
        p->x[i] = random_number(p->format);
    }
    place(p);
    results = (uint16_t *)micro_alloc(repeat * p->results_bytes);
    p->stream_bytes = bytes / 64 * 64;
    for (i = 1; i < threads; ++i) {
        uint64_t j;
        p->array[i] = (uint64_t *)micro_alloc(p->stream_bytes);
        for (j = 0; j < p->stream_bytes / sizeof(uint64_t); ++j) {
            p->array[i][j] = random_bits();
            p->sum_of_one[i] += p->array[i][j];
        }
    }
    team = micro_team_start((unsigned)threads);
    for (run = 0; run < repeat; ++run) {
        void *const at = gempim_pimq_pointer(p->results);
        uint64_t ns, read = 0;
        /* Not a number, so that no command can pass with an earlier one's results. */
        memset(at, 0xFF, p->results_bytes);
        gempim_pimq_flush(at, p->results_bytes);
        p->done = 0;
        wait_ns(settle_ns);
        while (sweep_ns != 0 && (micro_now_ns() + sweep_ns - sweep_ns * run / repeat) % sweep_ns > 50) {
        }
        for (i = 1; i < threads; ++i) {
            p->passes[i] = 0;
            p->sum[i] = 0;
        }
        micro_roi_begin();
        ns = micro_now_ns();
        micro_team_run(team, work, p);
        ns = micro_now_ns() - ns;
        micro_roi_end("pim_gemv.%s.n%" PRIu64 ".k%" PRIu64 ".tokens%" PRIu64 ".t%" PRIu64, format, p->n, p->k,
                      p->tokens, threads);
        if (p->status != GEMPIM_PIMQ_DONE) {
            micro_die(MICRO_EXIT_WRONG_RESULT, "the device answers status %" PRIu64, p->status);
        }
        gempim_pimq_flush(at, p->results_bytes);
        memcpy((char *)results + run * p->results_bytes, at, p->results_bytes);
        for (i = 1; i < threads; ++i) {
            read += p->passes[i] * p->stream_bytes;
            if (with_check && p->sum[i] != p->passes[i] * p->sum_of_one[i]) {
                micro_die(MICRO_EXIT_WRONG_RESULT, "thread %" PRIu64 ": wrong sum of its array", i);
            }
        }
        printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " ns, other threads read %" PRIu64 " bytes\n", format,
               p->n, p->k, p->tokens, ns, read);
    }
    micro_team_stop(team);
    if (corrupt) {
        results[repeat * p->results_bytes / 2 - 1] ^= 0x4000;
    }
    if (with_check) {
        check(p, results, repeat);
    }
    printf("%s\n", with_check ? "ok" : "unchecked");
    return 0;
}

#else

int main(int argc, char **argv) {
    (void)argc;
    (void)argv;
    micro_die(MICRO_EXIT_BAD_INPUT, "no PIM memory on this kind of machine");
}

#endif
