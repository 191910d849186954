"""The spanning tree of points, and the hierarchy of clusters that is cut from it.

Notation: L leaves (different points) with weights w; lambda = 1 / distance, the density at which a point leaves its
cluster; C clusters, each heavier than some least weight. See density.py.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_lift import _native

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """The minimum spanning tree of the points: labels of any granularity are cut from it without neighbours.

    leaf: [N] the leaf of each row that was given, -1 = left out (not finite, or of weight 0).
    weights, cores: [L] of each leaf. edges: [L-1 2] leaves, in order of weight. distances: [L-1] their mutual
    reachability.
    """

    leaf: Ints
    weights: Floats
    cores: Floats
    edges: Ints
    distances: Floats

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, to be saved; `Tree(**arrays)` is the way back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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


def condense(tree: Tree, least: float) -> Hierarchy:
    """The clusters of a tree of two leaves or more that weigh `least` or more."""
    left, right = _native.merge_nodes(tree.edges)
    return Hierarchy(**_native.condense(left, right, tree.distances, tree.weights, tree.cores, float(least)))


def leaf_labels(hierarchy: Hierarchy, chosen: Ints, epsilon: float) -> tuple[Ints, Floats]:
    """Label and probability of each leaf for the chosen clusters."""
    labels, density = hierarchy.owners(chosen)[hierarchy.point_cluster], hierarchy.point_lambda
    if len(chosen) == 1 and chosen[0] == 0:
        # The whole is the cluster: as in `hdbscan`, what leaves before it parts, or before epsilon, is noise.
        labels[density < (1 / epsilon if epsilon > 0 else hierarchy.death[0])] = -1
    peak = hierarchy.death[chosen[labels]] if len(chosen) else np.ones(len(labels))
    return labels, np.where(labels >= 0, np.minimum(density / np.where(peak > 0, peak, 1), 1), 0)


def first_parting(tree: Tree, least: float) -> tuple[Ints, float] | None:
    """Where the whole first comes apart into two parts that weigh `least`: 0 or 1 for each row, -1 in neither, and
    the distance between the parts. None where it never does."""
    if len(tree.weights) < 2:
        return None
    hierarchy = condense(tree, least)
    if len(hierarchy) == 1:
        return None
    sides, _ = leaf_labels(hierarchy, np.array([1, 2]), 0.0)
    return np.append(sides, -1)[tree.leaf], 1 / float(hierarchy.birth[1])
