/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The contract between a guest program and PIM memory (Logic-PIM): a page of registers with a doorbell, and the command
 * descriptor that a doorbell points at. C and C++, header only; the device model, the gem5 plug-in and every guest
 * program include this file. README.md beside it states the rules.
 */
#ifndef GEMPIM_ISA_PIMQ_H
#define GEMPIM_ISA_PIMQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Registers --------------------------------------------------------------------------------------------------------
 *
 * One page; every register has 64 bits and is read and written whole. All but the doorbells are read only. Device
 * addresses are byte offsets from the start of the PIM memory.
 */
#define GEMPIM_PIMQ_PAGE_BYTES 4096u
#define GEMPIM_PIMQ_SLOTS 64u

enum gempim_pimq_register {
    GEMPIM_PIMQ_REG_MAGIC = 0x00,         /**< GEMPIM_PIMQ_MAGIC */
    GEMPIM_PIMQ_REG_BYTES = 0x08,         /**< the whole memory */
    GEMPIM_PIMQ_REG_SPACES = 0x10,        /**< memory spaces: each is one bank bundle of every pseudo-channel */
    GEMPIM_PIMQ_REG_SPACE_BYTES = 0x18,   /**< space s is [s, s + 1) times this */
    GEMPIM_PIMQ_REG_ROW_BYTES = 0x20,     /**< one row of a space over all pseudo-channels */
    GEMPIM_PIMQ_REG_WINDOW_OFFSET = 0x28, /**< of every space, programs have these bytes for themselves: from here... */
    GEMPIM_PIMQ_REG_WINDOW_BYTES = 0x30,  /**< ...so many */
    GEMPIM_PIMQ_REG_STACKS = 0x38,        /**< HBM stacks */
    GEMPIM_PIMQ_REG_DOORBELL = 0x400,     /**< + 8 * slot; write: device address of a descriptor */
    GEMPIM_PIMQ_REG_STATUS = 0x800        /**< + 8 * slot; read: gempim_pimq_status of the slot's last command */
};

/* Descriptor -------------------------------------------------------------------------------------------------------*/

#define GEMPIM_PIMQ_VERSION 1u
#define GEMPIM_PIMQ_MAGIC (0x50510000u | GEMPIM_PIMQ_VERSION) /* 'P' 'Q', version */
#define GEMPIM_PIMQ_DESC_BYTES 128u
#define GEMPIM_PIMQ_OPERAND_ALIGNMENT 64u /* of inputs and results: one cache line */
#define GEMPIM_PIMQ_MAX_SPACES 8u

enum gempim_pimq_operation {
    GEMPIM_PIMQ_GEMM = 1 /**< results[tokens, n] = inputs[tokens, k] . weights[n, k]^T */
};

enum gempim_pimq_format { GEMPIM_PIMQ_FP16 = 0, GEMPIM_PIMQ_BF16 = 1 };

/** What the stacks share. */
enum gempim_pimq_split {
    GEMPIM_PIMQ_SPLIT_N = 0, /**< each stack has outputs of its own */
    GEMPIM_PIMQ_SPLIT_K = 1  /**< each stack has a part of every sum */
};

/**
 * Little-endian, 128 bytes, at a multiple of 128. Matrices are row-major, without gaps; addresses are device addresses.
 * The device reads the descriptor when the doorbell is rung, inputs and weights until the command is done.
 */
struct gempim_pimq_desc {
    uint32_t magic;     /**< GEMPIM_PIMQ_MAGIC */
    uint16_t operation; /**< gempim_pimq_operation */
    uint8_t format;     /**< gempim_pimq_format, of inputs, weights and results */
    uint8_t split;      /**< gempim_pimq_split */
    uint32_t n;         /**< outputs: rows of weights */
    uint32_t k;         /**< inner extent */
    uint32_t tokens;    /**< input vectors */
    uint32_t spaces;    /**< memory spaces that hold the weights: so many of `weights` are used */
    uint64_t inputs;    /**< multiple of 64, in one of those spaces */
    uint64_t results;   /**< multiple of 64, in one of those spaces; overlaps none of the other memory of the command */
    uint64_t weights[GEMPIM_PIMQ_MAX_SPACES]; /**< multiples of ROW_BYTES, each in another space; others are 0.
                                                  The matrix's bytes go in pieces of ROW_BYTES to the spaces in turn */
    uint64_t reserved[3];                     /**< 0 */
};

/** Status of a slot. */
enum gempim_pimq_status {
    GEMPIM_PIMQ_EMPTY = 0, /**< no command was given here yet */
    GEMPIM_PIMQ_DONE = 1,  /**< its results are in memory */
    GEMPIM_PIMQ_PENDING = 2,
    /* Refusals: the command has changed nothing. In the order of the checks. */
    GEMPIM_PIMQ_ERR_ALIGNMENT = 3, /**< descriptor, inputs, results or weights */
    GEMPIM_PIMQ_ERR_ADDRESS = 4,   /**< something lies outside the PIM memory */
    GEMPIM_PIMQ_ERR_VERSION = 5,   /**< magic or version */
    GEMPIM_PIMQ_ERR_RESERVED = 6,  /**< a reserved field, or an unused entry of weights, is not 0 */
    GEMPIM_PIMQ_ERR_OPERATION = 7, /**< operation, format or split unknown */
    GEMPIM_PIMQ_ERR_SHAPE = 8,     /**< n, k or tokens is 0 or too large, or does not fit the stacks' buffers */
    GEMPIM_PIMQ_ERR_SPACE = 9,     /**< weights in no, too many or equal spaces, beyond the end of one, or inputs or
                                        results in another space or in two */
    GEMPIM_PIMQ_ERR_OVERLAP = 10   /**< results overlap inputs, weights or the descriptor */
};

#define GEMPIM_PIMQ_MAX_N (1u << 20)
#define GEMPIM_PIMQ_MAX_K (1u << 20)
#define GEMPIM_PIMQ_MAX_TOKENS 4096u

#ifdef __cplusplus
#define GEMPIM_PIMQ_ASSERT(condition, text) static_assert(condition, text)
#else
#define GEMPIM_PIMQ_ASSERT(condition, text) _Static_assert(condition, text)
#endif

GEMPIM_PIMQ_ASSERT(sizeof(struct gempim_pimq_desc) == GEMPIM_PIMQ_DESC_BYTES, "the descriptor is two cache lines");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, format) == 6, "layout");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, n) == 8, "layout");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, spaces) == 20, "layout");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, inputs) == 24, "layout");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, weights) == 40, "layout");
GEMPIM_PIMQ_ASSERT(offsetof(struct gempim_pimq_desc, reserved) == 104, "layout");
GEMPIM_PIMQ_ASSERT(GEMPIM_PIMQ_REG_STATUS + 8 * GEMPIM_PIMQ_SLOTS <= GEMPIM_PIMQ_PAGE_BYTES, "one page");

/* Guest side -------------------------------------------------------------------------------------------------------
 *
 * In gem5's syscall emulation run.py maps the registers and the windows of the spaces to fixed virtual addresses: there
 * is no driver to ask. With GEMPIM_SOFTWARE_DEVICE the same functions reach the software device (the same models, no
 * simulator), so that the same source runs on the build machine.
 */
#define GEMPIM_PIMQ_REGISTERS_AT UINT64_C(0x5000000000)
#define GEMPIM_PIMQ_MEMORY_AT UINT64_C(0x5100000000) /* + device address */

#if defined(GEMPIM_SOFTWARE_DEVICE)

uint64_t gempim_pimq_read(uint32_t offset);
void gempim_pimq_write(uint32_t offset, uint64_t value);
/** Where the program finds a device address within a window. */
void *gempim_pimq_pointer(uint64_t device_address);
static inline void gempim_pimq_flush(const void *first, uint64_t bytes) {
    (void)first;
    (void)bytes;
}
#define GEMPIM_HAVE_PIMQ 1

#elif defined(__aarch64__)

static inline uint64_t gempim_pimq_read(uint32_t offset) {
    const uint64_t value = *(const volatile uint64_t *)(uintptr_t)(GEMPIM_PIMQ_REGISTERS_AT + offset);
    /* What is read afterwards from memory is what the device had written by then. */
    __asm__ volatile("dsb sy" : : : "memory");
    return value;
}

static inline void gempim_pimq_write(uint32_t offset, uint64_t value) {
    /* The program's stores and flushes are over when the device hears of them. */
    __asm__ volatile("dsb sy" : : : "memory");
    *(volatile uint64_t *)(uintptr_t)(GEMPIM_PIMQ_REGISTERS_AT + offset) = value;
    /* It has arrived before a register is read. */
    __asm__ volatile("dsb sy" : : : "memory");
}

static inline void *gempim_pimq_pointer(uint64_t device_address) {
    return (void *)(uintptr_t)(GEMPIM_PIMQ_MEMORY_AT + device_address);
}

/** Write lines back to memory and drop them from the caches: the device does not look into caches. */
static inline void gempim_pimq_flush(const void *first, uint64_t bytes) {
    uintptr_t line = (uintptr_t)first & ~(uintptr_t)63;
    for (; line < (uintptr_t)first + bytes; line += 64) {
        __asm__ volatile("dc civac, %0" : : "r"(line) : "memory");
    }
    __asm__ volatile("dsb sy" : : : "memory");
}
#define GEMPIM_HAVE_PIMQ 1

#endif

#ifdef GEMPIM_HAVE_PIMQ

/** Give a command to a slot that is not PENDING; `desc` lies at that device address and is flushed. */
static inline void gempim_pimq_ring(unsigned slot, uint64_t desc) {
    gempim_pimq_write(GEMPIM_PIMQ_REG_DOORBELL + 8 * slot, desc);
}

/** Ask until the slot's command is done. @return its status */
static inline uint64_t gempim_pimq_finish(unsigned slot) {
    uint64_t status;
    while ((status = gempim_pimq_read(GEMPIM_PIMQ_REG_STATUS + 8 * slot)) == GEMPIM_PIMQ_PENDING) {
    }
    return status;
}

#endif

#ifdef __cplusplus
}
#endif

#endif
