"""L1 + SSIM against a dense 11 x 11 convolution in float64, value and gradient."""

import math

import pytest
import torch
from torch import Tensor

from gs_lift import _native
from gs_lift.fitting.losses import photometric_loss


def oracle(x: Tensor, y: Tensor, ssim_weight: float) -> Tensor:
    """Every window as one sum of 121 products, zeros outside the image, float64, differentiated by autograd."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    squares = offsets[:, None] ** 2 + offsets[None, :] ** 2
    window = torch.exp(-squares / (2 * 1.5**2))
    window = window / window.sum()

    def mean(image: Tensor) -> Tensor:
        patches = torch.nn.functional.unfold(image.permute(2, 0, 1)[:, None], 11, padding=5)
        return (patches * window.reshape(1, -1, 1)).sum(dim=1)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    luminance = (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
    structure = (2 * vxy + 9e-4) / (vx + vy + 9e-4)
    return (1 - ssim_weight) * (x - y).abs().mean() + ssim_weight * (1 - (luminance * structure).mean())


def images(*shape: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return (target + noise).requires_grad_(), target


@pytest.mark.parametrize("shape", [(33, 47, 3), (16, 16, 1), (11, 5, 3), (4, 30, 2), (1, 1, 3)])
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_value_and_gradient_are_those_of_the_dense_convolution(
    shape: tuple[int, ...], ssim_weight: float
) -> None:
    x, y = images(*shape, seed=1)
    loss, wanted = photometric_loss(x, y, ssim_weight), oracle(x, y, ssim_weight)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(loss, x)
    (wanted_gradient,) = torch.autograd.grad(wanted, x)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-9, atol=1e-14)


def test_the_gradient_agrees_with_finite_differences() -> None:
    x, y = images(7, 9, 2, seed=2)
    assert torch.autograd.gradcheck(lambda image: photometric_loss(image, y, 0.5), x, eps=1e-6, atol=1e-7)


def test_float32_differs_from_float64_by_rounding_only() -> None:
    x, y = images(64, 64, 3, seed=3)
    x32 = x.detach().float().requires_grad_()
    loss = photometric_loss(x32, y.float())
    torch.testing.assert_close(loss.double(), oracle(x, y, 0.2), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss, x32)
    (wanted,) = torch.autograd.grad(oracle(x, y, 0.2), x)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_equal_images_have_no_loss_and_no_gradient() -> None:
    x = images(20, 20, 3, seed=4)[0]
    loss = photometric_loss(x, x.detach())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-15
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-12


def test_outside_the_image_both_images_are_black() -> None:
    # A single pixel, black against white: the window sees the pixel with its central weight and zeros around it.
    weight = 1 / sum(math.exp(-k * k / (2 * 1.5**2)) for k in range(-5, 6)) ** 2
    ssim = 1e-4 / (weight**2 + 1e-4) * 9e-4 / (weight - weight**2 + 9e-4)
    black, white = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    assert float(photometric_loss(black, white, 0.25)) == pytest.approx(0.75 + 0.25 * (1 - ssim), rel=1e-12)


def test_the_backward_pass_scales_with_what_comes_from_above() -> None:
    x, y = images(12, 12, 3, seed=5)
    (once,) = torch.autograd.grad(photometric_loss(x, y), x)
    (thrice,) = torch.autograd.grad(3 * photometric_loss(x, y), x)
    torch.testing.assert_close(thrice, 3 * once)


def test_threads_change_no_byte() -> None:
    x, y = (image.detach().float() for image in images(70, 41, 3, seed=6))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            image = x.clone().requires_grad_()
            loss = photometric_loss(image, y)
            loss.backward()
            results.append((float(loss.detach()), image.grad.numpy().tobytes()))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_strided_images_are_taken_as_they_look() -> None:
    x, y = images(10, 14, 3, seed=7)
    flipped = photometric_loss(x.flip(1).transpose(0, 1), y.flip(1).transpose(0, 1))
    torch.testing.assert_close(flipped, photometric_loss(x, y))


def test_the_kernel_refuses_images_of_different_sizes() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        _native.photometric(torch.zeros(4, 5, 3), torch.zeros(5, 4, 3), torch.zeros(4, 5, 3), 0.2, 1)
