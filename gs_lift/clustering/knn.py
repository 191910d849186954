"""The k nearest neighbours of every point, chosen in float32 and measured again in float64.

On the CPU: groups of near points, halved along the axes up to three dimensions and made by FAISS's k-means above, and
our own search over them. Up to three dimensions or EXACT_POINTS every group that may hold a neighbour is looked at;
above, so many that a sample of points finds RECALL of its neighbours. On a GPU: FAISS's own indexes, in the same way.
The same result on every run and for any number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gs_lift import _native
from gs_lift.clustering.hierarchy import Floats, Ints
from gs_lift.errors import BackendError
from gs_lift.threads import kernel_threads

Found = tuple[NDArray[np.int32], Floats]
"""Ids and distances [R k] of R queries, ascending; -1 and infinity where there are fewer."""

EXACT_POINTS = 8_000
"""Up to here the search is exact: it takes no longer."""

RECALL = 0.95
"""Share of the true neighbours that an approximate search must find; the tree needs the nearest few of them."""

PROBES = 32
"""Groups that an approximate search looks at, the nearest first; doubled until RECALL is reached."""

SAMPLE = 256
"""Points whose neighbours are searched exactly to measure recall."""

BLOCK = 65_536
"""Rows that are converted, or asked of a GPU, at once: bounds memory."""

EVERY = 0
"""As `probes`: exact."""

NOBODY = -1
"""As `own`: the query is none of the points. As `home`: its group is not known."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest others of each point.

    ids, distances: [N k] ascending; -1 and infinity where there are fewer. reach: [N] no point that is not among
    them is nearer than this; None where the search was approximate.
    """

    ids: NDArray[np.int32]
    distances: Floats
    reach: Floats | None


class Index(Protocol):
    """What finds neighbours: our groups, or FAISS on a GPU."""

    groups: int

    @property
    def point_groups(self) -> _native.PointGroups:
        """Groups of the points, for kernels that search by themselves."""
        ...

    def nearest(self, queries: Floats, own: Ints, keep: int, probes: int) -> Found:
        """The `keep` nearest points of each query [R D], but for the point own [R] that it is.

        probes: groups that are looked at; EVERY: all that may hold one of them.
        """
        ...


class NeighbourSearch:
    """An index over `points` [N D] float64, finite, that can be asked for any k.

    exact: as up to three dimensions, whatever N and D. recall: share of the true neighbours that `query` finds,
    measured on SAMPLE points by its first call. Raises BackendError where FAISS is needed and missing.
    """

    def __init__(self, points: Floats, *, exact: bool = False):
        self.points = points
        count, dims = points.shape
        self.exact = exact or dims <= 3 or count <= EXACT_POINTS
        self.recall = 1.0
        self._probes: int | None = EVERY if self.exact else None
        self._index: Index = GpuIndex(points) if not self.exact and faiss_has_gpu() else GroupIndex(points)

    def query(self, k: int, rows: Ints | None = None) -> Neighbours:
        """The k nearest others of the points `rows` [R] (all, where None)."""
        keep = min(k, len(self.points) - 1)
        own, queries = (
            (np.arange(len(self.points)), self.points) if rows is None else (rows, self.points[rows])
        )
        if self._probes is None:
            self._probes = self._enough_probes(keep)
        ids, distances = self._index.nearest(queries, own, keep, self._probes)
        return Neighbours(ids, distances, _reach(distances, len(self.points)) if self.exact else None)

    @property
    def point_groups(self) -> _native.PointGroups:
        """The points in groups of near ones."""
        return self._index.point_groups

    def nearest_to(self, queries: Floats, k: int) -> Found:
        """The k nearest points of other places, `queries` [R D], finite."""
        own, keep = np.full(len(queries), NOBODY), min(k, len(self.points))
        return self._index.nearest(queries, own, keep, PROBES if self._probes is None else self._probes)

    def _enough_probes(self, keep: int) -> int:
        rows = np.linspace(0, len(self.points) - 1, SAMPLE).astype(np.int64)
        furthest = self._index.nearest(self.points[rows], rows, keep, EVERY)[1][:, -1:]
        probes = PROBES
        while True:
            found = self._index.nearest(self.points[rows], rows, keep, probes)[1]
            self.recall = float((found <= furthest).mean())
            if self.recall >= RECALL or probes >= self._index.groups:
                return probes
            probes *= 2


@dataclass(frozen=True)
class Unit:
    """Brings coordinates into -1..1 around the mean [D], for float32; a power of two as scale rounds nothing."""

    mean: Floats
    scale: float

    @classmethod
    def of(cls, points: Floats) -> "Unit":
        mean = points.mean(axis=0)
        largest = float(max((points.max(axis=0) - mean).max(), (mean - points.min(axis=0)).max()))
        return cls(mean, float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 1.0)

    def __call__(self, points: Floats) -> NDArray[np.float32]:
        return np.ascontiguousarray((points - self.mean) / self.scale, dtype=np.float32)


class GroupIndex:
    """Points in groups of near ones. Above three dimensions and EXACT_POINTS it takes FAISS to make the groups."""

    def __init__(self, points: Floats):
        count, dims = points.shape
        self._points, self._unit = points, Unit.of(points)
        if dims <= 3 or count <= EXACT_POINTS:
            order, starts = _native.halve(points, _group_size(count))
        else:
            order, starts = self._groups_by_faiss()
        self.groups = len(starts) - 1
        self._home = np.empty(count, dtype=np.int64)
        self._home[order] = np.repeat(np.arange(self.groups), np.diff(starts))
        self.point_groups = _native.PointGroups(points, order, starts, self._unit.mean, self._unit.scale)

    def nearest(self, queries: Floats, own: Ints, keep: int, probes: int) -> Found:
        home = np.where(own == NOBODY, NOBODY, self._home[own])
        return self.point_groups.nearest(self._points, queries, own, home, keep, probes, kernel_threads())

    def _groups_by_faiss(self) -> tuple[NDArray[np.int32], Ints]:
        """Ids in the order of their groups [N], and where each of about 4 sqrt(N) groups starts [G + 1]."""
        faiss = load_faiss()
        count, dims = self._points.shape
        wanted, per_group = round(4 * count**0.5), 16
        sample = np.linspace(0, count - 1, min(count, per_group * wanted)).astype(np.int64)
        training = faiss.Clustering(dims, wanted)
        training.seed, training.niter = 1234, 4
        training.min_points_per_centroid = 1  # silences a warning; the groups need not be even
        training.train(self._unit(self._points[sample]), faiss.IndexFlatL2(dims))
        centers = faiss.vector_to_array(training.centroids).reshape(wanted, dims)
        groups = np.concatenate(
            [
                _native.nearest_centers(self._unit(self._points[rows]), centers, kernel_threads())
                for rows in _blocks(count)
            ]
        )
        sizes = np.bincount(groups)
        return np.argsort(groups, kind="stable").astype(np.int32), np.cumsum([0, *sizes[sizes > 0]])


class GpuIndex:
    """FAISS's own indexes, flat and an inverted file of 4 sqrt(N) lists. With `device` None on the CPU, for tests."""

    SPARE = 8
    """Neighbours asked for beyond k, so that float32's ranking cannot lose one of the k."""

    def __init__(self, points: Floats, *, device: int | None = 0):
        faiss = load_faiss()
        count, dims = points.shape
        self._points, self._unit = points, Unit.of(points)
        self._flat = self._on_device(faiss, faiss.IndexFlatL2(dims), device)
        self.groups = max(1, round(4 * count**0.5))
        inverted = faiss.IndexIVFFlat(faiss.IndexFlatL2(dims), dims, self.groups)
        inverted.cp.seed, inverted.cp.niter, inverted.cp.min_points_per_centroid = 1234, 8, 1
        self._inverted = self._on_device(faiss, inverted, device)
        self._inverted.train(self._unit(points))
        for index in (self._flat, self._inverted):
            for rows in _blocks(count):
                index.add(self._unit(points[rows]))

    def nearest(self, queries: Floats, own: Ints, keep: int, probes: int) -> Found:
        index = self._flat
        if probes != EVERY:
            index = self._inverted
            index.nprobe = min(probes, self.groups)
        wanted = min(keep + 1 + self.SPARE, len(self._points))
        parts = []
        for rows in _blocks(len(queries)):
            candidates = index.search(self._unit(queries[rows]), wanted)[1]
            parts.append(
                _native.rank_neighbours(
                    self._points, queries[rows], own[rows], candidates, keep, kernel_threads()
                )
            )
        ids, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
        return ids, distances

    @cached_property
    def point_groups(self) -> _native.PointGroups:
        order, starts = _native.halve(self._points, _group_size(len(self._points)))
        return _native.PointGroups(self._points, order, starts, self._unit.mean, self._unit.scale)

    @staticmethod
    def _on_device(faiss: ModuleType, index: Any, device: int | None) -> Any:
        return (
            index if device is None else faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)
        )


def _reach(distances: Floats, points: int) -> Floats:
    """Of exact neighbours [N k] among so many points: see Neighbours."""
    everything = distances.shape[1] == points - 1
    return np.full(len(distances), np.inf) if everything else distances[:, -1] * (1 - 1e-12)


def _blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK rows; one where there are none."""
    yield from (slice(at, at + BLOCK) for at in range(0, max(count, 1), BLOCK))


def _group_size(count: int) -> int:
    """Most points in a group that is made by halving."""
    return max(128, round(count**0.5 / 4))


def faiss_has_gpu() -> bool:
    """Whether FAISS is there, built for GPUs, and sees one."""
    faiss = load_faiss()
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def load_faiss() -> ModuleType:
    """The faiss module; a BackendError that names the extras where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise BackendError(
            "clustering needs FAISS, which is not installed; pip install 'gs_lift[cpu]' (or 'gs_lift[cuda]')"
        ) from error
    return faiss
