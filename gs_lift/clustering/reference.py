"""The `hdbscan` package behind our types: the reference that ours is compared with."""

import warnings

import numpy as np
from numpy.typing import NDArray

from gs_lift.clustering.density import Clustering, number_by_weight
from gs_lift.clustering.hierarchy import Tree


def cluster_with_hdbscan(
    points: NDArray[np.float64],
    *,
    min_cluster_size: int,
    min_samples: int,
    selection: str,
    epsilon: float,
) -> Clustering:
    """HDBSCAN of points [N D] by the package, with an exact spanning tree and without weights.

    Rows must be finite. Fewer than two, or than min_samples + 1, are noise: the package refuses them.
    """
    count = len(points)
    if count < max(2, min_samples + 1):
        return _noise(count)
    import hdbscan

    with warnings.catch_warnings():
        # The package calls scikit-learn by names that newer ones deprecate: not the user's concern.
        warnings.simplefilter("ignore")
        fitted = hdbscan.HDBSCAN(
            min_cluster_size=min_cluster_size,
            min_samples=min_samples,
            cluster_selection_method=selection,
            cluster_selection_epsilon=epsilon,
            approx_min_span_tree=False,
            algorithm="boruvka_kdtree",
            core_dist_n_jobs=1,
        ).fit(points)
    labels, order = number_by_weight(fitted.labels_.astype(np.int64), np.ones(count))
    tree = tree_of_merges(fitted.single_linkage_tree_.to_numpy())
    return Clustering(
        labels=labels,
        probabilities=fitted.probabilities_,
        outlier_scores=np.nan_to_num(fitted.outlier_scores_, nan=1.0),  # NaN: lambda is infinite among copies
        persistences=np.asarray(fitted.cluster_persistence_)[order],
        tree=tree,
        cut=None,
    )


def tree_of_merges(merges: NDArray[np.float64]) -> Tree:
    """scipy's merges [N-1 4] (left, right, distance, size) as a spanning tree: an edge joins any leaf of both."""
    count = len(merges) + 1
    leaf_of = np.arange(2 * count - 1)
    edges = np.zeros((count - 1, 2), dtype=np.int64)
    for m, (left, right) in enumerate(merges[:, :2].astype(np.int64)):
        edges[m] = leaf_of[left], leaf_of[right]
        leaf_of[count + m] = leaf_of[left]
    return Tree(np.arange(count), np.ones(count), np.zeros(count), edges, merges[:, 2].copy())


def _noise(count: int) -> Clustering:
    labels = np.full(count, -1, dtype=np.int64)
    tree = Tree(labels, np.zeros(0), np.zeros(0), np.zeros((0, 2), dtype=np.int64), np.zeros(0))
    return Clustering(labels, np.zeros(count), np.zeros(count), np.zeros(0), tree, None)
