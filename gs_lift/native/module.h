// What every kernel file shares: nanobind and the array types that cross the border.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>

namespace nb = nanobind;

void bind_rasterizer(nb::module_ &m);
void bind_image_loss(nb::module_ &m);
void bind_optimizer(nb::module_ &m);
void bind_weights(nb::module_ &m);
void bind_clustering(nb::module_ &m);
void bind_neighbours(nb::module_ &m);
void bind_lifting(nb::module_ &m);
void bind_fit_step(nb::module_ &m);
void bind_agreement(nb::module_ &m);
void bind_evidence(nb::module_ &m);
