"""The oracle: Gaussians rasterized in plain torch, every pixel against every visible Gaussian, with autograd.

Slow and obvious; any dtype. Memory grows as pixels times Gaussians where gradients are wanted.

Notation: a Gaussian with mean mu and covariance Sigma projects to mean2d and, by the Jacobian J of the
projection and the camera's rotation W, Sigma' = J W Sigma W^T J^T + eps2d I (3DGS, equation 5). conic is xx,
xy, yy of the inverse of Sigma'; sigma = d^T Sigma'^-1 d / 2 for d = pixel centre - mean2d; a pair's weight is
w_i = alpha_i prod_{j<i} (1 - alpha_j).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0, pixel_centers, quats_to_rotmats
from gs_lift.rendering.packing import VisiblePairs
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Camera

ALPHA_MAX = 0.999
"""gsplat 1.5.3 clamps here (later versions at 0.99): a pixel is never quite opaque after one Gaussian."""
ALPHA_MIN = 1 / 255
"""Fainter than one grey level, as every 3DGS rasterizer cuts."""
TRANSMITTANCE_MIN = 1e-4
"""The pair that would take a pixel's transmittance here or lower is dropped, and all behind it."""
PAIRS_AT_ONCE = 1 << 22
"""Pixels are taken in chunks of about this many (pixel, Gaussian) pairs."""


@dataclass(frozen=True)
class Projection:
    """Gaussians in C images: [C N ...], or packed [nnz ...]. Entries of an invisible Gaussian are 0."""

    means2d: Float[Tensor, "*rows 2"]
    depths: Float[Tensor, "*rows"]
    conics: Float[Tensor, "*rows 3"]
    opacities: Float[Tensor, "*rows"]
    radii: Int[Tensor, "*rows 2"]

    @property
    def visible(self) -> Bool[Tensor, "*rows"]:
        return (self.radii > 0).all(dim=-1)


def covariances(quats: Float[Tensor, "N 4"], scales: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    """R S S R^T."""
    half = quats_to_rotmats(quats) * scales[:, None, :]
    return half @ half.mT


def _jacobians(
    points: Float[Tensor, "C N 3"], Ks: Float[Tensor, "C 3 3"], width: int, height: int
) -> Float[Tensor, "C N 2 3"]:
    """d pixel / d camera point, taken at most 0.3 of half the image beyond its border, as gsplat does."""
    x, y, z = points.unbind(-1)
    rows = []
    for axis, offset, size in [(0, x, width), (1, y, height)]:
        focal, center = Ks[:, axis, axis, None], Ks[:, axis, 2, None]
        margin = 0.3 * 0.5 * size / focal
        slope = torch.clamp(offset / z, min=-(center / focal + margin), max=(size - center) / focal + margin)
        along, across = focal / z, torch.zeros_like(z)
        toward = -focal * slope / z
        rows.append(torch.stack([along, across, toward] if axis == 0 else [across, along, toward], dim=-1))
    return torch.stack(rows, dim=-2)


def _determinants(matrices: Float[Tensor, "*N 2 2"]) -> Float[Tensor, "*N"]:
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]


def project(
    means: Float[Tensor, "N 3"],
    covars: Float[Tensor, "N 3 3"],
    opacities: Float[Tensor, "N"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    antialiased: bool,
) -> Projection:
    """Where each Gaussian lands in each image; planes in world units, eps2d in pixels squared."""
    rotations = viewmats[:, :3, :3]
    points = torch.einsum("cij,nj->cni", rotations, means) + viewmats[:, None, :3, 3]
    in_range = (points[..., 2] >= near_plane) & (points[..., 2] <= far_plane)
    # A harmless point in place of those that are culled, so that no division by 0 reaches a gradient.
    points = torch.where(in_range[..., None], points, points.new_tensor([0.0, 0.0, 1.0]))
    depths = points[..., 2]
    focals, centers = Ks[:, None, [0, 1], [0, 1]], Ks[:, None, [0, 1], [2, 2]]
    means2d = focals * points[..., :2] / depths[..., None] + centers

    half = _jacobians(points, Ks, width, height) @ rotations[:, None]
    sharp = half @ covars @ half.mT
    blurred = sharp + eps2d * torch.eye(2).to(sharp)
    det = _determinants(blurred)
    valid = in_range & (det > 0)
    det = torch.where(valid, det, torch.ones_like(det))
    xx, xy, yy = blurred[..., 0, 0], blurred[..., 0, 1], blurred[..., 1, 1]
    conics = torch.stack([yy, -xy, xx], dim=-1) / det[..., None]

    opacities = opacities.expand(len(viewmats), -1)
    if antialiased:
        ratio = _determinants(sharp) / det
        positive = ratio > 0
        opacities = opacities * torch.where(positive, ratio, 1.0).sqrt() * positive

    with torch.no_grad():
        # Where the opacity falls to ALPHA_MIN (StopThePop, section B.2): no pixel outside can be touched.
        extent = torch.sqrt(2 * torch.log((opacities / ALPHA_MIN).clamp(min=1))).clamp(max=3.33)
        radii = torch.ceil(extent[..., None] * torch.stack([xx, yy], dim=-1).sqrt())
        size = torch.tensor([width, height]).to(means2d)
        inside = ((means2d + radii > 0) & (means2d - radii < size)).all(dim=-1)
        visible = valid & (opacities >= ALPHA_MIN) & (radii > 0).all(dim=-1) & inside
        radii = torch.where(visible[..., None], radii.clamp(max=2**30), 0).to(torch.int32)
    seen = visible[..., None]
    return Projection(
        means2d=torch.where(seen, means2d, 0.0),
        depths=torch.where(visible, depths, 0.0),
        conics=torch.where(seen, conics, 0.0),
        opacities=torch.where(visible, opacities, 0.0),
        radii=radii,
    )


def sh_bases(degree: int, directions: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N K"]:
    """Real spherical harmonics of degree 0 to 4 in 3DGS's order and signs, at directions of any length."""
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bases = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        c1 = 0.4886025119029199
        bases += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = 1.0925484305920792
        bases += [
            c2 * x * y,
            -c2 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -c2 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        bases += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    if degree >= 4:
        bases += [
            2.5033429417967046 * x * y * (xx - yy),
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (7 * zz - 1),
            -0.6690465435572892 * y * z * (7 * zz - 3),
            0.10578554691520431 * (35 * zz * zz - 30 * zz + 3),
            -0.6690465435572892 * x * z * (7 * zz - 3),
            0.47308734787878004 * (xx - yy) * (7 * zz - 1),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ]
    return torch.stack(bases, dim=-1)


def sh_colors(
    degree: int, means: Float[Tensor, "N 3"], sh: Float[Tensor, "N K 3"], viewmats: Float[Tensor, "C 4 4"]
) -> Float[Tensor, "C N 3"]:
    """max(0, SH + 0.5) seen from each camera's position."""
    positions = torch.linalg.inv(viewmats)[:, :3, 3]
    bases = sh_bases(degree, means[None] - positions[:, None])
    return torch.clamp_min(torch.einsum("cnk,nkd->cnd", bases, sh[:, : bases.shape[-1]]) + 0.5, 0.0)


def pixel_weights(
    deltas: Float[Tensor, "P M 2"], conics: Float[Tensor, "M 3"], opacities: Float[Tensor, "M"]
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "P"]]:
    """Blending weights of Gaussians sorted front to back, and the transmittance left; deltas in pixels."""
    dx, dy = deltas.unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alphas = torch.clamp(opacities * torch.exp(-sigma), max=ALPHA_MAX)
    alphas = torch.where((sigma >= 0) & (alphas >= ALPHA_MIN), alphas, 0.0)
    alphas = torch.where(torch.cumprod(1 - alphas, dim=1) > TRANSMITTANCE_MIN, alphas, 0.0)
    through = torch.cumprod(1 - alphas, dim=1)
    before = torch.cat([through.new_ones(len(through), 1), through], dim=1)
    return alphas * before[:, :-1], before[:, -1]


def _chunks(pixels: int, gaussians: int) -> Iterator[slice]:
    """At least one slice, so that what is made of the chunks can always be joined."""
    step = max(1, PAIRS_AT_ONCE // max(1, gaussians))
    for start in range(0, max(1, pixels), step):
        yield slice(start, start + step)


def _front_to_back(projection: Projection, part: int | slice) -> Int[Tensor, "M"]:
    """Rows of a camera's part that are visible, by depth; the lower row first where depths are equal."""
    rows = projection.visible[part].nonzero()[:, 0]
    return rows[torch.argsort(projection.depths[part][rows].detach(), stable=True)]


def _blend(
    projection: Projection,
    part: int | slice,
    values: Float[Tensor, "N X"],
    centers: Float[Tensor, "P 2"],
    absgrad: bool,
) -> tuple[Float[Tensor, "P X"], Float[Tensor, "P"]]:
    """The image without background, and the transmittance left, at each pixel of one camera.

    part: where its rows of the projection lie: its number, or a slice where the projection is packed.
    """
    order = _front_to_back(projection, part)
    means2d = projection.means2d
    conics, opacities = projection.conics[part][order], projection.opacities[part][order]

    def add_absolute(gradient: Tensor) -> None:
        if getattr(means2d, "absgrad", None) is None:
            means2d.absgrad = torch.zeros_like(means2d)  # type: ignore[attr-defined]
        means2d.absgrad[part][order] += gradient.abs().sum(dim=0)  # type: ignore[attr-defined]

    images, lefts = [], []
    for chunk in _chunks(len(centers), len(order)):
        # Each pixel gets its own copy of the means: absgrad is the sum of their absolute gradients.
        copies = means2d[part][order].expand(len(centers[chunk]), -1, -1)
        if absgrad and copies.requires_grad:
            copies.register_hook(add_absolute)
        weights, left = pixel_weights(centers[chunk, None] - copies, conics, opacities)
        images.append(weights @ values[order])
        lefts.append(left)
    return torch.cat(images), torch.cat(lefts)


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
    """As `gs_lift.rendering.rasterize`."""
    projection = project(
        means,
        covariances(quats, scales),
        opacities,
        viewmats,
        Ks,
        width,
        height,
        near_plane,
        far_plane,
        eps2d,
        antialiased=rasterize_mode == "antialiased",
    )
    values = (
        colors.expand(len(viewmats), -1, -1)
        if sh_degree is None
        else sh_colors(sh_degree, means, colors, viewmats)
    )
    pairs: VisiblePairs | None = None
    parts: Sequence[int | slice] = range(len(viewmats))
    if packed:
        pairs = VisiblePairs.of(projection.radii)
        parts = pairs.rows(len(viewmats))
        projection = Projection(**{name: pairs.pack(tensor) for name, tensor in vars(projection).items()})
        values = pairs.pack(values)
    if render_mode in ("D", "ED"):
        values, backgrounds = values[..., :0], None
    if render_mode != "RGB":
        values = torch.cat([values, projection.depths[..., None]], dim=-1)
        if backgrounds is not None:
            backgrounds = torch.cat([backgrounds, torch.zeros_like(backgrounds[:, :1])], dim=-1)

    centers = pixel_centers(height, width).reshape(-1, 2).to(means)
    blended = [_blend(projection, part, values[part], centers, absgrad) for part in parts]
    images = torch.stack([image for image, _ in blended])
    left = torch.stack([left for _, left in blended])[..., None]
    if backgrounds is not None:
        images = images + left * backgrounds[:, None]
    alphas = 1 - left
    if render_mode in ("ED", "RGB+ED"):
        images = torch.cat([images[..., :-1], images[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
    info = {
        "means2d": projection.means2d,
        "radii": projection.radii,
        "depths": projection.depths,
        "conics": projection.conics,
        "opacities": projection.opacities,
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
        "camera_ids": None if pairs is None else pairs.camera_ids,
        "gaussian_ids": None if pairs is None else pairs.gaussian_ids,
    }
    return images.unflatten(1, (height, width)), alphas.unflatten(1, (height, width)), info


def blending_weights(
    gaussians: Gaussians, camera: Camera, *, pixels: Int[Tensor, "P"] | None, minimum: float
) -> Weights:
    """As `gs_lift.rendering.blending_weights`, computed in the dtype of the means."""
    means = gaussians.means
    projection = project(
        means,
        covariances(gaussians.quats, gaussians.scales),
        gaussians.opacities,
        camera.viewmat.to(means)[None],
        camera.K.to(means)[None],
        camera.width,
        camera.height,
        near_plane=0.01,
        far_plane=1e10,
        eps2d=0.3,
        antialiased=gaussians.antialiased,
    )
    order = _front_to_back(projection, 0)
    centers = pixel_centers(camera.height, camera.width).reshape(-1, 2).to(means)
    if pixels is not None:
        centers = centers[pixels.to(torch.int64)]
    counts, indices, values = [], [], []
    for chunk in _chunks(len(centers), len(order)):
        deltas = centers[chunk, None] - projection.means2d[0, order]
        weights, _ = pixel_weights(deltas, projection.conics[0, order], projection.opacities[0, order])
        kept = (weights >= minimum) & (weights > 0)
        counts.append(kept.sum(dim=1))
        indices.append(order[kept.nonzero()[:, 1]])
        values.append(weights[kept])
    indptr = torch.zeros(len(centers) + 1, dtype=torch.int64)
    indptr[1:] = torch.cumsum(torch.cat(counts), dim=0)
    return Weights(
        indptr, torch.cat(indices).int().cpu(), torch.cat(values).float().cpu(), columns=len(gaussians)
    )
