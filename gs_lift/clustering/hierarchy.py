"""The spanning tree of points, and the hierarchy of clusters that is cut from it.

Notation: L leaves (different points) with weights w; lambda = 1 / distance, the density at which a point leaves its
cluster; C clusters, each heavier than some least weight. See density.py.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_lift import _native

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DENSEST = float(1 / np.finfo(np.float64).tiny)
"""Lambda of distance 0."""


@dataclass(frozen=True)
class Tree:
    """The minimum spanning tree of the points: labels of any granularity are cut from it without neighbours.

    leaf: [N] the leaf of each row that was given, -1 = left out (not finite, or of weight 0).
    weights, cores: [L] of each leaf. edges: [L-1 2] leaves, in order of weight. distances: [L-1] their mutual
    reachability. min_samples: [] the weight that the cores hold. recall: [] share of the true neighbours that were
    found; 1 = the true minimum spanning tree, where all were looked for. Both NaN where not known.
    """

    leaf: Ints
    weights: Floats
    cores: Floats
    edges: Ints
    distances: Floats
    min_samples: Floats = field(default_factory=lambda: np.array(np.nan))
    recall: Floats = field(default_factory=lambda: np.array(np.nan))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, to be saved; `Tree(**arrays)` is the way back."""
        return dict(vars(self))


@dataclass(frozen=True)
class Hierarchy:
    """The merge tree without its runts: clusters of at least some weight, and the points that fall out of them.

    parent: [C] the cluster that each parts from; 0 is the root, of parent -1, and parents come before children. birth,
    death: [C] lambda at which it parts from its parent, and at which its last point leaves it (or it parts). weight:
    [C] at birth. stability: [C] its excess of mass (Campello et al. 2013, section 5). point_cluster, point_lambda: [L]
    the cluster that a leaf falls out of, and when.
    """

    parent: Ints
    birth: Floats
    death: Floats
    weight: Floats
    stability: Floats
    point_cluster: Ints
    point_lambda: Floats

    def __len__(self) -> int:
        return len(self.parent)

    def owners(self, chosen: Ints) -> Ints:
        """[C] Position in `chosen` of each cluster's nearest ancestor in it, itself included; -1 = none."""
        owner = np.full(len(self), -1, dtype=np.int64)
        owner[chosen] = np.arange(len(chosen))
        for cluster, parent in enumerate(self.parent.tolist()):  # parents come first
            if parent >= 0 and owner[cluster] < 0:
                owner[cluster] = owner[parent]
        return owner


@dataclass(frozen=True)
class Cut:
    """The clusters of a hierarchy that are the answer.

    chosen: [M] the cluster of each label. epsilon: the distance below which a whole that is one cluster holds together.
    """

    hierarchy: Hierarchy
    chosen: Ints
    epsilon: float

    def labels(self, clusters: Ints, density: Floats) -> Ints:
        """[R] Label of what falls out of `clusters` [R] at lambda `density` [R]; -1 = noise."""
        labels = self.hierarchy.owners(self.chosen)[clusters]
        if len(self.chosen) == 1 and self.chosen[0] == 0:
            # The whole is the cluster: as in `hdbscan`, what leaves before it parts, or before epsilon, is noise.
            labels[density < (1 / self.epsilon if self.epsilon > 0 else self.hierarchy.death[0])] = -1
        return labels

    def probabilities(self, labels: Ints, density: Floats) -> Floats:
        """[R] Lambda `density` [R] as a share of the greatest of the cluster, at most 1; 0 for noise."""
        peak = self.hierarchy.death[self.chosen[labels]] if len(self.chosen) else np.ones(len(labels))
        return np.where(labels >= 0, np.minimum(density / np.where(peak > 0, peak, 1), 1), 0)


def condense(tree: Tree, least: float) -> Hierarchy:
    """The clusters of a tree of two leaves or more that weigh `least` or more."""
    left, right = _native.merge_nodes(tree.edges)
    return Hierarchy(**_native.condense(left, right, tree.distances, tree.weights, tree.cores, float(least)))


def leaf_labels(cut: Cut) -> tuple[Ints, Floats]:
    """Label and probability of each leaf."""
    density = cut.hierarchy.point_lambda
    labels = cut.labels(cut.hierarchy.point_cluster, density)
    return labels, cut.probabilities(labels, density)


def outlier_scores(hierarchy: Hierarchy) -> Floats:
    """[L] How far a leaf's lambda falls short of the greatest in the cluster that it falls out of, descendants
    included, as a share of that: 0..1, 1 = outlier (GLOSH, Campello et al. 2015)."""
    peak = hierarchy.death.copy()
    for cluster in range(len(hierarchy) - 1, 0, -1):  # children come last
        above = hierarchy.parent[cluster]
        peak[above] = max(peak[above], peak[cluster])
    return 1 - hierarchy.point_lambda / peak[hierarchy.point_cluster]
