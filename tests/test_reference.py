"""The oracle against gsplat's own torch code, gsplat's kernel written as loops, and finite differences."""

import math
from typing import Any

import pytest
import torch
from random_data import random_camera, random_gaussians, uniform
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.rendering import rasterize, reference
from gs_lift.scene import Camera


def cameras_of(*cameras: Camera) -> dict[str, Any]:
    return {
        "viewmats": torch.stack([camera.viewmat for camera in cameras]),
        "Ks": torch.stack([camera.K for camera in cameras]),
        "width": cameras[0].width,
        "height": cameras[0].height,
    }


def test_covariances_are_gsplats() -> None:
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci

    gaussians = random_gaussians(0, 100)
    wanted, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    torch.testing.assert_close(reference.covariances(gaussians.quats, gaussians.scales), wanted)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_are_gsplats(degree: int) -> None:
    from gsplat.cuda._torch_impl import _spherical_harmonics

    gaussians, camera = random_gaussians(1, 100, sh_degree=3), random_camera(1, 8, 8)
    wanted = _spherical_harmonics(degree, gaussians.means - camera.position, gaussians.sh)
    got = reference.sh_colors(degree, gaussians.means, gaussians.sh, camera.viewmat[None])
    assert (wanted + 0.5 < 0).any()
    torch.testing.assert_close(got[0], (wanted + 0.5).clamp(min=0), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("spread", "distance"), [(1.0, 3.0), (4.0, 0.5)])
@pytest.mark.parametrize("eps2d", [0.3, 1.0])
def test_projections_and_their_gradients_are_gsplats(spread: float, distance: float, eps2d: float) -> None:
    from gsplat.cuda._torch_impl import _fully_fused_projection

    gaussians = random_gaussians(2, 200, spread=spread)
    cameras = cameras_of(*[random_camera(seed, 37, 53, distance=distance) for seed in (2, 3)])

    def ours(means: Tensor, covars: Tensor) -> tuple[Tensor, list[Tensor]]:
        sizes = (*cameras.values(), 0.01, 1e10, eps2d)
        projection = reference.project(means, covars, torch.ones(200).double(), *sizes, antialiased=True)
        return projection.radii, [
            projection.means2d,
            projection.depths,
            projection.conics,
            projection.opacities,
        ]

    def theirs(means: Tensor, covars: Tensor) -> tuple[Tensor, list[Tensor]]:
        radii, means2d, depths, conics, compensations = _fully_fused_projection(
            means, covars, **cameras, eps2d=eps2d, calc_compensations=True
        )
        assert compensations is not None
        return radii, [means2d, depths, conics, compensations]

    results = []
    seen = torch.zeros(0)
    for project in (ours, theirs):
        leaves = [gaussians.means, gaussians.quats, gaussians.scales]
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        radii, outputs = project(leaves[0], reference.covariances(*leaves[1:]))
        if project is ours:
            seen = (radii > 0).all(dim=-1)
            assert seen.sum() > 50
        generator = torch.Generator().manual_seed(4)
        outputs = [output[seen] for output in outputs]
        loss = sum((value * torch.randn(value.shape, generator=generator)).sum() for value in outputs)
        results.append((radii[seen], outputs, torch.autograd.grad(loss, leaves)))
    (radii, outputs, gradients), (their_radii, their_outputs, their_gradients) = results
    for got, wanted in zip([*outputs, *gradients], [*their_outputs, *their_gradients], strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-6)
    # Theirs are ceil(3.33 s); ours end where alpha is 1/255, as the CUDA kernel's do.
    assert (radii <= their_radii).all()


def test_radii_end_where_alpha_does() -> None:
    """One round Gaussian straight ahead: s = 10 px x scale / depth, in pixels."""
    K = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]], dtype=torch.float64)[None]
    for opacity in (1.0, 0.5, 0.05, 1 / 254):
        projection = reference.project(
            torch.tensor([[0.0, 0, 2]]).double(),
            torch.eye(3).double()[None] * 0.2**2,
            torch.tensor([opacity]).double(),
            torch.eye(4).double()[None],
            K,
            100,
            100,
            near_plane=0.01,
            far_plane=1e10,
            eps2d=0.3,
            antialiased=False,
        )
        deviation = math.sqrt((100 * 0.2 / 2) ** 2 + 0.3)
        wanted = math.ceil(min(3.33, math.sqrt(2 * math.log(opacity * 255))) * deviation)
        assert projection.radii.tolist() == [[[wanted, wanted]]]


def kernel_as_loops(
    info: dict[str, Any], values: Tensor, background: Tensor | None, camera: int
) -> tuple[Tensor, Tensor]:
    """gsplat 1.5.3's forward kernel, pixel by pixel: skip, clamp and exclusive end in its order."""
    means2d, conics = info["means2d"][camera], info["conics"][camera]
    opacities, depths, radii = info["opacities"][camera], info["depths"][camera], info["radii"][camera]
    order = [i for i in depths.argsort(stable=True).tolist() if (radii[i] > 0).all()]
    colors = torch.zeros(info["height"], info["width"], values.shape[-1], dtype=torch.float64)
    alphas = torch.zeros(info["height"], info["width"], dtype=torch.float64)
    for row in range(info["height"]):
        for column in range(info["width"]):
            T = 1.0
            for i in order:
                dx, dy = float(means2d[i, 0]) - column - 0.5, float(means2d[i, 1]) - row - 0.5
                xx, xy, yy = conics[i].tolist()
                sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                alpha = min(0.999, float(opacities[i]) * math.exp(-sigma))
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if T * (1 - alpha) <= 1e-4:
                    break
                colors[row, column] += values[i] * alpha * T
                T *= 1 - alpha
            alphas[row, column] = 1 - T
            if background is not None:
                colors[row, column] += T * background
    return colors, alphas


@pytest.mark.parametrize("opacities", [(0.05, 0.6), (0.9, 1.0)])
@pytest.mark.parametrize("with_background", [False, True])
def test_blending_is_the_kernel_written_as_loops(
    opacities: tuple[float, float], with_background: bool
) -> None:
    gaussians = random_gaussians(5, 40, opacities=opacities, scales=(0.1, 0.6))
    values = uniform(torch.Generator().manual_seed(5), 40, 2)
    backgrounds = torch.tensor([[0.2, 0.7], [0.9, 0.1]], dtype=torch.float64) if with_background else None
    images, alphas, info = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        values,
        **cameras_of(random_camera(5, 7, 9), random_camera(6, 7, 9)),
        backgrounds=backgrounds,
        backend="reference",
    )
    if opacities[0] == 0.9:
        assert (alphas > 0.999).any(), "no pixel ends early"
    for camera in range(2):
        background = None if backgrounds is None else backgrounds[camera]
        wanted, wanted_alphas = kernel_as_loops(info, values, background, camera)
        torch.testing.assert_close(images[camera], wanted)
        torch.testing.assert_close(alphas[camera, ..., 0], wanted_alphas)


@pytest.mark.parametrize(("render_mode", "rasterize_mode"), [("RGB", "classic"), ("RGB+ED", "antialiased")])
def test_gradients_are_those_of_finite_differences(render_mode: str, rasterize_mode: str) -> None:
    gaussians: Gaussians = random_gaussians(7, 3, spread=0.3, scales=(0.1, 0.4), opacities=(0.4, 0.8))
    cameras = cameras_of(random_camera(7, 5, 4))
    leaves = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh]
    background = torch.tensor([[0.2, 0.5, 0.8]], dtype=torch.float64)

    def rendered(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        images, alphas, _ = rasterize(
            *leaves[:5],
            **cameras,
            sh_degree=1,
            backgrounds=leaves[5],
            render_mode=render_mode,
            rasterize_mode=rasterize_mode,
            backend="reference",
        )
        return images, alphas

    inputs = [leaf.detach().clone().requires_grad_() for leaf in (*leaves, background)]
    assert torch.autograd.gradcheck(rendered, inputs, eps=1e-7, atol=1e-5)


def test_absgrad_is_the_sum_of_each_pixels_absolute_gradient() -> None:
    gaussians, camera = random_gaussians(8, 10), random_camera(8, 5, 4)
    loads = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    def gradient(pixels: list[int], absgrad: bool) -> Tensor:
        means = gaussians.means.clone().requires_grad_()
        leaves = (means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
        images, _, info = rasterize(
            *leaves, **cameras_of(camera), sh_degree=1, absgrad=absgrad, backend="reference"
        )
        info["means2d"].retain_grad()
        (images[0] * loads).reshape(20, 3)[pixels].sum().backward()
        return info["means2d"].absgrad if absgrad else info["means2d"].grad

    wanted = torch.stack([gradient([pixel], absgrad=False).abs() for pixel in range(20)]).sum(dim=0)
    torch.testing.assert_close(gradient(list(range(20)), absgrad=True), wanted)
    assert (wanted > gradient(list(range(20)), absgrad=False).abs() + 1e-6).any()


def test_chunks_of_pixels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, cameras = random_gaussians(9, 30), cameras_of(random_camera(9, 13, 7))
    leaves = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.means)
    whole, _, _ = rasterize(*leaves, **cameras, backend="reference")
    monkeypatch.setattr(reference, "PAIRS_AT_ONCE", 100)
    chunked, _, _ = rasterize(*leaves, **cameras, backend="reference")
    torch.testing.assert_close(chunked, whole)


def test_harmonics_of_degree_4_are_gsplats() -> None:
    from gsplat.cuda._torch_impl import _eval_sh_bases_fast

    directions = torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    torch.testing.assert_close(
        reference.sh_bases(4, directions), _eval_sh_bases_fast(25, unit), atol=1e-6, rtol=0
    )
