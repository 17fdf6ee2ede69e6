/* SPDX-License-Identifier: BSD-3-Clause
 *
 * gem5's magic operations by instruction, without gem5's own library. C and C++, header only.
 *
 * AArch64: the word 0xFF000110 | function << 16, arguments from x0 on, result in x0. Function numbers:
 * gem5/asm/generic/m5ops.h. Outside gem5 the word is an illegal instruction, so nothing is executed until the program
 * has set gempim_m5_enabled (its option --m5); a program for another machine than AArch64 holds no such word at all.
 */
#ifndef GEMPIM_MICRO_M5OPS_H
#define GEMPIM_MICRO_M5OPS_H

#include <stdint.h>

/** Whether the program runs in gem5. One variable a program: include this file in the main source file only. */
static int gempim_m5_enabled = 0;

#define GEMPIM_M5_EXIT 0x21
#define GEMPIM_M5_FAIL 0x22
#define GEMPIM_M5_RESET_STATS 0x40
#define GEMPIM_M5_DUMP_STATS 0x41
#define GEMPIM_M5_DUMP_RESET_STATS 0x42
#define GEMPIM_M5_CHECKPOINT 0x43
#define GEMPIM_M5_WORK_BEGIN 0x5a
#define GEMPIM_M5_WORK_END 0x5b
#define GEMPIM_M5_RPNS 0x07
#define GEMPIM_M5_QUIESCE 0x01

#if defined(__aarch64__)
#define GEMPIM_M5_TEXT_(x) #x
#define GEMPIM_M5_TEXT(x) GEMPIM_M5_TEXT_(x)
#define GEMPIM_M5_DEFINE_(name, func)                                                                                  \
    static inline uint64_t name(uint64_t first, uint64_t second) {                                                     \
        if (!gempim_m5_enabled) {                                                                                      \
            return 0;                                                                                                  \
        }                                                                                                              \
        register uint64_t x0 __asm__("x0") = first;                                                                    \
        register uint64_t x1 __asm__("x1") = second;                                                                   \
        __asm__ volatile(".inst 0xFF000110 | (" GEMPIM_M5_TEXT(func) " << 16)" : "+r"(x0) : "r"(x1) : "memory");       \
        return x0;                                                                                                     \
    }
#else
#define GEMPIM_M5_DEFINE_(name, func)                                                                                  \
    static inline uint64_t name(uint64_t first, uint64_t second) {                                                     \
        (void)first;                                                                                                   \
        (void)second;                                                                                                  \
        return 0;                                                                                                      \
    }
#endif

GEMPIM_M5_DEFINE_(gempim_m5_exit_, GEMPIM_M5_EXIT)
GEMPIM_M5_DEFINE_(gempim_m5_fail_, GEMPIM_M5_FAIL)
GEMPIM_M5_DEFINE_(gempim_m5_reset_stats_, GEMPIM_M5_RESET_STATS)
GEMPIM_M5_DEFINE_(gempim_m5_dump_stats_, GEMPIM_M5_DUMP_STATS)
GEMPIM_M5_DEFINE_(gempim_m5_dump_reset_stats_, GEMPIM_M5_DUMP_RESET_STATS)
GEMPIM_M5_DEFINE_(gempim_m5_checkpoint_, GEMPIM_M5_CHECKPOINT)
GEMPIM_M5_DEFINE_(gempim_m5_work_begin_, GEMPIM_M5_WORK_BEGIN)
GEMPIM_M5_DEFINE_(gempim_m5_work_end_, GEMPIM_M5_WORK_END)
GEMPIM_M5_DEFINE_(gempim_m5_rpns_, GEMPIM_M5_RPNS)
GEMPIM_M5_DEFINE_(gempim_m5_quiesce_, GEMPIM_M5_QUIESCE)

/** End the simulation, now. */
static inline void gempim_m5_exit(void) {
    gempim_m5_exit_(0, 0);
}
/** End the simulation, now, as a failure with that code. */
static inline void gempim_m5_fail(uint64_t code) {
    gempim_m5_fail_(0, code);
}
static inline void gempim_m5_reset_stats(void) {
    gempim_m5_reset_stats_(0, 0);
}
static inline void gempim_m5_dump_stats(void) {
    gempim_m5_dump_stats_(0, 0);
}
static inline void gempim_m5_dump_reset_stats(void) {
    gempim_m5_dump_reset_stats_(0, 0);
}
static inline void gempim_m5_checkpoint(void) {
    gempim_m5_checkpoint_(0, 0);
}
static inline void gempim_m5_work_begin(uint64_t work, uint64_t thread) {
    gempim_m5_work_begin_(work, thread);
}
static inline void gempim_m5_work_end(uint64_t work, uint64_t thread) {
    gempim_m5_work_end_(work, thread);
}
/** Put this core to sleep until something wakes it. */
static inline void gempim_m5_quiesce(void) {
    gempim_m5_quiesce_(0, 0);
}
/** Simulated time [ns]; 0 outside gem5. */
static inline uint64_t gempim_m5_rpns(void) {
    return gempim_m5_rpns_(0, 0);
}

#endif
