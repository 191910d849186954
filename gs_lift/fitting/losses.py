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

WINDOW, SIGMA = 11, 1.5
"""Width of SSIM's window and its standard deviation, in pixels; gs_lift/native/image_loss.cpp holds the same."""

C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants for images in 0..1 (Wang et al. 2004)."""


def photometric_loss(
    colors: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"], ssim_weight: float = 0.2
) -> Float[Tensor, ""]:
    """(1 - ssim_weight) L1 + ssim_weight (1 - SSIM) of two images in 0..1, differentiable by `colors` only.

    On the CPU one native pass gives value and gradient, the same bytes for any number of threads; on other devices
    PyTorch's convolutions do it.
    """
    if colors.device.type == "cpu":
        return _Photometric.apply(colors, target, ssim_weight)
    return _photometric_by_convolution(colors, target.detach(), ssim_weight)


class _Photometric(torch.autograd.Function):
    """Value and gradient are made together: the backward pass only scales."""

    @staticmethod
    def forward(ctx: Any, colors: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
        from gs_lift import _native

        colors, target = colors.detach().contiguous(), target.detach().to(colors).contiguous()
        gradient = torch.empty_like(colors)
        value = _native.photometric(colors, target, gradient, ssim_weight)
        ctx.save_for_backward(gradient)
        return colors.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_output[0], None, None


def _photometric_by_convolution(
    colors: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"], ssim_weight: float
) -> Float[Tensor, ""]:
    """The same loss through autograd, for devices without the native kernel."""
    offsets = torch.arange(WINDOW, dtype=colors.dtype, device=colors.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def smooth(planes: Float[Tensor, "P 1 H W"]) -> Float[Tensor, "P 1 H W"]:
        across = torch.nn.functional.conv2d(planes, window[None, None, None, :], padding=(0, WINDOW // 2))
        return torch.nn.functional.conv2d(across, window[None, None, :, None], padding=(WINDOW // 2, 0))

    x, y = colors.permute(2, 0, 1)[:, None], target.permute(2, 0, 1)[:, None]
    mean_x, mean_y, square_x, square_y, product = smooth(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))
    return (1 - ssim_weight) * (x - y).abs().mean() + ssim_weight * (1 - similarity.mean())
