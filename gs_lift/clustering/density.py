"""HDBSCAN: points -> spanning tree -> labels (Campello, Moulavi, Sander 2013; McInnes and Healy 2017).

Notation: L different points ("leaves") with weights w. core_i: distance within which a weight of min_samples lies
around i, itself not counted. Edges are weighted by the mutual reachability max(core_i, core_j, |x_i - x_j|). lambda
= 1 / distance: the density at which a point leaves its cluster. Weights mean multiplicity: a point of weight 3
counts as three equal points would, and equal rows are one point of their summed weight.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from gs_lift import _native
from gs_lift.clustering.hierarchy import (
    DENSEST,
    Cut,
    Floats,
    Hierarchy,
    Ints,
    Tree,
    condense,
    leaf_labels,
    outlier_scores,
)
from gs_lift.clustering.knn import Neighbours, NeighbourSearch
from gs_lift.clustering.selection import MIDDLE, select_clusters
from gs_lift.errors import ConfigError
from gs_lift.threads import kernel_threads

MOST_AT_FIRST = 128
"""Neighbours that are looked for at most before it is known that more are needed."""

FOUND_AT_ONCE = 1 << 22
"""Neighbours that are held beyond those of the graph."""

LARGEST = 1e150
"""Coordinates beyond this have no finite squared distance: such rows stay out as NaN does."""


@dataclass(frozen=True)
class Clustering:
    """The clusters of N rows.

    labels: [N] cluster of each row, numbered by falling weight, -1 = noise. probabilities: [N] how firmly a row
    belongs to its cluster, in 0..1; 0 for noise. outlier_scores: [N] in 0..1, see `outlier_scores`; 0 for rows left
    out. persistences: [M] stability of each cluster. tree: to cut again. cut: to predict from.
    """

    labels: Ints
    probabilities: Floats
    outlier_scores: Floats
    persistences: Floats
    tree: Tree
    cut: Cut


def cluster_points(
    points: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    min_cluster_size: float = 20,
    min_samples: float = 10,
    selection: str = "eom",
    granularity: float = MIDDLE,
    epsilon: float = 0.0,
    allow_single_cluster: bool = False,
    max_cluster_size: float = np.inf,
    neighbours: int = 32,
    exact: bool = False,
) -> Clustering:
    """HDBSCAN of points [N D] under the Euclidean distance, with weights [N] as multiplicities.

    The spanning tree is that of the graph of `neighbours` neighbours, completed exactly where the graph falls
    apart; with `exact` it is the true minimum spanning tree of all pairs. Deterministic for any number of threads.

    What is not in the papers: rows that are not finite, or beyond 1e150, or of weight 0, get label -1. Rows that
    are all equal are one cluster if they weigh min_cluster_size or more (`hdbscan` cuts them into two at random).
    Fewer rows than min_samples: every core distance is that of the furthest row. No rows: empty results.
    Raises ConfigError for a parameter out of range, BackendError where FAISS is needed and missing.
    """
    tree = spanning_tree(points, weights=weights, min_samples=min_samples, neighbours=neighbours, exact=exact)
    return recut(
        tree,
        min_cluster_size=min_cluster_size,
        selection=selection,
        granularity=granularity,
        epsilon=epsilon,
        allow_single_cluster=allow_single_cluster,
        max_cluster_size=max_cluster_size,
    )


def spanning_tree(
    points: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    min_samples: float = 10,
    neighbours: int = 32,
    exact: bool = False,
) -> Tree:
    """The tree that `recut` cuts; parameters as in `cluster_points`."""
    if not (1 <= min_samples < np.inf and neighbours >= 1):
        raise ConfigError(f"min_samples and neighbours must be 1 or more; got {min_samples} and {neighbours}")
    leaf, leaves, leaf_weights = _leaves(points, weights)
    count = len(leaves)
    if count < 2:
        nothing = np.zeros((0, 2), dtype=np.int64), np.zeros(0)
        return Tree(
            leaf, leaf_weights, np.zeros(count), *nothing, np.array(float(min_samples)), np.array(1.0)
        )
    search = NeighbourSearch(leaves, exact=exact)
    # Enough neighbours for a core distance in most places; where they are too light, `_cores` looks further.
    enough = min(np.ceil(min_samples / leaf_weights.mean()) + 1, MOST_AT_FIRST)
    found = search.query(max(int(neighbours), int(enough)))
    cores = _cores(search, found, leaf_weights, min_samples)
    reach = found.reach if exact else None
    forest = _native.spanning_forest(found.ids, found.distances, cores, reach)
    joints = _native.join_components(
        leaves, cores, forest[0], found.ids, found.distances, search.point_groups, kernel_threads()
    )
    edges = np.concatenate([forest[0], joints[0]])
    distances = np.concatenate([forest[1], joints[1]])
    order = np.lexsort((edges[:, 1], edges[:, 0], distances))
    return Tree(
        leaf,
        leaf_weights,
        cores,
        edges[order],
        distances[order],
        min_samples=np.array(float(min_samples)),
        recall=np.array(search.recall),
    )


def recut(
    tree: Tree,
    *,
    min_cluster_size: float = 20,
    selection: str = "eom",
    granularity: float = MIDDLE,
    epsilon: float = 0.0,
    allow_single_cluster: bool = False,
    max_cluster_size: float = np.inf,
) -> Clustering:
    """The clusters of a tree, weighing at least min_cluster_size and (with `eom`) at most max_cluster_size.

    selection: `eom`, the clusters of the greatest excess of mass, or `leaf`, the finest. granularity: in 0..1, with
    `eom`: 0 gives few large clusters, 0.5 those of the greatest excess of mass, 1 the finest; any cut refines those of
    a lower granularity. epsilon: clusters that part below this distance stay together (Malzer and Baum 2020).
    allow_single_cluster: the whole may be one.
    """
    if not 2 <= min_cluster_size < np.inf:
        raise ConfigError(f"min_cluster_size must be 2 or more and finite; got {min_cluster_size}")
    if not 0 <= epsilon < np.inf:
        raise ConfigError(f"epsilon must be 0 or more and finite; got {epsilon}")
    if not max_cluster_size >= 0:
        raise ConfigError(f"max_cluster_size must be 0 or more; got {max_cluster_size}")
    if not 0 <= granularity <= 1:
        raise ConfigError(f"granularity must be 0 to 1; got {granularity}")
    count = len(tree.weights)
    if count < 2:
        return _single_leaf(tree, min_cluster_size, epsilon)
    hierarchy = condense(tree, min_cluster_size)
    chosen = select_clusters(
        hierarchy,
        selection=selection,
        granularity=granularity,
        epsilon=epsilon,
        allow_single_cluster=allow_single_cluster and bool(tree.weights.sum() >= min_cluster_size),
        max_cluster_size=max_cluster_size,
    )
    labels, probabilities = leaf_labels(Cut(hierarchy, chosen, epsilon))
    labels, order = number_by_weight(labels, tree.weights)
    return _on_rows(tree, labels, probabilities, Cut(hierarchy, chosen[order], epsilon))


def grown(fine: Clustering, coarse: Clustering) -> Clustering:
    """A finer cut of the same tree whose clusters share out all that the coarser one's hold.

    What falls out of a cluster before it parts is noise to HDBSCAN. Here it joins the part that it is linked to first
    (single linkage within the coarse cluster, in which two parts never join).
    """
    tree, hierarchy = fine.tree, fine.cut.hierarchy
    count = len(tree.weights)
    if count < 2 or not len(fine.cut.chosen):
        return fine
    labels, within = (np.full(count, -1, dtype=np.int64) for _ in range(2))
    used = tree.leaf >= 0
    labels[tree.leaf[used]], within[tree.leaf[used]] = fine.labels[used], coarse.labels[used]
    # Parts of different clusters do not meet, so it is enough that no two parts of one do.
    home = np.full(len(fine.cut.chosen), -1, dtype=np.int64)
    home[labels[labels >= 0]] = within[labels >= 0]
    order = np.argsort(home, kind="stable")
    conflicts = [
        (a, b)
        for group in np.split(order, np.flatnonzero(np.diff(home[order])) + 1)
        for a, b in combinations(group.tolist(), 2)
    ]
    pairs = np.array(conflicts, dtype=np.int64).reshape(-1, 2)
    components = _native.link_apart(tree.edges, within, labels, pairs)
    label_of = np.full(count, -1, dtype=np.int64)
    label_of[components[labels >= 0]] = labels[labels >= 0]
    labels = label_of[components]
    return _on_rows(tree, labels, fine.cut.probabilities(labels, hierarchy.point_lambda), fine.cut)


def number_by_weight(labels: Ints, weights: Floats) -> tuple[Ints, Ints]:
    """Labels renumbered 0, 1, ... by falling weight, ties by the old number; and the old number of each new one."""
    total = np.bincount(labels[labels >= 0], weights=weights[labels >= 0])
    order = np.lexsort((np.arange(len(total)), -total))
    order = order[total[order] > 0]
    renamed = np.full(len(total) + 1, -1, dtype=np.int64)  # the last entry is that of label -1
    renamed[order] = np.arange(len(order))
    return renamed[labels], order


def _leaves(points: ArrayLike, weights: ArrayLike | None) -> tuple[Ints, Floats, Floats]:
    """Different finite points of positive weight: each row's leaf [N], the leaves' positions and weights [L]."""
    rows = np.ascontiguousarray(points, dtype=np.float64)
    if rows.ndim != 2:
        raise ConfigError(f"points to cluster must be [N, D]; got {list(rows.shape)}")
    masses = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    if masses.shape != rows.shape[:1] or (masses < 0).any():
        raise ConfigError(
            f"weights must be {len(rows)} numbers of 0 or more; "
            f"got {list(masses.shape)}, least {masses.min(initial=0)}"
        )
    # NaN fails the comparison too.
    fits = (rows >= -LARGEST).all(axis=1) & (rows <= LARGEST).all(axis=1)
    used = np.flatnonzero(fits & np.isfinite(masses) & (masses > 0))
    every = len(used) == len(rows)
    group, first = _native.group_equal_rows(rows if every else rows[used])
    leaf = np.full(len(rows), -1, dtype=np.int64)
    leaf[used] = group
    summed = np.bincount(group, weights=masses[used], minlength=len(first)).astype(np.float64)
    return leaf, rows if len(first) == len(rows) else rows[used[first]], summed


def _cores(search: NeighbourSearch, found: Neighbours, weights: Floats, min_samples: float) -> Floats:
    """Core distances; rows whose neighbours are too light look further, at most at everything."""
    rows = np.arange(len(found.ids))
    cores = _native.core_distances(found.ids, found.distances, rows, weights, float(min_samples))
    short, k = np.flatnonzero(np.isinf(cores)), found.ids.shape[1]
    while len(short) and k < len(weights) - 1:
        k = min(4 * k, len(weights) - 1)
        for some in _in_blocks(short, k):
            more = search.query(k, some)
            cores[some] = _native.core_distances(more.ids, more.distances, some, weights, float(min_samples))
        short = short[np.isinf(cores[short])]
    # All points together weigh less than min_samples, or no more were found.
    for some in _in_blocks(short, k):
        more = search.query(k, some)
        cores[some] = np.where(more.ids >= 0, more.distances, 0).max(axis=1)
    return cores


def _in_blocks(rows: Ints, k: int) -> list[Ints]:
    """The rows in pieces whose k neighbours each take little memory."""
    size = max(1, FOUND_AT_ONCE // k)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _single_leaf(tree: Tree, min_cluster_size: float, epsilon: float) -> Clustering:
    count = len(tree.weights)
    whole = count == 1 and tree.weights[0] >= min_cluster_size
    labels = np.full(count, 0 if whole else -1, dtype=np.int64)
    root, zero, densest = np.zeros(count, dtype=np.int64), np.zeros(count), np.full(count, DENSEST)
    hierarchy = Hierarchy(root - 1, zero, densest, tree.weights, zero, root, densest)
    cut = Cut(hierarchy, np.zeros(int(whole), dtype=np.int64), epsilon)
    return _on_rows(tree, labels, (labels + 1).astype(np.float64), cut)


def _on_rows(tree: Tree, labels: Ints, probabilities: Floats, cut: Cut) -> Clustering:
    """Spread what holds for leaves to the rows that were given."""
    return Clustering(
        labels=np.append(labels, -1)[tree.leaf],
        probabilities=np.append(probabilities, 0.0)[tree.leaf],
        outlier_scores=np.append(outlier_scores(cut.hierarchy), 0.0)[tree.leaf],
        persistences=cut.hierarchy.stability[cut.chosen],
        tree=tree,
        cut=cut,
    )
