// Sparse blending weights: W @ E and its gradient.
#include "module.h"

void bind_weights(nb::module_ &) {}
