// SPDX-License-Identifier: BSD-3-Clause
// Files of lutmm operations and of their results: what a host program gives to `lutmm_ops` and gets back.
// workloads/ops_file.py writes and reads the same. Everything is little-endian and follows without padding.
//
// operations                                       results
//   8 bytes  "GEMPOPS1"                              8 bytes  "GEMPRES1"
//   u32      number of operations                    u32      number of operations
//   for each operation:                              for each operation, in the order of the operations:
//     u32    number of the ggml type                   u32    gempim_lutmm_status: DONE, or why not
//     u32    m, u32 n, u32 k                           u32    m, u32 n
//     u64    bytes of weights                          f32    results[m, n], only if DONE
//     u64    bytes of activations
//     weights: n rows of k / block blocks
//     activations: m rows of blocks of the type that ggml pairs with the weights'
//
// Shapes and types are handed to the device as they are: it is the device that refuses them. The byte counts must
// be those of the shape where type and shape are valid.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace gempim::micro {

inline constexpr char kOpsMagic[] = "GEMPOPS1";
inline constexpr char kResultsMagic[] = "GEMPRES1";

/** One product. */
struct Operation {
    std::uint32_t weight_type = 0;
    std::uint32_t m = 0;
    std::uint32_t n = 0;
    std::uint32_t k = 0;
    std::uint64_t weight_bytes = 0;
    std::uint64_t activation_bytes = 0;
    std::uint8_t *weights = nullptr;
    std::uint8_t *activations = nullptr;
    float *results = nullptr; ///< [m, n]; null if the device must refuse type or shape
    std::uint32_t status = 0;
};

} // namespace gempim::micro
