"""Every backend gives the oracle's numbers: images, gradients, radii and blending weights, on random scenes.

The oracle runs in float64, a backend in float32. Rasterizing jumps where a pair's alpha is 1/255 or clamped,
and where transmittance ends: pixels within `margin` of one of these are not compared.
"""

import inspect
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from gsplat import rasterization
from gsplat.cuda._wrapper import RollingShutterType
from random_data import random_camera, random_gaussians, uniform
from torch import Tensor

from gs_lift.errors import BackendError, ConfigError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import pixel_centers
from gs_lift.rendering import BACKENDS, RENDER_MODES, blending_weights, rasterize, reference, render
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Camera

EVERY_BACKEND = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.gpu] if name == "gsplat" else []) for name in BACKENDS]
)


@dataclass(frozen=True)
class Case:
    """A kind of Gaussians, and what float32 makes of it: the error that a gradient may have."""

    gaussians: Gaussians
    margin: float = 1e-3
    tolerance: float = 2e-4
    distance: float = 3.0


CASES = {
    "plain": Case(random_gaussians(0, 120)),
    "one": Case(random_gaussians(1, 1, spread=0.2)),
    "opaque": Case(random_gaussians(2, 200, opacities=(0.99, 0.9999), scales=(0.1, 0.5))),
    "faint": Case(random_gaussians(3, 200, opacities=(0.001, 0.02))),
    "huge": Case(random_gaussians(4, 30, scales=(1.0, 20.0))),
    "tiny": Case(random_gaussians(5, 200, scales=(1e-4, 2e-2))),
    "needles": Case(random_gaussians(6, 100, scales=(1e-4, 1.0)), margin=1e-2, tolerance=2e-3),
    "around the camera": Case(random_gaussians(7, 200, spread=3.0), distance=0.5),
}


def inputs(gaussians: Gaussians, colors: Tensor, cameras: list[Camera], to: torch.Tensor) -> dict[str, Any]:
    """Arguments of `rasterize` as leaves of their own in the dtype and on the device of `to`."""
    values = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": gaussians.scales,
        "opacities": gaussians.opacities,
        "colors": colors,
    }
    leaves = {name: value.detach().to(to).clone().requires_grad_() for name, value in values.items()}
    return leaves | {
        "viewmats": torch.stack([camera.viewmat for camera in cameras]).to(to),
        "Ks": torch.stack([camera.K for camera in cameras]).to(to),
        "width": cameras[0].width,
        "height": cameras[0].height,
    }


def like(backend: str) -> Tensor:
    return torch.zeros((), dtype=torch.float32, device="cuda" if backend == "gsplat" else "cpu")


def steady_pixels(info: dict[str, Any], margin: float) -> Tensor:
    """[C H W]: the pixels that no small error can push over one of the rasterizer's edges."""
    centers = pixel_centers(info["height"], info["width"]).double().reshape(-1, 1, 2)
    steady = []
    for means2d, conics, opacities, depths in zip(
        info["means2d"].detach(),
        info["conics"].detach(),
        info["opacities"].detach(),
        info["depths"].detach(),
        strict=True,
    ):
        order = depths.argsort(stable=True)
        dx, dy = (centers - means2d[order]).unbind(-1)
        xx, xy, yy = conics[order].unbind(-1)
        raw = opacities[order] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
        left = torch.cumprod(1 - torch.where(raw >= 1 / 255, raw.clamp(max=0.999), 0.0), dim=1)
        at_edge = (raw * 255 - 1).abs() < margin
        at_edge |= (raw / 0.999 - 1).abs() < margin
        at_edge |= (left / 1e-4 - 1).abs() < 10 * margin
        steady.append(~at_edge.any(dim=1))
    return torch.stack(steady).unflatten(1, (info["height"], info["width"]))


def assert_close(name: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Entries within `tolerance` of the largest: small ones are sums of large ones that cancel."""
    assert got.shape == wanted.shape, name
    wanted = wanted.double().cpu()
    error = (got.double().cpu() - wanted).abs().max().item() if wanted.numel() else 0.0
    scale = wanted.abs().max().item() if wanted.numel() else 0.0
    assert error <= tolerance * scale + 1e-6, f"{name}: off by {error:.2e}, largest entry {scale:.2e}"


def compare(
    backend: str, case: Case, colors: Tensor, cameras: list[Camera], *, seed: int, **options: Any
) -> None:
    """Rasterize with the oracle and the backend and compare everything that a caller can see."""
    # gsplat is compiled with fast-math and adds with atomics.
    tolerance = max(case.tolerance, 1e-3) if backend == "gsplat" else case.tolerance
    generator = torch.Generator().manual_seed(seed)
    results = []
    mask = loads = None
    for name, to in [("reference", torch.zeros((), dtype=torch.float64)), (backend, like(backend))]:
        leaves = inputs(case.gaussians, colors, cameras, to)
        if "backgrounds" in options:
            leaves["backgrounds"] = options["backgrounds"].to(to).clone().requires_grad_()
        images, alphas, info = rasterize(**(options | leaves), backend=name)
        if mask is None or loads is None:
            mask = steady_pixels(info, case.margin)[..., None]
            assert mask.double().mean() > 0.5, "the scene leaves too few pixels to compare"
            loads = [
                torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                for tensor in (images, alphas)
            ]
        info["means2d"].retain_grad()
        loss = (images * (loads[0] * mask).to(to)).sum() + (alphas * (loads[1] * mask).to(to)).sum()
        loss.backward()
        results.append((images, alphas, info, leaves))
    (images, alphas, info, leaves), (got_images, got_alphas, got_info, got_leaves) = results

    images, alphas = images.detach() * mask, alphas.detach() * mask
    assert_close("colors", got_images.detach().double().cpu() * mask, images, tolerance / 10)
    assert_close("alphas", got_alphas.detach().double().cpu() * mask, alphas, tolerance / 10)
    for name, leaf in leaves.items():
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.grad is not None:
            got = got_leaves[name].grad
            # No gradient at all is as good as zeros: colours take no part in a depth image.
            got = torch.zeros_like(leaf.grad) if got is None else got
            assert_close(f"gradient of {name}", got, leaf.grad, tolerance)

    visible, radii = (info["radii"] > 0).all(dim=-1), got_info["radii"].cpu()
    assert got_info["radii"].dtype == torch.int32
    # A radius is rounded up: float32 may land on the other side.
    assert (radii - info["radii"]).abs().max() <= 1
    assert (radii == info["radii"]).double().mean() > 0.98
    for name in ("means2d", "depths"):
        assert_close(name, got_info[name].detach().cpu()[visible], info[name].detach()[visible], 1e-4)
    wanted = info["means2d"].grad * visible[..., None]
    assert_close(
        "gradient of means2d", got_info["means2d"].grad.cpu() * visible[..., None], wanted, tolerance
    )
    if options.get("absgrad"):
        absgrad = got_info["means2d"].absgrad.cpu() * visible[..., None]
        assert_close("absgrad", absgrad, info["means2d"].absgrad * visible[..., None], tolerance)
    assert {key: got_info[key] for key in ("width", "height", "n_cameras", "gaussian_ids")} == {
        "width": cameras[0].width,
        "height": cameras[0].height,
        "n_cameras": len(cameras),
        "gaussian_ids": None,
    }


def two_cameras(case: Case, width: int = 29, height: int = 21) -> list[Camera]:
    return [random_camera(seed, width, height, distance=case.distance) for seed in (10, 11)]


@EVERY_BACKEND
@pytest.mark.parametrize("name", CASES)
def test_images_and_gradients_are_the_oracles(backend: str, name: str) -> None:
    case = CASES[name]
    colors = case.gaussians.sh
    backgrounds = uniform(torch.Generator().manual_seed(20), 2, 3)
    cameras = two_cameras(case, 37, 53)
    compare(backend, case, colors, cameras, seed=21, sh_degree=1, backgrounds=backgrounds)


@EVERY_BACKEND
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 16, 19, 33, 48])
def test_any_number_of_channels(backend: str, channels: int) -> None:
    case = CASES["plain"]
    generator = torch.Generator().manual_seed(channels)
    colors = torch.randn(120, channels, generator=generator, dtype=torch.float64)
    compare(backend, case, colors, [random_camera(12, 40, 32)], seed=22)
    backgrounds = torch.randn(1, channels, generator=generator, dtype=torch.float64)
    compare(backend, case, colors, [random_camera(13, 40, 32)], seed=23, backgrounds=backgrounds)


@EVERY_BACKEND
@pytest.mark.parametrize(("degree", "stored"), [(0, 0), (0, 3), (1, 3), (2, 2), (2, 3), (3, 3)])
def test_spherical_harmonics_of_every_degree(backend: str, degree: int, stored: int) -> None:
    gaussians = random_gaussians(8, 100, sh_degree=stored)
    compare(backend, Case(gaussians), gaussians.sh, two_cameras(CASES["plain"]), seed=24, sh_degree=degree)


@EVERY_BACKEND
@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_depth_in_every_render_mode(backend: str, render_mode: str) -> None:
    case = CASES["plain"]
    backgrounds = torch.full((2, 3), 0.5, dtype=torch.float64)
    cameras = two_cameras(case)
    options = {"render_mode": render_mode, "sh_degree": 1}
    compare(backend, case, case.gaussians.sh, cameras, seed=25, **options)
    compare(backend, case, case.gaussians.sh, cameras, seed=26, backgrounds=backgrounds, **options)


@EVERY_BACKEND
def test_planes_cut_by_depth_and_eps2d_blurs(backend: str) -> None:
    case, cameras = CASES["plain"], two_cameras(CASES["plain"])
    compare(
        backend,
        case,
        case.gaussians.sh,
        cameras,
        seed=27,
        sh_degree=1,
        near_plane=2.5,
        far_plane=3.3,
        eps2d=1.5,
    )


@EVERY_BACKEND
@pytest.mark.parametrize("name", ["plain", "faint", "tiny"])
def test_antialiasing_weakens_small_gaussians(backend: str, name: str) -> None:
    case, cameras = CASES[name], two_cameras(CASES[name])
    compare(backend, case, case.gaussians.sh, cameras, seed=28, sh_degree=1, rasterize_mode="antialiased")


@EVERY_BACKEND
def test_an_antialiased_splat_is_rendered_and_weighed_with_antialiasing(backend: str) -> None:
    """Small Gaussians: without it they would be about twice as strong."""
    camera = random_camera(18, 32, 30)
    classic = placed(CASES["tiny"].gaussians, backend)
    mip = replace(classic, antialiased=True)
    wanted, _, _ = rasterize(
        *(mip.means, mip.quats, mip.scales, mip.opacities, mip.sh),
        *(camera.viewmat.to(mip.means)[None], camera.K.to(mip.means)[None], camera.width, camera.height),
        sh_degree=mip.sh_degree,
        rasterize_mode="antialiased",
        backend=backend,
    )
    seen = render(mip, camera, backend=backend)
    assert torch.equal(seen.colors, wanted[0])
    weights = blending_weights(mip, camera, minimum=0.0, backend=backend)
    weighed = dense(weights).sum(dim=1)
    torch.testing.assert_close(weighed, seen.alphas.reshape(-1).double().cpu(), atol=2e-5, rtol=0)
    assert float(weighed.sum()) < 0.8 * float(render(classic, camera, backend=backend).alphas.sum())


@EVERY_BACKEND
def test_absgrad_sums_what_the_gradient_cancels(backend: str) -> None:
    case, cameras = CASES["plain"], two_cameras(CASES["plain"])
    compare(backend, case, case.gaussians.sh, cameras, seed=29, sh_degree=1, absgrad=True)


@EVERY_BACKEND
@pytest.mark.parametrize("absgrad", [False, True])
def test_info_is_what_gsplats_strategies_read(backend: str, absgrad: bool) -> None:
    from gsplat import DefaultStrategy

    gaussians, cameras = CASES["around the camera"].gaussians, two_cameras(CASES["around the camera"])
    arguments = inputs(gaussians, gaussians.sh, cameras, like(backend))
    images, _, info = rasterize(**arguments, sh_degree=1, absgrad=absgrad, backend=backend)
    strategy = DefaultStrategy(absgrad=absgrad, refine_scale2d_stop_iter=10)
    state = strategy.initialize_state()
    parameters = {"means": arguments["means"]}
    strategy.step_pre_backward(parameters, {}, state, 1, info)
    images.square().sum().backward()
    strategy.step_post_backward(parameters, {}, state, 1, info)
    views = (info["radii"] > 0).all(dim=-1).sum(dim=0)
    assert 0 < views.sum() < 2 * len(gaussians)
    assert torch.equal(state["count"], views.float())
    assert (state["grad2d"] > 0).sum() > 20
    assert (state["grad2d"][views == 0] == 0).all()


@EVERY_BACKEND
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 3), (5, 64), (128, 8)])
def test_images_of_any_size(backend: str, size: tuple[int, int]) -> None:
    case = CASES["huge"]
    compare(backend, case, case.gaussians.sh, [random_camera(14, *size)], seed=30, sh_degree=1)


@EVERY_BACKEND
@pytest.mark.parametrize("nothing", ["no Gaussians", "all behind", "all invisible"])
def test_an_empty_image_is_the_background(backend: str, nothing: str) -> None:
    gaussians = random_gaussians(9, 0 if nothing == "no Gaussians" else 20)
    if nothing == "all behind":
        gaussians.means += 10 * random_camera(15, 21, 18).position
    if nothing == "all invisible":
        gaussians.logit_opacities -= 20
    arguments = inputs(gaussians, gaussians.sh0[:, 0], [random_camera(15, 21, 18)], like(backend))
    background = torch.tensor([[0.1, 0.2, 0.3]]).to(like(backend)).requires_grad_()
    images, alphas, info = rasterize(**arguments, backgrounds=background, backend=backend)
    (images.sum() + alphas.sum()).backward()
    assert (images == background).all()
    assert (alphas == 0).all()
    assert background.grad.tolist() == [[21 * 18.0] * 3]
    assert info["radii"].shape == (1, len(gaussians), 2)
    assert (info["radii"] == 0).all()
    for name in ("means", "quats", "scales", "opacities", "colors"):
        gradient = arguments[name].grad
        assert gradient is None or (gradient == 0).all(), name


@EVERY_BACKEND
def test_equal_depths_keep_the_order_of_the_gaussians(backend: str) -> None:
    camera = Camera(
        K=torch.tensor([[20.0, 0, 4], [0, 20, 4], [0, 0, 1]], dtype=torch.float64),
        viewmat=torch.eye(4, dtype=torch.float64),
        width=8,
        height=8,
    )
    gaussians = Gaussians.from_points(torch.tensor([[0.0, 0, 2]] * 3), torch.zeros(3, 3), opacity=0.5)
    gaussians.log_scales = torch.full((3, 3), 2.0)
    arguments = inputs(gaussians, torch.eye(3), [camera], like(backend))
    images, _, _ = rasterize(**arguments, backend=backend)
    # Wide enough to be flat at the centre: 1/2, then half of what is left, then half of that.
    torch.testing.assert_close(images[0, 4, 4].cpu(), torch.tensor([0.5, 0.25, 0.125]), atol=1e-3, rtol=0)


@EVERY_BACKEND
def test_not_a_number_stays_with_its_gaussian(backend: str) -> None:
    gaussians, camera = random_gaussians(16, 50), random_camera(16, 24, 24)
    arguments = inputs(gaussians, gaussians.sh0[:, 0], [camera], like(backend))
    with torch.no_grad():
        arguments["means"][7] = float("nan")
    images, _, info = rasterize(**arguments, backend=backend)
    others = torch.arange(50) != 7
    spared = {
        name: value[others] if isinstance(value, Tensor) and len(value) == 50 else value
        for name, value in arguments.items()
    }
    wanted, _, _ = rasterize(**spared, backend=backend)
    assert (info["radii"][0, 7] == 0).all()
    torch.testing.assert_close(images, wanted)


# Blending weights


def dense(weights: Weights) -> Tensor:
    """[P N] float64."""
    rows = torch.repeat_interleave(torch.arange(len(weights)), weights.indptr.diff())
    matrix = torch.zeros(len(weights), weights.columns, dtype=torch.float64)
    return matrix.index_put((rows, weights.indices.long()), weights.values.double(), accumulate=True)


def placed(gaussians: Gaussians, backend: str) -> Gaussians:
    return Gaussians(*(tensor.to(like(backend)) for tensor in gaussians.parameters().values()))


@EVERY_BACKEND
@pytest.mark.parametrize("name", ["plain", "opaque", "around the camera"])
def test_weights_times_features_is_the_rendering(backend: str, name: str) -> None:
    case, camera = CASES[name], random_camera(17, 37, 29, distance=CASES[name].distance)
    gaussians = placed(case.gaussians, backend)
    generator = torch.Generator().manual_seed(31)
    features = uniform(generator, len(gaussians), 5)
    background = uniform(generator, 5)
    weights = blending_weights(gaussians, camera, minimum=0.0, backend=backend)
    rendering = render(
        gaussians, camera, features=features.to(like(backend)), background=background, backend=backend
    )
    W = dense(weights)
    assert (weights.indptr.dtype, weights.indices.dtype, weights.values.dtype) == (
        torch.int64,
        torch.int32,
        torch.float32,
    )
    image = W @ features + (1 - W.sum(dim=1, keepdim=True)) * background
    torch.testing.assert_close(rendering.colors.reshape(-1, 5).double().cpu(), image, atol=2e-5, rtol=0)
    torch.testing.assert_close(rendering.alphas.reshape(-1).double().cpu(), W.sum(dim=1), atol=2e-5, rtol=0)


@EVERY_BACKEND
def test_weights_are_the_oracles_and_stand_front_to_back(backend: str) -> None:
    case, camera = CASES["plain"], random_camera(18, 32, 30)
    weights = blending_weights(placed(case.gaussians, backend), camera, minimum=0.0, backend=backend)
    wanted = blending_weights(case.gaussians, camera, minimum=0.0, backend="reference")
    exact = inputs(case.gaussians, case.gaussians.means, [camera], torch.zeros((), dtype=torch.float64))
    _, _, info = rasterize(**exact, backend="reference")
    steady = steady_pixels(info, case.margin).flatten()
    torch.testing.assert_close(dense(weights)[steady], dense(wanted)[steady], atol=1e-5, rtol=0)
    depths = info["depths"][0].detach()
    for start, end in zip(weights.indptr[:-1].tolist(), weights.indptr[1:].tolist(), strict=True):
        row = depths[weights.indices[start:end].long()]
        assert (row.diff() > 0).all()
    assert (weights.values > 0).all()


@EVERY_BACKEND
def test_the_minimum_leaves_out_small_weights_and_nothing_else(backend: str) -> None:
    gaussians, camera = placed(CASES["plain"].gaussians, backend), random_camera(19, 32, 30)
    full = blending_weights(gaussians, camera, minimum=0.0, backend=backend)
    cut = blending_weights(gaussians, camera, minimum=0.01, backend=backend)
    kept = full.values >= 0.01
    assert 0 < kept.sum() < len(kept)
    assert torch.equal(cut.indices, full.indices[kept])
    assert torch.equal(cut.values, full.values[kept])


@EVERY_BACKEND
def test_weights_of_some_pixels_are_rows_of_all(backend: str) -> None:
    gaussians, camera = placed(CASES["plain"].gaussians, backend), random_camera(20, 32, 30)
    pixels = torch.tensor([959, 0, 31, 32, 400, 400, 17])
    some = blending_weights(gaussians, camera, pixels=pixels, backend=backend)
    rows = blending_weights(gaussians, camera, backend=backend).rows(pixels)
    assert torch.equal(some.indptr, rows.indptr)
    assert torch.equal(some.indices, rows.indices)
    torch.testing.assert_close(some.values, rows.values)
    assert len(blending_weights(gaussians, camera, pixels=pixels[:0], backend=backend)) == 0


@EVERY_BACKEND
def test_weights_of_no_gaussians_are_empty_rows(backend: str) -> None:
    weights = blending_weights(
        placed(random_gaussians(0, 0), backend), random_camera(0, 6, 5), backend=backend
    )
    assert weights.indptr.tolist() == [0] * 31
    assert len(weights.values) == 0


# The front: one camera, checked arguments


def test_render_gives_depth_where_the_mode_has_it() -> None:
    gaussians, camera = CASES["plain"].gaussians, random_camera(21, 20, 16)
    rgb = render(gaussians, camera, backend="reference")
    both = render(gaussians, camera, render_mode="RGB+ED", backend="reference")
    depth = render(gaussians, camera, render_mode="ED", backend="reference")
    assert rgb.colors.shape == (16, 20, 3)
    assert rgb.alphas.shape == (16, 20)
    assert rgb.depths is None
    torch.testing.assert_close(both.colors, rgb.colors)  # a matrix product's last bits hang on its width
    assert depth.colors.shape == (16, 20, 0)
    torch.testing.assert_close(depth.depths, both.depths)
    assert 2 < both.depths[8, 10] < 4


def test_render_takes_every_degree_by_default() -> None:
    gaussians, camera = random_gaussians(22, 50, sh_degree=2), random_camera(22, 20, 16)
    images = {
        degree: render(gaussians, camera, sh_degree=degree, backend="reference").colors
        for degree in (0, 1, 2)
    }
    assert torch.equal(render(gaussians, camera, backend="reference").colors, images[2])
    assert not torch.allclose(images[1], images[2])
    assert not torch.allclose(images[0], images[1])


def test_unknown_values_are_answered_with_what_there_is() -> None:
    gaussians, camera = random_gaussians(23, 3), random_camera(23, 8, 8)
    with pytest.raises(ConfigError, match="no backend 'cuda'; one of: cpu, gsplat, reference"):
        render(gaussians, camera, backend="cuda")
    with pytest.raises(ConfigError, match="no backend 'cuda'"):
        blending_weights(gaussians, camera, backend="cuda")
    with pytest.raises(ConfigError, match="no render_mode 'rgb'; one of: D, ED, RGB, RGB"):
        render(gaussians, camera, render_mode="rgb", backend="reference")
    arguments = inputs(gaussians, gaussians.sh, [camera], torch.zeros(()))
    with pytest.raises(ConfigError, match="no rasterize_mode 'soft'; one of: antialiased, classic"):
        rasterize(**arguments, sh_degree=1, rasterize_mode="soft", backend="reference")


def test_spherical_harmonics_need_their_degree() -> None:
    gaussians, camera = random_gaussians(24, 3, sh_degree=1), random_camera(24, 8, 8)
    with pytest.raises(ConfigError, match=r"sh_degree 2 wants colors \[N 9 3\], got \[3, 4, 3\]"):
        render(gaussians, camera, sh_degree=2, backend="reference")
    with pytest.raises(ConfigError, match="give sh_degree"):
        rasterize(**inputs(gaussians, gaussians.sh, [camera], torch.zeros(())), backend="reference")
    with pytest.raises(ConfigError, match="leave it out beside features"):
        render(gaussians, camera, features=gaussians.means, sh_degree=0, backend="reference")


@pytest.mark.parametrize("pixel", [-1, 64])
def test_a_pixel_outside_the_image_is_refused(pixel: int) -> None:
    pixels = torch.tensor([0, pixel])
    with pytest.raises(ConfigError, match=r"pixels must lie in 0\.\.63"):
        blending_weights(random_gaussians(25, 3), random_camera(25, 8, 8), pixels=pixels, backend="reference")


def test_an_argument_that_a_backend_does_not_take_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ModuleType("plain")

    def only_rgb(
        means: Any,
        quats: Any,
        scales: Any,
        opacities: Any,
        colors: Any,
        viewmats: Any,
        Ks: Any,
        width: int,
        height: int,
    ) -> Any:
        return reference.rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height)

    plain.rasterize = only_rgb  # type: ignore[attr-defined]
    monkeypatch.setitem(BACKENDS, "plain", lambda: plain)
    gaussians, camera = random_gaussians(26, 3), random_camera(26, 8, 8)
    assert render(gaussians, camera, features=gaussians.means, backend="plain").colors.shape == (8, 8, 3)
    with pytest.raises(ConfigError, match="backend 'plain' does not take absgrad"):
        render(gaussians, camera, features=gaussians.means, absgrad=True, backend="plain")
    with pytest.raises(ConfigError, match="backend 'plain' does not take backgrounds"):
        render(gaussians, camera, features=gaussians.means, background=torch.ones(3), backend="plain")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_gsplat_without_cuda_is_one_clear_line() -> None:
    with pytest.raises(BackendError, match="needs a CUDA device and torch finds none; take backend 'cpu'"):
        render(random_gaussians(27, 3), random_camera(27, 8, 8), backend="gsplat")


@EVERY_BACKEND
@pytest.mark.parametrize("absgrad", [False, True])
def test_packed_info_has_the_rows_of_the_visible(backend: str, absgrad: bool) -> None:
    gaussians = random_gaussians(31, 150, spread=2.5)
    cameras = [random_camera(seed, 33, 25) for seed in (31, 32)]
    to, seen, grads = like(backend), [], []
    for packed in (False, True):
        leaves = inputs(gaussians, gaussians.sh, cameras, to)
        options = {"sh_degree": 1, "absgrad": absgrad, "packed": packed}
        images, _, info = rasterize(**(options | leaves), backend=backend)
        info["means2d"].retain_grad()
        load = torch.randn(images.shape, generator=torch.Generator().manual_seed(33)).to(to)
        (images * load).sum().backward()
        seen.append((images.detach(), info))
        grads.append(
            [leaf.grad for leaf in leaves.values() if isinstance(leaf, Tensor) and leaf.requires_grad]
        )
    (images, info), (got, packed_info) = seen
    assert_close("colors", got, images, 1e-6)
    for theirs, ours in zip(*grads, strict=True):
        assert_close("gradient", ours, theirs, 1e-5)
    rows = (info["radii"] > 0).all(dim=-1).nonzero(as_tuple=True)
    assert 10 < len(rows[0]) < 290
    assert packed_info["camera_ids"].tolist() == rows[0].tolist()
    assert packed_info["gaussian_ids"].tolist() == rows[1].tolist()
    for name in ("means2d", "radii", "depths", "conics", "opacities"):
        assert_close(name, packed_info[name].detach().double(), info[name][rows].detach().double(), 1e-6)
    assert_close("means2d.grad", packed_info["means2d"].grad, info["means2d"].grad[rows], 1e-5)
    if absgrad:
        assert_close("absgrad", packed_info["means2d"].absgrad, info["means2d"].absgrad[rows], 1e-5)


@EVERY_BACKEND
@pytest.mark.parametrize("render_mode", RENDER_MODES)
def test_packed_or_not_the_images_and_gradients_are_the_same(backend: str, render_mode: str) -> None:
    gaussians = random_gaussians(37, 100, spread=2.0)
    cameras, to = [random_camera(seed, 20, 17) for seed in (37, 38)], like(backend)
    colors = torch.randn(100, 5, generator=torch.Generator().manual_seed(37))
    results = []
    for packed in (False, True):
        leaves = inputs(gaussians, colors, cameras, to)
        leaves["backgrounds"] = torch.full((2, 5), 0.3).to(to).requires_grad_()
        options = {"render_mode": render_mode, "rasterize_mode": "antialiased", "packed": packed}
        images, alphas, _ = rasterize(**(options | leaves), backend=backend)
        (images.square().sum() + alphas.square().sum()).backward()
        grads = {name: leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
        results.append({"images": images.detach(), "alphas": alphas.detach(), **grads})
    for name, wanted in results[0].items():
        if wanted is not None and results[1][name] is not None:
            assert_close(name, results[1][name], wanted, 1e-4)
    assert results[1]["means"].abs().max() > 1


@EVERY_BACKEND
def test_packed_means2d_lies_between_the_gaussians_and_the_image(backend: str) -> None:
    gaussians, camera = random_gaussians(39, 60, spread=2.0), random_camera(39, 20, 17)
    leaves = inputs(gaussians, gaussians.sh, [camera], like(backend))
    images, _, info = rasterize(**leaves, sh_degree=1, packed=True, backend=backend)
    (by_image,) = torch.autograd.grad(images.square().sum(), info["means2d"], retain_graph=True)
    assert (by_image != 0).any(dim=1).sum() > 10
    (by_pull,) = torch.autograd.grad(info["means2d"].sum(), leaves["means"])
    assert torch.equal((by_pull != 0).any(dim=1).nonzero()[:, 0], info["gaussian_ids"])


@EVERY_BACKEND
@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_strategies_read_the_same_of_packed_info(backend: str, absgrad: bool) -> None:
    from gsplat import DefaultStrategy

    gaussians, cameras = CASES["around the camera"].gaussians, two_cameras(CASES["around the camera"])
    states = []
    for packed in (False, True):
        arguments = inputs(gaussians, gaussians.sh, cameras, like(backend))
        images, _, info = rasterize(**arguments, sh_degree=1, absgrad=absgrad, packed=packed, backend=backend)
        strategy = DefaultStrategy(absgrad=absgrad, refine_scale2d_stop_iter=10)
        state = strategy.initialize_state()
        strategy.step_pre_backward({"means": arguments["means"]}, {}, state, 1, info)
        images.square().sum().backward()
        strategy.step_post_backward({"means": arguments["means"]}, {}, state, 1, info, packed=packed)
        states.append(state)
    assert torch.equal(states[1]["count"], states[0]["count"])
    assert_close("grad2d", states[1]["grad2d"], states[0]["grad2d"], 1e-4)


@EVERY_BACKEND
@pytest.mark.parametrize("count", [0, 20])
def test_packed_info_of_an_image_that_sees_nothing_is_empty(backend: str, count: int) -> None:
    gaussians, camera = random_gaussians(40, count), random_camera(40, 21, 18)
    gaussians.means += 10 * camera.position
    arguments = inputs(gaussians, gaussians.sh0[:, 0], [camera] * 2, like(backend))
    images, _, info = rasterize(**arguments, packed=True, backend=backend)
    assert (images == 0).all()
    assert info["means2d"].shape == (0, 2)
    assert info["radii"].shape == (0, 2)
    assert info["camera_ids"].tolist() == info["gaussian_ids"].tolist() == []


@EVERY_BACKEND
def test_several_cameras_in_one_call_are_those_one_by_one(backend: str) -> None:
    gaussians = random_gaussians(34, 120)
    cameras, to = [random_camera(seed, 33, 25) for seed in (34, 35, 36)], like(backend)
    together = inputs(gaussians, gaussians.sh, cameras, to)
    images, alphas, _ = rasterize(**together, sh_degree=1, backend=backend)
    images.square().sum().backward()
    apart = inputs(gaussians, gaussians.sh, cameras, to)
    for i in range(3):
        one = apart | {"viewmats": apart["viewmats"][i : i + 1], "Ks": apart["Ks"][i : i + 1]}
        image, alpha, _ = rasterize(**one, sh_degree=1, backend=backend)
        assert_close("colors", image[0].detach(), images[i].detach(), 1e-6)
        assert_close("alphas", alpha[0].detach(), alphas[i].detach(), 1e-6)
        image.square().sum().backward()
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert_close(f"gradient of {name}", apart[name].grad, together[name].grad, 1e-4)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("camera_model", "fisheye", "'fisheye'"),
        ("covars", torch.zeros(3, 3, 3), "'tensor'"),
        ("distributed", True, "True"),
        ("radial_coeffs", torch.zeros(1, 6), "'tensor'"),
        ("radius_clip", 3.0, "3.0"),
        ("rolling_shutter", RollingShutterType.ROLLING_TOP_TO_BOTTOM, "'ROLLING_TOP_TO_BOTTOM'"),
        ("sparse_grad", True, "True"),
        ("tile_size", 8, "8"),
        ("with_ut", True, "True"),
    ],
)
def test_what_only_gsplat_does_is_refused_by_name(name: str, value: Any, shown: str) -> None:
    leaves = inputs(random_gaussians(0, 3), torch.zeros(3, 2), [random_camera(0, 8, 8)], like("cpu"))
    with pytest.raises(ConfigError, match=f"^{name}={shown} is not here, only gsplat's default"):
        rasterize(**leaves, **{name: value})


def test_an_argument_that_nobody_has_is_named() -> None:
    leaves = inputs(random_gaussians(0, 3), torch.zeros(3, 2), [random_camera(0, 8, 8)], like("cpu"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'near'"):
        rasterize(**leaves, near=1)


def test_a_call_of_gsplat_with_every_default_spelled_out_can_stay() -> None:
    theirs = inspect.signature(rasterization).parameters.items()
    defaults = {
        name: option.default for name, option in theirs if option.default is not inspect.Parameter.empty
    }
    leaves = inputs(random_gaussians(41, 9), torch.ones(9, 2), [random_camera(41, 8, 8)], like("cpu"))
    images, alphas, _ = rasterize(**leaves, **defaults)
    wanted, _, _ = rasterize(**leaves)
    assert torch.equal(images, wanted)
    assert images.max() > 0.5
    assert torch.equal(rasterize(**leaves, channel_chunk=1, segmented=True)[1], alphas)
