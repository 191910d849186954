// What the kernels of the CPU rasterizer share: plain structures and the table of functions of one instruction set.
//
// Notation: a Gaussian's p = lop - u^2 - v^2 is the binary logarithm of its unclamped alpha, with u = l11 dx + l12 dy,
// v = l22 dy, (dx, dy) = pixel centre - mean, and L the Cholesky factor of (log2 e / 2) conic. The squares make p
// as exact for a Gaussian of 1000 pixels as for one of 1.
#pragma once
#include <stddef.h>
#include <stdint.h>

constexpr int TILE = 16;                            // pixels along the side of a tile
constexpr int BATCH = 64;                           // Gaussians of a tile taken at once: one bit each in a word
constexpr float ALPHA_MAX = 0.999f;                 // gsplat 1.5.3; later versions clamp at 0.99
constexpr float ALPHA_MIN = 1.0f / 255.0f;          // fainter than one grey level
constexpr float LOG2_ALPHA_MIN = -7.9943534369f;    // log2(1 / 255)
constexpr float LOG2_ALPHA_MAX = -0.00145f;          // log2(0.999), less a little: below it nothing is clamped
constexpr float TRANSMITTANCE_MIN = 1e-4f;          // the pair that would reach this is dropped, and all behind it
constexpr int COLUMNS = 6;                          // mean x and y, l11, l12, l22, lop
constexpr int MOMENTS = 6;                          // sums of v_sigma times 1, u, v, u^2, u v, v^2

struct Record {
    float mx, my, l11, l12, l22, lop;
    float ridge_y;  // dy of the largest p on a vertical line, per dx
    float ridge_x;  // dx of the largest p on a horizontal line, per dy
};

// Tiles x0 <= x < x1, y0 <= y < y1 that a Gaussian may touch; x1 = x0 where it is invisible.
struct Rect {
    uint16_t x0, y0, x1, y1;
};

struct View {
    float rotation[9], translation[3];  // world -> camera
    float fx, fy, cx, cy;
    float near_plane, far_plane, eps2d;
    int width, height;
    bool antialiased;
};

struct Projected {
    float *means2d, *conics, *depths, *compensations;  // [N 2] [N 3] [N] [N]
    int32_t *radii;                                    // [N 2]
};

struct ProjectedGradients {  // any may be null
    const float *means2d, *conics, *depths, *compensations;
};

struct Parameters {
    const float *means, *quats, *scales, *opacities;  // [N 3] [N 4] [N 3] [N]
};

struct ParameterGradients {  // any may be null; added to what is there
    float *means, *quats, *scales;
};

// The Gaussians of one image, sorted into tiles, and what they are blended with.
struct Image {
    int width, height, tiles_x, tiles_y;
    const Record *records;        // [N]
    const Rect *rects;            // [N]
    const uint32_t *first_slot;   // [N + 1]: the (Gaussian, tile) pairs in the order of the Gaussians
    const uint32_t *entries;      // ids of the Gaussians of each tile, front to back
    const uint32_t *tile_start;   // [tiles + 1]
    const uint32_t *slot;         // [pairs]: of each entry, its place in the order of the Gaussians
    uint32_t *masks;              // [pairs]: the blocks that each entry reaches; written by blend, read by its gradients
    int channels;
    const float *colors;      // [N channels]
    const float *background;  // [channels] or null
};

struct ImageGradients {
    const float *image, *left;        // forward's results: [H W channels], [H W]
    const float *v_image, *v_alpha;   // [H W channels], [H W]
    float *slots;                     // [pairs slot_size]: a row of sums of each (Gaussian, tile)
    uint8_t *touched;                 // [pairs]: whether the row was written; zero before
    int slot_size;
    bool geometry, color, absolute;   // which sums are wanted
};

// Of Gaussians as they lie in the image. colors or the other four may be null, and absolute. touched: whether a pixel
// shows the Gaussian; may be null.
struct SplatGradients {
    float *means2d, *conics, *opacities, *colors, *absolute;  // [n 2] [n 3] [n] [n channels] [n 2]
    bool *touched;                                            // [n]
};

// Where the colours begin in a slot: after the moments and the two absolute sums, where those are wanted.
static constexpr int color_offset(bool geometry, bool absolute) { return geometry ? MOMENTS + (absolute ? 2 : 0) : 0; }

// The functions of one instruction set. scratch: scratch_floats(channels) floats for one thread.
struct Kernels {
    const char *name;
    // Gaussians begin <= i < end, begin a multiple of 16.
    void (*project)(const Parameters &, const View &, int begin, int end, const Projected &);
    void (*project_backward)(const Parameters &, const View &, int begin, int end, const Projected &,
                             const ProjectedGradients &, const ParameterGradients &);
    void (*prepare)(const float *means2d, const float *conics, const float *opacities, const int32_t *radii,
                    int width, int height, int begin, int end, Record *, Rect *);
    void (*harmonics)(int degree, int terms, const float *means, const float *camera, const float *sh,
                      const int32_t *radii, int begin, int end, float *colors);
    void (*harmonics_backward)(int degree, int terms, const float *means, const float *camera, const float *sh,
                               const float *colors, const float *v_colors, int begin, int end, float *v_means,
                               float *v_sh);
    size_t (*scratch_floats)(int channels);
    void (*blend)(const Image &, int tile, float *scratch, float *image, float *left);
    void (*blend_backward)(const Image &, const ImageGradients &, int tile, float *scratch);
    // Sums of the slots of Gaussians begin <= i < end, written from the start of each array. sums: slot_size floats.
    void (*gather)(const Image &, const ImageGradients &, int begin, int end, const float *opacities,
                   const SplatGradients &, float *sums);
    // scales = exp(log_scales) [N 3], opacities = sigmoid(logits) [N], for Gaussians begin <= i < end.
    void (*activate)(const float *log_scales, const float *logits, int begin, int end, float *scales,
                     float *opacities);
    // Blending weights of all pixels of a tile, see rasterizer_rows.h.
    size_t (*tile_weights)(const Image &, int tile, float minimum, int32_t *places, int32_t *ids, float *values);
    // Adds the (pixel, Gaussian) pairs of a tile whose alpha is worked out, and those that are blended.
    void (*tile_pairs)(const Image &, int tile, uint64_t *evaluated, uint64_t *blended);
    // Blending weights of single pixels. columns: COLUMNS rows of `stride` floats, the tile's Gaussians front to
    // back. pixel_weights keeps those of the pixel at (x, y) in the tile that are >= minimum, -> their number.
    void (*tile_columns)(const Image &, int tile, int stride, float *columns);
    int (*pixel_weights)(const float *columns, int stride, float x, float y, float minimum, const uint32_t *ids,
                         int32_t *indices, float *values);
    // Not of the rasterizer, but compiled like it: see neighbours_kernel.h.
    int (*near_points)(const float *q, const float *block, int padded, int dims, float limit, float *squared,
                       int32_t *places);
};

extern const Kernels KERNELS_BASELINE;
#if defined(GS_LIFT_X86_LEVELS)
extern const Kernels KERNELS_AVX2;
extern const Kernels KERNELS_AVX512;
#endif
