// From projected Gaussians to the records and tiles that blending reads.
#pragma once
#include "rasterizer_project.h"
#include "rasterizer_tile.h"

namespace {

constexpr float LOG2_E = 1.44269504089f;

// Records and tiles of Gaussians begin <= i < end. A tile is taken if the box around the ellipse where alpha
// reaches ALPHA_MIN holds one of its pixel centres.
void prepare(const float *means2d, const float *conics, const float *opacities, const int32_t *radii, int width,
             int height, int begin, int end, Record *records, Rect *rects) {
    for (int i = begin; i < end; i += W) {
        const int n = end - i < W ? end - i : W;
        F mean[2], conic[3], opacity;
        load_rows<2>(means2d, i, n, mean);
        load_rows<3>(conics, i, n, conic);
        load_rows<1>(opacities, i, n, &opacity);
        F a = 0.5f * LOG2_E * conic[0], b = 0.5f * LOG2_E * conic[1], c = 0.5f * LOG2_E * conic[2];
        // a c - b^2 with the rounding error of b^2 given back (Kahan): exact where fma is.
        F bb = b * b, det = fma(a, c, -bb) + fnma(b, b, bb);
        F l11 = vsqrt(a), l12 = b / l11, l22 = vsqrt(det / a);
        F lop = log2_of(vmax(opacity, set(ALPHA_MIN)));
        F fall = lop - set(LOG2_ALPHA_MIN);
        F half_x = vsqrt(fall * c / det), half_y = vsqrt(fall * a / det);
        F x0 = vceil(vmax(mean[0] - half_x - 0.5f, zero())), y0 = vceil(vmax(mean[1] - half_y - 0.5f, zero()));
        F x1 = vfloor(vmin(mean[0] + half_x - 0.5f, set(float(width - 1))));
        F y1 = vfloor(vmin(mean[1] + half_y - 0.5f, set(float(height - 1))));
        M seen = both(ge(x1, x0), ge(y1, y0));
        seen = both(seen, both(gt(det, zero()), ge(opacity, set(ALPHA_MIN))));
        seen = both(seen, both(finite(l11), both(finite(l12), finite(l22))));
        seen = both(seen, both(finite(mean[0]), both(finite(mean[1]), finite(opacity))));
        seen = both(seen, gt(l22, zero()));
        F ridge_y = -(b / c), ridge_x = -(b / a);

        alignas(64) float box[4][W];
        store(box[0], keep(seen, x0)), store(box[1], keep(seen, y0));
        store(box[2], keep(seen, x1)), store(box[3], keep(seen, y1));
        const uint32_t visible = bits(seen);
        const F record[8] = {mean[0], mean[1], l11, l12, l22, lop, ridge_y, ridge_x};
        store_rows<8>(&records[i].mx, 0, n, record);
        for (int lane = 0; lane < n; lane++) {
            Rect &rect = rects[i + lane];
            rect = {0, 0, 0, 0};
            if (!(visible >> lane & 1) || radii[2 * size_t(i + lane)] <= 0 || radii[2 * size_t(i + lane) + 1] <= 0)
                continue;
            rect = {uint16_t(int(box[0][lane]) / TILE), uint16_t(int(box[1][lane]) / TILE),
                    uint16_t(int(box[2][lane]) / TILE + 1), uint16_t(int(box[3][lane]) / TILE + 1)};
        }
    }
}

}  // namespace
