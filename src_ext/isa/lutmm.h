/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The contract between a guest program and the SRAM-PIM: one instruction, `lutmm`, and the command descriptor that it
 * points at. C and C++, header only; the device model, the gem5 plug-in and every guest program include this file.
 * README.md beside it draws the bits and states the rules.
 */
#ifndef GEMPIM_ISA_LUTMM_H
#define GEMPIM_ISA_LUTMM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Encoding ---------------------------------------------------------------------------------------------------------
 *
 * AArch64, in the unallocated top-level group (bits 28:25 = 0001):
 *
 *    31   29 28     25 24    21 20                    10 9     5 4     0
 *   +-------+---------+--------+------------------------+-------+-------+
 *   | 0 0 0 | 0 0 0 1 |  func  | 0 0 0 0 0 0 0 0 0 0 0  |  Xn   |  Xd   |
 *   +-------+---------+--------+------------------------+-------+-------+
 *
 * RISC-V, custom-0 (I-type): imm[11:0] = 0 | rs1 | funct3 = func | rd | 0001011
 */
#define GEMPIM_LUTMM_AARCH64_BASE 0x02000000u
#define GEMPIM_LUTMM_AARCH64_FUNC_SHIFT 21
#define GEMPIM_LUTMM_AARCH64_RN_SHIFT 5
#define GEMPIM_LUTMM_AARCH64_ZERO_MASK 0x001FFC00u
#define GEMPIM_LUTMM_RISCV_OPCODE 0x0Bu

/** The function field. Every other value is an illegal instruction. */
enum gempim_lutmm_func {
    GEMPIM_LUTMM_ISSUE = 0, /**< Xn: address of a descriptor.  Xd: a ticket > 0, or minus a status */
    GEMPIM_LUTMM_WAIT = 1,  /**< Xn: a ticket; 0: until another may be issued.  Xd: a status; on PENDING repeat */
    GEMPIM_LUTMM_QUERY = 2  /**< Xn: what (gempim_lutmm_query).  Xd: the value, or minus a status */
};

/* Descriptor -------------------------------------------------------------------------------------------------------*/

#define GEMPIM_LUTMM_VERSION 2u
#define GEMPIM_LUTMM_MAGIC (0x4C4D0000u | GEMPIM_LUTMM_VERSION) /* 'L' 'M', version */
#define GEMPIM_LUTMM_DESC_BYTES 64u

/**
 * results[m, n] = activations[m, k] . weights[n, k]^T
 *
 * Little-endian, 64 bytes, at a multiple of 64. Addresses are virtual; they are translated page by page when the
 * command is issued, with the rights of the issuing program. The memory must stay mapped until the command is done.
 */
struct gempim_lutmm_desc {
    uint32_t magic;             /**< GEMPIM_LUTMM_MAGIC */
    uint16_t weight_type;       /**< number of the ggml type; see GEMPIM_QUERY_WEIGHT_TYPES */
    uint16_t flags;             /**< gempim_lutmm_flags; the other bits are 0 */
    uint32_t m;                 /**< activation vectors */
    uint32_t n;                 /**< outputs: rows of weights */
    uint32_t k;                 /**< inner extent; a multiple of the weight type's block */
    uint32_t weight_stride;     /**< bytes from one row of weights to the next; transposed: from one column of blocks */
    uint32_t activation_stride; /**< bytes from one activation vector to the next */
    uint32_t result_stride;     /**< bytes from one row of results to the next */
    uint64_t weights;           /**< ggml blocks, multiple of 2 */
    uint64_t activations; /**< blocks of the type that ggml pairs with weight_type: q8_0, q8_1 or q8_K; multiple of 2 */
    uint64_t results;     /**< float32, multiple of 4; overlaps none of the other memory of the command */
    uint32_t status;      /**< written by the device when the command is done; the program sets it to PENDING */
    uint32_t reserved;    /**< 0 */
};

enum gempim_lutmm_flags {
    /**
     * Weights lie column of blocks after column of blocks: the first block of each of the n rows, then the second of
     * each, and so on. Slices that work on neighbouring rows then read neighbouring memory.
     */
    GEMPIM_LUTMM_TRANSPOSED = 1
};

/** Status of a command. An accepted command ends as DONE or ERR_MEMORY; the others are refusals at issue. */
enum gempim_lutmm_status {
    GEMPIM_STATUS_PENDING = 0,
    GEMPIM_STATUS_DONE = 1,
    GEMPIM_ERR_BUSY = 2,      /**< as many commands as may be outstanding are not done: wait for one */
    GEMPIM_ERR_ALIGNMENT = 3, /**< descriptor, an address or a stride */
    GEMPIM_ERR_VERSION = 4,   /**< magic or version */
    GEMPIM_ERR_RESERVED = 5,  /**< an unknown flag, or a reserved field that is not 0 */
    GEMPIM_ERR_TYPE = 6,      /**< weight type unknown, or its tables do not fit into the arrays */
    GEMPIM_ERR_SHAPE = 7,     /**< m, n or k is 0, too large, or no multiple of a block */
    GEMPIM_ERR_STRIDE = 8,    /**< a stride is smaller than its row, or its column of blocks */
    GEMPIM_ERR_ADDRESS = 9,   /**< a range runs past the end of the address space */
    GEMPIM_ERR_OVERLAP = 10,  /**< results overlap weights, activations or the descriptor */
    GEMPIM_ERR_TICKET = 11,   /**< no such ticket, or its status was read already */
    GEMPIM_ERR_QUERY = 12,    /**< no such query */
    GEMPIM_ERR_MEMORY = 13    /**< the memory system answered an access with an error */
};

enum gempim_lutmm_query {
    GEMPIM_QUERY_VERSION = 0,      /**< GEMPIM_LUTMM_VERSION */
    GEMPIM_QUERY_WEIGHT_TYPES = 1, /**< bit t set: weights of ggml type t are multiplied */
    GEMPIM_QUERY_MAX_M = 2,
    GEMPIM_QUERY_MAX_N = 3,
    GEMPIM_QUERY_MAX_K = 4,
    GEMPIM_QUERY_TICKETS = 5, /**< commands that may be outstanding */
    GEMPIM_QUERY_SLICES = 6   /**< LLC slices that compute */
};

#define GEMPIM_LUTMM_MAX_M 4096u
#define GEMPIM_LUTMM_MAX_N (1u << 20)
#define GEMPIM_LUTMM_MAX_K (1u << 20)

#ifdef __cplusplus
#define GEMPIM_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define GEMPIM_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

GEMPIM_STATIC_ASSERT(sizeof(struct gempim_lutmm_desc) == GEMPIM_LUTMM_DESC_BYTES, "the descriptor is one cache line");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, weight_type) == 4, "layout");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, m) == 8, "layout");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, weight_stride) == 20, "layout");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, weights) == 32, "layout");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, results) == 48, "layout");
GEMPIM_STATIC_ASSERT(offsetof(struct gempim_lutmm_desc, status) == 56, "layout");
GEMPIM_STATIC_ASSERT((GEMPIM_LUTMM_AARCH64_BASE >> 25 & 0xF) == 1, "the unallocated group of AArch64");

/* Guest side -------------------------------------------------------------------------------------------------------
 *
 * gempim_lutmm_issue, _wait and _query are the instruction itself. With GEMPIM_SOFTWARE_DEVICE they are functions of
 * the software device (the same models, no simulator), so that the same source runs on the build machine.
 */
#if defined(GEMPIM_SOFTWARE_DEVICE)

int64_t gempim_lutmm_issue(struct gempim_lutmm_desc *desc);
int64_t gempim_lutmm_wait(int64_t ticket);
int64_t gempim_lutmm_query(int64_t what);
#define GEMPIM_HAVE_LUTMM 1

#elif defined(__aarch64__)

#define GEMPIM_HAVE_LUTMM 1
#define GEMPIM_STRING_(x) #x
#define GEMPIM_STRING(x) GEMPIM_STRING_(x)
/* Xn = Xd = x0. The barrier before an issue makes the program's stores visible to the device, as for any device. */
#define GEMPIM_LUTMM_X0(func) ".inst " GEMPIM_STRING(0x02000000 | ((func) << 21))

static inline int64_t gempim_lutmm_issue(struct gempim_lutmm_desc *desc) {
    register uint64_t x0 __asm__("x0") = (uint64_t)desc;
    __asm__ volatile("dsb ish\n\t" GEMPIM_LUTMM_X0(0) : "+r"(x0) : : "memory");
    return (int64_t)x0;
}

static inline int64_t gempim_lutmm_wait(int64_t ticket) {
    register uint64_t x0 __asm__("x0") = (uint64_t)ticket;
    __asm__ volatile(GEMPIM_LUTMM_X0(1) : "+r"(x0) : : "memory");
    return (int64_t)x0;
}

static inline int64_t gempim_lutmm_query(int64_t what) {
    register uint64_t x0 __asm__("x0") = (uint64_t)what;
    __asm__ volatile(GEMPIM_LUTMM_X0(2) : "+r"(x0));
    return (int64_t)x0;
}

#endif

#ifdef GEMPIM_HAVE_LUTMM

/** Issue; while all tickets are in use sleep until one is free. @return a ticket > 0, or minus a status */
static inline int64_t gempim_lutmm_start(struct gempim_lutmm_desc *desc) {
    int64_t ticket;
    while ((ticket = gempim_lutmm_issue(desc)) == -(int64_t)GEMPIM_ERR_BUSY) {
        while (gempim_lutmm_wait(0) == GEMPIM_STATUS_PENDING) {
        }
    }
    return ticket;
}

/** Sleep until a command is done. @return its status */
static inline int64_t gempim_lutmm_finish(int64_t ticket) {
    int64_t status;
    while ((status = gempim_lutmm_wait(ticket)) == GEMPIM_STATUS_PENDING) {
    }
    return status;
}

#endif

#ifdef __cplusplus
}
#endif

#endif
