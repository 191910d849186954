"""The photometric loss of fitting: L1 + SSIM.

Notation: x rendered, y target, w the share of SSIM; loss = (1 - w) mean |x - y| + w (1 - mean SSIM(x, y)), as in 3D
Gaussian Splatting (section 5.1, w = 0.2). SSIM has the usual 11 x 11 Gaussian window with sigma = 1.5 pixels and the
constants 0.01^2 and 0.03^2, channel by channel. The window sees zeros outside the image, in both images, as 3DGS's
zero-padded convolution does: pixels near the border count, with a window that is partly dark.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.metrics import ssim
from gs_lift.threads import kernel_threads


def photometric_loss(
    colors: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"], ssim_weight: float = 0.2
) -> Float[Tensor, ""]:
    """(1 - ssim_weight) L1 + ssim_weight (1 - SSIM) of two images in 0..1, differentiable by `colors` only.

    On the CPU one native pass gives value and gradient, the same bytes for any number of threads; on other devices
    PyTorch's convolutions do it.
    """
    if colors.device.type == "cpu":
        return _Photometric.apply(colors, target, ssim_weight)
    target = target.detach()
    return (1 - ssim_weight) * (colors - target).abs().mean() + ssim_weight * (1 - ssim(colors, target))


class _Photometric(torch.autograd.Function):
    """Value and gradient are made together: the backward pass only scales."""

    @staticmethod
    def forward(ctx: Any, colors: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
        from gs_lift import _native

        colors, target = colors.detach().contiguous(), target.detach().to(colors).contiguous()
        gradient = torch.empty_like(colors)
        value = _native.photometric(colors, target, gradient, ssim_weight, kernel_threads())
        ctx.save_for_backward(gradient)
        return colors.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_output[0], None, None
