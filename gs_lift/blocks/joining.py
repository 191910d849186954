"""The instances of overlapping blocks as those of the scene: shared Gaussians tell which are one object."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gs_lift.blocks.splitting import Block
from gs_lift.segmentation import Embeddings, Instances

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOBODY = -1
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


@dataclass
class _Groups:
    """Which instances are one object; no two of the same block are. home: block of each instance."""

    home: Ints
    _members: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.group = np.arange(len(self.home))

    def unite(self, one: int, other: int) -> None:
        left, right = sorted((int(self.group[one]), int(self.group[other])))
        ours, theirs = self._of(left), self._of(right)
        if left == right or {*self.home[ours].tolist()} & {*self.home[theirs].tolist()}:
            return
        self.group[theirs] = left
        self._members[left] = ours + self._members.pop(right, theirs)

    def _of(self, group: int) -> list[int]:
        return self._members.get(group, [group])


def _by_size(groups: Ints) -> tuple[Ints, Ints]:
    """Labels 0, 1, ... by falling size, and the group that each is; groups of too few Gaussians are none."""
    names, sizes = np.unique(groups[groups != NOBODY], return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    names = names[order[sizes[order] >= FEWEST]]
    number = np.full(int(groups.max(initial=NOBODY)) + 2, NOBODY)  # the last entry is that of no group
    number[names] = np.arange(len(names))
    return number[groups], names


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
