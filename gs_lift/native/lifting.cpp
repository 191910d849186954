// The steps of lifting that touch every pair of pixels or every Gaussian: the contrastive loss with its gradient,
// Adam on some rows, the moving average, and smoothing over neighbours.
//
// Every output element is made by one thread in a fixed order: the same bytes for any number of threads.
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

template <class T>
INLINE T lane_sum(const T *lanes) {
    T sum = 0;
    for (int l = 0; l < LANES; ++l) sum += lanes[l];
    return sum;
}

// Loss of one fast pixel against all slow ones, and its gradient by the fast embedding. Notation: d = |f - s_v|,
// k = exp(-d), e = exp(k); loss = log(sum of e) - log(sum of e over v of the same segment).
// slow: [D padded], so that lanes are pixels; live: 1, or 0 in the padding; e, slope: scratch [padded].
// Returns whether there was a pixel of the same segment; only then loss and gradient are set.
template <class T>
INLINE bool contrastive_row(const T *fast, int32_t segment, const T *slow, const int32_t *segments, const T *live,
                            int64_t padded, int64_t channels, T *e, T *slope, T *loss, T *gradient) {
    T all[LANES] = {}, same[LANES] = {};
    for (int64_t v = 0; v < padded; v += LANES) {
        T squared[LANES] = {};
        for (int64_t c = 0; c < channels; ++c) {
            for (int l = 0; l < LANES; ++l) {
                const T difference = fast[c] - slow[c * padded + v + l];
                squared[l] += difference * difference;
            }
        }
        for (int l = 0; l < LANES; ++l) {
            const T distance = std::sqrt(squared[l]);
            // Beyond 80 the kernel is 0 to either precision.
            const T kernel = exponential(-(distance < T(80) ? distance : T(80)));
            const T value = exponential(kernel) * live[v + l];
            e[v + l] = value;
            // d(-d)/df = -(f - s) / d; at d = 0 there is no direction, and the gradient is taken as 0.
            slope[v + l] = distance > T(0) ? -kernel / distance : T(0);
            all[l] += value;
            same[l] += segments[v + l] == segment ? value : T(0);
        }
    }
    const T total = lane_sum(all), positive = lane_sum(same);
    if (!(positive > T(0))) return false;
    *loss = std::log(total) - std::log(positive);
    const T per_total = T(1) / total, per_positive = T(1) / positive;
    for (int64_t v = 0; v < padded; ++v) {
        const T share = e[v] * per_total - (segments[v] == segment ? e[v] * per_positive : T(0));
        slope[v] *= share;
    }
    for (int64_t c = 0; c < channels; ++c) {
        T sum[LANES] = {};
        for (int64_t v = 0; v < padded; v += LANES)
            for (int l = 0; l < LANES; ++l) sum[l] += slope[v + l] * (fast[c] - slow[c * padded + v + l]);
        gradient[c] = lane_sum(sum);
    }
    return true;
}

WIDEST bool contrastive_row_of(const float *fast, int32_t segment, const float *slow, const int32_t *segments,
                               const float *live, int64_t padded, int64_t channels, float *e, float *slope,
                               float *loss, float *gradient) {
    return contrastive_row(fast, segment, slow, segments, live, padded, channels, e, slope, loss, gradient);
}

bool contrastive_row_of(const double *fast, int32_t segment, const double *slow, const int32_t *segments,
                        const double *live, int64_t padded, int64_t channels, double *e, double *slope,
                        double *loss, double *gradient) {
    return contrastive_row(fast, segment, slow, segments, live, padded, channels, e, slope, loss, gradient);
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
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> e(padded), slope(padded);
#pragma omp for schedule(static)
        for (int64_t u = 0; u < rows; ++u) {
            counts[u] = contrastive_row_of(fast.data() + u * channels, fast_segments.data()[u], transposed.data(),
                                           segments.data(), live.data(), padded, channels, e.data(), slope.data(),
                                           &losses[u], gradient.data() + u * channels);
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
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = rows.data()[i] * channels;
        adam_row(parameter.data() + at, first.data() + at, second.data() + at, gradient.data() + i * channels,
                 channels, corrected, static_cast<float>(beta1), static_cast<float>(beta2), correction2,
                 static_cast<float>(epsilon));
    }
}

// out = (1 - pull) features + pull * mean of the features of the row's neighbours.
template <int WIDTH>
void smooth(const float *features, const int32_t *neighbours, int64_t count, int64_t around, int64_t channels,
            float pull, float *out, int threads) {
    const int64_t width = WIDTH ? WIDTH : channels;
    const float share = pull / static_cast<float>(around);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; ++i) {
        float *sum = out + i * width;
        for (int64_t c = 0; c < width; ++c) sum[c] = 0;
        for (int64_t k = 0; k < around; ++k) {
            const float *row = features + neighbours[i * around + k] * width;
            for (int64_t c = 0; c < width; ++c) sum[c] += row[c];
        }
        for (int64_t c = 0; c < width; ++c) sum[c] = (1 - pull) * features[i * width + c] + share * sum[c];
    }
}

void smooth_over_neighbours(Array2<const float> features, Array2<const int32_t> neighbours, float pull,
                            Array2<float> out, int threads) {
    nb::gil_scoped_release release;
    const int64_t count = features.shape(0), channels = features.shape(1), around = neighbours.shape(1);
    switch (channels) {
        case 4: return smooth<4>(features.data(), neighbours.data(), count, around, channels, pull, out.data(), threads);
        case 8: return smooth<8>(features.data(), neighbours.data(), count, around, channels, pull, out.data(), threads);
        case 16: return smooth<16>(features.data(), neighbours.data(), count, around, channels, pull, out.data(), threads);
        default: return smooth<0>(features.data(), neighbours.data(), count, around, channels, pull, out.data(), threads);
    }
}

}  // namespace

void bind_lifting(nb::module_ &m) {
    m.def("lifting_contrastive", &contrastive<float>);
    m.def("lifting_contrastive", &contrastive<double>);
    m.def("lifting_adam_rows", &adam_rows);
    m.def("lifting_smooth", &smooth_over_neighbours);
}
