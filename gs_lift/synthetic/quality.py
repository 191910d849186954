"""How good one frame's segments are against its truth, before anything is lifted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

MIN_PX = 15
"""Objects of fewer pixels in a 256 x 256 frame are not asked for."""

SMALL_PX = 100
"""An object below this area in a 256 x 256 frame counts as small (400 px of 512 x 512)."""


@dataclass(frozen=True)
class SegmentQuality:
    """Figures of one frame in 0..1, or of several, averaged; NaN where there was nothing to count.

    recall, precision: of objects and of segments, matched at IoU > 0.5; sq: mean IoU of the matches;
    pq: sq times the F1 of the two (panoptic quality, Kirillov et al. 2019); small_recall: of objects under
    SMALL_PX;
    spurious: segments a frame that are no object and no part of one (under half of them lies on any one
    object);
    segments: how many a frame has.
    """

    recall: float
    precision: float
    sq: float
    pq: float
    small_recall: float
    spurious: float
    segments: float


def segment_quality(
    segments: Integer[np.ndarray, "H W"], truth: Integer[np.ndarray, "H W"], *, min_px: float | None = None
) -> SegmentQuality:
    """Compare ids of segments with ids of objects; 0 = none in both.

    Areas scale with the image. A segment that lies mostly on an object too small to be asked for is not
    judged.
    """
    scale = truth.size / 256**2
    least = MIN_PX * scale if min_px is None else min_px
    overlap = overlaps(segments, truth)
    object_px, segment_px = overlap.sum(axis=0)[1:], overlap.sum(axis=1)[1:]
    shared = overlap[1:, 1:]
    ignored = object_px < least
    judged = (segment_px > 0) & (shared[:, ignored].sum(axis=1) <= 0.5 * segment_px)
    asked = (object_px > 0) & ~ignored
    shared, segment_px, object_px = shared[judged][:, asked], segment_px[judged], object_px[asked]
    iou = shared / np.maximum(segment_px[:, None] + object_px - shared, 1)
    matched = iou > 0.5  # above one half a match is unique on both sides
    hits = int(matched.sum())
    found = matched.any(axis=0)
    small = object_px < SMALL_PX * scale
    return SegmentQuality(
        recall=_share(hits, len(object_px)),
        precision=_share(hits, len(segment_px)),
        sq=_share(float(iou[matched].sum()), hits),
        pq=_share(float(iou[matched].sum()), 0.5 * (len(segment_px) + len(object_px))),
        small_recall=_share(int(found[small].sum()), int(small.sum())),
        spurious=float((shared.max(axis=1, initial=0) < 0.5 * segment_px).sum()),
        segments=float(len(segment_px)),
    )


def overlaps(
    segments: Integer[np.ndarray, "H W"], truth: Integer[np.ndarray, "H W"]
) -> Int[np.ndarray, "S O"]:
    """Pixels that each segment id (rows) shares with each object id (columns), ids from 0."""
    columns = int(truth.max()) + 1
    rows = int(segments.max()) + 1
    joint = segments.astype(np.int64).ravel() * columns + truth.ravel()
    return np.bincount(joint, minlength=rows * columns).reshape(rows, columns)


def mean_quality(frames: list[SegmentQuality]) -> SegmentQuality:
    """Each figure's mean over the frames that have it."""
    return SegmentQuality(
        *(float(_mean(np.array(figure))) for figure in zip(*map(_figures, frames), strict=True))
    )


def _figures(quality: SegmentQuality) -> list[float]:
    return list(vars(quality).values())


def _mean(figure: Float[np.ndarray, "K"]) -> float:
    known = figure[~np.isnan(figure)]
    return float(known.mean()) if len(known) else float("nan")


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
