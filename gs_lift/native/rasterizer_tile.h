// One tile: which of its blocks of pixels each Gaussian reaches, and blending forward and backward.
//
// A tile is BLOCKS blocks of 4 x BLOCK_H pixels. While Gaussians are tested, a lane is a block; while they are
// blended, a lane is a pixel. A pixel that is finished, or outside the image, has an infinite threshold.
#pragma once
#include "rasterizer.h"
#include "simd.h"

namespace {

constexpr int BLOCK_W = 4, BLOCK_H = W == 16 ? 4 : 2;
constexpr int PIXELS = BLOCK_W * BLOCK_H;  // of a block
constexpr int BLOCKS = TILE * TILE / PIXELS;
constexpr int VECTORS = PIXELS / W;  // of a block
constexpr float NEVER = 1e30f;       // a threshold that no p reaches

// Up to BATCH Gaussians of a tile, relative to it.
struct Batch {
    alignas(64) float u[BATCH][BLOCKS], v[BATCH][BLOCKS];            // u and v at the blocks' centres
    alignas(64) float du[BATCH][PIXELS], dv[BATCH][PIXELS];          // u and v of a pixel minus that of its centre
    alignas(64) uint32_t masks[BATCH];                               // the blocks where alpha may reach ALPHA_MIN
    float lop[BATCH];
    uint32_t ids[BATCH];
    int count;
};

// State of the tile's pixels, block by block.
struct Pixels {
    alignas(64) float through[TILE * TILE];    // transmittance
    alignas(64) float threshold[TILE * TILE];  // on p
    uint32_t alive;                            // blocks with a pixel that is not finished
};

struct Offsets {
    F block_x[BLOCKS / W], block_y[BLOCKS / W];  // centres of the blocks in the tile
    F pixel_x[VECTORS], pixel_y[VECTORS];        // centres of the pixels from the block's centre
};

GS_INLINE void make_offsets(Offsets &offsets) {
    alignas(64) float x[BLOCKS], y[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        x[b] = float(b % 4 * BLOCK_W) + 0.5f * BLOCK_W;
        y[b] = float(b / 4 * BLOCK_H) + 0.5f * BLOCK_H;
    }
    for (int i = 0; i < BLOCKS / W; i++) offsets.block_x[i] = load(x + i * W), offsets.block_y[i] = load(y + i * W);
    for (int i = 0; i < PIXELS; i++) {
        x[i] = float(i % BLOCK_W) - 0.5f * (BLOCK_W - 1);
        y[i] = float(i / BLOCK_W) - 0.5f * (BLOCK_H - 1);
    }
    for (int i = 0; i < VECTORS; i++) offsets.pixel_x[i] = load(x + i * W), offsets.pixel_y[i] = load(y + i * W);
}

GS_INLINE F square(F a) { return a * a; }

// u and v of Gaussian r, its mean at (mx, my) in the tile, at the centres of the blocks.
GS_INLINE void place(const Record &r, float mx, float my, const Offsets &offsets, float *u, float *v) {
    const F along = set(r.l11) * (offsets.block_x[0] - set(mx));  // a vector's blocks stand in the same columns
    for (int i = 0; i < BLOCKS / W; i++) {
        const F dy = offsets.block_y[i] - set(my);
        store(u + i * W, fma(set(r.l12), dy, along));
        store(v + i * W, set(r.l22) * dy);
    }
}

// The blocks that Gaussian r, its mean at (mx, my) in the tile, reaches: where the least u^2 + v^2 over the block
// is small enough. That least value lies on the block's edges facing the mean, so two clamped points are enough.
GS_INLINE uint32_t reach(const Record &r, float mx, float my, const Offsets &offsets) {
    const F l11 = set(r.l11), l12 = set(r.l12), l22 = set(r.l22);
    const F half_x = set(0.5f * (BLOCK_W - 1)), half_y = set(0.5f * (BLOCK_H - 1));
    const F limit = set(r.lop - LOG2_ALPHA_MIN);
    const F dx = offsets.block_x[0] - set(mx), left = dx - half_x, right = dx + half_x;
    const F x1 = vmin(vmax(left, zero()), right), ridge = set(r.ridge_y) * x1, along = l11 * x1;
    uint32_t mask = 0;
    for (int i = 0; i < BLOCKS / W; i++) {
        F dy = offsets.block_y[i] - set(my), top = dy - half_y, bottom = dy + half_y;
        F y2 = vmin(vmax(top, zero()), bottom), y1 = vmin(vmax(ridge, top), bottom);
        F x2 = vmin(vmax(set(r.ridge_x) * y2, left), right);
        F u1 = fma(l12, y1, along), v1 = l22 * y1, u2 = fma(l11, x2, l12 * y2), v2 = l22 * y2;
        F s1 = fma(v1, v1, u1 * u1), s2 = fma(v2, v2, u2 * u2);
        mask |= bits(ge(limit, vmin(s1, s2))) << (i * W);
    }
    return mask;
}

constexpr uint32_t AHEAD = 8;  // Gaussians from a prefetch to its use: their records lie scattered over the memory

// The Gaussians from `first` on. Their masks are found out and kept (forward), or taken from where they were kept.
template <bool forward>
GS_INLINE void fill(const Image &image, int tile, uint32_t first, uint32_t last, const Offsets &offsets, Batch &batch) {
    const float x = float(tile % image.tiles_x * TILE), y = float(tile / image.tiles_x * TILE);
    batch.count = int(last - first < BATCH ? last - first : BATCH);
    for (int g = 0; g < batch.count; g++) {
        const uint32_t at = first + uint32_t(g);
        __builtin_prefetch(&image.records[image.entries[at + AHEAD < last ? at + AHEAD : at]]);
        const uint32_t id = image.entries[at];
        const Record &r = image.records[id];
        __builtin_prefetch(image.colors + size_t(id) * size_t(image.channels));
        batch.ids[g] = id;
        batch.lop[g] = r.lop;
        batch.masks[g] = forward ? reach(r, r.mx - x, r.my - y, offsets) : image.masks[at];
        if (forward) image.masks[at] = batch.masks[g];
        place(r, r.mx - x, r.my - y, offsets, batch.u[g], batch.v[g]);
        for (int i = 0; i < VECTORS; i++) {
            store(batch.du[g] + i * W, fma(set(r.l11), offsets.pixel_x[i], set(r.l12) * offsets.pixel_y[i]));
            store(batch.dv[g] + i * W, set(r.l22) * offsets.pixel_y[i]);
        }
    }
    for (int g = batch.count; g < BATCH; g++) batch.masks[g] = 0;
}

// words[b]: a bit for each Gaussian of the batch that reaches block b.
GS_INLINE void transpose(const Batch &batch, uint64_t *words) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    for (int b = 0; b < BLOCKS; b++) words[b] = 0;
    for (int part = 0; part < BATCH / 16; part++) {
        __m512i masks = _mm512_load_si512(batch.masks + part * 16);
        for (int b = 0; b < BLOCKS; b++)
            words[b] |= uint64_t(_mm512_test_epi32_mask(masks, _mm512_set1_epi32(1 << b))) << (part * 16);
    }
#elif defined(__AVX2__)
    for (int b = 0; b < BLOCKS; b++) words[b] = 0;
    for (int part = 0; part < BATCH / 8; part++) {
        __m256i masks = _mm256_load_si256((const __m256i *)(batch.masks + part * 8));
        for (int b = BLOCKS - 1; b >= 0; b--) {  // the highest bit is the sign, which movemask reads
            words[b] |= uint64_t(uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(masks)))) << (part * 8);
            masks = _mm256_add_epi32(masks, masks);
        }
    }
#else
    for (int b = 0; b < BLOCKS; b++) words[b] = 0;
    for (int g = 0; g < batch.count; g++)
        for (uint32_t rest = batch.masks[g]; rest; rest &= rest - 1) words[__builtin_ctz(rest)] |= uint64_t(1) << g;
#endif
}

GS_INLINE void start(const Image &image, int tile, Pixels &pixels) {
    const int x0 = tile % image.tiles_x * TILE, y0 = tile / image.tiles_x * TILE;
    pixels.alive = 0;
    for (int b = 0; b < BLOCKS; b++)
        for (int i = 0; i < PIXELS; i++) {
            int x = x0 + b % 4 * BLOCK_W + i % BLOCK_W, y = y0 + b / 4 * BLOCK_H + i / BLOCK_W;
            bool inside = x < image.width && y < image.height;
            pixels.through[b * PIXELS + i] = 1.0f;
            pixels.threshold[b * PIXELS + i] = inside ? LOG2_ALPHA_MIN : NEVER;
            if (inside) pixels.alive |= 1u << b;
        }
}

// Where the pixels of a tile lie in arrays of the image.
template <class Visit> GS_INLINE void each_pixel(const Image &image, int tile, Visit visit) {
    const int x0 = tile % image.tiles_x * TILE, y0 = tile / image.tiles_x * TILE;
    const int columns = image.width - x0 < TILE ? image.width - x0 : TILE;
    const int rows = image.height - y0 < TILE ? image.height - y0 : TILE;
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++) {
            int block = y / BLOCK_H * 4 + x / BLOCK_W, inner = y % BLOCK_H * BLOCK_W + x % BLOCK_W;
            visit(block, inner, size_t(y0 + y) * size_t(image.width) + size_t(x0 + x));
        }
}

// W pixels that meet a Gaussian at u, v.
struct Meeting {
    F u, v;
    F raw;          // alpha before the clamp
    F alpha;        // 0 where the pair is skipped
    F weight;       // alpha times transmittance
    M touched;      // pairs that are not skipped
    bool finished;  // whether a pixel's threshold has changed
};

// Blends one Gaussian into W pixels: updates their transmittance and threshold; -> whether any pixel is touched.
// clamped: whether its alpha may be more than ALPHA_MAX.
template <bool clamped> GS_INLINE bool meet(float lop, F &through, F &threshold, Meeting &m) {
    F p = fnma(m.u, m.u, fnma(m.v, m.v, set(lop)));
    m.touched = ge(p, threshold);
    if (!any(m.touched)) return false;
    m.raw = exp2_of(p);
    m.alpha = keep(m.touched, clamped ? vmin(m.raw, set(ALPHA_MAX)) : m.raw);
    F next = fnma(m.alpha, through, through);
    M last = ge(set(TRANSMITTANCE_MIN), next);
    m.finished = any(last);
    if (__builtin_expect(m.finished, 0)) {
        m.touched = without(m.touched, last);
        m.alpha = keep(m.touched, m.alpha);
        threshold = pick(last, set(NEVER), threshold);
        next = pick(last, through, next);
    }
    m.weight = m.alpha * through;
    through = next;
    return true;
}

GS_INLINE bool finished(const float *threshold) {
    for (int i = 0; i < PIXELS; i++)
        if (threshold[i] < NEVER) return false;
    return true;
}

// Blends the batch's Gaussians of `word` into block b. channels 1..4: into sums [channels PIXELS]. channels 0: keeps
// the weights [n PIXELS] and the places in the batch instead, -> n.
template <int channels>
GS_INLINE int blend_block(const Image &image, const Batch &batch, uint64_t word, int b, Pixels &pixels, float *sums,
                          float *weights, uint8_t *places) {
    float *through_at = pixels.through + b * PIXELS, *threshold_at = pixels.threshold + b * PIXELS;
    F through[VECTORS], threshold[VECTORS], sum[channels + 1][VECTORS];
    for (int i = 0; i < VECTORS; i++) {
        through[i] = load(through_at + i * W), threshold[i] = load(threshold_at + i * W);
        for (int c = 0; c < channels; c++) sum[c][i] = load(sums + c * PIXELS + i * W);
    }
    int count = 0;
    for (; word; word &= word - 1) {
        const int g = __builtin_ctzll(word);
        const F u = set(batch.u[g][b]), v = set(batch.v[g][b]);
        const float *color = image.colors + size_t(batch.ids[g]) * size_t(image.channels);
        for (int i = 0; i < VECTORS; i++) {
            Meeting m;
            m.u = u + load(batch.du[g] + i * W), m.v = v + load(batch.dv[g] + i * W);
            const bool touched = meet<true>(batch.lop[g], through[i], threshold[i], m);
            if (channels == 0) {
                store(weights + count * PIXELS + i * W, touched ? m.weight : zero());
            } else if (touched) {
                for (int c = 0; c < channels; c++) sum[c][i] = fma(m.weight, set(color[c]), sum[c][i]);
            }
        }
        if (channels == 0) places[count++] = uint8_t(g);
    }
    for (int i = 0; i < VECTORS; i++) {
        store(through_at + i * W, through[i]), store(threshold_at + i * W, threshold[i]);
        for (int c = 0; c < channels; c++) store(sums + c * PIXELS + i * W, sum[c][i]);
    }
    if (finished(threshold_at)) pixels.alive &= ~(1u << b);
    return count;
}

// sums [CH PIXELS] += weights [count PIXELS] times channels c .. c + CH of the Gaussians.
template <int CH>
GS_INLINE void add_channels(const Image &image, const Batch &batch, int c, int count, const float *weights,
                            const uint8_t *places, float *sums) {
    F sum[CH][VECTORS];
    for (int k = 0; k < CH; k++)
        for (int i = 0; i < VECTORS; i++) sum[k][i] = load(sums + k * PIXELS + i * W);
    for (int n = 0; n < count; n++) {
        const float *color = image.colors + size_t(batch.ids[places[n]]) * size_t(image.channels) + c;
        for (int i = 0; i < VECTORS; i++) {
            F weight = load(weights + n * PIXELS + i * W);
            for (int k = 0; k < CH; k++) sum[k][i] = fma(weight, set(color[k]), sum[k][i]);
        }
    }
    for (int k = 0; k < CH; k++)
        for (int i = 0; i < VECTORS; i++) store(sums + k * PIXELS + i * W, sum[k][i]);
}

constexpr int CHUNK = W / VECTORS;  // channels whose sums fit the registers: 16, 8, 2

template <int channels>
void blend_tile(const Image &image, int tile, float *sums, float *out, float *left) {
    Offsets offsets;
    make_offsets(offsets);
    Pixels pixels;
    start(image, tile, pixels);
    const int D = image.channels;
    for (int i = 0; i < TILE * TILE * D; i++) sums[i] = 0.0f;

    Batch batch;
    uint64_t words[BLOCKS];
    alignas(64) float weights[channels ? 1 : BATCH * PIXELS];
    uint8_t places[BATCH];
    uint32_t first = image.tile_start[tile];
    const uint32_t last = image.tile_start[tile + 1];
    for (; first < last && pixels.alive; first += BATCH) {
        fill<true>(image, tile, first, last, offsets, batch);
        transpose(batch, words);
        for (int b = 0; b < BLOCKS; b++) {
            if (!words[b] || !(pixels.alive >> b & 1)) continue;
            float *of_block = sums + b * D * PIXELS;
            int n = blend_block<channels>(image, batch, words[b], b, pixels, of_block, weights, places);
            if (channels) continue;
            int c = 0;
            for (; c + CHUNK <= D; c += CHUNK)
                add_channels<CHUNK>(image, batch, c, n, weights, places, of_block + c * PIXELS);
            if (CHUNK > 8 && c + 8 <= D) {
                add_channels<8>(image, batch, c, n, weights, places, of_block + c * PIXELS);
                c += 8;
            }
            if (CHUNK > 4 && c + 4 <= D) {
                add_channels<4>(image, batch, c, n, weights, places, of_block + c * PIXELS);
                c += 4;
            }
            for (; c < D; c++) add_channels<1>(image, batch, c, n, weights, places, of_block + c * PIXELS);
        }
    }
    for (uint32_t at = first; at < last; at++) image.masks[at] = 0;  // behind all that is seen
    each_pixel(image, tile, [&](int b, int i, size_t at) {
        const float through = pixels.through[b * PIXELS + i];
        left[at] = through;
        for (int c = 0; c < D; c++)
            out[at * size_t(D) + size_t(c)] =
                sums[(b * D + c) * PIXELS + i] + (image.background ? through * image.background[c] : 0.0f);
    });
}

void blend(const Image &image, int tile, float *scratch, float *out, float *left) {
    switch (image.channels) {
    case 1: return blend_tile<1>(image, tile, scratch, out, left);
    case 2: return blend_tile<2>(image, tile, scratch, out, left);
    case 3: return blend_tile<3>(image, tile, scratch, out, left);
    case 4: return blend_tile<4>(image, tile, scratch, out, left);
    default: return blend_tile<0>(image, tile, scratch, out, left);
    }
}

}  // namespace
