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

// The state of a block stands side by side: transmittance, threshold, R, and v
// channel by channel; PIXELS floats each.
enum { THROUGH, THRESHOLD, BEHIND, PLANES };

struct Replay {
    float *blocks;                           // [BLOCKS stride]
    int stride;                              // floats of a block: (PLANES + channels) PIXELS
    float *lanes;                            // v: [BLOCKS PIXELS padded], a pixel's channels side by side
    int padded;                              // channels, rounded up to whole vectors
    uint32_t alive;                          // blocks with a pixel that is not finished
    alignas(64) float weights[TILE * TILE];  // of one Gaussian, for channels in lanes
};

GS_INLINE int padded_channels(int channels) { return (channels + W - 1) / W * W; }

// channels 1..4, or 0 for more.
template <int channels>
GS_INLINE void start_replay(const Image &image, const ImageGradients &v, int tile, float *scratch, Replay &replay) {
    const int D = image.channels;
    replay.padded = padded_channels(D);
    replay.stride = (PLANES + D) * PIXELS;
    replay.blocks = scratch;
    replay.lanes = scratch + BLOCKS * replay.stride;
    replay.alive = 0;
    const int floats = BLOCKS * replay.stride + (channels ? 0 : TILE * TILE * replay.padded);
    for (int i = 0; i < floats; i++) scratch[i] = 0.0f;
    for (int b = 0; b < BLOCKS; b++)
        for (int i = 0; i < PIXELS; i++) replay.blocks[b * replay.stride + THRESHOLD * PIXELS + i] = NEVER;
    each_pixel(image, tile, [&](int b, int i, size_t at) {
        const float *out = v.image + at * size_t(D), *v_out = v.v_image + at * size_t(D);
        float *pixel = replay.blocks + b * replay.stride + i;
        float behind = -v.v_alpha[at] * v.left[at];
        for (int c = 0; c < D; c++) {
            behind += out[c] * v_out[c];
            pixel[(PLANES + c) * PIXELS] = v_out[c];
            if (!channels) replay.lanes[(b * PIXELS + i) * replay.padded + c] = v_out[c];
        }
        pixel[THROUGH * PIXELS] = 1.0f;
        pixel[THRESHOLD * PIXELS] = LOG2_ALPHA_MIN;
        pixel[BEHIND * PIXELS] = behind;
        replay.alive |= 1u << b;
    });
}

// One Gaussian in one block: adds to sums (those of a slot, see color_offset). clamped: whether its alpha may be.
template <int channels, bool geometry, bool absolute, bool clamped>
GS_INLINE void replay_block(const Image &image, const Batch &batch, int g, int b, const Record &r, const float *color,
                            Replay &replay, F *sums) {
    constexpr int COLORS = color_offset(geometry, absolute);
    const F u = set(batch.u[g][b]), v = set(batch.v[g][b]);
    for (int i = 0; i < VECTORS; i++) {
        float *block = replay.blocks + b * replay.stride + i * W;
        Meeting m;
        m.u = u + load(batch.du[g] + i * W), m.v = v + load(batch.dv[g] + i * W);
        F through = load(block + THROUGH * PIXELS), threshold = load(block + THRESHOLD * PIXELS);
        if (!meet<clamped>(batch.lop[g], through, threshold, m)) {
            if (!channels) store(replay.weights + b * PIXELS + i * W, zero());
            continue;
        }
        store(block + THROUGH * PIXELS, through);
        if (m.finished) store(block + THRESHOLD * PIXELS, threshold);
        if (!channels) store(replay.weights + b * PIXELS + i * W, m.weight);

        const int D = channels ? channels : image.channels;
        const float *planes = block + PLANES * PIXELS;
        for (int c = 0; c < channels; c++)
            sums[COLORS + c] = fma(m.weight, load(planes + c * PIXELS), sums[COLORS + c]);
        if (!geometry) continue;
        F cv = set(color[0]) * load(planes);
        int c = 1;
        if (!channels) {
            F other = zero();  // two chains: each waits for its own sum only
            for (; c + 2 <= D; c += 2) {
                cv = fma(set(color[c]), load(planes + c * PIXELS), cv);
                other = fma(set(color[c + 1]), load(planes + (c + 1) * PIXELS), other);
            }
            cv = cv + other;
        }
        for (; c < D; c++) cv = fma(set(color[c]), load(planes + c * PIXELS), cv);
        F drawn = m.weight * cv, behind = load(block + BEHIND * PIXELS) - drawn;
        store(block + BEHIND * PIXELS, behind);
        F v_sigma = fma(behind, m.alpha * reciprocal(1.0f - m.alpha), -drawn);
        // Where alpha is clamped it does not move with sigma.
        v_sigma = keep(clamped ? both(m.touched, gt(set(ALPHA_MAX), m.raw)) : m.touched, v_sigma);
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
    constexpr int COLORS = color_offset(geometry, absolute), SUMS = COLORS + channels;

    Batch batch;
    const uint32_t last = image.tile_start[tile + 1];
    for (uint32_t first = image.tile_start[tile]; first < last && replay.alive; first += BATCH) {
        fill<false>(image, tile, first, last, offsets, batch);
        for (int g = 0; g < batch.count; g++) {
            const uint32_t mask = batch.masks[g] & replay.alive;
            if (!mask) continue;
            const Record &r = image.records[batch.ids[g]];
            const float *color = image.colors + size_t(batch.ids[g]) * size_t(image.channels);
            F sums[SUMS + 1];
            for (F &s : sums) s = zero();
            if (r.lop < LOG2_ALPHA_MAX)
                for (uint32_t rest = mask; rest; rest &= rest - 1)
                    replay_block<channels, geometry, absolute, false>(image, batch, g, __builtin_ctz(rest), r, color,
                                                                      replay, sums);
            else
                for (uint32_t rest = mask; rest; rest &= rest - 1)
                    replay_block<channels, geometry, absolute, true>(image, batch, g, __builtin_ctz(rest), r, color,
                                                                     replay, sums);
            const uint32_t pair = image.slot[first + uint32_t(g)];
            float *slot = v.slots + size_t(pair) * size_t(v.slot_size);
            store_sums<SUMS>(sums, slot);
            if (!channels && v.color) color_lanes(image, replay, mask, slot + COLORS);
            v.touched[pair] = 1;
        }
        for (uint32_t rest = replay.alive; rest; rest &= rest - 1) {
            const int b = __builtin_ctz(rest);
            if (finished(replay.blocks + b * replay.stride + THRESHOLD * PIXELS)) replay.alive &= ~(1u << b);
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
    return size_t(TILE * TILE) * size_t(PLANES + channels + (channels > 4 ? padded_channels(channels) : 0));
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

void gather(const Image &image, const ImageGradients &v, int begin, int end, const float *opacities,
            const SplatGradients &out, float *sums) {
    const int n = v.slot_size, colors = color_offset(v.geometry, v.absolute);
    const size_t channels = size_t(image.channels);
    for (int id = begin; id < end; id++) {
        const size_t at = size_t(id - begin);
        bool touched = false;
        for (int k = 0; k < n; k++) sums[k] = 0.0f;
        for (uint32_t pair = image.first_slot[id]; pair < image.first_slot[id + 1]; pair++) {
            if (!v.touched[pair]) continue;
            touched = true;
            const float *slot = v.slots + size_t(pair) * size_t(n);
            for (int k = 0; k < n; k++) sums[k] += slot[k];
        }
        if (out.touched) out.touched[at] = touched;
        if (v.color) memcpy(out.colors + at * channels, sums + colors, channels * sizeof(float));
        if (!v.geometry) continue;
        float *mean = out.means2d + 2 * at, *conic = out.conics + 3 * at, *opacity = out.opacities + at;
        float *absolute = out.absolute ? out.absolute + 2 * at : nullptr;
        if (touched) {
            geometry_gradient(sums, image.records[id], opacities[id], mean, conic, opacity, absolute);
        } else {
            mean[0] = mean[1] = conic[0] = conic[1] = conic[2] = opacity[0] = 0.0f;
            if (absolute) absolute[0] = absolute[1] = 0.0f;
        }
    }
}

}  // namespace
