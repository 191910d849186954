"""Rendering Gaussians: one function, several backends, with gsplat's argument names and conventions.

A backend is a module with two functions, which are called with keyword arguments:

    rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height, *, near_plane, far_plane,
              eps2d, sh_degree, backgrounds, render_mode, rasterize_mode, absgrad, packed)
        -> (colors, alphas, info)
    blending_weights(gaussians, camera, *, pixels, minimum) -> Weights, on the CPU

It may leave out any keyword-only argument of `rasterize`: a value that departs from the default is then
refused by name. The results are those of gsplat 1.5.3 (`gsplat.rasterization`, pinhole cameras, no skew):

- alpha = min(0.999, opacity exp(-sigma)), skipped below 1/255; a pixel ends before the pair that would take
  its transmittance to 1e-4 or less; Gaussians of equal depth keep their order.
- Visible: near_plane <= depth <= far_plane, opacity (compensated where antialiased) >= 1/255, and the box of
  radii touches the image. radii = ceil(min(3.33, sqrt(2 ln(255 opacity))) sqrt(variance)) for each axis in
  pixels, int32; 0 for an invisible Gaussian, whose other entries of info mean nothing.
- info holds at least means2d [C N 2] (in the autograd graph: `retain_grad()` gives its gradient, per pixel;
  with absgrad, backward sets `means2d.absgrad`, the sum of each pixel's absolute gradient), radii [C N 2],
  depths, opacities [C N], conics [C N 3], width, height, n_cameras, and camera_ids = gaussian_ids = None: what
  gsplat's strategies read.
- Packed, it holds rows of the visible Gaussians only, [nnz ...] instead of [C N ...], with their camera_ids and
  gaussian_ids [nnz] int64: camera after camera, by ascending id. Images come of these rows: means2d has its
  gradient and its absgrad as above.
- Gradients reach means, quats, scales, opacities, colors and backgrounds. Cameras need not get any.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.errors import ConfigError, pick
from gs_lift.gaussians import Gaussians
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Camera

BACKENDS: dict[str, Callable[[], ModuleType]] = {
    "reference": lambda: import_module("gs_lift.rendering.reference"),
    "cpu": lambda: import_module("gs_lift.rendering.cpu"),
    "gsplat": lambda: import_module("gs_lift.rendering.gsplat_backend"),
}
"""Plain torch, the oracle; C++ on the CPU; CUDA. Each value loads its module."""

RENDER_MODES = {"RGB": False, "D": True, "ED": True, "RGB+D": True, "RGB+ED": True}
"""What `render_mode` may be, and whether its last channel is depth: D accumulated, ED divided by alpha."""

RASTERIZE_MODES = {"classic": False, "antialiased": True}
"""What `rasterize_mode` may be, and whether opacities make up for eps2d (Mip-Splatting)."""

ONLY_GSPLATS: dict[str, Any] = {
    "radius_clip": 0.0,
    "tile_size": 16,
    "sparse_grad": False,
    "distributed": False,
    "camera_model": "pinhole",
    "covars": None,
    "with_ut": False,
    "with_eval3d": False,
    "radial_coeffs": None,
    "tangential_coeffs": None,
    "thin_prism_coeffs": None,
    "ftheta_coeffs": None,
    "rolling_shutter": "GLOBAL",
    "viewmats_rs": None,
}
"""Arguments of `gsplat.rasterization` that are not ours, and gsplat's default, the one value that is taken."""

UNUSED = ("channel_chunk", "segmented")
"""Arguments of `gsplat.rasterization` that change how it works and never what it gives: taken, and not used."""


@dataclass(frozen=True)
class Rendering:
    """One rendered image.

    colors: not clamped; no channels in the modes D and ED. alphas: 0..1. depths: along the optical axis in
    world units, None in a mode without. info: the backend's intermediate results, for densification.
    """

    colors: Float[Tensor, "H W D"]
    alphas: Float[Tensor, "H W"]
    depths: Float[Tensor, "H W"] | None
    info: dict[str, Any]


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
    backend: str = "cpu",
    **others: Any,
) -> tuple[Float[Tensor, "C H W X"], Float[Tensor, "C H W 1"], dict[str, Any]]:
    """Colours, alphas and info of C cameras, as `gsplat.rasterization` gives them.

    colors: values [N D], or spherical harmonics [N K 3] up to `sh_degree` where that is given (then colour is
    max(0, SH + 0.5)). The last of the X channels is the depth where `render_mode` has one. packed: info has rows
    of the visible Gaussians only (see the module); gsplat's own default is True. others: gsplat's further
    arguments, so that a call of it can stay as it is: their defaults are taken (ONLY_GSPLATS), other values
    refused. Raises ConfigError for an unknown value or an argument that is not taken, TypeError for one that gsplat
    has not either, BackendError where the backend is not here.
    """
    _refuse(others)
    pick(RENDER_MODES, render_mode, "render_mode")
    pick(RASTERIZE_MODES, rasterize_mode, "rasterize_mode")
    if sh_degree is not None and (colors.dim() != 3 or (sh_degree + 1) ** 2 > colors.shape[1]):
        raise ConfigError(
            f"sh_degree {sh_degree} wants colors [N {(sh_degree + 1) ** 2} 3], "
            f"got {list(colors.shape)}; lower sh_degree"
        )
    if sh_degree is None and colors.dim() != 2:
        raise ConfigError(
            f"colors {list(colors.shape)}: give sh_degree for spherical harmonics [N K 3], "
            "or colors [N D] that are the same for all cameras"
        )
    module = pick(BACKENDS, backend, "backend")()
    options = {
        "near_plane": near_plane,
        "far_plane": far_plane,
        "eps2d": eps2d,
        "sh_degree": sh_degree,
        "backgrounds": backgrounds,
        "render_mode": render_mode,
        "rasterize_mode": rasterize_mode,
        "absgrad": absgrad,
        "packed": packed,
    }
    return module.rasterize(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
        **_accepted(module, options, backend),
    )


def _refuse(others: dict[str, Any]) -> None:
    """Raise for the first argument that is not gsplat's, or asks of gsplat what we do not have."""
    for name, value in others.items():
        if name not in ONLY_GSPLATS and name not in UNUSED:
            raise TypeError(f"rasterize() got an unexpected keyword argument {name!r}")
        if name in UNUSED:
            continue
        # rolling_shutter is a member of an enum of gsplat's, which need not be installed.
        given = "tensor" if isinstance(value, Tensor) else getattr(value, "name", value)
        if given != ONLY_GSPLATS[name]:
            raise ConfigError(
                f"{name}={given!r} is not here, only gsplat's default {ONLY_GSPLATS[name]!r}; leave it out"
            )


def _accepted(module: ModuleType, options: dict[str, Any], backend: str) -> dict[str, Any]:
    """The options that the backend's `rasterize` has; another one must have its default value."""
    taken = inspect.signature(module.rasterize).parameters
    defaults = inspect.signature(rasterize).parameters
    for name, value in options.items():
        if name not in taken and value != defaults[name].default:
            raise ConfigError(
                f"backend {backend!r} does not take {name}={value!r}; leave it out or take another backend"
            )
    return {name: value for name, value in options.items() if name in taken}


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    features: Float[Tensor, "N D"] | None = None,
    sh_degree: int | None = None,
    background: Float[Tensor, "D"] | None = None,
    render_mode: str = "RGB",
    absgrad: bool = False,
    backend: str = "cpu",
) -> Rendering:
    """What one camera sees: the Gaussians' colours (to degree 3, or up to `sh_degree`), or `features`."""
    if features is None:
        # Some splats hold degree 4: it is kept in files, and no backend renders it.
        colors, degree = gaussians.sh, min(gaussians.sh_degree, 3) if sh_degree is None else sh_degree
    elif sh_degree is None:
        colors, degree = features, None
    else:
        raise ConfigError(f"sh_degree {sh_degree} is for spherical harmonics: leave it out beside features")
    images, alphas, info = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        colors,
        camera.viewmat.to(gaussians.means)[None],
        camera.K.to(gaussians.means)[None],
        camera.width,
        camera.height,
        sh_degree=degree,
        backgrounds=None if background is None else background.to(gaussians.means)[None],
        render_mode=render_mode,
        rasterize_mode="antialiased" if gaussians.antialiased else "classic",
        absgrad=absgrad,
        backend=backend,
    )
    if RENDER_MODES[render_mode]:
        return Rendering(images[0, ..., :-1], alphas[0, ..., 0], images[0, ..., -1], info)
    return Rendering(images[0], alphas[0, ..., 0], None, info)


def blending_weights(
    gaussians: Gaussians,
    camera: Camera,
    *,
    pixels: Int[Tensor, "P"] | None = None,
    minimum: float = 1e-3,
    backend: str = "cpu",
) -> Weights:
    """W of `colors = W @ features`: alpha times transmittance, a row per pixel, front to back; no gradients.

    pixels: flat ids row * width + column, in any order, also repeated; all of them in image order by default.
    minimum: pairs of a smaller weight are left out (they still take their transmittance).
    """
    count = camera.width * camera.height
    if pixels is not None and len(pixels) > 0 and not 0 <= int(pixels.min()) <= int(pixels.max()) < count:
        raise ConfigError(
            f"pixels must lie in 0..{count - 1} ({camera.width} x {camera.height}); "
            f"got {int(pixels.min())}..{int(pixels.max())}"
        )
    module = pick(BACKENDS, backend, "backend")()
    with torch.no_grad():
        return module.blending_weights(gaussians=gaussians, camera=camera, pixels=pixels, minimum=minimum)
