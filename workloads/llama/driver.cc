// SPDX-License-Identifier: BSD-3-Clause
// llama.cpp as a guest: a model, a prompt, greedy tokens; regions of interest for gem5. README.md says what it prints.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "ggml-cpu.h"
#include "llama.h"
#include "lutmm_backend.hh"
#include "options.hh"
#include "regions.hh"

namespace {

using namespace gempim::llama;

constexpr int kMicroBatch = 512; ///< llama.cpp's default

/** The last error that llama.cpp logged: it tells the reason of a failure only so. */
std::string g_last_error;

void keep_errors(ggml_log_level level, const char *text, void *) {
    static bool in_error = false;
    if (level != GGML_LOG_LEVEL_CONT) {
        in_error = level == GGML_LOG_LEVEL_ERROR;
    }
    if (in_error && *text != '\0' && std::strcmp(text, "\n") != 0) {
        g_last_error = text;
        while (!g_last_error.empty() && g_last_error.back() == '\n') {
            g_last_error.pop_back();
        }
        // The innermost reason comes first and the summaries after it.
        std::fprintf(stderr, "llama.cpp: %s\n", g_last_error.c_str());
    }
}

template <auto function> struct Free {
    template <class T> void operator()(T *it) const { function(it); }
};
using Model = std::unique_ptr<llama_model, Free<llama_model_free>>;
using Context = std::unique_ptr<llama_context, Free<llama_free>>;
using File = std::unique_ptr<std::FILE, Free<std::fclose>>;
using Threadpool = std::unique_ptr<ggml_threadpool, Free<ggml_threadpool_free>>;

std::string metadata(const llama_model *model, const char *key) {
    char value[256] = "";
    return llama_model_meta_val_str(model, key, value, sizeof value) < 0 ? "unknown" : value;
}

Model load_model(const Options &o) {
    struct stat file{};
    if (stat(o.model.c_str(), &file) != 0) {
        die(kExitBadInput, "--model %s: no such file", o.model.c_str());
    }
    if (!S_ISREG(file.st_mode)) {
        die(kExitBadInput, "--model %s: not a file", o.model.c_str());
    }
    llama_model_params params = llama_model_default_params();
    // Mapped, not read: weights that are repacked would be read into a vector that llama.cpp first fills with zeros, at
    // five instructions a byte, which is most of what a load takes in gem5.
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    // Weights for the device go into its own buffer type; repacked ones are for llama.cpp's own kernels.
    params.use_extra_bufts = !o.pim;
    params.n_gpu_layers = 0;
    Model model(llama_model_load_from_file(o.model.c_str(), params));
    if (!model) {
        die(kExitBadInput, "--model %s: llama.cpp cannot load it: %s", o.model.c_str(),
            g_last_error.empty() ? "no reason given" : g_last_error.c_str());
    }
    if (!llama_model_has_decoder(model.get()) || llama_model_has_encoder(model.get())) {
        die(kExitBadInput, "--model %s: expected a model that only decodes (architecture %s)", o.model.c_str(),
            metadata(model.get(), "general.architecture").c_str());
    }
    return model;
}

std::vector<llama_token> tokenize(const llama_vocab *vocab, const std::string &text) {
    const auto size = static_cast<std::int32_t>(text.size());
    std::vector<llama_token> tokens(text.size() + 8);
    const std::int32_t count =
        llama_tokenize(vocab, text.c_str(), size, tokens.data(), static_cast<std::int32_t>(tokens.size()), true, true);
    if (count <= 0) {
        die(kExitBadInput, "--prompt: the vocabulary makes no tokens of it");
    }
    tokens.resize(static_cast<std::size_t>(count));
    return tokens;
}

int context_size(const Options &o, const llama_model *model, int prompt) {
    // The last token is generated and not put in.
    const long need = static_cast<long>(prompt) + o.tokens - 1;
    const int trained = llama_model_n_ctx_train(model);
    if (o.context != 0 && need > o.context) {
        die(kExitBadInput, "--context %d: a prompt of %d tokens and %d more need %ld", o.context, prompt, o.tokens,
            need);
    }
    if (need > trained || o.context > trained) {
        die(kExitBadInput, "--%s: %ld tokens of context, the model was trained for %d",
            o.context > trained ? "context" : "prompt", std::max<long>(need, o.context), trained);
    }
    return o.context != 0 ? o.context : static_cast<int>(need);
}

Context make_context(const Options &o, llama_model *model, Regions &regions, int prompt) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<std::uint32_t>(context_size(o, model, prompt));
    params.n_batch = static_cast<std::uint32_t>(std::max(prompt, kMicroBatch));
    params.n_ubatch = kMicroBatch;
    params.n_threads = o.threads;
    params.n_threads_batch = o.threads;
    params.flash_attn_type = o.flash_attention;
    params.cb_eval = regions.callback();
    params.cb_eval_user_data = &regions;
    params.no_perf = true;
    Context context(llama_init_from_model(model, params));
    if (!context) {
        die(kExitFailed, "llama.cpp cannot make a context of %u tokens: %s", params.n_ctx, g_last_error.c_str());
    }
    return context;
}

Threadpool make_threads(const Options &o, llama_context *context) {
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (cores > 0 && o.threads > cores) {
        die(kExitBadInput, "--threads %d: this machine has %ld cores", o.threads, cores);
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(o.threads);
    Threadpool pool(ggml_threadpool_new(&params));
    if (!pool) {
        die(kExitFailed, "--threads %d: the threads cannot be made", o.threads);
    }
    llama_attach_threadpool(context, pool.get(), nullptr);
    set_threadpool(pool.get(), o.threads);
    return pool;
}

llama_token likeliest(const float *logits, int vocabulary) {
    return static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
}

std::string piece(const llama_vocab *vocab, llama_token token) {
    std::string out(32, '\0');
    std::int32_t size = llama_token_to_piece(vocab, token, out.data(), static_cast<std::int32_t>(out.size()), 0, true);
    if (size < 0) {
        out.resize(static_cast<std::size_t>(-size));
        size = llama_token_to_piece(vocab, token, out.data(), static_cast<std::int32_t>(out.size()), 0, true);
    }
    out.resize(static_cast<std::size_t>(std::max(size, 0)));
    return out;
}

/** Length of the UTF-8 sequence that begins there; 0 when none does. */
std::size_t utf8_length(const std::string &text, std::size_t at) {
    const auto first = static_cast<unsigned char>(text[at]);
    const std::size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    for (std::size_t i = 1; i < length; ++i) {
        if (at + i >= text.size() || (static_cast<unsigned char>(text[at + i]) & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

/** As a JSON string; a byte that is no UTF-8 becomes a lone surrogate U+DC80 to U+DCFF, as Python writes it. */
std::string json(const std::string &text) {
    std::string out = "\"";
    char code[8];
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const std::size_t length = utf8_length(text, i);
        if (length == 0 || byte < 0x20) {
            std::snprintf(code, sizeof code, "\\u%04x", length == 0 ? 0xDC00U + byte : byte);
            out += code;
            ++i;
        } else {
            out += byte == '"' || byte == '\\' ? "\\" : "";
            out.append(text, i, length);
            i += length;
        }
    }
    return out + '"';
}

void print_model(const Options &o, const llama_model *model, const std::vector<llama_token> &prompt) {
    const std::string file = o.model.substr(o.model.rfind('/') + 1);
    std::printf("model %s arch %s layers %d embedding %d vocab %d bytes %llu params %llu\n", file.c_str(),
                metadata(model, "general.architecture").c_str(), llama_model_n_layer(model), llama_model_n_embd(model),
                llama_vocab_n_tokens(llama_model_get_vocab(model)),
                static_cast<unsigned long long>(llama_model_size(model)),
                static_cast<unsigned long long>(llama_model_n_params(model)));
    std::printf("prompt %zu", prompt.size());
    for (const llama_token token : prompt) {
        std::printf(" %d", token);
    }
    std::putchar('\n');
}

File open_logits(const Options &o) {
    if (o.logits.empty()) {
        return nullptr;
    }
    File file(std::fopen(o.logits.c_str(), "wb"));
    if (!file) {
        die(kExitBadInput, "--logits %s: cannot be written", o.logits.c_str());
    }
    return file;
}

/** The passes through the model. @return the generated tokens */
std::vector<llama_token> generate(const Options &o, llama_model *model, llama_context *context, Regions &regions,
                                  std::vector<llama_token> input) {
    const llama_vocab *vocab = llama_model_get_vocab(model);
    const int vocabulary = llama_vocab_n_tokens(vocab);
    const File logits_file = open_logits(o);
    std::vector<llama_token> tokens;
    const int last = o.stop_after_pass >= 0 ? o.stop_after_pass : o.tokens - 1;
    for (int pass = 0; pass <= last; ++pass) {
        const std::uint64_t started = regions.now_ns();
        regions.begin_pass(pass == 0 ? "prefill" : "decode " + std::to_string(pass - 1));
        const int status =
            llama_decode(context, llama_batch_get_one(input.data(), static_cast<std::int32_t>(input.size())));
        llama_synchronize(context);
        const bool parts = regions.end_pass(llama_model_n_layer(model));
        const std::uint64_t ns = regions.now_ns() - started;
        if (status != 0) {
            die(kExitFailed, "pass %d: llama.cpp fails with %d: %s", pass, status, g_last_error.c_str());
        }
        if (!parts) {
            die(kExitBadInput, "--roi layer: the graph of architecture %s has no tensors embd and l_out-N per layer",
                metadata(model, "general.architecture").c_str());
        }
        const float *logits = llama_get_logits_ith(context, -1);
        if (logits_file) {
            std::fwrite(logits, sizeof *logits, static_cast<std::size_t>(vocabulary), logits_file.get());
        }
        const llama_token token = likeliest(logits, vocabulary);
        std::printf("pass %d tokens %zu ns %llu\ntoken %d %d\n", pass, input.size(),
                    static_cast<unsigned long long>(ns), pass, token);
        tokens.push_back(token);
        if (!o.ignore_end && llama_vocab_is_eog(vocab, token)) {
            break;
        }
        input.assign(1, token);
    }
    if (logits_file && (std::fflush(logits_file.get()) != 0 || std::ferror(logits_file.get()) != 0)) {
        die(kExitFailed, "--logits %s: cannot be written", o.logits.c_str());
    }
    return tokens;
}

} // namespace

int main(int argc, char **argv) {
    const Options options = parse_options(argc, argv);
    // A line at a time: a simulation may be ended between two regions.
    std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
    llama_log_set(keep_errors, nullptr);
    Regions regions(options.split, options.m5);
    regions.begin("load");
    if (options.pim) {
        ggml_backend_register(lutmm_reg());
    }
    llama_backend_init();
    const Model model = load_model(options);
    const llama_vocab *vocab = llama_model_get_vocab(model.get());
    const std::vector<llama_token> prompt = tokenize(vocab, options.prompt);
    const int prompt_size = static_cast<int>(prompt.size());
    if (options.split == Split::layer && prompt_size > kMicroBatch) {
        die(kExitBadInput, "--roi layer: a prompt of %d tokens is computed in several parts; expected at most %d",
            prompt_size, kMicroBatch);
    }
    const Context context = make_context(options, model.get(), regions, prompt_size);
    const Threadpool threads = make_threads(options, context.get());
    print_model(options, model.get(), prompt);
    wake_threadpool();
    regions.end();
    const std::vector<llama_token> tokens = generate(options, model.get(), context.get(), regions, prompt);
    for (const ProductCount &count : product_counts()) {
        std::printf("product %s %s commands %llu macs %llu weight_bytes %llu\n", count.name.c_str(), count.type.c_str(),
                    static_cast<unsigned long long>(count.commands), static_cast<unsigned long long>(count.macs),
                    static_cast<unsigned long long>(count.weight_bytes));
    }
    std::string text;
    for (const llama_token token : tokens) {
        text += piece(vocab, token);
    }
    std::printf("text %s\n", json(text).c_str());
    regions.leave();
    llama_detach_threadpool(context.get());
    return 0;
}
