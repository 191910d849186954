"""gsplat 1.5.3's CUDA rasterizer behind our argument names.

Tests marked `gpu` hold it to the oracle like any backend (docs/benchmarks.md says where they ran). What runs without a
GPU is tested everywhere: that gsplat takes the arguments it is given, and the weights of its pairs.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.errors import BackendError
from gs_lift.gaussians import Gaussians
from gs_lift.rendering import reference
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Camera


def taking(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments`, or a BackendError that names those which the installed gsplat does not take."""
    unknown = sorted(set(arguments) - set(inspect.signature(function).parameters))
    if unknown:
        raise BackendError(
            f"gsplat's {function.__name__} takes no {', '.join(unknown)}: install gsplat>=1.5.3,<1.6"
        )
    return arguments


def _check(tensors: dict[str, Tensor]) -> None:
    """Raise a BackendError unless gsplat's kernels are here and can read the tensors."""
    if not torch.cuda.is_available():
        raise BackendError("backend 'gsplat' needs a CUDA device and torch finds none; take backend 'cpu'")
    for name, tensor in tensors.items():
        if tensor.device.type != "cuda" or tensor.dtype != torch.float32:
            raise BackendError(
                f"backend 'gsplat' wants float32 on CUDA; got {name} in {tensor.dtype} on {tensor.device}"
            )
    try:
        # Compiles the kernels where gsplat was installed without them (minutes, once).
        from gsplat.cuda._backend import _C
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"gsplat's CUDA kernels cannot be loaded: {str(error).splitlines()[0]}") from error
    if _C is None:
        raise BackendError(
            "gsplat has no CUDA kernels: install a CUDA toolkit, or a gsplat wheel that has them"
        )


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
    """As `gs_lift.rendering.rasterize`. The kernels read rows: the tensors are made contiguous."""
    tensors = {
        "means": means,
        "quats": quats,
        "scales": scales,
        "opacities": opacities,
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
    }
    if backgrounds is not None:
        tensors["backgrounds"] = backgrounds
    _check(tensors)
    from gsplat import rasterization

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    arguments: dict[str, Any] = contiguous | {
        "width": width,
        "height": height,
        "near_plane": near_plane,
        "far_plane": far_plane,
        "eps2d": eps2d,
        "sh_degree": sh_degree,
        "render_mode": render_mode,
        "rasterize_mode": rasterize_mode,
        "absgrad": absgrad,
        "packed": packed,
    }
    if len(means) == 0:
        # gsplat divides by the number of Gaussians; the oracle returns the background.
        return reference.rasterize(**arguments)
    return rasterization(**taking(rasterization, arguments))


def blending_weights(
    gaussians: Gaussians, camera: Camera, *, pixels: Int[Tensor, "P"] | None, minimum: float
) -> Weights:
    """As `gs_lift.rendering.blending_weights`: gsplat lists the blended pairs, we work out their weights."""
    means = gaussians.means
    _, _, info = rasterize(
        means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        means.new_zeros(len(gaussians), 1),
        camera.viewmat.to(means)[None],
        camera.K.to(means)[None],
        camera.width,
        camera.height,
        rasterize_mode="antialiased" if gaussians.antialiased else "classic",
    )
    if len(gaussians) == 0:
        return reference.blending_weights(gaussians, camera, pixels=pixels, minimum=minimum)
    from gsplat import rasterize_to_indices_in_range

    arguments = {
        "range_start": 0,
        "range_end": 2**31 - 1,
        "transmittances": means.new_ones(1, camera.height, camera.width),
        "means2d": info["means2d"],
        "conics": info["conics"],
        "opacities": info["opacities"],
        "image_width": camera.width,
        "image_height": camera.height,
        "tile_size": info["tile_size"],
        "isect_offsets": info["isect_offsets"],
        "flatten_ids": info["flatten_ids"],
    }
    gaussian_ids, pixel_ids, _ = rasterize_to_indices_in_range(
        **taking(rasterize_to_indices_in_range, arguments)
    )
    weights = weights_of_pairs(
        gaussian_ids,
        pixel_ids,
        info["means2d"][0],
        info["conics"][0],
        info["opacities"][0],
        camera.width,
        camera.height,
        minimum,
    )
    return weights if pixels is None else weights.rows(pixels.cpu().long())


def weights_of_pairs(
    gaussian_ids: Int[Tensor, "M"],
    pixel_ids: Int[Tensor, "M"],
    means2d: Float[Tensor, "N 2"],
    conics: Float[Tensor, "N 3"],
    opacities: Float[Tensor, "N"],
    width: int,
    height: int,
    minimum: float,
) -> Weights:
    """Weights of blended pairs that stand pixel after pixel, front to back, as gsplat's `accumulate` does."""
    centers = torch.stack([pixel_ids % width, pixel_ids // width], dim=-1) + 0.5
    dx, dy = (centers - means2d[gaussian_ids]).unbind(-1)
    xx, xy, yy = conics[gaussian_ids].unbind(-1)
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alphas = torch.clamp(opacities[gaussian_ids] * torch.exp(-sigma), max=reference.ALPHA_MAX).double()
    # Transmittance before each pair: a running sum of logarithms, less its value where the pixel starts.
    logs = torch.log1p(-alphas)
    before = torch.cumsum(logs, dim=0) - logs
    counts = torch.bincount(pixel_ids, minlength=width * height)
    starts = torch.cumsum(counts, dim=0) - counts
    values = alphas * torch.exp(before - before[starts[pixel_ids]])
    kept = values >= minimum
    indptr = torch.zeros(width * height + 1, dtype=torch.int64)
    indptr[1:] = torch.cumsum(torch.bincount(pixel_ids[kept], minlength=width * height), dim=0)
    return Weights(indptr, gaussian_ids[kept].int().cpu(), values[kept].float().cpu(), columns=len(means2d))
