// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/multiply.hh"

#include <algorithm>

#include "models/sram_pim/lut_gemv.hh"

namespace gempim::sram_pim {

namespace {

/** Sum `values` element-wise into the first, as the hardware's tree does (step 2 and 4 of the header). */
template <class T> void add_tree(std::vector<std::vector<T>> &values) {
    for (std::size_t active = values.size(); active > 1;) {
        const std::size_t pairs = active / 2;
        for (std::size_t i = 0; i < pairs; ++i) {
            std::vector<T> &to = values[i];
            const std::vector<T> &from = values[i + active - pairs];
            for (std::size_t j = 0; j < to.size(); ++j) {
                to[j] = to[j] + from[j];
            }
        }
        active -= pairs;
    }
}

unsigned tree_levels(std::uint64_t leaves) {
    return ceil_log2(std::max<std::uint64_t>(leaves, 1));
}

/**
 * Walk a plan and put partial results together.
 * @param array_sum array_sum(first_column, columns, first_unit, units, out): the [m, columns] result of one array
 */
template <class T, class ArraySum>
std::vector<T> run_plan(const SramPimParams &params, const MatmulPlan &plan, ArraySum &&array_sum) {
    const CostModel model(params, plan.shape, plan.nbw);
    std::vector<T> out(plan.m * plan.n);
    // chains[strip]: partial results of its chains, in inner order; tiles of a chain come in order.
    std::vector<std::vector<std::vector<T>>> chains(plan.strips);
    std::vector<std::vector<const Tile *>> by_strip(plan.strips);
    for (const Tile &tile : plan.tiles) {
        by_strip[tile.strip].push_back(&tile);
    }
    for (unsigned strip = 0; strip < plan.strips; ++strip) {
        auto &tiles = by_strip[strip];
        std::sort(tiles.begin(), tiles.end(),
                  [](const Tile *a, const Tile *b) { return a->shape.first_unit < b->shape.first_unit; });
        const unsigned columns = plan.columns_of(strip);
        std::vector<std::vector<T>> partial;
        for (const Tile *tile : tiles) {
            const TileLayout layout = model.layout(columns, tile->shape.units);
            std::vector<T> result(plan.m * columns);
            for (unsigned group = 0; group < layout.column_groups; ++group) {
                const unsigned from = group * params.array_columns;
                const unsigned width = std::min(params.array_columns, columns - from);
                std::vector<std::vector<T>> parts(layout.parts, std::vector<T>(plan.m * width));
                std::uint64_t unit = tile->shape.first_unit;
                for (unsigned part = 0; part < layout.parts; ++part) {
                    const unsigned units = layout.units_of(part, tile->shape.units);
                    array_sum(tile->first_column + from, width, unit, units, parts[part].data());
                    unit += units;
                }
                add_tree(parts);
                for (std::uint64_t v = 0; v < plan.m; ++v) {
                    std::copy_n(parts[0].data() + v * width, width, result.data() + v * columns + from);
                }
            }
            if (tile->shape.merges) {
                std::vector<T> &chain = partial.back();
                for (std::size_t i = 0; i < chain.size(); ++i) {
                    chain[i] = chain[i] + result[i];
                }
            } else {
                partial.push_back(std::move(result));
            }
        }
        add_tree(partial);
        for (std::uint64_t v = 0; v < plan.m; ++v) {
            std::copy_n(partial[0].data() + v * columns, columns,
                        out.data() + v * plan.n + std::uint64_t{strip} * plan.tile_n);
        }
    }
    return out;
}

} // namespace

unsigned rounding_steps(const SramPimParams &params, const MatmulPlan &plan) {
    const CostModel model(params, plan.shape, plan.nbw);
    unsigned most = 0;
    for (const Tile &tile : plan.tiles) {
        const TileLayout layout = model.layout(tile.shape.columns, tile.shape.units);
        most = std::max(most, 2 * layout.units_of(0, tile.shape.units) + tree_levels(layout.parts));
    }
    return 3 + most + (plan.k_tiles + plan.parts - 1) / plan.parts + tree_levels(plan.parts);
}

std::vector<float> multiply(const SramPimParams &params, const MatmulPlan &plan, const ggml::BlockFormat &format,
                            const std::uint8_t *weights, const ggml::QuantizedActivations &a) {
    const GemvShape &shape = plan.shape;
    const std::uint64_t units_of_row = plan.k / shape.unit_elements;
    const std::uint64_t row_bytes = units_of_row * shape.unit_bytes;
    const std::size_t m = plan.m;
    LutGemv gemv(shape, format.weight_signed, plan.nbw);
    std::vector<ggml::DecodedBlock> blocks(params.array_columns);
    std::vector<std::int8_t> transposed(std::size_t{shape.unit_elements} * params.array_columns);
    std::vector<std::int32_t> sums(m * params.array_columns);
    std::vector<std::int32_t> dot(m * params.array_columns);
    std::vector<std::int32_t> minima(m * params.array_columns);
    const auto array_sum = [&](std::uint64_t first_column, unsigned columns, std::uint64_t first_unit, unsigned units,
                               float *acc) {
        for (std::uint64_t unit = first_unit; unit < first_unit + units; ++unit) {
            for (unsigned c = 0; c < columns; ++c) {
                ggml::decode_block(format, weights + (first_column + c) * row_bytes + unit * shape.unit_bytes,
                                   blocks[c]);
                for (unsigned e = 0; e < shape.unit_elements; ++e) {
                    transposed[std::size_t{e} * columns + c] = blocks[c].q[e];
                }
            }
            std::fill(dot.begin(), dot.end(), 0);
            std::fill(minima.begin(), minima.end(), 0);
            for (unsigned s = 0; s < shape.sub_blocks(); ++s) {
                const std::size_t first = std::size_t{s} * shape.sub_elements;
                gemv.sub_block(transposed.data() + first * columns, columns,
                               a.q.data() + unit * shape.unit_elements + first, a.k, m, sums.data());
                for (std::size_t v = 0; v < m; ++v) {
                    std::int32_t activation_sum = 0;
                    if (shape.sub_min_bits != 0) {
                        const std::int16_t *of_16 = a.sums.data() + (v * a.k + unit * shape.unit_elements + first) / 16;
                        for (unsigned g = 0; g < shape.sub_elements / 16; ++g) {
                            activation_sum += of_16[g];
                        }
                    }
                    for (unsigned c = 0; c < columns; ++c) {
                        const std::size_t i = v * columns + c;
                        dot[i] += shape.sub_scale_bits != 0 ? sums[i] * blocks[c].scale[s] : sums[i];
                        if (shape.sub_min_bits != 0) {
                            minima[i] += activation_sum * blocks[c].min[s];
                        }
                    }
                }
            }
            for (std::size_t v = 0; v < m; ++v) {
                const std::size_t scale_at = (v * a.k + unit * shape.unit_elements) / a.block;
                const float d_a = a.d[scale_at];
                for (unsigned c = 0; c < columns; ++c) {
                    const std::size_t i = v * columns + c;
                    // One statement an operation: no compiler may fuse them (see the header's bound).
                    float term = static_cast<float>(LutGemv::wrap(dot[i], shape.convert_bits()));
                    term = term * blocks[c].d;
                    term = term * d_a;
                    acc[i] = acc[i] + term;
                    if (shape.sub_min_bits != 0) {
                        float minimum = static_cast<float>(LutGemv::wrap(minima[i], shape.min_bits));
                        minimum = minimum * blocks[c].m;
                        minimum = minimum * d_a;
                        acc[i] = acc[i] - minimum;
                    } else if (shape.float_min) {
                        const float minimum = blocks[c].m * a.s[scale_at];
                        acc[i] = acc[i] + minimum;
                    }
                }
            }
        }
    };
    return run_plan<float>(params, plan, array_sum);
}

std::vector<std::int32_t> multiply_raw(const SramPimParams &params, const MatmulPlan &plan, bool weight_signed,
                                       const std::int8_t *weights, const std::int8_t *activations) {
    const GemvShape &shape = plan.shape;
    LutGemv gemv(shape, weight_signed, plan.nbw);
    std::vector<std::int8_t> transposed(std::size_t{shape.unit_elements} * params.array_columns);
    std::vector<std::int32_t> sums(plan.m * params.array_columns);
    const auto array_sum = [&](std::uint64_t first_column, unsigned columns, std::uint64_t first_unit, unsigned units,
                               std::int32_t *acc) {
        for (std::uint64_t unit = first_unit; unit < first_unit + units; ++unit) {
            const std::size_t first = unit * shape.unit_elements;
            for (unsigned c = 0; c < columns; ++c) {
                for (unsigned e = 0; e < shape.unit_elements; ++e) {
                    transposed[std::size_t{e} * columns + c] = weights[(first_column + c) * plan.k + first + e];
                }
            }
            gemv.sub_block(transposed.data(), columns, activations + first, plan.k, plan.m, sums.data());
            for (std::size_t i = 0; i < plan.m * columns; ++i) {
                acc[i] = LutGemv::wrap(acc[i] + sums[i], shape.sum_bits);
            }
        }
    };
    return run_plan<std::int32_t>(params, plan, array_sum);
}

} // namespace gempim::sram_pim
