// The kernels for one instruction set: compiled once for each, with its flags and GS_LIFT_KERNELS its table's name.
//
// Nothing here may be shared with another instruction set: see simd.h.
#include "neighbours_kernel.h"
#include "rasterizer_backward.h"
#include "rasterizer_harmonics.h"
#include "rasterizer_lists.h"
#include "rasterizer_rows.h"

#ifndef GS_LIFT_KERNELS
#define GS_LIFT_KERNELS KERNELS_BASELINE
#endif

extern const Kernels GS_LIFT_KERNELS = {
    W == 16 ? "avx512" : W == 8 ? "avx2" : "baseline",
    project, project_backward, prepare, harmonics, harmonics_backward,
    scratch_floats, blend, blend_backward, gather, activate, tile_weights, tile_pairs, tile_columns, pixel_weights, near_points,
};
