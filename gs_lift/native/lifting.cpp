// The steps of lifting that touch every pair of pixels or every Gaussian: the losses with their gradients,
// Adam on some rows, and smoothing over neighbours.
//
// Every output element is made by one thread in a fixed order: the same bytes for any number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "weights.h"

namespace {

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
    int64_t next = 0;
    for (; next + 4 <= others.channels; next += 4) {  // four at a time: a quarter of the loads and stores of slope
        const T *__restrict s0 = others.slow + next * count, *__restrict s1 = s0 + count, *__restrict s2 = s1 + count,
                            *__restrict s3 = s2 + count;
        const T f0 = fast[next], f1 = fast[next + 1], f2 = fast[next + 2], f3 = fast[next + 3];
        for (int64_t v = 0; v < count; ++v) {
            const T d0 = f0 - s0[v], d1 = f1 - s1[v], d2 = f2 - s2[v], d3 = f3 - s3[v];
            slope[v] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3;
        }
    }
    for (; next < others.channels; ++next) {
        const T *__restrict slow = others.slow + next * count;
        for (int64_t v = 0; v < count; ++v) slope[v] += (fast[next] - slow[v]) * (fast[next] - slow[v]);
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
        T lanes[LANES] = {};
        for (int64_t v = 0; v < count; v += LANES)
            for (int l = 0; l < LANES; ++l) lanes[l] += slope[v + l] * (fast[c] - slow[v + l]);
        T sum = 0;
        for (int l = 0; l < LANES; ++l) sum += lanes[l];
        gradient[c] = sum;
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

// The segments of fast and slow pixels as 0, 1, ..., and how many numbers that takes.
std::tuple<std::vector<int32_t>, std::vector<int32_t>, int64_t> number_segments(const Array1<const int64_t> &fast,
                                                                                const Array1<const int64_t> &slow) {
    std::vector<int64_t> names(fast.data(), fast.data() + fast.shape(0));
    names.insert(names.end(), slow.data(), slow.data() + slow.shape(0));
    const int64_t highest = names.empty() ? -1 : *std::max_element(names.begin(), names.end());
    // A training view's segments are numbered already; sorting is for those that are not.
    const bool numbered =
        names.empty() || (highest < 65536 && *std::min_element(names.begin(), names.end()) >= 0);
    if (!numbered) {
        std::sort(names.begin(), names.end());
        names.erase(std::unique(names.begin(), names.end()), names.end());
    }
    const auto number = [&](const Array1<const int64_t> &of) {
        std::vector<int32_t> numbers(of.shape(0));
        for (size_t i = 0; i < of.shape(0); ++i)
            numbers[i] = int32_t(numbered ? of.data()[i]
                                          : std::lower_bound(names.begin(), names.end(), of.data()[i]) - names.begin());
        return numbers;
    };
    return {number(fast), number(slow), numbered ? highest + 1 : int64_t(names.size())};
}

// Mean loss over the fast pixels that have a slow pixel of their segment (0 where none has); gradient [A D].
template <class T>
double contrastive(Array2<const T> fast, Array2<const T> slow, Array1<const int64_t> fast_names,
                   Array1<const int64_t> slow_names, Array1<const T> /* confidence */, Array2<T> gradient,
                   int threads) {
    nb::gil_scoped_release release;
    const auto [fast_segments, slow_segments, segment_count] = number_segments(fast_names, slow_names);
    const int64_t rows = fast.shape(0), others = slow.shape(0), channels = fast.shape(1);
    const int64_t padded = (others + LANES - 1) / LANES * LANES;
    std::vector<T> transposed(channels * padded, T(0)), live(padded, T(0)), losses(rows, T(0));
    std::vector<int32_t> segments(padded, 0);
    std::vector<char> counts(rows, 0);
    for (int64_t v = 0; v < others; ++v) {
        live[v] = 1;
        segments[v] = slow_segments[v];
        for (int64_t c = 0; c < channels; ++c) transposed[c * padded + v] = slow.data()[v * channels + c];
    }
    const Others<T> all{transposed.data(), segments.data(), live.data(), padded, channels};
#pragma omp parallel num_threads(threads) if (rows * padded * channels > WORTH_THREADS)
    {
        std::vector<T> e(padded), same(padded), slope(padded);
#pragma omp for schedule(static)
        for (int64_t u = 0; u < rows; ++u) {
            counts[u] = contrastive_row_of(fast.data() + u * channels, fast_segments[u], all, e.data(),
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

// Minus the mean, over the segments that both halves have, of the mean over its fast pixels of
// c exp(-|f - m|^2), m the mean of its slow ones; gradient [A D] by the fast embeddings.
template <class T>
double concentration(Array2<const T> fast, Array2<const T> slow, Array1<const int64_t> fast_names,
                     Array1<const int64_t> slow_names, Array1<const T> confidence, Array2<T> gradient,
                     int /* threads */) {
    nb::gil_scoped_release release;
    const auto [fast_segments, slow_segments, segments] = number_segments(fast_names, slow_names);
    const int64_t channels = int64_t(fast.shape(1)), rows = int64_t(fast.shape(0));
    std::vector<T> centers(segments * channels, T(0));
    std::vector<int64_t> in_fast(segments, 0), in_slow(segments, 0);
    for (const int32_t segment : fast_segments) ++in_fast[segment];
    for (size_t v = 0; v < slow_segments.size(); ++v) {
        T *center = centers.data() + slow_segments[v] * channels;
        for (int64_t c = 0; c < channels; ++c) center[c] += slow.data()[v * channels + c];
        ++in_slow[slow_segments[v]];
    }
    int64_t shared = 0;
    for (int64_t s = 0; s < segments; ++s) {
        shared += in_fast[s] && in_slow[s];
        for (int64_t c = 0; c < channels; ++c) centers[s * channels + c] /= T(std::max<int64_t>(in_slow[s], 1));
    }
    double loss = 0;
    for (int64_t u = 0; u < rows; ++u) {
        const int32_t segment = fast_segments[u];
        const T *own = fast.data() + u * channels, *center = centers.data() + segment * channels;
        T *slope = gradient.data() + u * channels;
        // A mean over segments of means over pixels is a sum with one weight per pixel.
        const T share = in_slow[segment] ? confidence.data()[u] / T(in_fast[segment] * shared) : T(0);
        T squared = 0;
        for (int64_t c = 0; c < channels; ++c) squared += (own[c] - center[c]) * (own[c] - center[c]);
        const T kernel = share * std::exp(-squared);
        loss -= double(kernel);
        for (int64_t c = 0; c < channels; ++c) slope[c] = 2 * kernel * (own[c] - center[c]);
    }
    return loss;
}

WIDEST void exponentials(float *values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = exponential(std::max(values[i], -80.0f));
}
void exponentials(double *values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = std::exp(values[i]);
}

// Mean over the pixels of -c log p(class), p from the blended class probabilities softmax(logits), renormalised, and
// its gradient by the logits [N S]: `seen` gets the Gaussians that any pixel sees, ascending, and the first rows of
// `gradient` theirs. Returns the loss and how many they are. All in one thread: a step has some 20,000 entries.
template <class T, class V>
std::pair<double, int64_t> class_loss(Array1<const int64_t> indptr, std::optional<Index> index,
                                      Array1<const int32_t> ids, Array1<const V> values, Array2<const T> logits,
                                      Array1<const int64_t> classes, Array1<const T> confidence,
                                      Array1<int64_t> seen, Array2<T> gradient) {
    nb::gil_scoped_release release;
    const Rows<V> rows = rows_of(indptr, index, ids, values);
    const int64_t columns = int64_t(logits.shape(0)), width = int64_t(logits.shape(1)), pixels = rows.count;
    static thread_local std::vector<int32_t> place;  // of a Gaussian among the seen ones
    place.assign(columns, -1);
    for (int64_t p = 0; p < pixels; ++p) {
        rows.prefetch(p);
        for (int64_t e = rows.first(p), last = rows.last(p); e < last; ++e) place[rows.ids[e]] = 0;
    }
    int64_t count = 0;
    for (int64_t c = 0; c < columns; ++c) {
        if (place[c] < 0) continue;
        seen.data()[count] = c;
        place[c] = int32_t(count++);
    }
    static thread_local std::vector<T> probability, received;
    probability.resize(count * width);
    received.assign(count * width, T(0));
    for (int64_t g = 0; g < count; ++g) {
        const T *row = logits.data() + seen.data()[g] * width;
        T *out = probability.data() + g * width;
        const T highest = *std::max_element(row, row + width);
        for (int64_t k = 0; k < width; ++k) out[k] = row[k] - highest;
    }
    exponentials(probability.data(), count * width);
    for (int64_t g = 0; g < count; ++g) {
        T *out = probability.data() + g * width, sum = 0;
        for (int64_t k = 0; k < width; ++k) sum += out[k];
        const T share = T(1) / sum;
        for (int64_t k = 0; k < width; ++k) out[k] *= share;
    }
    double loss = 0;
    for (int64_t p = 0; p < pixels; ++p) {
        const int64_t own = classes.data()[p], first = rows.first(p), last = rows.last(p);
        T blended = 0, total = T(1e-8);  // softmax sums to 1, so the sum over the classes is that of the weights
        for (int64_t e = first; e < last; ++e) {
            const T weight = to_float(rows.values[e]);
            blended += weight * probability[place[rows.ids[e]] * width + own];
            total += weight;
        }
        const T certain = blended / total + T(1e-8);
        loss -= double(confidence.data()[p]) * std::log(double(certain));
        const T slope = -confidence.data()[p] / (certain * total * T(pixels));
        for (int64_t e = first; e < last; ++e)
            received[place[rows.ids[e]] * width + own] += slope * to_float(rows.values[e]);
    }
    for (int64_t g = 0; g < count; ++g) {
        const T *q = probability.data() + g * width, *r = received.data() + g * width;
        T mean = 0;
        for (int64_t k = 0; k < width; ++k) mean += q[k] * r[k];
        for (int64_t k = 0; k < width; ++k) gradient.data()[g * width + k] = q[k] * (r[k] - mean);
    }
    return {loss / double(pixels), count};
}

// Adam (Kingma and Ba, algorithm 1) on the rows that a step saw; the others and their moments stay as they are.
struct Adam {
    float *parameter, *first, *second;
    int64_t channels;
    float rate, keep1, take1, keep2, take2, correction2, epsilon;

    Adam(Array2<float> &parameter_, Array2<float> &first_, Array2<float> &second_, int64_t step, double rate_,
         double beta1, double beta2, double epsilon_)
        : parameter(parameter_.data()), first(first_.data()), second(second_.data()),
          channels(int64_t(parameter_.shape(1))), rate(float(rate_ / (1 - std::pow(beta1, double(step))))),
          keep1(float(beta1)), take1(float(1 - beta1)), keep2(float(beta2)), take2(float(1 - beta2)),
          correction2(float(1 / (1 - std::pow(beta2, double(step))))), epsilon(float(epsilon_)) {}
};

INLINE void adam_row(const Adam &adam, int64_t at, const float *__restrict gradient) {
    float *__restrict parameter = adam.parameter + at, *__restrict first = adam.first + at,
                      *__restrict second = adam.second + at;
    for (int64_t c = 0; c < adam.channels; ++c) {
        first[c] = adam.keep1 * first[c] + adam.take1 * gradient[c];
        second[c] = adam.keep2 * second[c] + adam.take2 * gradient[c] * gradient[c];
        parameter[c] -= adam.rate * first[c] / (std::sqrt(second[c] * adam.correction2) + adam.epsilon);
    }
}

// What a step's pixels give to the Gaussians, in PARTS sums of their own: the pixels that give anything are cut into
// as many runs, however many threads there are, so that their number changes nothing. All zeros between calls.
constexpr int PARTS = 2;

struct Received {
    float *sums;                 // [PARTS N D]
    std::vector<uint8_t> &seen;  // [PARTS + 1, N]: those with sums in each part, and those of pixels that give nothing
    int64_t columns, channels;
};

template <class V>
INLINE void mark(const Rows<V> &rows, int64_t p, uint8_t *__restrict seen) {
    for (int64_t e = rows.first(p), last = rows.last(p); e < last; ++e) seen[rows.ids[e]] = 1;
}

template <class V>
INLINE void receive(const Rows<V> &rows, const int32_t *giving, int64_t count, const float *pixels,
                    const Received &received, int part) {
    uint8_t *seen = received.seen.data() + part * received.columns;
    float *sums = received.sums + part * received.columns * received.channels;
    for (int64_t i = 0; i < count; ++i) {
        if (i + 2 < count) prefetch_features(rows, giving[i + 2], sums, received.channels);
        mark(rows, giving[i], seen);
        scatter_row(rows, giving[i], pixels, received.channels, sums);
    }
}

WIDEST void receive_of(const Rows<float> &rows, const int32_t *giving, int64_t count, const float *pixels,
                       const Received &received, int part) {
    receive(rows, giving, count, pixels, received, part);
}
WIDEST void receive_of(const Rows<Half> &rows, const int32_t *giving, int64_t count, const float *pixels,
                       const Received &received, int part) {
    receive(rows, giving, count, pixels, received, part);
}

// Adam on the Gaussians from..to that were seen, and zeros where their gradients were.
WIDEST void adam_received(const Adam &adam, const Received &received, int64_t from, int64_t to,
                          float *__restrict gradient) {
    static_assert(PARTS == 2);
    const int64_t columns = received.columns;
    uint8_t *one = received.seen.data(), *other = one + columns, *none = other + columns;
    float *sums = received.sums, *other_sums = sums + columns * adam.channels;
    for (int64_t g = from; g < to; ++g) {
        if (!(one[g] | other[g] | none[g])) continue;
        const int64_t at = g * adam.channels;
        for (int64_t c = 0; c < adam.channels; ++c) gradient[c] = sums[at + c];
        if (other[g])
            for (int64_t c = 0; c < adam.channels; ++c) {
                gradient[c] += other_sums[at + c];
                other_sums[at + c] = 0;
            }
        for (int64_t c = 0; c < adam.channels; ++c) sums[at + c] = 0;
        adam_row(adam, at, gradient);
        one[g] = other[g] = none[g] = 0;
    }
}

// In the order of the matrix's rows: pixels near each other see the same Gaussians, so that the parts have few in
// common and sums stay in the cache. Stable.
template <class V>
void sort_by_place(const Rows<V> &rows, std::vector<int32_t> &giving) {
    int64_t highest = 0;
    for (const int32_t p : giving) highest = std::max(highest, rows.at(p));
    int shift = 0;
    while ((highest >> shift) >= 1024) ++shift;
    int32_t starts[1025] = {};
    for (const int32_t p : giving) ++starts[(rows.at(p) >> shift) + 1];
    for (int place = 0; place < 1024; ++place) starts[place + 1] += starts[place];
    std::vector<int32_t> sorted(giving.size());
    for (const int32_t p : giving) sorted[starts[rows.at(p) >> shift]++] = p;
    for (size_t i = 1; i < sorted.size(); ++i) {  // few stand in the wrong place now, and not far from it
        const int32_t p = sorted[i];
        size_t to = i;
        for (; to > 0 && rows.at(sorted[to - 1]) > rows.at(p); --to) sorted[to] = sorted[to - 1];
        sorted[to] = p;
    }
    giving.swap(sorted);
}

// Waking a thread for fewer multiplications than this costs more than it saves, and far more on a busy machine.
constexpr int64_t WORTH_TWO = 1 << 19;

// One step of Adam with the gradient W^T @ pixels, in place; `sums` [PARTS N D] holds zeros before and after.
template <class V>
void adam_blended(Array1<const int64_t> indptr, std::optional<Index> index, Array1<const int32_t> ids,
                  Array1<const V> values, Array2<const float> pixels, Array2<float> parameter, Array2<float> first,
                  Array2<float> second, nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu> sums,
                  int64_t step, double rate, double beta1, double beta2,
                  double epsilon, int threads) {
    const Adam adam(parameter, first, second, step, rate, beta1, beta2, epsilon);
    const int64_t columns = int64_t(parameter.shape(0));
    const Rows<V> rows = rows_of(indptr, index, ids, values);
    for (int axis = 0; axis < 2; ++axis)
        if (first.shape(axis) != parameter.shape(axis) || second.shape(axis) != parameter.shape(axis) ||
            sums.shape(axis + 1) != parameter.shape(axis))
            throw std::invalid_argument("lifting_adam_blended: parameter, moments and sums differ in shape");
    if (int64_t(pixels.shape(0)) != rows.count || pixels.shape(1) != parameter.shape(1) || sums.shape(0) != PARTS)
        throw std::invalid_argument("lifting_adam_blended: a gradient for each row and PARTS sums wanted");
    nb::gil_scoped_release release;
    static thread_local std::vector<uint8_t> seen;
    if (seen.size() < size_t((PARTS + 1) * columns)) seen.resize(size_t((PARTS + 1) * columns), 0);
    const Received received{sums.data(), seen, columns, adam.channels};
    std::vector<int32_t> giving;
    for (int64_t p = 0; p < rows.count; ++p) {
        const float *row = pixels.data() + p * adam.channels;
        if (std::any_of(row, row + adam.channels, [](float x) { return x != 0; }))
            giving.push_back(int32_t(p));
        else
            mark(rows, p, seen.data() + PARTS * columns);
    }
    sort_by_place(rows, giving);
    const int64_t count = int64_t(giving.size()), blocks = (columns + 1023) / 1024;
    const bool worth_it = threads > 1 && rows.entries() * adam.channels > WORTH_TWO;
#pragma omp parallel num_threads(threads) if (worth_it)
    {
        std::vector<float> scratch(adam.channels);
#pragma omp for schedule(static)
        for (int part = 0; part < PARTS; ++part) {
            const int64_t from = count * part / PARTS, to = count * (part + 1) / PARTS;
            receive_of(rows, giving.data() + from, to - from, pixels.data(), received, part);
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t block = 0; block < blocks; ++block)
            adam_received(adam, received, block * 1024, std::min(block * 1024 + 1024, columns),
                          scratch.data());
    }
}

WIDEST void adam_rows_of(const Adam &adam, const int64_t *rows, int64_t count, const float *gradient) {
    for (int64_t i = 0; i < count; ++i)
        adam_row(adam, rows[i] * adam.channels, gradient + i * adam.channels);
}

// One step of Adam with a gradient [T D] for the given rows, in place.
void adam_rows(Array2<float> parameter, Array2<float> first, Array2<float> second, Array1<const int64_t> rows,
               Array2<const float> gradient, int64_t step, double rate, double beta1, double beta2, double epsilon) {
    const Adam adam(parameter, first, second, step, rate, beta1, beta2, epsilon);
    nb::gil_scoped_release release;
    adam_rows_of(adam, rows.data(), int64_t(rows.shape(0)), gradient.data());
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

// out = (1 - pull) features + pull * mean of the features of the row's neighbours, for the rows from..to.
WIDEST void smooth_rows(const float *features, const int32_t *neighbours, int64_t from, int64_t to, int64_t around,
                        int64_t channels, float pull, float *out) {
    const float share = pull / static_cast<float>(around), keep = 1 - pull;
    by_channels<float>(channels, [&](auto zeros, int64_t c) __attribute__((always_inline)) {
        for (int64_t i = from; i < to; ++i) {
            auto sum = zeros, result = zeros;
            for (int64_t k = i * around; k < (i + 1) * around; ++k)
                sum.add(1.0f, features + neighbours[k] * channels + c);
            result.add(keep, features + i * channels + c);
            sum.add_to(share, result);
            result.store(out + i * channels + c);
        }
    });
}

void smooth(Array2<const float> features, Array2<const int32_t> neighbours, float pull, Array2<float> out,
            int threads) {
    nb::gil_scoped_release release;
    const int64_t count = features.shape(0), channels = features.shape(1), around = neighbours.shape(1);
    constexpr int64_t BLOCK = 1024;
#pragma omp parallel for schedule(static) num_threads(threads) if (count * around * channels > WORTH_THREADS)
    for (int64_t i = 0; i < count; i += BLOCK)
        smooth_rows(features.data(), neighbours.data(), i, std::min(i + BLOCK, count), around, channels, pull,
                    out.data());
}

}  // namespace

void bind_lifting(nb::module_ &m) {
    m.attr("LIFTING_PARTS") = PARTS;
    m.def("lifting_contrastive", &contrastive<float>);
    m.def("lifting_contrastive", &contrastive<double>);
    m.def("lifting_concentration", &concentration<float>);
    m.def("lifting_concentration", &concentration<double>);
    m.def("lifting_class_loss", &class_loss<float, float>);
    m.def("lifting_class_loss", &class_loss<float, Half>);
    m.def("lifting_class_loss", &class_loss<double, float>);
    m.def("lifting_class_loss", &class_loss<double, Half>);
    m.def("lifting_adam_blended", &adam_blended<float>);
    m.def("lifting_adam_blended", &adam_blended<Half>);
    m.def("lifting_adam_rows", &adam_rows);
    m.def("lifting_follow", &follow);
    m.def("lifting_smooth", &smooth);
}
