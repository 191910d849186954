"""How good an image, a semantic map or a panoptic segmentation is.

Notation: a panoptic pixel is a pair (class, instance); a segment is the set of all pixels with the same pair, over as
many images as are given at once. PQ^scene gives all test pixels of a scene at once, so an object counts once, and only
if it keeps one id in every image (Panoptic Lifting, section 4; the figures agree with its released code).
Counts are integers and shares float64; nan stands where there is nothing to judge.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gs_lift.segmentation import VOID, Segments

MINIMUM_SHARE = 0.005
"""Classes with a smaller share of the pixels are not judged (Panoptic Lifting's released metric)."""


def psnr(image: Float[Tensor, "*S"], truth: Float[Tensor, "*S"]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of images in 0..1; infinite where they are equal."""
    return -10 * torch.log10(torch.mean((image - truth) ** 2))


def ssim(
    image: Float[Tensor, "H W D"],
    truth: Float[Tensor, "H W D"],
    *,
    padding: Literal["same", "valid"] = "same",
) -> Float[Tensor, ""]:
    """Mean structural similarity of images in 0..1, differentiable (Wang et al. 2004, as 3DGS computes it).

    Window 11x11, Gaussian of sigma 1.5, C1 = .01^2, C2 = .03^2. padding "same" sees zeros outside the image and takes
    the mean over all pixels (3DGS, and gsplat's fused_ssim by default); "valid" only over windows inside the image.
    """
    window = torch.exp(-((torch.arange(11, dtype=image.dtype, device=image.device) - 5) ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    margin = 5 if padding == "same" else 0

    def blur(values: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B ..."]:
        rows = torch.nn.functional.conv2d(values[:, None], window.view(1, 1, 11, 1), padding=(margin, 0))
        return torch.nn.functional.conv2d(rows, window.view(1, 1, 1, 11), padding=(0, margin))[:, 0]

    x, y = image.permute(2, 0, 1), truth.permute(2, 0, 1)
    mean_x, mean_y, xx, yy, xy = blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
    return (luminance * structure).mean()


BINS = 15
"""Of the scores, by which their calibration is judged."""


class Reliability:
    """How often what has a score is right, by BINS bins of the score.

    counts: how many are in each bin; said, right: their mean score, and the share of them that is right.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self._said = np.zeros(BINS)
        self._right = np.zeros(BINS)

    def add(self, scores: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> None:
        """scores: in 0..1."""
        which = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
        self.counts += np.bincount(which, minlength=BINS)
        self._said += np.bincount(which, weights=scores, minlength=BINS)
        self._right += np.bincount(which, weights=right, minlength=BINS)

    @property
    def said(self) -> Float[np.ndarray, "bins"]:
        return self._said / np.maximum(self.counts, 1)

    @property
    def right(self) -> Float[np.ndarray, "bins"]:
        return self._right / np.maximum(self.counts, 1)

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of the two over all that was added (Naeini et al. 2015)."""
        return float(np.abs(self._said - self._right).sum() / max(self.counts.sum(), 1))


class Confusion:
    """Pixels by true class (rows) and predicted class (columns); the last column holds predictions that are no class.

    Pixels whose truth is no class (VOID) are left out. The classes of `ignore` have no IoU of their own, but their
    pixels count where another class is predicted on them (as in Panoptic Lifting's released metric).
    """

    def __init__(self, classes: int, ignore: Iterable[int] = ()):
        self.counts = np.zeros((classes, classes + 1), np.int64)
        self.ignore = tuple(ignore)

    def update(
        self, pred: Int[Tensor, "*S"], truth: Int[Tensor, "*S"], counts: Int[Tensor, "*S"] | None = None
    ) -> None:
        """Add pixels, given by their semantic class. counts: how many pixels each stands for, None = one."""
        columns, rows = _numpy(pred).ravel().astype(np.int64), _numpy(truth).ravel().astype(np.int64)
        size = len(self.counts)
        judged = (rows >= 0) & (rows < size)
        columns = np.where((columns >= 0) & (columns < size), columns, size)
        keys = rows[judged] * (size + 1) + columns[judged]
        sums = _sums(keys, None if counts is None else _numpy(counts).ravel()[judged], size * (size + 1))
        self.counts += sums.reshape(size, size + 1)

    def iou(self, minimum_share: float = MINIMUM_SHARE) -> np.ndarray:
        """Intersection over union of each class; nan where both its shares of the pixels are under the minimum."""
        truth, pred = self.counts.sum(axis=1), self.counts.sum(axis=0)[:-1]
        hits, total = np.diagonal(self.counts), self.counts.sum()
        union = truth + pred - hits
        rare = np.maximum(truth, pred) < minimum_share * total
        left_out = rare | (union == 0) | np.isin(np.arange(len(self.counts)), self.ignore)
        return np.where(left_out, np.nan, hits / np.maximum(union, 1))

    def miou(self, minimum_share: float = MINIMUM_SHARE) -> float:
        """Mean of `iou` over the classes that are judged."""
        return _mean(self.iou(minimum_share))


@dataclass(frozen=True)
class Overlaps:
    """How many pixels of one image, or of many, show which (class, instance) in a prediction and in the truth.

    All that the scores of a scene depend on, and little beside the pixels themselves.
    """

    pred: Int[Tensor, "R 2"]
    truth: Int[Tensor, "R 2"]
    counts: Int[Tensor, "R"]

    @classmethod
    def of(cls, pred: Segments, truth: Segments) -> "Overlaps":
        """Of one image."""
        keys = [
            values.flatten().long().numpy()
            for values in (pred.semantic, pred.instance, truth.semantic, truth.instance)
        ]
        code, size = np.zeros_like(keys[0]), 1
        for values in keys:
            low, span = int(values.min()), int(values.max()) - int(values.min()) + 1
            if size * span >= 2**62:  # huge ids: by their rank instead
                size, span, low = len(np.unique(code)), len(np.unique(values)), 0
                code, values = (np.unique(one, return_inverse=True)[1] for one in (code, values))
            code, size = code * span + (values - low), size * span
        _, first, counts = np.unique(code, return_index=True, return_counts=True)
        pairs = torch.from_numpy(np.stack([values[first] for values in keys], axis=1))
        return cls(pairs[:, :2], pairs[:, 2:], torch.from_numpy(counts))

    @classmethod
    def joined(cls, images: Sequence["Overlaps"]) -> "Overlaps":
        """Of all pixels of some images."""
        if not images:
            nothing = torch.zeros(0, 2, dtype=torch.int64)
            return cls(nothing, nothing, nothing[:, 0])
        return cls(
            torch.cat([image.pred for image in images]),
            torch.cat([image.truth for image in images]),
            torch.cat([image.counts for image in images]),
        )


class OverlapsOfImages:
    """Gathers those of many images in one table, which doubles when it is full.

    Kept one by one, a few rows would lie between the large tensors of each image, whose memory is then not used again:
    2 MB an image of 512 x 640 pixels (glibc 2.36).
    """

    def __init__(self) -> None:
        self._table, self._ends = torch.zeros(1024, 5, dtype=torch.int64), [0]

    def append(self, image: Overlaps) -> None:
        start, end = self._ends[-1], self._ends[-1] + len(image.counts)
        if end > len(self._table):
            larger = torch.zeros(2 * end, 5, dtype=torch.int64)
            larger[:start] = self._table[:start]
            self._table = larger
        self._table[start:end] = torch.cat([image.pred, image.truth, image.counts[:, None]], dim=1)
        self._ends.append(end)

    @property
    def images(self) -> list[Overlaps]:
        """Of each image; views of the table."""
        pieces = self._table[: self._ends[-1]].split(np.diff(self._ends).tolist())
        return [Overlaps(rows[:, :2], rows[:, 2:4], rows[:, 4]) for rows in pieces]


@dataclass(frozen=True)
class ClassQuality:
    """One class: pq = sq * rq, sq = mean IoU of the matches, rq = TP / (TP + FP / 2 + FN / 2)."""

    pq: float
    sq: float
    rq: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True)
class PanopticQuality:
    """pq, sq, rq: means over the classes that are judged, which `classes` holds; pq_things, pq_stuff: apart."""

    pq: float
    sq: float
    rq: float
    pq_things: float
    pq_stuff: float
    classes: dict[int, ClassQuality]


def panoptic_pixels(images: Iterable[Segments]) -> Int[Tensor, "P 2"]:
    """The (class, instance) of all pixels of some images, one after the other."""
    pairs = [torch.stack([s.semantic.flatten(), s.instance.flatten()], dim=1).long() for s in images]
    return torch.cat(pairs) if pairs else torch.empty(0, 2, dtype=torch.int64)


def pq_scene(
    pred: Int[Tensor, "P 2"],
    truth: Int[Tensor, "P 2"],
    *,
    things: Iterable[int],
    stuff: Iterable[int],
    counts: Int[Tensor, "P"] | None = None,
    void: int | None = VOID,
    minimum_share: float = MINIMUM_SHARE,
    forgive_void: bool = True,
) -> PanopticQuality:
    """Panoptic quality of a scene from the (class, instance) of all its pixels; neither input is changed.

    counts: how many pixels each row stands for, None = one.

    Pixels whose true class is `void` are left out. A class that has less than `minimum_share` of the pixels, but any,
    in the prediction or in the truth is not judged; its pixels, and predictions of unknown classes, then count as void
    in both. Stuff has one segment per class. Segments of a class match where their IoU is over 1/2; the union leaves
    out what is void on the other side. A segment that is void for more than half is neither missed nor false
    (Kirillov et al. 2019; Panoptic Lifting's released metric, to 1e-9). Without `forgive_void` the prediction has no
    void: what it leaves out of an object is part of the union, and an object that it leaves out is missed.
    """
    pred_pairs, truth_pairs = _numpy(pred), _numpy(truth)
    pixels = np.ones(len(truth_pairs), np.int64) if counts is None else _numpy(counts).astype(np.int64)
    if void is not None:
        seen = truth_pairs[:, 0] != void
        pred_pairs, truth_pairs, pixels = pred_pairs[seen], truth_pairs[seen], pixels[seen]
    things, stuff = set(things), set(stuff)
    judged = _judged(pred_pairs[:, 0], truth_pairs[:, 0], pixels, things | stuff, minimum_share)
    found, true = (_segments(pairs, pixels, judged, stuff) for pairs in (pred_pairs, truth_pairs))
    matches = _match(found, true, pixels, forgive_void)
    classes = {c: _class_quality(matches, c) for c in sorted(judged)}
    return PanopticQuality(
        pq=_mean([q.pq for q in classes.values()]),
        sq=_mean([q.sq for q in classes.values()]),
        rq=_mean([q.rq for q in classes.values()]),
        pq_things=_mean([q.pq for c, q in classes.items() if c in things]),
        pq_stuff=_mean([q.pq for c, q in classes.items() if c not in things]),
        classes=classes,
    )


@dataclass(frozen=True)
class FrameQuality:
    """2D segments against the truth of their images, as means over the images that have the figure; class-free."""

    pq: float
    sq: float
    recall: float
    precision: float
    small_recall: float
    """Of the objects of fewer than SMALL_PX pixels."""
    spurious: float
    """Segments per image of which less than half lies on any one object."""
    segments: float
    """Segments per image."""
    images: int


_FRAME_FIGURES = ("pq", "sq", "recall", "precision", "small_recall", "spurious", "segments")

MINIMUM_PX = 15
"""Objects of fewer pixels in an image of 256 x 256 are not asked for."""

SMALL_PX = 100
"""Objects of fewer pixels in an image of 256 x 256 count as small (400 of 512 x 512)."""


def frame_quality(
    pairs: Iterable[tuple[Segments, Segments]], *, things: Iterable[int], minimum_area_px: float | None = None
) -> FrameQuality:
    """Quality of 2D segments, image by image, from pairs (segments, truth): what went into a lifting.

    A segment matches a true object of at least `minimum_area_px` (MINIMUM_PX, scaled with the image, if None) where
    their IoU is over 1/2. Segments that lie for more than half on smaller objects are left out. Images without an
    object to find are left out.
    """
    rows = [row for found, truth in pairs if (row := _frame_row(found, truth, set(things), minimum_area_px))]
    columns = zip(*rows, strict=True) if rows else [()] * len(_FRAME_FIGURES)
    figures = dict(zip(_FRAME_FIGURES, map(_mean, columns), strict=True))
    return FrameQuality(**figures, images=len(rows))


def _frame_row(
    found: Segments, truth: Segments, things: set[int], minimum_area: float | None
) -> tuple[float, ...] | None:
    """_FRAME_FIGURES of one image, nan where there is nothing to count; None without an object to find."""
    segment, semantic = _numpy(found.instance).ravel(), _numpy(truth.semantic).ravel()
    instance = _numpy(truth.instance).ravel()
    scale = len(instance) / 256**2
    truth_ids, truth_codes = np.unique(
        np.where((instance >= 0) & np.isin(semantic, list(things)), instance, -1), return_inverse=True
    )
    pred_ids, pred_codes = np.unique(np.where(segment >= 0, segment, -1), return_inverse=True)
    areas = np.bincount(truth_codes)
    objects = (truth_ids >= 0) & (areas >= (MINIMUM_PX * scale if minimum_area is None else minimum_area))
    if not objects.any():
        return None
    overlap = np.bincount(pred_codes * len(truth_ids) + truth_codes, minlength=len(pred_ids) * len(truth_ids))
    overlap = overlap.reshape(len(pred_ids), len(truth_ids))
    sizes = overlap.sum(axis=1)
    on_small = overlap[:, (truth_ids >= 0) & ~objects].sum(axis=1)
    segments = (pred_ids >= 0) & (on_small <= 0.5 * sizes)
    iou = (overlap / (sizes[:, None] + areas[None] - overlap))[segments][:, objects]
    matched = iou > 0.5
    hits, small = iou[matched], areas[objects] < SMALL_PX * scale
    largest_share = overlap[segments][:, objects].max(axis=1, initial=0)
    return (
        float(hits.sum() / (0.5 * (segments.sum() + objects.sum()))),
        _mean(hits),
        len(hits) / float(objects.sum()),
        len(hits) / float(segments.sum()) if segments.any() else math.nan,
        _mean(matched.any(axis=0)[small].astype(float)),
        float((largest_share < 0.5 * sizes[segments]).sum()),
        float(segments.sum()),
    )


@dataclass(frozen=True)
class _Segmentation:
    """Each pixel's segment as a code, and of each segment its class and area; class -1 is void (always code 0)."""

    codes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class _Matches:
    """Of each match its class and IoU; the classes of what is missed and of what is false."""

    classes: np.ndarray
    ious: np.ndarray
    missed: np.ndarray
    false: np.ndarray


def _judged(
    pred: np.ndarray, truth: np.ndarray, pixels: np.ndarray, known: set[int], minimum_share: float
) -> set[int]:
    """The known classes that are there, and nowhere so rare that they are dropped."""
    counts = []
    for classes in (pred, truth):
        unique, codes = np.unique(classes, return_inverse=True)
        counts.append(dict(zip(unique, _sums(codes, pixels, len(unique)), strict=True)))
    least = minimum_share * pixels.sum()
    rare = {c for count in counts for c, pixels in count.items() if pixels < least}
    return {int(c) for c in (counts[0].keys() | counts[1].keys()) - rare if c in known}


def _segments(pairs: np.ndarray, pixels: np.ndarray, judged: set[int], stuff: set[int]) -> _Segmentation:
    """Segments of (class, instance) pairs, classes that are not judged put into void."""
    classes, class_codes = np.unique(pairs[:, 0], return_inverse=True)
    instances, instance_codes = np.unique(pairs[:, 1], return_inverse=True)
    kept = np.isin(classes, list(judged))
    divided = kept & ~np.isin(classes, list(stuff))
    span = len(instances) + 1
    keys = (class_codes + 1) * span + np.where(divided[class_codes], instance_codes, 0)
    # Void in front: it is code 0 whether or not a pixel has it.
    keys = np.concatenate([[0], np.where(kept[class_codes], keys, 0)])
    unique, codes = np.unique(keys, return_inverse=True)
    owners = np.concatenate([[-1], classes])[unique // span]
    owners[0] = -1
    return _Segmentation(codes[1:], owners, _sums(codes[1:], pixels, len(unique)))


def _match(pred: _Segmentation, truth: _Segmentation, pixels: np.ndarray, forgive_void: bool) -> _Matches:
    """Match segments of the same class with an IoU over 1/2."""
    width = len(truth.areas)
    keys, codes = np.unique(pred.codes.astype(np.int64) * width + truth.codes, return_inverse=True)
    overlap = _sums(codes, pixels, len(keys))
    p, t = keys // width, keys % width
    void_of_truth, void_of_pred = np.zeros(width, np.int64), np.zeros(len(pred.areas), np.int64)
    if forgive_void:
        void_of_truth[t[p == 0]] = overlap[p == 0]
    void_of_pred[p[t == 0]] = overlap[t == 0]
    union = (pred.areas - void_of_pred)[p] + (truth.areas - void_of_truth)[t] - overlap
    same = (p > 0) & (t > 0) & (pred.classes[p] == truth.classes[t])
    # The released metric divides in float32: without the same rounding its figures differ in the eighth decimal.
    iou = np.where(same, overlap.astype(np.float32) / np.maximum(union, 1).astype(np.float32), 0.0)
    hit = iou > 0.5
    missed = np.setdiff1d(np.flatnonzero(2 * void_of_truth <= truth.areas), [0, *t[hit]])
    false = np.setdiff1d(np.flatnonzero(2 * void_of_pred <= pred.areas), [0, *p[hit]])
    return _Matches(truth.classes[t[hit]], iou[hit], truth.classes[missed], pred.classes[false])


def _class_quality(matches: _Matches, judged: int) -> ClassQuality:
    ious = matches.ious[matches.classes == judged]
    hits, false = len(ious), int((matches.false == judged).sum())
    missed = int((matches.missed == judged).sum())
    sq = float(ious.sum(dtype=np.float64)) / hits if hits else 0.0
    rq = hits / (hits + 0.5 * false + 0.5 * missed) if hits else 0.0
    return ClassQuality(sq * rq, sq, rq, hits, false, missed)


def _sums(codes: np.ndarray, pixels: np.ndarray | None, size: int) -> np.ndarray:
    """Pixels of each code 0 .. size - 1, as integers; exact below 2^53."""
    return np.bincount(codes, weights=pixels, minlength=size).astype(np.int64)


def _numpy(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy())


def _mean(values: Iterable[float] | np.ndarray) -> float:
    """Mean of what is not nan; nan of nothing."""
    array = np.asarray(list(values), np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else float("nan")
