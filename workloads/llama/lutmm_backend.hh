// SPDX-License-Identifier: BSD-3-Clause
// A ggml backend of the accelerator kind, as BLAS is one: it works on host memory, takes the matrix products with
// quantised weights out of a graph and gives each to the PIM as `lutmm` commands. Everything else stays with
// llama.cpp's CPU backend. llama.cpp finds it in ggml's registry and is not changed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml-cpu.h"

namespace gempim::llama {

/**
 * The backend's entry for ggml_backend_register.
 * MUL_MAT with src0 of a type that the device multiplies (its query says which), src0's rows contiguous and at a stride
 * of at least their length, src1 float32 with contiguous rows, any strides above that, any batch, src0 broadcast over
 * the outer dimensions of src1. The rest is declined and runs on the CPU backend.
 * Its second device, LUTMM_WEIGHTS, has a buffer type into which llama.cpp loads the weights of such products: whole
 * matrices, transposed block by block. Those of other buffers are multiplied where and as they lie.
 */
ggml_backend_reg_t lutmm_reg();

/**
 * Threads that quantise activations of several rows; the pool is the one of the CPU backend, which is idle meanwhile.
 * Null: the calling thread alone.
 */
void set_threadpool(ggml_threadpool_t pool, int threads);

/** Have every thread of the pool do something, so that for a while it spins instead of sleeping. */
void wake_threadpool();

/** What was multiplied under one name and type since the program began. */
struct ProductCount {
    std::string name; ///< of the weights, without layer number and ".weight", e.g. ffn_up
    std::string type; ///< of the weights, e.g. q4_0
    std::uint64_t commands = 0;
    std::uint64_t macs = 0;
    std::uint64_t weight_bytes = 0; ///< what the commands read, each time anew
};

/** In the order of their first product. */
std::vector<ProductCount> product_counts();

} // namespace gempim::llama
