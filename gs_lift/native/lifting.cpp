// The steps of lifting that touch every pair of pixels or every Gaussian: the losses with their gradients,
// Adam on some rows, and smoothing over neighbours.
//
// Every output element is made by one thread in a fixed order: the same bytes for any number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "module.h"

// One binary, the widest vectors that the machine has.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

template <class T>
using Array1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int LANES = 16;

// Waking threads for less arithmetic than this costs more than it saves, and far more on a busy machine.
constexpr int64_t WORTH_THREADS = 1 << 23;

INLINE double exponential(double x) { return std::exp(x); }

// exp for |x| < 80 to 1e-7, written so that it vectorises: 2^n by the exponent's bits, the rest by a polynomial.
INLINE float exponential(float x) {
    const float scaled = x * 1.44269504f;
    const float shifted = scaled + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low mantissa bits
    const float whole = shifted - 12582912.0f;
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
    float p = 1.0f / 720.0f;  // Taylor to r^6: |r| <= ln 2 / 2, so the rest is below 1.2e-7
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits <<= 23;
    int32_t result;
    std::memcpy(&result, &p, 4);
    result += bits;
    std::memcpy(&p, &result, 4);
    return p;
}

// Sum of an array whose length is a multiple of LANES, always in the same order.
template <class T>
INLINE T ordered_sum(const T *values, int64_t count) {
    T lanes[LANES] = {};
    for (int64_t i = 0; i < count; i += LANES)
        for (int l = 0; l < LANES; ++l) lanes[l] += values[i + l];
    T sum = 0;
    for (int l = 0; l < LANES; ++l) sum += lanes[l];
    return sum;
}

// What a fast pixel is compared with. slow: [D padded], so that neighbouring pixels lie in neighbouring lanes.
template <class T>
struct Others {
    const T *slow;
    const int32_t *segments;
    const T *live;  // 1, or 0 in the padding
    int64_t padded, channels;
};

// Loss of one fast pixel against all slow ones, and its gradient by the fast embedding; false where none of them is
// of its segment. d = |f - s|, k = exp(-d), e = exp(k): loss = log(sum of e) - log(sum of e over the same segment).
// e, same, slope: scratch [padded]. Plain loops over one index each, since those are what compilers vectorise.
template <class T>
INLINE bool contrastive_row(const T *fast, int32_t segment, const Others<T> &others, T *__restrict e,
                            T *__restrict same, T *__restrict slope, T *loss, T *gradient) {
    const int64_t count = others.padded;
    const T *__restrict live = others.live;
    const int32_t *__restrict segments = others.segments;
    for (int64_t v = 0; v < count; ++v) slope[v] = 0;
    for (int64_t c = 0; c < others.channels; ++c) {
        const T *__restrict slow = others.slow + c * count;
        for (int64_t v = 0; v < count; ++v) slope[v] += (fast[c] - slow[v]) * (fast[c] - slow[v]);
    }
    for (int64_t v = 0; v < count; ++v) {
        const T distance = std::sqrt(slope[v]);
        // Beyond 80 the kernel is 0 to either precision.
        const T kernel = exponential(-std::min(distance, T(80)));
        e[v] = exponential(kernel) * live[v];
        same[v] = e[v] * static_cast<T>(segments[v] == segment);
        // dk/df = -k (f - s) / d; for coincident points f - s is 0, and so is the gradient.
        slope[v] = -kernel / (distance + T(1e-12));
    }
    const T total = ordered_sum(e, count), positive = ordered_sum(same, count);
    if (!(positive > T(0))) return false;
    *loss = std::log(total) - std::log(positive);
    const T per_total = T(1) / total, per_positive = T(1) / positive;
    for (int64_t v = 0; v < count; ++v) slope[v] *= e[v] * per_total - same[v] * per_positive;
    for (int64_t c = 0; c < others.channels; ++c) {
        const T *__restrict slow = others.slow + c * count;
        for (int64_t v = 0; v < count; ++v) e[v] = slope[v] * (fast[c] - slow[v]);
        gradient[c] = ordered_sum(e, count);
    }
    return true;
}

WIDEST bool contrastive_row_of(const float *fast, int32_t segment, const Others<float> &others, float *e, float *same,
                               float *slope, float *loss, float *gradient) {
    return contrastive_row(fast, segment, others, e, same, slope, loss, gradient);
}

bool contrastive_row_of(const double *fast, int32_t segment, const Others<double> &others, double *e, double *same,
                        double *slope, double *loss, double *gradient) {
    return contrastive_row(fast, segment, others, e, same, slope, loss, gradient);
}

// Mean loss over the fast pixels that have a slow pixel of their segment (0 where none has); gradient [A D].
template <class T>
double contrastive(Array2<const T> fast, Array2<const T> slow, Array1<const int32_t> fast_segments,
                   Array1<const int32_t> slow_segments, Array2<T> gradient, int threads) {
    nb::gil_scoped_release release;
    const int64_t rows = fast.shape(0), others = slow.shape(0), channels = fast.shape(1);
    const int64_t padded = (others + LANES - 1) / LANES * LANES;
    std::vector<T> transposed(channels * padded, T(0)), live(padded, T(0)), losses(rows, T(0));
    std::vector<int32_t> segments(padded, 0);
    std::vector<char> counts(rows, 0);
    for (int64_t v = 0; v < others; ++v) {
        live[v] = 1;
        segments[v] = slow_segments.data()[v];
        for (int64_t c = 0; c < channels; ++c) transposed[c * padded + v] = slow.data()[v * channels + c];
    }
    const Others<T> all{transposed.data(), segments.data(), live.data(), padded, channels};
#pragma omp parallel num_threads(threads) if (rows * padded * channels > WORTH_THREADS)
    {
        std::vector<T> e(padded), same(padded), slope(padded);
#pragma omp for schedule(static)
        for (int64_t u = 0; u < rows; ++u) {
            counts[u] = contrastive_row_of(fast.data() + u * channels, fast_segments.data()[u], all, e.data(),
                                           same.data(), slope.data(), &losses[u], gradient.data() + u * channels);
        }
    }
    double sum = 0;
    int64_t count = 0;
    for (int64_t u = 0; u < rows; ++u) {
        sum += counts[u] ? losses[u] : T(0);
        count += counts[u];
    }
    const T scale = count ? T(1) / T(count) : T(0);
    for (int64_t u = 0; u < rows; ++u)
        for (int64_t c = 0; c < channels; ++c)
            gradient.data()[u * channels + c] = counts[u] ? gradient.data()[u * channels + c] * scale : T(0);
    return count ? sum / double(count) : 0.0;
}

// Mean over the pixels of -c log p(class), p from the blended class probabilities softmax(logits), renormalised;
// and its gradient by the logits [T S]. All in one thread: a step has some 20,000 entries.
template <class T>
double class_loss(Array1<const int64_t> indptr, Array1<const int32_t> indices, Array1<const float> values,
                  Array2<const T> logits, Array1<const int64_t> classes, Array1<const T> confidence,
                  Array2<T> gradient) {
    nb::gil_scoped_release release;
    const int64_t count = logits.shape(0), width = logits.shape(1), pixels = classes.shape(0);
    std::vector<T> probability(count * width), received(count * width, T(0));
    for (int64_t g = 0; g < count; ++g) {
        const T *row = logits.data() + g * width;
        T *out = probability.data() + g * width;
        const T highest = *std::max_element(row, row + width);
        T sum = 0;
        for (int64_t k = 0; k < width; ++k) sum += out[k] = std::exp(row[k] - highest);
        for (int64_t k = 0; k < width; ++k) out[k] /= sum;
    }
    double loss = 0;
    for (int64_t p = 0; p < pixels; ++p) {
        const int64_t own = classes.data()[p];
        T blended = 0, total = T(1e-8);  // softmax sums to 1, so the sum over the classes is that of the weights
        for (int64_t e = indptr.data()[p]; e < indptr.data()[p + 1]; ++e) {
            blended += values.data()[e] * probability[indices.data()[e] * width + own];
            total += values.data()[e];
        }
        const T certain = blended / total + T(1e-8);
        loss -= double(confidence.data()[p]) * std::log(double(certain));
        const T slope = -confidence.data()[p] / (certain * total * T(pixels));
        for (int64_t e = indptr.data()[p]; e < indptr.data()[p + 1]; ++e)
            received[indices.data()[e] * width + own] += slope * values.data()[e];
    }
    for (int64_t g = 0; g < count; ++g) {
        const T *q = probability.data() + g * width, *r = received.data() + g * width;
        T mean = 0;
        for (int64_t k = 0; k < width; ++k) mean += q[k] * r[k];
        for (int64_t k = 0; k < width; ++k) gradient.data()[g * width + k] = q[k] * (r[k] - mean);
    }
    return loss / double(pixels);
}

// One step of Adam (Kingma and Ba, algorithm 1) on the given rows only, in place; step counts from 1.
WIDEST void adam_row(float *parameter, float *first, float *second, const float *gradient, int64_t channels,
                     float rate, float beta1, float beta2, float correction2, float epsilon) {
    for (int64_t c = 0; c < channels; ++c) {
        first[c] = beta1 * first[c] + (1 - beta1) * gradient[c];
        second[c] = beta2 * second[c] + (1 - beta2) * gradient[c] * gradient[c];
        parameter[c] -= rate * first[c] / (std::sqrt(second[c] * correction2) + epsilon);
    }
}

void adam_rows(Array2<float> parameter, Array2<float> first, Array2<float> second, Array1<const int64_t> rows,
               Array2<const float> gradient, int64_t step, double rate, double beta1, double beta2, double epsilon,
               int threads) {
    nb::gil_scoped_release release;
    const int64_t channels = parameter.shape(1), count = rows.shape(0);
    const float corrected = static_cast<float>(rate / (1 - std::pow(beta1, double(step))));
    const float correction2 = static_cast<float>(1 / (1 - std::pow(beta2, double(step))));
#pragma omp parallel for schedule(static) num_threads(threads) if (count * channels > WORTH_THREADS)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = rows.data()[i] * channels;
        adam_row(parameter.data() + at, first.data() + at, second.data() + at, gradient.data() + i * channels,
                 channels, corrected, static_cast<float>(beta1), static_cast<float>(beta2), correction2,
                 static_cast<float>(epsilon));
    }
}

// average = keep * average + (1 - keep) * features, in place.
void follow(Array2<float> average, Array2<const float> features, float keep, int threads) {
    nb::gil_scoped_release release;
    const int64_t count = average.shape(0) * average.shape(1);
    float *out = average.data();
    const float *in = features.data();
#pragma omp parallel for schedule(static) num_threads(threads) if (count > WORTH_THREADS)
    for (int64_t i = 0; i < count; ++i) out[i] = keep * out[i] + (1 - keep) * in[i];
}

// out = (1 - pull) features + pull * mean of the features of the row's neighbours. WIDTH 0: any number of channels.
template <int WIDTH>
void smooth(const float *features, const int32_t *neighbours, int64_t count, int64_t around, int64_t channels,
            float pull, float *out, int threads) {
    const int64_t width = WIDTH ? WIDTH : channels;
    const float share = pull / static_cast<float>(around);
#pragma omp parallel for schedule(static) num_threads(threads) if (count * around * width > WORTH_THREADS)
    for (int64_t i = 0; i < count; ++i) {
        float local[WIDTH ? WIDTH : 1];  // in registers where the width is known, else in place
        float *sum = WIDTH ? local : out + i * width;
        for (int64_t c = 0; c < width; ++c) sum[c] = 0;
        for (int64_t k = 0; k < around; ++k) {
            const float *row = features + neighbours[i * around + k] * width;
            for (int64_t c = 0; c < width; ++c) sum[c] += row[c];
        }
        const float *own = features + i * width;
        for (int64_t c = 0; c < width; ++c) out[i * width + c] = (1 - pull) * own[c] + share * sum[c];
    }
}

void smooth_over_neighbours(Array2<const float> features, Array2<const int32_t> neighbours, float pull,
                            Array2<float> out, int threads) {
    nb::gil_scoped_release release;
    const int64_t channels = features.shape(1);
    auto *run = channels == 4 ? smooth<4> : channels == 8 ? smooth<8> : channels == 16 ? smooth<16> : smooth<0>;
    run(features.data(), neighbours.data(), features.shape(0), neighbours.shape(1), channels, pull, out.data(),
        threads);
}

}  // namespace

void bind_lifting(nb::module_ &m) {
    m.def("lifting_contrastive", &contrastive<float>);
    m.def("lifting_contrastive", &contrastive<double>);
    m.def("lifting_class_loss", &class_loss<float>);
    m.def("lifting_class_loss", &class_loss<double>);
    m.def("lifting_adam_rows", &adam_rows);
    m.def("lifting_follow", &follow);
    m.def("lifting_smooth", &smooth_over_neighbours);
}
