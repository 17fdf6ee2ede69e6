// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstring>
#include <string_view>

#include "engine/bind_fields.hh"
#include "models/logic_pim/logic_pim.hh"
#include "models/logic_pim/pim_channel.hh"
#include "models/logic_pim/values.hh"

namespace gempim::bind {

namespace {

using dram::DramParams;
using logic_pim::Beside;
using logic_pim::Cost;
using logic_pim::Job;
using logic_pim::JobKind;
using logic_pim::LogicPim;
using logic_pim::LogicPimCounters;
using logic_pim::LogicPimParams;

using Spaces = std::vector<std::uint32_t>;

constexpr const char *kClassDoc = R"(The PIM of one device, operator by operator.

LogicPim(params: dict, dram: dict, stacks: int). `params` holds exactly the fields of logic_pim_param_info(), `dram` those of
dram_param_info(). Raises ParamError naming the parameter and what is allowed. Operators return (pim_ps, xpu_ps, counts):
when the PIM and the xPU's concurrent reads are done [ps], and the events of the whole device by name
(logic_pim_counter_info()). Raises ValueError for sizes or spaces that cannot be. See gempim.engines.logic_pim.)";

constexpr const char *kChannelDoc =
    R"(Run jobs of the PIM beside requests of the xPU on one pseudo-channel, command by command.

jobs: tuples (kind, columns, sweeps, quanta, spaces, after, vector_unit, vector_ps) with kind "read", "write" or
"bank_write"; see src_ext/models/logic_pim/work.hh. requests: tuples (write, bank, row, column), bank counted through all
ranks. Returns (pim_ps, xpu_ps, counts, trace): counts of what one channel alone can count, and the first `limit` commands
as bytes of little-endian rows of 8 signed 64-bit integers (time_ps, command, rank, bank group or -1, bank or bundle, row,
column, 0); commands are numbered ACT PRE RD WR REF REFpb BACT BPRE BRD BWR from 0. Raises RuntimeError if the model breaks
a rule of its own.)";

py::tuple cost_tuple(const Cost &cost) {
    return py::make_tuple(cost.pim_ps, cost.xpu_ps, counters_to_dict(cost.counters));
}

using JobTuple =
    std::tuple<std::string, std::uint64_t, std::uint32_t, std::uint32_t, Spaces, std::int32_t, std::int32_t, Ps>;
using RequestTuple = std::tuple<bool, std::uint32_t, std::uint32_t, std::uint32_t>;

Job job_from(const JobTuple &t) {
    Job job;
    const std::string &kind = std::get<0>(t);
    if (kind != "read" && kind != "write" && kind != "bank_write") {
        throw std::invalid_argument("kind = '" + kind + "': allowed are read, write, bank_write");
    }
    job.kind = kind == "read" ? JobKind::kRead : kind == "write" ? JobKind::kWrite : JobKind::kBankWrite;
    job.columns = std::get<1>(t);
    job.sweeps = std::get<2>(t);
    job.quanta = std::get<3>(t);
    job.spaces = std::get<4>(t);
    job.after = std::get<5>(t);
    job.vector_unit = static_cast<std::int8_t>(std::get<6>(t));
    job.vector_ps = std::get<7>(t);
    return job;
}

py::bytes trace_bytes(const dram::Trace &trace, const DramParams &d) {
    std::vector<std::int64_t> out;
    out.reserve(trace.commands.size() * 8);
    for (const auto &[time, c] : trace.commands) {
        const bool bundle = c.op >= dram::Op::kBundleAct;
        const std::uint32_t in_rank = c.bank % d.banks_per_rank();
        const std::int64_t group = bundle ? -1 : in_rank / d.banks_per_group;
        const std::int64_t bank = bundle ? c.bank : in_rank % d.banks_per_group;
        out.insert(out.end(),
                   {static_cast<std::int64_t>(time), static_cast<std::int64_t>(c.op), static_cast<std::int64_t>(c.rank),
                    group, bank, static_cast<std::int64_t>(c.row), static_cast<std::int64_t>(c.column), 0});
    }
    return {reinterpret_cast<const char *>(out.data()), out.size() * sizeof(std::int64_t)};
}

py::tuple run_channel(const py::dict &params, const py::dict &dram_dict, const std::vector<JobTuple> &job_tuples,
                      const std::vector<RequestTuple> &request_tuples, std::size_t limit) {
    const auto p = params_from_dict<LogicPimParams>(params, "logic_pim");
    const auto d = params_from_dict<DramParams>(dram_dict, "dram");
    logic_pim::check(p, d);
    const logic_pim::Geometry geometry(p, d);
    std::vector<Job> jobs;
    for (const JobTuple &t : job_tuples) {
        jobs.push_back(job_from(t));
        const Job &j = jobs.back();
        const bool spaces_ok = !j.spaces.empty() && std::all_of(j.spaces.begin(), j.spaces.end(),
                                                                [&](std::uint32_t s) { return s < geometry.spaces; });
        if (j.columns == 0 || j.sweeps == 0 || !spaces_ok || j.after >= static_cast<std::int32_t>(jobs.size()) - 1 ||
            j.vector_unit > 1) {
            throw std::invalid_argument("job " + std::to_string(jobs.size() - 1) +
                                        ": needs columns, sweeps, spaces that exist, an earlier job to come after");
        }
    }
    std::vector<logic_pim::XpuRequest> requests;
    for (const auto &[write, bank, row, column] : request_tuples) {
        if (bank >= d.ranks * d.banks_per_rank() || row >= d.rows || column >= d.columns()) {
            throw std::invalid_argument("request " + std::to_string(requests.size()) + ": no such bank, row or column");
        }
        requests.push_back({{bank, row, column}, write});
    }
    logic_pim::XpuList traffic(std::move(requests));
    dram::Trace trace;
    trace.limit = limit;
    const logic_pim::ChannelResult r =
        logic_pim::run_channel(p, d, std::move(jobs), traffic, limit > 0 ? &trace : nullptr);
    return py::make_tuple(r.pim_ps, r.xpu_ps, counters_to_dict(r.counters), trace_bytes(trace, d));
}

logic_pim::Format format_from(const std::string &name) {
    if (name != "fp16" && name != "bf16") {
        throw std::invalid_argument("format = '" + name + "': allowed are fp16, bf16");
    }
    return name == "fp16" ? logic_pim::Format::kFp16 : logic_pim::Format::kBf16;
}

/** The 16-bit numbers in `bytes`. @throws std::invalid_argument unless there are `count` */
std::vector<std::uint16_t> halves(const py::bytes &bytes, std::size_t count, const std::string &name) {
    const std::string_view view = bytes;
    if (view.size() != 2 * count) {
        throw std::invalid_argument(name + ": " + std::to_string(view.size()) + " bytes, expected " +
                                    std::to_string(2 * count));
    }
    std::vector<std::uint16_t> out(count);
    std::memcpy(out.data(), view.data(), view.size());
    return out;
}

py::bytes bytes_of(const std::vector<std::uint16_t> &values) {
    return {reinterpret_cast<const char *>(values.data()), 2 * values.size()};
}

py::bytes gemm_values(const py::bytes &weights, const py::bytes &inputs, std::size_t n, std::size_t k,
                      std::size_t tokens, const std::string &format, std::size_t column_weights) {
    if (column_weights == 0) {
        throw std::invalid_argument("column_weights = 0: expected at least 1");
    }
    const logic_pim::Format form = format_from(format);
    const std::vector<std::uint16_t> w = halves(weights, n * k, "weights");
    const std::vector<std::uint16_t> x = halves(inputs, tokens * k, "inputs");
    std::vector<std::uint16_t> results(n * tokens);
    logic_pim::gemm_values(w, x, results, n, k, tokens, form, {column_weights, 1});
    return bytes_of(results);
}

py::bytes gated_values(const py::bytes &gate, const py::bytes &up, const std::string &format) {
    const std::size_t count = py::len(gate) / 2;
    std::vector<std::uint16_t> results(count);
    const std::vector<std::uint16_t> g = halves(gate, count, "gate");
    const std::vector<std::uint16_t> u = halves(up, count, "up");
    logic_pim::gated_values(g, u, results, format_from(format));
    return bytes_of(results);
}

py::bytes attention_values(const py::bytes &queries, const py::bytes &keys, const py::bytes &values, std::size_t group,
                           std::size_t head_dim, std::size_t length, float scale, const std::string &format,
                           std::size_t column_weights, std::size_t modules) {
    if (column_weights == 0 || modules == 0 || length == 0) {
        throw std::invalid_argument("column_weights, modules and length must be at least 1");
    }
    const logic_pim::Format form = format_from(format);
    const std::vector<std::uint16_t> q = halves(queries, group * head_dim, "queries");
    const std::vector<std::uint16_t> k = halves(keys, length * head_dim, "keys");
    const std::vector<std::uint16_t> v = halves(values, length * head_dim, "values");
    std::vector<std::uint16_t> outputs(group * head_dim);
    logic_pim::attention_values(q, k, v, outputs, group, head_dim, length, scale, form, {column_weights, modules});
    return bytes_of(outputs);
}

} // namespace

void bind_logic_pim(py::module_ &m) {
    m.def(
        "logic_pim_gemm_values", &gemm_values, py::arg("weights"), py::arg("inputs"), py::arg("n"), py::arg("k"),
        py::arg("tokens"), py::arg("format"), py::arg("column_weights"),
        "Results [tokens, n] of weights [n, k] and inputs [tokens, k] as the GEMM modules compute them; operands and "
        "results as bytes of 16-bit numbers, format fp16 or bf16. See src_ext/models/logic_pim/values.hh for the order "
        "of the sums and the error bound.");
    m.def("logic_pim_gated_values", &gated_values, py::arg("gate"), py::arg("up"), py::arg("format"),
          "up * silu(gate) as the activation unit computes it, element by element.");
    m.def("logic_pim_attention_values", &attention_values, py::arg("queries"), py::arg("keys"), py::arg("values"),
          py::arg("group"), py::arg("head_dim"), py::arg("length"), py::arg("scale"), py::arg("format"),
          py::arg("column_weights"), py::arg("modules"),
          "Outputs [group, head_dim] of one KV head: queries [group, head_dim], keys and values [length, head_dim].");
    m.def("logic_pim_param_info", &param_info<LogicPimParams>,
          "Parameters of LogicPim: name, unit, description, min, max, type.");
    m.def("logic_pim_counter_info", &counter_info<LogicPimCounters>, "Counters of LogicPim: name, unit, description.");
    m.def(
        "logic_pim_not_modelled",
        [] { return std::vector<std::string>(std::begin(logic_pim::kNotModelled), std::end(logic_pim::kNotModelled)); },
        "What LogicPim leaves out, one sentence each.");
    m.def("logic_pim_channel", &run_channel, py::arg("params"), py::arg("dram"), py::arg("jobs"), py::arg("requests"),
          py::arg("limit") = 0, kChannelDoc);
    py::class_<LogicPim>(m, "LogicPim", kClassDoc)
        .def(py::init([](const py::dict &params, const py::dict &dram, std::uint32_t stacks) {
                 return std::make_unique<LogicPim>(params_from_dict<LogicPimParams>(params, "logic_pim"),
                                                   params_from_dict<DramParams>(dram, "dram"), stacks);
             }),
             py::arg("params"), py::arg("dram"), py::arg("stacks"))
        .def(
            "gemm",
            [](const LogicPim &p, std::uint64_t n, std::uint64_t k, std::uint64_t tokens, const Spaces &spaces,
               std::uint64_t beside_bytes, const Spaces &beside_spaces, const std::string &split) {
                if (split != "n" && split != "k") {
                    throw std::invalid_argument("split = '" + split + "': allowed are n, k");
                }
                return cost_tuple(p.gemm(n, k, tokens, spaces, {beside_bytes, beside_spaces}, split == "k"));
            },
            py::arg("n"), py::arg("k"), py::arg("tokens"), py::arg("spaces"), py::arg("beside_bytes"),
            py::arg("beside_spaces"), py::arg("split"), "Activations [tokens, k] times weights [n, k].")
        .def(
            "expert",
            [](const LogicPim &p, std::uint64_t d_model, std::uint64_t d_ff, std::uint64_t tokens, bool gated,
               const Spaces &spaces, std::uint64_t beside_bytes, const Spaces &beside_spaces) {
                return cost_tuple(p.expert(d_model, d_ff, tokens, gated, spaces, {beside_bytes, beside_spaces}));
            },
            py::arg("d_model"), py::arg("d_ff"), py::arg("tokens"), py::arg("gated"), py::arg("spaces"),
            py::arg("beside_bytes"), py::arg("beside_spaces"), "One expert: gate, up, activation, down.")
        .def(
            "attention",
            [](const LogicPim &p, std::uint32_t heads, std::uint32_t group, std::uint32_t head_dim,
               const std::vector<std::uint64_t> &lengths, const Spaces &spaces, std::uint64_t beside_bytes,
               const Spaces &beside_spaces) {
                return cost_tuple(p.attention(heads, group, head_dim, lengths, spaces, {beside_bytes, beside_spaces}));
            },
            py::arg("heads"), py::arg("group"), py::arg("head_dim"), py::arg("lengths"), py::arg("spaces"),
            py::arg("beside_bytes"), py::arg("beside_spaces"), "Decode attention: K, softmax, V.")
        .def(
            "xpu_stream",
            [](const LogicPim &p, std::uint64_t bytes, const Spaces &spaces) {
                return cost_tuple(p.xpu_stream({bytes, spaces}));
            },
            py::arg("bytes"), py::arg("spaces"), "Reads of the xPU alone.")
        .def_property_readonly("spaces", &LogicPim::spaces, "Memory spaces: bundles of a pseudo-channel.")
        .def_property_readonly("space_bytes", &LogicPim::space_bytes, "Bytes of one space on the device.")
        .def_property_readonly(
            "tokens_held", [](const LogicPim &p) { return p.geometry().tokens_held; },
            "Tokens that a module's buffer holds.")
        .def_property_readonly(
            "column_bytes", [](const LogicPim &p) { return p.geometry().column_bytes; },
            "Bytes of one column of a bundle.")
        .def_property_readonly("pim_peak_bytes_per_s", &LogicPim::pim_peak_bytes_per_s,
                               "Bandwidth of the PIM's path, without refresh and row misses.")
        .def_property_readonly("xpu_peak_bytes_per_s", &LogicPim::xpu_peak_bytes_per_s, "Bandwidth of the xPU's path.")
        .def_property_readonly("peak_flops_per_s", &LogicPim::peak_flops_per_s, "Peak rate of the GEMM modules.");
}

} // namespace gempim::bind
