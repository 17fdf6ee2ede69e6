/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A guest of the gem5 tests: each of N threads sums its part of an array, region by region. By gem5's own operations as
 * instructions; no library. Modes (argv[2]): exit STATUS, abort, segv, open (a region that never ends), quiet (none), early
 * (threads before the first region), pool (threads made before the first of four regions, which spin between them; ends by
 * m5_exit).
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__)
static void work_begin(uint64_t id) {
    register uint64_t x0 __asm__("x0") = id;
    register uint64_t x1 __asm__("x1") = 0;
    __asm__ volatile(".inst 0xff5a0110" : "+r"(x0), "+r"(x1) : : "memory");
}
static void work_end(uint64_t id) {
    register uint64_t x0 __asm__("x0") = id;
    register uint64_t x1 __asm__("x1") = 0;
    __asm__ volatile(".inst 0xff5b0110" : "+r"(x0), "+r"(x1) : : "memory");
}
static void end_simulation(void) {
    register uint64_t x0 __asm__("x0") = 0;
    __asm__ volatile(".inst 0xff210110" : "+r"(x0) : : "memory");
}
#else
static void end_simulation(void) { exit(0); }
static void work_begin(uint64_t id) { (void)id; }
static void work_end(uint64_t id) { (void)id; }
#endif

enum { WORDS = 1 << 14, MOST = 64 };

static uint32_t data[WORDS];
static uint64_t sums[MOST];
static int threads;

static void *part(void *arg) {
    const int t = (int)(intptr_t)arg;
    const int begin = (int)((int64_t)WORDS * t / threads), end = (int)((int64_t)WORDS * (t + 1) / threads);
    uint64_t sum = 0;
    for (int i = begin; i < end; ++i) {
        sum += data[i];
    }
    sums[t] = sum;
    return NULL;
}

static uint64_t sum_all(void) {
    pthread_t ids[MOST];
    for (int t = 1; t < threads; ++t) {
        if (pthread_create(&ids[t], NULL, part, (void *)(intptr_t)t) != 0) {
            fprintf(stderr, "guest: no thread %d\n", t);
            exit(3);
        }
    }
    part((void *)0);
    uint64_t sum = sums[0];
    for (int t = 1; t < threads; ++t) {
        pthread_join(ids[t], NULL);
        sum += sums[t];
    }
    return sum;
}

static volatile int round_now;
static int finished;

/* Worker: its part in every round. */
static void *pool_worker(void *arg) {
    for (int round = 1;; ++round) {
        while (round_now < round) {
        }
        part(arg);
        __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void run_pool(uint64_t expected) {
    for (int t = 1; t < threads; ++t) {
        pthread_t id;
        if (pthread_create(&id, NULL, pool_worker, (void *)(intptr_t)t) != 0) {
            fprintf(stderr, "guest: no thread %d\n", t);
            exit(3);
        }
    }
    for (int round = 1; round <= 4; ++round) {
        printf("roi %d round %d\n", round - 1, round);
        fflush(stdout);
        work_begin(0);
        memset(sums, 0, sizeof sums);
        __atomic_store_n(&round_now, round, __ATOMIC_SEQ_CST);
        part((void *)0);
        while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < (threads - 1) * round) {
        }
        work_end(0);
        uint64_t sum = 0;
        for (int t = 0; t < threads; ++t) {
            sum += sums[t];
        }
        printf("round %d %s\n", round, sum == expected ? "right" : "wrong");
    }
    fflush(stdout);
    end_simulation();
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[2] : "";
    threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > MOST) {
        fprintf(stderr, "guest: threads: 1 to %d\n", MOST);
        return 2;
    }
    uint64_t expected = 0;
    for (uint32_t i = 0; i < WORDS; ++i) {
        data[i] = i * 2654435761u;
        expected += data[i];
    }
    printf("hello from %d threads\n", threads);
    if (strcmp(mode, "early") == 0) {
        sum_all();
    }
    if (strcmp(mode, "pool") == 0) {
        run_pool(expected);
    }
    const int quiet = strcmp(mode, "quiet") == 0;
    for (uint64_t region = 0; region < 2; ++region) {
        if (!quiet) {
            printf("roi %d sum pass %d\n", (int)region, (int)region);
            fflush(stdout);
            work_begin(region);
        }
        const uint64_t sum = sum_all();
        if (strcmp(mode, "open") == 0) {
            return 0;
        }
        if (!quiet) {
            work_end(region);
        }
        if (sum != expected) {
            printf("wrong sum %llu\n", (unsigned long long)sum);
            return 4;
        }
    }
    printf("sum %llu\n", (unsigned long long)expected);
    fflush(stdout);
    if (strcmp(mode, "abort") == 0) {
        abort();
    }
    if (strcmp(mode, "segv") == 0) {
        volatile uintptr_t nowhere = 8;
        *(volatile int *)nowhere = 1;
    }
    return strcmp(mode, "exit") == 0 && argc > 3 ? atoi(argv[3]) : 0;
}
