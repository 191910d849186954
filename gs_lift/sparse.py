"""Sparse matrices of labels and votes."""

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Sparse: TypeAlias = scipy.sparse.csr_array
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def one_hot(labels: Ints, count: int) -> Sparse:
    """[L count]: 1 at each of the labels [L]; a negative one has an empty row."""
    rows = np.flatnonzero(labels >= 0)
    most = max(len(labels), count)
    places = narrow(rows, most), narrow(labels[rows], most)
    return Sparse((np.ones(len(rows)), places), shape=(len(labels), count))


def narrow(places: Ints, most: int) -> NDArray[Any]:
    """Indices up to `most`, as int32 where that holds them: scipy's arrays keep the type that they are given."""
    return places.astype(np.int32 if most < 2**31 else np.int64)


def strongest(votes: Sparse) -> tuple[Ints, Floats]:
    """Of each row the column with the largest positive value, the first of equals, and the value; -1 and 0 if none."""
    votes.sort_indices()
    counts = np.diff(votes.indptr)
    filled = np.flatnonzero(counts)
    winner, value = np.full(len(counts), -1), np.zeros(len(counts))
    if len(filled):
        best = np.maximum.reduceat(votes.data, votes.indptr[filled])
        row = np.repeat(np.arange(len(filled)), counts[filled])
        hits = np.flatnonzero(votes.data == best[row])
        first = hits[np.unique(row[hits], return_index=True)[1]]
        winner[filled], value[filled] = votes.indices[first], best
    return winner, value
