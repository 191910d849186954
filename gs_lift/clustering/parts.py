"""The parts of instances: clusters below the chosen ones, which a finer cut would make instances of their own."""

from collections import Counter

import numpy as np
import torch

from gs_lift.clustering.hierarchy import Cut, Ints
from gs_lift.clustering.instances import NOBODY, Things
from gs_lift.clustering.selection import Scale
from gs_lift.segmentation import Parts

NONE = -1
"""Of candidates: none."""


def find_parts(things: Things, leaf: Ints, labels: Ints, cut: Cut, least: float) -> Parts:
    """The parts of instances `labels` [T]: descendants of the chosen clusters that some granularity would choose.

    leaf: [T] of the tree. A part belongs to the instance that most of it lies in, and weighs `least` or more there; a
    part that has no other beside it is the whole, and is left out.
    """
    hierarchy = cut.hierarchy
    if not len(cut.chosen):
        nothing = torch.zeros(0, dtype=torch.int64)
        return Parts(nothing, nothing, torch.zeros(0), torch.full((things.count,), NOBODY))
    scale = Scale.of(hierarchy, True, np.inf)
    below = hierarchy.owners(cut.chosen) >= 0
    below[cut.chosen] = False
    beyond = np.append(scale.gone, 0.0)[hierarchy.parent]  # the threshold from which each stands alone
    candidates = np.flatnonzero(below & (scale.ratio > beyond))
    owner = np.append(hierarchy.owners(candidates), NONE)  # the last entry is that of no cluster
    above = owner[hierarchy.parent[candidates]].tolist()
    inside = np.append(owner[hierarchy.point_cluster], NONE)[leaf]
    instance_of = _with_company(_homes(inside, labels, things.weights, above, least), above)

    number = {candidate: place for place, candidate in enumerate(instance_of)}
    nearest = [NONE] * (len(candidates) + 1)  # the number of each, or of the next above that is a part
    for candidate, up in enumerate(above):  # those above come first
        nearest[candidate] = number.get(candidate, nearest[up])
    instance = np.array(list(instance_of.values()), dtype=np.int64)
    part = np.array(nearest)[inside]
    part[np.append(instance, NOBODY)[part] != labels] = NONE
    granularity = [scale.granularity_beyond(float(beyond[candidates[c]])) for c in instance_of]
    return Parts(
        instance=torch.from_numpy(instance),
        parent=torch.tensor([nearest[above[c]] for c in instance_of], dtype=torch.int64),
        granularity=torch.tensor(granularity, dtype=torch.float32),
        labels=torch.from_numpy(things.spread(part, NOBODY)),
    )


def _homes(inside: Ints, labels: Ints, weights: np.ndarray, above: list[int], least: float) -> dict[int, int]:
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
