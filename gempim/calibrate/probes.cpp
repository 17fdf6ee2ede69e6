// SPDX-License-Identifier: BSD-3-Clause
// Entry points for functions of llama.cpp that exist only inline in its header, so that their loops can be found in the assembly.
#include "vec.h"

extern "C" {

void gempim_probe_sum(int n, float *s, const float *x) { ggml_vec_sum_f32(n, s, x); }

void gempim_probe_scale(int n, float *y, float v) { ggml_vec_scale_f32(n, y, v); }

void gempim_probe_add(int n, float *z, const float *x, const float *y) { ggml_vec_add_f32(n, z, x, y); }

void gempim_probe_max(int n, float *s, const float *x) { ggml_vec_max_f32(n, s, x); }

void gempim_probe_gelu(int n, float *y, const float *x) { ggml_vec_gelu_f32(n, y, x); }
}
