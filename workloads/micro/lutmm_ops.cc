// SPDX-License-Identifier: BSD-3-Clause
// Runs the operations of a file through the instruction and writes their results: the guest half of the test that
// every host of the device gives the same results and counts. The files: ops_file.hh.
#include <algorithm>
#include <bit>
#include <deque>
#include <iterator>
#include <memory>
#include <vector>

#include "blocks.hh"
#include "isa/lutmm.h"
#include "micro.h"
#include "ops_file.hh"
#include "status_name.hh"

static_assert(std::endian::native == std::endian::little, "the files are read and written as memory lies");

namespace {

using namespace gempim::micro;

struct CloseFile {
    void operator()(std::FILE *file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

File open_or_die(const char *path, const char *mode) {
    File file(std::fopen(path, mode));
    if (file == nullptr) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s: %s", path, std::strerror(errno));
    }
    return file;
}

/** A file of operations that is read from its beginning. */
class Reader {
  public:
    explicit Reader(const char *path) : path_(path), file_(open_or_die(path, "rb")) {}

    void bytes(void *to, std::uint64_t count, const char *what) {
        if (std::fread(to, 1, count, file_.get()) != count) {
            micro_die(MICRO_EXIT_BAD_INPUT, "%s: ends within %s", path_, what);
        }
    }
    std::uint32_t u32(const char *what) {
        std::uint32_t value;
        bytes(&value, sizeof value, what);
        return value;
    }
    std::uint64_t u64(const char *what) {
        std::uint64_t value;
        bytes(&value, sizeof value, what);
        return value;
    }
    void expect_end() {
        if (std::fgetc(file_.get()) != EOF) {
            micro_die(MICRO_EXIT_BAD_INPUT, "%s: more bytes than its operations have", path_);
        }
    }
    const char *path() const { return path_; }

  private:
    const char *path_;
    File file_;
};

constexpr std::uint64_t kMostBytes = std::uint64_t{1}
                                     << 30; ///< of one operand: a guest with less memory would fail later

bool in_range(std::uint32_t extent, std::uint32_t most) {
    return extent >= 1 && extent <= most;
}

void expect_bytes(const Reader &reader, std::uint32_t index, const char *what, std::uint64_t got, std::uint64_t want) {
    if (got != want) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s: operation %u has %" PRIu64 " bytes of %s, its shape needs %" PRIu64,
                  reader.path(), index, got, what, want);
    }
}

Operation read_operation(Reader &reader, std::uint32_t index) {
    Operation op;
    op.weight_type = reader.u32("an operation");
    op.m = reader.u32("an operation");
    op.n = reader.u32("an operation");
    op.k = reader.u32("an operation");
    op.weight_bytes = reader.u64("an operation");
    op.activation_bytes = reader.u64("an operation");
    if (op.weight_bytes > kMostBytes || op.activation_bytes > kMostBytes) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s: operation %u: more than %" PRIu64 " bytes of weights or activations",
                  reader.path(), index, kMostBytes);
    }
    const WeightType *type = find_weight_type(op.weight_type);
    const std::uint64_t result_bytes = std::uint64_t{op.m} * op.n * sizeof(float);
    if (type != nullptr && in_range(op.m, GEMPIM_LUTMM_MAX_M) && in_range(op.n, GEMPIM_LUTMM_MAX_N) &&
        in_range(op.k, GEMPIM_LUTMM_MAX_K) && op.k % type->elements == 0) {
        expect_bytes(reader, index, "weights", op.weight_bytes, op.n * type->row_bytes(op.k));
        expect_bytes(reader, index, "activations", op.activation_bytes, op.m * type->activation_row_bytes(op.k));
        if (result_bytes > kMostBytes) {
            micro_die(MICRO_EXIT_BAD_INPUT, "%s: operation %u: more than %" PRIu64 " bytes of results", reader.path(),
                      index, kMostBytes);
        }
        op.results = static_cast<float *>(micro_alloc(result_bytes));
    }
    op.weights = static_cast<std::uint8_t *>(micro_alloc(op.weight_bytes));
    op.activations = static_cast<std::uint8_t *>(micro_alloc(op.activation_bytes));
    reader.bytes(op.weights, op.weight_bytes, "weights");
    reader.bytes(op.activations, op.activation_bytes, "activations");
    return op;
}

std::vector<Operation> read_operations(const char *path) {
    Reader reader(path);
    char magic[8];
    reader.bytes(magic, sizeof magic, "its first 8 bytes");
    if (std::memcmp(magic, kOpsMagic, sizeof magic) != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s: does not begin with %s: not a file of operations", path, kOpsMagic);
    }
    std::vector<Operation> ops;
    const std::uint32_t count = reader.u32("the number of operations");
    for (std::uint32_t i = 0; i < count; ++i) {
        ops.push_back(read_operation(reader, i));
    }
    reader.expect_end();
    return ops;
}

void write_results(const char *path, const std::vector<Operation> &ops) {
    const File file = open_or_die(path, "wb");
    bool good = std::fwrite(kResultsMagic, 1, 8, file.get()) == 8;
    const auto put = [&](const void *from, std::size_t bytes) {
        good = good && std::fwrite(from, 1, bytes, file.get()) == bytes;
    };
    const auto count = static_cast<std::uint32_t>(ops.size());
    put(&count, sizeof count);
    for (const Operation &op : ops) {
        const std::uint32_t head[] = {op.status, op.m, op.n};
        put(head, sizeof head);
        if (op.status == GEMPIM_STATUS_DONE) {
            put(op.results, std::size_t{op.m} * op.n * sizeof(float));
        }
    }
    if (!good || std::fflush(file.get()) != 0) {
        micro_die(MICRO_EXIT_BAD_INPUT, "%s: cannot be written: %s", path, std::strerror(errno));
    }
}

/** What all threads work on. */
struct Job {
    std::vector<Operation> *ops;
    gempim_lutmm_desc *descriptors; ///< one an operation
    std::size_t first;
    std::size_t end;
    std::size_t depth;
    std::size_t checkpoint; ///< after issuing so many operations; 0: never
};

/** Its weights' blocks column after column, where type and shape say what that is. */
void transpose(Operation &op) {
    const WeightType *type = find_weight_type(op.weight_type);
    if (type == nullptr || op.results == nullptr) {
        return;
    }
    auto *to = static_cast<std::uint8_t *>(micro_alloc(op.weight_bytes));
    transpose_blocks(*type, op.weights, op.n, op.k, to);
    op.weights = to;
}

void describe(const Operation &op, bool transposed, gempim_lutmm_desc &d) {
    const WeightType *type = find_weight_type(op.weight_type);
    d = {};
    d.magic = GEMPIM_LUTMM_MAGIC;
    d.weight_type = static_cast<std::uint16_t>(op.weight_type);
    d.m = op.m;
    d.n = op.n;
    d.k = op.k;
    if (transposed) {
        d.flags = GEMPIM_LUTMM_TRANSPOSED;
        d.weight_stride = type == nullptr ? 0 : op.n * type->bytes;
    } else {
        d.weight_stride = type == nullptr ? 0 : static_cast<std::uint32_t>(type->row_bytes(op.k));
    }
    d.activation_stride = type == nullptr ? 0 : static_cast<std::uint32_t>(type->activation_row_bytes(op.k));
    d.result_stride = op.n * static_cast<std::uint32_t>(sizeof(float));
    d.weights = reinterpret_cast<std::uintptr_t>(op.weights);
    d.activations = reinterpret_cast<std::uintptr_t>(op.activations);
    d.results = reinterpret_cast<std::uintptr_t>(op.results);
    d.status = GEMPIM_STATUS_PENDING;
}

struct Outstanding {
    std::size_t op;
    std::int64_t ticket;
};

void finish_oldest(Job &job, std::deque<Outstanding> &outstanding) {
    const Outstanding oldest = outstanding.front();
    outstanding.pop_front();
    const std::int64_t status = gempim_lutmm_finish(oldest.ticket);
    const std::uint32_t written = __atomic_load_n(&job.descriptors[oldest.op].status, __ATOMIC_ACQUIRE);
    if (status != static_cast<std::int64_t>(written)) {
        micro_die(MICRO_EXIT_WRONG_RESULT, "operation %zu: wait answers %s, the descriptor says %s", oldest.op,
                  status_name(status), status_name(written));
    }
    (*job.ops)[oldest.op].status = written;
}

/** Operations first + thread, first + thread + threads, ... with up to `depth` of them outstanding. */
void run_share(void *context, micro_team *team, unsigned thread) {
    Job &job = *static_cast<Job *>(context);
    std::deque<Outstanding> outstanding;
    for (std::size_t i = job.first + thread; i < job.end; i += team->threads) {
        if (outstanding.size() == job.depth) {
            finish_oldest(job, outstanding);
        }
        const std::int64_t ticket = gempim_lutmm_start(&job.descriptors[i]);
        if (ticket > 0) {
            outstanding.push_back({i, ticket});
        } else {
            (*job.ops)[i].status = static_cast<std::uint32_t>(-ticket);
        }
        if (i + 1 == job.checkpoint) {
            gempim_m5_checkpoint();
        }
    }
    while (!outstanding.empty()) {
        finish_oldest(job, outstanding);
    }
}

} // namespace

int main(int argc, char **argv) {
    std::uint64_t depth = 1;
    std::uint64_t threads = 1;
    std::uint64_t checkpoint = 0;
    int roi_each = 0;
    int transposed = 0;
    const micro_option options[] = {
        micro_number("--depth", &depth, 1, 4096, "commands that a thread has outstanding"),
        micro_number("--threads", &threads, 1, MICRO_MAX_THREADS, "threads; they take operations in turn"),
        micro_flag("--roi", &roi_each, "every operation is a region of interest; without it all are one"),
        micro_flag("--transposed", &transposed, "the weights are given to the device column of blocks after column"),
        micro_number("--checkpoint", &checkpoint, 0, UINT32_MAX,
                     "in gem5: take a checkpoint when so many operations have been issued (0: none)"),
        micro_m5_option(),
    };
    const char *paths[2];
    micro_parse(argc, argv, "lutmm_ops", "OPERATIONS RESULTS [options]", options, std::size(options), paths, 2);
    if (roi_each != 0 && (depth != 1 || threads != 1)) {
        micro_die(MICRO_EXIT_BAD_INPUT, "--roi: expected --depth 1 and --threads 1, as regions must not overlap");
    }
    const std::int64_t tickets = gempim_lutmm_query(GEMPIM_QUERY_TICKETS);
    if (static_cast<std::int64_t>(depth * threads) > tickets) {
        micro_die(MICRO_EXIT_BAD_INPUT,
                  "--depth %" PRIu64 " --threads %" PRIu64 ": expected a product of at most %" PRId64
                  ", the commands that the device can have outstanding",
                  depth, threads, tickets);
    }
    std::vector<Operation> ops = read_operations(paths[0]);
    auto *descriptors = static_cast<gempim_lutmm_desc *>(micro_alloc(ops.size() * sizeof(gempim_lutmm_desc)));
    for (std::size_t i = 0; i < ops.size(); ++i) {
        if (transposed != 0) {
            transpose(ops[i]);
        }
        describe(ops[i], transposed != 0, descriptors[i]);
    }
    micro_team *team = micro_team_start(static_cast<unsigned>(threads));
    Job job{&ops, descriptors, 0, ops.size(), depth, checkpoint};
    if (roi_each != 0) {
        for (std::size_t i = 0; i < ops.size(); ++i) {
            job.first = i;
            job.end = i + 1;
            micro_roi_begin();
            micro_team_run(team, run_share, &job);
            micro_roi_end("op%zu.type%u.m%u.n%u.k%u", i, ops[i].weight_type, ops[i].m, ops[i].n, ops[i].k);
        }
    } else {
        micro_roi_begin();
        micro_team_run(team, run_share, &job);
        micro_roi_end("ops.d%" PRIu64 ".t%" PRIu64, depth, threads);
    }
    micro_team_stop(team);
    write_results(paths[1], ops);
    std::size_t done = 0;
    for (const Operation &op : ops) {
        done += op.status == GEMPIM_STATUS_DONE ? 1 : 0;
    }
    printf("%zu operations, %zu done\n", ops.size(), done);
    if (checkpoint != 0) {
        // gem5 does not end when a program exits whose threads it restored from a checkpoint: tell it to.
        fflush(stdout);
        gempim_m5_exit();
    }
    return 0;
}
