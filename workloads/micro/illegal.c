/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What must not work: an instruction word of lutmm's group with any function and zero field, and a command or a load
 * of memory that is not mapped. The program ends by the signal that the fault gives; if it does not, it says so.
 */
#include <stdint.h>

#include "isa/lutmm.h"
#include "micro.h"

#if defined(__aarch64__)
/* All 32768 words of the group with Xn = Xd = x0, each followed by a return: nothing writes code while it runs. */
__asm__(".text\n"
        ".balign 64\n"
        "illegal_words:\n"
        ".set illegal_field, 0\n"
        ".rept 32768\n"
        ".inst 0x02000000 | (illegal_field << 10)\n"
        "ret\n"
        ".set illegal_field, illegal_field + 1\n"
        ".endr\n");
extern const char illegal_words[];

static uint64_t run_word(uint64_t word, uint64_t argument) {
    typedef uint64_t (*stub)(uint64_t);
    const uintptr_t at = (uintptr_t)illegal_words + ((word >> 10) & 32767) * 8;
    return ((stub)at)(argument);
}
#endif

static void issue_with_weights_at(uint64_t address) {
    /* q4_0, one output of one block: 18 bytes of weights, 34 of activations. */
    struct gempim_lutmm_desc *desc = (struct gempim_lutmm_desc *)micro_alloc(sizeof *desc);
    unsigned char *activations = (unsigned char *)micro_alloc(34);
    float *results = (float *)micro_alloc(sizeof *results);
    int64_t answer;
    desc->magic = GEMPIM_LUTMM_MAGIC;
    desc->weight_type = 2;
    desc->m = desc->n = 1;
    desc->k = 32;
    desc->weight_stride = 18;
    desc->activation_stride = 34;
    desc->result_stride = 4;
    desc->weights = address;
    desc->activations = (uintptr_t)activations;
    desc->results = (uintptr_t)results;
    answer = gempim_lutmm_start(desc);
    printf("the device answers %" PRId64 "\n", answer);
    if (answer > 0) {
        printf("the command ends as %" PRId64 "\n", gempim_lutmm_finish(answer));
    }
}

int main(int argc, char **argv) {
    uint64_t word = 0;
    uint64_t argument = 0;
    uint64_t address = 4096; /* below every program */
    int unmapped = 0;
    int load_unmapped = 0;
    const struct micro_option options[] = {
        micro_number("--word", &word, 0, UINT32_MAX, "execute this instruction word, 0x02000000 to 0x03FFFC00"),
        micro_number("--argument", &argument, 0, UINT64_MAX, "what x0 holds at that instruction"),
        micro_flag("--unmapped", &unmapped, "issue a command whose weights are not mapped"),
        micro_flag("--load-unmapped", &load_unmapped, "load from there"),
        micro_number("--address", &address, 0, UINT64_MAX - 1, "of what is not mapped, even"),
        micro_m5_option(),
    };
    micro_parse(argc, argv, "illegal", "--word N | --unmapped | --load-unmapped [options]", options,
                sizeof options / sizeof options[0], NULL, 0);
    if ((word != 0) + unmapped + load_unmapped != 1) {
        micro_die(MICRO_EXIT_BAD_INPUT, "expected one of --word, --unmapped and --load-unmapped");
    }
    if (address % 2 != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--address %" PRIu64 ": expected an even number", address);
    }
    if (word != 0) {
        if ((word & ~UINT64_C(0x01FFFC00)) != GEMPIM_LUTMM_AARCH64_BASE) {
            micro_die(MICRO_EXIT_BAD_INPUT,
                      "--word 0x%" PRIx64 ": expected 0x02000000 to 0x03FFFC00 with bits 9 to 0 clear (x0, x0)", word);
        }
#if defined(__aarch64__)
        printf("0x%08" PRIx64 " runs\n", word);
        fflush(stdout);
        printf("x0 = %" PRId64 "\n", (int64_t)run_word(word, argument));
#else
        micro_die(MICRO_EXIT_BAD_INPUT, "--word: this build has no such instructions");
#endif
    } else if (unmapped) {
        issue_with_weights_at(address);
    } else {
        printf("loaded %d\n", *(const volatile unsigned char *)(uintptr_t)address);
    }
    return 0;
}
