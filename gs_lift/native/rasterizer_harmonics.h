// Colours from spherical harmonics of degree 0..3: max(0, SH + 0.5), and the gradient. Order and signs of 3DGS;
// coefficients [N terms 3], of which the first (degree + 1)^2 are used.
//
// The coefficients of one Gaussian lie together, so a Gaussian is taken at a time, a channel to a lane of four.
#pragma once
#include "rasterizer.h"
#include "simd.h"

namespace {

typedef float Four __attribute__((vector_size(16)));

// Coefficient k of a row of `terms`. The fourth lane is not used: of all but the last it is the next one's first.
GS_INLINE Four term(const float *row, int k, int terms) {
    const float *p = row + 3 * k;
    if (k + 1 == terms) return Four{p[0], p[1], p[2], 0.0f};
    Four four;
    memcpy(&four, p, sizeof four);
    return four;
}

// row[3 k + c] += b[k] v[c] for `used` terms: four terms are three vectors, so that no store meets a load half way.
GS_INLINE void add_outer(const float *b, Four v, int used, float *row) {
    const Four v0 = {v[0], v[1], v[2], v[0]}, v1 = {v[1], v[2], v[0], v[1]}, v2 = {v[2], v[0], v[1], v[2]};
    int k = 0;
    for (; k + 4 <= used; k += 4, b += 4, row += 12) {
        const Four products[3] = {Four{b[0], b[0], b[0], b[1]} * v0, Four{b[1], b[1], b[2], b[2]} * v1,
                                  Four{b[2], b[3], b[3], b[3]} * v2};
        for (int part = 0; part < 3; part++) {
            Four sum;
            memcpy(&sum, row + 4 * part, sizeof sum);
            sum = sum + products[part];
            memcpy(row + 4 * part, &sum, sizeof sum);
        }
    }
    for (; k < used; k++, b++, row += 3)
        for (int c = 0; c < 3; c++) row[c] += b[0] * v[c];
}

// Values of the bases at the unit vector (x, y, z), and their derivatives if wanted: dx, dy, dz [terms].
template <bool derivatives>
GS_INLINE void bases(int degree, float x, float y, float z, float *b, float *dx, float *dy, float *dz) {
    b[0] = 0.28209479177387814f;
    if (derivatives) dx[0] = dy[0] = dz[0] = 0.0f;
    if (degree < 1) return;
    const float c1 = 0.4886025119029199f;
    b[1] = -c1 * y, b[2] = c1 * z, b[3] = -c1 * x;
    if (derivatives) {
        for (int k = 1; k < 4; k++) dx[k] = dy[k] = dz[k] = 0.0f;
        dy[1] = -c1, dz[2] = c1, dx[3] = -c1;
    }
    if (degree < 2) return;
    const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    const float xx = x * x, yy = y * y, zz = z * z;
    b[4] = c2 * x * y, b[5] = -c2 * y * z, b[6] = c20 * (2 * zz - xx - yy), b[7] = -c2 * x * z, b[8] = c22 * (xx - yy);
    if (derivatives) {
        dx[4] = c2 * y, dy[4] = c2 * x, dz[4] = 0;
        dx[5] = 0, dy[5] = -c2 * z, dz[5] = -c2 * y;
        dx[6] = -2 * c20 * x, dy[6] = -2 * c20 * y, dz[6] = 4 * c20 * z;
        dx[7] = -c2 * z, dy[7] = 0, dz[7] = -c2 * x;
        dx[8] = 2 * c22 * x, dy[8] = -2 * c22 * y, dz[8] = 0;
    }
    if (degree < 3) return;
    const float c33 = 0.5900435899266435f, c32 = 2.890611442640554f, c31 = 0.4570457994644658f;
    const float c30 = 0.3731763325901154f, c34 = 1.445305721320277f;
    b[9] = -c33 * y * (3 * xx - yy), b[10] = c32 * x * y * z, b[11] = -c31 * y * (4 * zz - xx - yy);
    b[12] = c30 * z * (2 * zz - 3 * xx - 3 * yy), b[13] = -c31 * x * (4 * zz - xx - yy);
    b[14] = c34 * z * (xx - yy), b[15] = -c33 * x * (xx - 3 * yy);
    if (derivatives) {
        dx[9] = -6 * c33 * x * y, dy[9] = -3 * c33 * (xx - yy), dz[9] = 0;
        dx[10] = c32 * y * z, dy[10] = c32 * x * z, dz[10] = c32 * x * y;
        dx[11] = 2 * c31 * x * y, dy[11] = -c31 * (4 * zz - xx - 3 * yy), dz[11] = -8 * c31 * y * z;
        dx[12] = -6 * c30 * x * z, dy[12] = -6 * c30 * y * z, dz[12] = c30 * (6 * zz - 3 * xx - 3 * yy);
        dx[13] = -c31 * (4 * zz - 3 * xx - yy), dy[13] = 2 * c31 * x * y, dz[13] = -8 * c31 * x * z;
        dx[14] = 2 * c34 * x * z, dy[14] = -2 * c34 * y * z, dz[14] = c34 * (xx - yy);
        dx[15] = -3 * c33 * (xx - yy), dy[15] = 6 * c33 * x * y, dz[15] = 0;
    }
}

struct Direction {
    float x, y, z, inverse_norm;
};

GS_INLINE Direction direction(const float *mean, const float *camera) {
    const float x = mean[0] - camera[0], y = mean[1] - camera[1], z = mean[2] - camera[2];
    const float norm = __builtin_sqrtf(x * x + y * y + z * z);
    const float inverse = norm > 1e-12f ? 1.0f / norm : 1e12f;
    return {x * inverse, y * inverse, z * inverse, inverse};
}

void harmonics(int degree, int terms, const float *means, const float *camera, const float *sh, const int32_t *radii,
               int begin, int end, float *colors) {
    const int used = (degree + 1) * (degree + 1);
    for (int i = begin; i < end; i++) {
        float *color = colors + 3 * size_t(i);
        color[0] = color[1] = color[2] = 0.0f;
        if (radii[2 * size_t(i)] <= 0) continue;
        const float *row = sh + 3 * size_t(i) * size_t(terms);
        float b[16];
        const Direction d = direction(means + 3 * size_t(i), camera);
        bases<false>(degree, d.x, d.y, d.z, b, nullptr, nullptr, nullptr);
        Four sum = {0.5f, 0.5f, 0.5f, 0.0f};
        for (int k = 0; k < used; k++) sum = sum + b[k] * term(row, k, terms);
        for (int c = 0; c < 3; c++) color[c] = sum[c] > 0.0f ? sum[c] : 0.0f;  // NaN: black
    }
}

// Adds to v_means and v_sh, either of which may be null.
void harmonics_backward(int degree, int terms, const float *means, const float *camera, const float *sh,
                        const float *colors, const float *v_colors, int begin, int end, float *v_means, float *v_sh) {
    const int used = (degree + 1) * (degree + 1);
    for (int i = begin; i < end; i++) {
        const float *color = colors + 3 * size_t(i), *v_color = v_colors + 3 * size_t(i);
        Four v = {0.0f, 0.0f, 0.0f, 0.0f};  // 0 where the colour was clamped, or the Gaussian not seen
        for (int c = 0; c < 3; c++)
            if (color[c] > 0.0f) v[c] = v_color[c];
        if (v[0] == 0.0f && v[1] == 0.0f && v[2] == 0.0f) continue;
        const float *row = sh + 3 * size_t(i) * size_t(terms);
        float b[16], dx[16], dy[16], dz[16];
        const Direction d = direction(means + 3 * size_t(i), camera);
        bases<true>(degree, d.x, d.y, d.z, b, dx, dy, dz);
        if (v_sh) add_outer(b, v, used, v_sh + 3 * size_t(i) * size_t(terms));
        if (v_means && degree > 0) {
            Four x = {}, y = {}, z = {};
            for (int k = 1; k < used; k++) {
                const Four weighted = v * term(row, k, terms);
                x = x + dx[k] * weighted, y = y + dy[k] * weighted, z = z + dz[k] * weighted;
            }
            const float gx = x[0] + x[1] + x[2], gy = y[0] + y[1] + y[2], gz = z[0] + z[1] + z[2];
            const float along = gx * d.x + gy * d.y + gz * d.z;  // through the normalisation
            float *v_mean = v_means + 3 * size_t(i);
            v_mean[0] += (gx - along * d.x) * d.inverse_norm;
            v_mean[1] += (gy - along * d.y) * d.inverse_norm;
            v_mean[2] += (gz - along * d.z) * d.inverse_norm;
        }
    }
}

}  // namespace
