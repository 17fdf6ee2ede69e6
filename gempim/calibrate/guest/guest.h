/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The calibration program for the simulated machine: what its parts share. guest.c runs regions of interest,
 * tensors.cpp calls llama.cpp's operators that take tensors, and the list of kernels is generated
 * (gempim/calibrate/guest.py).
 */
#ifndef GEMPIM_CALIBRATE_GUEST_H
#define GEMPIM_CALIBRATE_GUEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of each operand. All of one kernel's operands together stay below half of a 64 KiB L1 data cache. */
#define GUEST_BYTES 16384

/** Timed calls of a region of empty calls. */
#define GUEST_REPEATS 16

/** Random blocks: every 16-bit word is a finite half, every 32-bit word a finite float, whatever the layout. */
extern unsigned char guest_x[GUEST_BYTES], guest_y[GUEST_BYTES];
/** Random floats in [-1, 1). */
extern float guest_f[GUEST_BYTES / 4], guest_g[GUEST_BYTES / 4];
/** Results. */
extern unsigned char guest_z[GUEST_BYTES];

/** One region of interest: `repeats` calls with argument n, after `warm` calls that nobody times. */
struct guest_region {
    const char *label;
    void (*call)(int n);
    int n;
    int warm;
    int repeats;
};

extern const struct guest_region guest_regions[];
extern const int guest_region_count;

/** RMS norm and its weight, fused, of `rows` rows of n elements of guest_f. */
void guest_rms_norm(int n, int rows);
/** Softmax of one row of n scores of guest_f, with a half-precision mask or without one. */
void guest_soft_max(int n, int masked);
/** Rotation of one token's `heads` heads of `dims` elements of guest_f. */
void guest_rope(int heads, int dims);

#ifdef __cplusplus
}
#endif

#endif
