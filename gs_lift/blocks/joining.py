"""The instances of overlapping blocks as those of the scene: shared Gaussians tell which are one object."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from gs_lift.blocks.splitting import Block
from gs_lift.clustering.density import number_by_weight
from gs_lift.clustering.hierarchy import Ints
from gs_lift.clustering.instances import NOBODY
from gs_lift.segmentation import Embeddings, Instances

SAME = 0.3
"""Least IoU, among the Gaussians that two blocks share, of two instances that are one object."""
FEWEST = 5
"""Shared Gaussians that both instances must have, and that an instance of the whole must have."""


def join(blocks: Sequence[Block], found: Sequence[Instances], count: int) -> Instances:
    """The instances of a scene of `count` Gaussians from those of its blocks.

    Two instances of two blocks are one if the shared Gaussians that vote for either vote for both, the surest first;
    two of one block never become one. Label and score of a Gaussian are those of the block whose core it is in, the
    class of an instance is that of most of its Gaussians. No tree: another cut is one of each block.
    """
    first = np.cumsum([0, *(len(one) for one in found)])
    labels = [_shifted(one.labels.numpy(), start) for one, start in zip(found, first.tolist(), strict=False)]
    groups = _Groups(np.repeat(np.arange(len(found)), np.diff(first)))
    for iou, one, other in sorted(_matches(blocks, labels), key=lambda match: (-match[0], *match[1:])):
        if iou >= SAME:
            groups.unite(one, other)
    group = np.append(groups.group, NOBODY)
    joined, scores = np.full(count, NOBODY), np.zeros(count, dtype=np.float32)
    for block, own, instances in zip(blocks, labels, found, strict=True):
        core = block.core.numpy()
        rows = block.rows.numpy()[core]
        joined[rows], scores[rows] = group[own[core]], instances.scores.numpy()[core]
    joined, names = _by_size(joined)
    scores[joined == NOBODY] = 0
    return Instances(
        labels=torch.from_numpy(joined),
        scores=torch.from_numpy(scores),
        classes=torch.from_numpy(_classes(blocks, labels, found, group, names)),
        tree={},
    )


def together(blocks: Sequence[Block], found: Iterable[Embeddings], count: int) -> Embeddings:
    """The embeddings of a scene of `count` Gaussians, each that of its core's block.

    Those of two blocks are not to be compared: each has learnt a space of its own. What the segments cover stays with
    the blocks.
    """

    whole: dict[str, Tensor] = {}
    for block, embeddings in zip(blocks, found, strict=True):  # one in memory at a time
        for name in ("fast", "slow", "semantic", "visibility"):
            value = getattr(embeddings, name)
            into = whole.setdefault(name, torch.zeros(count, *value.shape[1:]))
            into[block.rows[block.core]] = value[block.core]
    return Embeddings(whole["fast"], whole["slow"], whole["semantic"], whole["visibility"])


def _shifted(labels: Ints, start: int) -> Ints:
    return np.where(labels == NOBODY, NOBODY, labels + start)


def _matches(blocks: Sequence[Block], labels: Sequence[Ints]) -> list[tuple[float, int, int]]:
    """IoU and numbers of every two instances that share Gaussians, of all that two blocks share."""
    matches = []
    for (one, left), (other, right) in combinations(zip(blocks, labels, strict=True), 2):
        _, at_one, at_other = np.intersect1d(
            one.rows.numpy(), other.rows.numpy(), assume_unique=True, return_indices=True
        )
        a, b = left[at_one], right[at_other]
        both = (a != NOBODY) & (b != NOBODY)
        pairs, votes = np.unique(np.stack([a[both], b[both]]), axis=1, return_counts=True)
        of_a, of_b = (np.bincount(some[some != NOBODY], minlength=1) for some in (a, b))
        for (i, j), shared in zip(pairs.T.tolist(), votes.tolist(), strict=True):
            if shared >= FEWEST:
                matches.append((float(shared / (of_a[i] + of_b[j] - shared)), i, j))
    return matches


class _Groups:
    """Which instances are one object; no two of the same block are. home: block of each instance."""

    def __init__(self, home: Ints):
        self.home, self.group = home, np.arange(len(home))

    def unite(self, one: int, other: int) -> None:
        into, gone = sorted((self.group[one], self.group[other]))
        ours, theirs = self.group == into, self.group == gone
        if not np.isin(self.home[ours], self.home[theirs]).any():  # as it is where both are one already
            self.group[theirs] = into


def _by_size(groups: Ints) -> tuple[Ints, Ints]:
    """Labels 0, 1, ... by falling size, and the group that each is; groups of too few Gaussians are none."""
    sizes = np.bincount(groups[groups != NOBODY])
    large = np.append(sizes >= FEWEST, False)  # the last one is "none"
    return number_by_weight(np.where(large[groups], groups, NOBODY), np.ones(len(groups)))


def _classes(
    blocks: Sequence[Block], labels: Sequence[Ints], found: Sequence[Instances], group: Ints, names: Ints
) -> Ints:
    """Of each named group the class of the instances that most of its Gaussians, in cores, are of."""
    of_instance = np.concatenate([np.zeros(0, dtype=np.int64), *(one.classes.numpy() for one in found)])
    sizes = np.zeros(len(of_instance), dtype=np.int64)
    for block, own in zip(blocks, labels, strict=True):
        mine = own[block.core.numpy()]
        sizes += np.bincount(mine[mine != NOBODY], minlength=len(sizes))
    votes = np.zeros(
        (int(group.max(initial=NOBODY)) + 1, int(of_instance.max(initial=0)) + 1), dtype=np.int64
    )
    np.add.at(votes, (group[:-1], of_instance), sizes)
    return votes[names].argmax(axis=1) if len(names) else np.zeros(0, dtype=np.int64)
