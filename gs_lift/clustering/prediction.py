"""The clusters that new points would fall into, without clustering again: the rule of the `hdbscan` package.

Notation: L leaves with weights w, R new points, k leaves near each; lambda = 1 / distance. See hierarchy.py.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gs_lift.clustering.density import LARGEST, Clustering
from gs_lift.clustering.hierarchy import DENSEST, Cut, Floats, Ints
from gs_lift.clustering.knn import NeighbourSearch
from gs_lift.errors import ConfigError

Query = Callable[[Floats, int], tuple[NDArray[np.int32], Floats]]
"""(positions [R D], k) -> the k nearest leaves to each and their distances, [R k] ascending."""


def approximate_predict(
    clustering: Clustering, points: ArrayLike, new_points: ArrayLike
) -> tuple[Ints, Floats]:
    """Label [R] and probability [R] of new points [R D] in a clustering of points [N D] by `cluster_points`.

    As `hdbscan.approximate_predict`: a new point joins the nearest leaf by mutual reachability among the nearest that
    weigh 2 min_samples, and falls out of the cluster that this leaf is in at that lambda. Core distances are the
    package's too: unlike those of the tree, a leaf's counts itself; a new point's holds min_samples + 1.

    What is not in the package: where the whole is the one cluster, what falls out of it too early is noise, as in the
    clustering itself (there, everything or nothing is in it). Rows that are not finite, or beyond 1e150, are noise.
    Raises ConfigError for other points than were clustered, or a clustering that does not know its min_samples.
    """
    cut, tree = clustering.cut, clustering.tree
    if np.isnan(tree.min_samples):
        raise ConfigError(
            "cannot predict from this clustering: it is not known by which min_samples it was made"
        )
    old, new = np.asarray(points, dtype=np.float64), np.asarray(new_points, dtype=np.float64)
    if old.ndim != 2 or len(old) != len(tree.leaf):
        raise ConfigError(
            f"points must be the [{len(tree.leaf)}, D] that were clustered; got {list(old.shape)}"
        )
    if new.ndim != 2 or new.shape[1] != old.shape[1]:
        raise ConfigError(
            f"new points must be [R, {old.shape[1]}] as the old ones are; got {list(new.shape)}"
        )
    labels, probabilities = np.full(len(new), -1, dtype=np.int64), np.zeros(len(new))
    used = np.flatnonzero((np.abs(new) <= LARGEST).all(axis=1))  # NaN fails the comparison too
    if len(used) and len(cut.chosen):
        rows = np.flatnonzero(tree.leaf >= 0)
        leaves = old[rows[np.unique(tree.leaf[rows], return_index=True)[1]]]
        joined, density = _join(leaves, tree.weights, new[used], tree.min_samples.item())
        labels[used], probabilities[used] = _fall_out(cut, joined, density)
    return labels, probabilities


def _fall_out(cut: Cut, joined: Ints, density: Floats) -> tuple[Ints, Floats]:
    """Label and probability of new points that join the leaves `joined` [R] at lambda `density` [R]."""
    hierarchy = cut.hierarchy
    clusters, until = hierarchy.point_cluster[joined], hierarchy.point_lambda[joined]
    rising = np.flatnonzero(until > density)
    while len(rising):
        rising = rising[(clusters[rising] > 0) & (hierarchy.birth[clusters[rising]] >= density[rising])]
        clusters[rising] = hierarchy.parent[clusters[rising]]
    labels = cut.labels(clusters, np.minimum(density, until))
    return labels, cut.probabilities(labels, density)


def _join(leaves: Floats, weights: Floats, positions: Floats, min_samples: float) -> tuple[Ints, Floats]:
    """The leaf [R] that each position [R D] is nearest to by mutual reachability, and the lambda [R] of that."""
    query = NeighbourSearch(leaves).nearest_to
    joined, distance = np.zeros(len(positions), dtype=np.int64), np.zeros(len(positions))
    for rows, ids, distances in _surroundings(query, positions, weights, 2 * min_samples):
        near, place = np.unique(ids, return_inverse=True)
        cores = np.zeros(len(near))
        for some, around, apart in _surroundings(query, leaves[near], weights, min_samples):
            cores[some] = _core_distances(weights[around], apart, min_samples)
        own = _core_distances(weights[ids], distances, min_samples + 1)
        reach = np.maximum(np.maximum(cores[place].reshape(ids.shape), own[:, None]), distances)
        reach[weights[ids].cumsum(axis=1) - weights[ids] >= 2 * min_samples] = np.inf
        best = reach.argmin(axis=1)[:, None]
        joined[rows] = np.take_along_axis(ids, best, axis=1)[:, 0]
        distance[rows] = np.take_along_axis(reach, best, axis=1)[:, 0]
    return joined, 1 / np.maximum(distance, 1 / DENSEST)


def _core_distances(masses: Floats, distances: Floats, least: float) -> Floats:
    """[R] The distance within which masses [R k] weigh `least`; the last one where all together do not."""
    enough = masses.cumsum(axis=1) >= least
    column = np.where(enough.any(axis=1), enough.argmax(axis=1), -1)
    return np.take_along_axis(distances, column[:, None], axis=1)[:, 0]


def _surroundings(
    query: Query, positions: Floats, weights: Floats, least: float
) -> Iterator[tuple[Ints, NDArray[np.int32], Floats]]:
    """(rows [R'], their nearest leaves and distances [R' k]), until all had leaves of weight `least`, or every leaf."""
    rows, k = np.arange(len(positions)), int(np.ceil(least))
    while len(rows):
        k = min(k, len(weights))
        ids, distances = query(positions[rows], k)
        done = (weights[ids].sum(axis=1) >= least) | (k == len(weights))
        yield rows[done], ids[done], distances[done]
        rows, k = rows[~done], 4 * k
