"""Which Gaussian of one splat is which of another that was made from it: pruned, re-ordered, moved or quantised.

Notation: x is a Gaussian of the original, y one of the edited splat; a frame is the similarity y = scale rotation x +
translation. A size is the mean of a Gaussian's three standard deviations.

What neither moving nor re-ordering changes are the bytes of opacity and f_dc: they tell most of it, and where it was
moved. The rest, all of it after quantisation, is told by place, looks (opacity, colour) and shape.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.splats.frames import Similarity

SAME_PLACE, ROUNDING = 0.02, 1e-5
"""Gaussians are at one place within this share of their size, and of their coordinates: float32 after a move."""

NEAR, STEPS = 0.25, 8.0
"""Quantised Gaussians lie within this share of their size, or so many typical errors."""

LOOKS = np.array([0.03, 0.03, 0.03, 0.02], np.float32)
"""Largest differences of red, green, blue and opacity, of 0..1; five formats of the web make errors of .004."""

SHAPE, SAME_SHAPE = 0.2, 0.002
"""Largest difference of log scales after quantisation, whose error is .04; and after moving, in float32."""

LEAST_LOG_SCALE = -9.5
"""An .spz holds none below -10."""

NEIGHBOURS = 8
SAMPLE, DRAWS = 4096, 20000
"""Gaussians by which a frame is judged; triples of which one may tell it: at 5 % of good pairs two or three do."""

LEAST_PAIRS = 4
"""That agree on a frame other than the identity: any three nearly do."""

MOST_FRAMES = 8
"""Of parts that were moved, each by itself, to be found."""

IDENTITY = Similarity(torch.eye(3).double(), torch.zeros(3).double(), 1.0)


@dataclass(frozen=True)
class Matches:
    """What Gaussians are of the other splat: rows [N] of it, -1 = none. frame: of most of them, None = not moved."""

    rows: Int[Tensor, "N"]
    by_bytes: int
    by_place: int
    frame: Similarity | None

    def said(self, of: str) -> str:
        """In one line; of: what the rows are of."""
        total, found = len(self.rows), self.by_bytes + self.by_place
        return (
            f"{found} of {total} Gaussians are of {of} ({self.by_bytes} by their bytes, {self.by_place} by place), "
            f"{total - found} are not; {self._moved}"
        )

    @property
    def _moved(self) -> str:
        if self.frame is None:
            return "not moved"
        cosine = (float(self.frame.rotation.trace()) - 1) / 2
        shift = ", ".join(f"{round(one, 6) + 0.0:.4g}" for one in self.frame.translation.tolist())
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        return f"moved: turned by {round(angle, 2):g} degrees, scaled by {self.frame.scale:.4g}, shifted by {shift}"


class _Cloud:
    """N Gaussians as numbers that can be compared: means and sizes in float64, looks [N 4], log scales by size."""

    def __init__(self, gaussians: Gaussians):
        g = gaussians.detach().to("cpu")
        self.means = g.means.double().numpy()
        colors = (0.5 + SH_C0 * g.sh0[:, 0]).clamp(0, 1)
        self.looks = torch.cat([colors, g.opacities[:, None]], dim=1).float().numpy()
        self.log_scales = g.log_scales.sort(dim=1).values.float().numpy()
        sizes = np.exp(self.log_scales.astype(np.float64).clip(-80, 80)).mean(axis=1)
        self.sizes = sizes.clip(max=10 * np.median(sizes))  # a sky's are no measure of what is near
        exact = torch.cat([g.logit_opacities[:, None], g.sh0[:, 0]], dim=1).float() + 0.0  # -0 is 0
        self.words = np.ascontiguousarray(exact.numpy()).view(np.uint32)

    def __len__(self) -> int:
        return len(self.means)


def match(edited: Gaussians, original: Gaussians) -> Matches:
    """Which Gaussian of `original` each of `edited` is. One that is there several times, as copies, is each of them."""
    x, y = _Cloud(original), _Cloud(edited)
    rows, frame = _by_bytes(x, y)
    by_bytes = int((rows >= 0).sum())
    if by_bytes == len(y):
        return Matches(torch.from_numpy(rows), by_bytes, 0, None if frame is IDENTITY else frame)
    places = _Places(x, y)
    if frame is None or by_bytes < 0.01 * len(y):
        # Recoloured, or quantised: unless it lies where it was, its opacities tell where, or else how it looks.
        frame = frame or IDENTITY
        for pairs in (_pairs_by_opacity, _pairs_by_looks):
            share = places.share(frame)
            if share >= 0.5:
                break
            other = _common_frame(x, y, *pairs(x, y), tolerance=NEAR)
            if other is not None and other is not IDENTITY:
                other = places.refined(other)
                frame = other if 0.95 * places.share(other) > share else frame
    rest = np.flatnonzero(rows < 0)
    rows[rest] = places.rows(rest, frame)
    by_place = int((rows >= 0).sum()) - by_bytes
    return Matches(torch.from_numpy(rows), by_bytes, by_place, None if frame is IDENTITY else frame)


def _by_bytes(x: _Cloud, y: _Cloud) -> tuple[Int[np.ndarray, "N"], Similarity | None]:
    """Rows of x whose opacity and f_dc are those of y to the byte, -1 = none, and the frame of most of them.

    A few have them by chance: they count where they agree on a frame with others, part by part where parts were moved
    by themselves. Those whose bytes are there several times are told apart by place.
    """
    rows, first = np.full(len(y), -1), None
    order, start, count = _same(x.words, y.words)
    alone = np.flatnonzero(count == 1)
    candidates = order[start[alone]]
    alike = _same_shape(x.log_scales[candidates], y.log_scales[alone])
    alone, candidates = alone[alike], candidates[alike]
    tied = _Tied(x, order, start, np.flatnonzero(count > 1))
    for _ in range(MOST_FRAMES):
        free = rows[alone] < 0
        frame = _common_frame(x, y, candidates[free], alone[free], tolerance=SAME_PLACE)
        if frame is None and first is None:
            frame = IDENTITY
        if frame is None:
            break
        there = np.flatnonzero(free)[_at_place(x, y, candidates[free], alone[free], frame)]
        rows[alone[there]] = candidates[there]
        found = tied.at_place(y, rows, frame)
        if not len(there) and not found:
            break
        first = first or frame
    return rows, first


def _same(x: UInt[np.ndarray, "N C"], y: UInt[np.ndarray, "M C"]) -> tuple[np.ndarray, ...]:
    """Of each row of y the equal rows of x: order[start : start + count], ascending."""
    hashes_x, hashes_y = _hashes(x), _hashes(y)
    order = np.argsort(hashes_x, kind="stable")
    sorted_x = hashes_x[order]
    start = np.searchsorted(sorted_x, hashes_y)
    count = np.searchsorted(sorted_x, hashes_y, side="right") - start
    equal = np.flatnonzero(count)
    count[equal[(x[order[start[equal]]] != y[equal]).any(axis=1)]] = 0
    return order, start, count


def _hashes(words: UInt[np.ndarray, "N C"]) -> UInt[np.ndarray, "N"]:
    mixed = np.zeros(len(words), np.uint64)
    for column in words.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _same_shape(one: Float[np.ndarray, "n 3"], other: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """But for one scale of all axes."""
    return np.asarray((np.abs(np.diff(one, axis=1) - np.diff(other, axis=1)) <= SAME_SHAPE).all(axis=1))


class _Tied:
    """Rows of x that share their bytes with others, for rows `ties` of y that do: the nearest of the same bytes.

    The bytes are a fourth coordinate, so far apart that no neighbour has others.
    """

    def __init__(self, x: _Cloud, order: np.ndarray, start: np.ndarray, ties: np.ndarray):
        self.x, self.ties = x, ties
        if not len(ties):
            return
        starts, self.group = np.unique(start[ties], return_inverse=True)
        hashes = _hashes(x.words)[order]
        counts = np.searchsorted(hashes, hashes[starts], side="right") - starts
        group = np.repeat(np.arange(len(starts)), counts)
        inside = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = order[starts[group] + inside]
        low, high = x.means.min(axis=0), x.means.max(axis=0)
        self.gap = 4 * float((high - low).max() + x.sizes.max()) + 1
        points = np.column_stack([x.means[rows], group * self.gap])
        # Those at one place are one to the tree, which would look at them all for each.
        by, begins = _by_value(points)
        self.members = rows[by]
        self.bounds = np.append(np.unique(begins), len(by))
        self.tree = cKDTree(points[by[self.bounds[:-1]]])

    def at_place(self, y: _Cloud, rows: np.ndarray, frame: Similarity) -> int:
        """Fill in those of `rows` that are still free and at their place in that frame; how many."""
        free = np.flatnonzero(rows[self.ties] < 0)
        if not len(free):
            return 0
        points = np.column_stack([_back(frame, y.means[self.ties[free]]), self.group[free] * self.gap])
        _, nearest = self.tree.query(points, distance_upper_bound=self.gap / 4, workers=-1)
        free, nearest = free[nearest < self.tree.n], nearest[nearest < self.tree.n]
        there = _at_place(self.x, y, self.members[self.bounds[nearest]], self.ties[free], frame)
        free, nearest = free[there], nearest[there]
        # Of those at one place the first is the first, the second the second.
        by = np.argsort(nearest, kind="stable")
        begins = np.searchsorted(nearest[by], nearest[by])
        nth = (np.arange(len(by)) - begins) % np.diff(self.bounds)[nearest[by]]
        rows[self.ties[free[by]]] = self.members[self.bounds[nearest[by]] + nth]
        return len(free)


class _Places:
    """Gaussians of y by place: near one of x that looks like it and has its shape, or at its place and of its shape."""

    def __init__(self, x: _Cloud, y: _Cloud):
        self.x, self.y = x, y
        self.kept = _thinned(x.means, NEIGHBOURS)
        self.tree = cKDTree(x.means[self.kept])
        self.sample = np.arange(0, len(y), max(len(y) // SAMPLE, 1))

    def share(self, frame: Similarity) -> float:
        """Of a sample that is found in that frame."""
        return float((self._nearest(self.sample, frame, NEAR * self.x.sizes)[0] >= 0).mean())

    def refined(self, frame: Similarity) -> Similarity:
        """By all of a sample that is found in it."""
        for reach in (1.0, NEAR, NEAR):
            rows, _ = self._nearest(self.sample, frame, reach * self.x.sizes)
            found = rows >= 0
            if found.sum() < LEAST_PAIRS:
                break
            frame = _similarity(self.x.means[rows[found]], self.y.means[self.sample[found]])
        return frame

    def rows(self, of: Int[np.ndarray, "n"], frame: Similarity) -> Int[np.ndarray, "n"]:
        """Rows of x, -1 = none."""
        if not len(of):
            return of
        # How coarse the places of the whole are, not only of those that were not found to the byte.
        known, distances = self._nearest(self.sample, frame, self.x.sizes)
        step = float(np.median(distances[known >= 0])) if (known >= 0).any() else 0.0
        reach = np.maximum(NEAR * self.x.sizes, STEPS * step)
        parts = np.array_split(of, len(of) // 100_000 + 1)
        return np.concatenate([self._nearest(part, frame, reach)[0] for part in parts])

    def _nearest(
        self, of: Int[np.ndarray, "n"], frame: Similarity, reach: Float[np.ndarray, "N"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """The most alike within `reach` (of each of x) and how far it is; -1 and inf where there is none."""
        x, y = self.x, self.y
        k = min(NEIGHBOURS, len(self.kept))
        points = _back(frame, y.means[of])
        farthest = float(reach.max()) + float((SAME_PLACE * x.sizes).max())
        distances, near = self.tree.query(
            points, k=range(1, k + 1), distance_upper_bound=farthest, workers=-1
        )
        near = self.kept[near.clip(max=len(self.kept) - 1)]  # infinitely far where there is no other
        log_scales = y.log_scales[of] - np.float32(np.log(frame.scale))
        floor = np.float32(LEAST_LOG_SCALE)
        shape = np.abs(np.maximum(x.log_scales[near], floor) - np.maximum(log_scales, floor)[:, None]).max(
            axis=2
        )
        looks = (np.abs(x.looks[near] - y.looks[of][:, None]) / LOOKS).max(axis=2)
        alike = (distances <= reach[near]) & (shape <= SHAPE) & (looks <= 1)
        rounding = _rounding(points, y.means[of], frame)[:, None]
        recoloured = (distances <= SAME_PLACE * x.sizes[near] + rounding) & (shape <= SAME_SHAPE)
        cost = (np.minimum(distances, farthest) / x.sizes[near]) ** 2 + (shape / SHAPE) ** 2 + looks**2
        cost = np.where(recoloured, cost - 1e6, np.where(alike, cost, np.inf))
        best = cost.argmin(axis=1)
        each = np.arange(len(of))
        good = np.isfinite(cost[each, best])
        return np.where(good, near[each, best], -1), np.where(good, distances[each, best], np.inf)


def _by_value(points: Float[np.ndarray, "N C"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """An order in which equal rows lie together, ascending, and where in it those equal to each begin."""
    by = np.lexsort(points.T)
    new = np.append(True, (np.diff(points[by], axis=0) != 0).any(axis=1))
    return by, np.flatnonzero(new)[np.cumsum(new) - 1]


def _thinned(points: Float[np.ndarray, "N C"], most: int) -> Int[np.ndarray, "n"]:
    """Rows without those that equal `most` earlier ones: a tree would look at each of them."""
    by, begins = _by_value(points)
    return np.asarray(by[np.arange(len(by)) - begins < most])


# ---- frames


def _back(frame: Similarity, means: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Places of y in the frame of x."""
    if frame is IDENTITY:
        return means
    moved = means - frame.translation.numpy()
    return np.asarray(np.einsum("ni,ij->nj", moved, frame.rotation.numpy()) / frame.scale)


def _rounding(
    points: Float[np.ndarray, "n 3"], means: Float[np.ndarray, "n 3"], frame: Similarity
) -> Float[np.ndarray, "n"]:
    """How far float32 may take a Gaussian that lies at `points` in x and at `means` in y."""
    far = np.abs(points).max(axis=1) + np.abs(means).max(axis=1) / frame.scale
    return np.asarray(ROUNDING * far)


def _at_place(
    x: _Cloud,
    y: _Cloud,
    rows: Int[np.ndarray, "n"],
    of: Int[np.ndarray, "n"],
    frame: Similarity,
    tolerance: float = SAME_PLACE,
) -> Bool[np.ndarray, "n"]:
    """Whether Gaussians `of` of y lie where `rows` of x do, within that share of their size."""
    means, points = x.means[rows], _back(frame, y.means[of])
    distances = np.linalg.norm(points - means, axis=1)
    return np.asarray(distances <= tolerance * x.sizes[rows] + _rounding(means, y.means[of], frame))


def _common_frame(
    x: _Cloud, y: _Cloud, rows: Int[np.ndarray, "n"], of: Int[np.ndarray, "n"], *, tolerance: float
) -> Similarity | None:
    """On which most of the pairs agree, by random triples (RANSAC), then by all that agree; None if hardly any do."""
    if not len(rows):
        return None
    rng = np.random.default_rng(0)
    some = rng.permutation(len(rows))[:SAMPLE]

    def agreed(frame: Similarity) -> np.ndarray:
        return _at_place(x, y, rows[some], of[some], frame, tolerance)

    still = int(agreed(IDENTITY).sum())
    if still >= 0.95 * len(some):
        return IDENTITY
    best, most = None, LEAST_PAIRS - 1
    for frame in _frames_of_triples(x, y, rows[some], of[some], tolerance, rng):
        inside = agreed(frame)
        if inside.sum() <= most:
            continue
        best, most = frame, int(inside.sum())
        for _ in range(3):
            frame = _similarity(x.means[rows[some[inside]]], y.means[of[some[inside]]])
            inside = agreed(frame)
            if inside.sum() < most:
                break
            best, most = frame, int(inside.sum())
    return IDENTITY if still and (best is None or still >= 0.95 * most) else best


def _frames_of_triples(
    x: _Cloud,
    y: _Cloud,
    rows: Int[np.ndarray, "n"],
    of: Int[np.ndarray, "n"],
    tolerance: float,
    rng: np.random.Generator,
) -> list[Similarity]:
    """Of random triples of pairs those that fit, at most 64: in their places, and in their sizes."""
    triples = rng.integers(len(rows), size=(DRAWS, 3))
    triples = triples[(np.diff(np.sort(triples, axis=1), axis=1) > 0).all(axis=1)]
    a, b = x.means[rows[triples]], y.means[of[triples]]
    rotation, translation, scale = _umeyama(a, b)
    grown = (y.log_scales[of] - x.log_scales[rows]).mean(axis=1)[triples]
    same_size = (np.abs(grown - np.log(scale)[:, None]) < SHAPE).all(axis=1)
    fitted = scale[:, None, None] * np.einsum("hij,hnj->hni", rotation, a) + translation[:, None]
    off = np.linalg.norm(fitted - b, axis=2) / scale[:, None]
    slack = ROUNDING * (np.abs(a).max(axis=2) + np.abs(b).max(axis=2) / scale[:, None])
    good = np.flatnonzero(same_size & (off <= tolerance * x.sizes[rows[triples]] + slack).all(axis=1))
    return [_as_similarity(rotation[one], translation[one], float(scale[one])) for one in good[:64]]


def _similarity(x: Float[np.ndarray, "n 3"], y: Float[np.ndarray, "n 3"]) -> Similarity:
    rotation, translation, scale = _umeyama(x[None], y[None])
    return _as_similarity(rotation[0], translation[0], float(scale[0]))


def _as_similarity(rotation: np.ndarray, translation: np.ndarray, scale: float) -> Similarity:
    return Similarity(torch.from_numpy(rotation.copy()), torch.from_numpy(translation.copy()), scale)


def _umeyama(
    x: Float[np.ndarray, "H n 3"], y: Float[np.ndarray, "H n 3"]
) -> tuple[Float[np.ndarray, "H 3 3"], Float[np.ndarray, "H 3"], Float[np.ndarray, "H"]]:
    """Rotation, translation and scale from x to y by least squares (Umeyama 1991), of H sets of n pairs each."""
    centre_x, centre_y = x.mean(axis=1), y.mean(axis=1)
    a, b = x - centre_x[:, None], y - centre_y[:, None]
    u, spread, v = np.linalg.svd(np.einsum("hni,hnj->hij", b, a))
    signs = np.ones_like(spread)
    signs[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(v))  # no mirror
    rotation = np.einsum("hij,hj,hjk->hik", u, signs, v)
    variance = np.square(a).sum(axis=(1, 2))
    scale = (spread * signs).sum(axis=1) / np.where(variance > 0, variance, 1)
    scale = np.where(scale > 0, scale, 1.0)  # all at one place
    return rotation, centre_y - scale[:, None] * np.einsum("hij,hj->hi", rotation, centre_x), scale


def _pairs_by_opacity(x: _Cloud, y: _Cloud) -> tuple[np.ndarray, np.ndarray]:
    """Rows of x and of y whose opacities are equal to the byte, and of no other of x."""
    order, start, count = _same(x.words[:, :1], y.words[:, :1])
    of = np.flatnonzero(count == 1)
    rows = order[start[of]]
    alike = _same_shape(x.log_scales[rows], y.log_scales[of])
    return rows[alike], of[alike]


def _pairs_by_looks(x: _Cloud, y: _Cloud) -> tuple[np.ndarray, np.ndarray]:
    """Rows of x and of a sample of y that look most alike, and of like shape: some are the same."""

    def traits(cloud: _Cloud, rows: np.ndarray | slice) -> np.ndarray:
        shape = np.diff(np.maximum(cloud.log_scales[rows], LEAST_LOG_SCALE), axis=1) / SHAPE
        return np.column_stack([cloud.looks[rows] / LOOKS, shape]).astype(np.float64)

    all_traits = traits(x, slice(None))
    kept = _thinned(all_traits, 2)
    tree = cKDTree(all_traits[kept])
    of = np.arange(0, len(y), max(len(y) // SAMPLE, 1))
    k = min(2, len(kept))
    distances, near = tree.query(traits(y, of), k=range(1, k + 1), workers=-1)
    # Nothing else may look as much like it (Lowe's ratio).
    clear = distances[:, 0] < 0.7 * distances[:, -1] if k == 2 else np.full(len(of), True)
    return kept[near[clear, 0]], of[clear]
