"""Rasterization on the CPU: the C++ kernels of gs_lift._native behind autograd, in float32, for any cameras.

Three differentiable steps, each of which does only what the wanted gradients need: projection, spherical
harmonics and blending. Results are the same bytes for any number of threads (`torch.set_num_threads`). The
kernels are compiled for AVX-512, AVX2 and a portable baseline; the environment variable GS_LIFT_SIMD (avx512,
avx2, baseline) overrides the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from gs_lift.errors import BackendError, ConfigError
from gs_lift.gaussians import Gaussians
from gs_lift.rendering.packing import VisiblePairs
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Camera
from gs_lift.threads import kernel_threads

try:
    from gs_lift import _native
except ImportError as error:
    raise BackendError(
        f"backend 'cpu': the extension gs_lift._native is missing ({error}); reinstall gs_lift"
    ) from error

TILE = 16
"""Pixels along the side of a tile, as in the kernels."""
LARGEST_SIDE = 1 << 20
"""Most pixels along a side of an image: a tile's column must fit 16 bits."""


@dataclass(frozen=True)
class _View:
    """What the projection needs beside tensors."""

    width: int
    height: int
    near_plane: float
    far_plane: float
    eps2d: float
    antialiased: bool


def simd_level() -> str:
    """The instruction set that the kernels use: avx512, avx2 or baseline."""
    return _native.simd_level()


class _Project(torch.autograd.Function):
    """means, quats, scales -> means2d, conics, depths, compensations; radii carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        view: _View,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        cameras, count, threads = len(viewmats), len(means), kernel_threads()
        means2d, conics = means.new_empty(cameras, count, 2), means.new_empty(cameras, count, 3)
        depths, radii = means.new_empty(cameras, count), torch.empty(cameras, count, 2, dtype=torch.int32)
        compensations = means.new_empty(cameras, count) if view.antialiased else None
        inputs = [tensor.detach() for tensor in (means, quats, scales, opacities)]
        for c in range(cameras):
            _native.project(
                *inputs,
                viewmats[c],
                Ks[c],
                view.width,
                view.height,
                view.near_plane,
                view.far_plane,
                view.eps2d,
                means2d[c],
                conics[c],
                depths[c],
                None if compensations is None else compensations[c],
                radii[c],
                threads,
            )
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.view = view
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return means2d, conics, depths, compensations, radii

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        v_means2d: Tensor | None,
        v_conics: Tensor | None,
        v_depths: Tensor | None,
        v_compensations: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
        wanted = [
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip((means, quats, scales), ctx.needs_input_grad[:3], strict=True)
        ]
        given = [
            None if v is None else v.contiguous() for v in (v_means2d, v_conics, v_depths, v_compensations)
        ]
        inputs = [tensor.detach() for tensor in (means, quats, scales)]
        for c in range(len(viewmats)):
            _native.project_backward(
                *inputs,
                viewmats[c],
                Ks[c],
                ctx.view.width,
                ctx.view.height,
                ctx.view.eps2d,
                ctx.view.antialiased,
                radii[c],
                *(None if v is None else v[c] for v in given),
                *wanted,
                kernel_threads(),
            )
        return (*wanted, None, None, None, None)


class _Harmonics(torch.autograd.Function):
    """means, sh -> max(0, SH + 0.5) from each camera; black where a Gaussian is not seen."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, sh: Tensor, viewmats: Tensor, radii: Tensor, degree: int) -> Tensor:
        colors = means.new_empty(len(viewmats), len(means), 3)
        for c in range(len(viewmats)):
            _native.harmonics(
                degree, means.detach(), viewmats[c], sh.detach(), radii[c], colors[c], kernel_threads()
            )
        ctx.save_for_backward(means, sh, viewmats, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:
        means, sh, viewmats, colors = ctx.saved_tensors
        v_means = torch.zeros_like(means) if ctx.needs_input_grad[0] else None
        v_sh = torch.zeros_like(sh) if ctx.needs_input_grad[1] else None
        v_colors = v_colors.contiguous()
        for c in range(len(viewmats)):
            _native.harmonics_backward(
                ctx.degree,
                means.detach(),
                viewmats[c],
                sh.detach(),
                colors[c],
                v_colors[c],
                v_means,
                v_sh,
                kernel_threads(),
            )
        return v_means, v_sh, None, None, None


class _Blend(torch.autograd.Function):
    """means2d, conics, opacities, colors, backgrounds -> images, alphas.

    What is of Gaussians is [C N ...] or packed [nnz ...]; `parts` says where each camera's rows lie.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor | None,
        depths: Tensor,
        radii: Tensor,
        parts: Sequence[int | slice],
        size: tuple[int, int],
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        (width, height), threads = size, kernel_threads()
        cameras, channels = len(parts), colors.shape[-1]
        images, left = (
            colors.new_empty(cameras, height, width, channels),
            colors.new_empty(cameras, height, width),
        )
        frames = []
        for c, part in enumerate(parts):
            frame = _native.Frame()
            frame.build(
                means2d[part].detach(),
                conics[part].detach(),
                opacities[part].detach(),
                depths[part].detach(),
                radii[part],
                width,
                height,
                threads,
            )
            background = None if backgrounds is None else backgrounds[c].detach()
            frame.blend(colors[part].detach(), background, images[c], left[c], threads)
            frames.append(frame)
        ctx.save_for_backward(means2d, conics, opacities, colors, images, left)
        ctx.frames, ctx.parts, ctx.absgrad = frames, parts, absgrad
        ctx.set_materialize_grads(False)
        return images, (1 - left)[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_images: Tensor | None, v_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, images, left = ctx.saved_tensors
        v_images = torch.zeros_like(images) if v_images is None else v_images.contiguous()
        v_left = torch.zeros_like(left) if v_alphas is None else v_alphas[..., 0].contiguous()
        geometry = any(ctx.needs_input_grad[:3])
        v_means2d, v_conics, v_opacities = (
            (torch.empty_like(means2d), torch.empty_like(conics), means2d.new_empty(opacities.shape))
            if geometry
            else (None, None, None)
        )
        v_absolute = torch.empty_like(means2d) if geometry and ctx.absgrad else None
        v_colors = means2d.new_empty(colors.shape) if ctx.needs_input_grad[3] else None
        if geometry or v_colors is not None:
            for c, (frame, part) in enumerate(zip(ctx.frames, ctx.parts, strict=True)):
                outputs = (v_means2d, v_conics, v_opacities, v_colors, v_absolute)
                frame.blend_backward(
                    opacities[part].detach(),
                    colors[part].detach(),
                    images[c],
                    left[c],
                    v_images[c],
                    v_left[c],
                    *(None if v is None else v[part] for v in outputs),
                    kernel_threads(),
                )
        if v_absolute is not None:
            means2d.absgrad = v_absolute
        v_backgrounds = (v_images * left[..., None]).sum(dim=(1, 2)) if ctx.needs_input_grad[4] else None
        return v_means2d, v_conics, v_opacities, v_colors, v_backgrounds, *5 * [None]


def rasterize(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, "N"],
    colors: Float[Tensor, "N D"] | Float[Tensor, "N K 3"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Float[Tensor, "C D"] | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    absgrad: bool = False,
    packed: bool = False,
) -> tuple[Float[Tensor, "C H W X"], Float[Tensor, "C H W 1"], dict[str, Any]]:
    """As `gs_lift.rendering.rasterize`. A Gaussian with a parameter that is not finite is not seen."""
    check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, backgrounds, render_mode)
    means, quats, scales, opacities, colors = (
        tensor.float().contiguous() for tensor in (means, quats, scales, opacities, colors)
    )
    viewmats, Ks = viewmats.detach().float().contiguous(), Ks.detach().float().contiguous()
    view = _View(width, height, near_plane, far_plane, eps2d, rasterize_mode == "antialiased")
    means2d, conics, depths, compensations, radii = _Project.apply(
        means, quats, scales, opacities, viewmats, Ks, view
    )
    cameras = len(viewmats)
    effective = opacities[None] if cameras == 1 else opacities.expand(cameras, -1)
    if compensations is not None:
        effective = effective * compensations
    if sh_degree is not None:
        values = _Harmonics.apply(means, colors, viewmats, radii, sh_degree)
    else:
        values = colors[None] if cameras == 1 else colors.expand(cameras, -1, -1)
    pairs: VisiblePairs | None = None
    parts: Sequence[int | slice] = range(cameras)
    if packed:
        pairs = VisiblePairs.of(radii)
        parts = pairs.rows(cameras)
        means2d, conics, depths, effective, values, radii = (
            pairs.pack(tensor) for tensor in (means2d, conics, depths, effective, values, radii)
        )
    if render_mode in ("D", "ED"):
        values, backgrounds = depths[..., None], None
    elif render_mode != "RGB":
        values = torch.cat([values, depths[..., None]], dim=-1)
        if backgrounds is not None:
            backgrounds = torch.cat([backgrounds, torch.zeros_like(backgrounds[:, :1])], dim=-1)
    if backgrounds is not None:
        backgrounds = backgrounds.float().contiguous()

    images, alphas = _Blend.apply(
        means2d, conics, effective, values, backgrounds, depths, radii, parts, (width, height), absgrad
    )
    if render_mode in ("ED", "RGB+ED"):
        images = torch.cat([images[..., :-1], images[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
    info = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "conics": conics,
        "opacities": effective,
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "tile_size": TILE,
        "tile_width": -(-width // TILE),
        "tile_height": -(-height // TILE),
        "camera_ids": None if pairs is None else pairs.camera_ids,
        "gaussian_ids": None if pairs is None else pairs.gaussian_ids,
    }
    return images, alphas, info


def blending_weights(
    gaussians: Gaussians, camera: Camera, *, pixels: Int[Tensor, "P"] | None, minimum: float
) -> Weights:
    """As `gs_lift.rendering.blending_weights`."""
    with torch.no_grad():
        means, quats, scales, opacities = (
            tensor.detach().float().contiguous()
            for tensor in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
        )
        viewmats, Ks = camera.viewmat[None].float().contiguous(), camera.K[None].float().contiguous()
        check(means, quats, scales, opacities, means, viewmats, Ks, camera.width, camera.height, None, "RGB")
        view = _View(camera.width, camera.height, 0.01, 1e10, 0.3, gaussians.antialiased)
        means2d, conics, depths, compensations, radii = _Project.apply(
            means, quats, scales, opacities, viewmats, Ks, view
        )
        if compensations is not None:
            opacities = opacities * compensations[0]
        threads = kernel_threads()
        frame = _native.Frame()
        frame.build(
            means2d[0], conics[0], opacities, depths[0], radii[0], camera.width, camera.height, threads
        )
        ids = None if pixels is None else pixels.to(torch.int64).contiguous()
        indptr, indices, values = _native.frame_weights(frame, ids, minimum, threads)
    return Weights(indptr, indices, values, columns=len(means))


def check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    backgrounds: Tensor | None,
    render_mode: str,
) -> None:
    """ConfigError for a shape that does not fit the others, BackendError for a tensor not on the CPU."""
    count, cameras = len(means), len(viewmats)
    wanted = {
        "means": (means, (count, 3)),
        "quats": (quats, (count, 4)),
        "scales": (scales, (count, 3)),
        "opacities": (opacities, (count,)),
        "colors": (
            colors,
            (count, *colors.shape[1:2], 3) if colors.dim() == 3 else (count, colors.shape[-1]),
        ),
        "viewmats": (viewmats, (cameras, 4, 4)),
        "Ks": (Ks, (cameras, 3, 3)),
    }
    if backgrounds is not None and render_mode not in ("D", "ED"):
        wanted["backgrounds"] = (backgrounds, (cameras, colors.shape[-1]))
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ConfigError(f"{name}: shape {list(shape)} wanted, got {list(tensor.shape)}")
        if tensor.device.type != "cpu":
            raise BackendError(f"{name} is on {tensor.device}: backend 'cpu' wants it on the CPU; use .cpu()")
    if colors.shape[-1] == 0 and render_mode not in ("D", "ED"):
        raise ConfigError("colors: at least one channel wanted, got 0")
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ConfigError(f"image of 1 to {LARGEST_SIDE} pixels along a side wanted, got {width} x {height}")
    if viewmats.requires_grad or Ks.requires_grad:
        raise ConfigError("backend 'cpu' gives no gradient by viewmats or Ks; detach them")
