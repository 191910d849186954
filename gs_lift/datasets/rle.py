"""COCO's run lengths of a mask: counts of pixels outside, inside, outside ... down the columns.

As pycocotools and Segment Anything write them: a dict of size [h, w] and counts, a list or a string.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gs_lift.datasets import files
from gs_lift.errors import SceneError


def size_of(path: Path, foreign: Any) -> tuple[int, int]:
    size = foreign.get("size") if isinstance(foreign, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(one) is int for one in size)):
        raise SceneError(
            f"{path}: a segmentation without size and counts; wanted COCO's run lengths, not polygons"
        )
    files.check_pixels(path, tuple(size))
    return size[0], size[1]


def decode(path: Path, foreign: Any) -> np.ndarray:
    """[h w] bool of COCO's run lengths: counts of pixels outside, inside, outside ... down the columns."""
    mask = np.zeros(size_of(path, foreign), bool, order="F")
    draw(counts_of(path, foreign), mask, True)
    return mask


def draw(counts: list[int], ids: np.ndarray, number: int) -> None:
    column_by_column = ids.T.reshape(-1)  # a view, as `ids` lies in memory so
    ends = np.cumsum(counts).tolist()
    for start, end in zip(ends[0::2], ends[1::2], strict=False):  # the last run may be outside
        column_by_column[start:end] = number


def counts_of(path: Path, foreign: Any) -> list[int]:
    """As a list, or as its string: each count's difference to the one before the last, in groups of 5 bits."""
    height, width = size_of(path, foreign)
    counts = foreign.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(path, counts)
    pixels = height * width
    if not (isinstance(counts, list) and all(type(one) is int and 0 <= one <= pixels for one in counts)):
        raise SceneError(f"{path}: run lengths that are no counts; wanted COCO's")
    if sum(counts) != pixels:
        raise SceneError(f"{path}: run lengths of {sum(counts)} pixels in a mask of {pixels}; cut short?")
    return counts


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts of a mask [h w] bool: what `decode` takes."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def _unpacked(path: Path, text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise SceneError(
                f"{path}: run lengths with the letter {letter!r}; wanted COCO's compressed string"
            )
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise SceneError(f"{path}: run lengths that end within a number; cut short?")
    return counts
