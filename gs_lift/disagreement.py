"""Where the 2D segments of a frame disagree with what was lifted from all frames, and how.

Notation: at a pixel p of a frame s is its segment of a thing, o the lifted object that shows there; either may be none.
A segment whose class is void is of a thing, as in lifting; what has no segment is none, void or not. |s|, |o| and
|s, o| count pixels. The lifted picture is the judge: what most frames agree on and this one does not is this frame's
error. Where all of them err alike, nothing is found; where many do, see `segment_doctor.Diagnosis`.

main object of s: the o with the largest |s, o|; none where that is less than SUBSTANTIAL of |s|.
main segment of o: of the segments whose main object is o the one with the largest |s, o|; none where there is none.
The first of equals is taken.

Borders: within `border_px` of an object's silhouette the judge may be wrong, in the segments' favour. A pixel of s
counts as what s has for its main object, if that shows anywhere within that distance (Euclidean). A pixel without a
segment counts as none if anything but its object shows within that distance, unless the object has no main segment:
what is missed is missed as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from gs_lift.errors import SceneError
from gs_lift.segmentation import VOID, Classes, Segments

NOTHING, AGREE, MERGED, SPLIT, MISSED, SPURIOUS = range(6)
"""Kinds of a pixel, see `disagreement`."""

KINDS = {"merged": MERGED, "split": SPLIT, "missed": MISSED, "spurious": SPURIOUS}
"""The kinds of disagreement, by their names."""

BORDER_PX = 2.0
SUBSTANTIAL = 0.25
"""Share of the smaller of a segment and an object from which on the segment covers the object substantially."""


@dataclass(frozen=True)
class Concern:
    """One thing to look at in a frame.

    kind: a name of KINDS. segments, objects: ids as in the maps, the main one first: a merged segment and its objects;
    a split object and its segments; a missed object and its main segment, where it is missed in part; a spurious
    segment. share: of the frame's pixels of things, by weight. at: column and row of one of its pixels: the middle one
    of the row that has the most.
    """

    kind: str
    segments: tuple[int, ...]
    objects: tuple[int, ...]
    share: float
    at: tuple[int, int]

    def __str__(self) -> str:
        """In a few words; objects by their number in labels.json, from 1."""
        ids = [one + 1 for one in self.objects]
        if self.kind == "merged":
            return f"{'+'.join(map(str, ids))} in one" if len(ids) > 1 else f"{ids[0]} with what is around"
        if self.kind == "split":
            return f"{ids[0]} in {len(self.segments)}"
        if self.kind == "missed":
            return f"{ids[0]} missed" + (" in part" if self.segments else "")
        return f"no object at {self.at[0]},{self.at[1]}"


@dataclass(frozen=True)
class Disagreement:
    """Of one frame. kind: NOTHING .. SPURIOUS of each pixel. weight: 0..1, how much it counts, 0 where it is NOTHING.

    pixels: how many show a thing, by the segments or by what was lifted. shares: of them, by the names of KINDS: the
    summed weight of the kind over `pixels`; 0 where there are none. concerns: the largest share first. objects: pixels
    of each lifted object that shows, by its id.
    """

    kind: Int[np.ndarray, "H W"]
    weight: Float[np.ndarray, "H W"]
    pixels: int
    shares: dict[str, float]
    concerns: tuple[Concern, ...]
    objects: dict[int, int]


def disagreement(
    segments: Segments,
    lifted: Segments,
    classes: Classes,
    *,
    border_px: float = BORDER_PX,
    unity: Mapping[int, float] | None = None,
) -> Disagreement:
    """Where a frame's segments disagree with the lifted objects in it; for words and borders see above.

    merged: s covers o substantially (|s, o| is SUBSTANTIAL of the smaller of both); o is not its main object.
    split: s is not the main segment of o, and not merged.
    missed: an object without a segment. spurious: a segment without an object.
    agree: s is o's main segment and o its main object, or borders excuse it. nothing: neither a segment nor an object.
    A pixel's weight is the lifted confidence, which judges: that something is there, or that nothing is; that of a
    split also the `unity` of its object, 1 where that is not given. Classes of things are not compared.

    Raises SceneError where the maps differ in size.
    """
    wanted, got = tuple(lifted.instance.shape), tuple(segments.instance.shape)
    if got != wanted:
        raise SceneError(f"segments are {got}, what was lifted {wanted}; resize the masks")
    segment_ids, segment = _things(segments, classes)
    object_ids, shown = _things(lifted, classes)
    either = (segment >= 0) | (shown >= 0)
    overlap = _overlap(segment, shown, len(segment_ids), len(object_ids))
    sizes = np.bincount(segment[segment >= 0], minlength=len(segment_ids))
    main_object, main_segment = _mains(overlap, sizes)
    areas = np.bincount(shown[shown >= 0], minlength=len(object_ids))
    substantial = _padded(overlap >= SUBSTANTIAL * np.minimum.outer(sizes, areas))
    # The entry behind the last stands for none: index -1.
    main_object, main_segment = np.append(main_object, -1), np.append(main_segment, -1)
    claim = main_object[segment]
    same, other = _near(shown, claim, border_px)
    excused = np.where(segment >= 0, same, other & (main_segment[shown] >= 0))
    judge = np.where(excused, claim, shown)
    kind = np.full(shown.shape, NOTHING, np.int8)
    kind[either] = AGREE
    kind[(segment < 0) & (judge >= 0)] = MISSED
    kind[(segment >= 0) & (judge < 0)] = SPURIOUS
    both = (segment >= 0) & (judge >= 0)
    kind[both & (segment != main_segment[judge])] = SPLIT
    kind[both & (judge != claim) & substantial[segment, judge]] = MERGED
    weight = np.where(either, lifted.confidence.detach().cpu().numpy().astype(np.float64), 0.0)
    whole = np.array([1.0 if unity is None else unity.get(one, 1.0) for one in [*object_ids.tolist(), -1]])
    weight[kind == SPLIT] *= whole[judge[kind == SPLIT]]
    pixels = int(either.sum())
    shares = {name: float(weight[kind == one].sum()) / max(pixels, 1) for name, one in KINDS.items()}
    concerns = _concerns(kind, weight / max(pixels, 1), segment, judge, main_object, main_segment)
    named = tuple(
        replace(
            one,
            segments=tuple(segment_ids[list(one.segments)].tolist()),
            objects=tuple(object_ids[list(one.objects)].tolist()),
        )
        for one in concerns
    )
    objects = dict(zip(object_ids.tolist(), areas.tolist(), strict=True))
    return Disagreement(kind, weight, pixels, shares, named, objects)


def _things(labelled: Segments, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """The ids of things, and the place [H W] of each pixel's among them, -1 = none."""
    instance, semantic = labelled.instance.cpu().numpy(), labelled.semantic.cpu().numpy()
    thing = np.array([*classes.is_thing, True])[semantic]  # the last one is VOID
    assert VOID == -1
    inside = (instance >= 0) & thing
    ids, places = np.unique(instance[inside], return_inverse=True)
    codes = np.full(instance.shape, -1, np.int64)
    codes[inside] = places
    return ids, codes


def _overlap(segment: np.ndarray, shown: np.ndarray, segments: int, objects: int) -> np.ndarray:
    """[S O] |s, o|."""
    both = (segment >= 0) & (shown >= 0)
    joint = segment[both] * objects + shown[both]
    return np.bincount(joint, minlength=segments * objects).reshape(segments, objects)


def _mains(overlap: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The main object of each segment of `sizes` pixels and the main segment of each object, -1 = none."""
    segments, objects = overlap.shape
    if not overlap.size:
        return np.full(segments, -1), np.full(objects, -1)
    of_segment = np.where(overlap.max(axis=1) >= SUBSTANTIAL * sizes, overlap.argmax(axis=1), -1)
    own = np.where(of_segment[:, None] == np.arange(objects), overlap, 0)
    return of_segment, np.where(own.max(axis=0) > 0, own.argmax(axis=0), -1)


def _padded(table: np.ndarray) -> np.ndarray:
    """With a last row and column of False, which stand for none."""
    return np.pad(table, ((0, 1), (0, 1)))


def _near(shown: np.ndarray, claim: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether within `reach` of each pixel what it claims shows, and whether anything but its own object does."""
    height, width = shown.shape
    same, other = shown == claim, np.zeros(shown.shape, bool)
    most = int(reach)
    steps = [(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)]
    for y, x in steps:
        if (y, x) == (0, 0) or y * y + x * x > reach * reach or abs(y) >= height or abs(x) >= width:
            continue
        here = (slice(max(-y, 0), height - max(y, 0)), slice(max(-x, 0), width - max(x, 0)))
        there = (slice(max(y, 0), height - max(-y, 0)), slice(max(x, 0), width - max(-x, 0)))
        same[here] |= shown[there] == claim[here]
        other[here] |= shown[there] != shown[here]
    return same, other


def _concerns(
    kind: np.ndarray,
    weight: np.ndarray,
    segment: np.ndarray,
    judge: np.ndarray,
    main_object: np.ndarray,
    main_segment: np.ndarray,
) -> list[Concern]:
    """With places instead of ids; `weight` is a share of the frame's pixels of things."""
    found = []
    for name, code in KINDS.items():
        rows, columns = np.nonzero(kind == code)
        by_object = code in (SPLIT, MISSED)
        maps, mains = (judge, segment), main_segment if by_object else main_object
        owner, partner = (each[rows, columns] for each in (maps if by_object else maps[::-1]))
        for one in np.unique(owner).tolist():
            mine, main = owner == one, -1 if code == SPURIOUS else int(mains[one])
            partners = (main, *(each for each in np.unique(partner[mine]).tolist() if each != main))
            partners = tuple(each for each in partners if each >= 0)
            y, x = rows[mine], columns[mine]
            longest = int(np.bincount(y).argmax())
            row = np.sort(x[y == longest])
            found.append(
                Concern(
                    name,
                    segments=partners if by_object else (one,),
                    objects=(one,) if by_object else partners,
                    share=float(weight[y, x].sum()),
                    at=(int(row[(len(row) - 1) // 2]), longest),
                )
            )
    return sorted(found, key=lambda one: -one.share)
