"""The C++ rasterizer against the float64 oracle, at every instruction set that this CPU has, and its ugly inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import python
from torch import Tensor

from gs_lift import _native
from gs_lift.errors import BackendError, ConfigError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at, pixel_centers
from gs_lift.rendering import cpu, reference
from gs_lift.scene import Camera

BEST = _native.simd_level()
LEVELS = ("avx512", "avx2", "baseline")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set after the other; one that this CPU lacks skips its tests."""
    if not _native.use_simd_level(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _native.use_simd_level(BEST)


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@dataclass
class Case:
    """Inputs of `rasterize`, in float64."""

    gaussians: list[Tensor]  # means, quats, scales, opacities, colors
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int


def cameras(width: int, height: int, count: int = 1) -> tuple[Tensor, Tensor]:
    target, up = torch.tensor([0.0, 0.0, 3.5]), torch.tensor([0.0, -1.0, 0.0])
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.1, -0.4, 0.3]])[:count]
    viewmats = torch.stack([look_at(position, target, up) for position in positions]).double()
    K = torch.tensor([[1.1 * width, 0, 0.48 * width], [0, 1.2 * width, 0.53 * height], [0, 0, 1]])
    return viewmats, K.double().expand(count, 3, 3).contiguous()


def case(
    count: int,
    *,
    channels: int = 3,
    terms: int = 0,
    width: int = 53,
    height: int = 37,
    views: int = 1,
    size: float = 0.05,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = torch.cat([3 * rand(count, 2) - 1.5, 2 + 3 * rand(count, 1)], dim=1)
    quats = 2 * rand(count, 4) - 1
    scales = size * (0.3 + 3 * rand(count, 3))
    opacities = 0.05 + 0.94 * rand(count)
    colors = 0.6 * (rand(count, terms, 3) - 0.5) if terms else rand(count, channels)
    return Case([means, quats, scales, opacities, colors], *cameras(width, height, views), width, height)


def run(backend: Any, case: Case, dtype: torch.dtype, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    """Images, alphas and every gradient of a random linear function of both."""
    leaves = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in case.gaussians]
    generator = torch.Generator().manual_seed(seed)
    if options.pop("background", False):
        background = torch.rand(len(case.Ks), case.gaussians[4].shape[-1], generator=generator)
        options["backgrounds"] = background.to(dtype).requires_grad_()
    images, alphas, info = backend.rasterize(
        *leaves, case.viewmats.to(dtype), case.Ks.to(dtype), case.width, case.height, **options
    )
    info["means2d"].retain_grad()
    v_images = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    v_alphas = torch.randn(alphas.shape, generator=generator, dtype=torch.float64)
    ((images * v_images.to(dtype)).sum() + (alphas * v_alphas.to(dtype)).sum()).backward()
    result = {"images": images.detach(), "alphas": alphas.detach(), "radii": info["radii"]}
    for name, leaf in zip(["means", "quats", "scales", "opacities", "colors"], leaves, strict=True):
        result["by " + name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    result["by means2d"] = info["means2d"].grad
    if "backgrounds" in options:
        result["by backgrounds"] = options["backgrounds"].grad
    if options.get("absgrad"):
        result["absgrad"] = info["means2d"].absgrad
    return result


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], value: float, gradient: float) -> None:
    """Largest error in shares of the largest value."""
    assert got.keys() == wanted.keys()
    assert torch.equal(got["radii"], wanted["radii"])
    for name, tensor in wanted.items():
        error = (got[name].double() - tensor.double()).abs().max() / tensor.abs().max().clamp(min=1e-6)
        assert error <= (gradient if "grad" in name or name.startswith("by ") else value), (
            name,
            float(error),
        )


def assert_oracle(
    scene: Case, value: float = 5e-6, gradient: float = 5e-5, **options: Any
) -> dict[str, Tensor]:
    """Holds the instruction set in use to the oracle, -> what the oracle says."""
    wanted = run(reference, scene, torch.float64, **options)
    assert_close(run(cpu, scene, torch.float32, **options), wanted, value, gradient)
    return wanted


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 16, 19, 32])
def test_values_and_gradients_are_those_of_the_oracle(level: str, channels: int) -> None:
    assert_oracle(case(80, channels=channels, seed=channels), background=True, absgrad=True)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_are_those_of_the_oracle(level: str, degree: int) -> None:
    assert_oracle(case(60, terms=16, views=2, seed=degree), sh_degree=degree)


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_depths_of_two_antialiased_views_are_those_of_the_oracle(level: str, render_mode: str) -> None:
    # Expected depth divides by alphas down to 1/255, which are differences from 1 in float32.
    loose = 10 if render_mode.endswith("ED") else 1
    assert_oracle(
        case(60, views=2, seed=7),
        5e-6 * loose,
        5e-5 * loose,
        render_mode=render_mode,
        rasterize_mode="antialiased",
        absgrad=True,
    )


def test_wide_gaussians_beyond_the_clamped_frustum_are_those_of_the_oracle(level: str) -> None:
    scene = case(25, size=0.5, seed=3)
    scene.gaussians[0][:, :2] *= 3
    slope = (scene.gaussians[0][:, 0] / scene.gaussians[0][:, 2]).abs()
    assert (slope > 1.3 * 0.5 / 1.1).any()
    wanted = assert_oracle(scene, 2e-5, 2e-4)
    assert (wanted["radii"] > 0).all(dim=-1)[0, slope > 1.3 * 0.5 / 1.1].any()


def test_a_thin_gaussian_of_a_thousand_pixels_keeps_its_digits(level: str) -> None:
    scene = case(1, width=120, height=110)
    means, quats, scales, opacities, _ = scene.gaussians
    means[0] = torch.tensor([0.9, 0.9, 3.0])
    quats[0] = torch.tensor([0.9238795, 0.0, 0.0, 0.3826834])  # 45 degrees about the optical axis
    scales[0] = torch.tensor([6.0, 0.004, 0.004])
    opacities[0] = 0.9
    wanted = run(reference, scene, torch.float64)
    assert (wanted["alphas"] > 0.01).sum() > 100
    assert (run(cpu, scene, torch.float32)["alphas"] - wanted["alphas"]).abs().max() < 2e-3


def test_opaque_layers_end_a_pixel_where_the_oracle_ends_it(level: str) -> None:
    # Four layers of 0.95 leave 6e-6 < 1e-4: the fourth is dropped, so 0.05^3 is left in the middle.
    scene = case(40, size=1.0, seed=5)
    scene.gaussians[0][:, :2] *= 0.1
    scene.gaussians[3][:] = 0.95
    wanted = assert_oracle(scene, 2e-5, 5e-4, background=True)
    assert wanted["alphas"].max() < 1 - 1e-4
    assert wanted["alphas"].median() > 0.999


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 50), (16, 16), (65, 17)])
def test_any_image_size_is_that_of_the_oracle(level: str, width: int, height: int) -> None:
    assert_oracle(case(50, width=width, height=height, size=0.4, seed=width), 5e-6, 2e-4)


@pytest.mark.parametrize("eps2d", [0.3, 1.5])
def test_projections_and_compensations_are_gsplats(level: str, eps2d: float) -> None:
    from gsplat.cuda._torch_impl import _fully_fused_projection

    scene = case(200, views=2, size=0.1, seed=12)
    means, quats, scales, opacities, _ = scene.gaussians
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        means,
        reference.covariances(quats, scales),
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        eps2d=eps2d,
        calc_compensations=True,
    )
    assert compensations is not None
    tensors = [tensor.float() for tensor in (*scene.gaussians, scene.viewmats, scene.Ks)]
    _, _, info = cpu.rasterize(*tensors, scene.width, scene.height, eps2d=eps2d, rasterize_mode="antialiased")
    seen = (info["radii"] > 0).all(dim=-1)
    assert 50 < seen.sum() < 400
    assert compensations[seen].min() < 0.9
    wanted = {
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities * compensations,
    }
    for name, tensor in wanted.items():
        torch.testing.assert_close(info[name][seen].double(), tensor[seen], rtol=1e-4, atol=1e-5)
    # Theirs are ceil(3.33 s); ours end where alpha is 1/255, as the CUDA kernel's do.
    assert (info["radii"][seen] <= radii[seen]).all()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_are_gsplats(level: str, degree: int) -> None:
    from gsplat.cuda._torch_impl import _spherical_harmonics

    scene = case(100, terms=16, seed=degree)
    means, sh, viewmat = scene.gaussians[0], 10 * scene.gaussians[4], scene.viewmats[0]
    wanted = _spherical_harmonics(degree, means - torch.linalg.inv(viewmat)[:3, 3], sh) + 0.5
    assert (wanted < 0).any()
    colors = torch.empty(100, 3)
    inputs = (means.float(), viewmat.float(), sh.float(), torch.ones(100, 2, dtype=torch.int32))
    _native.harmonics(degree, *inputs, colors, 1)
    torch.testing.assert_close(colors.double(), wanted.clamp(min=0), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(("channels", "packed"), [(3, False), (19, False), (3, True)])
def test_one_and_two_threads_give_the_same_bytes(
    level: str, channels: int, packed: bool, threads: Any
) -> None:
    scene = case(5000, channels=channels, width=150, height=83, views=2, seed=11)
    results = []
    for count in (1, 2, 2):
        threads(count)
        results.append(run(cpu, scene, torch.float32, background=True, absgrad=True, packed=packed))
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name
        assert torch.equal(tensor, results[2][name]), name


def test_the_levels_agree() -> None:
    results = [run(cpu, case(300, seed=2), torch.float32) for name in LEVELS if _native.use_simd_level(name)]
    _native.use_simd_level(BEST)
    for other in results[1:]:
        assert_close(other, results[0], 5e-6, 5e-5)


def pair_states(info: dict[str, Any]) -> Tensor:
    """[N P]: what the first camera's pixels do with each Gaussian, front to back; between two states the image jumps.

    The Gaussian's number times 10, and 1 where it is blended, 2 where its alpha is clamped, 4 more where the pixel
    has ended.
    """
    means2d, conics, opacities, depths = (
        info[name][0].detach().double() for name in ("means2d", "conics", "opacities", "depths")
    )
    centers = pixel_centers(info["height"], info["width"]).double().reshape(-1, 2)
    order = depths.argsort(stable=True)
    dx, dy = (centers - means2d[order, None]).unbind(-1)
    xx, xy, yy = conics[order, :, None].unbind(1)
    raw = opacities[order, None] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    blended, clamped = raw >= 1 / 255, raw > 0.999
    left = torch.cumprod(1 - torch.where(blended, raw.clamp(max=0.999), 0.0), dim=0)
    return 10 * order[:, None] + 1 * blended + 1 * clamped + 4 * (left <= 1e-4)


@pytest.mark.parametrize("options", [{}, {"rasterize_mode": "antialiased"}, {"render_mode": "RGB+D"}])
def test_gradients_are_those_of_finite_differences(level: str, options: dict[str, str]) -> None:
    """Central differences along random directions, at pixels that no step pushes over one of the edges."""
    scene = case(12, size=0.3, width=23, height=17, seed=8)
    scene.gaussians[3] = 0.3 + 0.5 * scene.gaussians[3]
    leaves = [tensor.float() for tensor in scene.gaussians]
    background = torch.tensor([[0.2, 0.5, 0.8]])
    generator = torch.Generator().manual_seed(8)
    step = 2e-3
    steps = [
        step * torch.nn.functional.normalize(torch.randn(leaf.shape, generator=generator), dim=-1)
        for leaf in leaves
    ]

    def rendered(*leaves: Tensor) -> tuple[Tensor, dict[str, Any]]:
        images, alphas, info = cpu.rasterize(
            *leaves, scene.viewmats, scene.Ks, 23, 17, backgrounds=background, **options
        )
        return torch.cat([images, alphas], dim=-1), info

    for place, name in enumerate(("means", "quats", "scales", "opacities", "colors")):
        ahead, behind = (
            [leaf + sign * steps[i] if i == place else leaf for i, leaf in enumerate(leaves)]
            for sign in (1, -1)
        )
        (more, info), (less, other_info) = rendered(*ahead), rendered(*behind)
        steady = (pair_states(info) == pair_states(other_info)).all(dim=0).reshape(17, 23)
        assert steady.double().mean() > 0.5
        load = torch.randn(more.shape, generator=generator) * steady[..., None]
        difference = ((more.double() - less.double()) * load).sum()
        leaf = leaves[place].clone().requires_grad_()
        image, _ = rendered(*leaves[:place], leaf, *leaves[place + 1 :])
        (gradient,) = torch.autograd.grad((image * load).sum(), leaf)
        slope = 2 * (gradient.double() * steps[place]).sum()
        assert abs(slope) > 1e-3, name
        assert difference.item() == pytest.approx(slope.item(), rel=0.01), name


def test_gaussians_of_equal_depth_keep_their_order() -> None:
    one = case(1, size=1.0)
    scene = Case([tensor.repeat_interleave(3, dim=0) for tensor in one.gaussians], *cameras(53, 37), 53, 37)
    scene.gaussians[0][:] = torch.tensor([0.0, 0.0, 3.0])
    scene.gaussians[3][:] = 0.5
    scene.gaussians[4] = torch.eye(3, dtype=torch.float64)
    image = run(cpu, scene, torch.float32)["images"][0, 18, 26]
    assert image[0] > image[1] > image[2] > 0


def empty() -> Case:
    return case(0)


def behind() -> Case:
    scene = case(5)
    scene.gaussians[0][:, 2] *= -1
    return scene


def faint() -> Case:
    scene = case(5)
    scene.gaussians[3][:] = 1 / 256
    return scene


def aside() -> Case:
    scene = case(5)
    scene.gaussians[0][:, 0] += 100
    return scene


@pytest.mark.parametrize("make", [empty, behind, faint, aside])
@pytest.mark.parametrize("terms", [0, 4])
def test_an_image_without_a_visible_gaussian_is_its_background(level: str, make: Any, terms: int) -> None:
    scene = make()
    if terms:
        scene.gaussians[4] = torch.zeros(len(scene.gaussians[0]), terms, 3, dtype=torch.float64)
    background = torch.tensor([[0.1, 0.2, 0.3]])
    leaves = [tensor.float().requires_grad_() for tensor in scene.gaussians]
    images, alphas, info = cpu.rasterize(
        *leaves,
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        backgrounds=background,
        sh_degree=1 if terms else None,
    )
    assert torch.equal(images, background.expand_as(images))
    assert torch.equal(alphas, torch.zeros_like(alphas))
    assert not info["radii"].any()
    images.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("parameter", [0, 1, 2, 3])
def test_a_gaussian_that_is_not_finite_is_not_seen(level: str, parameter: int, poison: float) -> None:
    scene = case(30, seed=4)
    clean = Case([t[1:] for t in scene.gaussians], scene.viewmats, scene.Ks, scene.width, scene.height)
    wanted = run(cpu, clean, torch.float32)
    scene.gaussians[parameter][0].fill_(poison) if parameter == 3 else scene.gaussians[parameter][
        0, :1
    ].fill_(poison)
    got = run(cpu, scene, torch.float32)
    assert torch.equal(got["images"], wanted["images"])
    assert not got["radii"][:, 0].any()
    for name in ["by means", "by quats", "by scales", "by opacities", "by colors"]:
        assert not got[name][0].any(), name
        assert torch.allclose(got[name][1:], wanted[name], rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6, 1e18])
def test_absurd_scales_give_finite_images_and_gradients(level: str, scale: float) -> None:
    scene = case(20, seed=6)
    scene.gaussians[2][:10] = scale
    scene.gaussians[1][:2] = 0  # no rotation at all
    for name, tensor in run(cpu, scene, torch.float32).items():
        assert torch.isfinite(tensor.float()).all(), name


def test_only_wanted_gradients_are_computed() -> None:
    scene = case(50, channels=8)
    tensors = [tensor.float() for tensor in scene.gaussians]
    full = run(cpu, scene, torch.float32)
    for wanted in range(5):
        leaves = [tensor.clone().requires_grad_(i == wanted) for i, tensor in enumerate(tensors)]
        images, alphas, _ = cpu.rasterize(*leaves, scene.viewmats, scene.Ks, scene.width, scene.height)
        generator = torch.Generator().manual_seed(1)
        v_images = torch.randn(images.shape, generator=generator, dtype=torch.float64).float()
        v_alphas = torch.randn(alphas.shape, generator=generator, dtype=torch.float64).float()
        torch.autograd.backward([images, alphas], [v_images, v_alphas])
        name = ["by means", "by quats", "by scales", "by opacities", "by colors"][wanted]
        grad = leaves[wanted].grad
        assert grad is not None
        assert torch.allclose(grad, full[name], rtol=1e-4, atol=1e-6)
        assert [leaf.grad is None for leaf in leaves] == [i != wanted for i in range(5)]


def test_a_backward_pass_after_other_images_reads_its_own_lists() -> None:
    first, second = case(400, seed=1), case(300, channels=8, width=90, height=70, seed=2)
    alone = [run(cpu, scene, torch.float32)["by means"] for scene in (first, second)]
    images, leaves = [], []
    for scene in (first, second, first, second):
        tensors = [tensor.float().requires_grad_() for tensor in scene.gaussians]
        out = cpu.rasterize(*tensors, scene.viewmats, scene.Ks, scene.width, scene.height)
        images.append(out)
        leaves.append(tensors)
    for place in (2, 0, 3, 1):
        generator = torch.Generator().manual_seed(1)
        image, alpha, _ = images[place]
        v_image = torch.randn(image.shape, generator=generator, dtype=torch.float64).float()
        v_alpha = torch.randn(alpha.shape, generator=generator, dtype=torch.float64).float()
        torch.autograd.backward([image, alpha], [v_image, v_alpha])
        assert torch.equal(leaves[place][0].grad, alone[place % 2])


def test_second_derivatives_are_refused() -> None:
    scene = case(4)
    means = scene.gaussians[0].float().requires_grad_()
    images, _, _ = cpu.rasterize(means, *scene.gaussians[1:], scene.viewmats, scene.Ks, 20, 20)
    (gradient,) = torch.autograd.grad((images**2).sum(), means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def gaussians_of(scene: Case, dtype: torch.dtype) -> Gaussians:
    means, quats, scales, opacities, _ = (tensor.to(dtype) for tensor in scene.gaussians)
    empty = torch.zeros(len(means), 1, 3, dtype=dtype)
    return Gaussians(means, quats, scales.log(), torch.logit(opacities), empty, empty[:, :0])


@pytest.mark.parametrize("minimum", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("listed", [False, True])
def test_blending_weights_are_those_of_the_oracle(level: str, minimum: float, listed: bool) -> None:
    scene = case(150, seed=9)
    camera = Camera(scene.Ks[0], scene.viewmats[0], scene.width, scene.height)
    pixels = torch.tensor([1960, 0, 53 * 37 - 1, 700, 700, 53, 52, 901]) if listed else None
    wanted = reference.blending_weights(
        gaussians_of(scene, torch.float64), camera, pixels=pixels, minimum=minimum
    )
    got = cpu.blending_weights(gaussians_of(scene, torch.float32), camera, pixels=pixels, minimum=minimum)
    assert got.columns == 150
    assert torch.equal(got.indptr, wanted.indptr)
    assert torch.equal(got.indices, wanted.indices)
    assert torch.allclose(got.values, wanted.values, rtol=1e-4, atol=1e-6)
    assert (got.indptr.dtype, got.indices.dtype, got.values.dtype) == (
        torch.int64,
        torch.int32,
        torch.float32,
    )
    if got.values.numel():
        assert got.values.min() >= minimum


def test_blending_weights_times_colors_are_the_image(level: str, threads: Any) -> None:
    scene = case(3000, width=150, height=83, seed=10)
    camera = Camera(scene.Ks[0], scene.viewmats[0], scene.width, scene.height)
    image = run(cpu, scene, torch.float32)["images"]
    rows = []
    for count in (1, 2):
        threads(count)
        rows.append(
            cpu.blending_weights(gaussians_of(scene, torch.float32), camera, pixels=None, minimum=0.0)
        )
    assert torch.equal(rows[0].values, rows[1].values)
    assert torch.equal(rows[0].indices, rows[1].indices)
    counts = rows[0].indptr[1:] - rows[0].indptr[:-1]
    pixel = torch.repeat_interleave(torch.arange(len(counts)), counts)
    blended = torch.zeros(len(counts), 3).index_add_(
        0, pixel, rows[0].values[:, None] * scene.gaussians[4].float()[rows[0].indices.long()]
    )
    assert torch.allclose(blended.reshape(image.shape), image, atol=2e-5)


def test_no_pixels_and_no_gaussians_have_no_weights() -> None:
    scene = case(0)
    camera = Camera(scene.Ks[0], scene.viewmats[0], scene.width, scene.height)
    whole = cpu.blending_weights(gaussians_of(scene, torch.float32), camera, pixels=None, minimum=1e-3)
    assert len(whole) == scene.width * scene.height
    assert len(whole.indices) == 0
    none = torch.zeros(0, dtype=torch.int64)
    assert (
        len(cpu.blending_weights(gaussians_of(case(9), torch.float32), camera, pixels=none, minimum=0.1)) == 0
    )


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (4, 2), r"means: shape \[4, 3\] wanted, got \[4, 2\]"),
        (1, (5, 4), r"quats: shape \[4, 4\] wanted, got \[5, 4\]"),
        (3, (4, 1), r"opacities: shape \[4\] wanted, got \[4, 1\]"),
        (4, (3, 3), r"colors: shape \[4, 3\] wanted, got \[3, 3\]"),
        (4, (4, 0), r"at least one channel"),
    ],
)
def test_a_wrong_shape_is_named(place: int, shape: tuple[int, ...], message: str) -> None:
    scene = case(4)
    scene.gaussians[place] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        cpu.check(*scene.gaussians, scene.viewmats, scene.Ks, 20, 20, None, "RGB")


def test_an_impossible_image_size_is_named() -> None:
    scene = case(4)
    with pytest.raises(ConfigError, match="got 0 x 20"):
        cpu.rasterize(*scene.gaussians, scene.viewmats, scene.Ks, 0, 20)


def test_a_gradient_by_the_camera_is_refused() -> None:
    scene = case(4)
    with pytest.raises(ConfigError, match="no gradient by viewmats"):
        cpu.rasterize(*scene.gaussians, scene.viewmats.requires_grad_(), scene.Ks, 20, 20)


def test_a_tensor_elsewhere_is_refused() -> None:
    scene = case(4)
    scene.gaussians[1] = scene.gaussians[1].to("meta")
    with pytest.raises(BackendError, match="quats is on meta"):
        cpu.rasterize(*scene.gaussians, scene.viewmats, scene.Ks, 20, 20)


def test_the_environment_chooses_the_instruction_set(level: str, tmp_path: Path) -> None:
    code = "from gs_lift import _native; print(_native.simd_level())"
    result = python(code, tmp_path, GS_LIFT_SIMD=level)
    assert result.stdout.strip() == level


def test_an_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    code = "from gs_lift import _native; _native.simd_level()"
    result = python(code, tmp_path, GS_LIFT_SIMD="mmx")
    assert "GS_LIFT_SIMD" in result.stderr
