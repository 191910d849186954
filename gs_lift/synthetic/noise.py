"""Errors of a 2D segmenter, put on the truth.

Two kinds. Errors of a frame are drawn anew in each: ids permuted, objects missed (small ones more), touching
neighbours merged, objects cut in two, found in part or with a piece of their own on top, borders warped,
segments where there is nothing. Errors of a scene come back from view to view, which no averaging over views
removes: some pairs that touch merge in most frames, some objects are cut along the same plane in many.

Areas and lengths are in pixels of a 256 x 256 frame and scale with it. Level `hard` has the figures of
MobileSAM's automatic masks on rooms like these (see docs/benchmarks.md), `moderate` and `easy` fall short of
it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy import ndimage

LEAST_SEGMENT_PX = 16
"""Smaller segments are dropped, as MobileSAM's masks were."""

TOUCH_PX = 4
"""Pixels of common border from which two objects count as touching."""

VISIBLE_PX = 30
"""Objects of fewer pixels do not count as seen in a frame."""


@dataclass(frozen=True)
class NoiseLevel:
    """Rates of errors.

    miss: chance that an object is missed whatever its size; small_px: area at which another 1/e of them is
    missed.
    merge: chance that two objects with a long common border become one. cut: that an object is cut in two by
    a line;
    partial: that only one side of a line is found; pieces: mean number of pieces on top, of a large object.
    jitter_px: standard deviation of the borders' displacement. spurious: segments on nothing, a frame.
    fixed_pairs, fixed_cuts: shares of the objects that are in pairs which keep merging, or keep being cut;
    pair_rate, cut_rate: how often they do.
    confused: chance that a segment gets a class that is easily taken for its own, where there are classes.
    """

    miss: float = 0.0
    small_px: float = 0.0
    merge: float = 0.0
    cut: float = 0.0
    partial: float = 0.0
    pieces: float = 0.0
    jitter_px: float = 0.0
    spurious: float = 0.0
    fixed_pairs: float = 0.0
    pair_rate: float = 0.0
    fixed_cuts: float = 0.0
    cut_rate: float = 0.0
    confused: float = 0.0


LEVELS: dict[str, NoiseLevel] = {
    "none": NoiseLevel(),
    "easy": NoiseLevel(
        miss=0.01, small_px=30, merge=0.01, cut=0.02, partial=0.03, pieces=0.12, jitter_px=0.2, spurious=0.7,
        fixed_pairs=0.04, pair_rate=0.3, fixed_cuts=0.04, cut_rate=0.25, confused=0.02,
    ),
    "moderate": NoiseLevel(
        miss=0.04, small_px=80, merge=0.03, cut=0.04, partial=0.09, pieces=0.4, jitter_px=0.32, spurious=3.0,
        fixed_pairs=0.08, pair_rate=0.5, fixed_cuts=0.08, cut_rate=0.4, confused=0.06,
    ),
    "hard": NoiseLevel(
        miss=0.12, small_px=170, merge=0.06, cut=0.08, partial=0.18, pieces=0.8, jitter_px=0.42, spurious=7.0,
        fixed_pairs=0.10, pair_rate=0.6, fixed_cuts=0.10, cut_rate=0.5, confused=0.12,
    ),
}  # fmt: skip
"""By the names that `--noise` takes."""


@dataclass(frozen=True)
class Cut:
    """A plane in the world along which an object is cut: a point on it and its normal."""

    object: int
    point: tuple[float, float, float]
    normal: tuple[float, float, float]


@dataclass(frozen=True)
class SceneErrors:
    """What goes wrong in the same way in many frames."""

    pairs: tuple[tuple[int, int], ...] = ()
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True)
class NoisySegments:
    """Segments as files hold them.

    instance: ids from 1 that mean something in this frame only, 0 = none.
    probability: the score of each pixel's segment, 1 where there is none.
    """

    instance: Int[np.ndarray, "H W"]
    probability: Float[np.ndarray, "H W"]


def touching(truth: Int[np.ndarray, "H W"]) -> dict[tuple[int, int], int]:
    """Length of the common border in pixels, for every two objects (smaller id first) that have one."""
    first = np.concatenate([truth[:, :-1].ravel(), truth[:-1].ravel()]).astype(np.int64)
    second = np.concatenate([truth[:, 1:].ravel(), truth[1:].ravel()]).astype(np.int64)
    border = (first != second) & (first > 0) & (second > 0)
    first, second = first[border], second[border]
    base = int(truth.max()) + 1
    joint, counts = np.unique(
        np.minimum(first, second) * base + np.maximum(first, second), return_counts=True
    )
    return {divmod(pair, base): count for pair, count in zip(joint.tolist(), counts.tolist(), strict=True)}


def scene_errors(
    truths: Iterable[Int[np.ndarray, "H W"]],
    centers: Float[np.ndarray, "M 3"],
    level: NoiseLevel,
    rng: np.random.Generator,
) -> SceneErrors:
    """A scene's pairs and cuts, chosen from its training frames' truth, which is looked at frame by frame; `centers` of
    the objects 1..M."""
    frames = 0
    seen: dict[int, int] = {}
    touches: dict[tuple[int, int], int] = {}
    together: dict[tuple[int, int], int] = {}
    for truth in truths:
        frames += 1
        scale = truth.size / 256**2
        areas = np.bincount(truth.ravel(), minlength=2)
        visible = [int(index) for index in np.flatnonzero(areas[1:] >= VISIBLE_PX * scale) + 1]
        for index in visible:
            seen[index] = seen.get(index, 0) + 1
        for pair, border in touching(truth).items():
            if pair[0] in visible and pair[1] in visible:
                together[pair] = together.get(pair, 0) + 1
                if border >= TOUCH_PX * scale**0.5:
                    touches[pair] = touches.get(pair, 0) + 1
    often = min(8, max(1, frames // 6))
    known = sorted(index for index, times in seen.items() if times >= often)
    candidates = [
        pair
        for pair in sorted(touches)
        if touches[pair] >= max(often, 0.5 * min(seen[pair[0]], seen[pair[1]]))
    ]
    pairs: list[tuple[int, int]] = []
    for index in rng.permutation(len(candidates)):
        pair = candidates[index]
        if len(pairs) < round(level.fixed_pairs * len(known) / 2) and not any(
            set(pair) & set(old) for old in pairs
        ):
            pairs.append(pair)
    free = [index for index in known if not any(index in pair for pair in pairs)]
    count = min(len(free), round(level.fixed_cuts * len(known)))
    cuts = []
    for index in np.sort(rng.choice(free, count, replace=False)) if count else []:
        normal = rng.standard_normal(3) * [1.0, 1.0, 0.5]
        normal /= np.linalg.norm(normal)
        x, y, z = centers[index - 1].tolist()
        u, v, w = normal.tolist()
        cuts.append(Cut(int(index), (x, y, z), (u, v, w)))
    return SceneErrors(tuple(sorted(pairs)), tuple(cuts))


def corrupt(
    truth: Int[np.ndarray, "H W"],
    world: Float[np.ndarray, "H W 3"],
    errors: SceneErrors,
    level: NoiseLevel,
    rng: np.random.Generator,
) -> NoisySegments:
    """Segments of a frame: its truth (0 = none) with the errors of the scene and of the frame.

    `world` is the point that each pixel shows, in the frame of the cuts.
    """
    scale = truth.size / 256**2
    segments = truth.astype(np.int64)
    areas = np.bincount(truth.ravel())
    shown = [int(index) for index in np.flatnonzero(areas[1:]) + 1]
    merged = _merge(segments, truth, shown, errors, level, rng)
    next_id = int(truth.max()) + 1
    next_id = _cut_fixed(segments, truth, world, errors, level, rng, next_id)
    next_id = _cut_by_chance(segments, truth, areas, shown, level, rng, next_id, scale)
    missed = [
        index
        for index in shown
        if rng.random()
        < level.miss + (1 - level.miss) * 0.9 * _fading(int(areas[index]), level.small_px * scale)
        and index not in merged
    ]
    segments[np.isin(truth, missed)] = 0
    segments = _warped(segments, level.jitter_px * scale**0.5, rng, scale)
    _add_spurious(segments, level, rng, next_id, scale)
    return _numbered(segments, truth, level, rng, scale)


def _fading(area: int, small_px: float) -> float:
    return float(np.exp(-area / small_px)) if small_px else 0.0


def _merge(
    segments: np.ndarray,
    truth: np.ndarray,
    shown: list[int],
    errors: SceneErrors,
    level: NoiseLevel,
    rng: np.random.Generator,
) -> set[int]:
    """Give touching objects one id. Returns the objects that were merged."""
    merged: set[int] = set()
    areas = np.bincount(truth.ravel())
    borders = touching(truth)
    for (a, b), border in borders.items():
        if (a, b) in errors.pairs:
            chance = level.pair_rate
        else:
            # A border as long as a side of the smaller object merges at the full rate.
            chance = level.merge * min(1.0, border / np.sqrt(min(areas[a], areas[b])))
        if rng.random() < chance and a not in merged and b not in merged:
            segments[truth == b] = a
            merged |= {a, b}
    return merged


def _cut_fixed(
    segments: np.ndarray,
    truth: np.ndarray,
    world: np.ndarray,
    errors: SceneErrors,
    level: NoiseLevel,
    rng: np.random.Generator,
    next_id: int,
) -> int:
    """Cut the scene's objects along their planes, where both sides can be seen."""
    for cut in errors.cuts:
        wanted = rng.random() < level.cut_rate
        mask = truth == cut.object
        if not wanted or not mask.any():
            continue
        side = mask & (((world - np.array(cut.point)) * cut.normal).sum(axis=-1) > 0)
        if 0.12 < side.sum() / mask.sum() < 0.88:
            segments[side] = next_id
            next_id += 1
    return next_id


def _cut_by_chance(
    segments: np.ndarray,
    truth: np.ndarray,
    areas: np.ndarray,
    shown: list[int],
    level: NoiseLevel,
    rng: np.random.Generator,
    next_id: int,
    scale: float,
) -> int:
    """Cut objects by lines, lose one side, or lay pieces on top; all of it rarer on small objects."""
    for index in shown:
        draws = rng.random(3)
        large = 1 - np.exp(-areas[index] / (500 * scale))
        pieces = int(rng.poisson(level.pieces * large))
        if draws[0] < level.cut * large:
            segments[_half(truth == index, rng, 0.25, 0.75)] = next_id
            next_id += 1
        for _ in range(pieces):
            segments[_piece(truth == index, rng)] = next_id
            next_id += 1
        if draws[1] < level.partial:
            segments[_half(truth == index, rng, 0.12, 0.6)] = 0
    return next_id


def _half(mask: Bool[np.ndarray, "H W"], rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """The part of a mask beyond a line of any direction; a share between `least` and `most` of it."""
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    beyond = along > np.quantile(along, 1 - rng.uniform(least, most))
    half = np.zeros_like(mask)
    half[rows[beyond], columns[beyond]] = True
    return half


def _piece(mask: Bool[np.ndarray, "H W"], rng: np.random.Generator) -> np.ndarray:
    """The part of a mask in an ellipse around one of its pixels, of 5 to 35 % of its area if all in it."""
    rows, columns = np.nonzero(mask)
    middle = rng.integers(len(rows))
    row, column = float(rows[middle]), float(columns[middle])
    return mask & _ellipse(mask.shape, row, column, rng.uniform(0.05, 0.35) * len(rows), rng)


def _ellipse(
    shape: tuple[int, int], row: float, column: float, area: float, rng: np.random.Generator
) -> np.ndarray:
    stretch, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
    y, x = np.arange(shape[0])[:, None] - row, np.arange(shape[1])[None, :] - column
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / stretch) ** 2 + (v * stretch) ** 2 < area / np.pi


def _warped(
    segments: Int[np.ndarray, "H W"], jitter_px: float, rng: np.random.Generator, scale: float
) -> Int[np.ndarray, "H W"]:
    """Every pixel takes the id of a neighbour, displaced by noise that is smooth over 2 pixels."""
    if not jitter_px:
        return segments
    fields = ndimage.gaussian_filter(
        rng.standard_normal((2, *segments.shape)), (0, *[2.0 * scale**0.5] * 2), mode="wrap"
    )
    fields *= jitter_px / fields.std()
    height, width = segments.shape
    rows = np.rint(np.arange(height)[:, None] + fields[0]).astype(int).clip(0, height - 1)
    columns = np.rint(np.arange(width)[None, :] + fields[1]).astype(int).clip(0, width - 1)
    return segments[rows, columns]


def _add_spurious(
    segments: np.ndarray, level: NoiseLevel, rng: np.random.Generator, next_id: int, scale: float
) -> None:
    """Ellipses where no segment is: marks on the floor, shadows, prints on the wall."""
    for _ in range(int(rng.poisson(level.spurious))):
        row, column = rng.uniform(0, segments.shape)
        area = scale * np.exp(rng.uniform(np.log(40), np.log(900)))
        blob = _ellipse(segments.shape, row, column, area, rng) & (segments == 0)
        segments[blob] = next_id
        next_id += 1


def _numbered(
    segments: np.ndarray, truth: np.ndarray, level: NoiseLevel, rng: np.random.Generator, scale: float
) -> NoisySegments:
    """Ids permuted, small segments dropped, scores drawn: 0.5 + 0.45 IoU with the best object, plus noise."""
    overlap = _overlaps(segments, truth)
    px = overlap.sum(axis=1)
    iou = (overlap / np.maximum(px[:, None] + overlap.sum(axis=0) - overlap, 1))[:, 1:].max(axis=1, initial=0)
    least = LEAST_SEGMENT_PX * scale if level != LEVELS["none"] else 1
    kept = np.flatnonzero(px[1:] >= least) + 1
    number = np.zeros(len(px), dtype=np.int64)
    number[kept] = rng.permutation(len(kept)) + 1
    spread = 0.06 if level != LEVELS["none"] else 0.0
    score = np.ones(len(px))
    score[kept] = (0.5 + 0.45 * iou[kept] + spread * rng.standard_normal(len(kept))).clip(0.05, 1.0)
    return NoisySegments(number[segments], score[segments])


def _overlaps(
    segments: Integer[np.ndarray, "H W"], truth: Integer[np.ndarray, "H W"]
) -> Int[np.ndarray, "S O"]:
    """Pixels that each segment id (rows) shares with each object id (columns), ids from 0."""
    columns = int(truth.max()) + 1
    rows = int(segments.max()) + 1
    joint = segments.astype(np.int64).ravel() * columns + truth.ravel()
    return np.bincount(joint, minlength=rows * columns).reshape(rows, columns)
