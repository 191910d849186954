"""Which clusters of a hierarchy are the answer: by excess of mass, or the leaves, not parted below epsilon."""

import numpy as np
from numpy.typing import NDArray

from gs_lift.clustering.hierarchy import Hierarchy, Ints
from gs_lift.errors import pick


def select_clusters(
    hierarchy: Hierarchy,
    *,
    selection: str,
    epsilon: float,
    allow_single_cluster: bool,
    max_cluster_size: float,
) -> Ints:
    """The chosen clusters, ascending; none is another's ancestor, the root only where allow_single_cluster."""
    select = pick(SELECTIONS, selection, "cluster selection")
    chosen = select(hierarchy, allow_single_cluster, max_cluster_size)
    if epsilon > 0:
        chosen = _merge_below(hierarchy, chosen, epsilon, allow_single_cluster)
    return np.flatnonzero(chosen)


def excess_of_mass(hierarchy: Hierarchy, allow_root: bool, max_cluster_size: float) -> NDArray[np.bool_]:
    """The clusters whose summed stability is greatest (Campello et al. 2013, section 5)."""
    parent, own = hierarchy.parent, hierarchy.stability
    below = np.zeros(len(parent))
    wins = np.zeros(len(parent), dtype=bool)
    for cluster in range(len(parent) - 1, 0 if not allow_root else -1, -1):
        wins[cluster] = own[cluster] >= below[cluster] and hierarchy.weight[cluster] <= max_cluster_size
        if parent[cluster] >= 0:
            below[parent[cluster]] += own[cluster] if wins[cluster] else below[cluster]
    return _topmost(parent, wins)


def leaves(hierarchy: Hierarchy, allow_root: bool, max_cluster_size: float) -> NDArray[np.bool_]:
    """The clusters that part no further. A tree that never parts has none, as in `hdbscan`."""
    parent = hierarchy.parent
    is_leaf = np.ones(len(parent), dtype=bool)
    is_leaf[parent[parent >= 0]] = False
    is_leaf[0] = False
    return is_leaf


def _topmost(parent: Ints, wins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of `wins` that have no ancestor in it."""
    covered = np.zeros(len(parent), dtype=bool)
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        covered[cluster] = covered[above] or wins[above]
    return wins & ~covered


def _merge_below(
    hierarchy: Hierarchy, chosen: NDArray[np.bool_], epsilon: float, allow_root: bool
) -> NDArray[np.bool_]:
    """Clusters born below the distance epsilon give way to the nearest ancestor that is born above it."""
    parent, birth = hierarchy.parent, hierarchy.birth
    merged = np.zeros(len(parent), dtype=bool)
    for cluster in np.flatnonzero(chosen):
        while cluster > 0 and birth[cluster] * epsilon > 1:
            if parent[cluster] == 0 and not allow_root:
                break
            cluster = parent[cluster]
        merged[cluster] = True
    return _topmost(parent, merged)


SELECTIONS = {"eom": excess_of_mass, "leaf": leaves}
