// Adam for other kernels.
#pragma once
#include <cstdint>
#include <vector>

struct Decay {
    float keep1, take1, keep2, take2;  // beta and 1 - beta, the latter rounded once: 1 - 0.999f is off by 1e-5
    float unbias2, epsilon;            // unbias2: 1 / sqrt(1 - beta2^step)
};

Decay decay_of(int64_t step, double beta1, double beta2, double epsilon);

// The rates of `rows` rows of `width` values, one after the other, over 1 - beta1^step: a block of rows is one flat
// loop, as rows are too short for vectors of their own. The first `head` values of a row have a rate of their own.
std::vector<float> row_rates(int64_t rows, int64_t width, double rate, int64_t head, double head_rate, int64_t step,
                             double beta1);

// One step on `count` values in place, with as many rates.
void adam_update(float *value, const float *gradient, float *mean, float *square, const float *rates, int64_t count,
                 const Decay &decay);
