/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every micro program needs: options, the clock, regions of interest, a team of threads. C and C++, header only;
 * include it in the program's main source file only.
 */
#ifndef GEMPIM_MICRO_H
#define GEMPIM_MICRO_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>

#include "m5ops.h"

/* Ending ------------------------------------------------------------------------------------------------------------*/

enum { MICRO_EXIT_WRONG_RESULT = 1, MICRO_EXIT_BAD_INPUT = 2 };

static const char *micro_program = "micro";

/** Print one line and end with that status; in gem5 the simulation fails with it, too. */
__attribute__((noreturn, format(printf, 2, 3))) static inline void micro_die(int status, const char *format, ...) {
    va_list args;
    fflush(stdout);
    fprintf(stderr, "%s: ", micro_program);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(status);
}

/** calloc, at a multiple of 64 bytes, that ends the program when there is no memory; never freed. */
static inline void *micro_alloc(size_t bytes) {
    void *memory = NULL;
    bytes = (bytes + 63) / 64 * 64;
    if (posix_memalign(&memory, 64, bytes != 0 ? bytes : 64) != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "no memory for %zu bytes: choose smaller sizes", bytes);
    }
    memset(memory, 0, bytes);
    return memory;
}

/* Options -----------------------------------------------------------------------------------------------------------*/

enum micro_kind { MICRO_FLAG, MICRO_NUMBER, MICRO_TEXT };

struct micro_option {
    const char *name; /**< with the leading "--" */
    enum micro_kind kind;
    void *value;       /**< int *, uint64_t * or const char ** */
    uint64_t least;    /**< numbers: the range that is allowed */
    uint64_t most;     /**< numbers */
    const char *about; /**< for --help */
};

static inline struct micro_option micro_flag(const char *name, int *value, const char *about) {
    struct micro_option option = {name, MICRO_FLAG, value, 0, 0, about};
    return option;
}

static inline struct micro_option micro_number(const char *name, uint64_t *value, uint64_t least, uint64_t most,
                                               const char *about) {
    struct micro_option option = {name, MICRO_NUMBER, value, least, most, about};
    return option;
}

static inline struct micro_option micro_text(const char *name, const char **value, const char *about) {
    struct micro_option option = {name, MICRO_TEXT, (void *)value, 0, 0, about};
    return option;
}

/** The option --m5 that every program has. */
static inline struct micro_option micro_m5_option(void) {
    return micro_flag("--m5", &gempim_m5_enabled, "the program runs in gem5: use its magic operations");
}

static inline void micro_help(const char *usage, const struct micro_option *options, size_t count) {
    size_t i;
    printf("usage: %s %s\n", micro_program, usage);
    for (i = 0; i < count; ++i) {
        const struct micro_option *option = &options[i];
        const char *argument = option->kind == MICRO_NUMBER ? " N" : option->kind == MICRO_TEXT ? " TEXT" : "";
        printf("  %s%s: %s", option->name, argument, option->about);
        if (option->kind == MICRO_NUMBER) {
            printf(" (default %" PRIu64 ")", *(const uint64_t *)option->value);
        }
        putchar('\n');
    }
}

static inline uint64_t micro_parse_number(const struct micro_option *option, const char *text) {
    char *end = NULL;
    unsigned long long value;
    errno = 0;
    value = strtoull(text, &end, 0);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < option->least || value > option->most) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s %s: expected a whole number from %" PRIu64 " to %" PRIu64, option->name,
                  text, option->least, option->most);
    }
    return value;
}

/**
 * Read the command line: options in any order, and `positional_count` words, all of which must be there.
 * Ends the program with status 2 and one line for anything else, with 0 for --help.
 */
static inline void micro_parse(int argc, char **argv, const char *program, const char *usage,
                               const struct micro_option *options, size_t count, const char **positional,
                               size_t positional_count) {
    size_t words = 0;
    int at;
    micro_program = program;
    for (at = 1; at < argc; ++at) {
        const char *word = argv[at];
        const struct micro_option *option = NULL;
        size_t i;
        if (strcmp(word, "--help") == 0) {
            micro_help(usage, options, count);
            exit(0);
        }
        if (strncmp(word, "--", 2) != 0) {
            if (words == positional_count) {
                micro_die(MICRO_EXIT_BAD_INPUT, "%s: not expected; usage: %s %s", word, program, usage);
            }
            positional[words++] = word;
            continue;
        }
        for (i = 0; i < count; ++i) {
            if (strcmp(word, options[i].name) == 0) {
                option = &options[i];
            }
        }
        if (option == NULL) {
            micro_die(MICRO_EXIT_BAD_INPUT, "%s: no such option; see %s --help", word, program);
        }
        if (option->kind == MICRO_FLAG) {
            *(int *)option->value = 1;
            continue;
        }
        if (at + 1 == argc) {
            micro_die(MICRO_EXIT_BAD_INPUT, "%s: expected a value after it", word);
        }
        ++at;
        if (option->kind == MICRO_NUMBER) {
            *(uint64_t *)option->value = micro_parse_number(option, argv[at]);
        } else {
            *(const char **)option->value = argv[at];
        }
    }
    if (words < positional_count) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%zu of %zu file names given; usage: %s %s", words, positional_count, program,
                  usage);
    }
}

/* Clock and regions of interest -------------------------------------------------------------------------------------*/

/** Simulated time in gem5, else the machine's monotonic clock [ns]. */
static inline uint64_t micro_now_ns(void) {
    struct timespec now;
    if (gempim_m5_enabled) {
        return gempim_m5_rpns();
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static unsigned micro_roi_count = 0;

/** Begin the next region of interest. */
static inline void micro_roi_begin(void) {
    gempim_m5_work_begin(micro_roi_count, 0);
}

/** End it and print the line `roi INDEX LABEL`, outside the region. The label has no blanks. */
__attribute__((format(printf, 1, 2))) static inline void micro_roi_end(const char *label, ...) {
    va_list args;
    gempim_m5_work_end(micro_roi_count, 0);
    printf("roi %u ", micro_roi_count++);
    va_start(args, label);
    vprintf(label, args);
    va_end(args);
    putchar('\n');
}

/* A team of threads -------------------------------------------------------------------------------------------------
 *
 * Threads are made once and wait in a sense-reversing spin barrier, so that a region of interest holds no thread
 * creation and no system call. In gem5 every thread has a core of its own; elsewhere there may be fewer cores than
 * threads, and a thread that has waited for long lets another run.
 */
#define MICRO_MAX_THREADS 64
#define MICRO_SPINS_BEFORE_YIELD 4096

struct micro_team;
/** The work of one thread: 0 is the thread that called micro_team_run. */
typedef void (*micro_job)(void *context, struct micro_team *team, unsigned thread);

struct micro_member {
    struct micro_team *team;
    unsigned thread;
    int sense;
    pthread_t id;
    char own_cache_line[64];
};

struct micro_team {
    unsigned threads;
    micro_job job; /**< null: the team ends */
    void *context;
    char line_of_arrived[64];
    unsigned arrived;
    char line_of_sense[64];
    int sense;
    char line_of_members[64];
    struct micro_member members[MICRO_MAX_THREADS];
};

static inline void micro_relax(void) {
#if defined(__aarch64__)
    __asm__ volatile("yield" : : : "memory");
#else
    __asm__ volatile("" : : : "memory");
#endif
}

/** Wait until every thread of the team is here; what each wrote before is seen by all after. */
static inline void micro_team_barrier(struct micro_team *team, unsigned thread) {
    struct micro_member *member = &team->members[thread];
    unsigned spins = 0;
    member->sense = !member->sense;
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        team->arrived = 0;
        __atomic_store_n(&team->sense, member->sense, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&team->sense, __ATOMIC_ACQUIRE) != member->sense) {
        micro_relax();
        if (!gempim_m5_enabled && ++spins == MICRO_SPINS_BEFORE_YIELD) {
            spins = 0;
            sched_yield();
        }
    }
}

/** Whether gem5 emulates the system calls: a kernel maps its vDSO into every program, gem5 does not. */
static inline int micro_emulated(void) {
    return gempim_m5_enabled && getauxval(AT_SYSINFO_EHDR) == 0;
}

static inline void *micro_team_member(void *argument) {
    struct micro_member *member = (struct micro_member *)argument;
    struct micro_team *team = member->team;
    for (;;) {
        micro_team_barrier(team, member->thread);
        if (team->job == NULL) {
            micro_team_barrier(team, member->thread);
            while (micro_emulated()) {
                gempim_m5_quiesce();
            }
            return NULL;
        }
        team->job(team->context, team, member->thread);
        micro_team_barrier(team, member->thread);
    }
}

/** Make the threads. @return a team that micro_team_stop ends */
static inline struct micro_team *micro_team_start(unsigned threads) {
    struct micro_team *team = (struct micro_team *)micro_alloc(sizeof *team);
    unsigned thread;
    team->threads = threads;
    for (thread = 0; thread < threads; ++thread) {
        struct micro_member *member = &team->members[thread];
        int error;
        member->team = team;
        member->thread = thread;
        error = thread == 0 ? 0 : pthread_create(&member->id, NULL, micro_team_member, member);
        if (error != 0) {
            micro_die(MICRO_EXIT_BAD_INPUT, "--threads %u: thread %u cannot be made (%s); in gem5 each needs a core",
                      threads, thread, strerror(error));
        }
        if (thread != 0) {
            pthread_detach(member->id);
        }
    }
    return team;
}

/** Run the job on every thread of the team and wait for all. */
static inline void micro_team_run(struct micro_team *team, micro_job job, void *context) {
    team->job = job;
    team->context = context;
    micro_team_barrier(team, 0);
    job(context, team, 0);
    micro_team_barrier(team, 0);
}

/**
 * End the threads. In gem5's syscall emulation they sleep until the program exits: gem5 takes the exit of a thread that
 * it restored from a checkpoint for that of the program, and never tells a join of it. Under Linux they must not: an
 * interrupt wakes such a core, and gem5 24's out-of-order core loses instructions that follow the one that put it to
 * sleep.
 */
static inline void micro_team_stop(struct micro_team *team) {
    team->job = NULL;
    micro_team_barrier(team, 0);
    micro_team_barrier(team, 0);
}

/** The share of one thread in [0, count): from first (returned) to *end. */
static inline uint64_t micro_share(uint64_t count, unsigned threads, unsigned thread, uint64_t *end) {
    *end = count * (thread + 1) / threads;
    return count * thread / threads;
}

#endif
