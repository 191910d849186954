"""Which clusters of a hierarchy are the answer: by excess of mass at some granularity, or the leaves; then epsilon.

Notation: own = a cluster's stability, below = the greatest sum of stabilities of clusters under it, none of which is
another's ancestor. The ratio own / below says how much a cluster is one thing rather than several: infinite where it
parts no further. Choosing the topmost clusters of a ratio of at least t gives, for any rising t, cuts each of which
refines the one before; t = 1 is the excess of mass of Campello et al. (2013, section 5).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_lift.clustering.hierarchy import Floats, Hierarchy, Ints
from gs_lift.errors import pick

Mask = NDArray[np.bool_]

SELECTIONS = {"eom": "by excess of mass", "leaf": "the finest"}

MIDDLE = 0.5
"""The granularity of the greatest excess of mass."""


def select_clusters(
    hierarchy: Hierarchy,
    *,
    selection: str,
    epsilon: float,
    allow_single_cluster: bool,
    max_cluster_size: float,
    granularity: float = MIDDLE,
) -> Ints:
    """The chosen clusters, ascending; none is another's ancestor, the root only where allow_single_cluster."""
    pick(SELECTIONS, selection, "cluster selection")
    if selection == "leaf":
        chosen = leaves(hierarchy)
    else:
        scale = Scale.of(hierarchy, allow_single_cluster, max_cluster_size)
        chosen = scale.cut(scale.threshold(granularity))
    if epsilon > 0:
        chosen = _merge_below(hierarchy, chosen, epsilon, allow_single_cluster)
    return np.flatnonzero(chosen)


@dataclass(frozen=True)
class Scale:
    """From granularity to thresholds on the ratio, so that even steps of it change evenly much.

    ratio: [C] own / below; -1 where a cluster must not be chosen. gone: [C] the threshold beyond which a cluster and
    those above it have all come apart: the greatest ratio from the root down. coarse: that of the clusters above those
    of threshold 1, ascending; fine: that of those and the clusters under them.
    """

    parent: Ints
    ratio: Floats
    gone: Floats
    coarse: Floats
    fine: Floats

    @classmethod
    def of(cls, hierarchy: Hierarchy, allow_root: bool, max_cluster_size: float) -> "Scale":
        parent, own = hierarchy.parent, hierarchy.stability
        below, ratio = np.zeros(len(parent)), np.full(len(parent), np.inf)
        for cluster in range(len(parent) - 1, -1, -1):
            if below[cluster] > 0:
                ratio[cluster] = own[cluster] / below[cluster]
            if hierarchy.weight[cluster] > max_cluster_size or (cluster == 0 and not allow_root):
                ratio[cluster] = -1
            if cluster > 0:
                below[parent[cluster]] += own[cluster] if ratio[cluster] >= 1 else below[cluster]
        if ratio[0] < 1:
            ratio[0] = -1  # few large clusters are wanted, not the whole
        chosen = _topmost(parent, ratio >= 1)
        under = hierarchy.owners(np.flatnonzero(chosen)) >= 0
        gone = ratio.copy()
        for cluster in range(1, len(parent)):
            gone[cluster] = max(gone[cluster], gone[parent[cluster]])
        coarse = np.sort(gone[~under & (ratio >= 0)])
        fine = np.sort(gone[under & np.isfinite(gone)])
        return cls(parent, ratio, gone, coarse, fine)

    def cut(self, threshold: float) -> Mask:
        """The topmost clusters of a ratio of at least `threshold`."""
        return _topmost(self.parent, self.ratio >= threshold)

    def threshold(self, granularity: float) -> float:
        """Clusters of a lower ratio come apart at this granularity in 0..1."""
        values, level, end = (
            (self.coarse, 2 * granularity, 1.0)
            if granularity < MIDDLE
            else (self.fine, 2 * granularity - 1, np.inf)
        )
        if granularity == MIDDLE:
            return 1.0
        place = round(level * len(values))
        return float(values[place]) if place < len(values) else end

    def granularity_beyond(self, threshold: float) -> float:
        """The least granularity from MIDDLE on whose threshold is greater."""
        if threshold < 1:
            return MIDDLE
        place = float(np.searchsorted(self.fine, threshold, side="right"))
        return MIDDLE + 0.5 * place / max(1, len(self.fine))


def leaves(hierarchy: Hierarchy) -> Mask:
    """The clusters that part no further. A tree that never parts has none, as in `hdbscan`."""
    parent = hierarchy.parent
    is_leaf = np.ones(len(parent), dtype=bool)
    is_leaf[parent[parent >= 0]] = False
    is_leaf[0] = False
    return is_leaf


def _topmost(parent: Ints, wins: Mask) -> Mask:
    """Those of `wins` that have no ancestor in it."""
    covered = np.zeros(len(parent), dtype=bool)
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        covered[cluster] = covered[above] or wins[above]
    return wins & ~covered


def _merge_below(hierarchy: Hierarchy, chosen: Mask, epsilon: float, allow_root: bool) -> Mask:
    """Clusters born below the distance epsilon give way to the nearest ancestor that is born above it."""
    parent, birth = hierarchy.parent, hierarchy.birth
    merged = np.zeros(len(parent), dtype=bool)
    for cluster in np.flatnonzero(chosen):
        while cluster > 0 and birth[cluster] > 1 / epsilon:
            if parent[cluster] == 0 and not allow_root:
                break
            cluster = parent[cluster]
        merged[cluster] = True
    return _topmost(parent, merged)
