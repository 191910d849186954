"""The parts of instances: clusters below the chosen ones, which a finer cut would make instances of their own."""

from collections import Counter

import numpy as np
import torch

from gs_lift.clustering.hierarchy import Cut, Ints
from gs_lift.clustering.instances import NOBODY, Things
from gs_lift.clustering.selection import Scale
from gs_lift.segmentation import Parts


def find_parts(things: Things, leaf: Ints, labels: Ints, cut: Cut, least: float) -> Parts:
    """The parts of instances `labels` [T]: descendants of the chosen clusters that some granularity would choose.

    leaf: [T] of the tree. A part belongs to the instance that most of it lies in, and weighs `least` or more there; a
    single part is the whole and is left out.
    """
    hierarchy = cut.hierarchy
    if not len(cut.chosen):
        nothing = torch.zeros(0, dtype=torch.int64)
        return Parts(nothing, nothing, torch.zeros(0), torch.full((things.count,), NOBODY))
    scale = Scale.of(hierarchy, True, np.inf)
    below = hierarchy.owners(cut.chosen) >= 0
    below[cut.chosen] = False
    beyond = np.append(scale.gone, 0.0)[hierarchy.parent]
    candidates = np.flatnonzero(below & (scale.ratio > beyond))
    owner = hierarchy.owners(candidates)
    inside = np.append(owner[hierarchy.point_cluster], -1)[leaf]
    weights = _weights(inside, labels, things.weights, candidates, hierarchy.parent, owner)
    kept = {
        c: label
        for c in range(len(candidates))
        for label, weight in weights[c].most_common(1)
        if label != NOBODY and weight >= least
    }
    kept = _with_siblings(kept, candidates, hierarchy.parent, owner)
    numbers = {c: number for number, c in enumerate(kept)}

    def nearest_kept(c: int) -> int:
        """The number of part c, or of its nearest ancestor that is a part of an instance; -1 = none."""
        while c >= 0 and c not in numbers:
            c = _above(c, candidates, hierarchy.parent, owner)
        return numbers.get(c, -1)

    number_of = np.array([nearest_kept(c) for c in range(len(candidates))] + [-1], dtype=np.int64)
    instance = np.array(list(kept.values()), dtype=np.int64)
    place = number_of[inside]
    place[(place >= 0) & (np.append(instance, NOBODY)[place] != labels)] = -1
    return Parts(
        instance=torch.from_numpy(instance),
        parent=torch.tensor(
            [nearest_kept(_above(c, candidates, hierarchy.parent, owner)) for c in kept], dtype=torch.int64
        ),
        granularity=torch.tensor(
            [scale.granularity_beyond(float(beyond[candidates[c]])) for c in kept], dtype=torch.float32
        ),
        labels=torch.from_numpy(things.spread(place, NOBODY)),
    )


def _above(c: int, candidates: Ints, parent: Ints, owner: Ints) -> int:
    """The candidate above candidate c, -1 = none."""
    up = parent[candidates[c]]
    return int(owner[up]) if up >= 0 else -1


def _weights(
    inside: Ints, labels: Ints, weights: np.ndarray, candidates: Ints, parent: Ints, owner: Ints
) -> list[Counter[int]]:
    """For each candidate, the weight of what lies in it and below it by instance."""
    count = len(candidates)
    width = int(labels.max(initial=NOBODY)) + 2
    rows = np.flatnonzero(inside >= 0)
    keys, place = np.unique(inside[rows] * width + labels[rows] + 1, return_inverse=True)
    sums = np.bincount(place, weights=weights[rows], minlength=len(keys))
    result: list[Counter[int]] = [Counter() for _ in range(count)]
    for key, weight in zip(keys.tolist(), sums.tolist(), strict=True):
        result[key // width][key % width - 1] += weight
    for c in range(count - 1, -1, -1):  # children come after their parents
        above = _above(c, candidates, parent, owner)
        if above >= 0:
            result[above].update(result[c])
    return result


def _with_siblings(kept: dict[int, int], candidates: Ints, parent: Ints, owner: Ints) -> dict[int, int]:
    """Without parts that are the only one of the part, or the instance, that they are a part of."""

    def home(c: int) -> tuple[int, int]:
        above = _above(c, candidates, parent, owner)
        while above >= 0 and above not in kept:
            above = _above(above, candidates, parent, owner)
        return above, kept[c]

    while True:
        siblings = Counter(home(c) for c in kept)
        alone = {c for c in kept if siblings[home(c)] == 1}
        if not alone:
            return kept
        kept = {c: label for c, label in kept.items() if c not in alone}
