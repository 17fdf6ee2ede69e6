// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "llama.h"
#include "regions.hh"

namespace gempim::llama {

constexpr int kExitBadInput = 2;
constexpr int kExitFailed = 1;

/** What the program is asked for. */
struct Options {
    std::string model;
    std::string prompt;
    int tokens = 0;
    int threads = 1;
    int context = 0; ///< 0: what prompt and tokens need
    bool pim = false;
    Split split = Split::pass;
    int stop_after_pass = -1; ///< -1: all
    llama_flash_attn_type flash_attention = LLAMA_FLASH_ATTN_TYPE_AUTO;
    bool ignore_end = false;
    bool m5 = false;
    std::string logits; ///< file for the logits of every pass; empty: none
};

/** Print one line and end the program with that status. */
[[noreturn]] __attribute__((format(printf, 2, 3))) void die(int status, const char *format, ...);

/** Ends the program with one line for a wrong option, and after --help. */
Options parse_options(int argc, char **argv);

} // namespace gempim::llama
