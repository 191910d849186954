// Projection, tile lists and blending of 3D Gaussians.
#include "module.h"

void bind_rasterizer(nb::module_ &) {}
