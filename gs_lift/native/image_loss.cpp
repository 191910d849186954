// L1 + SSIM with its gradient by the rendered image.
//
// Images are rows of W * C interleaved values. A separable window then needs no planes: the neighbour at k columns
// lies k * C values away, whatever the channel. Three passes over the rows, each row on its own:
//   1  across:  the moments x, y, xx, yy, xy of each row, smoothed along it
//   2  down:    the moments of a pixel's window -> SSIM and its three partial derivatives, smoothed along the row
//   3  down:    the derivatives smoothed down -> gradient by x (the window is symmetric: its own transpose)
// Sums are kept per row and added in order, so the number of threads changes nothing.
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "image_loss.h"
#include "module.h"

// One machine, one set of bytes: the widest of these that the processor has is picked when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

namespace {

constexpr int RADIUS = 5;        // 11 x 11 window
constexpr double SIGMA = 1.5;    // in pixels
constexpr double C1 = 0.01 * 0.01, C2 = 0.03 * 0.03;

template <typename T> struct Taps {
    T at[RADIUS + 1];
    Taps() {
        double sum = 0, raw[RADIUS + 1];
        for (int k = 0; k <= RADIUS; k++) {
            raw[k] = std::exp(-k * k / (2 * SIGMA * SIGMA));
            sum += k ? 2 * raw[k] : raw[k];
        }
        for (int k = 0; k <= RADIUS; k++) at[k] = T(raw[k] / sum);
    }
};

template <typename T> struct Image {
    const T *x, *y;         // rendered, target
    int64_t height, width;  // width in values: columns times channels
    int64_t channels;
    const T *taps;
    T *across;              // [5 H W] of pass 1
    T *partials;            // [3 H W] of pass 2
};

// Eight sums side by side: one chain of additions would wait for each before the next.
template <typename T> inline __attribute__((always_inline)) double sum_of(const T *values, int64_t count) {
    double lanes[8] = {}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int lane = 0; lane < 8; lane++) lanes[lane] += values[i + lane];
    for (; i < count; i++) sum += values[i];
    for (int lane = 0; lane < 8; lane++) sum += lanes[lane];
    return sum;
}

// `in` has RADIUS * channels zeros before and after its `width` values.
template <typename T>
inline __attribute__((always_inline)) void smooth_across(
    const T *in, T *out, int64_t width, int64_t channels, const T *taps) {
    const T t0 = taps[0], t1 = taps[1], t2 = taps[2], t3 = taps[3], t4 = taps[4], t5 = taps[5];
    const int64_t s1 = channels, s2 = 2 * s1, s3 = 3 * s1, s4 = 4 * s1, s5 = 5 * s1;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++)
        out[i] = t0 * in[i] + t1 * (in[i - s1] + in[i + s1]) + t2 * (in[i - s2] + in[i + s2]) +
                 t3 * (in[i - s3] + in[i + s3]) + t4 * (in[i - s4] + in[i + s4]) + t5 * (in[i - s5] + in[i + s5]);
}

// Rows of `plane` around `row`, zeros outside.
template <typename T>
inline __attribute__((always_inline)) void smooth_down(
    const T *plane, T *out, int64_t row, int64_t height, int64_t width, const T *taps) {
    if (row >= RADIUS && row + RADIUS < height) {
        const T *in = plane + row * width;
        const T t0 = taps[0], t1 = taps[1], t2 = taps[2], t3 = taps[3], t4 = taps[4], t5 = taps[5];
        const int64_t s1 = width, s2 = 2 * s1, s3 = 3 * s1, s4 = 4 * s1, s5 = 5 * s1;
#pragma GCC ivdep
        for (int64_t i = 0; i < width; i++)
            out[i] = t0 * in[i] + t1 * (in[i - s1] + in[i + s1]) + t2 * (in[i - s2] + in[i + s2]) +
                     t3 * (in[i - s3] + in[i + s3]) + t4 * (in[i - s4] + in[i + s4]) +
                     t5 * (in[i - s5] + in[i + s5]);
        return;
    }
    for (int64_t i = 0; i < width; i++) out[i] = 0;
    for (int k = -RADIUS; k <= RADIUS; k++) {
        if (row + k < 0 || row + k >= height) continue;
        const T tap = taps[k < 0 ? -k : k], *in = plane + (row + k) * width;
#pragma GCC ivdep
        for (int64_t i = 0; i < width; i++) out[i] += tap * in[i];
    }
}

template <typename T>
inline __attribute__((always_inline)) void moments_row(const Image<T> &image, int64_t row, T *scratch) {
    const int64_t width = image.width, pad = RADIUS * image.channels, size = image.height * width;
    const T *x = image.x + row * width, *y = image.y + row * width;
    T *padded = scratch + pad;
    for (int64_t i = 1; i <= pad; i++) padded[-i] = padded[width + i - 1] = 0;
    for (int moment = 0; moment < 5; moment++) {
        const T *a = moment == 1 || moment == 3 ? y : x, *b = moment >= 3 ? y : x;
        if (moment < 2)
            for (int64_t i = 0; i < width; i++) padded[i] = a[i];
        else
#pragma GCC ivdep
            for (int64_t i = 0; i < width; i++) padded[i] = a[i] * b[i];
        smooth_across(padded, image.across + moment * size + row * width, width, image.channels, image.taps);
    }
}

// Returns the row's sum of SSIM. With raw moments E[x], E[xx], E[xy] as variables: S = A B / (C D).
template <typename T>
inline __attribute__((always_inline)) double partials_row(const Image<T> &image, int64_t row, T *scratch) {
    const int64_t width = image.width, pad = RADIUS * image.channels, size = image.height * width;
    T *at[5];
    for (int moment = 0; moment < 5; moment++) {
        at[moment] = scratch + moment * (width + 2 * pad) + pad;
        smooth_down(image.across + moment * size, at[moment], row, image.height, width, image.taps);
    }
    T *mean_x = at[0], *mean_y = at[1], *square_x = at[2], *square_y = at[3], *product = at[4];
#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {
        const T x = mean_x[i], y = mean_y[i];
        const T a = 2 * x * y + T(C1), c = x * x + y * y + T(C1);
        const T b = 2 * (product[i] - x * y) + T(C2), d = square_x[i] - x * x + square_y[i] - y * y + T(C2);
        const T over_c = 1 / c, over_d = 1 / d, over_cd = over_c * over_d;
        const T similarity = a * b * over_cd;
        mean_x[i] = 2 * (y * (b - a) * over_cd + x * similarity * (over_d - over_c));
        square_x[i] = -similarity * over_d;
        product[i] = 2 * a * over_cd;
        square_y[i] = similarity;
    }
    const double sum = sum_of(square_y, width);
    T *wanted[3] = {mean_x, square_x, product};
    for (int partial = 0; partial < 3; partial++) {
        T *padded = wanted[partial];
        for (int64_t i = 1; i <= pad; i++) padded[-i] = padded[width + i - 1] = 0;
        smooth_across(padded, image.partials + partial * size + row * width, width, image.channels, image.taps);
    }
    return sum;
}

// Returns the row's sum of |x - y|; `l1` and `ssim` are the factors of the two terms' gradients.
template <typename T>
inline __attribute__((always_inline)) double gradient_row(
    const Image<T> &image, int64_t row, T *scratch, T l1, T ssim, T *gradient) {
    const int64_t width = image.width, size = image.height * width;
    const T *x = image.x + row * width, *y = image.y + row * width;
    T *by_mean = scratch, *by_square = scratch + width, *by_product = scratch + 2 * width;
    smooth_down(image.partials, by_mean, row, image.height, width, image.taps);
    smooth_down(image.partials + size, by_square, row, image.height, width, image.taps);
    smooth_down(image.partials + 2 * size, by_product, row, image.height, width, image.taps);
    T *out = gradient + row * width;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {
        const T difference = x[i] - y[i];
        const T sign = difference > 0 ? T(1) : difference < 0 ? T(-1) : T(0);
        out[i] = l1 * sign + ssim * (by_mean[i] + 2 * x[i] * by_square[i] + y[i] * by_product[i]);
        by_mean[i] = sign * difference;
    }
    return sum_of(by_mean, width);
}

// target_clones takes plain functions only, and OpenMP's outlined loops would not inherit it: one call per row.
#define ROWS(T)                                                                                                    \
    WIDEST void moments(const Image<T> &image, int64_t row, T *scratch) { moments_row(image, row, scratch); }      \
    WIDEST double partials(const Image<T> &image, int64_t row, T *scratch) {                                       \
        return partials_row(image, row, scratch);                                                                  \
    }                                                                                                              \
    WIDEST double gradients(const Image<T> &image, int64_t row, T *scratch, T l1, T ssim, T *gradient) {           \
        return gradient_row(image, row, scratch, l1, ssim, gradient);                                              \
    }
ROWS(float)
ROWS(double)
#undef ROWS

template <typename T> using Input = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
template <typename T> using Output = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <typename T>
double photometric_of(const T *x, const T *y, int64_t height, int64_t columns, int64_t channels, double ssim_weight,
                      T *gradient, T *workspace, int threads) {
    const int64_t width = columns * channels, size = height * width;
    const int64_t row_scratch = 5 * (width + 2 * RADIUS * channels);
    static const Taps<T> taps;
    const Image<T> image{x, y, height, width, channels, taps.at, workspace, workspace + 5 * size};
    const T l1 = T((1 - ssim_weight) / double(size)), ssim = T(-ssim_weight / double(size));
    std::vector<double> similarity(height), difference(height);
#pragma omp parallel num_threads(threads < 1 ? 1 : threads)
    {
        std::vector<T> scratch(row_scratch);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < height; row++) moments(image, row, scratch.data());
#pragma omp for schedule(static)
        for (int64_t row = 0; row < height; row++) similarity[row] = partials(image, row, scratch.data());
#pragma omp for schedule(static)
        for (int64_t row = 0; row < height; row++)
            difference[row] = gradients(image, row, scratch.data(), l1, ssim, gradient);
    }
    double sum_similarity = 0, sum_difference = 0;
    for (int64_t row = 0; row < height; row++) {
        sum_similarity += similarity[row];
        sum_difference += difference[row];
    }
    return (1 - ssim_weight) * sum_difference / double(size) + ssim_weight * (1 - sum_similarity / double(size));
}

template <typename T> double photometric(Input<T> x, Input<T> y, Output<T> gradient, double ssim_weight, int threads) {
    for (int axis = 0; axis < 3; axis++)
        if (x.shape(axis) != y.shape(axis) || x.shape(axis) != gradient.shape(axis))
            throw std::invalid_argument("photometric: colors, target and gradient differ in shape");
    if (x.size() == 0) throw std::invalid_argument("photometric: an image without pixels");
    nb::gil_scoped_release release;
    std::unique_ptr<T[]> workspace(new T[PHOTOMETRIC_PLANES * x.size()]);  // each value is written before it is read
    return photometric_of(x.data(), y.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), int64_t(x.shape(2)),
                          ssim_weight, gradient.data(), workspace.get(), threads);
}

}  // namespace

double photometric(const float *x, const float *y, int64_t height, int64_t columns, int64_t channels,
                   double ssim_weight, float *gradient, float *workspace, int threads) {
    return photometric_of(x, y, height, columns, channels, ssim_weight, gradient, workspace, threads);
}

void bind_image_loss(nb::module_ &m) {
    const char *doc = "(1 - w) L1 + w (1 - SSIM) of two [H W C] images; writes the gradient by the first one.";
    m.def("photometric", &photometric<float>, nb::arg("colors").noconvert(), nb::arg("target").noconvert(),
          nb::arg("gradient").noconvert(), nb::arg("ssim_weight"), nb::arg("threads"), doc);
    m.def("photometric", &photometric<double>, nb::arg("colors").noconvert(), nb::arg("target").noconvert(),
          nb::arg("gradient").noconvert(), nb::arg("ssim_weight"), nb::arg("threads"), doc);
}
