"""The k nearest neighbours of every point: found by a kd-tree or FAISS, measured again in float64.

FAISS computes in float32 and, above FLAT_POINTS, looks into part of the data only. So it merely proposes: distances
are computed again from the points and ties are settled by index, which makes the result the same on every run and
for any number of threads.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gs_lift import _native
from gs_lift.errors import BackendError

FLAT_POINTS = 8_000
"""Up to here every pair is compared: about as fast as an inverted file, and exact but for float32."""

QUERY_ROWS = 65_536
"""Points asked for at once: bounds the memory of FAISS's answer."""

SPARE = 8
"""Neighbours asked for beyond k, so that float32's ranking cannot lose one of the k."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest others of each point.

    ids, distances: [N k] ascending; -1 and infinity where there are fewer. reach: [N] no point that is not among
    them is nearer than this; None where the search was approximate.
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float64]
    reach: NDArray[np.float64] | None


class NeighbourSearch:
    """An index over `points` [N D] float64, finite and pairwise different, that can be asked for any k.

    A kd-tree up to three dimensions; FAISS above: flat up to FLAT_POINTS or where `exact` is set, else an inverted
    file of about 4 sqrt(N) lists. On the GPU where FAISS has one. Raises BackendError where FAISS is missing.
    """

    def __init__(self, points: NDArray[np.float64], *, exact: bool = False, probes: int = 16):
        self.points = points
        count, dims = points.shape
        self.exact = exact or dims <= 3 or count <= FLAT_POINTS
        self._kd_tree = cKDTree(points) if dims <= 3 else None
        if self._kd_tree is None:
            # Around the mean, for float32 loses what |x|^2 + |y|^2 - 2xy cancels. A power of two rounds nothing.
            centred = points - points.mean(axis=0)
            largest = float(np.abs(centred).max(initial=0.0))
            scale = 2.0 ** np.ceil(np.log2(largest)) if largest > 0 else 1.0
            self._vectors = np.ascontiguousarray(centred / scale, dtype=np.float32)
            self._scale = scale
            self._index = faiss_index(self._vectors, flat=self.exact, probes=probes)

    def query(self, k: int, rows: NDArray[np.int64] | None = None) -> Neighbours:
        """The k nearest others of the points `rows` [R] (all, where None)."""
        rows = np.arange(len(self.points)) if rows is None else rows
        keep = min(k, len(self.points) - 1)
        parts = [self._query(keep, rows[at : at + QUERY_ROWS]) for at in range(0, len(rows), QUERY_ROWS)]
        ids, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Neighbours(ids, distances, self._reach(rows, distances) if self.exact else None)

    def _query(self, keep: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        wanted = min(keep + 1 + SPARE, len(self.points))
        if self._kd_tree is not None:
            candidates = self._kd_tree.query(self.points[rows], k=np.arange(1, wanted + 1))[1].astype(
                np.int64
            )
        else:
            candidates = self._index.search(self._vectors[rows], wanted)[1]
        return _native.rank_neighbours(self.points, rows, candidates, keep)

    def _reach(self, rows: NDArray[np.int64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
        if distances.shape[1] == len(self.points) - 1:
            return np.full(len(rows), np.inf)
        furthest = distances[:, -1]
        if self._kd_tree is not None:
            return furthest
        # What float32 may misjudge of a squared distance: rounding of the vectors and of three sums of D products.
        dims = self.points.shape[1]
        norms = np.linalg.norm(self._vectors.astype(np.float64), axis=1)
        error = (dims + 8) * 2.0**-23 * (norms[rows] + norms.max()) ** 2 * self._scale**2
        return np.sqrt(np.maximum(furthest**2 - error, 0))


def faiss_index(vectors: NDArray[np.float32], *, flat: bool, probes: int):  # type: ignore[no-untyped-def]
    """A filled FAISS index over `vectors` [N D], on the GPU where there is one."""
    faiss = load_faiss()
    count, dims = vectors.shape
    index = faiss.IndexFlatL2(dims)
    if not flat:
        index = faiss.IndexIVFFlat(index, dims, max(1, round(4 * count**0.5)))
        index.nprobe = probes
        index.cp.seed = 1234
        index.cp.niter = 8
        index.cp.min_points_per_centroid = 1  # silences a warning; the lists need not be even
        index.cp.max_points_per_centroid = 32
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.train(vectors)
    index.add(vectors)
    return index


def load_faiss() -> ModuleType:
    """The faiss module; a BackendError that names the extras where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise BackendError(
            "clustering needs FAISS, which is not installed; pip install 'gs_lift[cpu]' (or 'gs_lift[cuda]')"
        ) from error
    return faiss
