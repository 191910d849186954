// Adam on rows: one pass over a parameter, its gradient and its two moments.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "module.h"
#include "optimizer.h"

// As in image_loss.cpp: the widest that the processor has.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

WIDEST void adam_update(float *value, const float *gradient, float *mean, float *square, const float *rates,
                        int64_t count, const Decay &decay) {
    const float keep1 = decay.keep1, keep2 = decay.keep2, take1 = decay.take1, take2 = decay.take2;
    const float unbias2 = decay.unbias2, epsilon = decay.epsilon;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i];
        const float m = keep1 * mean[i] + take1 * g, s = keep2 * square[i] + take2 * g * g;
        mean[i] = m;
        square[i] = s;
        value[i] -= rates[i] * m / (std::sqrt(s) * unbias2 + epsilon);
    }
}

Decay decay_of(int64_t step, double beta1, double beta2, double epsilon) {
    return {float(beta1), float(1 - beta1), float(beta2), float(1 - beta2),
            float(1 / std::sqrt(1 - std::pow(beta2, double(step)))), float(epsilon)};
}

std::vector<float> row_rates(int64_t rows, int64_t width, double rate, int64_t head, double head_rate, int64_t step,
                             double beta1) {
    std::vector<float> rates(rows * width);
    const double unbias1 = 1 / (1 - std::pow(beta1, double(step)));
    for (int64_t i = 0; i < rows * width; i++) rates[i] = float((i % width < head ? head_rate : rate) * unbias1);
    return rates;
}

namespace {

constexpr int64_t BLOCK = 64;  // rows

using Rows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Gradient = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void adam(Rows value, Gradient gradient, Rows mean, Rows square, int64_t step, double rate, double head_rate,
          int64_t head, double beta1, double beta2, double epsilon, int threads) {
    const int64_t rows = value.shape(0), width = value.shape(1);
    for (int axis = 0; axis < 2; axis++)
        if (gradient.shape(axis) != value.shape(axis) || mean.shape(axis) != value.shape(axis) ||
            square.shape(axis) != value.shape(axis))
            throw std::invalid_argument("adam: value, gradient and moments differ in shape");
    if (step < 1 || head < 0 || head > width) throw std::invalid_argument("adam: step < 1 or head outside the row");
    const Decay decay = decay_of(step, beta1, beta2, epsilon);
    const std::vector<float> rates = row_rates(BLOCK, width, rate, head, head_rate, step, beta1);
    float *v = value.data(), *m = mean.data(), *s = square.data();
    const float *g = gradient.data();
    nb::gil_scoped_release release;
#pragma omp parallel for schedule(static) num_threads(threads < 1 ? 1 : threads)
    for (int64_t row = 0; row < rows; row += BLOCK) {
        const int64_t count = std::min(BLOCK, rows - row) * width, at = row * width;
        adam_update(v + at, g + at, m + at, s + at, rates.data(), count, decay);
    }
}

}  // namespace

void bind_optimizer(nb::module_ &m) {
    m.def("adam", &adam, nb::arg("value").noconvert(), nb::arg("gradient").noconvert(), nb::arg("mean").noconvert(),
          nb::arg("square").noconvert(), nb::arg("step"), nb::arg("rate"), nb::arg("head_rate"), nb::arg("head"),
          nb::arg("beta1"), nb::arg("beta2"), nb::arg("epsilon"),
          nb::arg("threads"),
          "One Adam step in place on [N W] rows; the first `head` values of a row have a rate of their own.");
}
