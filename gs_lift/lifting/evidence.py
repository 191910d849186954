"""What the segments of each view cover, gathered while the views are prepared."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from gs_lift.lifting.sampling import LabelledPixels, ThingPixels
from gs_lift.rendering.weights import Weights
from gs_lift.segmentation import Classes, Evidence
from gs_lift.sparse import Sparse

FAINT = 0.01
"""Pixels: less of a Gaussian in a region is left out."""

LARGEST = 65504
"""float16's: a Gaussian that fills a photo of 40 megapixels has more."""


@dataclass(frozen=True)
class _OfView:
    """Regions of one view: their kinds, and in compressed sparse rows how much of which Gaussians they cover."""

    kinds: list[int]
    indptr: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float16]

    def of(self, taken: NDArray[np.bool_]) -> "_OfView":
        """Of the entries that are `taken` alone."""
        indptr = np.append(0, np.cumsum(taken))[self.indptr]
        return _OfView(self.kinds, indptr, self.columns[taken], self.values[taken])


class EvidenceOfViews:
    """Gathers Evidence view by view, in the order of `turns`; at the end nothing has to be rendered again.

    Of each of `count` Gaussians it keeps no more than the first `limit` views that see it, so that memory does not grow
    with the views. Turns are drawn once for all Gaussians: neighbours keep the same views, as far as the same see them.
    """

    def __init__(self, classes: Classes, count: int, limit: int):
        self.classes, self.count, self.limit = classes, count, limit
        self._views: dict[int, tuple[int, _OfView]] = {}
        self._kept = np.zeros(count, dtype=np.int32)

    def add(
        self,
        view: int,
        turn: int,
        weights: Weights,
        things: ThingPixels,
        labelled: LabelledPixels,
        scale: float,
    ) -> None:
        """Regions of a view, of whose pixels `weights` holds one in `scale`.

        view: any number, ascending ones are those of the result, which has no gaps. turn: higher than those before.
        """
        region, kinds = self._regions_of(len(weights), things, labelled)
        blend = Sparse(
            (weights.values.float().numpy(), weights.indices.numpy(), weights.indptr.numpy()),
            shape=(len(weights), weights.columns),
        )
        pixels = np.arange(len(weights))
        members = Sparse(
            (np.full(len(pixels), scale, dtype=np.float32), (region, pixels)), shape=(len(kinds), len(pixels))
        )
        covered = members @ blend
        covered.data[covered.data < FAINT] = 0
        covered.eliminate_zeros()
        covered.sort_indices()
        values = np.minimum(covered.data, LARGEST).astype(np.float16)
        self._take(
            view,
            turn,
            _OfView(kinds, covered.indptr.astype(np.int64), covered.indices.astype(np.int32), values),
        )

    def _take(self, view: int, turn: int, found: _OfView) -> None:
        free = self._kept[found.columns] < self.limit
        self._kept[np.unique(found.columns[free])] += 1
        self._views[view] = (turn, found if free.all() else found.of(free))

    def merged(self, others: list["EvidenceOfViews"]) -> "EvidenceOfViews":
        """What one would have gathered in place of this and the others, each of which had some of the views."""
        if not others:
            return self
        result = EvidenceOfViews(self.classes, self.count, self.limit)
        views = [(turn, view, found) for one in (self, *others) for view, (turn, found) in one._views.items()]
        for turn, view, found in sorted(views, key=lambda one: one[0]):
            result._take(view, turn, found)
        return result

    def _regions_of(
        self, count: int, things: ThingPixels, labelled: LabelledPixels
    ) -> tuple[np.ndarray, list[int]]:
        """The region of each of `count` pixels, and the kind of each region."""
        segments, stuff = (
            len(things.offsets) - 1,
            [i for i, thing in enumerate(self.classes.is_thing) if not thing],
        )
        kinds = [Evidence.THING] * segments + [Evidence.STUFF] * len(stuff) + [Evidence.UNKNOWN]
        # A thing's class without a segment says nothing of which thing.
        of_class = np.full(len(self.classes), len(kinds) - 1)
        of_class[stuff] = segments + np.arange(len(stuff))
        region = np.full(count, len(kinds) - 1)
        region[labelled.rows.numpy()] = of_class[labelled.classes.numpy()]
        region[things.rows.numpy()] = things.segment.numpy()
        return region, kinds

    def result(self, order: Int[Tensor, "N"]) -> Evidence:
        """All that was added, which is gone from here; column g of what was added is Gaussian order[g]."""
        place = order.cpu().numpy().astype(np.int32)
        found = [self._views[view][1] for view in sorted(self._views)]
        self._views = {}
        kinds = [kind for one in found for kind in one.kinds]
        numbers = [number for number, one in enumerate(found) for _ in one.kinds]
        indptr = np.cumsum([0, *(length for one in found for length in np.diff(one.indptr))])
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float16)
        at = 0
        for number in range(len(found)):
            one, found[number] = found[number], None  # type: ignore[call-overload]  # half the memory at the end
            columns, row = place[one.columns], np.repeat(np.arange(len(one.kinds)), np.diff(one.indptr))
            ascending = np.lexsort((columns, row))
            indices[at : at + len(columns)] = columns[ascending]
            values[at : at + len(columns)] = one.values[ascending]
            at += len(columns)
        return Evidence(
            view=torch.tensor(numbers, dtype=torch.int32),
            kind=torch.tensor(kinds, dtype=torch.int8),
            indptr=torch.from_numpy(indptr.astype(np.int64)),
            indices=torch.from_numpy(indices),
            values=torch.from_numpy(values),
        )
