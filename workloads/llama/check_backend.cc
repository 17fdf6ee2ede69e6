// SPDX-License-Identifier: BSD-3-Clause
// Random graphs of matrix products on the lutmm backend, held against ggml's CPU backend; errors are in units of the
// sum of absolute terms. Prints a line per graph; exit status 1 when a result is wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "lutmm_backend.hh"

namespace {

using namespace gempim::llama;

/** Of the sum of absolute terms: both sides add float32 terms, at most some hundred in a row. */
constexpr double kTolerance = 1e-5;

/** Five types with blocks of 32 weights, five with blocks of 256. */
constexpr ggml_type kTypes[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0,
                                GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};

using Random = std::mt19937_64;

std::int64_t pick(Random &random, std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
}

bool coin(Random &random) {
    return pick(random, 0, 1) != 0;
}

/** A number that divides `whole`: planes of weights, each of which so many planes of activations share. */
std::int64_t divisor(Random &random, std::int64_t whole) {
    std::int64_t part;
    do {
        part = pick(random, 1, whole);
    } while (whole % part != 0);
    return part;
}

/** A product, and how its operands lie in memory. */
struct Product {
    ggml_tensor *weights = nullptr;
    ggml_tensor *activations = nullptr;
    ggml_tensor *result = nullptr;
};

/** One random graph: several products, some with the same activations, some of another's results. */
struct Case {
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context{nullptr, ggml_free};
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> transposed{nullptr, ggml_free}; ///< of weights that are
    ggml_cgraph *graph = nullptr;
    std::vector<Product> products;
    std::vector<ggml_tensor *> leaves;
    std::string text;
};

/** Extents 0 and 1 of a larger tensor, so that rows have gaps between them. */
ggml_tensor *with_gaps(ggml_context *context, ggml_tensor *whole, std::int64_t columns, std::int64_t rows) {
    return ggml_view_4d(context, whole, columns, rows, whole->ne[2], whole->ne[3], whole->nb[1], whole->nb[2],
                        whole->nb[3], 0);
}

Case make_case(Random &random, ggml_type type) {
    Case c;
    ggml_init_params params{};
    params.mem_size = 64 * ggml_tensor_overhead() + ggml_graph_overhead();
    params.no_alloc = true;
    c.context.reset(ggml_init(params));
    ggml_context *context = c.context.get();
    params.mem_size = 16 * ggml_tensor_overhead();
    c.transposed.reset(ggml_init(params));
    c.graph = ggml_new_graph(context);
    const std::int64_t block = ggml_blck_size(type);
    const std::int64_t k = block * pick(random, 1, block == 32 ? 40 : 6);
    const std::int64_t m = pick(random, 1, 33);
    const std::int64_t planes2 = coin(random) ? 1 : pick(random, 1, 4);
    const std::int64_t planes3 = coin(random) ? 1 : pick(random, 1, 4);
    const auto leaf = [&](ggml_type t, std::int64_t a, std::int64_t b, std::int64_t p2, std::int64_t p3) {
        const bool gaps = coin(random);
        ggml_tensor *whole =
            ggml_new_tensor_4d(context, t, a + (gaps ? ggml_blck_size(t) : 0), b + (gaps ? 2 : 0), p2, p3);
        c.leaves.push_back(whole);
        return gaps ? with_gaps(context, whole, a, b) : whole;
    };
    ggml_tensor *shared = leaf(GGML_TYPE_F32, k, m, planes2, planes3);
    // Activations whose planes are not in the order of memory.
    if (planes2 == 1 && planes3 == 1 && coin(random)) {
        ggml_tensor *whole = ggml_new_tensor_3d(context, GGML_TYPE_F32, k, 2, m);
        c.leaves.push_back(whole);
        shared = ggml_permute(context, whole, 0, 2, 1, 3);
    }
    const int count = static_cast<int>(pick(random, 1, 4));
    for (int i = 0; i < count; ++i) {
        Product p;
        const bool chained = i > 0 && coin(random) && c.products.back().result->ne[0] % block == 0;
        p.activations = chained ? c.products.back().result : shared;
        const std::int64_t n = coin(random) ? block * pick(random, 1, block == 32 ? 4 : 1) : pick(random, 1, 150);
        const std::int64_t w2 = divisor(random, p.activations->ne[2]);
        const std::int64_t w3 = divisor(random, p.activations->ne[3]);
        // Types of one block size may pair with activations of different types.
        const ggml_type mine = coin(random) ? type : kTypes[(block == 32 ? 0 : 5) + pick(random, 0, 4)];
        const bool transposed = w2 == 1 && w3 == 1 && coin(random);
        if (transposed) {
            p.weights = ggml_new_tensor_2d(c.transposed.get(), mine, p.activations->ne[0], n);
            c.leaves.push_back(p.weights);
        } else {
            p.weights = leaf(mine, p.activations->ne[0], n, w2, w3);
        }
        p.result = ggml_mul_mat(context, p.weights, p.activations);
        ggml_set_output(p.result); // kept, so that it can be looked at afterwards
        ggml_build_forward_expand(c.graph, p.result);
        c.products.push_back(p);
        char line[160];
        std::snprintf(line, sizeof line, " %s[%d,%d,%d,%d]x[%d,%d,%d]%s%s", ggml_type_name(mine),
                      static_cast<int>(p.weights->ne[0]), static_cast<int>(n), static_cast<int>(w2),
                      static_cast<int>(w3), static_cast<int>(p.activations->ne[1]),
                      static_cast<int>(p.activations->ne[2]), static_cast<int>(p.activations->ne[3]),
                      transposed ? " transposed" : "", chained ? " chained" : "");
        c.text += line;
    }
    return c;
}

void fill(Random &random, ggml_tensor *leaf) {
    std::normal_distribution<float> normal(0.0F, 1.0F);
    std::vector<float> values(static_cast<std::size_t>(ggml_nelements(leaf)));
    // Small, so that products of products stay within what the float16 scales of q8_1 hold.
    const float scale = std::exp2(static_cast<float>(pick(random, -8, -2)));
    for (float &v : values) {
        v = normal(random) * scale;
    }
    if (leaf->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(leaf, values.data(), 0, ggml_nbytes(leaf));
        return;
    }
    std::vector<std::uint8_t> blocks(ggml_nbytes(leaf));
    ggml_quantize_chunk(leaf->type, values.data(), blocks.data(), 0, ggml_nrows(leaf), leaf->ne[0], nullptr);
    ggml_backend_tensor_set(leaf, blocks.data(), 0, blocks.size());
}

std::vector<float> result_of(const Product &p) {
    std::vector<float> out(static_cast<std::size_t>(ggml_nelements(p.result)));
    ggml_backend_tensor_get(p.result, out.data(), 0, ggml_nbytes(p.result));
    return out;
}

void compute(const Case &c, ggml_cgraph *graph, ggml_backend_t backend) {
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        std::fprintf(stderr, "check_backend: %s fails at%s\n", ggml_backend_name(backend), c.text.c_str());
        std::exit(1);
    }
}

/** While it lives, transposed weights lie in memory as the CPU backend reads them. */
class RowMajor {
  public:
    explicit RowMajor(const Case &c) {
        for (ggml_tensor *w = ggml_get_first_tensor(c.transposed.get()); w != nullptr;
             w = ggml_get_next_tensor(c.transposed.get(), w)) {
            std::vector<std::uint8_t> rows(ggml_nbytes(w));
            ggml_backend_tensor_get(w, rows.data(), 0, rows.size());
            std::memcpy(w->data, rows.data(), rows.size());
            weights_.emplace_back(w, std::move(rows));
        }
    }
    ~RowMajor() {
        for (const auto &[w, rows] : weights_) {
            ggml_backend_tensor_set(w, rows.data(), 0, rows.size());
        }
    }
    RowMajor(const RowMajor &) = delete;
    RowMajor &operator=(const RowMajor &) = delete;

  private:
    std::vector<std::pair<ggml_tensor *, std::vector<std::uint8_t>>> weights_;
};

/**
 * What nobody may compute: on transposed weights the CPU backend would read other numbers, and a view of some rows is
 * no whole matrix.
 */
bool offers_too_much(Random &random, ggml_type type, ggml_backend_buffer_type_t weights_type) {
    ggml_init_params params{};
    params.mem_size = 16 * ggml_tensor_overhead();
    params.no_alloc = true;
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(ggml_init(params), ggml_free);
    const std::int64_t k = ggml_blck_size(type) * pick(random, 1, 4);
    const std::int64_t n = pick(random, 2, 40);
    ggml_tensor *weights = ggml_new_tensor_2d(context.get(), type, k, n);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context.get(), weights_type);
    ggml_tensor *some = ggml_view_2d(context.get(), weights, k, n - 1, weights->nb[1], 0);
    ggml_backend_view_init(some);
    ggml_tensor *x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, k, 1);
    ggml_tensor *whole = ggml_mul_mat(context.get(), weights, x);
    const ggml_tensor *not_offered[] = {
        ggml_mul_mat(context.get(), some, x),
        ggml_get_rows(context.get(), weights, ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, 1)),
    };
    bool too_much = false;
    for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        const bool lutmm = std::string(ggml_backend_dev_name(device)).rfind("LUTMM", 0) == 0;
        too_much = too_much || ggml_backend_dev_supports_buft(device, weights_type) != lutmm ||
                   (lutmm && !ggml_backend_dev_supports_op(device, whole));
        for (const ggml_tensor *op : not_offered) {
            too_much = too_much || (lutmm && ggml_backend_dev_supports_op(device, op));
        }
    }
    ggml_backend_buffer_free(buffer);
    return too_much;
}

/** One product again, alone, from the operands as they are in memory now. */
std::vector<float> compute_alone(const Case &c, const Product &p, ggml_backend_t backend) {
    ggml_init_params params{};
    params.mem_size = ggml_graph_overhead_custom(1, false);
    params.no_alloc = true;
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(ggml_init(params), ggml_free);
    ggml_cgraph *graph = ggml_new_graph_custom(context.get(), 1, false);
    ggml_graph_add_node(graph, p.result);
    compute(c, graph, backend);
    return result_of(p);
}

/** Rows of a tensor dequantised, in the order of its indexes. */
std::vector<float> values_of(const ggml_tensor *t) {
    std::vector<float> out(static_cast<std::size_t>(ggml_nelements(t)));
    float *to = out.data();
    for (std::int64_t i3 = 0; i3 < t->ne[3]; ++i3) {
        for (std::int64_t i2 = 0; i2 < t->ne[2]; ++i2) {
            for (std::int64_t i1 = 0; i1 < t->ne[1]; ++i1, to += t->ne[0]) {
                const char *row = static_cast<const char *>(t->data) + i1 * t->nb[1] + i2 * t->nb[2] + i3 * t->nb[3];
                if (t->type == GGML_TYPE_F32) {
                    std::memcpy(to, row, static_cast<std::size_t>(t->ne[0]) * sizeof(float));
                } else {
                    ggml_get_type_traits(t->type)->to_float(row, to, t->ne[0]);
                }
            }
        }
    }
    return out;
}

/** Sum over k of |w| |a| for each result: what rounding errors are in proportion to. */
std::vector<double> magnitudes(const Product &p) {
    const std::vector<float> w = values_of(p.weights);
    const std::vector<float> a = values_of(p.activations);
    const std::int64_t k = p.weights->ne[0];
    const std::int64_t r2 = p.result->ne[2] / p.weights->ne[2];
    const std::int64_t r3 = p.result->ne[3] / p.weights->ne[3];
    std::vector<double> out;
    for (std::int64_t i3 = 0; i3 < p.result->ne[3]; ++i3) {
        for (std::int64_t i2 = 0; i2 < p.result->ne[2]; ++i2) {
            const float *wp = w.data() + ((i3 / r3) * p.weights->ne[2] + i2 / r2) * p.weights->ne[1] * k;
            const float *ap = a.data() + (i3 * p.result->ne[2] + i2) * p.result->ne[1] * k;
            for (std::int64_t row = 0; row < p.result->ne[1]; ++row) {
                for (std::int64_t column = 0; column < p.result->ne[0]; ++column) {
                    double sum = 0;
                    for (std::int64_t i = 0; i < k; ++i) {
                        sum += std::fabs(static_cast<double>(wp[column * k + i]) * ap[row * k + i]);
                    }
                    out.push_back(sum);
                }
            }
        }
    }
    return out;
}

/** Largest error of `mine` in units of `scale`; 1e30 for one that is no number. */
double worst_error(const std::vector<float> &mine, const std::vector<float> &theirs, const std::vector<double> &scale) {
    double worst = 0;
    for (std::size_t e = 0; e < mine.size(); ++e) {
        const double error = std::fabs(static_cast<double>(mine[e]) - theirs[e]);
        worst = std::max(worst, std::isfinite(error) ? error / std::max(scale[e], 1e-30) : 1e30);
    }
    return worst;
}

/** The largest error of a graph's results. */
double compare_case(const Case &c, ggml_backend_t pim, ggml_backend_t cpu) {
    compute(c, c.graph, pim);
    double worst = 0;
    const RowMajor rows(c);
    // From the last to the first: a product may read the results of those before it, and both sides have to quantise
    // the same activations.
    for (auto p = c.products.rbegin(); p != c.products.rend(); ++p) {
        const std::vector<float> mine = result_of(*p);
        worst = std::max(worst, worst_error(mine, compute_alone(c, *p, cpu), magnitudes(*p)));
    }
    return worst;
}

/**
 * Memory used again, as ggml's allocator does: the last product's results lie where the first product's weights, or
 * its results, or both products' activations are. Only what the order of the graph says may be seen in them.
 */
double compare_reuse(Random &random, ggml_type type, ggml_backend_dev_t device, ggml_backend_t pim, ggml_backend_t cpu,
                     std::string &text) {
    ggml_init_params params{};
    params.mem_size = 16 * ggml_tensor_overhead() + ggml_graph_overhead();
    params.no_alloc = true;
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(ggml_init(params), ggml_free);
    Case c;
    c.graph = ggml_new_graph(context.get());
    const std::int64_t k = ggml_blck_size(type) * pick(random, 2, 4);
    const std::int64_t m = pick(random, 1, 3);
    const std::int64_t first_n = pick(random, 100, 150);
    const std::int64_t last_n = pick(random, 1, 16); // fits into everything that it may lie on
    ggml_tensor *activations = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, k, m);
    for (const std::int64_t n : {first_n, last_n}) {
        Product p;
        p.activations = activations;
        p.weights = ggml_new_tensor_2d(context.get(), type, k, n);
        p.result = ggml_mul_mat(context.get(), p.weights, activations);
        ggml_build_forward_expand(c.graph, p.result);
        c.leaves.push_back(p.weights);
        c.products.push_back(p);
    }
    c.leaves.push_back(activations);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context.get(), cpu);
    Product &first = c.products.front();
    Product &last = c.products.back();
    const char *names[] = {"weights", "results", "activations"};
    ggml_tensor *places[] = {first.weights, first.result, activations};
    const std::int64_t place = pick(random, 0, 2);
    last.result->data = places[place]->data;
    text = std::string(" ") + ggml_type_name(type) + " results on " + names[place];
    for (ggml_tensor *leaf : c.leaves) {
        fill(random, leaf);
    }
    // Memory before, and after each product in turn.
    const auto *base = static_cast<const std::uint8_t *>(ggml_backend_buffer_get_base(buffer));
    const std::vector<std::uint8_t> before(base, base + ggml_backend_buffer_get_size(buffer));
    std::vector<std::vector<float>> expected;
    std::vector<std::vector<double>> scale;
    for (const Product &p : c.products) {
        scale.push_back(magnitudes(p));
        expected.push_back(compute_alone(c, p, cpu));
    }
    if (place == 1) {
        std::copy(expected.back().begin(), expected.back().end(), expected.front().begin());
        std::copy(scale.back().begin(), scale.back().end(), scale.front().begin());
    }
    std::copy(before.begin(), before.end(), static_cast<std::uint8_t *>(ggml_backend_buffer_get_base(buffer)));
    double worst = 1e30;
    if (ggml_backend_dev_supports_op(device, first.result) && ggml_backend_dev_supports_op(device, last.result)) {
        compute(c, c.graph, pim);
        worst = std::max(worst_error(result_of(first), expected.front(), scale.front()),
                         worst_error(result_of(last), expected.back(), scale.back()));
    }
    ggml_backend_buffer_free(buffer);
    return worst;
}

} // namespace

int main(int argc, char **argv) {
    const long cases = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 0;
    const long seed = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 0;
    const long threads = argc > 3 ? std::strtol(argv[3], nullptr, 10) : 1;
    if (cases < 1 || seed < 0 || threads < 1 || argc > 4) {
        std::fputs("usage: check_backend CASES SEED [THREADS]\n", stderr);
        return 2;
    }
    ggml_backend_register(lutmm_reg());
    ggml_backend_dev_t device = ggml_backend_dev_by_name("LUTMM");
    ggml_backend_buffer_type_t weights_type = ggml_backend_dev_buffer_type(ggml_backend_dev_by_name("LUTMM_WEIGHTS"));
    const std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> pim(ggml_backend_dev_init(device, nullptr),
                                                                      ggml_backend_free);
    const std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> cpu(
        ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr), ggml_backend_free);
    ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(threads));
    ggml_threadpool_t pool = ggml_threadpool_new(&params);
    set_threadpool(pool, static_cast<int>(threads));
    Random random(static_cast<std::uint64_t>(seed));
    long wrong = 0;
    for (long i = 0; i < cases; ++i) {
        const ggml_type type = kTypes[i % std::size(kTypes)];
        Case c = make_case(random, type);
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(c.context.get(), cpu.get());
        // Null where there are none.
        ggml_backend_buffer_t weights = ggml_backend_alloc_ctx_tensors_from_buft(c.transposed.get(), weights_type);
        bool taken = true;
        for (const Product &p : c.products) {
            taken = taken && ggml_backend_dev_supports_op(device, p.result);
        }
        for (ggml_tensor *leaf : c.leaves) {
            fill(random, leaf);
        }
        const double worst = taken ? compare_case(c, pim.get(), cpu.get()) : 0;
        const bool ok = taken && worst <= kTolerance;
        wrong += ok ? 0 : 1;
        std::printf("case %ld %s error %.2e%s\n", i, ok ? "ok" : taken ? "WRONG" : "DECLINED", worst, c.text.c_str());
        ggml_backend_buffer_free(weights);
        ggml_backend_buffer_free(buffer);
        const bool too_much = offers_too_much(random, type, weights_type);
        wrong += too_much ? 1 : 0;
        std::printf("offers %ld %s %s\n", i, too_much ? "WRONG" : "ok", ggml_type_name(type));
        std::string text;
        const double reuse = compare_reuse(random, type, device, pim.get(), cpu.get(), text);
        wrong += reuse <= kTolerance ? 0 : 1;
        std::printf("reuse %ld %s error %.2e%s\n", i, reuse <= kTolerance ? "ok" : "WRONG", reuse, text.c_str());
    }
    for (const ProductCount &count : product_counts()) {
        std::printf("product %s %s commands %llu macs %llu weight_bytes %llu\n", count.name.c_str(), count.type.c_str(),
                    static_cast<unsigned long long>(count.commands), static_cast<unsigned long long>(count.macs),
                    static_cast<unsigned long long>(count.weight_bytes));
    }
    ggml_threadpool_free(pool);
    std::printf("%ld of %ld cases wrong\n", wrong, 3 * cases);
    return wrong == 0 ? 0 : 1;
}
