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
 * Put the partial results of one strip together.
 * @param array_sum array_sum(first_column, columns, first_unit, units, out): the [m, columns] result of one array
 * @return [m, columns of the strip]
 */
template <class T, class ArraySum>
std::vector<T> run_strip(const SramPimParams &params, const MatmulPlan &plan, unsigned strip, ArraySum &&array_sum) {
    const CostModel model(params, plan.shape, plan.nbw);
    std::vector<const Tile *> tiles;
    for (const Tile &tile : plan.tiles) {
        if (tile.strip == strip) {
            tiles.push_back(&tile);
        }
    }
    std::sort(tiles.begin(), tiles.end(),
              [](const Tile *a, const Tile *b) { return a->shape.first_unit < b->shape.first_unit; });
    const unsigned columns = plan.columns_of(strip);
    // Partial results of the strip's chains, in inner order; tiles of a chain come in order.
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
    return std::move(partial[0]);
}

/** Every strip of a plan: [m, n]. */
template <class T, class ArraySum>
std::vector<T> run_plan(const SramPimParams &params, const MatmulPlan &plan, ArraySum &&array_sum) {
    std::vector<T> out(plan.m * plan.n);
    for (unsigned strip = 0; strip < plan.strips; ++strip) {
        const std::vector<T> result = run_strip<T>(params, plan, strip, array_sum);
        const unsigned columns = plan.columns_of(strip);
        for (std::uint64_t v = 0; v < plan.m; ++v) {
            std::copy_n(result.data() + v * columns, columns,
                        out.data() + v * plan.n + std::uint64_t{strip} * plan.tile_n);
        }
    }
    return out;
}

/** The sum of one array over ggml blocks, as a function for run_strip. */
class BlockSum {
  public:
    BlockSum(const SramPimParams &params, const MatmulPlan &plan, const ggml::BlockFormat &format,
             const WeightBlocks &weights, const ggml::QuantizedActivations &activations)
        : shape_(plan.shape), format_(format), weights_(weights), a_(activations), m_(plan.m),
          gemv_(plan.shape, format.weight_signed, plan.nbw), blocks_(params.array_columns),
          transposed_(std::size_t{plan.shape.unit_elements} * params.array_columns),
          sums_(plan.m * params.array_columns), dot_(sums_.size()), minima_(sums_.size()) {}

    void operator()(std::uint64_t first_column, unsigned columns, std::uint64_t first_unit, unsigned units,
                    float *acc) {
        for (std::uint64_t unit = first_unit; unit < first_unit + units; ++unit) {
            integer_sums(first_column, columns, unit);
            scale_and_add(columns, unit, acc);
        }
    }

  private:
    void integer_sums(std::uint64_t first_column, unsigned columns, std::uint64_t unit) {
        for (unsigned c = 0; c < columns; ++c) {
            ggml::decode_block(format_,
                               weights_.bytes + (first_column + c) * weights_.row_step + unit * weights_.unit_step,
                               blocks_[c]);
            for (unsigned e = 0; e < shape_.unit_elements; ++e) {
                transposed_[std::size_t{e} * columns + c] = blocks_[c].q[e];
            }
        }
        std::fill(dot_.begin(), dot_.end(), 0);
        std::fill(minima_.begin(), minima_.end(), 0);
        for (unsigned s = 0; s < shape_.sub_blocks(); ++s) {
            const std::size_t first = std::size_t{s} * shape_.sub_elements;
            gemv_.sub_block(transposed_.data() + first * columns, columns,
                            a_.q.data() + unit * shape_.unit_elements + first, a_.k, m_, sums_.data());
            for (std::size_t v = 0; v < m_; ++v) {
                std::int32_t activation_sum = 0;
                if (shape_.sub_min_bits != 0) {
                    const std::int16_t *of_16 = a_.sums.data() + (v * a_.k + unit * shape_.unit_elements + first) / 16;
                    for (unsigned g = 0; g < shape_.sub_elements / 16; ++g) {
                        activation_sum += of_16[g];
                    }
                }
                for (unsigned c = 0; c < columns; ++c) {
                    const std::size_t i = v * columns + c;
                    dot_[i] += shape_.sub_scale_bits != 0 ? sums_[i] * blocks_[c].scale[s] : sums_[i];
                    if (shape_.sub_min_bits != 0) {
                        minima_[i] += activation_sum * blocks_[c].min[s];
                    }
                }
            }
        }
    }

    void scale_and_add(unsigned columns, std::uint64_t unit, float *acc) const {
        for (std::size_t v = 0; v < m_; ++v) {
            const std::size_t scale_at = (v * a_.k + unit * shape_.unit_elements) / a_.block;
            const float d_a = a_.d[scale_at];
            for (unsigned c = 0; c < columns; ++c) {
                const std::size_t i = v * columns + c;
                // One statement an operation: no compiler may fuse them (see the header's bound).
                float term = static_cast<float>(LutGemv::wrap(dot_[i], shape_.convert_bits()));
                term = term * blocks_[c].d;
                term = term * d_a;
                acc[i] = acc[i] + term;
                if (shape_.sub_min_bits != 0) {
                    float minimum = static_cast<float>(LutGemv::wrap(minima_[i], shape_.min_bits));
                    minimum = minimum * blocks_[c].m;
                    minimum = minimum * d_a;
                    acc[i] = acc[i] - minimum;
                } else if (shape_.float_min) {
                    const float minimum = blocks_[c].m * a_.s[scale_at];
                    acc[i] = acc[i] + minimum;
                }
            }
        }
    }

    const GemvShape &shape_;
    const ggml::BlockFormat &format_;
    const WeightBlocks weights_;
    const ggml::QuantizedActivations &a_;
    const std::size_t m_;
    LutGemv gemv_;
    std::vector<ggml::DecodedBlock> blocks_;
    std::vector<std::int8_t> transposed_;
    std::vector<std::int32_t> sums_;
    std::vector<std::int32_t> dot_;
    std::vector<std::int32_t> minima_;
};

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
                            const WeightBlocks &weights, const ggml::QuantizedActivations &activations) {
    return run_plan<float>(params, plan, BlockSum(params, plan, format, weights, activations));
}

std::vector<float> multiply_strip(const SramPimParams &params, const MatmulPlan &plan, unsigned strip,
                                  const ggml::BlockFormat &format, const WeightBlocks &weights,
                                  const ggml::QuantizedActivations &activations) {
    return run_strip<float>(params, plan, strip, BlockSum(params, plan, format, weights, activations));
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
