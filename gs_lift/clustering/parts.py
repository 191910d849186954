"""The parts of instances: what a finer cut would make instances of their own."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from gs_lift.clustering.consensus import Joins, granularity_beyond
from gs_lift.clustering.hierarchy import Cut, Floats, Ints
from gs_lift.clustering.instances import NOBODY, Things
from gs_lift.clustering.selection import Scale
from gs_lift.segmentation import Parts

NONE = -1
"""Of candidates: none."""


@dataclass(frozen=True)
class Candidates:
    """What may be parts: [C] candidates, those above before those below.

    inside: [T] the smallest candidate that each Gaussian is in. above: [C] the smallest that each is a part of; NONE =
    none. granularity: [C] from which on each is an instance of its own.
    """

    inside: Ints
    above: Ints
    granularity: Floats


def parts_of_clusters(cut: Cut, leaf: Ints) -> Candidates:
    """Descendants of the chosen clusters that some granularity would choose. leaf: [T] of the tree."""
    hierarchy = cut.hierarchy
    if not len(cut.chosen):
        return Candidates(np.full(len(leaf), NONE), np.zeros(0, dtype=np.int64), np.zeros(0))
    scale = Scale.of(hierarchy, True, np.inf)
    below = hierarchy.owners(cut.chosen) >= 0
    below[cut.chosen] = False
    beyond = np.append(scale.gone, 0.0)[hierarchy.parent]  # the threshold from which each stands alone
    candidates = np.flatnonzero(below & (scale.ratio > beyond))
    owner = np.append(hierarchy.owners(candidates), NONE)  # the last entry is that of no cluster
    granularity = [scale.granularity_beyond(float(beyond[c])) for c in candidates]
    inside = np.append(owner[hierarchy.point_cluster], NONE)[leaf]
    return Candidates(inside, owner[hierarchy.parent[candidates]], np.array(granularity))


def parts_of_joins(joins: Joins, wanted: float) -> Candidates:
    """Groups within those of the agreement `wanted` that stand when more is wanted."""
    holds, nodes = joins.holds, len(joins.holds) - len(joins.pairs)
    parent = np.full(len(holds), NONE)
    for group, pair in enumerate(joins.pairs.tolist(), start=nodes):
        parent[pair] = group
    until = np.append(holds, -np.inf)[parent]  # the agreement that makes each one of a larger group
    candidates = np.flatnonzero((until >= wanted) & (holds > until) & (np.arange(len(holds)) >= nodes))[::-1]
    number = np.full(len(holds) + 1, NONE)  # the last entry is that of no group
    number[candidates] = np.arange(len(candidates))
    for group in range(
        len(holds) - 1, -1, -1
    ):  # the number of each, or of the next above that is a candidate
        if number[group] == NONE:
            number[group] = number[parent[group]]
    above = np.where(parent[candidates] == NONE, NONE, number[parent[candidates]])
    return Candidates(number[joins.node], above, granularity_beyond(until[candidates]))


def find_parts(things: Things, labels: Ints, candidates: Candidates, least: float) -> Parts:
    """The parts of instances `labels` [T] among the candidates.

    A part belongs to the instance that most of it lies in, and weighs `least` or more there; a part that has no other
    beside it is the whole, and is left out.
    """
    above = candidates.above.tolist()
    homes = _homes(candidates.inside, labels, things.weights, above, least)
    instance_of = _with_company(homes, above)

    number = {candidate: place for place, candidate in enumerate(instance_of)}
    nearest = [NONE] * (len(above) + 1)  # the number of each, or of the next above that is a part
    for candidate, up in enumerate(above):
        nearest[candidate] = number.get(candidate, nearest[up])
    instance = np.array(list(instance_of.values()), dtype=np.int64)
    part = np.array(nearest)[candidates.inside]
    part[np.append(instance, NOBODY)[part] != labels] = NONE
    return Parts(
        instance=torch.from_numpy(instance),
        parent=torch.tensor([nearest[above[c]] for c in instance_of], dtype=torch.int64),
        granularity=torch.from_numpy(candidates.granularity[list(instance_of)]).float(),
        labels=torch.from_numpy(things.spread(part, NOBODY)),
    )


def _homes(inside: Ints, labels: Ints, weights: Floats, above: list[int], least: float) -> dict[int, int]:
    """Candidate -> the instance that most of it and of those below it lies in, where that weighs `least` or more."""
    width = int(labels.max(initial=NOBODY)) + 2
    rows = np.flatnonzero(inside >= 0)
    keys, place = np.unique(inside[rows] * width + labels[rows] + 1, return_inverse=True)
    sums = np.bincount(place, weights=weights[rows], minlength=len(keys))
    shares: list[dict[int, float]] = [{} for _ in above]
    for key, weight in zip(keys.tolist(), sums.tolist(), strict=True):
        shares[key // width][key % width - 1] = weight
    homes = {}
    for candidate in range(len(above) - 1, -1, -1):  # those below come first
        own, up = shares[candidate], above[candidate]
        for label, weight in own.items() if up != NONE else ():
            shares[up][label] = shares[up].get(label, 0.0) + weight
        label = max(own, key=lambda one: own[one], default=NOBODY)
        if label != NOBODY and own[label] >= least:
            homes[candidate] = label
    return dict(sorted(homes.items()))


def _with_company(homes: dict[int, int], above: list[int]) -> dict[int, int]:
    """Without those that are the only one of the part, or the instance, that they are a part of."""

    def within(candidate: int) -> tuple[int, int]:
        up = above[candidate]
        while up != NONE and up not in homes:
            up = above[up]
        return up, homes[candidate]

    while True:
        company = Counter(within(candidate) for candidate in homes)
        alone = {candidate for candidate in homes if company[within(candidate)] == 1}
        if not alone:
            return homes
        homes = {candidate: label for candidate, label in homes.items() if candidate not in alone}
