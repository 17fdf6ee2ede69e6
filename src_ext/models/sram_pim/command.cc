// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/command.hh"

#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>

#include "models/ggml/fp16.hh"

namespace gempim::sram_pim {

namespace {

/** enum ggml_type of ggml.h. */
constexpr std::array<std::pair<unsigned, std::string_view>, 10> kTypes{{
    {2, "q4_0"},
    {3, "q4_1"},
    {6, "q5_0"},
    {7, "q5_1"},
    {8, "q8_0"},
    {10, "q2_K"},
    {11, "q3_K"},
    {12, "q4_K"},
    {13, "q5_K"},
    {14, "q6_K"},
}};

/** Whether the range ends within the address space. Extents of a checked shape are below 2^53. */
bool in_address_space(const RowRange &range) {
    return range.extent() - 1 <= UINT64_MAX - range.address;
}

bool overlap(const RowRange &a, std::uint64_t address, std::uint64_t bytes) {
    return a.address <= address + (bytes - 1) && address <= a.address + (a.extent() - 1);
}

std::int32_t check(SramPim &device, const gempim_lutmm_desc &d, std::uint64_t address, Command &out) {
    if (address % GEMPIM_LUTMM_DESC_BYTES != 0) {
        return GEMPIM_ERR_ALIGNMENT;
    }
    if (d.magic != GEMPIM_LUTMM_MAGIC) {
        return GEMPIM_ERR_VERSION;
    }
    if ((d.flags & ~GEMPIM_LUTMM_TRANSPOSED) != 0 || d.reserved != 0) {
        return GEMPIM_ERR_RESERVED;
    }
    const ggml::BlockFormat *format = format_of_type(d.weight_type);
    if (format == nullptr || !device.supports(*format)) {
        return GEMPIM_ERR_TYPE;
    }
    if (d.m == 0 || d.n == 0 || d.k == 0 || d.m > GEMPIM_LUTMM_MAX_M || d.n > GEMPIM_LUTMM_MAX_N ||
        d.k > GEMPIM_LUTMM_MAX_K || d.k % format->elements != 0) {
        return GEMPIM_ERR_SHAPE;
    }
    const std::uint64_t act_block = ggml::activation_block_elements(format->activation);
    const std::uint64_t act_bytes = ggml::activation_block_bytes(format->activation);
    out.desc = d;
    out.format = format;
    const std::uint64_t units = d.k / format->elements;
    out.weights = out.transposed() ? RowRange{d.weights, units, std::uint64_t{d.n} * format->bytes, d.weight_stride}
                                   : RowRange{d.weights, d.n, units * format->bytes, d.weight_stride};
    out.activations = {d.activations, d.m, d.k / act_block * act_bytes, d.activation_stride};
    out.results = {d.results, d.m, std::uint64_t{d.n} * sizeof(float), d.result_stride};
    for (const RowRange *range : {&out.weights, &out.activations, &out.results}) {
        if (range->stride < range->row_bytes) {
            return GEMPIM_ERR_STRIDE;
        }
    }
    if ((d.weights | d.weight_stride | d.activations | d.activation_stride) % 2 != 0 ||
        (d.results | d.result_stride) % 4 != 0) {
        return GEMPIM_ERR_ALIGNMENT;
    }
    for (const RowRange *range : {&out.weights, &out.activations, &out.results}) {
        if (!in_address_space(*range)) {
            return GEMPIM_ERR_ADDRESS;
        }
    }
    if (overlap(out.results, out.weights.address, out.weights.extent()) ||
        overlap(out.results, out.activations.address, out.activations.extent()) ||
        overlap(out.results, address, GEMPIM_LUTMM_DESC_BYTES)) {
        return GEMPIM_ERR_OVERLAP;
    }
    return 0;
}

template <class T> T parse(std::string_view text, const std::string &where) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw ParamError(where + " = \"" + std::string(text) + "\": not a number of its type");
    }
    return value;
}

} // namespace

const ggml::BlockFormat *format_of_type(unsigned ggml_type) {
    for (const auto &[number, name] : kTypes) {
        if (number == ggml_type) {
            return ggml::find_format(name);
        }
    }
    return nullptr;
}

std::int32_t check_command(SramPim &device, const gempim_lutmm_desc &desc, std::uint64_t address, Command &out) {
    if (const std::int32_t error = check(device, desc, address, out); error != 0) {
        device.count_rejected();
        return error;
    }
    try {
        out.plan = device.plan(shape_of(*out.format, device.params().activation_bits), desc.m, desc.n, desc.k);
    } catch (const ParamError &) { // counted by the device
        return GEMPIM_ERR_SHAPE;
    }
    return 0;
}

Command::Part Command::part_of(const Tile &tile) const {
    const std::uint64_t columns = tile.shape.columns;
    const std::uint64_t units = tile.shape.units;
    const std::uint64_t bytes = format->bytes;
    if (transposed()) {
        return {tile.shape.first_unit, units, tile.first_column * bytes, columns * bytes};
    }
    return {tile.first_column, columns, tile.shape.first_unit * bytes, units * bytes};
}

WeightBlocks Command::blocks(const std::uint8_t *bytes) const {
    return transposed() ? WeightBlocks{bytes, format->bytes, weights.row_bytes}
                        : WeightBlocks{bytes, weights.row_bytes, format->bytes};
}

ggml::QuantizedActivations unpack_activations(const Command &command, const std::uint8_t *bytes) {
    const ggml::ActivationKind kind = command.format->activation;
    const unsigned elements = ggml::activation_block_elements(kind);
    const unsigned block_bytes = ggml::activation_block_bytes(kind);
    ggml::QuantizedActivations a;
    a.m = command.desc.m;
    a.k = command.desc.k;
    a.block = elements;
    a.q.resize(a.m * a.k);
    const std::size_t blocks = a.q.size() / elements;
    a.d.resize(blocks);
    if (kind == ggml::ActivationKind::q8_1) {
        a.s.resize(blocks);
    }
    if (kind == ggml::ActivationKind::q8_k) {
        a.sums.resize(a.q.size() / 16);
    }
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::uint8_t *block = bytes + b * block_bytes;
        const auto half = [&](unsigned at) {
            return ggml::fp16_to_fp32(static_cast<std::uint16_t>(block[at] | (block[at + 1] << 8)));
        };
        switch (kind) {
        case ggml::ActivationKind::q8_0:
            a.d[b] = half(0);
            std::memcpy(a.q.data() + b * elements, block + 2, elements);
            break;
        case ggml::ActivationKind::q8_1:
            a.d[b] = half(0);
            a.s[b] = half(2);
            std::memcpy(a.q.data() + b * elements, block + 4, elements);
            break;
        case ggml::ActivationKind::q8_k:
            std::memcpy(&a.d[b], block, 4);
            std::memcpy(a.q.data() + b * elements, block + 4, elements);
            std::memcpy(a.sums.data() + b * (elements / 16), block + 4 + elements, elements / 8);
            break;
        }
    }
    return a;
}

std::int64_t answer_query(const SramPim &device, std::int64_t what, unsigned tickets) {
    switch (what) {
    case GEMPIM_QUERY_VERSION:
        return GEMPIM_LUTMM_VERSION;
    case GEMPIM_QUERY_WEIGHT_TYPES: {
        std::int64_t mask = 0;
        for (const auto &[number, name] : kTypes) {
            if (device.supports(*ggml::find_format(name))) {
                mask |= std::int64_t{1} << number;
            }
        }
        return mask;
    }
    case GEMPIM_QUERY_MAX_M:
        return GEMPIM_LUTMM_MAX_M;
    case GEMPIM_QUERY_MAX_N:
        return GEMPIM_LUTMM_MAX_N;
    case GEMPIM_QUERY_MAX_K:
        return GEMPIM_LUTMM_MAX_K;
    case GEMPIM_QUERY_TICKETS:
        return tickets;
    case GEMPIM_QUERY_SLICES:
        return device.params().slices;
    default:
        return -std::int64_t{GEMPIM_ERR_QUERY};
    }
}

void set_params(SramPimParams &params, std::string_view assignments) {
    while (!assignments.empty()) {
        const std::string_view item = assignments.substr(0, assignments.find(','));
        assignments.remove_prefix(std::min(assignments.size(), item.size() + 1));
        const std::size_t equals = item.find('=');
        const std::string_view key = item.substr(0, equals);
        const std::string_view value = equals == std::string_view::npos ? "" : item.substr(equals + 1);
        bool known = false;
        SramPimParams::visit(params, [&](const char *name, auto &field, const char *, const char *, double, double) {
            if (key != name) {
                return;
            }
            known = true;
            const std::string where = std::string("sram_pim.") + name;
            using T = std::remove_cvref_t<decltype(field)>;
            if constexpr (std::is_same_v<T, bool>) {
                if (value != "true" && value != "false") {
                    throw ParamError(where + " = \"" + std::string(value) + "\": expected true or false");
                }
                field = value == "true";
            } else if constexpr (std::is_same_v<T, std::string>) {
                field = std::string(value);
            } else {
                field = parse<T>(value, where);
            }
        });
        if (!known) {
            throw ParamError("sram_pim." + std::string(key) + ": unknown parameter");
        }
    }
}

} // namespace gempim::sram_pim
