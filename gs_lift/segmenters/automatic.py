"""Everything that a prompted segmenter finds in a photo: a grid of points, and of their masks those that are sure.

Kirillov et al. 2023 (Segment Anything, appendix B): a mask is kept for its predicted IoU and its stability, the share
of its pixels that stays when the threshold of its logits moves; of two that are nearly the same the surer one.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from gs_lift.errors import ConfigError


class Found(NamedTuple):
    """[h w] bool of one mask, and how sure it is."""

    mask: np.ndarray
    predicted_iou: float
    stability: float


@runtime_checkable
class Encoded(Protocol):
    """A photo that can be asked for the masks at a point."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def masks_at(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@runtime_checkable
class Segmenter(Protocol):
    def encode(self, pixels: np.ndarray) -> Encoded: ...


@dataclass(frozen=True)
class AutomaticMasks:
    """Which masks of a photo are kept."""

    points: int = 20
    """Points of the grid along the longer side."""
    predicted_iou: float = 0.8
    """Least of a mask."""
    stability: float = 0.85
    """Least share of the pixels that stays when the threshold moves from -1 to 1."""
    overlap: float = 0.7
    """IoU from which on two masks are one."""
    most: float = 0.4
    """Largest share of the photo that a mask may cover: what is larger is a floor or a wall."""
    least: float = 0.0005
    """Smallest share."""
    size: int = 640
    """Longest side of the masks, in pixels."""
    stride: int = 1
    """Only every so many-th photo."""

    def __post_init__(self) -> None:
        for name in ("predicted_iou", "stability", "overlap", "most", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(self, name)}; wanted 0 to 1")
        for name in ("points", "size", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}: got {getattr(self, name)}; wanted at least 1")


def automatic_masks(model: Segmenter, pixels: np.ndarray, settings: AutomaticMasks) -> list[Found]:
    """The masks of a photo [h w 3] uint8, the surest first."""
    image = model.encode(pixels)
    area = image.shape[0] * image.shape[1]
    found: list[Found] = []
    for point in grid(image.shape, settings.points):
        for logits, iou in zip(*image.masks_at(point), strict=True):
            mask = logits > 0
            share = mask.sum() / area
            if iou < settings.predicted_iou or not settings.least <= share <= settings.most:
                continue
            stability = float((logits > 1).sum() / max(int((logits > -1).sum()), 1))
            if stability >= settings.stability:
                found.append(Found(mask, float(iou), stability))
    return without_doubles(found, settings.overlap)


def grid(shape: tuple[int, int], along: int) -> np.ndarray:
    """[n 2] (x, y) of the centres of equal cells, `along` of them on the longer side."""
    height, width = shape
    columns, rows = (max(round(along * side / max(shape)), 1) for side in (width, height))
    x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def without_doubles(found: list[Found], overlap: float) -> list[Found]:
    """The surest first, without those whose IoU with a surer one is over `overlap`."""
    order = sorted(found, key=lambda one: -one.predicted_iou)
    if not order:
        return []
    flat = np.stack([one.mask.ravel() for one in order]).astype(np.float32)
    both = flat @ flat.T
    areas = np.diagonal(both)
    iou = both / np.maximum(areas[:, None] + areas - both, 1)
    kept: list[int] = []
    for number in range(len(order)):
        if not kept or iou[number, kept].max() <= overlap:
            kept.append(number)
    return [order[number] for number in kept]
