// Projection of 3D Gaussians to the image and back, W Gaussians at a time.
//
// Notation: c = R m + t is the mean in the camera; A = R Q S with Q the rotation of the quaternion and S the scales,
// so that the covariance in the camera is A A^T. With m0, m1 the rows of J A, the projected covariance is
//     [[m0.m0, m0.m1], [m0.m1, m1.m1]] + eps2d I
// and its determinant |m0 x m1|^2 + eps2d (m0.m0 + m1.m1) + eps2d^2: a sum of squares, where gsplat's difference of
// products loses every digit for a thin Gaussian. (3DGS, equation 5; gsplat 1.5.3 for every constant.)
#pragma once
#include "rasterizer.h"
#include "simd.h"

namespace {

constexpr float LN2 = 0.69314718056f;
constexpr float LARGEST = 3e38f;  // a comparison with it is false for infinities and NaN

struct F3 {
    F x, y, z;
};

GS_INLINE F3 operator+(F3 a, F3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
GS_INLINE F3 operator*(F s, F3 a) { return {s * a.x, s * a.y, s * a.z}; }
GS_INLINE F dot(F3 a, F3 b) { return fma(a.x, b.x, fma(a.y, b.y, a.z * b.z)); }
GS_INLINE F3 cross(F3 a, F3 b) {
    return {fma(a.y, b.z, -(a.z * b.y)), fma(a.z, b.x, -(a.x * b.z)), fma(a.x, b.y, -(a.y * b.x))};
}
GS_INLINE M finite(F a) { return gt(set(LARGEST), vabs(a)); }

// Rows i .. i + n of an [N K] array as K vectors; lanes from n on repeat the last row.
template <int K> GS_INLINE void load_rows(const float *rows, int i, int n, F *out) {
    alignas(64) float columns[K][W];
    for (int lane = 0; lane < W; lane++) {
        const float *row = rows + size_t(i + (lane < n ? lane : n - 1)) * K;
        for (int k = 0; k < K; k++) columns[k][lane] = row[k];
    }
    for (int k = 0; k < K; k++) out[k] = load(columns[k]);
}

template <int K> GS_INLINE void store_rows(float *rows, int i, int n, const F *in) {
    alignas(64) float columns[K][W];
    for (int k = 0; k < K; k++) store(columns[k], in[k]);
    for (int lane = 0; lane < n; lane++)
        for (int k = 0; k < K; k++) rows[size_t(i + lane) * K + k] = columns[k][lane];
}

template <int K> GS_INLINE void add_rows(float *rows, int i, int n, const F *in) {
    alignas(64) float columns[K][W];
    for (int k = 0; k < K; k++) store(columns[k], in[k]);
    for (int lane = 0; lane < n; lane++)
        for (int k = 0; k < K; k++) rows[size_t(i + lane) * K + k] += columns[k][lane];
}

// What the forward and the backward pass both need of W Gaussians.
struct Projection {
    F w, x, y, z, inverse_norm;  // the quaternion, normalised
    F s[3];
    F3 q[3];             // rows of Q
    F3 a[3];             // rows of A
    F3 point;            // c
    F over_z, slope_x, slope_y;
    M inside_x, inside_y;  // whether the slopes were within the clamped frustum
    F j00, j02, j11, j12;
    F3 m0, m1;
    F xx0, yy0, xx, xy, yy, det0, det;  // covariance without and with eps2d
};

GS_INLINE F clamp_slope(F slope, float focal, float center, int size, M &inside) {
    float margin = 0.3f * 0.5f * float(size) / focal;
    F low = set(-(center / focal + margin)), high = set((float(size) - center) / focal + margin);
    inside = both(ge(slope, low), ge(high, slope));
    return vmin(vmax(slope, low), high);
}

GS_INLINE void project_lanes(const Parameters &in, const View &view, int i, int n, Projection &p) {
    const float *r = view.rotation;
    F mean[3], quat[4];
    load_rows<3>(in.means, i, n, mean);
    load_rows<4>(in.quats, i, n, quat);
    load_rows<3>(in.scales, i, n, p.s);

    F norm2 = fma(quat[0], quat[0], fma(quat[1], quat[1], fma(quat[2], quat[2], quat[3] * quat[3])));
    p.inverse_norm = 1.0f / vmax(vsqrt(norm2), set(1e-12f));
    p.w = quat[0] * p.inverse_norm, p.x = quat[1] * p.inverse_norm;
    p.y = quat[2] * p.inverse_norm, p.z = quat[3] * p.inverse_norm;
    F w = p.w, x = p.x, y = p.y, z = p.z;
    p.q[0] = {1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y)};
    p.q[1] = {2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x)};
    p.q[2] = {2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)};

    F *point[3] = {&p.point.x, &p.point.y, &p.point.z};
    for (int row = 0; row < 3; row++) {
        F r0 = set(r[3 * row]), r1 = set(r[3 * row + 1]), r2 = set(r[3 * row + 2]);
        *point[row] = fma(r0, mean[0], fma(r1, mean[1], fma(r2, mean[2], set(view.translation[row]))));
        F3 rotated = r0 * p.q[0] + r1 * p.q[1] + r2 * p.q[2];
        p.a[row] = {rotated.x * p.s[0], rotated.y * p.s[1], rotated.z * p.s[2]};
    }
    p.over_z = 1.0f / p.point.z;
    p.slope_x = clamp_slope(p.point.x * p.over_z, view.fx, view.cx, view.width, p.inside_x);
    p.slope_y = clamp_slope(p.point.y * p.over_z, view.fy, view.cy, view.height, p.inside_y);
    p.j00 = set(view.fx) * p.over_z, p.j11 = set(view.fy) * p.over_z;
    p.j02 = -(p.j00 * p.slope_x), p.j12 = -(p.j11 * p.slope_y);
    p.m0 = p.j00 * p.a[0] + p.j02 * p.a[2];
    p.m1 = p.j11 * p.a[1] + p.j12 * p.a[2];
    p.xx0 = dot(p.m0, p.m0), p.xy = dot(p.m0, p.m1), p.yy0 = dot(p.m1, p.m1);
    F3 area = cross(p.m0, p.m1);
    p.det0 = dot(area, area);
    F eps = set(view.eps2d);
    p.xx = p.xx0 + eps, p.yy = p.yy0 + eps;
    p.det = p.det0 + eps * (p.xx0 + p.yy0 + eps);
}

// exp(x), x kept where the result is a normal number.
GS_INLINE F exp_of(F x) { return exp2_of(vmin(vmax(1.44269504089f * x, set(-126.0f)), set(126.0f))); }

void activate(const float *log_scales, const float *logits, int begin, int end, float *scales, float *opacities) {
    alignas(64) float values[W];
    const auto run = [&](const float *in, size_t first, size_t last, float *out, bool sigmoid) {
        for (size_t i = first; i < last; i += W) {
            const size_t n = last - i < W ? last - i : W;
            for (size_t lane = 0; lane < W; lane++) values[lane] = in[i + (lane < n ? lane : n - 1)];
            const F x = load(values);
            store(values, sigmoid ? 1.0f / (1.0f + exp_of(-x)) : exp_of(x));
            for (size_t lane = 0; lane < n; lane++) out[i + lane] = values[lane];
        }
    };
    run(log_scales, 3 * size_t(begin), 3 * size_t(end), scales, false);
    run(logits, size_t(begin), size_t(end), opacities, true);
}

void project(const Parameters &in, const View &view, int begin, int end, const Projected &out) {
    for (int i = begin; i < end; i += W) {
        int n = end - i < W ? end - i : W;
        Projection p;
        project_lanes(in, view, i, n, p);
        F opacity;
        load_rows<1>(in.opacities, i, n, &opacity);
        F compensation = set(1.0f);
        if (view.antialiased) {
            compensation = vsqrt(vmax(p.det0 / p.det, zero()));
            opacity = opacity * compensation;
        }
        F over_det = 1.0f / p.det;
        F mean[2] = {fma(p.j00, p.point.x, set(view.cx)), fma(p.j11, p.point.y, set(view.cy))};
        F conic[3] = {p.yy * over_det, -(p.xy * over_det), p.xx * over_det};

        // Where the opacity falls to ALPHA_MIN (StopThePop, section B.2): no pixel outside can be touched.
        F fall = log2_of(vmax(opacity, set(ALPHA_MIN))) - set(LOG2_ALPHA_MIN);
        F extent = vmin(set(3.33f), vsqrt(vmax(2.0f * LN2 * fall, zero())));
        F rx = vceil(extent * vsqrt(p.xx)), ry = vceil(extent * vsqrt(p.yy));

        M seen = both(ge(p.point.z, set(view.near_plane)), ge(set(view.far_plane), p.point.z));
        seen = both(seen, both(ge(opacity, set(ALPHA_MIN)), finite(opacity)));
        seen = both(seen, both(gt(p.det, zero()), finite(p.det)));
        seen = both(seen, both(finite(conic[0]), both(finite(conic[1]), finite(conic[2]))));
        seen = both(seen, both(gt(mean[0] + rx, zero()), gt(set(float(view.width)), mean[0] - rx)));
        seen = both(seen, both(gt(mean[1] + ry, zero()), gt(set(float(view.height)), mean[1] - ry)));
        seen = both(seen, both(gt(rx, zero()), gt(ry, zero())));

        for (F &value : mean) value = keep(seen, value);
        for (F &value : conic) value = keep(seen, value);
        F depth = keep(seen, p.point.z), kept = keep(seen, compensation);
        store_rows<2>(out.means2d, i, n, mean);
        store_rows<3>(out.conics, i, n, conic);
        store_rows<1>(out.depths, i, n, &depth);
        if (view.antialiased) store_rows<1>(out.compensations, i, n, &kept);
        alignas(64) float radii[2][W];
        F most = set(1073741824.0f);  // 2^30: still an int
        store(radii[0], keep(seen, vmin(rx, most)));
        store(radii[1], keep(seen, vmin(ry, most)));
        for (int lane = 0; lane < n; lane++) {
            out.radii[2 * size_t(i + lane)] = int32_t(radii[0][lane]);
            out.radii[2 * size_t(i + lane) + 1] = int32_t(radii[1][lane]);
        }
    }
}

// Gradient by the projected covariance, as by xx, xy and yy.
GS_INLINE F3 covariance_gradient(const Projection &p, const View &view, const F *v_conic, F v_compensation) {
    F over_det = 1.0f / p.det;
    F a = p.yy * over_det, b = -(p.xy * over_det), c = p.xx * over_det;
    F half = 0.5f * v_conic[1];
    // -P G P with P the conic and G its gradient, both symmetric.
    F k00 = fma(a, v_conic[0], b * half), k01 = fma(a, half, b * v_conic[2]);
    F k10 = fma(b, v_conic[0], c * half), k11 = fma(b, half, c * v_conic[2]);
    F3 v = {-fma(k00, a, k01 * b), -2.0f * fma(k00, b, k01 * c), -fma(k10, b, k11 * c)};
    if (view.antialiased) {
        // compensation = sqrt(ratio), ratio = det0 / det.
        F ratio = p.det0 * over_det;
        F scale = 0.5f * v_compensation / vmax(vsqrt(ratio), set(1e-6f)) * over_det;
        v.x = v.x + scale * fnma(ratio, p.yy, p.yy0);
        v.y = v.y + scale * 2.0f * p.xy * (ratio - 1.0f);
        v.z = v.z + scale * fnma(ratio, p.xx, p.xx0);
    }
    return v;
}

// Gradient by the quaternion as given (not normalised) from that by Q.
GS_INLINE void quat_gradient(const Projection &p, const F3 *v, F *out) {
    F w = p.w, x = p.x, y = p.y, z = p.z;
    F d21 = v[2].y - v[1].z, d02 = v[0].z - v[2].x, d10 = v[1].x - v[0].y;
    F s01 = v[0].y + v[1].x, s02 = v[0].z + v[2].x, s12 = v[1].z + v[2].y;
    F g[4] = {
        2.0f * (x * d21 + y * d02 + z * d10),
        2.0f * (-2.0f * x * (v[1].y + v[2].z) + y * s01 + z * s02 + w * d21),
        2.0f * (x * s01 - 2.0f * y * (v[0].x + v[2].z) + z * s12 + w * d02),
        2.0f * (x * s02 + y * s12 - 2.0f * z * (v[0].x + v[1].y) + w * d10),
    };
    F along = g[0] * w + g[1] * x + g[2] * y + g[3] * z;
    const F q[4] = {w, x, y, z};
    for (int k = 0; k < 4; k++) out[k] = (g[k] - along * q[k]) * p.inverse_norm;
}

void project_backward(const Parameters &in, const View &view, int begin, int end, const Projected &forward,
                      const ProjectedGradients &v, const ParameterGradients &out) {
    const float *r = view.rotation;
    for (int i = begin; i < end; i += W) {
        int n = end - i < W ? end - i : W;
        alignas(64) float visible[W] = {};
        bool some = false;
        for (int lane = 0; lane < n; lane++) {
            visible[lane] = forward.radii[2 * size_t(i + lane)] > 0 ? 1.0f : 0.0f;
            some |= visible[lane] > 0.0f;
        }
        if (!some) continue;
        M seen = gt(load(visible), zero());
        Projection p;
        project_lanes(in, view, i, n, p);
        F v_mean[2] = {zero(), zero()}, v_conic[3] = {zero(), zero(), zero()};
        F v_depth = zero(), v_compensation = zero();
        if (v.means2d) load_rows<2>(v.means2d, i, n, v_mean);
        if (v.conics) load_rows<3>(v.conics, i, n, v_conic);
        if (v.depths) load_rows<1>(v.depths, i, n, &v_depth);
        if (v.compensations) load_rows<1>(v.compensations, i, n, &v_compensation);

        F3 v_cov = covariance_gradient(p, view, v_conic, v_compensation);
        F3 v_m0 = (2.0f * v_cov.x) * p.m0 + v_cov.y * p.m1;
        F3 v_m1 = (2.0f * v_cov.z) * p.m1 + v_cov.y * p.m0;
        F3 v_a[3] = {p.j00 * v_m0, p.j11 * v_m1, p.j02 * v_m0 + p.j12 * v_m1};

        if (out.means) {
            F v_j00 = dot(p.a[0], v_m0), v_j02 = dot(p.a[2], v_m0);
            F v_j11 = dot(p.a[1], v_m1), v_j12 = dot(p.a[2], v_m1);
            F fx = set(view.fx), fy = set(view.fy), zz = p.over_z * p.over_z;
            // Beyond the clamped frustum the slopes in J are constants, and z alone moves them.
            F across_x = -(fx * zz * v_j02), across_y = -(fy * zz * v_j12);
            F3 v_point = {fma(p.j00, v_mean[0], keep(p.inside_x, across_x)),
                          fma(p.j11, v_mean[1], keep(p.inside_y, across_y)), v_depth};
            F twice_x = pick(p.inside_x, set(2.0f), set(1.0f)), twice_y = pick(p.inside_y, set(2.0f), set(1.0f));
            v_point.z = v_point.z - zz * (fx * v_j00 + fy * v_j11)
                - zz * (fx * p.point.x * v_mean[0] + fy * p.point.y * v_mean[1])
                - (twice_x * p.slope_x * across_x + twice_y * p.slope_y * across_y);
            F v_world[3];
            for (int k = 0; k < 3; k++)
                v_world[k] = keep(seen, set(r[k]) * v_point.x + set(r[3 + k]) * v_point.y + set(r[6 + k]) * v_point.z);
            add_rows<3>(out.means, i, n, v_world);
        }
        if (out.quats || out.scales) {
            F3 v_q[3];  // first the gradient by Q S, then by Q
            F v_scale[3] = {zero(), zero(), zero()};
            for (int k = 0; k < 3; k++) {
                F3 b = set(r[k]) * v_a[0] + set(r[3 + k]) * v_a[1] + set(r[6 + k]) * v_a[2];
                v_scale[0] = v_scale[0] + b.x * p.q[k].x;
                v_scale[1] = v_scale[1] + b.y * p.q[k].y;
                v_scale[2] = v_scale[2] + b.z * p.q[k].z;
                v_q[k] = {b.x * p.s[0], b.y * p.s[1], b.z * p.s[2]};
            }
            F v_quat[4];
            quat_gradient(p, v_q, v_quat);
            for (F &value : v_scale) value = keep(seen, value);
            for (F &value : v_quat) value = keep(seen, value);
            if (out.scales) add_rows<3>(out.scales, i, n, v_scale);
            if (out.quats) add_rows<4>(out.quats, i, n, v_quat);
        }
    }
}

}  // namespace
