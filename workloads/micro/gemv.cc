// SPDX-License-Identifier: BSD-3-Clause
// results[m, n] = activations[m, k] . weights[n, k]^T with random weights of a ggml type, timed on one of three paths:
//   lutmm   the instruction: --commands threads issue one command each for their share of the n rows
//   neon    llama.cpp's own kernels, ggml_vec_dot_<type>_<activation type>, tiled 16 x 16 as its CPU back end does
//   scalar  plain loops over decoded blocks: a readable reference, no baseline
// A region of interest holds one product with everything that it needs: each thread quantises its share of the
// activations (with llama.cpp's own quantiser where it is linked, else with its reference rounding), all meet, each
// computes its share.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <string_view>
#include <vector>

#include "blocks.hh"
#include "isa/lutmm.h"
#include "micro.h"
#include "models/ggml/formats.hh"
#include "models/ggml/fp16.hh"
#include "status_name.hh"
#ifdef GEMPIM_HAVE_GGML
#include "quants.h"
#endif

namespace {

using namespace gempim;
using namespace gempim::micro;

using Quantize = void (*)(const float *x, void *blocks, std::int64_t k);
using VecDot = void (*)(int n, float *s, std::size_t bs, const void *x, std::size_t bx, const void *y, std::size_t by,
                        int nrc);

struct Kernels {
    Quantize quantize = nullptr; ///< null: the reference rounding
    VecDot vec_dot = nullptr;    ///< null: not in this build
};

Kernels kernels_of(const WeightType &type) {
#ifdef GEMPIM_HAVE_GGML
    switch (type.number) {
    case 2:
        return {quantize_row_q8_0, ggml_vec_dot_q4_0_q8_0};
    case 3:
        return {quantize_row_q8_1, ggml_vec_dot_q4_1_q8_1};
    case 6:
        return {quantize_row_q8_0, ggml_vec_dot_q5_0_q8_0};
    case 7:
        return {quantize_row_q8_1, ggml_vec_dot_q5_1_q8_1};
    case 8:
        return {quantize_row_q8_0, ggml_vec_dot_q8_0_q8_0};
    case 10:
        return {quantize_row_q8_K, ggml_vec_dot_q2_K_q8_K};
    case 11:
        return {quantize_row_q8_K, ggml_vec_dot_q3_K_q8_K};
    case 12:
        return {quantize_row_q8_K, ggml_vec_dot_q4_K_q8_K};
    case 13:
        return {quantize_row_q8_K, ggml_vec_dot_q5_K_q8_K};
    case 14:
        return {quantize_row_q8_K, ggml_vec_dot_q6_K_q8_K};
    default:
        break;
    }
#endif
    (void)type;
    return {};
}

struct Problem {
    const WeightType *type;
    Kernels kernels;
    std::uint64_t m;
    std::uint64_t n;
    std::uint64_t k;
    std::uint64_t row_bytes;
    std::uint64_t activation_row_bytes;
    std::uint8_t *weights;
    std::uint8_t *transposed; ///< the same blocks, column after column; null: the device takes rows
    float *x;
    std::uint8_t *activations;
    unsigned commands;              ///< that the product is split into; at most one a thread
    gempim_lutmm_desc *descriptors; ///< one a thread
    float *results;                 ///< of the current repetition
    std::int64_t status[MICRO_MAX_THREADS];
};

/** This thread's share of the blocks of every row, as llama.cpp splits them; then wait for the others. */
void quantize_share(const Problem &p, micro_team *team, unsigned thread) {
    const unsigned elements = p.type->activation_elements();
    std::uint64_t end;
    const std::uint64_t first = micro_share(p.k / elements, team->threads, thread, &end);
    for (std::uint64_t v = 0; v < p.m && first < end; ++v) {
        const float *from = p.x + v * p.k + first * elements;
        std::uint8_t *to = p.activations + v * p.activation_row_bytes + first * p.type->activation_bytes();
        const std::uint64_t count = (end - first) * elements;
        if (p.kernels.quantize != nullptr) {
            p.kernels.quantize(from, to, static_cast<std::int64_t>(count));
        } else {
            quantize_row(*p.type, from, count, to);
        }
    }
    micro_team_barrier(team, thread);
}

#ifdef GEMPIM_HAVE_LUTMM
void lutmm_job(void *context, micro_team *team, unsigned thread) {
    Problem &p = *static_cast<Problem *>(context);
    quantize_share(p, team, thread);
    std::uint64_t end;
    p.status[thread] = GEMPIM_STATUS_DONE;
    if (thread >= p.commands) {
        return;
    }
    const std::uint64_t first = micro_share(p.n, p.commands, thread, &end);
    if (first == end) {
        return;
    }
    gempim_lutmm_desc &d = p.descriptors[thread];
    d = {};
    d.magic = GEMPIM_LUTMM_MAGIC;
    d.weight_type = p.type->number;
    d.m = static_cast<std::uint32_t>(p.m);
    d.n = static_cast<std::uint32_t>(end - first);
    d.k = static_cast<std::uint32_t>(p.k);
    d.activation_stride = static_cast<std::uint32_t>(p.activation_row_bytes);
    d.result_stride = static_cast<std::uint32_t>(p.n * sizeof(float));
    if (p.transposed != nullptr) {
        d.flags = GEMPIM_LUTMM_TRANSPOSED;
        d.weight_stride = static_cast<std::uint32_t>(p.n * p.type->bytes);
        d.weights = reinterpret_cast<std::uintptr_t>(p.transposed + first * p.type->bytes);
    } else {
        d.weight_stride = static_cast<std::uint32_t>(p.row_bytes);
        d.weights = reinterpret_cast<std::uintptr_t>(p.weights + first * p.row_bytes);
    }
    d.activations = reinterpret_cast<std::uintptr_t>(p.activations);
    d.results = reinterpret_cast<std::uintptr_t>(p.results + first);
    d.status = GEMPIM_STATUS_PENDING;
    const std::int64_t ticket = gempim_lutmm_start(&d);
    p.status[thread] = ticket < 0 ? -ticket : gempim_lutmm_finish(ticket);
}
#endif

void neon_job(void *context, micro_team *team, unsigned thread) {
    Problem &p = *static_cast<Problem *>(context);
    quantize_share(p, team, thread);
    constexpr std::uint64_t kTile = 16;
    std::uint64_t end;
    const std::uint64_t first = micro_share(p.n, team->threads, thread, &end);
    for (std::uint64_t v0 = 0; v0 < p.m; v0 += kTile) {
        for (std::uint64_t r0 = first; r0 < end; r0 += kTile) {
            for (std::uint64_t v = v0; v < std::min(v0 + kTile, p.m); ++v) {
                for (std::uint64_t r = r0; r < std::min(r0 + kTile, end); ++r) {
                    p.kernels.vec_dot(static_cast<int>(p.k), p.results + v * p.n + r, 0, p.weights + r * p.row_bytes, 0,
                                      p.activations + v * p.activation_row_bytes, 0, 1);
                }
            }
        }
    }
}

void scalar_job(void *context, micro_team *team, unsigned thread) {
    Problem &p = *static_cast<Problem *>(context);
    quantize_share(p, team, thread);
    const ggml::BlockFormat &format = *ggml::find_format(p.type->name);
    std::uint64_t end;
    const std::uint64_t first = micro_share(p.n, team->threads, thread, &end);
    ggml::DecodedBlock w;
    for (std::uint64_t r = first; r < end; ++r) {
        for (std::uint64_t v = 0; v < p.m; ++v) {
            p.results[v * p.n + r] = 0.0F;
        }
        for (std::uint64_t unit = 0; unit < p.k / format.elements; ++unit) {
            ggml::decode_block(format, p.weights + r * p.row_bytes + unit * format.bytes, w);
            for (std::uint64_t v = 0; v < p.m; ++v) {
                const std::uint8_t *block =
                    p.activations + v * p.activation_row_bytes + unit * p.type->activation_bytes();
                const bool k_quant = format.activation == ggml::ActivationKind::q8_k;
                const auto *q = reinterpret_cast<const std::int8_t *>(
                    block + (format.activation == ggml::ActivationKind::q8_0 ? 2 : 4));
                std::int32_t dot = 0;
                std::int32_t minima = 0;
                for (unsigned s = 0; s < format.sub_blocks(); ++s) {
                    std::int32_t sum = 0;
                    std::int32_t activation_sum = 0;
                    for (unsigned e = s * format.sub_elements; e < (s + 1) * format.sub_elements; ++e) {
                        sum += w.q[e] * q[e];
                        activation_sum += q[e];
                    }
                    dot += format.sub_scale_bits != 0 ? sum * w.scale[s] : sum;
                    minima += format.sub_min_bits != 0 ? activation_sum * w.min[s] : 0;
                }
                float d;
                if (k_quant) {
                    std::memcpy(&d, block, sizeof d);
                } else {
                    d = ggml::fp16_to_fp32(static_cast<std::uint16_t>(block[0] | block[1] << 8));
                }
                float sum = static_cast<float>(dot) * w.d * d;
                if (format.sub_min_bits != 0) {
                    sum -= static_cast<float>(minima) * w.m * d;
                } else if (format.has_min) {
                    sum += w.m * ggml::fp16_to_fp32(static_cast<std::uint16_t>(block[2] | block[3] << 8));
                }
                p.results[v * p.n + r] += sum;
            }
        }
    }
}

/** Ends the program at the first wrong element of any repetition. */
void check(const Problem &p, const float *results, std::uint64_t repeat, bool device) {
    std::vector<Row> activations;
    for (std::uint64_t v = 0; v < p.m; ++v) {
        activations.push_back(decode_activations(*p.type, p.activations + v * p.activation_row_bytes, p.k));
    }
    for (std::uint64_t r = 0; r < p.n; ++r) {
        const Row weights = decode_weights(*p.type, p.weights + r * p.row_bytes, p.k);
        for (std::uint64_t v = 0; v < p.m; ++v) {
            const Expected expected = multiply_rows(*p.type, weights, activations[v]);
            const double tolerance = (device ? device_tolerance : kernel_tolerance)(*p.type, p.k, expected);
            for (std::uint64_t i = 0; i < repeat; ++i) {
                const double got = results[(i * p.m + v) * p.n + r];
                if (!(std::fabs(got - expected.value) <= tolerance)) {
                    micro_die(MICRO_EXIT_WRONG_RESULT,
                              "%s: wrong result in row %" PRIu64 ", column %" PRIu64 ", repetition %" PRIu64
                              ": expected %.9g +- %.2g, got %.9g",
                              p.type->name, v, r, i, expected.value, tolerance, got);
                }
            }
        }
    }
}

} // namespace

int main(int argc, char **argv) {
    const char *type_name = "q4_0";
    const char *path = "scalar";
    std::uint64_t m = 1;
    std::uint64_t n = 64;
    std::uint64_t k = 256;
    std::uint64_t threads = 1;
    std::uint64_t commands = 1;
    std::uint64_t repeat = 1;
    std::uint64_t seed = 1;
    int transposed = 0;
    int with_check = 0;
    int corrupt = 0;
    const micro_option options[] = {
        micro_text("--type", &type_name, "ggml type of the weights (default q4_0)"),
        micro_number("--m", &m, 1, GEMPIM_LUTMM_MAX_M, "activation vectors"),
        micro_number("--n", &n, 1, GEMPIM_LUTMM_MAX_N, "outputs: rows of weights"),
        micro_number("--k", &k, 1, GEMPIM_LUTMM_MAX_K, "inner extent, a multiple of the type's block"),
        micro_text("--path", &path, "lutmm, neon or scalar (default scalar)"),
        micro_number("--threads", &threads, 1, MICRO_MAX_THREADS, "threads; in gem5 at most the cores"),
        micro_number("--commands", &commands, 1, MICRO_MAX_THREADS,
                     "for lutmm: commands that a product is split into by its outputs; at most --threads"),
        micro_flag("--transposed", &transposed, "for lutmm: weights lie column of blocks after column of blocks"),
        micro_number("--repeat", &repeat, 1, 1000, "products, each a region of interest"),
        micro_number("--seed", &seed, 0, UINT64_MAX, "of the random operands"),
        micro_flag("--check", &with_check, "compare every result with an exact reference, after the regions"),
        micro_flag("--corrupt", &corrupt, "for the tests of --check: change the last result before it is compared"),
        micro_m5_option(),
    };
    micro_parse(argc, argv, "gemv", "[options]", options, std::size(options), nullptr, 0);

    const WeightType *type = find_weight_type(type_name);
    if (type == nullptr) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--type %s: expected one of %s", type_name, weight_type_names().c_str());
    }
    if (k % type->elements != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--k %" PRIu64 ": expected a multiple of %u for %s", k, type->elements,
                  type->name);
    }
    if (commands > threads) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--commands %" PRIu64 ": expected at most --threads %" PRIu64, commands,
                  threads);
    }
    if (transposed != 0 && std::string_view(path) != "lutmm") {
        micro_die(MICRO_EXIT_BAD_INPUT, "--transposed: expected --path lutmm");
    }
    Problem p{};
    p.type = type;
    p.commands = static_cast<unsigned>(commands);
    p.kernels = kernels_of(*type);
    micro_job job = nullptr;
    const std::string_view wanted = path;
    if (wanted == "scalar") {
        job = scalar_job;
    } else if (wanted == "neon") {
        if (p.kernels.vec_dot == nullptr) {
            micro_die(MICRO_EXIT_BAD_INPUT, "--path neon: llama.cpp's kernels are not in this build; expected lutmm or "
                                            "scalar");
        }
        job = neon_job;
    } else if (wanted == "lutmm") {
#ifdef GEMPIM_HAVE_LUTMM
        job = lutmm_job;
        const std::int64_t types = gempim_lutmm_query(GEMPIM_QUERY_WEIGHT_TYPES);
        if (types < 0 || (types >> type->number & 1) == 0) {
            micro_die(MICRO_EXIT_BAD_INPUT, "--type %s: this device does not multiply it (types: 0x%" PRIx64 ")",
                      type->name, static_cast<std::uint64_t>(types));
        }
#else
        micro_die(MICRO_EXIT_BAD_INPUT, "--path lutmm: the instruction is not in this build; expected scalar");
#endif
    } else {
        micro_die(MICRO_EXIT_BAD_INPUT, "--path %s: expected lutmm, neon or scalar", path);
    }

    p.m = m;
    p.n = n;
    p.k = k;
    p.row_bytes = type->row_bytes(k);
    p.activation_row_bytes = type->activation_row_bytes(k);
    p.weights = static_cast<std::uint8_t *>(micro_alloc(n * p.row_bytes));
    p.x = static_cast<float *>(micro_alloc(m * k * sizeof(float)));
    p.activations = static_cast<std::uint8_t *>(micro_alloc(m * p.activation_row_bytes));
    p.descriptors = static_cast<gempim_lutmm_desc *>(micro_alloc(threads * sizeof(gempim_lutmm_desc)));
    // Every repetition has results of its own, so that none of them can pass the check with an earlier one's.
    auto *results = static_cast<float *>(micro_alloc(repeat * m * n * sizeof(float)));
    std::fill_n(results, repeat * m * n, std::numeric_limits<float>::quiet_NaN());
    Random random(seed);
    random_weights(*type, random, p.weights, n * (k / type->elements));
    if (transposed != 0) {
        p.transposed = static_cast<std::uint8_t *>(micro_alloc(n * p.row_bytes));
        transpose_blocks(*type, p.weights, n, k, p.transposed);
    }
    for (std::uint64_t i = 0; i < m * k; ++i) {
        p.x[i] = random.uniform();
    }

    std::vector<std::uint64_t> ns(repeat);
    micro_team *team = micro_team_start(static_cast<unsigned>(threads));
    for (std::uint64_t i = 0; i < repeat; ++i) {
        p.results = results + i * m * n;
        micro_roi_begin();
        const std::uint64_t start = micro_now_ns();
        micro_team_run(team, job, &p);
        ns[i] = micro_now_ns() - start;
        micro_roi_end("gemv.%s.%s.m%" PRIu64 ".n%" PRIu64 ".k%" PRIu64 ".t%" PRIu64, type->name, path, m, n, k,
                      threads);
        for (unsigned thread = 0; wanted == "lutmm" && thread < threads; ++thread) {
            if (p.status[thread] != GEMPIM_STATUS_DONE) {
                micro_die(MICRO_EXIT_WRONG_RESULT, "lutmm: thread %u: the device answers %s", thread,
                          status_name(p.status[thread]));
            }
        }
    }
    micro_team_stop(team);
    if (corrupt != 0) {
        float &last = results[repeat * m * n - 1];
        last += std::fabs(last) + 1.0F;
    }
    if (with_check != 0) {
        check(p, results, repeat, wanted == "lutmm");
    }
    for (std::uint64_t i = 0; i < repeat; ++i) {
        printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %s %" PRIu64 " %" PRIu64 " %s\n", type->name, m, n, k, path,
               threads, ns[i], with_check != 0 ? "ok" : "unchecked");
    }
    return 0;
}
