"""Embeddings -> instances: HDBSCAN over the Gaussians of things, then what clustering alone cannot know.

`cluster` is the stage of the line. `cluster_points` clusters any array; `recut` cuts its tree again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gs_lift.clustering.density import (
    Clustering,
    cluster_points,
    number_by_weight,
    recut,
    spanning_tree,
)
from gs_lift.clustering.hierarchy import Tree, outlier_scores
from gs_lift.clustering.instances import (
    NOBODY,
    Things,
    assign_noise,
    drop_scattered,
    split_apart,
    things_of,
    vote_classes,
)
from gs_lift.clustering.prediction import approximate_predict
from gs_lift.clustering.selection import SELECTIONS
from gs_lift.errors import ConfigError, pick
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings, Instances

__all__ = [
    "CLUSTERERS",
    "ClusterConfig",
    "Clustering",
    "Tree",
    "approximate_predict",
    "cluster",
    "cluster_points",
    "outlier_scores",
    "recut",
    "saved_tree",
    "spanning_tree",
]


OUTLIERS = 0.02
"""Share of the Gaussians that stay out of the only object of a room."""


@dataclass(frozen=True)
class ClusterConfig:
    """How Gaussians become instances. A Gaussian weighs by its visibility: 1 is a typical one of a thing."""

    method: str = "hdbscan_faiss"
    """`hdbscan_faiss`: ours; `hdbscan`: the package, exact, slow and without weights, to compare with."""
    min_thing: float = 0.4
    """Probability of all thing classes together from which a Gaussian can belong to an instance."""
    min_visibility: float = 0.3
    """Total blending weight, in pixels of all training views, up to which a Gaussian stays out: it learnt nothing."""
    max_weight: float = 2.0
    """Most that a Gaussian weighs, in means. Without a limit large ones decide alone (messy_sam_50: PQ .76 -> .69)."""
    min_share: float = 0.0005
    """Least weight of an instance as a share of all Gaussians of things."""
    min_size: float = 30.0
    """Least weight of an instance where the share comes to less."""
    min_samples: float = 10.0
    """Weight of the neighbours that make a Gaussian dense; more smooths small instances away."""
    selection: str = "eom"
    """`eom`: the clusters of the greatest excess of mass; `leaf`: the finest, which cuts uneven objects to pieces."""
    epsilon: float = 0.0
    """Clusters whose embeddings part below this distance stay one."""
    split_gap: float = 3.0
    """Cut an instance at a gap in space this many times as wide as its smaller side's radius; 0 = never."""
    min_coherence: float = 0.7
    """Share of the weight around an instance's Gaussians in space that must be its own; 0 = keep what is strewn."""
    noise_spread: float = 6.0
    """Noise joins an instance at most this many of its radii away in the embedding; 0 = never."""
    noise_agreement: float = 0.2
    """Share of the weight around it in space that must belong to the instance that noise joins."""

    def __post_init__(self) -> None:
        pick(CLUSTERERS, self.method, "cluster.method")
        pick(SELECTIONS, self.selection, "cluster.selection")
        for name in ("min_thing", "min_share", "min_coherence", "noise_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"cluster.{name}: wanted 0 to 1, got {getattr(self, name)}")
        floors = {
            "max_weight": 1,
            "min_size": 2,
            "min_samples": 1,
            "min_visibility": 0,
            "epsilon": 0,
            "split_gap": 0,
            "noise_spread": 0,
        }
        for name, low in floors.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"cluster.{name}: wanted {low} or more, got {getattr(self, name)}")

    def least_weight(self, things: int) -> float:
        """Least weight of an instance among so many Gaussians of things."""
        return max(self.min_size, self.min_share * things)


def cluster(
    embeddings: Embeddings,
    gaussians: Gaussians,
    classes: Classes,
    config: ClusterConfig | None = None,
    *,
    seed: int = 0,
) -> Instances:
    """The objects among the Gaussians.

    All thing classes are clustered together and the class is voted afterwards: the embeddings are learnt without
    classes, and an object whose class wavers would come apart. Instances.tree holds the clusters' spanning tree
    (see `saved_tree`). The same on every run; `seed` is for clusterers that draw at random.

    Raises ConfigError for a value out of range, BackendError where FAISS is missing.
    """
    config = config or ClusterConfig()
    things = things_of(
        embeddings, gaussians, classes, config.min_thing, config.min_visibility, config.max_weight
    )
    found = CLUSTERERS[config.method](things, config, seed)
    labels, scores = found.labels, found.probabilities
    if config.split_gap > 0:
        labels = split_apart(things, labels, config.split_gap, config.least_weight(len(things)))
    labels, _ = number_by_weight(drop_scattered(things, labels, config.min_coherence), things.weights)
    scores = np.where(labels == NOBODY, 0.0, scores)
    if config.noise_spread > 0:
        labels, scores = assign_noise(things, labels, scores, config.noise_spread, config.noise_agreement)
    labels, _ = number_by_weight(labels, np.ones(len(things)))
    return Instances(
        labels=torch.from_numpy(things.spread(labels, NOBODY)),
        scores=torch.from_numpy(things.spread(scores, 0.0)).float(),
        classes=vote_classes(things, labels, classes),
        tree={name: torch.from_numpy(array) for name, array in found.tree.arrays().items()}
        | {"rows": torch.from_numpy(things.rows)},
    )


def saved_tree(tree: Mapping[str, Tensor]) -> Tree:
    """The spanning tree in Instances.tree, to be `recut`; its rows are the Gaussians tree["rows"]."""
    return Tree(**{name: tensor.numpy() for name, tensor in tree.items() if name != "rows"})


def _hdbscan_faiss(things: Things, config: ClusterConfig, seed: int) -> Clustering:
    tree = spanning_tree(things.fast, weights=things.weights, min_samples=config.min_samples)
    least = config.least_weight(len(things))
    found = recut(
        tree,
        min_cluster_size=least,
        selection=config.selection,
        epsilon=config.epsilon,
        allow_single_cluster=True,
    )
    if found.labels.max(initial=NOBODY) != 0:
        return found
    # A single cluster is the whole, of which HDBSCAN names only the densest point or so: a room with one object in it.
    # All but its outliers are that object.
    reach = (
        max(config.epsilon, float(np.quantile(tree.distances, 1 - OUTLIERS))) if len(tree.distances) else 0.0
    )
    return recut(tree, min_cluster_size=least, epsilon=reach, allow_single_cluster=True)


def _hdbscan_package(things: Things, config: ClusterConfig, seed: int) -> Clustering:
    from gs_lift.clustering.reference import cluster_with_hdbscan

    return cluster_with_hdbscan(
        things.fast,
        min_cluster_size=round(config.least_weight(len(things))),
        min_samples=round(config.min_samples),
        selection=config.selection,
        epsilon=config.epsilon,
    )


CLUSTERERS: dict[str, Callable[[Things, ClusterConfig, int], Clustering]] = {
    "hdbscan_faiss": _hdbscan_faiss,
    "hdbscan": _hdbscan_package,
}
"""Name -> function of (things, config, seed)."""
