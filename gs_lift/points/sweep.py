"""Dense points by a plane sweep: each pixel gets the depth at which other photos look most like it.

Notation: a pixel u of one photo at inverse depth q lies in another photo at A u + q b, up to scale (A: the
homography at infinity, b: the epipole, both for grid_sample's -1..1). Sweeping q at half resolution finds the
surface, a few finer steps at full resolution place it, and what other depth maps confirm becomes a point.
After Collins 1996 (plane sweep) and Galliani et al. 2015 (fusion by consistency).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gs_lift.geometry import unproject
from gs_lift.scene import Camera

NEIGHBOURS = 4
"""Photos that each photo is compared with; the better half of them decides, as the others may be occluded."""

ANGLE = 12.0
"""Degrees between the rays of a good pair: wider is more exact, narrower looks more alike."""

WINDOW = 5
"""Pixels across the compared window. On messy_sam_50 5, 7, 9 gave median errors of 3.9, 5.2, 6.5 mm."""

MAX_PLANES = 128

MIN_SCORE = 0.8
"""Least normalised cross-correlation of a point."""

MIN_CONFIRMED = 2
"""Depth maps that must agree with a point, besides its own."""

DEPTH_TOLERANCE = 0.01
"""How far depth maps may disagree, as a share of the depth."""

FILL_TOLERANCE = 0.05
"""The same for guesses on plain surfaces."""


@dataclass(frozen=True)
class Photo:
    """A view at the size at which it is matched: colours, luma (ITU-R BT.601), camera."""

    colors: Float[Tensor, "3 H W"]
    gray: Float[Tensor, "1 1 H W"]
    camera: Camera

    @classmethod
    def make(cls, image: Float[Tensor, "H W 3"], camera: Camera, side: int) -> "Photo":
        """The photo, reduced if its longer side has more than `side` pixels."""
        colors = image.permute(2, 0, 1).contiguous()
        if max(image.shape[:2]) > side:
            width, height = (
                max(1, round(size * side / max(image.shape[:2]))) for size in colors.shape[:0:-1]
            )
            colors = functional.interpolate(
                colors[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
            )[0]
            camera = camera.resized(width, height)
        gray = 0.299 * colors[0] + 0.587 * colors[1] + 0.114 * colors[2]
        return cls(colors, gray[None, None], camera)

    def reduced(self, side: int) -> "Photo":
        return Photo.make(self.colors.permute(1, 2, 0), self.camera, side)

    @property
    def half(self) -> Float[Tensor, "1 1 H2 W2"]:
        return functional.avg_pool2d(self.gray, 2)


@dataclass(frozen=True)
class Points:
    """Points in the world (float64) and their colours in 0..1."""

    points: Float[Tensor, "Q 3"]
    colors: Float[Tensor, "Q 3"]

    def __len__(self) -> int:
        return len(self.points)

    def sample(self, count: int, generator: torch.Generator) -> "Points":
        """At most `count` of them, drawn evenly."""
        order = torch.randperm(len(self), generator=generator)[:count]
        return Points(self.points[order], self.colors[order])


def sweep(
    photos: list[Photo],
    sparse: Float[Tensor, "P 3"],
    *,
    on_photo: Callable[[int], None] = lambda done: None,
) -> tuple[Points, Points]:
    """One point for each pixel of each photo whose depth others confirm, and a guess for most of the other pixels.

    `sparse` points say where to look. The guesses continue the confirmed depths over plain surfaces, which look alike
    at any depth: too coarse to be surfaces, but better than holes to start from.
    on_photo(n) is called when the depth maps of n photos are done.
    """
    seen, depths, rays = _covisibility([photo.camera for photo in photos], sparse.double())
    near_by = [_neighbours(seen, _angles(rays, c), c) for c in range(len(photos))]
    matched: dict[int, tuple[Tensor, Tensor]] = {}
    for c, photo in enumerate(photos):
        if near_by[c]:
            matched[c] = _depth_map(photo, [photos[o] for o in near_by[c]], depths[c][seen[c]])
        on_photo(c + 1)
    maps = {c: depth for c, (depth, _) in matched.items()}
    surfaces, guesses = [_nothing()], [_nothing()]
    filled: dict[int, Tensor] = {}
    known: dict[int, Tensor] = {}
    for c, (depth, score) in matched.items():
        votes, places = _confirm(photos, maps, c, near_by[c], DEPTH_TOLERANCE)
        known[c] = (votes >= MIN_CONFIRMED) & (score > MIN_SCORE)
        surfaces.append(_chosen(photos[c], places, known[c]))
        if known[c].any():
            # Planes are linear in inverse depth.
            filled[c] = 1 / fill(1 / depth, known[c])
    for c in filled:
        votes, places = _confirm(photos, filled, c, near_by[c], FILL_TOLERANCE)
        guesses.append(_chosen(photos[c], places, (votes >= 1) & ~known[c]))
    return _joined(surfaces), _joined(guesses)


def _nothing() -> Points:
    return Points(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3))


def _chosen(photo: Photo, places: Float[Tensor, "H W 3"], keep: Bool[Tensor, "H W"]) -> Points:
    return Points(places[keep], photo.colors.permute(1, 2, 0)[keep])


def _joined(parts: list[Points]) -> Points:
    return Points(torch.cat([part.points for part in parts]), torch.cat([part.colors for part in parts]))


def _covisibility(
    cameras: list[Camera], points: Float[Tensor, "P 3"]
) -> tuple[Bool[Tensor, "C P"], Float[Tensor, "C P"], Float[Tensor, "C P 3"]]:
    """Which cameras see which points, at which depth, and the unit rays from cameras to points."""
    viewmats = torch.stack([camera.viewmat for camera in cameras])
    K = torch.stack([camera.K for camera in cameras])
    sizes = torch.tensor([[camera.width, camera.height] for camera in cameras])
    local = torch.einsum("cij,pj->cpi", viewmats[:, :3, :3], points) + viewmats[:, None, :3, 3]
    projected = torch.einsum("cij,cpj->cpi", K, local)
    xy = projected[..., :2] / projected[..., 2:].clamp(min=1e-9)
    seen = (local[..., 2] > 1e-9) & (xy > 0).all(-1) & (xy < sizes[:, None]).all(-1)
    centers = torch.stack([camera.position for camera in cameras])
    return seen, local[..., 2], functional.normalize(points[None] - centers[:, None], dim=-1)


def _angles(rays: Float[Tensor, "C P 3"], c: int) -> Float[Tensor, "C P"]:
    """Degrees between the rays of camera c and of every camera: one camera at a time, as all take C C P numbers."""
    return torch.rad2deg(torch.acos((rays[c] * rays).sum(-1).clamp(-1, 1)))


def _neighbours(seen: Tensor, angles: Float[Tensor, "C P"], c: int) -> list[int]:
    """The photos that see most of what photo c sees from about ANGLE aside, best first."""
    width = torch.where(angles < ANGLE, 0.4 * ANGLE, 0.8 * ANGLE)
    weights = torch.exp(-((angles - ANGLE) ** 2) / (2 * width**2)) * (seen & seen[c])
    scores = weights.sum(dim=1)
    scores[c] = 0
    order = torch.argsort(scores, descending=True, stable=True)[:NEIGHBOURS]
    return [int(o) for o in order if scores[o] > 1]


def _depth_map(
    photo: Photo, others: list[Photo], known_depths: Float[Tensor, "P"]
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """The depth of each pixel and how well the photos agree on it (-1..1)."""
    # Surfaces reach past what has features: a wall behind, a table's edge in front.
    near = 0.85 * torch.quantile(known_depths, 0.01)
    far = 1.25 * torch.quantile(known_depths, 0.99)
    camera = photo.camera
    apart = torch.stack([(o.camera.position - camera.position).norm() for o in others]).median()
    # One step moves a pixel of the half-sized image by about one pixel.
    steps = camera.K[0, 0] / 2 * apart * (1 / near - 1 / far)
    count = int(steps.ceil().clamp(16, MAX_PLANES))
    inverse = torch.linspace(float(1 / far), float(1 / near), count)
    step = inverse[1] - inverse[0]
    small = Matcher(photo.half[0, 0], camera, [(o.half, o.camera) for o in others])
    scores = torch.cat([small.scores(part[:, None, None]) for part in inverse.split(8)])
    height, width = photo.gray.shape[-2:]
    start = functional.interpolate(inverse[scores.argmax(dim=0)][None, None], size=(height, width))[0, 0]
    full = Matcher(photo.gray[0, 0], camera, [(o.gray, o.camera) for o in others])
    for offsets in (torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8]), torch.tensor([-0.2, 0.0, 0.2])):
        candidates = (start + offsets[:, None, None] * step).clamp(min=1e-6)
        scores = full.scores(candidates)
        best = scores.argmax(dim=0, keepdim=True)
        start = candidates.gather(0, best)[0]
    # The top of the parabola through the last three scores.
    before, here, after = scores
    bend = before - 2 * here + after
    shift = torch.where(bend < -1e-6, 0.5 * (before - after) / bend, torch.zeros_like(bend)).clamp(-1, 1)
    refined = (candidates[1] + 0.2 * step * shift).clamp(min=1e-6)
    return 1 / refined, scores.amax(dim=0)


class Matcher:
    """Scores depths of one image's pixels by what they look like in other images."""

    def __init__(
        self,
        image: Float[Tensor, "H W"],
        camera: Camera,
        others: list[tuple[Float[Tensor, "1 1 H W"], Camera]],
    ):
        height, width = image.shape
        camera = camera.resized(width, height)
        self.image = image
        means = _box(torch.stack([image, image * image]))
        self.mean, self.variance = means[0], means[1] - means[0] ** 2
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)]).double()
        self.others = [(other, *self._line(pixels, camera, other, to)) for other, to in others]

    @staticmethod
    def _line(
        pixels: Float[Tensor, "3 H W"], camera: Camera, other: Float[Tensor, "1 1 H W"], to: Camera
    ) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "3"]]:
        """A u and b of the other image, in float64 until they are differences no more."""
        height, width = other.shape[-2:]
        to_grid = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]], dtype=torch.float64)
        relative = to.viewmat @ camera.cam_to_world
        project = to_grid @ to.resized(width, height).K
        at_infinity = project @ relative[:3, :3] @ torch.linalg.inv(camera.K)
        return torch.einsum("ij,jhw->ihw", at_infinity, pixels).float(), (project @ relative[:3, 3]).float()

    def scores(self, inverse_depths: Float[Tensor, "D ..."]) -> Float[Tensor, "D H W"]:
        """Mean normalised cross-correlation with the better half of the others; -1 where they see nothing."""
        found = torch.stack([self._correlation(inverse_depths, *other) for other in self.others])
        return found.topk((len(found) + 1) // 2, dim=0).values.mean(dim=0)

    def _correlation(
        self,
        inverse_depths: Float[Tensor, "D ..."],
        other: Float[Tensor, "1 1 H W"],
        line: Float[Tensor, "3 H W"],
        epipole: Float[Tensor, "3"],
    ) -> Float[Tensor, "D H W"]:
        w = inverse_depths * epipole[2] + line[2]
        x = (inverse_depths * epipole[0] + line[0]) / w
        y = (inverse_depths * epipole[1] + line[1]) / w
        grid = torch.stack([x, y], dim=-1)
        warped = functional.grid_sample(
            other.expand(len(grid), -1, -1, -1), grid, align_corners=False, padding_mode="border"
        )[:, 0]
        mean, square, product = _box(torch.stack([warped, warped * warped, warped * self.image])).unbind(0)
        variance = (square - mean * mean) * self.variance
        # 1e-8: noise of a grey level on both sides; a plain wall then matches nothing.
        correlation = (product - mean * self.mean) * torch.rsqrt(variance.clamp(min=1e-8))
        return correlation.masked_fill((x.abs() > 1) | (y.abs() > 1) | (w < 1e-6), -1.0)


def _box(images: Float[Tensor, "... H W"]) -> Float[Tensor, "... H W"]:
    """Mean over WINDOW x WINDOW pixels: sums of shifted copies, several times faster than torch's pooling."""
    height, width = images.shape[-2:]
    side = WINDOW // 2
    flat = functional.pad(images.reshape(-1, 1, height, width), (side,) * 4, mode="replicate")
    rows = flat[..., :width].clone()
    for i in range(1, WINDOW):
        rows += flat[..., i : i + width]
    total = rows[..., :height, :].clone()
    for i in range(1, WINDOW):
        total += rows[..., i : i + height, :]
    return (total / WINDOW**2).reshape(images.shape)


def fill(values: Float[Tensor, "H W"], known: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """The known values, continued smoothly over the rest: means of ever larger blocks (push and pull)."""
    height, width = values.shape
    if known.all() or max(height, width) == 1:
        return values
    weights = known[None, None].to(values)
    count = functional.avg_pool2d(weights, 2, ceil_mode=True)
    means = functional.avg_pool2d(values[None, None] * weights, 2, ceil_mode=True) / count.clamp(min=1e-9)
    coarse = fill(means[0, 0], count[0, 0] > 0)
    smooth = functional.interpolate(coarse[None, None], size=(height, width), mode="bilinear")[0, 0]
    return torch.where(known, values, smooth)


def _confirm(
    photos: list[Photo], maps: dict[int, Tensor], c: int, others: list[int], tolerance: float
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W 3"]]:
    """How many other depth maps agree with each pixel of photo c, and the mean of the places that they give."""
    points = unproject(maps[c].double(), photos[c].camera.K, photos[c].camera.viewmat)
    total, votes = points.clone(), torch.zeros(maps[c].shape, dtype=torch.float64)
    for o in others:
        if o in maps:
            places, agrees = _place_by(points, photos[o].camera, maps[o], tolerance)
            total += torch.where(agrees[..., None], places, 0.0)
            votes += agrees
    return votes, total / (votes + 1)[..., None]


def _place_by(
    points: Float[Tensor, "H W 3"], camera: Camera, depth: Float[Tensor, "H2 W2"], tolerance: float
) -> tuple[Float[Tensor, "H W 3"], Bool[Tensor, "H W"]]:
    """Where another photo's depth map puts the same rays' ends, and whether it agrees with the points."""
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    local = torch.einsum("ij,hwj->hwi", rotation, points) + translation
    projected = torch.einsum("ij,hwj->hwi", camera.K, local)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    grid = (2 * projected[..., :2] / projected[..., 2:].clamp(min=1e-9) / size - 1).float()
    there = functional.grid_sample(depth[None, None], grid[None], align_corners=False)[0, 0].double()
    z = local[..., 2].clamp(min=1e-9)
    agrees = (grid.abs() < 1).all(-1) & (local[..., 2] > 0) & ((there - z).abs() < tolerance * there)
    moved = local * (there / z)[..., None] - translation
    return torch.einsum("ji,hwj->hwi", rotation, moved), agrees
