/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The calibration program: regions of interest over llama.cpp's kernels, the memory system, a barrier and `lutmm`.
 *
 *   kernels [--m5] [--only KERNEL] [--l1 BYTES] [--l2 BYTES] [--threads T] PART...     PART: kernels memory barrier pim
 *
 * With --m5 every region lies between gem5's work_begin and work_end; without, the same program runs on any Linux and
 * only its checksums mean anything. After each region a line "roi INDEX LABEL WORK" goes to standard output, WORK being
 * the units (calls, loads, bytes, barriers, commands) that were timed; after a kernel's also "sum LABEL CHECKSUM".
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef GUEST_LUTMM
#include "lutmm.h"
#endif

#define LINE 64u

_Alignas(64) unsigned char guest_x[GUEST_BYTES], guest_y[GUEST_BYTES], guest_z[GUEST_BYTES];
_Alignas(64) float guest_f[GUEST_BYTES / 4], guest_g[GUEST_BYTES / 4];

static int use_m5;
static int region;
static int null_device;

/* Regions of interest ----------------------------------------------------------------------------------------------
 *
 * gem5's pseudo instruction is not speculative, so that everything before it has finished; the barrier behind it keeps
 * younger instructions from starting before it.
 */
#define M5_OP(func) ".inst 0xff000110 | " #func " << 16"

static inline void roi_begin(void) {
    if (use_m5) {
        register uint64_t x0 __asm__("x0") = (uint64_t)region;
        register uint64_t x1 __asm__("x1") = 0;
        __asm__ volatile("dsb sy\n\tisb\n\t" M5_OP(0x5a) "\n\tisb" : "+r"(x0), "+r"(x1) : : "memory");
    }
}

static inline void roi_end(void) {
    if (use_m5) {
        register uint64_t x0 __asm__("x0") = (uint64_t)region;
        register uint64_t x1 __asm__("x1") = 0;
        __asm__ volatile("isb\n\t" M5_OP(0x5b) : "+r"(x0), "+r"(x1) : : "memory");
    }
}

static char *append(char *at, const char *text) {
    while (*text) {
        *at++ = *text++;
    }
    return at;
}

static char *append_number(char *at, uint64_t value, unsigned base) {
    char digits[24];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count) {
        *at++ = digits[--count];
    }
    return at;
}

static void print(const char *line, const char *end) {
    if (write(STDOUT_FILENO, line, (size_t)(end - line)) != end - line) {
        exit(1);
    }
}

/* printf costs a simulated core thousands of instructions a line. */
static void report(const char *label, uint64_t work) {
    char line[160], *at = append(line, "roi ");
    at = append_number(at, (uint64_t)region++, 10);
    at = append(append(append(at, " "), label), " ");
    print(line, append(append_number(at, work, 10), "\n"));
}

static void report_sum(const char *label) {
    const uint64_t *words = (const uint64_t *)guest_z;
    uint64_t sum = 0xcbf29ce484222325u;
    for (int i = 0; i < 256; ++i) {
        sum = (sum ^ words[i]) * 0x100000001b3u;
        sum ^= sum >> 29;
    }
    char line[160], *at = append(line, "sum ");
    at = append(append(at, label), " ");
    print(line, append(append_number(at, sum, 16), "\n"));
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "kernels: %s\n", what);
    exit(1);
}

/* Kernels ----------------------------------------------------------------------------------------------------------*/

static uint32_t random_state = 2463534242u;

static uint32_t random_word(void) { /* xorshift32, Marsaglia 2003 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void fill_operands(void) {
    for (int i = 0; i < GUEST_BYTES / 4; ++i) {
        /* Exponent 01xxx of both halves: 2^-7 to 2 as halves, 2^-63 to 2 as one float. */
        uint32_t x = (random_word() & 0x9fff9fffu) | 0x20002000u, y = (random_word() & 0x9fff9fffu) | 0x20002000u;
        memcpy(guest_x + 4 * i, &x, 4);
        memcpy(guest_y + 4 * i, &y, 4);
        guest_f[i] = (float)((int32_t)random_word() >> 8) / 8388608.0f;
        guest_g[i] = (float)((int32_t)random_word() >> 8) / 8388608.0f;
    }
}

__attribute__((noipa)) static void run_region(const struct guest_region *r) {
    memcpy(guest_z, guest_g, 2048);
    for (int i = 0; i < r->warm; ++i) {
        r->call(r->n);
    }
    roi_begin();
    for (int i = 0; i < r->repeats; ++i) {
        r->call(r->n);
    }
    roi_end();
    report(r->label, (uint64_t)r->repeats);
    report_sum(r->label);
}

static void empty_call(int n) {
    __asm__ volatile("" : : "r"(n));
}

static int wanted(const char *label, const char *only) {
    size_t length = strlen(only);
    return strncmp(label, only, length) == 0 && (label[length] == '/' || length == 0);
}

static void kernels(const char *only) {
    fill_operands();
    for (int repeats = 0; repeats <= GUEST_REPEATS; repeats += GUEST_REPEATS) {
        struct guest_region empty = {repeats ? "empty/calls" : "empty/region", empty_call, 0, 2, repeats};
        run_region(&empty);
    }
    int found = 0;
    for (int i = 0; i < guest_region_count; ++i) {
        if (wanted(guest_regions[i].label, only)) {
            run_region(&guest_regions[i]);
            found = 1;
        }
    }
    if (!found) {
        fail("no such kernel");
    }
}

/* Memory -----------------------------------------------------------------------------------------------------------*/

static void empty_region(void) {
    roi_begin();
    roi_end();
    report("empty/region", 0);
}

/* Zeroed memory whose pages exist but whose lines are in no cache: the system call writes them, not the core. */
static char *cold_memory(size_t bytes) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("out of memory");
    }
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(null_device, memory + done, bytes - done);
        if (got <= 0) {
            fail("/dev/zero cannot be read");
        }
        done += (size_t)got;
    }
    return memory;
}

/* Every line once, in order. */
__attribute__((noipa)) static void touch(const char *memory, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LINE) {
        uint64_t value;
        __asm__ volatile("ldr %0, [%1]" : "=r"(value) : "r"(memory + at) : "memory");
    }
}

/* Loads of `count` different lines out of 2^bits, in an order no prefetcher follows. The address of each needs the
 * value of the one before: 0, which only the memory knows. */
__attribute__((noipa)) static void chase(const char *memory, unsigned bits, unsigned count) {
    const uint32_t mask = (1u << bits) - 1;
    uint64_t value = 0;
    uint32_t state = 12345;
    roi_begin();
    for (unsigned i = 0; i < count; ++i) {
        state = (state * 1664525u + 1013904223u) & mask; /* full period */
        const uint32_t line = state ^ state >> bits / 2;
        __asm__ volatile("ldr %0, [%1, %0]" : "+r"(value) : "r"(memory + (size_t)line * LINE) : "memory");
    }
    roi_end();
    if (value) {
        fail("memory that must be zero is not");
    }
}

/* All bytes in order, 16 a load as vector kernels do. */
__attribute__((noipa)) static void stream(const char *memory, size_t bytes) {
    roi_begin();
    for (const char *at = memory; at < memory + bytes; at += 2 * LINE) {
        __asm__ volatile("ldp q0, q1, [%0]\n\tldp q2, q3, [%0, 32]\n\tldp q4, q5, [%0, 64]\n\tldp q6, q7, [%0, 96]"
                         :
                         : "r"(at)
                         : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "memory");
    }
    roi_end();
}

static unsigned log2_lines(size_t bytes) {
    unsigned bits = 0;
    while ((size_t)LINE << (bits + 1) <= bytes) {
        ++bits;
    }
    return bits;
}

/* Memory of 2 * above bytes that has been read, and left the cache of `above` bytes for the level below it. */
static char *evicted_memory(size_t above) {
    char *memory = cold_memory(2 * above);
    touch(memory, 2 * above);
    touch(cold_memory(2 * above), 2 * above);
    return memory;
}

static void latency(const char *label, const char *memory, size_t bytes, unsigned loads) {
    const unsigned bits = log2_lines(bytes);
    loads = loads < 1u << bits ? loads : 1u << bits;
    chase(memory, bits, loads);
    report(label, loads);
}

static void bandwidth(const char *label, const char *memory, size_t bytes) {
    stream(memory, bytes);
    report(label, bytes);
}

static void memory_part(size_t l1, size_t l2) {
    /* Few in the LLC: the L2's prefetcher fetches lines behind each, and would soon have what is still to be loaded. */
    enum { LOADS = 512, LLC_LOADS = 128, COLD_BYTES = 32 << 20, STREAMED = 1 << 20 };
    empty_region();
    char *memory = cold_memory(l1 / 2);
    touch(memory, l1 / 2);
    touch(memory, l1 / 2);
    latency("latency/l1", memory, l1 / 2, LOADS);
    latency("latency/l2", evicted_memory(l1), 2 * l1, LOADS);
    latency("latency/llc", evicted_memory(l2), 2 * l2, LLC_LOADS);
    bandwidth("stream/llc", evicted_memory(l2), STREAMED < 2 * l2 ? STREAMED : 2 * l2);
    latency("latency/dram", cold_memory(COLD_BYTES), COLD_BYTES, LOADS);
    bandwidth("stream/dram", cold_memory(STREAMED), STREAMED);
}

/* Barrier ----------------------------------------------------------------------------------------------------------*/

/* gem5's system-call emulation ends the simulation at clone3, which the C library tries before clone. In a static
 * program this definition stands in for the library's own; then the library uses clone. */
int __clone3(void *arguments, size_t size, int (*function)(void *), void *argument);

int __clone3(void *arguments, size_t size, int (*function)(void *), void *argument) {
    (void)arguments, (void)size, (void)function, (void)argument;
    errno = ENOSYS;
    return -1;
}

/* ggml_barrier of llama.cpp (ggml/src/ggml-cpu/ggml-cpu.c): its two counters in lines of their own. */
struct barrier {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int passed;
};

static void barrier_wait(struct barrier *b, int threads) {
    const int passed = atomic_load_explicit(&b->passed, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_seq_cst) == threads - 1) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&b->passed, 1, memory_order_seq_cst);
        return;
    }
    while (atomic_load_explicit(&b->passed, memory_order_relaxed) == passed) {
        __asm__ volatile("yield" : : : "memory");
    }
    atomic_thread_fence(memory_order_seq_cst);
}

enum { BARRIER_WARM = 8, BARRIERS = 64, MOST_THREADS = 64 };

static struct barrier timed_barrier, all_barrier;
static int thread_count;

static void barriers(int count, int threads) {
    for (int i = 0; i < count; ++i) {
        barrier_wait(&timed_barrier, threads);
    }
}

static void *barrier_worker(void *argument) {
    const int index = (int)(intptr_t)argument;
    for (int threads = 2; threads <= thread_count; ++threads) {
        barrier_wait(&all_barrier, thread_count);
        if (index < threads) {
            barriers(BARRIER_WARM + BARRIERS, threads);
        }
    }
    barrier_wait(&all_barrier, thread_count);
    return NULL;
}

static void barrier_part(void) {
    if (thread_count < 2 || thread_count > MOST_THREADS) {
        fail("barrier: --threads must be 2 to 64");
    }
    static pthread_t workers[MOST_THREADS];
    for (int i = 1; i < thread_count; ++i) {
        if (pthread_create(&workers[i], NULL, barrier_worker, (void *)(intptr_t)i)) {
            fail("a thread cannot be started: are there as many cores?");
        }
    }
    for (int threads = 2; threads <= thread_count; ++threads) {
        barrier_wait(&all_barrier, thread_count);
        barriers(BARRIER_WARM, threads);
        roi_begin();
        barriers(BARRIERS, threads);
        roi_end();
        char label[32], *end = append_number(append(label, "barrier/"), (uint64_t)threads, 10);
        *end = '\0';
        report(label, BARRIERS);
    }
    barrier_wait(&all_barrier, thread_count);
    for (int i = 1; i < thread_count; ++i) {
        pthread_join(workers[i], NULL);
    }
}

/* lutmm ------------------------------------------------------------------------------------------------------------*/

#ifdef GUEST_LUTMM

enum { COMMANDS = 8, PIM_ROWS = 64, Q4_0 = 2, Q4_0_BYTES = 18, Q8_0_BYTES = 34 };

static struct gempim_lutmm_desc pim_descriptors[COMMANDS] __attribute__((aligned(64)));
static float pim_results[COMMANDS][PIM_ROWS] __attribute__((aligned(64)));

/* Everything that a program writes for one command: a product of one activation block with 64 rows. */
static void pim_describe(int i) {
    struct gempim_lutmm_desc *d = &pim_descriptors[i];
    d->magic = GEMPIM_LUTMM_MAGIC;
    d->weight_type = Q4_0;
    d->flags = 0;
    d->m = 1;
    d->n = PIM_ROWS;
    d->k = 32;
    d->weight_stride = Q4_0_BYTES;
    d->activation_stride = Q8_0_BYTES;
    d->result_stride = sizeof pim_results[0];
    d->weights = (uint64_t)guest_x;
    d->activations = (uint64_t)guest_y;
    d->results = (uint64_t)pim_results[i];
    d->status = GEMPIM_STATUS_PENDING;
    d->reserved = 0;
}

static void pim_expect(int64_t status) {
    if (status != GEMPIM_STATUS_DONE) {
        fail("a lutmm command was refused or failed");
    }
}

static void pim_part(void) {
    fill_operands();
    empty_region();
    const int64_t tickets = gempim_lutmm_query(GEMPIM_QUERY_TICKETS);
    const int commands = tickets < COMMANDS ? (int)tickets : COMMANDS;
    int64_t ticket[COMMANDS];
    if (commands < 1) {
        fail("the device has no tickets");
    }
    for (int round = 0; round < 2; ++round) { /* the first warms caches, TLB and predictors */
        const int timed = round == 1;
        if (timed) {
            roi_begin();
        }
        for (int i = 0; i < commands; ++i) {
            pim_describe(i);
            ticket[i] = gempim_lutmm_start(&pim_descriptors[i]);
        }
        if (timed) {
            roi_end();
            report("pim/issue", (uint64_t)commands);
        }
        for (int i = 0; i < commands; ++i) {
            pim_expect(gempim_lutmm_finish(ticket[i]));
        }
        if (timed) {
            roi_begin();
        }
        for (int i = 0; i < commands; ++i) {
            pim_describe(i);
            ticket[i] = gempim_lutmm_finish(gempim_lutmm_start(&pim_descriptors[i]));
        }
        if (timed) {
            roi_end();
            report("pim/issue_and_wait", (uint64_t)commands);
        }
        for (int i = 0; i < commands; ++i) {
            pim_expect(ticket[i]);
        }
    }
}

#endif

/* ------------------------------------------------------------------------------------------------------------------*/

static size_t bytes_of(const char *text) {
    char *end;
    const unsigned long value = text ? strtoul(text, &end, 10) : 0;
    if (!value || *end || value % (2 * LINE)) {
        fail("--l1 and --l2 take a multiple of 128 bytes");
    }
    return value;
}

int main(int argc, char **argv) {
    const char *only = "";
    size_t l1 = 64 << 10, l2 = 1 << 20;
    int parts = 0;
    null_device = open("/dev/zero", O_RDONLY);
    for (int i = 1; i < argc; ++i) {
        const char *word = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(word, "--m5")) {
            use_m5 = 1;
        } else if (!strcmp(word, "--only") && next) {
            only = next, ++i;
        } else if (!strcmp(word, "--l1")) {
            l1 = bytes_of(next), ++i;
        } else if (!strcmp(word, "--l2")) {
            l2 = bytes_of(next), ++i;
        } else if (!strcmp(word, "--threads") && next) {
            thread_count = atoi(next), ++i;
        } else if (!strcmp(word, "kernels")) {
            kernels(only), ++parts;
        } else if (!strcmp(word, "memory")) {
            memory_part(l1, l2), ++parts;
        } else if (!strcmp(word, "barrier")) {
            barrier_part(), ++parts;
#ifdef GUEST_LUTMM
        } else if (!strcmp(word, "pim")) {
            pim_part(), ++parts;
#endif
        } else {
            fail("usage: kernels [--m5] [--only KERNEL] [--l1 BYTES] [--l2 BYTES] [--threads T] PART...; "
                 "PART is kernels, memory, barrier or pim");
        }
    }
    if (!parts) {
        fail("no part was named: kernels, memory, barrier, pim");
    }
    return 0;
}
