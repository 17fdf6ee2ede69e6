// SPDX-License-Identifier: BSD-3-Clause
// What the device makes of a `lutmm` descriptor: the checks of the contract in isa/lutmm.h, and the operands as the
// models take them. Every host of real guests (the gem5 plug-in, the software device) goes through here, so that a
// descriptor is accepted, refused and computed the same everywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "isa/lutmm.h"
#include "models/ggml/activations.hh"
#include "models/ggml/formats.hh"
#include "models/sram_pim/multiply.hh"
#include "models/sram_pim/sram_pim.hh"

namespace gempim::sram_pim {

/** Bytes of guest memory in rows. */
struct RowRange {
    std::uint64_t address = 0; ///< of the first row
    std::uint64_t rows = 0;
    std::uint64_t row_bytes = 0;
    std::uint64_t stride = 0;

    /** From the first byte to the one after the last. */
    std::uint64_t extent() const { return (rows - 1) * stride + row_bytes; }
};

/** An accepted descriptor. */
struct Command {
    gempim_lutmm_desc desc{};
    const ggml::BlockFormat *format = nullptr;
    std::shared_ptr<const MatmulPlan> plan;
    RowRange weights; ///< rows of blocks, or columns of blocks of transposed weights
    RowRange activations;
    RowRange results;

    bool transposed() const { return (desc.flags & GEMPIM_LUTMM_TRANSPOSED) != 0; }

    /** The part of every row of `weights` that a tile needs, as rows of its own. */
    struct Part {
        std::uint64_t first_row = 0;
        std::uint64_t rows = 0;
        std::uint64_t from = 0; ///< byte in the row
        std::uint64_t bytes = 0;
    };
    Part part_of(const Tile &tile) const;

    /** The weights when they were copied to `bytes`, rows of `weights` without gaps. */
    WeightBlocks blocks(const std::uint8_t *bytes) const;
};

/** The block format of a ggml type number, or null. */
const ggml::BlockFormat *format_of_type(unsigned ggml_type);

/**
 * Check a descriptor; the first rule that it breaks, in the order of the status codes' documentation, is the answer.
 * @param address where it lies in guest memory
 * @return 0 and `out` filled, or a GEMPIM_ERR_*, which the device has counted as a rejected command
 */
std::int32_t check_command(SramPim &device, const gempim_lutmm_desc &desc, std::uint64_t address, Command &out);

/** @param bytes the activation rows of the command, one after another without gaps */
ggml::QuantizedActivations unpack_activations(const Command &command, const std::uint8_t *bytes);

/** @return the answer to a gempim_lutmm_query, or minus GEMPIM_ERR_QUERY */
std::int64_t answer_query(const SramPim &device, std::int64_t what, unsigned tickets);

/**
 * Set parameters from "name=value,name=value" (flags as true or false).
 * @throws ParamError naming what is not a parameter or no value of its type
 */
void set_params(SramPimParams &params, std::string_view assignments);

} // namespace gempim::sram_pim
