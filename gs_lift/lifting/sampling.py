"""Which pixels a step learns from."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from gs_lift.segmentation import VOID, Classes, Segments


@dataclass(frozen=True)
class ThingPixels:
    """The pixels of one view that lie in a segment of a thing, ordered by segment.

    rows: index into the view's candidate pixels. segment: 0, 1, ... in this view. offsets: segment s lies at
    offsets[s]:offsets[s + 1].
    """

    rows: Int[Tensor, "T"]
    segment: Int[Tensor, "T"]
    confidence: Float[Tensor, "T"]
    offsets: Int[Tensor, "L1"]

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, inside: Bool[Tensor, "C"]) -> "ThingPixels":
        """Those of candidate pixels that are `inside`; a segment without any is gone."""
        taken = inside[self.rows]
        _, segment = torch.unique_consecutive(self.segment[taken], return_inverse=True)
        return ThingPixels(self.rows[taken], segment, self.confidence[taken], _offsets(segment))


@dataclass(frozen=True)
class LabelledPixels:
    """The pixels of one view whose class is known; rows as in ThingPixels."""

    rows: Int[Tensor, "P"]
    classes: Int[Tensor, "P"]
    confidence: Float[Tensor, "P"]

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, inside: Bool[Tensor, "C"]) -> "LabelledPixels":
        """As of ThingPixels."""
        taken = inside[self.rows]
        return LabelledPixels(self.rows[taken], self.classes[taken], self.confidence[taken])


def candidates(height: int, width: int, limit: int, generator: Generator) -> Int[Tensor, "C"]:
    """Flat ids (row * width + column), ascending, of the pixels that training may use: all, or `limit` at random."""
    count = height * width
    if count <= limit:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:limit].sort().values


def thing_pixels(segments: Segments, pixels: Int[Tensor, "C"], classes: Classes) -> ThingPixels:
    """Those of `pixels` in a segment; a segment's pixels of a stuff class are left out, of VOID they are kept."""
    instance = segments.instance.flatten()[pixels].long()
    semantic = segments.semantic.flatten()[pixels].long()
    is_stuff = ~torch.tensor(classes.is_thing)[semantic.clamp(min=0)] & (semantic != VOID)
    rows = torch.nonzero((instance >= 0) & ~is_stuff)[:, 0]
    _, segment = torch.unique(instance[rows], return_inverse=True)
    order = torch.argsort(segment, stable=True)
    rows, segment = rows[order], segment[order]
    return ThingPixels(rows, segment, segments.confidence.flatten()[pixels][rows].float(), _offsets(segment))


def _offsets(segment: Int[Tensor, "T"]) -> Int[Tensor, "L1"]:
    """Where each of segments 0, 1, ..., in this order, begins, and where the last one ends."""
    offsets = torch.zeros(int(segment[-1]) + 2 if len(segment) else 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(segment, minlength=len(offsets) - 1), dim=0, out=offsets[1:])
    return offsets


def labelled_pixels(segments: Segments, pixels: Int[Tensor, "C"]) -> LabelledPixels:
    """Those of `pixels` whose class is not VOID."""
    semantic = segments.semantic.flatten()[pixels].long()
    rows = torch.nonzero(semantic != VOID)[:, 0]
    return LabelledPixels(rows, semantic[rows], segments.confidence.flatten()[pixels][rows].float())


def sample(total: int, count: int, generator: Generator) -> Int[Tensor, "B"]:
    """`count` of `total` without replacement, or all of them; always in random order.

    The losses split a batch by position, so the order has to be random also where nothing is left out: in image order
    the two halves would be the top and the bottom of the image.
    """
    # A permutation of everything is exact and simple, but drawing a few of many is 20 times faster by rejection.
    if total <= 8 * count:
        return torch.randperm(total, generator=generator)[:count]
    return _first_distinct(torch.randint(total, (count + count // 4 + 16,), generator=generator), count)


def sample_balanced(
    things: ThingPixels, count: int, balance: float, generator: Generator
) -> Int[Tensor, "B"]:
    """Positions in `things`, without replacement and in random order; at most `count`, fewer in small segments.

    A segment is chosen with probability proportional to its area to the power 1 - balance: 0 = every pixel alike, 1 =
    every segment alike.
    """
    if balance == 0 or len(things) <= count:
        return sample(len(things), count, generator)
    sizes = things.offsets[1:] - things.offsets[:-1]
    drawn = torch.multinomial(
        sizes.double() ** (1 - balance), 2 * count, replacement=True, generator=generator
    )
    place = torch.rand(2 * count, generator=generator, dtype=torch.float64)
    positions = things.offsets[:-1][drawn] + (place * sizes[drawn]).long()
    return _first_distinct(positions, count)


def _first_distinct(draws: Int[Tensor, "R"], count: int) -> Int[Tensor, "B"]:
    """The first `count` distinct draws, in the order in which they were drawn."""
    ordered, order = torch.sort(draws, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    kept = torch.zeros_like(first)
    kept[order[first]] = True
    return draws[kept][:count]
