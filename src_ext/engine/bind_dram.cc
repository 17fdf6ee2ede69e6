// SPDX-License-Identifier: BSD-3-Clause
#include "engine/bind_fields.hh"
#include "models/dram/dram_system.hh"

namespace gempim::bind {

namespace {

using dram::DramCounters;
using dram::DramParams;
using dram::DramSystem;

constexpr const char *kClassDoc = R"(All channels of one DRAM technology, command by command or fast-forwarded.

DramSystem(params: dict, channels: int, fast_forward: bool = True). `params` holds exactly the fields of dram_param_info();
`channels` counts DIMM channels (a DDR5 channel has two sub-channels). Raises ParamError naming the parameter and what is
allowed. All times are integer picoseconds, all addresses and sizes bytes.)";

constexpr const char *kTraceDoc = R"(Commands recorded since record_trace(limit), one tuple a command:
(time_ps, channel, command, rank, bank_group, bank, row, column), sorted by channel, then time. `channel` counts sub-channels,
`bank_group` and `bank` count inside their rank and group; fields that the command does not have are 0.)";

py::list trace_to_list(const DramSystem &system) {
    py::list out;
    const DramParams &p = system.params();
    for (const auto &[channel, traced] : system.trace()) {
        const auto &c = traced.command;
        const std::uint32_t bank = c.bank % p.banks_per_rank();
        out.append(py::make_tuple(traced.time, channel, dram::op_name(c.op), c.rank, bank / p.banks_per_group,
                                  bank % p.banks_per_group, c.row, c.column));
    }
    return out;
}

} // namespace

void bind_dram(py::module_ &m) {
    m.def("dram_param_info", &param_info<DramParams>,
          "Parameters of DramSystem: name, unit, description, min, max, type.");
    m.def("dram_counter_info", &counter_info<DramCounters>, "Counters of DramSystem: name, unit, description.");
    m.def(
        "dram_not_modelled",
        [] { return std::vector<std::string>(std::begin(dram::kNotModelled), std::end(dram::kNotModelled)); },
        "What DramSystem leaves out, one sentence each.");
    py::class_<DramSystem, MemoryPort>(m, "DramSystem", kClassDoc)
        .def(py::init([](const py::dict &params, std::uint32_t channels, bool fast_forward) {
                 return std::make_unique<DramSystem>(params_from_dict<DramParams>(params, "dram"), channels,
                                                     fast_forward);
             }),
             py::arg("params"), py::arg("channels"), py::arg("fast_forward") = true)
        .def("transfer", &DramSystem::transfer, py::arg("addr"), py::arg("bytes"), py::arg("write"),
             py::arg("start_ps"),
             "Transfer contiguous bytes, not before start_ps (non-decreasing over calls). Returns the time of the last "
             "data "
             "beat [ps]. Raises ValueError beyond the capacity.")
        .def(
            "mixed",
            [](DramSystem &s, std::uint64_t read_bytes, std::uint64_t write_bytes, Ps start, std::uint64_t read_addr,
               std::optional<std::uint64_t> write_addr) {
                return s.mixed(read_addr, read_bytes, write_addr.value_or(s.default_write_addr(write_bytes)),
                               write_bytes, start);
            },
            py::arg("read_bytes"), py::arg("write_bytes"), py::arg("start_ps"), py::arg("read_addr") = 0,
            py::arg("write_addr") = py::none(),
            "A read and a write stream, evenly interleaved. Without write_addr the writes go to the far end of the "
            "memory. "
            "Returns the time of the last data beat [ps].")
        .def("advance", &DramSystem::advance, py::arg("time_ps"),
             "Let time pass: standby time and refreshes up to time_ps are counted.")
        .def(
            "counters", [](const DramSystem &s) { return counters_to_dict(s.counters()); },
            "Counters of all channels by name (dram_counter_info), up to now_ps.")
        .def("reset_counters", &DramSystem::reset_counters, "Finish what is queued and set every counter to zero.")
        .def("record_trace", &DramSystem::record_trace, py::arg("limit"),
             "Finish what is queued, then record the next `limit` commands of every channel (0: stop). Raises "
             "RuntimeError when fast-forwarding.")
        .def("trace", &trace_to_list, kTraceDoc)
        .def_property_readonly("trace_truncated", &DramSystem::trace_truncated,
                               "Whether a channel had more commands than the limit.")
        .def_property_readonly("now_ps", &DramSystem::now, "Latest of all completions and advance() calls [ps].")
        .def_property_readonly("peak_bytes_per_s", &DramSystem::peak_bytes_per_s, "Data-bus bandwidth of all channels.")
        .def_property_readonly("capacity_bytes", &DramSystem::capacity_bytes, "Capacity of all channels.")
        .def_property_readonly("fast_forward", &DramSystem::fast_forward, "Whether long transfers are extrapolated.");
}

} // namespace gempim::bind
