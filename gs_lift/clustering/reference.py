"""The `hdbscan` package behind our types: the reference that ours is compared with."""

import warnings

import numpy as np
from numpy.typing import NDArray

from gs_lift.clustering.hierarchy import Tree


def tree_by_hdbscan(points: NDArray[np.float64], *, min_samples: int) -> Tree:
    """The package's exact spanning tree of points [N D], finite, without weights: `recut` gives the package's labels.

    Fewer than two points, or than min_samples + 1, are left out of the tree: the package refuses them.
    """
    count = len(points)
    if count < max(2, min_samples + 1):
        left_out = np.full(count, -1, dtype=np.int64)
        return Tree(left_out, np.zeros(0), np.zeros(0), np.zeros((0, 2), dtype=np.int64), np.zeros(0))
    import hdbscan

    with warnings.catch_warnings():
        # The package calls scikit-learn by names that newer ones deprecate: not the user's concern.
        warnings.simplefilter("ignore")
        fitted = hdbscan.HDBSCAN(
            min_samples=min_samples,
            approx_min_span_tree=False,
            algorithm="boruvka_kdtree",
            core_dist_n_jobs=1,
        ).fit(points)
    return tree_of_merges(fitted.single_linkage_tree_.to_numpy())


def tree_of_merges(merges: NDArray[np.float64]) -> Tree:
    """scipy's merges [N-1 4] (left, right, distance, size) as a spanning tree: an edge joins any leaf of both."""
    count = len(merges) + 1
    leaf_of = np.arange(2 * count - 1)
    edges = np.zeros((count - 1, 2), dtype=np.int64)
    for m, (left, right) in enumerate(merges[:, :2].astype(np.int64)):
        edges[m] = leaf_of[left], leaf_of[right]
        leaf_of[count + m] = leaf_of[left]
    return Tree(np.arange(count), np.ones(count), np.zeros(count), edges, merges[:, 2].copy())
