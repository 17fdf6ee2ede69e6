// SPDX-License-Identifier: BSD-3-Clause
#include "lutmm_backend.hh"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "isa/lutmm.h"

namespace gempim::llama {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kMostCommands = 64;
/** Below this many elements waking the pool takes longer than quantising alone. */
constexpr std::int64_t kElementsForPool = 8192;

// What the device can do -------------------------------------------------------------------------------------------

struct Capabilities {
    std::uint64_t weight_types = 0; ///< bit t: ggml type t
    std::int64_t max_m = 0;
    std::int64_t max_n = 0;
    std::int64_t max_k = 0;
    std::size_t tickets = 0;
};

std::int64_t query(int what) {
    const std::int64_t answer = gempim_lutmm_query(what);
    if (answer < 0) {
        GGML_ABORT("lutmm: query %d is answered with error %d\n", what, static_cast<int>(-answer));
    }
    return answer;
}

const Capabilities &capabilities() {
    static const Capabilities found = [] {
        if (query(GEMPIM_QUERY_VERSION) != GEMPIM_LUTMM_VERSION) {
            GGML_ABORT("lutmm: the device speaks version %d, this program %u\n",
                       static_cast<int>(query(GEMPIM_QUERY_VERSION)), GEMPIM_LUTMM_VERSION);
        }
        Capabilities c;
        c.weight_types = static_cast<std::uint64_t>(query(GEMPIM_QUERY_WEIGHT_TYPES));
        c.max_m = query(GEMPIM_QUERY_MAX_M);
        c.max_n = query(GEMPIM_QUERY_MAX_N);
        c.max_k = query(GEMPIM_QUERY_MAX_K);
        c.tickets = std::min(static_cast<std::size_t>(query(GEMPIM_QUERY_TICKETS)), kMostCommands);
        return c;
    }();
    return found;
}

// Memory -----------------------------------------------------------------------------------------------------------

/** Half-open range of addresses. */
struct Range {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;

    bool overlaps(const Range &other) const { return begin < other.end && other.begin < end; }
};

Range range_of(const ggml_tensor *tensor) {
    const auto begin = reinterpret_cast<std::uintptr_t>(tensor->data);
    return {begin, begin + ggml_nbytes(tensor)};
}

/** Memory at a cache line, kept and grown. */
class Buffer {
  public:
    /** @return at least that many bytes; what they held is lost */
    std::uint8_t *reserve(std::size_t bytes) {
        if (bytes > size_) {
            size_ = (bytes + kLine - 1) / kLine * kLine;
            memory_.reset(static_cast<std::uint8_t *>(::operator new(size_, std::align_val_t{kLine})));
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(std::uint8_t *memory) const { ::operator delete(memory, std::align_val_t{kLine}); }
    };
    std::unique_ptr<std::uint8_t, Free> memory_;
    std::size_t size_ = 0;
};

// Weights ----------------------------------------------------------------------------------------------------------

/**
 * Blocks of `Bytes` bytes, [rows][columns], to [columns][rows]. In squares, so that both sides stay in the L1; of a
 * fixed size, since loading a model is simulated, too.
 */
template <std::size_t Bytes>
void transpose_fixed(const std::uint8_t *from, std::int64_t rows, std::int64_t columns, std::uint8_t *to) {
    constexpr std::int64_t kSide = 16;
    for (std::int64_t row0 = 0; row0 < rows; row0 += kSide) {
        for (std::int64_t column0 = 0; column0 < columns; column0 += kSide) {
            const std::int64_t row_end = std::min(rows, row0 + kSide);
            const std::int64_t column_end = std::min(columns, column0 + kSide);
            for (std::int64_t column = column0; column < column_end; ++column) {
                for (std::int64_t row = row0; row < row_end; ++row) {
                    std::memcpy(to + (column * rows + row) * Bytes, from + (row * columns + column) * Bytes, Bytes);
                }
            }
        }
    }
}

void transpose(std::size_t block, const std::uint8_t *from, std::int64_t rows, std::int64_t columns, std::uint8_t *to) {
    const auto one_of = [&]<std::size_t... Bytes>(std::index_sequence<Bytes...>) {
        return ((block == Bytes && (transpose_fixed<Bytes>(from, rows, columns, to), true)) || ...);
    };
    // The blocks of ggml's types that the device multiplies, q4_0 to q6_K.
    if (!one_of(std::index_sequence<18, 20, 22, 24, 34, 84, 110, 144, 176, 210>{})) {
        GGML_ABORT("lutmm: blocks of %zu bytes: no such type was offered\n", block);
    }
}

std::int64_t blocks_in_row(const ggml_tensor *weights) {
    return weights->ne[0] / ggml_blck_size(weights->type);
}

void expect_whole(const ggml_tensor *weights, std::size_t offset, std::size_t size) {
    if (offset != 0 || size != ggml_nbytes(weights)) {
        GGML_ABORT("lutmm: %s: transposed weights are set and read as a whole\n", weights->name);
    }
}

ggml_backend_dev_t weights_device();

/**
 * Memory for weights, transposed as they are set: blocks [k / block][n], for GEMPIM_LUTMM_TRANSPOSED. It is host
 * memory, but does not say so: only this backend may look into it.
 */
ggml_backend_buffer_type_t weights_type() {
    static ggml_backend_buffer_type type = {
        {
            /* .get_name       = */ [](ggml_backend_buffer_type_t) { return "LUTMM_WEIGHTS"; },
            /* .alloc_buffer   = */
            [](ggml_backend_buffer_type_t self, std::size_t size) {
                ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
                if (buffer == nullptr) {
                    return buffer;
                }
                buffer->buft = self;
                buffer->iface.memset_tensor = nullptr;
                buffer->iface.cpy_tensor = nullptr;
                buffer->iface.set_tensor = [](ggml_backend_buffer_t, ggml_tensor *weights, const void *data,
                                              std::size_t offset, std::size_t bytes) {
                    expect_whole(weights, offset, bytes);
                    transpose(ggml_type_size(weights->type), static_cast<const std::uint8_t *>(data), weights->ne[1],
                              blocks_in_row(weights), static_cast<std::uint8_t *>(weights->data));
                };
                buffer->iface.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor *weights, void *data,
                                              std::size_t offset, std::size_t bytes) {
                    expect_whole(weights, offset, bytes);
                    transpose(ggml_type_size(weights->type), static_cast<const std::uint8_t *>(weights->data),
                              blocks_in_row(weights), weights->ne[1], static_cast<std::uint8_t *>(data));
                };
                return buffer;
            },
            /* .get_alignment  = */
            [](ggml_backend_buffer_type_t) { return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type()); },
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ nullptr,
            /* .is_host        = */ nullptr,
        },
        /* .device  = */ weights_device(),
        /* .context = */ nullptr,
    };
    return &type;
}

bool is_transposed(const ggml_tensor *weights) {
    return weights->buffer != nullptr && ggml_backend_buffer_get_type(weights->buffer) == weights_type();
}

// Counts -----------------------------------------------------------------------------------------------------------

std::vector<ProductCount> g_counts;

/** "blk.7.ffn_up.weight" -> "ffn_up". */
std::string product_name(const ggml_tensor *weights) {
    std::string_view name = weights->name;
    if (name.substr(0, 4) == "blk.") {
        const std::size_t dot = name.find('.', 4);
        if (dot != std::string_view::npos) {
            name.remove_prefix(dot + 1);
        }
    }
    constexpr std::string_view ending = ".weight";
    if (name.size() > ending.size() && name.substr(name.size() - ending.size()) == ending) {
        name.remove_suffix(ending.size());
    }
    std::string out(name.empty() ? "unnamed" : name);
    std::replace_if(out.begin(), out.end(), [](unsigned char c) { return std::isspace(c) != 0; }, '_');
    return out;
}

ProductCount &count_of(const ggml_tensor *weights) {
    const std::string name = product_name(weights);
    const char *type = ggml_type_name(weights->type);
    for (ProductCount &count : g_counts) {
        if (count.name == name && count.type == type) {
            return count;
        }
    }
    return g_counts.emplace_back(ProductCount{name, type, 0, 0, 0});
}

// Threads ----------------------------------------------------------------------------------------------------------

/** Runs a piece of work on the CPU backend's pool, as a graph of one custom operator: ggml's own way to do so. */
class Pool {
  public:
    void set(ggml_threadpool_t pool, int threads) {
        pool_ = pool;
        threads_ = pool == nullptr ? 1 : threads;
    }

    int threads() const { return threads_; }

    using Work = std::function<void(int thread, int threads)>;

    void run(Work work) {
        ggml_init_params params{};
        std::array<std::uint8_t, 4096> memory{};
        params.mem_size = memory.size();
        params.mem_buffer = memory.data();
        params.no_alloc = true;
        ggml_context *context = ggml_init(params);
        ggml_tensor *op = ggml_custom_4d(
            context, GGML_TYPE_I32, 1, 1, 1, 1, nullptr, 0,
            [](ggml_tensor *, int thread, int threads, void *it) { (*static_cast<Work *>(it))(thread, threads); },
            GGML_N_TASKS_MAX, &work);
        std::int32_t unused = 0;
        op->data = &unused;
        ggml_cgraph *graph = ggml_new_graph_custom(context, 1, false);
        ggml_build_forward_expand(graph, op);
        ggml_cplan plan = ggml_graph_plan(graph, threads_, pool_);
        std::vector<std::uint8_t> scratch(plan.work_size);
        plan.work_data = scratch.data();
        const ggml_status status = ggml_graph_compute(graph, &plan);
        GGML_ASSERT(status == GGML_STATUS_SUCCESS);
        ggml_free(context);
    }

  private:
    ggml_threadpool_t pool_ = nullptr;
    int threads_ = 1;
};

Pool g_pool;

// The backend ------------------------------------------------------------------------------------------------------

/** Computes graphs of products. Commands are waited for as late as their memory allows. */
class Lutmm {
  public:
    Lutmm() : descriptors_(kMostCommands) {}

    ggml_status compute(ggml_cgraph *graph) {
        used_ = 0;
        quantised_.clear();
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            ggml_tensor *node = ggml_graph_node(graph, i);
            if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || ggml_is_empty(node)) {
                continue;
            }
            switch (node->op) {
            case GGML_OP_MUL_MAT:
                if (!multiply(node)) {
                    finish_all();
                    return GGML_STATUS_FAILED;
                }
                break;
            case GGML_OP_NONE:
            case GGML_OP_RESHAPE:
            case GGML_OP_VIEW:
            case GGML_OP_PERMUTE:
            case GGML_OP_TRANSPOSE:
                break;
            default:
                GGML_ABORT("lutmm: operator %s was not offered\n", ggml_op_desc(node));
            }
        }
        return finish_all() ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
    }

  private:
    /** A command that was issued and not yet waited for. */
    struct Command {
        std::int64_t ticket = 0;
        std::size_t descriptor = 0;
        Range weights;
        Range results;
        const ggml_tensor *node = nullptr;
    };

    /** Activations of a tensor in the type that the weights ask for, rows one after another. */
    struct Quantised {
        const ggml_tensor *source = nullptr;
        ggml_type type = GGML_TYPE_COUNT;
        const std::uint8_t *rows = nullptr;
        std::size_t row_bytes = 0;
    };

    struct alignas(kLine) Descriptor {
        gempim_lutmm_desc desc;
    };

    bool multiply(const ggml_tensor *node) {
        const ggml_tensor *weights = node->src[0];
        const ggml_tensor *activations = node->src[1];
        // In the order of the graph: what this product reads is written, and what it writes is no longer read.
        const Range results = range_of(node);
        const Range read[] = {range_of(weights), range_of(activations)};
        const auto in_the_way = [&](const Command &c) {
            return c.results.overlaps(read[0]) || c.results.overlaps(read[1]) || c.results.overlaps(results) ||
                   c.weights.overlaps(results);
        };
        if (std::any_of(flying_.begin(), flying_.end(), in_the_way) && !finish_all()) {
            return false;
        }
        const Quantised q = quantise(activations, ggml_get_type_traits_cpu(weights->type)->vec_dot_type);
        return issue_planes(node, q);
    }

    /** Quantise as the CPU backend does: with the same function of the same library. */
    Quantised quantise(const ggml_tensor *source, ggml_type type) {
        const auto known = std::find_if(quantised_.begin(), quantised_.end(),
                                        [&](const Quantised &q) { return q.source == source && q.type == type; });
        if (known != quantised_.end()) {
            return *known;
        }
        const std::int64_t k = source->ne[0];
        const std::int64_t rows = ggml_nrows(source);
        const std::size_t row_bytes = ggml_row_size(type, k);
        std::uint8_t *out = next_buffer(row_bytes * static_cast<std::size_t>(rows));
        const ggml_from_float_t from_float = ggml_get_type_traits_cpu(type)->from_float;
        const auto work = [=](int thread, int threads) {
            const std::int64_t end = rows * (thread + 1) / threads;
            for (std::int64_t row = rows * thread / threads; row < end; ++row) {
                const std::int64_t i1 = row % source->ne[1];
                const std::int64_t i2 = row / source->ne[1] % source->ne[2];
                const std::int64_t i3 = row / source->ne[1] / source->ne[2];
                const char *from = static_cast<const char *>(source->data) + i1 * source->nb[1] + i2 * source->nb[2] +
                                   i3 * source->nb[3];
                from_float(reinterpret_cast<const float *>(from), out + row * row_bytes, k);
            }
        };
        if (g_pool.threads() > 1 && rows > 1 && rows * k >= kElementsForPool) {
            g_pool.run(work);
        } else {
            work(0, 1);
        }
        return quantised_.emplace_back(Quantised{source, type, out, row_bytes});
    }

    /** A buffer that no command of this graph uses. Buffers are kept from graph to graph. */
    std::uint8_t *next_buffer(std::size_t bytes) {
        if (used_ == buffers_.size()) {
            buffers_.emplace_back();
        }
        return buffers_[used_++].reserve(bytes);
    }

    /** One command a matrix, more where it has more rows than a command may. */
    bool issue_planes(const ggml_tensor *node, const Quantised &q) {
        const ggml_tensor *weights = node->src[0];
        const std::int64_t broadcast2 = node->ne[2] / weights->ne[2];
        const std::int64_t broadcast3 = node->ne[3] / weights->ne[3];
        const std::int64_t max_m = capabilities().max_m;
        ProductCount &count = count_of(weights);
        for (std::int64_t i3 = 0; i3 < node->ne[3]; ++i3) {
            for (std::int64_t i2 = 0; i2 < node->ne[2]; ++i2) {
                const char *from = static_cast<const char *>(weights->data) + i2 / broadcast2 * weights->nb[2] +
                                   i3 / broadcast3 * weights->nb[3];
                for (std::int64_t row = 0; row < node->ne[1]; row += max_m) {
                    const std::int64_t m = std::min(max_m, node->ne[1] - row);
                    const std::int64_t first = (i3 * node->ne[2] + i2) * node->ne[1] + row;
                    char *to =
                        static_cast<char *>(node->data) + row * node->nb[1] + i2 * node->nb[2] + i3 * node->nb[3];
                    if (!issue(node, from, q.rows + first * q.row_bytes, q.row_bytes, to, m)) {
                        return false;
                    }
                    ++count.commands;
                    count.macs += static_cast<std::uint64_t>(m * weights->ne[0] * weights->ne[1]);
                    count.weight_bytes +=
                        static_cast<std::uint64_t>(weights->ne[1]) * ggml_row_size(weights->type, weights->ne[0]);
                }
            }
        }
        return true;
    }

    bool issue(const ggml_tensor *node, const char *weights, const std::uint8_t *activations, std::size_t row_bytes,
               char *results, std::int64_t m) {
        const ggml_tensor *w = node->src[0];
        if (flying_.size() == capabilities().tickets && !finish_oldest()) {
            return false;
        }
        const std::size_t at = next_descriptor_;
        next_descriptor_ = (next_descriptor_ + 1) % kMostCommands;
        gempim_lutmm_desc &d = descriptors_[at].desc;
        d = gempim_lutmm_desc{};
        d.magic = GEMPIM_LUTMM_MAGIC;
        d.weight_type = static_cast<std::uint16_t>(w->type);
        d.m = static_cast<std::uint32_t>(m);
        d.n = static_cast<std::uint32_t>(w->ne[1]);
        d.k = static_cast<std::uint32_t>(w->ne[0]);
        if (is_transposed(w)) {
            d.flags = GEMPIM_LUTMM_TRANSPOSED;
            d.weight_stride = static_cast<std::uint32_t>(static_cast<std::size_t>(w->ne[1]) * ggml_type_size(w->type));
        } else {
            d.weight_stride = static_cast<std::uint32_t>(w->nb[1]);
        }
        d.activation_stride = static_cast<std::uint32_t>(row_bytes);
        d.result_stride = static_cast<std::uint32_t>(node->nb[1]);
        d.weights = reinterpret_cast<std::uintptr_t>(weights);
        d.activations = reinterpret_cast<std::uintptr_t>(activations);
        d.results = reinterpret_cast<std::uintptr_t>(results);
        d.status = GEMPIM_STATUS_PENDING;
        const std::int64_t ticket = gempim_lutmm_start(&d);
        if (ticket < 0) {
            GGML_LOG_ERROR("lutmm: %s (%s, m %u, n %u, k %u) is refused with error %d\n", node->name,
                           ggml_type_name(w->type), d.m, d.n, d.k, static_cast<int>(-ticket));
            return false;
        }
        flying_.push_back(Command{ticket, at, range_of(w), range_of(node), node});
        return true;
    }

    bool finish_oldest() {
        const Command command = flying_.front();
        flying_.pop_front();
        const std::int64_t status = gempim_lutmm_finish(command.ticket);
        if (status != GEMPIM_STATUS_DONE) {
            GGML_LOG_ERROR("lutmm: %s ended with error %d\n", command.node->name, static_cast<int>(status));
        }
        return status == GEMPIM_STATUS_DONE;
    }

    /** Wait for every command, also after one that failed. @return whether all are done */
    bool finish_all() {
        bool done = true;
        while (!flying_.empty()) {
            done = finish_oldest() && done;
        }
        return done;
    }

    std::vector<Descriptor> descriptors_;
    std::size_t next_descriptor_ = 0;
    std::deque<Command> flying_;
    std::deque<Buffer> buffers_;
    std::size_t used_ = 0;
    std::vector<Quantised> quantised_;
};

bool supports(const ggml_tensor *op) {
    const ggml_tensor *w = op->src[0];
    const ggml_tensor *a = op->src[1];
    const Capabilities &c = capabilities();
    const bool dense_rows = w->nb[0] == ggml_type_size(w->type) && w->nb[1] >= ggml_row_size(w->type, w->ne[0]) &&
                            a->nb[0] == sizeof(float) && op->nb[0] == sizeof(float) &&
                            op->nb[1] >= static_cast<std::size_t>(op->ne[0]) * sizeof(float);
    // The descriptor's strides have 32 bits, its addresses are multiples of 2 and 4.
    const bool strides = w->nb[1] <= UINT32_MAX && op->nb[1] <= UINT32_MAX && w->nb[1] % 2 == 0 && w->nb[2] % 2 == 0 &&
                         w->nb[3] % 2 == 0 && op->nb[1] % 4 == 0 && op->nb[2] % 4 == 0 && op->nb[3] % 4 == 0;
    // Transposed: one whole matrix. (A column of blocks is shorter than 2^32 bytes, as max_n is 2^20.)
    if (is_transposed(w) && (w->view_src != nullptr || !ggml_is_contiguous(w) || ggml_n_dims(w) > 2)) {
        return false;
    }
    return w->type < 64 && (c.weight_types >> w->type & 1) != 0 && a->type == GGML_TYPE_F32 &&
           op->type == GGML_TYPE_F32 && dense_rows && strides && w->ne[1] <= c.max_n && w->ne[0] <= c.max_k &&
           ggml_get_op_params_i32(op, 1) != GGML_HINT_SRC0_IS_HADAMARD;
}

// ggml's interfaces --------------------------------------------------------------------------------------------------

ggml_guid_t guid() {
    static ggml_guid id = {0x67, 0x65, 0x6d, 0x70, 0x69, 0x6d, 0x2d, 0x6c,
                           0x75, 0x74, 0x6d, 0x6d, 0x2d, 0x76, 0x30, 0x31};
    return &id;
}

const ggml_backend_i kBackend = {
    /* .get_name            = */ [](ggml_backend_t) { return "LUTMM"; },
    /* .free                = */
    [](ggml_backend_t backend) {
        delete static_cast<Lutmm *>(backend->context);
        delete backend;
    },
    /* .set_tensor_async    = */ nullptr,
    /* .get_tensor_async    = */ nullptr,
    /* .set_tensor_2d_async = */ nullptr,
    /* .get_tensor_2d_async = */ nullptr,
    /* .cpy_tensor_async    = */ nullptr,
    /* .synchronize         = */ nullptr,
    /* .graph_plan_create   = */ nullptr,
    /* .graph_plan_free     = */ nullptr,
    /* .graph_plan_update   = */ nullptr,
    /* .graph_plan_compute  = */ nullptr,
    /* .graph_compute       = */
    [](ggml_backend_t backend, ggml_cgraph *graph) { return static_cast<Lutmm *>(backend->context)->compute(graph); },
    /* .event_record        = */ nullptr,
    /* .event_wait          = */ nullptr,
    /* .graph_optimize      = */ nullptr,
};

constexpr const char *kRegName = "LUTMM";

/**
 * Two devices. ggml asks a device for one buffer type, which llama.cpp takes for weights and for results alike; results
 * must lie in host memory, where other operators find them without a copy, weights in weights_type(). So the first
 * computes, and is preferred as it is the first; the second holds weights and only says which.
 */
enum : std::size_t { kCompute, kWeights, kDevices };

bool holds_weights(ggml_backend_dev_t device) {
    return device->context != nullptr;
}

bool supports_op(ggml_backend_dev_t device, const ggml_tensor *op) {
    if (holds_weights(device)) {
        return op->op == GGML_OP_MUL_MAT && is_transposed(op->src[0]) && supports(op);
    }
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    case GGML_OP_MUL_MAT:
        return supports(op);
    default:
        return false;
    }
}

const char *device_name(ggml_backend_dev_t device) {
    return holds_weights(device) ? "LUTMM_WEIGHTS" : kRegName;
}

const char *device_description(ggml_backend_dev_t device) {
    return holds_weights(device) ? "transposed weights of the SRAM-PIM" : "SRAM-PIM by the lutmm instruction";
}

const ggml_backend_device_i kDevice = {
    /* .get_name             = */ device_name,
    /* .get_description      = */ device_description,
    /* .get_memory           = */
    [](ggml_backend_dev_t, std::size_t *free, std::size_t *total) {
        *free = 0; // it has none of its own
        *total = 0;
    },
    /* .get_type             = */ [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; },
    /* .get_props            = */
    [](ggml_backend_dev_t device, ggml_backend_dev_props *props) {
        *props = ggml_backend_dev_props{};
        props->name = device_name(device);
        props->description = device_description(device);
        props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
        props->caps.buffer_from_host_ptr = !holds_weights(device);
        props->caps.mmap_support = !holds_weights(device);
    },
    /* .init_backend         = */
    [](ggml_backend_dev_t device, const char *) { return new ggml_backend{guid(), kBackend, device, new Lutmm}; },
    /* .get_buffer_type      = */
    [](ggml_backend_dev_t device) { return holds_weights(device) ? weights_type() : ggml_backend_cpu_buffer_type(); },
    /* .get_host_buffer_type = */ nullptr,
    /* .buffer_from_host_ptr = */
    [](ggml_backend_dev_t, void *memory, std::size_t size, std::size_t) {
        return ggml_backend_cpu_buffer_from_ptr(memory, size);
    },
    /* .supports_op          = */ supports_op,
    /* .supports_buft        = */
    [](ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
        return type == weights_type() || (!holds_weights(device) && ggml_backend_buft_is_host(type));
    },
    /* .offload_op           = */ nullptr,
    /* .event_new            = */ nullptr,
    /* .event_free           = */ nullptr,
    /* .event_synchronize    = */ nullptr,
};

ggml_backend_dev_t device_at(std::size_t index) {
    static bool weights = true; // its address marks the second
    static ggml_backend_device devices[kDevices] = {{kDevice, lutmm_reg(), nullptr}, {kDevice, lutmm_reg(), &weights}};
    return &devices[index];
}

ggml_backend_dev_t weights_device() {
    return device_at(kWeights);
}

const ggml_backend_reg_i kReg = {
    /* .get_name         = */ [](ggml_backend_reg_t) { return kRegName; },
    /* .get_device_count = */ [](ggml_backend_reg_t) -> std::size_t { return kDevices; },
    /* .get_device       = */ [](ggml_backend_reg_t, std::size_t index) { return device_at(index); },
    /* .get_proc_address = */ [](ggml_backend_reg_t, const char *) -> void * { return nullptr; },
};

} // namespace

ggml_backend_reg_t lutmm_reg() {
    static ggml_backend_reg reg = {GGML_BACKEND_API_VERSION, kReg, nullptr};
    return &reg;
}

void set_threadpool(ggml_threadpool_t pool, int threads) {
    g_pool.set(pool, threads);
}

void wake_threadpool() {
    if (g_pool.threads() > 1) {
        g_pool.run([](int, int) {});
    }
}

std::vector<ProductCount> product_counts() {
    return g_counts;
}

} // namespace gempim::llama
