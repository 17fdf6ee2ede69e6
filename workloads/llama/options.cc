// SPDX-License-Identifier: BSD-3-Clause
#include "options.hh"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>

namespace gempim::llama {

namespace {

constexpr const char *kHelp = R"(usage: llama --model FILE --prompt TEXT --tokens N [options]
Generate N tokens, each the likeliest, after the prompt.
  --model FILE          a GGUF file
  --prompt TEXT         tokenised by the model's own vocabulary
  --tokens N            tokens to generate
  --threads N           threads of llama.cpp's CPU backend (default 1)
  --context N           tokens that the KV cache holds (default: what prompt and tokens need)
  --device cpu|lutmm    who multiplies quantised matrices (default cpu, with llama.cpp's repacked kernels)
  --roi pass|layer|operator   regions of interest (default pass)
  --stop-after-pass N   end after this pass; 0 is the prompt (default: all passes)
  --flash-attn auto|on|off    as in llama.cpp (default auto)
  --ignore-eos          go on after an end-of-generation token
  --logits FILE         write the logits after each pass there, as float32
  --m5                  the program runs in gem5: use its magic operations
)";

long number(std::string_view option, const char *text, long least, long most) {
    char *end = nullptr;
    errno = 0;
    const long value = std::strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most) {
        die(kExitBadInput, "%s %s: expected a whole number from %ld to %ld", option.data(), text, least, most);
    }
    return value;
}

template <class Value>
Value choice(std::string_view option, const char *text, const std::map<std::string_view, Value> &allowed) {
    const auto found = allowed.find(text);
    if (found == allowed.end()) {
        std::string names;
        for (const auto &[name, value] : allowed) {
            names += (names.empty() ? "" : ", ") + std::string(name);
        }
        die(kExitBadInput, "%s %s: expected one of %s", option.data(), text, names.c_str());
    }
    return found->second;
}

} // namespace

void die(int status, const char *format, ...) {
    std::va_list args;
    std::fflush(stdout);
    std::fputs("llama: ", stderr);
    va_start(args, format);
    std::vfprintf(stderr, format, args);
    va_end(args);
    std::fputc('\n', stderr);
    // Not exit(): worker threads may be running, and in gem5 none can be joined after a restored checkpoint.
    std::_Exit(status);
}

Options parse_options(int argc, char **argv) {
    constexpr int kMost = 1 << 20;
    Options o;
    bool prompt = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view option = argv[i];
        if (option == "--help") {
            std::fputs(kHelp, stdout);
            std::exit(0);
        }
        if (option == "--m5") {
            o.m5 = true;
            continue;
        }
        if (option == "--ignore-eos") {
            o.ignore_end = true;
            continue;
        }
        static constexpr std::string_view with_value[] = {
            "--model",  "--prompt", "--tokens",          "--threads",    "--context",
            "--device", "--roi",    "--stop-after-pass", "--flash-attn", "--logits",
        };
        bool known = false;
        for (const std::string_view name : with_value) {
            known = known || name == option;
        }
        if (!known) {
            die(kExitBadInput, "%s: no such option; --help lists them", argv[i]);
        }
        if (i + 1 == argc) {
            die(kExitBadInput, "%s: expected a value after it", argv[i]);
        }
        const char *value = argv[++i];
        if (option == "--model") {
            o.model = value;
        } else if (option == "--prompt") {
            o.prompt = value;
            prompt = true;
        } else if (option == "--logits") {
            o.logits = value;
        } else if (option == "--tokens") {
            o.tokens = static_cast<int>(number(option, value, 1, kMost));
        } else if (option == "--threads") {
            o.threads = static_cast<int>(number(option, value, 1, 512));
        } else if (option == "--context") {
            o.context = static_cast<int>(number(option, value, 1, kMost));
        } else if (option == "--stop-after-pass") {
            o.stop_after_pass = static_cast<int>(number(option, value, 0, kMost));
        } else if (option == "--device") {
            o.pim = choice<bool>(option, value, {{"cpu", false}, {"lutmm", true}});
        } else if (option == "--roi") {
            o.split = choice<Split>(option, value,
                                    {{"pass", Split::pass}, {"layer", Split::layer}, {"operator", Split::operation}});
        } else {
            o.flash_attention = choice<llama_flash_attn_type>(option, value,
                                                              {{"auto", LLAMA_FLASH_ATTN_TYPE_AUTO},
                                                               {"on", LLAMA_FLASH_ATTN_TYPE_ENABLED},
                                                               {"off", LLAMA_FLASH_ATTN_TYPE_DISABLED}});
        }
    }
    if (o.model.empty()) {
        die(kExitBadInput, "--model FILE is missing: a GGUF file");
    }
    if (!prompt || o.prompt.empty()) {
        die(kExitBadInput, "--prompt TEXT is missing or empty");
    }
    if (o.tokens == 0) {
        die(kExitBadInput, "--tokens N is missing");
    }
    if (o.stop_after_pass >= o.tokens) {
        die(kExitBadInput, "--stop-after-pass %d: %d tokens take the passes 0 to %d", o.stop_after_pass, o.tokens,
            o.tokens - 1);
    }
    return o;
}

} // namespace gempim::llama
