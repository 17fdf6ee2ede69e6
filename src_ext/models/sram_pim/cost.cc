// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/cost.hh"

#include <algorithm>
#include <cmath>

#include "models/ggml/activations.hh"

namespace gempim::sram_pim {

namespace {

constexpr unsigned kFloatRows = 32; // an fp32 value lies on 32 word-lines

std::uint64_t round_cycles(double cycles) {
    return static_cast<std::uint64_t>(std::llround(cycles));
}

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) {
    return (a + b - 1) / b;
}

} // namespace

unsigned ceil_log2(std::uint64_t x) {
    unsigned bits = 0;
    while ((std::uint64_t{1} << bits) < x) {
        ++bits;
    }
    return bits;
}

GemvShape shape_of(const ggml::BlockFormat &format, unsigned activation_bits) {
    GemvShape s;
    s.unit_elements = format.elements;
    s.unit_bytes = format.bytes;
    s.sub_elements = format.sub_elements;
    s.weight_bits = format.weight_bits;
    s.sub_scale_bits = format.sub_scale_bits;
    s.sub_min_bits = format.sub_min_bits;
    s.float_min = format.has_min && format.sub_min_bits == 0;
    s.activation_bits = activation_bits;
    s.activation_unit_bytes = ggml::activation_block_bytes(format.activation);
    // |w| <= 2^bw - 1 and |a| <= 2^(ba-1): bw + ba + ceil(log2 G) bits hold the signed sum of G products, signed or
    // unsigned w.
    s.sum_bits = s.weight_bits + activation_bits + ceil_log2(s.sub_elements);
    if (s.sub_scale_bits != 0) {
        s.super_bits = s.sum_bits + s.sub_scale_bits + ceil_log2(s.sub_blocks());
    }
    if (s.sub_min_bits != 0) {
        s.activation_sum_bits = activation_bits + ceil_log2(s.sub_elements);
        s.min_bits = s.activation_sum_bits + s.sub_min_bits + ceil_log2(s.sub_blocks());
    }
    return s;
}

GemvShape raw_shape(unsigned weight_bits, unsigned activation_bits, std::uint64_t k) {
    GemvShape s;
    s.unit_elements = 32;
    s.unit_bytes = 4 * weight_bits;
    s.sub_elements = 32;
    s.weight_bits = weight_bits;
    s.raw_integer = true;
    s.activation_bits = activation_bits;
    s.activation_unit_bytes = 32;
    s.sum_bits = weight_bits + activation_bits + ceil_log2(k);
    return s;
}

/** One walk of `vectors` activation vectors over a tile. */
struct CostModel::Pass {
    const TileShape &tile;
    TileLayout layout;
    unsigned vectors;
    std::uint64_t times;  ///< identical passes
    std::uint64_t number; ///< of the first of them (only measured hits depend on it)
    const HitSource &hits;
};

CostModel::CostModel(const SramPimParams &params, const GemvShape &shape, unsigned nbw)
    : params_(params), shape_(shape), nbw_(nbw), slots_(lut_slots(shape.unit_elements, shape.sub_elements, nbw)) {}

unsigned CostModel::entry_bits(unsigned weights) const {
    // A sum of w weights of bw bits spans w times the range of one, signed or unsigned alike.
    return shape_.weight_bits + ceil_log2(weights);
}

std::uint64_t CostModel::build_cycles(unsigned weights) const {
    // Entries of no or one weight are not computed: zero, and the basis rows themselves.
    const std::uint64_t sums = (std::uint64_t{1} << weights) - weights - 1;
    return sums * (entry_bits(weights) + params_.add_overhead_cycles);
}

std::uint64_t CostModel::lookup_cycles(unsigned weights) const {
    return entry_bits(weights) + params_.add_overhead_cycles + params_.lookup_carry_cycles;
}

std::uint64_t CostModel::int_mul_cycles(unsigned n, unsigned s) const {
    return static_cast<std::uint64_t>(std::ceil(s * (params_.int_mul_quadratic * n + params_.int_mul_linear)));
}

std::uint64_t CostModel::convert_cycles(unsigned n) const {
    return params_.convert_linear_cycles * n + n * (ceil_log2(n) + 1) + params_.convert_fixed_cycles;
}

RowBudget CostModel::rows() const {
    RowBudget budget;
    const unsigned table = (1U << nbw_) * entry_bits(nbw_);
    const unsigned scratch = shape_.raw_integer ? 0 : params_.scratch_rows;
    budget.shared = std::max(table, scratch) + nbw_ * shape_.weight_bits;
    budget.per_vector = shape_.sum_bits + shape_.super_bits;
    if (!shape_.raw_integer && params_.convert_in_memory) {
        budget.per_vector += kFloatRows;
    }
    return budget;
}

TileLayout CostModel::layout(unsigned columns, unsigned units) const {
    TileLayout l;
    l.column_groups = static_cast<unsigned>(ceil_div(columns, params_.array_columns));
    const unsigned most = std::max(1U, std::min(units, params_.arrays_per_slice / l.column_groups));
    const unsigned critical = static_cast<unsigned>(ceil_div(units, most));
    // As few arrays as give the same critical array: fewer partial sums to add.
    l.parts = static_cast<unsigned>(ceil_div(units, critical));
    return l;
}

std::uint64_t CostModel::link_cycles(std::uint64_t bytes) const {
    return ceil_div(bytes, params_.llc_link_bytes_per_cycle);
}

std::uint64_t CostModel::end_of_sub(unsigned v, SramPimCounters &c) const {
    const std::uint64_t resolve = shape_.sum_bits + params_.add_overhead_cycles;
    std::uint64_t accumulate = v * resolve;
    std::uint64_t multiply = 0;
    std::uint64_t writes = 0;
    c.accumulates += v;
    if (shape_.sub_scale_bits != 0) {
        multiply += v * int_mul_cycles(shape_.sum_bits, shape_.sub_scale_bits);
        accumulate += v * (shape_.super_bits + params_.add_overhead_cycles);
        writes += shape_.sub_scale_bits;
        c.int_muls += v;
        c.accumulates += v;
    }
    if (shape_.sub_min_bits != 0) {
        multiply += v * int_mul_cycles(shape_.activation_sum_bits, shape_.sub_min_bits);
        accumulate += v * (shape_.min_bits + params_.add_overhead_cycles);
        writes += shape_.sub_min_bits + v * shape_.activation_sum_bits;
        c.int_muls += v;
        c.accumulates += v;
    }
    c.accumulate_cycles += accumulate;
    c.int_mul_cycles += multiply;
    c.row_writes += writes;
    return accumulate + multiply + writes * params_.row_write_cycles;
}

std::uint64_t CostModel::end_of_unit(const Pass &pass, SramPimCounters &c) const {
    const std::uint64_t v = pass.vectors;
    if (shape_.raw_integer) {
        return 0;
    }
    if (!params_.convert_in_memory) {
        const std::uint64_t reads = v * (shape_.convert_bits() + shape_.min_bits);
        const unsigned values = shape_.min_bits != 0 ? 2 : 1;
        c.row_reads += reads;
        return std::max(reads * params_.row_read_cycles,
                        link_cycles(std::uint64_t{4} * values * v * pass.tile.columns * pass.layout.parts));
    }
    std::uint64_t convert = v * convert_cycles(shape_.convert_bits());
    std::uint64_t multiplications = 2 * v; // by the weight scale (per column), by the activation scale (a constant)
    std::uint64_t additions = v;
    std::uint64_t writes = kFloatRows + kFloatRows * v;
    c.convert_ops += v;
    if (shape_.min_bits != 0) {
        convert += v * convert_cycles(shape_.min_bits);
        c.convert_ops += v;
        multiplications += 2 * v;
        additions += v;
        writes += kFloatRows; // dmin; the activation scale is there already
    } else if (shape_.float_min) {
        multiplications += v;
        additions += v;
        writes += kFloatRows + kFloatRows * v; // the minimum, and d * sum q of every vector
    }
    c.convert_cycles += convert;
    c.fp_muls += multiplications;
    c.fp_adds += additions;
    c.row_writes += writes;
    return convert + multiplications * params_.fp32_mul_cycles + additions * params_.fp32_add_cycles +
           writes * params_.row_write_cycles;
}

std::uint64_t CostModel::add_partial(SramPimCounters &c, std::uint64_t operations, std::uint64_t sequential) const {
    if (shape_.raw_integer) {
        const std::uint64_t each = shape_.sum_bits + params_.add_overhead_cycles;
        c.accumulates += operations;
        c.accumulate_cycles += operations * each;
        return sequential * each;
    }
    c.fp_adds += operations;
    return sequential * params_.fp32_add_cycles;
}

void CostModel::add_pass(TileCost &total, const Pass &pass) const {
    const TileShape &tile = pass.tile;
    const unsigned v = pass.vectors;
    const unsigned groups = pass.layout.column_groups;
    const unsigned parts = pass.layout.parts;
    const std::size_t n_slots = slots_.size();
    SramPimCounters counts; // of this pass, all arrays

    // Fill of a table's weights (scales travel with them): all arrays of the slice share the link, a fair share each.
    const auto fill = [&](unsigned weights) {
        return static_cast<double>(link_cycles(
            ceil_div(std::uint64_t{parts} * tile.columns * shape_.unit_bytes * weights, shape_.unit_elements)));
    };

    // Work of each table that does not depend on hits, and the events of one unit in one array.
    SramPimCounters unit;
    std::vector<std::uint64_t> fixed(n_slots);
    std::uint64_t unit_end = 0;
    for (std::size_t i = 0; i < n_slots; ++i) {
        const LutSlot &slot = slots_[i];
        const std::uint64_t rows = std::uint64_t{slot.weights} * shape_.weight_bits;
        const std::uint64_t build = build_cycles(slot.weights);
        unit.basis_row_writes += rows;
        unit.row_writes += rows;
        unit.lut_builds += 1;
        unit.lut_build_cycles += build;
        fixed[i] = rows * params_.row_write_cycles + build;
        if (slot.ends_sub) {
            fixed[i] += end_of_sub(v, unit);
        }
    }
    unit_end = end_of_unit(pass, unit);
    fixed[n_slots - 1] += unit_end;

    const std::uint64_t lookups = std::uint64_t{v} * shape_.activation_bits; // of one table in one array
    double critical = 0.0;
    std::uint64_t first_unit = tile.first_unit;
    unsigned alike = 1;
    for (unsigned part = 0; part < parts; part += alike) {
        const unsigned units = pass.layout.units_of(part, tile.units);
        // Without measured hits, arrays with the same number of units are alike: the first ones have one unit more.
        const unsigned longer = tile.units % parts;
        alike = pass.hits.measured != nullptr ? 1 : part < longer ? longer - part : parts - part;
        const std::uint64_t arrays = std::uint64_t{alike} * groups;
        std::uint64_t part_lookup_cycles = 0;
        std::uint64_t part_hits = 0;
        double time = fill(slots_[0].weights);
        if (pass.hits.measured != nullptr) {
            const PatternHits &measured = *pass.hits.measured;
            const std::uint32_t *hits =
                measured.per_table.data() + pass.number * measured.tables_per_pass + first_unit * n_slots;
            for (unsigned u = 0; u < units; ++u) {
                for (std::size_t i = 0; i < n_slots; ++i, ++hits) {
                    const std::uint64_t cycles =
                        (lookups - *hits) * lookup_cycles(slots_[i].weights) + *hits * params_.prt_hit_cycles;
                    part_lookup_cycles += cycles;
                    part_hits += *hits;
                    const bool last = i + 1 == n_slots;
                    const double next = last && u + 1 == units ? 0.0 : fill(slots_[last ? 0 : i + 1].weights);
                    time += std::max(static_cast<double>(fixed[i] + cycles), next);
                }
            }
        } else {
            // Every unit takes the same time; only the last one has no successor whose weights must come.
            double period = 0.0;
            double last_work = 0.0;
            std::uint64_t seen = 0;
            for (std::size_t i = 0; i < n_slots; ++i) {
                const std::uint64_t miss = lookup_cycles(slots_[i].weights);
                const double each = (1.0 - pass.hits.rate) * static_cast<double>(miss) +
                                    pass.hits.rate * static_cast<double>(params_.prt_hit_cycles);
                last_work = static_cast<double>(fixed[i]) + static_cast<double>(lookups) * each;
                period += std::max(last_work, fill(slots_[(i + 1) % n_slots].weights));
                const std::uint64_t all = lookups * units;
                // Rounding the running total keeps the rate; rounding each table's share would lose up to half a hit a
                // table.
                seen += all;
                const std::uint64_t hits = round_cycles(static_cast<double>(seen) * pass.hits.rate) - part_hits;
                part_hits += hits;
                part_lookup_cycles += (all - hits) * miss + hits * params_.prt_hit_cycles;
            }
            const double tail = std::max(last_work, fill(slots_[0].weights)) - last_work;
            time += units * period - tail;
        }
        critical = std::max(critical, time);
        counts.add(unit, units * arrays);
        counts.lookup_cycles += part_lookup_cycles * arrays;
        counts.prt_hits += part_hits * arrays;
        counts.lookups += lookups * units * n_slots * arrays;
        counts.prt_accesses += params_.prt_enable ? lookups * units * n_slots * alike : 0;
        first_unit += units;
    }
    counts.passes = 1;
    counts.fill_bytes = std::uint64_t{tile.columns} * tile.units * shape_.unit_bytes;
    counts.activation_bytes = std::uint64_t{v} * tile.units * shape_.activation_unit_bytes;
    const std::uint64_t feed = link_cycles(counts.activation_bytes);

    std::uint64_t reduce = 0;
    if (shape_.raw_integer || params_.convert_in_memory) {
        const std::uint64_t rows = std::uint64_t{result_rows()} * v;
        const std::uint64_t bytes = std::uint64_t{4} * v * tile.columns;
        for (unsigned active = parts; active > 1;) {
            const std::uint64_t pairs = active / 2;
            reduce += ceil_div(pairs * groups, params_.reduce_links) * rows * params_.reduce_row_cycles;
            reduce += add_partial(counts, pairs * groups * v, v);
            counts.reduce_transfers += pairs * groups * rows;
            active -= static_cast<unsigned>(pairs);
        }
        counts.row_reads += counts.reduce_transfers;
        counts.row_writes += counts.reduce_transfers;
        if (tile.merges) {
            reduce += std::max(link_cycles(bytes), rows * params_.row_write_cycles);
            reduce += add_partial(counts, std::uint64_t{groups} * v, v);
            counts.row_writes += rows * groups;
            counts.partial_bytes += bytes;
        }
        reduce += std::max(link_cycles(bytes), rows * params_.row_read_cycles);
        counts.row_reads += rows * groups;
        counts.result_bytes += bytes;
    } else {
        const std::uint64_t values = std::uint64_t{v} * tile.columns * tile.units;
        counts.cpu_converts = values * (shape_.min_bits != 0 ? 2 : 1);
        counts.result_bytes = 4 * counts.cpu_converts;
    }

    const unsigned critical_units = pass.layout.units_of(0, tile.units);
    total.cycles += pass.times * (feed + round_cycles(critical) + reduce);
    total.convert_cycles += pass.times * critical_units * unit_end;
    total.reduce_cycles += pass.times * reduce;
    total.counts.add(counts, pass.times);
}

void CostModel::finish_counts(SramPimCounters &c) const {
    c.fp_cycles = c.fp_muls * params_.fp32_mul_cycles + c.fp_adds * params_.fp32_add_cycles;
    c.array_active_cycles = c.lut_build_cycles + c.lookup_cycles + c.accumulate_cycles + c.int_mul_cycles +
                            c.convert_cycles + c.fp_cycles + c.row_writes * params_.row_write_cycles +
                            c.row_reads * params_.row_read_cycles;
}

TileCost CostModel::tile(const TileShape &tile, unsigned m, unsigned vectors_per_pass, const HitSource &hits) const {
    TileCost cost;
    cost.cycles = params_.command_cycles;
    const TileLayout where = layout(tile.columns, tile.units);
    const unsigned full = m / vectors_per_pass;
    const unsigned rest = m % vectors_per_pass;
    if (hits.measured != nullptr) {
        for (unsigned p = 0; p < full; ++p) {
            add_pass(cost, {tile, where, vectors_per_pass, 1, p, hits});
        }
    } else if (full != 0) {
        add_pass(cost, {tile, where, vectors_per_pass, full, 0, hits});
    }
    if (rest != 0) {
        add_pass(cost, {tile, where, rest, 1, full, hits});
    }
    cost.counts.commands = 1;
    cost.counts.tiles = 1;
    cost.counts.weight_bytes = std::uint64_t{tile.columns} * tile.units * shape_.unit_bytes;
    cost.counts.compute_cycles = cost.cycles;
    finish_counts(cost.counts);
    return cost;
}

TileCost CostModel::combine(unsigned columns, unsigned m, unsigned parts) const {
    TileCost cost;
    if (!shape_.raw_integer && !params_.convert_in_memory) {
        return cost; // the CPU adds
    }
    const std::uint64_t groups = ceil_div(columns, params_.array_columns);
    const std::uint64_t bytes = std::uint64_t{4} * m * columns;
    const std::uint64_t rows = std::uint64_t{result_rows()} * m * groups;
    // The vectors of a strip spread over the arrays of the slice that adds.
    const std::uint64_t sequential = ceil_div(m * groups, params_.arrays_per_slice);
    for (unsigned active = parts; active > 1;) {
        const std::uint64_t pairs = active / 2;
        cost.cycles += link_cycles(2 * bytes) + link_cycles(bytes);
        cost.cycles += add_partial(cost.counts, pairs * groups * m, sequential);
        cost.counts.partial_bytes += pairs * 2 * bytes;
        cost.counts.result_bytes += pairs * bytes;
        cost.counts.row_writes += pairs * 2 * rows;
        cost.counts.row_reads += pairs * rows;
        active -= static_cast<unsigned>(pairs);
    }
    cost.reduce_cycles = cost.cycles;
    cost.counts.compute_cycles = cost.cycles;
    finish_counts(cost.counts);
    return cost;
}

} // namespace gempim::sram_pim
