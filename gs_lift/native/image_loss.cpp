// L1 + SSIM with its gradient.
#include "module.h"

void bind_image_loss(nb::module_ &) {}
