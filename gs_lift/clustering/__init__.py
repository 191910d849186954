"""Embeddings -> instances: HDBSCAN over the Gaussians of things, then what the segments of all views agree on.

`cluster` is the stage of the line, `recut_instances` cuts its tree again by other settings or constraints.
`cluster_points` clusters any array; `recut` cuts its tree again.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gs_lift.clustering.consensus import Joins, drop_light, join_nodes, wanted_agreement
from gs_lift.clustering.constraints import Constraints, link, read_constraints, rejoin
from gs_lift.clustering.density import (
    Clustering,
    cluster_points,
    grown,
    number_by_weight,
    recut,
    spanning_tree,
)
from gs_lift.clustering.hierarchy import Cut, Floats, Ints, Tree, outlier_scores
from gs_lift.clustering.instances import (
    NOBODY,
    Space,
    Things,
    assign_noise,
    drop_scattered,
    rejoin_scattered,
    share_out,
    split_apart,
    things_of,
    vote_classes,
)
from gs_lift.clustering.parts import find_parts, parts_of_clusters, parts_of_joins
from gs_lift.clustering.prediction import approximate_predict
from gs_lift.clustering.regions import Regions
from gs_lift.clustering.selection import MIDDLE
from gs_lift.clustering.settings import OF_THE_TREE, ClusterConfig
from gs_lift.clustering.votes import confidence, detections, drop_undetected, vote
from gs_lift.errors import pick
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings, Evidence, Instances

__all__ = [
    "CLUSTERERS",
    "OF_THE_TREE",
    "ClusterConfig",
    "Clustering",
    "Constraints",
    "Tree",
    "approximate_predict",
    "cluster",
    "cluster_points",
    "detections",
    "outlier_scores",
    "read_constraints",
    "recut",
    "recut_instances",
    "saved_tree",
    "spanning_tree",
]


OUTLIERS = 0.02
"""Share of the Gaussians that stay out of the only object of a room."""

LIGHT = 0.5
"""Share of the least weight of a cluster that is enough where the segments agree on it: they, not density, vouch."""


def cluster(
    embeddings: Embeddings,
    gaussians: Gaussians,
    classes: Classes,
    config: ClusterConfig | None = None,
    *,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Instances:
    """The objects among the Gaussians.

    All thing classes are clustered together and the class is voted afterwards: the embeddings are learnt without
    classes, and an object whose class wavers would come apart. Instances.tree holds the clusters' spanning tree
    (see `recut_instances`). The same on every run; `seed` is for clusterers that draw at random.

    Raises ConfigError for a value out of range, BackendError where FAISS is missing, ConstraintError for constraints
    that contradict each other.
    """
    config = config or ClusterConfig()
    things = things_of(embeddings, gaussians, classes, config)
    tree = pick(CLUSTERERS, config.method, "cluster.method")(things, config, seed)
    return _cut(things, tree, embeddings.evidence, None, classes, config, constraints or Constraints())


def recut_instances(
    instances: Instances,
    embeddings: Embeddings,
    gaussians: Gaussians,
    classes: Classes,
    config: ClusterConfig,
    *,
    constraints: Constraints | None = None,
) -> Instances:
    """The objects by other settings of the cut, from the tree that `cluster` made: no neighbours are searched.

    Fields of `config` that made the tree must be as they were; the rest may differ: see ClusterConfig. The same result
    as `cluster` with that config would give. Raises ConstraintError as `cluster` does.
    """
    space = Space(**_arrays(Space, instances.tree))
    things = things_of(embeddings, gaussians, classes, config, space)
    tree, joins = saved_tree(instances.tree), Joins.saved(instances.tree)
    return _cut(things, tree, embeddings.evidence, joins, classes, config, constraints or Constraints())


def saved_tree(tree: Mapping[str, Tensor]) -> Tree:
    """The spanning tree in Instances.tree, to be `recut`; its rows are the Gaussians tree["rows"]."""
    return Tree(**_arrays(Tree, tree))


def _arrays(kind: type[Tree] | type[Space], saved: Mapping[str, Tensor]) -> dict[str, Any]:
    return {each.name: saved[each.name].numpy() for each in fields(kind)}


def _cut(
    things: Things,
    tree: Tree,
    evidence: Evidence | None,
    joins: Joins | None,
    classes: Classes,
    config: ClusterConfig,
    constraints: Constraints,
) -> Instances:
    """joins: as they were made for another cut, None = not yet."""
    if evidence is None or not config.consensus or not len(things):
        labels, scores, cut = _clusters_in_space(things, tree, config, constraints)
        labels, _ = number_by_weight(labels, np.ones(len(things)))
        parts = find_parts(
            things, labels, parts_of_clusters(cut, tree.leaf), config.least_weight(len(things))
        )
        joins = None
    else:
        regions = Regions.of(evidence, things.rows, things.count)
        joins = _joins(regions, things, tree, config, joins)
        wanted = wanted_agreement(config.granularity)
        labels = drop_light(things, joins.cut(wanted), LIGHT * config.least_weight(len(things)))
        labels, share = vote(regions, labels, config.votes)
        labels, scores = drop_undetected(regions, labels, config.min_detections), confidence(share)
        if constraints:
            labels = rejoin(things.rows, _linked(things, tree, labels, constraints), constraints)
            scores = np.where(np.isin(things.rows, constraints.must_gaussians), 1.0, scores)
        labels, _ = number_by_weight(labels, np.ones(len(things)))
        parts = find_parts(things, labels, parts_of_joins(joins, wanted), config.least_weight(len(things)))
    arrays = tree.arrays() | vars(things.space) | (vars(joins) if joins else {})
    return Instances(
        labels=torch.from_numpy(things.spread(labels, NOBODY)),
        scores=torch.from_numpy(things.spread(np.where(labels == NOBODY, 0.0, scores), 0.0)).float(),
        classes=vote_classes(things, labels, classes),
        tree={name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()},
        parts=parts,
    )


def _linked(things: Things, tree: Tree, labels: Ints, constraints: Constraints) -> Ints:
    named = np.flatnonzero(np.isin(things.rows, constraints.gaussians))
    return share_out(things, labels, link(tree, things.rows, labels, constraints), named)


def _joins(
    regions: Regions, things: Things, tree: Tree, config: ClusterConfig, before: Joins | None
) -> Joins:
    """Those of the clusters of the middle granularity: another granularity only cuts them elsewhere."""
    clusters, _, _ = _clusters_in_space(things, tree, replace(config, granularity=MIDDLE), Constraints())
    if (
        before is not None
        and before.weight == config.embedding_views
        and np.array_equal(before.clusters, clusters)
    ):
        return before
    return join_nodes(regions, things, clusters, config.embedding_views, before.node if before else None)


def _clusters_in_space(
    things: Things, tree: Tree, config: ClusterConfig, constraints: Constraints
) -> tuple[Ints, Floats, Cut]:
    """HDBSCAN's clusters [T] with what the places of their Gaussians say, their scores [T], and the cut."""
    least = config.least_weight(len(things))
    found, whole = _clusters(tree, config, least)
    labels, scores = found.labels, found.probabilities
    spared = np.flatnonzero(np.isin(things.rows, constraints.gaussians))
    if constraints:
        labels = _linked(things, tree, labels, constraints)
    if config.split_gap > 0:
        labels = split_apart(things, labels, config.split_gap, least)
    labels = rejoin(things.rows, labels, constraints)
    named = np.unique(labels[spared])
    named = named[named != NOBODY]
    if config.granularity > MIDDLE:
        labels = rejoin_scattered(things, labels, whole.labels, config.min_coherence, named)
    labels = drop_scattered(things, labels, config.min_coherence, named)
    labels, _ = number_by_weight(labels, things.weights)
    # A sure member of a cluster is a sure thing only as far as it is one.
    scores = np.where(labels == NOBODY, 0.0, scores) * things.semantic.sum(axis=1)
    scores[np.isin(things.rows, constraints.must_gaussians)] = 1.0  # not by what was learnt, but known
    if config.noise_spread > 0:
        labels, scores = assign_noise(
            things, labels, scores, config.noise_spread, config.noise_agreement, spared
        )
    return labels, scores, found.cut


def _clusters(tree: Tree, config: ClusterConfig, least: float) -> tuple[Clustering, Clustering]:
    """The clusters, and those that they are parts of where a finer cut than MIDDLE is wanted; else the same again."""

    def at(granularity: float) -> Clustering:
        return recut(
            tree,
            min_cluster_size=least,
            selection=config.selection,
            granularity=granularity,
            epsilon=config.epsilon,
            allow_single_cluster=True,
        )

    if config.granularity <= MIDDLE:
        found = _or_the_whole(at(config.granularity), config.epsilon, least)
        return found, found
    whole = at(MIDDLE)
    fine = grown(at(config.granularity), whole)
    return _or_the_whole(fine, config.epsilon, least), _or_the_whole(whole, config.epsilon, least)


def _or_the_whole(found: Clustering, epsilon: float, least: float) -> Clustering:
    if found.labels.max(initial=NOBODY) != 0:
        return found
    # A single cluster is the whole, of which HDBSCAN names only the densest point or so: a room with one object in it.
    # All but its outliers are that object.
    tree = found.tree
    reach = max(epsilon, float(np.quantile(tree.distances, 1 - OUTLIERS))) if len(tree.distances) else 0.0
    return recut(tree, min_cluster_size=least, epsilon=reach, allow_single_cluster=True)


def _hdbscan_faiss(things: Things, config: ClusterConfig, seed: int) -> Tree:
    return spanning_tree(things.fast, weights=things.weights, min_samples=config.min_samples)


def _hdbscan_package(things: Things, config: ClusterConfig, seed: int) -> Tree:
    from gs_lift.clustering.reference import tree_by_hdbscan

    return tree_by_hdbscan(things.fast, min_samples=round(config.min_samples))


CLUSTERERS: dict[str, Callable[[Things, ClusterConfig, int], Tree]] = {
    "hdbscan_faiss": _hdbscan_faiss,
    "hdbscan": _hdbscan_package,
}
"""Name -> function of (things, config, seed)."""
