/* Guest of the full-system tests: what only an operating system does to a program that uses lutmm.
 *
 * Weights and activations are q8_0 with all scales 1, so every product is a sum of integers that float32 holds exactly:
 * the reference below is to the bit. `fs_guest CHECK...` runs checks, prints `CHECK ok` or why not, and exits with the
 * number of those that failed.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isa/lutmm.h"

enum { BLOCK = 32, BLOCK_BYTES = 34, TYPE_Q8_0 = 8, PAGE = 4096 };

static uint64_t seed = 88172645463325252u;

static uint64_t random_bits(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* One product and the memory of its command, page by page apart. */
struct product {
    uint32_t m, n, k;
    struct gempim_lutmm_desc *desc;
    uint8_t *weights, *activations;
    float *results;
    size_t result_bytes;
};

static void *pages(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(100);
    }
    return memory;
}

/* Values 0 to 15; with `is_signed` some are made negative. */
static uint8_t *rows(uint32_t count, uint32_t k, int is_signed) {
    const size_t row_bytes = k / BLOCK * BLOCK_BYTES;
    uint8_t *data = pages(count * row_bytes);
    for (size_t at = 0; at < count * row_bytes; at += BLOCK_BYTES) {
        const uint16_t one = 0x3C00; /* 1.0 in float16 */
        memcpy(data + at, &one, sizeof(one));
        for (int i = 0; i < BLOCK; i += 8) {
            const uint64_t values = random_bits() & 0x0F0F0F0F0F0F0F0Fu;
            memcpy(data + at + 2 + i, &values, sizeof(values));
        }
        for (int i = 0; is_signed && i < BLOCK; i += 3) {
            data[at + 2 + i] = (uint8_t)-data[at + 2 + i];
        }
    }
    return data;
}

/* The results are never touched: their first pages come with the command. */
static struct product make(uint32_t m, uint32_t n, uint32_t k) {
    struct product p = {.m = m, .n = n, .k = k};
    p.weights = rows(n, k, 0);
    p.activations = rows(m, k, 1);
    p.result_bytes = (size_t)m * n * sizeof(float);
    p.results = pages(p.result_bytes);
    p.desc = pages(PAGE);
    *p.desc = (struct gempim_lutmm_desc){
        .magic = GEMPIM_LUTMM_MAGIC,
        .weight_type = TYPE_Q8_0,
        .m = m,
        .n = n,
        .k = k,
        .weight_stride = k / BLOCK * BLOCK_BYTES,
        .activation_stride = k / BLOCK * BLOCK_BYTES,
        .result_stride = n * sizeof(float),
        .weights = (uint64_t)p.weights,
        .activations = (uint64_t)p.activations,
        .results = (uint64_t)p.results,
        .status = GEMPIM_STATUS_PENDING,
    };
    return p;
}

/* Of a large product only some results, spread over all of it: the simulated core computes each one anew. */
static int wrong_results(const struct product *p) {
    const size_t count = (size_t)p->m * p->n;
    const size_t most = 1000000 / p->k;
    const size_t step = count > most ? count / most | 1 : 1;
    int wrong = 0;
    for (size_t at = 0; at < count; at += step) {
        const uint8_t *w = p->weights + at % p->n * (p->k / BLOCK * BLOCK_BYTES);
        const uint8_t *a = p->activations + at / p->n * (p->k / BLOCK * BLOCK_BYTES);
        int sum = 0;
        for (uint32_t block = 0; block < p->k / BLOCK; ++block) {
            for (int i = 0; i < BLOCK; ++i) {
                sum += (int8_t)w[block * BLOCK_BYTES + 2 + i] * (int8_t)a[block * BLOCK_BYTES + 2 + i];
            }
        }
        wrong += p->results[at] != (float)sum;
    }
    return wrong;
}

static int failed(const char *check, const char *why, long long value) {
    printf("%s FAILED: %s: %lld\n", check, why, value);
    return 1;
}

static int passed(const char *check) {
    printf("%s ok\n", check);
    return 0;
}

static int finish_right(const char *check, const struct product *p, int64_t ticket) {
    if (ticket <= 0) {
        return failed(check, "refused", ticket);
    }
    const int64_t status = gempim_lutmm_finish(ticket);
    if (status != GEMPIM_STATUS_DONE || p->desc->status != GEMPIM_STATUS_DONE) {
        return failed(check, "status", status);
    }
    const int wrong = wrong_results(p);
    return wrong ? failed(check, "wrong results", wrong) : passed(check);
}

/* Results over many pages that have never been touched. */
static int first_touch(void) {
    const struct product p = make(4, 4096, 64);
    return finish_right("first_touch", &p, gempim_lutmm_start(p.desc));
}

/* A child's command writes to memory that it shares with its parent until then. */
static int copy_on_write(void) {
    const struct product p = make(1, 2048, 64);
    memset(p.results, 0x55, p.result_bytes);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int64_t ticket = gempim_lutmm_start(p.desc);
        const int right =
            ticket > 0 && gempim_lutmm_finish(ticket) == GEMPIM_STATUS_DONE && wrong_results(&p) == 0;
        _exit(right ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
        return failed("copy_on_write", "the child", status);
    }
    for (size_t i = 0; i < p.result_bytes; ++i) {
        if (((uint8_t *)p.results)[i] != 0x55) {
            return failed("copy_on_write", "the parent's memory changed at byte", (long long)i);
        }
    }
    return p.desc->status == GEMPIM_STATUS_PENDING ? passed("copy_on_write")
                                                   : failed("copy_on_write", "the parent's status", p.desc->status);
}

/* Issued on one core, waited for on another. */
static int migration(void) {
    const struct product p = make(8, 1024, 512);
    cpu_set_t core;
    const int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    CPU_ZERO(&core);
    CPU_SET(0, &core);
    sched_setaffinity(0, sizeof(core), &core);
    const int64_t ticket = gempim_lutmm_start(p.desc);
    CPU_ZERO(&core);
    CPU_SET(cores - 1, &core);
    if (sched_setaffinity(0, sizeof(core), &core) != 0 || sched_getcpu() != cores - 1) {
        return failed("migration", "the thread stayed on core", sched_getcpu());
    }
    const int result = finish_right("migration", &p, ticket);
    CPU_ZERO(&core);
    for (int i = 0; i < cores; ++i) {
        CPU_SET(i, &core);
    }
    sched_setaffinity(0, sizeof(core), &core);
    return result;
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number) {
    (void)number;
    ++alarms;
}

/* Timer interrupts and signals while the core sleeps for the device: each wakes it, and it goes back to sleep. */
static int interrupts(void) {
    const struct product p = make(64, 1024, 512);
    const struct itimerval every = {.it_interval = {.tv_usec = 50}, .it_value = {.tv_usec = 50}};
    const struct itimerval never = {.it_value = {0}};
    signal(SIGALRM, on_alarm);
    const int64_t ticket = gempim_lutmm_start(p.desc);
    alarms = 0;
    setitimer(ITIMER_REAL, &every, NULL);
    int pending = 0;
    int64_t status;
    while ((status = gempim_lutmm_wait(ticket)) == GEMPIM_STATUS_PENDING) {
        ++pending;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    if (status != GEMPIM_STATUS_DONE || wrong_results(&p)) {
        return failed("interrupts", "status", status);
    }
    if (alarms < 2 || pending < 2) {
        return failed("interrupts", "the wait was interrupted too seldom", alarms);
    }
    return passed("interrupts");
}

/* More programs than cores, all with commands of their own. */
static int crowd(void) {
    enum { PROGRAMS = 6, TURNS = 2 };
    fflush(stdout);
    for (int i = 0; i < PROGRAMS; ++i) {
        if (fork() == 0) {
            seed += (uint64_t)i * 7919;
            for (int turn = 0; turn < TURNS; ++turn) {
                const struct product p = make(1, 256, 256);
                const int64_t ticket = gempim_lutmm_start(p.desc);
                sched_yield();
                if (ticket <= 0 || gempim_lutmm_finish(ticket) != GEMPIM_STATUS_DONE || wrong_results(&p)) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    int bad = 0;
    for (int i = 0; i < PROGRAMS; ++i) {
        int status = 0;
        wait(&status);
        bad += status != 0;
    }
    return bad ? failed("crowd", "programs with wrong results", bad) : passed("crowd");
}

/* A program cannot take the status of another one's command. */
static int tickets(void) {
    const struct product p = make(1, 256, 256);
    const int64_t ticket = gempim_lutmm_start(p.desc);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        _exit(gempim_lutmm_wait(ticket) == GEMPIM_ERR_TICKET ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
        return failed("tickets", "another program got the status", status);
    }
    return finish_right("tickets", &p, ticket);
}

/* The results' pages go away while the command runs. */
static int unmapped(void) {
    const struct product p = make(64, 1024, 512);
    const int64_t ticket = gempim_lutmm_start(p.desc);
    munmap(p.results, p.result_bytes);
    const int64_t status = gempim_lutmm_finish(ticket);
    return status == GEMPIM_ERR_MEMORY ? passed("unmapped") : failed("unmapped", "status", status);
}

/* A program is killed while its command runs, and its memory is somebody else's when the results come. */
static int killed(void) {
    int ready[2];
    if (pipe(ready) != 0) {
        return failed("killed", "pipe", 0);
    }
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const struct product p = make(64, 4096, 256);
        const int64_t ticket = gempim_lutmm_start(p.desc);
        (void)!write(ready[1], &ticket, sizeof(ticket));
        gempim_lutmm_finish(ticket);
        _exit(0);
    }
    int64_t ticket = 0;
    (void)!read(ready[0], &ticket, sizeof(ticket));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status)) {
        return failed("killed", "the child had ended already", status);
    }
    const size_t bytes = 12u << 20;
    uint64_t *memory = pages(bytes);
    memset(memory, 0xA5, bytes);
    usleep(2000);
    size_t changed = 0;
    for (size_t i = 0; i < bytes / sizeof(*memory); ++i) {
        changed += memory[i] != 0xA5A5A5A5A5A5A5A5u;
    }
    return changed ? failed("killed", "words of another program changed", (long long)changed) : passed("killed");
}

static const struct {
    const char *name;
    int (*check)(void);
} checks[] = {{"first_touch", first_touch}, {"copy_on_write", copy_on_write}, {"migration", migration},
              {"interrupts", interrupts},   {"crowd", crowd},                 {"tickets", tickets},
              {"unmapped", unmapped},       {"killed", killed}};

int main(int count, char **names) {
    int bad = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; ++i) {
        int known = 0;
        for (size_t c = 0; c < sizeof(checks) / sizeof(checks[0]); ++c) {
            if (strcmp(names[i], checks[c].name) == 0) {
                bad += checks[c].check();
                known = 1;
            }
        }
        if (!known) {
            printf("%s: no such check\n", names[i]);
            ++bad;
        }
    }
    return bad;
}
