// Blending weights of a whole tile, or of single pixels.
#pragma once
#include "rasterizer_tile.h"

namespace {

// Every pixel of a tile: pairs of weight >= minimum, front to back for each pixel but the pixels mixed. -> their
// number; places are row * TILE + column in the tile. Room for W more pairs is needed.
size_t tile_weights(const Image &image, int tile, float minimum, int32_t *places, int32_t *ids, float *values) {
    Offsets offsets;
    make_offsets(offsets);
    Pixels pixels;
    start(image, tile, pixels);
    Batch batch;
    uint64_t words[BLOCKS];
    alignas(64) float weights[BATCH * PIXELS];
    uint8_t members[BATCH];
    size_t count = 0;
    const F least = set(minimum > 1e-30f ? minimum : 1e-30f);
    const uint32_t last = image.tile_start[tile + 1];
    for (uint32_t first = image.tile_start[tile]; first < last && pixels.alive; first += BATCH) {
        fill<true>(image, tile, first, last, offsets, batch);
        transpose(batch, words);
        for (int b = 0; b < BLOCKS; b++) {
            if (!words[b] || !(pixels.alive >> b & 1)) continue;
            const int n = blend_block<0>(image, batch, words[b], b, pixels, nullptr, weights, members);
            for (int k = 0; k < n; k++)
                for (int i = 0; i < VECTORS; i++) {
                    const F weight = load(weights + k * PIXELS + i * W);
                    const M kept = ge(weight, least);
                    if (!any(kept)) continue;
                    const int found = pack(kept, weight, b * PIXELS + i * W, values + count, places + count);
                    for (int j = 0; j < found; j++) ids[count + size_t(j)] = int32_t(batch.ids[members[k]]);
                    count += size_t(found);
                }
            for (int i = 0; i < PIXELS; i++)  // nothing behind can weigh more than what is left
                if (pixels.through[b * PIXELS + i] < minimum) pixels.threshold[b * PIXELS + i] = NEVER;
        }
    }
    for (size_t k = 0; k < count; k++) {
        const int b = places[k] / PIXELS, i = places[k] % PIXELS;
        places[k] = (b / 4 * BLOCK_H + i / BLOCK_W) * TILE + b % 4 * BLOCK_W + i % BLOCK_W;
    }
    return count;
}

// (pixel, Gaussian) pairs of a tile whose alpha is worked out, and those of them that are blended.
void tile_pairs(const Image &image, int tile, uint64_t *evaluated, uint64_t *blended) {
    Offsets offsets;
    make_offsets(offsets);
    Pixels pixels;
    start(image, tile, pixels);
    Batch batch;
    const uint32_t last = image.tile_start[tile + 1];
    for (uint32_t first = image.tile_start[tile]; first < last && pixels.alive; first += BATCH) {
        fill<true>(image, tile, first, last, offsets, batch);
        for (int g = 0; g < batch.count; g++)
            for (uint32_t rest = batch.masks[g] & pixels.alive; rest; rest &= rest - 1) {
                const int b = __builtin_ctz(rest);
                for (int i = 0; i < VECTORS; i++) {
                    float *through_at = pixels.through + b * PIXELS + i * W;
                    float *threshold_at = pixels.threshold + b * PIXELS + i * W;
                    F through = load(through_at), threshold = load(threshold_at);
                    Meeting m;
                    m.u = set(batch.u[g][b]) + load(batch.du[g] + i * W);
                    m.v = set(batch.v[g][b]) + load(batch.dv[g] + i * W);
                    *evaluated += W;
                    if (!meet<true>(batch.lop[g], through, threshold, m)) continue;
                    *blended += uint64_t(__builtin_popcount(bits(m.touched)));
                    store(through_at, through), store(threshold_at, threshold);
                }
            }
        for (uint32_t rest = pixels.alive; rest; rest &= rest - 1) {
            const int b = __builtin_ctz(rest);
            if (finished(pixels.threshold + b * PIXELS)) pixels.alive &= ~(1u << b);
        }
    }
}

void tile_columns(const Image &image, int tile, int stride, float *columns) {
    const float x = float(tile % image.tiles_x * TILE), y = float(tile / image.tiles_x * TILE);
    const uint32_t first = image.tile_start[tile], last = image.tile_start[tile + 1];
    for (int i = 0; i < stride; i++) {
        Record r = {0, 0, 0, 0, 0, -NEVER, 0, 0};
        if (uint32_t(i) < last - first) r = image.records[image.entries[first + uint32_t(i)]];
        const float values[COLUMNS] = {r.mx - x, r.my - y, r.l11, r.l12, r.l22, r.lop};
        for (int k = 0; k < COLUMNS; k++) columns[k * stride + i] = values[k];
    }
}

// A lane is a Gaussian; the few that are not skipped are blended one by one.
int pixel_weights(const float *columns, int stride, float x, float y, float minimum, const uint32_t *ids,
                  int32_t *indices, float *values) {
    alignas(64) float alphas[W];
    float through = 1.0f;
    int count = 0;
    for (int i = 0; i < stride; i += W) {
        const float *at = columns + i;
        F dx = set(x) - load(at), dy = set(y) - load(at + stride);
        F u = fma(load(at + 2 * stride), dx, load(at + 3 * stride) * dy), v = load(at + 4 * stride) * dy;
        F p = fnma(u, u, fnma(v, v, load(at + 5 * stride)));
        uint32_t touched = bits(ge(p, set(LOG2_ALPHA_MIN)));
        if (!touched) continue;
        store(alphas, vmin(exp2_of(p), set(ALPHA_MAX)));
        for (; touched; touched &= touched - 1) {
            const int lane = __builtin_ctz(touched);
            const float weight = alphas[lane] * through, next = through - weight;
            if (next <= TRANSMITTANCE_MIN) return count;
            if (weight >= minimum) {
                indices[count] = int32_t(ids[i + lane]);
                values[count++] = weight;
            }
            through = next;
            if (through < minimum) return count;  // no weight behind is larger
        }
    }
    return count;
}

}  // namespace
