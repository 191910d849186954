// A camera as the kernels want it, from row-major matrices.
#pragma once
#include "rasterizer.h"

#include <stdexcept>

// viewmat [4 4] world -> camera, K [3 3] in pixels. Throws std::invalid_argument for a size that tiles cannot have.
inline View view_of(const float *viewmat, const float *K, int width, int height, float near_plane, float far_plane,
                    float eps2d, bool antialiased) {
    if (width < 1 || height < 1 || width > 65535 * TILE || height > 65535 * TILE)
        throw std::invalid_argument("the image must have at least one pixel and at most 2^20 along a side");
    View view{};
    for (int row = 0; row < 3; row++) {
        for (int column = 0; column < 3; column++) view.rotation[3 * row + column] = viewmat[4 * row + column];
        view.translation[row] = viewmat[4 * row + 3];
    }
    view.fx = K[0], view.cx = K[2], view.fy = K[4], view.cy = K[5];
    view.near_plane = near_plane, view.far_plane = far_plane, view.eps2d = eps2d;
    view.width = width, view.height = height, view.antialiased = antialiased;
    return view;
}

// Where the camera stands: the solution of R p = -t by Cramer's rule, R being any invertible matrix.
inline void camera_position(const float *viewmat, float *position) {
    double r[3][3], t[3];
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) r[i][j] = viewmat[4 * i + j];
        t[i] = -double(viewmat[4 * i + 3]);
    }
    auto minor = [&](int i, int j) {
        const int a = (i + 1) % 3, b = (i + 2) % 3, c = (j + 1) % 3, d = (j + 2) % 3;
        return r[a][c] * r[b][d] - r[a][d] * r[b][c];
    };
    const double det = r[0][0] * minor(0, 0) + r[0][1] * minor(0, 1) + r[0][2] * minor(0, 2);
    for (int j = 0; j < 3; j++)
        position[j] = float((minor(0, j) * t[0] + minor(1, j) * t[1] + minor(2, j) * t[2]) / det);
}
