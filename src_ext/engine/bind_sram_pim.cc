// SPDX-License-Identifier: BSD-3-Clause
// Python face of the SRAM-PIM model and of the ggml block formats.
#include <pybind11/numpy.h>

#include <cstring>
#include <optional>

#include "engine/bind_fields.hh"
#include "engine/fixed_bandwidth_memory.hh"
#include "models/common/memory_port.hh"
#include "models/ggml/activations.hh"
#include "models/ggml/formats.hh"
#include "models/sram_pim/multiply.hh"
#include "models/sram_pim/sram_pim.hh"
#include "models/sram_pim/tile_pipeline.hh"

namespace gempim::bind {

namespace {

using namespace gempim::sram_pim;
using engine::FixedBandwidthMemory;

const ggml::BlockFormat &format_or_throw(const std::string &name) {
    const ggml::BlockFormat *format = ggml::find_format(name);
    if (format == nullptr) {
        throw ParamError("ggml type \"" + name + "\": not a block format known here; allowed are " +
                         std::string(ggml::format_names()));
    }
    return *format;
}

/** A C-contiguous matrix of exactly that element type: no silent conversion. */
template <class T>
py::array_t<T, py::array::c_style> matrix(const py::array &array, const char *what, const char *dtype) {
    if (!py::isinstance<py::array_t<T>>(array) || array.ndim() != 2) {
        throw ParamError(std::string(what) + ": expected a two-dimensional array of " + dtype);
    }
    return py::array_t<T, py::array::c_style>::ensure(array);
}

template <class T> py::array_t<T> to_array(const std::vector<T> &values, py::ssize_t rows, py::ssize_t columns) {
    py::array_t<T> out({rows, columns});
    std::memcpy(out.mutable_data(), values.data(), values.size() * sizeof(T));
    return out;
}

ggml::ActivationKind activation_kind(const std::string &name) {
    if (name == "q8_0") {
        return ggml::ActivationKind::q8_0;
    }
    if (name == "q8_1") {
        return ggml::ActivationKind::q8_1;
    }
    if (name == "q8_k" || name == "q8_K") {
        return ggml::ActivationKind::q8_k;
    }
    throw ParamError("activation kind \"" + name + "\": allowed are q8_0, q8_1, q8_K");
}

const char *activation_name(ggml::ActivationKind kind) {
    switch (kind) {
    case ggml::ActivationKind::q8_0:
        return "q8_0";
    case ggml::ActivationKind::q8_1:
        return "q8_1";
    case ggml::ActivationKind::q8_k:
        break;
    }
    return "q8_K";
}

py::dict format_dict(const ggml::BlockFormat &f) {
    py::dict d;
    d["name"] = f.name;
    d["block_elements"] = f.elements;
    d["block_bytes"] = f.bytes;
    d["weight_bits"] = f.weight_bits;
    d["weight_signed"] = f.weight_signed;
    d["sub_elements"] = f.sub_elements;
    d["sub_scale_bits"] = f.sub_scale_bits;
    d["sub_min_bits"] = f.sub_min_bits;
    d["has_min"] = f.has_min;
    d["activation"] = activation_name(f.activation);
    return d;
}

std::size_t whole_blocks(const ggml::BlockFormat &format, std::size_t bytes) {
    if (bytes % format.bytes != 0) {
        throw ParamError("blocks of " + std::string(format.name) + ": " + std::to_string(bytes) +
                         " bytes are no multiple of " + std::to_string(format.bytes));
    }
    return bytes / format.bytes;
}

py::array_t<float> dequantize(const py::bytes &blocks, const std::string &type) {
    const ggml::BlockFormat &format = format_or_throw(type);
    const std::string_view data = blocks;
    const std::size_t count = whole_blocks(format, data.size());
    py::array_t<float> out(static_cast<py::ssize_t>(count * format.elements));
    for (std::size_t b = 0; b < count; ++b) {
        ggml::dequantize_block(format, reinterpret_cast<const std::uint8_t *>(data.data()) + b * format.bytes,
                               out.mutable_data() + b * format.elements);
    }
    return out;
}

py::dict decode_blocks(const py::bytes &blocks, const std::string &type) {
    const ggml::BlockFormat &format = format_or_throw(type);
    const std::string_view data = blocks;
    const auto count = static_cast<py::ssize_t>(whole_blocks(format, data.size()));
    const auto subs = static_cast<py::ssize_t>(format.sub_scale_bits != 0 ? format.sub_blocks() : 0);
    const auto mins = static_cast<py::ssize_t>(format.sub_min_bits != 0 ? format.sub_blocks() : 0);
    py::array_t<std::int8_t> q({count, static_cast<py::ssize_t>(format.elements)});
    py::array_t<std::int8_t> scale({count, subs});
    py::array_t<std::uint8_t> minimum({count, mins});
    py::array_t<float> d(count);
    py::array_t<float> m(count);
    for (py::ssize_t b = 0; b < count; ++b) {
        ggml::DecodedBlock block;
        ggml::decode_block(format, reinterpret_cast<const std::uint8_t *>(data.data()) + b * format.bytes, block);
        std::memcpy(q.mutable_data() + b * format.elements, block.q.data(), format.elements);
        std::memcpy(scale.mutable_data() + b * subs, block.scale.data(), static_cast<std::size_t>(subs));
        std::memcpy(minimum.mutable_data() + b * mins, block.min.data(), static_cast<std::size_t>(mins));
        d.mutable_data()[b] = block.d;
        m.mutable_data()[b] = block.m;
    }
    py::dict out;
    out["q"] = q;
    out["scale"] = scale;
    out["min"] = minimum;
    out["d"] = d;
    out["m"] = m;
    return out;
}

py::dict quantize(const py::array &x, const std::string &kind, unsigned bits) {
    const auto values = matrix<float>(x, "activations", "float32");
    const ggml::QuantizedActivations a =
        ggml::quantize_activations(values.data(), static_cast<std::size_t>(values.shape(0)),
                                   static_cast<std::size_t>(values.shape(1)), activation_kind(kind), bits);
    const auto m = static_cast<py::ssize_t>(a.m);
    const auto k = static_cast<py::ssize_t>(a.k);
    py::dict out;
    out["q"] = to_array(a.q, m, k);
    out["d"] = to_array(a.d, m, k / a.block);
    if (!a.s.empty()) {
        out["s"] = to_array(a.s, m, k / a.block);
    }
    if (!a.sums.empty()) {
        out["sums"] = to_array(a.sums, m, k / 16);
    }
    return out;
}

py::tuple prt_hits(const py::array &activations, unsigned nbw, unsigned group, unsigned activation_bits,
                   unsigned entries, const std::string &scope, const std::string &policy,
                   std::size_t vectors_per_pass) {
    const auto a = matrix<std::int8_t>(activations, "activations", "int8");
    const auto m = static_cast<std::size_t>(a.shape(0));
    const auto k = static_cast<std::size_t>(a.shape(1));
    const auto check = [](bool good, const std::string &message) {
        if (!good) {
            throw ParamError("prt_hits " + message);
        }
    };
    check(nbw >= 1 && nbw <= 8, "nbw = " + std::to_string(nbw) + ": allowed are 1 to 8");
    check(activation_bits >= 1 && activation_bits <= 8, "activation_bits: allowed are 1 to 8");
    check(entries >= 1, "entries: must be positive");
    check(scope == "vector" || scope == "group", "scope: allowed are \"vector\" and \"group\"");
    check(policy == "lru" || policy == "fifo", "policy: allowed are \"lru\" and \"fifo\"");
    check(group >= 1 && k % group == 0, "group = " + std::to_string(group) + ": k must be a multiple of it");
    const PatternHits hits =
        measure_pattern_hits(a.data(), m, k, group, group, nbw, activation_bits,
                             vectors_per_pass == 0 ? std::max<std::size_t>(m, 1) : vectors_per_pass,
                             PatternPolicy{entries, scope == "group", policy == "fifo"});
    return py::make_tuple(hits.lookups, hits.hits);
}

py::dict plan_dict(const SramPim &device, const Matmul &work, bool with_tiles) {
    const MatmulPlan &p = *work.plan;
    py::dict d;
    d["m"] = p.m;
    d["n"] = p.n;
    d["k"] = p.k;
    d["nbw"] = p.nbw;
    d["vectors_per_pass"] = p.vectors_per_pass;
    d["passes"] = p.passes();
    d["rows_used"] = p.rows_used;
    d["arrays_used"] = p.arrays_used;
    d["tile_n"] = p.tile_n;
    d["tile_k"] = p.tile_units * p.shape.unit_elements;
    d["tiles"] = p.tiles.size();
    d["strips"] = p.strips;
    d["k_tiles"] = p.k_tiles;
    d["parts"] = p.parts;
    d["slices_used"] = p.slices_used;
    d["weight_bytes"] = p.weight_bytes;
    d["llc_staging_bytes"] = p.staging_bytes_per_slice * p.slices_used;
    d["rounding_steps"] = p.shape.raw_integer ? 0 : rounding_steps(device.params(), p);
    if (with_tiles) {
        py::list tiles;
        for (std::size_t i = 0; i < p.tiles.size(); ++i) {
            const Tile &t = p.tiles[i];
            py::dict e;
            e["strip"] = t.strip;
            e["slice"] = t.slice;
            e["first_n"] = t.first_column;
            e["n"] = t.shape.columns;
            e["first_k"] = t.shape.first_unit * p.shape.unit_elements;
            e["k"] = t.shape.units * p.shape.unit_elements;
            e["merges"] = t.shape.merges;
            e["ends_chain"] = t.ends_chain;
            e["offset_bytes"] = t.offset_bytes;
            e["bytes"] = t.bytes;
            e["cycles"] = work.cost(i).cycles;
            tiles.append(e);
        }
        d["tile_list"] = tiles;
        py::list combine;
        for (const TileCost &cost : work.combine_costs) {
            combine.append(cost.cycles);
        }
        d["combine_cycles"] = combine;
    }
    return d;
}

/** Drive a product and describe what happened. */
py::dict timed(SramPim &device, Matmul work, MemoryPort *memory, std::uint64_t weight_addr, std::uint64_t result_addr,
               Ps start, std::optional<Ps> load_start) {
    const Ps load_from = load_start.value_or(start);
    if (load_from > start) {
        throw ParamError("load_start_ps = " + std::to_string(load_from) +
                         " ps: must not be after start_ps = " + std::to_string(start));
    }
    const SramPimCounters before = device.counters();
    const auto plan = work.plan;
    const MatmulTiming t = drive(device, std::move(work), memory, weight_addr, result_addr, load_from, start);
    py::dict delta;
    const py::dict old_values = counters_to_dict(before);
    const py::dict new_values = counters_to_dict(device.counters());
    for (const auto &item : new_values) {
        delta[item.first] = item.second.cast<std::uint64_t>() - old_values[item.first].cast<std::uint64_t>();
    }
    py::dict d;
    d["start_ps"] = start;
    d["end_ps"] = t.end_ps;
    d["load_end_ps"] = t.load_end_ps;
    d["load_ps"] = t.load_ps;
    d["compute_ps"] = t.compute_ps;
    d["convert_ps"] = t.convert_ps;
    d["reduce_ps"] = t.reduce_ps;
    d["write_ps"] = t.write_ps;
    d["exposed_load_ps"] = t.exposed_load_ps;
    d["limiter"] = t.write_ps > std::max(t.load_ps, t.compute_ps) ? "write"
                   : t.load_ps > t.compute_ps                     ? "memory"
                                                                  : "compute";
    d["tiles"] = plan->tiles.size();
    d["commands"] = delta["commands"];
    d["nbw"] = plan->nbw;
    d["passes"] = plan->passes();
    d["counters"] = delta;
    return d;
}

GemvShape shape_for(SramPim &device, const std::string &type) {
    try {
        return shape_of(format_or_throw(type), device.params().activation_bits);
    } catch (const ParamError &) {
        device.count_rejected();
        throw;
    }
}

py::tuple run_matmul(SramPim &device, const py::bytes &weights, const std::string &type, std::uint64_t n,
                     std::uint64_t k, const py::array &activations, MemoryPort *memory, std::uint64_t weight_addr,
                     Ps start) {
    const GemvShape shape = shape_for(device, type);
    const ggml::BlockFormat &format = format_or_throw(type);
    const auto x = matrix<float>(activations, "activations", "float32");
    const auto m = static_cast<std::size_t>(x.shape(0));
    if (static_cast<std::uint64_t>(x.shape(1)) != k) {
        throw ParamError("activations: " + std::to_string(x.shape(1)) + " columns, expected k = " + std::to_string(k));
    }
    const auto plan = device.plan(shape, m, n, k);
    const std::string_view data = weights;
    if (data.size() != plan->weight_bytes) {
        throw ParamError("weights: " + std::to_string(data.size()) + " bytes, expected " +
                         std::to_string(plan->weight_bytes) + " for [" + std::to_string(n) + ", " + std::to_string(k) +
                         "] " + format.name);
    }
    const ggml::QuantizedActivations a =
        ggml::quantize_activations(x.data(), m, k, format.activation, device.params().activation_bits);
    const PatternHits hits = device.measure_hits(*plan, a.q.data());
    const std::vector<float> out =
        multiply(device.params(), *plan, format,
                 WeightBlocks::rows(reinterpret_cast<const std::uint8_t *>(data.data()), *plan), a);
    py::dict timing = timed(device, device.with_hits(plan, hits), memory, weight_addr, 0, start, std::nullopt);
    timing["hit_rate"] = hits.lookups == 0 ? 0.0 : static_cast<double>(hits.hits) / static_cast<double>(hits.lookups);
    timing["rounding_steps"] = rounding_steps(device.params(), *plan);
    return py::make_tuple(to_array(out, static_cast<py::ssize_t>(m), static_cast<py::ssize_t>(n)), timing);
}

/** Rows of int8, padded with zeros to whole units of 32. */
std::vector<std::int8_t> padded(const std::int8_t *from, std::size_t rows, std::size_t k, std::size_t padded_k) {
    std::vector<std::int8_t> out(rows * padded_k, 0);
    for (std::size_t r = 0; r < rows; ++r) {
        std::memcpy(out.data() + r * padded_k, from + r * k, k);
    }
    return out;
}

py::tuple run_int_gemv(SramPim &device, const py::array &weights, const py::array &activations, unsigned weight_bits,
                       unsigned activation_bits) {
    const bool weight_signed = py::isinstance<py::array_t<std::int8_t>>(weights);
    if (!weight_signed && !py::isinstance<py::array_t<std::uint8_t>>(weights)) {
        throw ParamError("weights: expected int8 (signed) or uint8 (unsigned) [n, k]");
    }
    // Both element types are one byte; only the range check below and the table build tell them apart.
    const py::array w_array = weight_signed ? py::array(matrix<std::int8_t>(weights, "weights", "int8"))
                                            : py::array(matrix<std::uint8_t>(weights, "weights", "uint8"));
    const auto *w = static_cast<const std::int8_t *>(w_array.data());
    const auto a = matrix<std::int8_t>(activations, "activations", "int8");
    const auto m = static_cast<std::size_t>(a.shape(0));
    const auto k = static_cast<std::size_t>(a.shape(1));
    const auto n = static_cast<std::size_t>(w_array.shape(0));
    if (static_cast<std::size_t>(w_array.shape(1)) != k) {
        throw ParamError("weights and activations: inner extents differ");
    }
    const auto in_range = [](const char *what, unsigned value, unsigned low) {
        if (value < low || value > 8) {
            throw ParamError(std::string(what) + " = " + std::to_string(value) + " bits: allowed are " +
                             std::to_string(low) + " to 8");
        }
    };
    in_range("weight_bits", weight_bits, 2);
    in_range("activation_bits", activation_bits, 4);
    if (k == 0 || weight_bits + activation_bits + ceil_log2(k) > 32) {
        throw ParamError("k = " + std::to_string(k) +
                         ": sums of that many products need more than 32 bits (or there are none)");
    }
    const int low_w = weight_signed ? -(1 << (weight_bits - 1)) : 0;
    const int high_w = weight_signed ? (1 << (weight_bits - 1)) - 1 : (1 << weight_bits) - 1;
    for (std::size_t i = 0; i < n * k; ++i) {
        const int value = weight_signed ? w[i] : static_cast<std::uint8_t>(w[i]);
        if (value < low_w || value > high_w) {
            throw ParamError("weights: " + std::to_string(value) + " does not fit in " + std::to_string(weight_bits) +
                             " bits");
        }
    }
    const int low_a = -(1 << (activation_bits - 1));
    for (std::size_t i = 0; i < m * k; ++i) {
        if (a.data()[i] < low_a || a.data()[i] >= -low_a) {
            throw ParamError("activations: " + std::to_string(a.data()[i]) + " does not fit in " +
                             std::to_string(activation_bits) + " bits");
        }
    }
    const std::size_t padded_k = (k + 31) / 32 * 32;
    const auto plan = device.plan(raw_shape(weight_bits, activation_bits, k), m, n, padded_k);
    const std::vector<std::int8_t> padded_w = padded(w, n, k, padded_k);
    const std::vector<std::int8_t> padded_a = padded(a.data(), m, k, padded_k);
    const PatternHits hits = device.measure_hits(*plan, padded_a.data());
    const std::vector<std::int32_t> out =
        multiply_raw(device.params(), *plan, weight_signed, padded_w.data(), padded_a.data());
    py::dict timing = timed(device, device.with_hits(plan, hits), nullptr, 0, 0, 0, std::nullopt);
    timing["cycles"] = timing["end_ps"].cast<Ps>() / device.params().clock_ps;
    return py::make_tuple(to_array(out, static_cast<py::ssize_t>(m), static_cast<py::ssize_t>(n)), timing);
}

py::object start_or_none(const std::optional<TileStart> &started) {
    if (!started) {
        return py::none();
    }
    return py::make_tuple(started->tile, started->start_ps, started->done_ps);
}

constexpr const char *kTimeMatmulDoc =
    R"(Time of one product of activations [m, k] and weights [n, k]^T in ggml blocks.

hit_rate: pattern reuse table hits per lookup, 0..1. memory: a MemoryPort, or None for an infinitely fast one.
weight_addr: byte address of the weights, which are read as if they lay tile after tile (guests load them transposed, where tiles that
are fetched at the same time are neighbours, too). result_addr: used with results_to_memory.
load_start_ps: weights do not depend on activations, so their fetch may begin before start_ps (default: start_ps).
All slices are idle at start_ps. Returns a dict; times in ps: end_ps (results ready), load_end_ps, load_ps (first request to last
weight byte), compute_ps, convert_ps, reduce_ps (of the busiest slice), write_ps (after the last result), exposed_load_ps (the
last slice waited for weights); limiter ("compute", "memory" or "write": the longest); tiles, commands, nbw, passes; counters (what
this product added). Raises ParamError for an unsupported type, a k that is no multiple of the block, or tables that do not fit.)";

} // namespace

void bind_sram_pim(py::module_ &m) {
    using namespace py::literals;

    py::class_<FixedBandwidthMemory, MemoryPort>(
        m, "FixedBandwidthMemory",
        "Memory port of one bandwidth [bytes/s] and one latency [ps]; transfers queue in order.")
        .def(py::init<double, Ps>(), "bytes_per_s"_a, "latency_ps"_a)
        .def("transfer", &FixedBandwidthMemory::transfer, "addr"_a, "bytes"_a, "write"_a, "start_ps"_a,
             "Time at which the last byte has arrived [ps].")
        .def_property_readonly("read_bytes", &FixedBandwidthMemory::read_bytes)
        .def_property_readonly("write_bytes", &FixedBandwidthMemory::write_bytes);

    m.def(
        "ggml_formats",
        [] {
            py::list out;
            for (const ggml::BlockFormat &format : ggml::formats()) {
                out.append(format_dict(format));
            }
            return out;
        },
        "The ggml block formats known to the device models, one dict each; sizes in bytes and bits.");
    m.def("dequantize", &dequantize, "blocks"_a, "ggml_type"_a,
          "float32 values of whole ggml blocks, in element order. Raises ParamError for an unknown type or a partial "
          "block.");
    m.def("decode_blocks", &decode_blocks, "blocks"_a, "ggml_type"_a,
          "Integer view of whole ggml blocks: q int8 [blocks, elements], scale int8 and min uint8 [blocks, sub-blocks] "
          "(k-quants), d "
          "and m float32 [blocks] (m: legacy types add it; k-quants subtract m * min).");
    m.def("quantize_activations", &quantize, "x"_a, "kind"_a, "bits"_a = 8,
          "Quantise float32 [m, k] as ggml's CPU back end does for q8_0, q8_1 or q8_K (reference rounding; fewer bits: "
          "the same with "
          "a smaller largest value). Dict of q int8 [m, k], d float32 [m, k/block], for q8_1 s [m, k/32], for q8_K "
          "sums int16 [m, "
          "k/16]. Raises ValueError for a k that is no multiple of the block or a value that is not finite.");
    m.def("prt_hits", &prt_hits, "activations"_a, "nbw"_a, "group"_a = 32, "activation_bits"_a = 8, "entries"_a = 32,
          "scope"_a = "vector", "policy"_a = "lru", "vectors_per_pass"_a = 0,
          "(lookups, hits) of a pattern reuse table on int8 activations [m, k]. Tables of nbw elements never span a "
          "group; scope "
          "\"vector\" forgets after every vector, \"group\" keeps entries over the vectors of a pass (0: all m).");

    m.def("sram_pim_param_info", &param_info<SramPimParams>,
          "Parameters of SramPim: name, unit, description, min, max, type.");
    m.def(
        "sram_pim_default_params",
        [] {
            const SramPimParams defaults;
            py::dict d;
            SramPimParams::visit(defaults, [&](const char *name, const auto &value, const char *, const char *, double,
                                               double) { d[name] = value; });
            return d;
        },
        "The default of every SramPim parameter, as the dict that the constructor takes.");
    m.def("sram_pim_counter_info", &counter_info<SramPimCounters>, "Counters of SramPim: name, unit, description.");

    py::class_<SramPim>(m, "SramPim",
                        "C-SRAM arrays beside LLC slices that run LUT-GEMV; see src_ext/models/sram_pim/README.md.")
        .def(py::init([](const py::dict &params) {
                 return std::make_unique<SramPim>(params_from_dict<SramPimParams>(params, "sram_pim"));
             }),
             "params"_a)
        .def(
            "supports",
            [](const SramPim &self, const std::string &type) {
                const ggml::BlockFormat *format = ggml::find_format(type);
                return format != nullptr && self.supports(*format);
            },
            "ggml_type"_a, "Whether the device can multiply by weights of that ggml type.")
        .def(
            "plan",
            [](SramPim &self, std::uint64_t m, std::uint64_t n, std::uint64_t k, const std::string &type, bool tiles) {
                return plan_dict(self, self.with_hit_rate(self.plan(shape_for(self, type), m, n, k), 0.0), tiles);
            },
            "m"_a, "n"_a, "k"_a, "ggml_type"_a, "tiles"_a = false,
            "How a product would be cut: nbw, vectors_per_pass, passes, rows_used, arrays_used, tile_n, tile_k, tiles "
            "...; with "
            "tiles=True also tile_list (cycles without pattern reuse) and combine_cycles of every strip.")
        .def(
            "time_matmul",
            [](SramPim &self, std::uint64_t m, std::uint64_t n, std::uint64_t k, const std::string &type,
               double hit_rate, MemoryPort *memory, std::uint64_t weight_addr, Ps start, std::optional<Ps> load_start,
               std::uint64_t result_addr) {
                return timed(self, self.with_hit_rate(self.plan(shape_for(self, type), m, n, k), hit_rate), memory,
                             weight_addr, result_addr, start, load_start);
            },
            "m"_a, "n"_a, "k"_a, "ggml_type"_a, "hit_rate"_a = 0.0, "memory"_a = py::none(), "weight_addr"_a = 0,
            "start_ps"_a = 0, "load_start_ps"_a = py::none(), "result_addr"_a = 0, kTimeMatmulDoc)
        .def("run_matmul", &run_matmul, "weights"_a, "ggml_type"_a, "n"_a, "k"_a, "activations"_a,
             "memory"_a = py::none(), "weight_addr"_a = 0, "start_ps"_a = 0,
             "Compute and time a product: weights are n rows of ggml blocks as in a GGUF tensor, activations float32 "
             "[m, k]. Returns "
             "(float32 [m, n], dict as of time_matmul plus hit_rate and rounding_steps), with the pattern reuse "
             "measured on these "
             "activations. The error bound is stated in src_ext/models/sram_pim/multiply.hh.")
        .def("run_int_gemv", &run_int_gemv, "weights"_a, "activations"_a, "weight_bits"_a, "activation_bits"_a = 8,
             "Integer product of weights [n, k] (int8 signed or uint8 unsigned, of weight_bits 2..8) and int8 "
             "activations [m, k] of "
             "activation_bits 4..8: (int32 [m, n], dict as of time_matmul plus cycles). Raises ParamError for values "
             "out of range.")
        .def("llc_bytes_lost", &SramPim::llc_bytes_lost, "LLC bytes that the arrays take while they compute.")
        .def("counters", [](const SramPim &self) { return counters_to_dict(self.counters()); })
        .def("reset_counters", &SramPim::reset_counters);

    py::class_<TilePipeline>(m, "TilePipeline",
                             "One product's tiles, driven by the host: see src_ext/models/sram_pim/tile_pipeline.hh.")
        .def(py::init([](SramPim &device, std::uint64_t m, std::uint64_t n, std::uint64_t k, const std::string &type,
                         double hit_rate, Ps compute_from) {
                 device.idle_all_slices();
                 return std::make_unique<TilePipeline>(
                     device, device.with_hit_rate(device.plan(shape_for(device, type), m, n, k), hit_rate),
                     compute_from);
             }),
             "device"_a, "m"_a, "n"_a, "k"_a, "ggml_type"_a, "hit_rate"_a = 0.0, "compute_from_ps"_a = 0,
             py::keep_alive<1, 2>())
        .def(
            "next_load",
            [](TilePipeline &self) -> py::object {
                const auto load = self.next_load();
                return load ? py::object(py::make_tuple(load->tile, load->offset_bytes, load->bytes)) : py::none();
            },
            "(tile, offset_bytes, bytes) to fetch now, or None.")
        .def(
            "load_done",
            [](TilePipeline &self, std::uint32_t tile, Ps now) { return start_or_none(self.load_done(tile, now)); },
            "tile"_a, "now_ps"_a, "(tile, start_ps, done_ps) if that arrival lets a tile start, else None.")
        .def(
            "compute_done",
            [](TilePipeline &self, std::uint32_t tile, Ps now) { return start_or_none(self.compute_done(tile, now)); },
            "tile"_a, "now_ps"_a, "(tile, start_ps, done_ps) of the slice's next tile if it is there, else None.")
        .def(
            "next_write",
            [](TilePipeline &self) -> py::object {
                const auto write = self.next_write();
                return write ? py::object(
                                   py::make_tuple(write->strip, write->offset_bytes, write->bytes, write->ready_ps))
                             : py::none();
            },
            "(strip, offset_bytes, bytes, ready_ps) to write, or None.")
        .def("write_done", &TilePipeline::write_done, "now_ps"_a)
        .def_property_readonly("finished", &TilePipeline::finished)
        .def_property_readonly("end_ps", &TilePipeline::end_ps);
}

} // namespace gempim::bind
