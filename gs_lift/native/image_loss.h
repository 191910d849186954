// The photometric loss for other kernels.
#pragma once
#include <cstdint>

constexpr int PHOTOMETRIC_PLANES = 8;  // images that its workspace must hold

// (1 - w) L1 + w (1 - SSIM) of images x and y [height columns channels]; writes the gradient by x.
double photometric(const float *x, const float *y, int64_t height, int64_t columns, int64_t channels,
                   double ssim_weight, float *gradient, float *workspace, int threads);
