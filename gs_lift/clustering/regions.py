"""What the segments and the stuff of the views hold of chosen Gaussians, and of labels that these have.

Notation: N Gaussians, T of them chosen; R regions of V views, S of them segments of things; see Evidence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_lift import _native
from gs_lift.clustering.hierarchy import Floats, Ints
from gs_lift.segmentation import Evidence
from gs_lift.sparse import Sparse, narrow, one_hot
from gs_lift.threads import kernel_threads


@dataclass(frozen=True)
class Cover:
    """How much of which of L labels the regions hold.

    things: [S L] of each segment. stuff, seen: [V L] in stuff, and in all of a view.
    """

    things: Sparse
    stuff: Sparse
    seen: Sparse


@dataclass(frozen=True)
class Regions:
    """Evidence as it speaks of T chosen Gaussians. Its entries stay where they are: they are most of the memory.

    place: [N] which of the T each Gaussian is, -1 = none. segment: [S] the regions that are things' segments. view: [S]
    of each of them. size: [S] pixels of each, whoever fills them.
    """

    evidence: Evidence
    place: NDArray[np.int32]
    segment: Ints
    view: Ints
    size: Floats

    @classmethod
    def of(cls, evidence: Evidence, rows: Ints, count: int) -> "Regions":
        """Of the Gaussians `rows` [T] among `count`."""
        place = np.full(count, -1, dtype=np.int32)
        place[rows] = np.arange(len(rows))
        segment = np.flatnonzero(evidence.kind.numpy() == Evidence.THING)
        view = evidence.view.numpy()[segment].astype(np.int64)
        everybody = _label_sums(evidence, np.zeros(count, dtype=np.int32), 1)
        size = np.asarray(everybody.sum(axis=1)).ravel()[segment]
        return cls(evidence, place, segment, view, size)

    @property
    def views(self) -> int:
        return int(self.evidence.view.max()) + 1 if len(self.evidence) else 0

    def cover(self, labels: Ints, count: int) -> Cover:
        """Of labels [T] below `count`; what is of none, below 0, is left out."""
        of_all = np.append(labels, -1).astype(np.int32)[self.place]
        sums = _label_sums(self.evidence, of_all, count)
        of_view = one_hot(self.evidence.view.numpy().astype(np.int64), self.views).T.tocsr()
        stuff = np.flatnonzero(self.evidence.kind.numpy() == Evidence.STUFF)
        return Cover(sums[self.segment], of_view[:, stuff] @ sums[stuff], of_view @ sums)

    def votes(self, matched: Ints, count: int) -> Sparse:
        """[T count] what each Gaussian has in the segments that match each of `count` instances: matched [S]."""
        of_region = np.full(len(self.evidence), -1, dtype=np.int32)
        of_region[self.segment] = matched
        chosen = int(self.place.max(initial=-1)) + 1
        indptr, instances, sums = _native.region_votes(
            *_entries(self.evidence), self.place, chosen, of_region, kernel_threads()
        )
        return Sparse((sums, instances, narrow(indptr, len(sums))), shape=(chosen, count))

    def votes_of_stuff(self, labels: Ints, factor: Floats) -> Floats:
        """[T] what each Gaussian has in stuff, each view's times the factor [V M + 1] of its label, last that of -1."""
        kinds = (self.evidence.kind.numpy() == Evidence.STUFF).astype(np.int32)
        view = self.evidence.view.numpy().astype(np.int32)
        return _native.stuff_votes(
            *_entries(self.evidence), self.place, kinds, view, labels.astype(np.int32), factor
        )


def _entries(evidence: Evidence) -> tuple[NDArray[Any], ...]:
    """indptr, indices and values, of the types that the native kernels take."""
    values = evidence.values.numpy()
    return (
        evidence.indptr.numpy().astype(np.int64, copy=False),
        evidence.indices.numpy().astype(np.int32, copy=False),
        values if values.dtype == np.float16 else values.astype(np.float32, copy=False),
    )


def _label_sums(evidence: Evidence, of_all: NDArray[np.int32], count: int) -> Sparse:
    """[R count] what the Gaussians of each label have in each region; of_all: [N] label, -1 = none."""
    starts, labels, sums = _native.label_sums(*_entries(evidence), of_all, count, kernel_threads())
    return Sparse((sums, labels, narrow(starts, len(sums))), shape=(len(evidence), count))
