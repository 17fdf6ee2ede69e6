/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What memory with PIM must refuse (isa/pimq.h): a good command with one thing wrong with it, for everything that can
 * be wrong, and registers used in ways that they are not for. The statuses are demanded by the contract's text; a
 * refused command must change no byte; after all of it a good command must still be done, with the right results.
 */
#include <stdint.h>

#include "isa/pimq.h"
#include "micro.h"

#ifdef GEMPIM_HAVE_PIMQ

enum { N = 40, K = 24, TOKENS = 2, SLOT = 3, FIRST_OF_QUEUE = 10, QUEUE = 16 };

static uint64_t space_bytes, bytes, row_bytes, window, spaces;
static uint64_t desc_at, inputs_at, results_at, weights_at;
static uint64_t tried;

static void put(uint64_t device_address, const void *from, uint64_t count) {
    void *to = gempim_pimq_pointer(device_address);
    memcpy(to, from, count);
    gempim_pimq_flush(to, count);
}

static struct gempim_pimq_desc good(void) {
    struct gempim_pimq_desc desc = {0};
    desc.magic = GEMPIM_PIMQ_MAGIC;
    desc.operation = GEMPIM_PIMQ_GEMM;
    desc.n = N;
    desc.k = K;
    desc.tokens = TOKENS;
    desc.spaces = 1;
    desc.inputs = inputs_at;
    desc.results = results_at;
    desc.weights[0] = weights_at;
    return desc;
}

/** Everything from the weights to the end of what the program uses of its window. */
static uint64_t fingerprint(void) {
    const unsigned char *at = (const unsigned char *)gempim_pimq_pointer(desc_at);
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    uint64_t i;
    gempim_pimq_flush(at, results_at + 4096 - desc_at);
    for (i = 0; i < results_at + 4096 - desc_at; ++i) {
        hash = (hash ^ at[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

static void expect(const char *what, uint64_t got, uint64_t wanted) {
    ++tried;
    if (got != wanted) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "%s: expected %" PRIu64 ", got %" PRIu64, what, wanted, got);
    }
}

static void refused(const char *what, struct gempim_pimq_desc desc, uint64_t wanted) {
    uint64_t before;
    put(desc_at, &desc, sizeof desc);
    before = fingerprint();
    gempim_pimq_ring(SLOT, desc_at);
    expect(what, gempim_pimq_finish(SLOT), wanted);
    expect("memory after a refusal", fingerprint(), before);
}

#define REFUSED(change, status)                                                                                        \
    do {                                                                                                               \
        struct gempim_pimq_desc desc = good();                                                                         \
        change;                                                                                                        \
        refused(#change, desc, status);                                                                                \
    } while (0)

static void descriptors(void) {
    unsigned i;
    REFUSED(desc.magic += 1, GEMPIM_PIMQ_ERR_VERSION);
    REFUSED(desc.magic = 0, GEMPIM_PIMQ_ERR_VERSION);
    for (i = 0; i < 3; ++i) {
        REFUSED(desc.reserved[i] = UINT64_C(1) << 63, GEMPIM_PIMQ_ERR_RESERVED);
    }
    REFUSED(desc.weights[1] = space_bytes, GEMPIM_PIMQ_ERR_RESERVED);
    REFUSED(desc.operation = 0, GEMPIM_PIMQ_ERR_OPERATION);
    REFUSED(desc.operation = 2, GEMPIM_PIMQ_ERR_OPERATION);
    REFUSED(desc.format = 2, GEMPIM_PIMQ_ERR_OPERATION);
    REFUSED(desc.split = 2, GEMPIM_PIMQ_ERR_OPERATION);
    REFUSED(desc.n = 0, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.k = 0, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.tokens = 0, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.n = GEMPIM_PIMQ_MAX_N + 1, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.k = UINT32_MAX, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.tokens = UINT32_MAX, GEMPIM_PIMQ_ERR_SHAPE);
    REFUSED(desc.inputs += 32, GEMPIM_PIMQ_ERR_ALIGNMENT);
    REFUSED(desc.results += 2, GEMPIM_PIMQ_ERR_ALIGNMENT);
    REFUSED(desc.weights[0] += row_bytes / 2, GEMPIM_PIMQ_ERR_ALIGNMENT);
    REFUSED(desc.inputs = bytes, GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED(desc.inputs = -UINT64_C(64), GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED(desc.results = bytes - 64, GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED(desc.weights[0] = bytes, GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED(desc.weights[0] = UINT64_MAX / row_bytes * row_bytes, GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED((desc.n = GEMPIM_PIMQ_MAX_N, desc.k = GEMPIM_PIMQ_MAX_K), GEMPIM_PIMQ_ERR_ADDRESS);
    REFUSED(desc.spaces = 0; desc.weights[0] = 0, GEMPIM_PIMQ_ERR_SPACE);
    REFUSED(desc.spaces = UINT32_MAX, GEMPIM_PIMQ_ERR_SPACE);
    REFUSED((desc.spaces = 2, desc.weights[1] = weights_at + row_bytes), GEMPIM_PIMQ_ERR_SPACE);
    REFUSED(desc.inputs = (inputs_at + space_bytes) % bytes, GEMPIM_PIMQ_ERR_SPACE);
    REFUSED(desc.results = (results_at + space_bytes) % bytes, GEMPIM_PIMQ_ERR_SPACE);
    REFUSED(desc.weights[0] = space_bytes - row_bytes; desc.n = (uint32_t)(row_bytes / K), GEMPIM_PIMQ_ERR_SPACE);
    REFUSED(desc.results = inputs_at, GEMPIM_PIMQ_ERR_OVERLAP);
    REFUSED(desc.results = desc_at + 64, GEMPIM_PIMQ_ERR_OVERLAP);
    REFUSED(desc.results = weights_at, GEMPIM_PIMQ_ERR_OVERLAP);
}

static void registers(void) {
    volatile uint32_t *const narrow = (volatile uint32_t *)(uintptr_t)GEMPIM_PIMQ_REGISTERS_AT;
    unsigned offset;
    gempim_pimq_ring(SLOT, desc_at + 64);
    expect("a descriptor that is not aligned", gempim_pimq_finish(SLOT), GEMPIM_PIMQ_ERR_ALIGNMENT);
    gempim_pimq_ring(SLOT, bytes);
    expect("a descriptor beyond the memory", gempim_pimq_finish(SLOT), GEMPIM_PIMQ_ERR_ADDRESS);
    gempim_pimq_ring(SLOT, -(uint64_t)GEMPIM_PIMQ_DESC_BYTES);
    expect("a descriptor at the end of the address space", gempim_pimq_finish(SLOT), GEMPIM_PIMQ_ERR_ADDRESS);
    expect("a slot that was never used", gempim_pimq_read(GEMPIM_PIMQ_REG_STATUS + 8), GEMPIM_PIMQ_EMPTY);
#ifndef GEMPIM_SOFTWARE_DEVICE
    expect("half a register", narrow[GEMPIM_PIMQ_REG_MAGIC / 4], 0);
    narrow[GEMPIM_PIMQ_REG_DOORBELL / 4 + 2] = 1;
    expect("half a doorbell", gempim_pimq_read(GEMPIM_PIMQ_REG_STATUS + 8), GEMPIM_PIMQ_EMPTY);
#else
    (void)narrow;
#endif
    gempim_pimq_write(GEMPIM_PIMQ_REG_MAGIC, 0);
    expect("a register that is read only", gempim_pimq_read(GEMPIM_PIMQ_REG_MAGIC), GEMPIM_PIMQ_MAGIC);
    for (offset = GEMPIM_PIMQ_REG_STACKS + 8; offset < GEMPIM_PIMQ_REG_DOORBELL; offset += 8) {
        expect("a register that does not exist", gempim_pimq_read(offset), 0);
    }
}

/**
 * All ones: every result is K. The second doorbell of the slot comes while its first command waits behind a queue of
 * others (so the program must be fast: with caches).
 */
static void a_good_one(void) {
    static uint16_t ones[N * K];
    const uint16_t *results = (const uint16_t *)gempim_pimq_pointer(results_at);
    struct gempim_pimq_desc desc = good();
    struct gempim_pimq_desc bad = desc;
    unsigned i;
    for (i = 0; i < N * K; ++i) {
        ones[i] = 0x3C00;
    }
    put(weights_at, ones, sizeof ones);
    put(inputs_at, ones, 2 * TOKENS * K);
    put(desc_at, &desc, sizeof desc);
    bad.magic = 0;
    put(desc_at + 128, &bad, sizeof bad);
    for (i = 0; i < QUEUE; ++i) {
        gempim_pimq_ring(FIRST_OF_QUEUE + i, desc_at);
    }
    gempim_pimq_ring(SLOT, desc_at);
    gempim_pimq_ring(SLOT, desc_at + 128);
    expect("a good command", gempim_pimq_finish(SLOT), GEMPIM_PIMQ_DONE);
    for (i = 0; i < QUEUE; ++i) {
        expect("a command before it", gempim_pimq_read((uint32_t)(GEMPIM_PIMQ_REG_STATUS + 8 * (FIRST_OF_QUEUE + i))),
               GEMPIM_PIMQ_DONE);
    }
    gempim_pimq_flush(results, 2 * N * TOKENS);
    for (i = 0; i < N * TOKENS; ++i) {
        expect("24 as FP16", results[i], 0x4E00);
    }
    expect("what follows the results", results[N * TOKENS], 0);
}

int main(int argc, char **argv) {
    const struct micro_option options[] = {micro_m5_option()};
    uint64_t first;
    micro_parse(argc, argv, "pim_fuzz", "[options]", options, sizeof options / sizeof options[0], NULL, 0);
    spaces = gempim_pimq_read(GEMPIM_PIMQ_REG_SPACES);
    bytes = gempim_pimq_read(GEMPIM_PIMQ_REG_BYTES);
    space_bytes = gempim_pimq_read(GEMPIM_PIMQ_REG_SPACE_BYTES);
    row_bytes = gempim_pimq_read(GEMPIM_PIMQ_REG_ROW_BYTES);
    window = gempim_pimq_read(GEMPIM_PIMQ_REG_WINDOW_BYTES);
    first = gempim_pimq_read(GEMPIM_PIMQ_REG_WINDOW_OFFSET);
    if (gempim_pimq_read(GEMPIM_PIMQ_REG_MAGIC) != GEMPIM_PIMQ_MAGIC) {
        micro_die(MICRO_EXIT_BAD_INPUT, "there is no PIM memory of version %u", GEMPIM_PIMQ_VERSION);
    }
    if (spaces < 2 || window < row_bytes + 4 * 4096) {
        micro_die(MICRO_EXIT_BAD_INPUT, "expected two memory spaces and a window of a row and four pages");
    }
    weights_at = first;
    desc_at = first + row_bytes;
    inputs_at = desc_at + 4096;
    results_at = inputs_at + 4096;
    micro_roi_begin();
    descriptors();
    registers();
    a_good_one();
    micro_roi_end("pim_fuzz");
    printf("%" PRIu64 " answers\n", tried);
    return 0;
}

#else

int main(int argc, char **argv) {
    (void)argc;
    (void)argv;
    micro_die(MICRO_EXIT_BAD_INPUT, "no PIM memory on this kind of machine");
}

#endif
