// SPDX-License-Identifier: BSD-3-Clause
// Calls llama.cpp's operators that take tensors, on one thread. The tensors are filled in by hand: no context, no
// graph.
#include "guest.h"

#include <cstring>

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "ops.h"

namespace {

// Table of angles, or scores with their mask: one row and the padding that ggml adds between threads.
alignas(64) float work[GUEST_BYTES / 4 + 64];
int32_t position[1] = {100};

void shape(ggml_tensor &tensor, ggml_type type, size_t element, int64_t n0, int64_t n1, void *data) {
    tensor.type = type;
    tensor.ne[0] = n0;
    tensor.ne[1] = n1;
    tensor.ne[2] = tensor.ne[3] = 1;
    tensor.nb[0] = element;
    tensor.nb[1] = element * n0;
    tensor.nb[2] = tensor.nb[3] = tensor.nb[1] * n1;
    tensor.data = data;
}

ggml_compute_params one_thread() {
    ggml_compute_params params{};
    params.nth = 1;
    params.wsize = sizeof work;
    params.wdata = work;
    return params;
}

void set(ggml_tensor &tensor, int at, float value) {
    std::memcpy(&tensor.op_params[at], &value, sizeof value);
}

} // namespace

extern "C" {

void guest_rms_norm(int n, int rows) {
    static ggml_tensor x, weight, norm, product;
    shape(x, GGML_TYPE_F32, sizeof(float), n, rows, guest_f);
    shape(weight, GGML_TYPE_F32, sizeof(float), n, 1, guest_g);
    shape(norm, GGML_TYPE_F32, sizeof(float), n, rows, guest_z);
    shape(product, GGML_TYPE_F32, sizeof(float), n, rows, guest_z);
    norm.src[0] = &x;
    set(norm, 0, 1e-5f);
    product.src[0] = &norm;
    product.src[1] = &weight;
    const ggml_compute_params params = one_thread();
    ggml_compute_forward_rms_norm_mul_fused(&params, &norm, &product);
}

void guest_soft_max(int n, int masked) {
    static ggml_tensor scores, mask, result;
    shape(scores, GGML_TYPE_F32, sizeof(float), n, 1, guest_f);
    shape(mask, GGML_TYPE_F16, sizeof(ggml_fp16_t), n, 1, guest_x);
    shape(result, GGML_TYPE_F32, sizeof(float), n, 1, guest_z);
    result.src[0] = &scores;
    result.src[1] = masked ? &mask : nullptr;
    set(result, 0, 0.125f); // scale
    set(result, 1, 0.0f);   // no ALiBi
    const ggml_compute_params params = one_thread();
    ggml_compute_forward_soft_max(&params, &result);
}

void guest_rope(int heads, int dims) {
    static ggml_tensor x, positions, result;
    shape(x, GGML_TYPE_F32, sizeof(float), dims, heads, guest_f);
    shape(positions, GGML_TYPE_I32, sizeof(int32_t), 1, 1, position);
    shape(result, GGML_TYPE_F32, sizeof(float), dims, heads, guest_z);
    result.src[0] = &x;
    result.src[1] = &positions;
    result.op_params[1] = dims;
    result.op_params[2] = GGML_ROPE_TYPE_NORMAL;
    result.op_params[4] = 4096; // trained context
    set(result, 5, 10000.0f);   // base
    set(result, 6, 1.0f);       // frequency scale
    set(result, 7, 0.0f);       // no extrapolation
    set(result, 8, 1.0f);       // attention factor
    set(result, 9, 32.0f);      // beta_fast
    set(result, 10, 1.0f);      // beta_slow
    const ggml_compute_params params = one_thread();
    ggml_compute_forward_rope(&params, &result);
}
}
