// Gradients of one tile, replayed front to back.
//
// With cv = c.v (v the gradient by the image) and R_i what lies behind pair i, sum over j > i of w_j cv_j plus the
// part of the transmittance that is left, the gradient by sigma is R_i alpha_i / (1 - alpha_i) - w_i cv_i. R starts
// as image.v - v_alpha left and loses w_i cv_i at each pair: one number per pixel for any number of channels.
// sigma = ln 2 (u^2 + v^2): what the mean, the conic and the opacity need are six moments in u and v.
#pragma once
#include "rasterizer_project.h"
#include "rasterizer_tile.h"

namespace {

struct Replay {
    Pixels pixels;
    alignas(64) float behind[TILE * TILE];   // R
    alignas(64) float weights[TILE * TILE];  // of one Gaussian, for channels in lanes
    float *planes;                           // v: [BLOCKS channels PIXELS]
    float *lanes;                            // v: [BLOCKS PIXELS padded], a pixel's channels side by side
    int padded;                              // channels, rounded up to whole vectors
};

GS_INLINE int padded_channels(int channels) { return (channels + W - 1) / W * W; }

// channels 1..4, or 0 for more.
template <int channels>
GS_INLINE void start_replay(const Image &image, const ImageGradients &v, int tile, float *scratch, Replay &replay) {
    const int D = image.channels;
    start(image, tile, replay.pixels);
    replay.padded = padded_channels(D);
    replay.planes = scratch;
    replay.lanes = scratch + TILE * TILE * D;
    const int floats = TILE * TILE * (channels ? D : D + replay.padded);
    for (int i = 0; i < floats; i++) scratch[i] = 0.0f;
    for (float &value : replay.behind) value = 0.0f;
    each_pixel(image, tile, [&](int b, int i, size_t at) {
        const float *out = v.image + at * size_t(D), *v_out = v.v_image + at * size_t(D);
        float behind = -v.v_alpha[at] * v.left[at];
        for (int c = 0; c < D; c++) {
            behind += out[c] * v_out[c];
            replay.planes[(b * D + c) * PIXELS + i] = v_out[c];
            if (!channels) replay.lanes[(b * PIXELS + i) * replay.padded + c] = v_out[c];
        }
        replay.behind[b * PIXELS + i] = behind;
    });
}

// One Gaussian in one block: adds to sums (those of a slot, see color_offset).
template <int channels, bool geometry, bool absolute>
GS_INLINE void replay_block(const Image &image, const Batch &batch, int g, int b, const Record &r, const float *color,
                            Replay &replay, F *sums) {
    constexpr int COLORS = color_offset(geometry, absolute);
    const F u = set(batch.u[g][b]), v = set(batch.v[g][b]);
    for (int i = 0; i < VECTORS; i++) {
        const int at = b * PIXELS + i * W;
        F through = load(replay.pixels.through + at), threshold = load(replay.pixels.threshold + at);
        Meeting m;
        bool touched = meet(u + load(batch.du[g] + i * W), v + load(batch.dv[g] + i * W), batch.lop[g], through,
                            threshold, m);
        if (!channels) store(replay.weights + at, touched ? m.weight : zero());
        if (!touched) continue;
        store(replay.pixels.through + at, through);
        store(replay.pixels.threshold + at, threshold);

        const int D = channels ? channels : image.channels;
        const float *planes = replay.planes + b * D * PIXELS + i * W;
        for (int c = 0; c < channels; c++)
            sums[COLORS + c] = fma(m.weight, load(planes + c * PIXELS), sums[COLORS + c]);
        if (!geometry) continue;
        F cv = set(color[0]) * load(planes), other = zero();
        int c = 1;
        for (; c + 2 <= D; c += 2) {
            cv = fma(set(color[c]), load(planes + c * PIXELS), cv);
            other = fma(set(color[c + 1]), load(planes + (c + 1) * PIXELS), other);
        }
        if (c < D) cv = fma(set(color[c]), load(planes + c * PIXELS), cv);
        F drawn = m.weight * (D > 2 ? cv + other : cv);
        F behind = load(replay.behind + at) - drawn;
        store(replay.behind + at, behind);
        // Where alpha is clamped it does not move with sigma.
        M free = both(m.touched, gt(set(ALPHA_MAX), m.raw));
        F v_sigma = keep(free, fma(behind, m.alpha * reciprocal(1.0f - m.alpha), -drawn));
        F by_u = v_sigma * m.u, by_v = v_sigma * m.v;
        sums[0] = sums[0] + v_sigma;
        sums[1] = sums[1] + by_u;
        sums[2] = sums[2] + by_v;
        sums[3] = fma(by_u, m.u, sums[3]);
        sums[4] = fma(by_u, m.v, sums[4]);
        sums[5] = fma(by_v, m.v, sums[5]);
        if (absolute) {
            sums[MOMENTS] = sums[MOMENTS] + vabs(by_u);
            sums[MOMENTS + 1] = sums[MOMENTS + 1] + vabs(fma(set(r.l12), by_u, set(r.l22) * by_v));
        }
    }
}

// out [channels] = sum over the pixels of `mask` of weight v, N vectors of channels at a time.
template <int N> GS_INLINE void sum_lanes(const Replay &replay, uint32_t mask, int c, float *out) {
    F sum[N];
    for (F &s : sum) s = zero();
    for (; mask; mask &= mask - 1) {
        const int b = __builtin_ctz(mask);
        for (int i = 0; i < PIXELS; i++) {
            const F weight = set(replay.weights[b * PIXELS + i]);
            const float *lanes = replay.lanes + (b * PIXELS + i) * replay.padded + c;
            for (int k = 0; k < N; k++) sum[k] = fma(weight, load(lanes + k * W), sum[k]);
        }
    }
    for (int k = 0; k < N; k++) store(out + k * W, sum[k]);
}

GS_INLINE void color_lanes(const Image &image, const Replay &replay, uint32_t mask, float *slot) {
    alignas(64) float out[4 * W];
    for (int c = 0; c < replay.padded;) {
        const int left = (replay.padded - c) / W;
        const int n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (n == 4) sum_lanes<4>(replay, mask, c, out);
        else if (n == 2) sum_lanes<2>(replay, mask, c, out);
        else sum_lanes<1>(replay, mask, c, out);
        for (int k = 0; k < n * W && c + k < image.channels; k++) slot[c + k] = out[k];
        c += n * W;
    }
}

template <int channels, bool geometry, bool absolute>
void replay_tile(const Image &image, const ImageGradients &v, int tile, float *scratch) {
    Offsets offsets;
    make_offsets(offsets);
    Replay replay;
    start_replay<channels>(image, v, tile, scratch, replay);
    const int tile_x = tile % image.tiles_x, tile_y = tile / image.tiles_x;
    constexpr int COLORS = color_offset(geometry, absolute), SUMS = COLORS + channels;

    Batch batch;
    const uint32_t last = image.tile_start[tile + 1];
    for (uint32_t first = image.tile_start[tile]; first < last && replay.pixels.alive; first += BATCH) {
        fill(image, tile, first, last, offsets, batch);
        for (int g = 0; g < batch.count; g++) {
            const uint32_t mask = batch.masks[g] & replay.pixels.alive;
            if (!mask) continue;
            const uint32_t id = batch.ids[g];
            const float *color = image.colors + size_t(id) * size_t(image.channels);
            F sums[SUMS + 1];
            for (F &s : sums) s = zero();
            for (uint32_t rest = mask; rest; rest &= rest - 1)
                replay_block<channels, geometry, absolute>(image, batch, g, __builtin_ctz(rest), image.records[id],
                                                           color, replay, sums);
            const Rect rect = image.rects[id];
            const size_t pair = image.first_slot[id] + uint32_t(tile_y - rect.y0) * uint32_t(rect.x1 - rect.x0) +
                                uint32_t(tile_x - rect.x0);
            float *slot = v.slots + pair * size_t(v.slot_size);
            store_sums<SUMS>(sums, slot);
            if (!channels && v.color) color_lanes(image, replay, mask, slot + COLORS);
            v.touched[pair] = 1;
        }
        for (uint32_t rest = replay.pixels.alive; rest; rest &= rest - 1) {
            const int b = __builtin_ctz(rest);
            if (finished(replay.pixels.threshold + b * PIXELS)) replay.pixels.alive &= ~(1u << b);
        }
    }
}

template <int channels> void replay_channels(const Image &image, const ImageGradients &v, int tile, float *scratch) {
    if (!v.geometry) return replay_tile<channels, false, false>(image, v, tile, scratch);
    if (!v.absolute) return replay_tile<channels, true, false>(image, v, tile, scratch);
    return replay_tile<channels, true, true>(image, v, tile, scratch);
}

void blend_backward(const Image &image, const ImageGradients &v, int tile, float *scratch) {
    switch (image.channels) {
    case 1: return replay_channels<1>(image, v, tile, scratch);
    case 2: return replay_channels<2>(image, v, tile, scratch);
    case 3: return replay_channels<3>(image, v, tile, scratch);
    case 4: return replay_channels<4>(image, v, tile, scratch);
    default: return replay_channels<0>(image, v, tile, scratch);
    }
}

size_t scratch_floats(int channels) {
    return size_t(TILE * TILE) * size_t(channels + (channels > 4 ? padded_channels(channels) : 0));
}

// From the moments of a Gaussian to the gradients by its mean, conic and opacity.
GS_INLINE void geometry_gradient(const float *sums, const Record &r, float opacity, float *v_mean2d, float *v_conic,
                                 float *v_opacity, float *v_absolute) {
    const float scale = 2.0f * LN2, over_l11 = 1.0f / r.l11, over_l22 = 1.0f / r.l22;
    v_mean2d[0] = -scale * r.l11 * sums[1];
    v_mean2d[1] = -scale * (r.l12 * sums[1] + r.l22 * sums[2]);
    // dy = v / l22, dx = (u - l12 dy) / l11
    const float yy = sums[5] * over_l22 * over_l22, uy = sums[4] * over_l22;
    const float xy = (uy - r.l12 * yy) * over_l11;
    const float xx = (sums[3] - r.l12 * (2.0f * uy - r.l12 * yy)) * over_l11 * over_l11;
    v_conic[0] = 0.5f * xx;
    v_conic[1] = xy;
    v_conic[2] = 0.5f * yy;
    v_opacity[0] = -sums[0] / opacity;
    if (v_absolute) {
        v_absolute[0] = scale * r.l11 * sums[MOMENTS];
        v_absolute[1] = scale * sums[MOMENTS + 1];
    }
}

void gather(const Image &image, const ImageGradients &v, int begin, int end, const float *opacities, float *v_means2d,
            float *v_conics, float *v_opacities, float *v_colors, float *v_absolute, float *sums) {
    const int n = v.slot_size, colors = color_offset(v.geometry, v.absolute);
    const size_t channels = size_t(image.channels);
    for (int id = begin; id < end; id++) {
        const size_t i = size_t(id);
        bool touched = false;
        for (int k = 0; k < n; k++) sums[k] = 0.0f;
        for (uint32_t pair = image.first_slot[id]; pair < image.first_slot[id + 1]; pair++) {
            if (!v.touched[pair]) continue;
            touched = true;
            const float *slot = v.slots + size_t(pair) * size_t(n);
            for (int k = 0; k < n; k++) sums[k] += slot[k];
        }
        if (v.color) memcpy(v_colors + i * channels, sums + colors, channels * sizeof(float));
        if (!v.geometry) continue;
        float *mean = v_means2d + 2 * i, *conic = v_conics + 3 * i;
        float *absolute = v_absolute ? v_absolute + 2 * i : nullptr;
        if (touched) {
            geometry_gradient(sums, image.records[id], opacities[i], mean, conic, v_opacities + i, absolute);
        } else {
            mean[0] = mean[1] = conic[0] = conic[1] = conic[2] = v_opacities[i] = 0.0f;
            if (absolute) absolute[0] = absolute[1] = 0.0f;
        }
    }
}

}  // namespace
