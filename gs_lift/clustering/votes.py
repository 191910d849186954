"""The last word on each Gaussian: the segments that match its instance against those that match others, and stuff.

Notation: T Gaussians of things, S segments of things, M instances, V views; see regions.py.
"""

import numpy as np
from numpy.typing import NDArray

from gs_lift.clustering.hierarchy import Floats, Ints
from gs_lift.clustering.instances import NOBODY
from gs_lift.clustering.regions import Regions
from gs_lift.segmentation import Evidence, Instances
from gs_lift.sparse import Sparse, one_hot, strongest

MATCH = 0.3
"""Least IoU of a segment with the instance that it speaks for."""
MARGIN = 1.3
"""A Gaussian changes to an instance with so many times the votes of its own."""
MISSED = 0.15
"""What a vote of stuff counts where the view did not detect the Gaussian's instance at all: it may have missed it."""
KEEP = 0.3
"""Least share of the votes for its instance against stuff with which a Gaussian keeps it."""

SUREST, STEEPNESS, HALF = 0.97, 12.7, 0.414
"""Of `confidence`, fitted to four rooms (messy_noise_25, synth 25 and 100 of seed 1); docs/benchmarks.md has others."""


def confidence(share: Floats) -> Floats:
    """How often a Gaussian of that share of votes belongs to its instance, and that instance is an object; 0 for 0."""
    return np.where(share > 0, SUREST / (1 + np.exp(-STEEPNESS * (share - HALF))), 0.0)


def vote(regions: Regions, labels: Ints, rounds: int) -> tuple[Ints, Floats]:
    """Labels [T] after so many rounds, without gaps, and the share [T] of the votes that speak for each.

    In a round every segment speaks for the instance that it matches best, each Gaussian goes to the one that most of
    its weight is spoken for, and leaves it where stuff speaks against that.
    """
    share = np.zeros(len(labels))
    for _ in range(rounds):
        count = int(labels.max(initial=NOBODY)) + 1
        matched, detected = match(regions, labels, count)
        votes = regions.votes(matched, count)
        best, most = strongest(votes)
        stays = (labels != NOBODY) & (most <= MARGIN * _votes_for(votes, labels))
        labels = np.where(stays | (most == 0), labels, best)
        own = _votes_for(votes, labels)
        against = _votes_of_stuff(regions, labels, detected)
        share = own / np.maximum(votes.sum(axis=1) + against, 1e-9)
        leaves = own <= KEEP * (own + against)
        labels = _numbered(np.where(leaves, NOBODY, labels))
    return labels, np.where(labels == NOBODY, 0.0, share)


def drop_undetected(regions: Regions, labels: Ints, least: int) -> Ints:
    """Labels [T], without gaps, but for instances that segments match in fewer than `least` views.

    What a segmenter sees where nothing is, it sees once or twice. Where there are few views, fewer will do: one in
    eight, and one more.
    """
    _, detected = match(regions, labels, int(labels.max(initial=NOBODY)) + 1)
    enough = detected.sum(axis=0) >= min(least, 1 + regions.views // 8)
    return _numbered(np.where(np.append(enough, False)[labels], labels, NOBODY))


def match(regions: Regions, labels: Ints, count: int) -> tuple[Ints, NDArray[np.bool_]]:
    """The instance [S] that each segment matches, NOBODY = none, and which views detect which instance [V M].

    IoU by weights, of a segment with what its view shows of an instance.
    """
    cover = regions.cover(labels, count)
    both, shown = cover.things.tocoo(), cover.seen.toarray()
    union = regions.size[both.row] + shown[regions.view[both.row], both.col] - both.data
    best, iou = strongest(
        Sparse((both.data / np.maximum(union, 1e-9), (both.row, both.col)), shape=both.shape)
    )
    matched = np.where(iou > MATCH, best, NOBODY)
    detected = np.zeros((regions.views, count), dtype=bool)
    detected[regions.view[matched != NOBODY], matched[matched != NOBODY]] = True
    return matched, detected


def detections(
    instances: Instances, evidence: Evidence, *, minimum_pixels: float = 15.0
) -> tuple[list[int], list[int]]:
    """Of each instance, in how many of the views with segments it is seen (covers `minimum_pixels` or more), and in how
    many of those a segment matches it."""
    labels = instances.labels.numpy()
    rows = np.flatnonzero(labels != NOBODY)
    regions = Regions.of(evidence, rows, len(labels))
    _, detected = match(regions, labels[rows], len(instances))
    seen = regions.cover(labels[rows], len(instances)).seen.toarray() >= minimum_pixels
    return seen.sum(axis=0).tolist(), (seen & detected).sum(axis=0).tolist()


def _votes_for(votes: Sparse, labels: Ints) -> Floats:
    """[T] of each Gaussian's votes [T M] those for its label."""
    return votes.multiply(one_hot(labels, votes.shape[1])).sum(axis=1)


def _votes_of_stuff(regions: Regions, labels: Ints, detected: NDArray[np.bool_]) -> Floats:
    everywhere = np.ones((len(detected), 1))
    return regions.votes_of_stuff(labels, np.hstack([np.where(detected, 1.0, MISSED), everywhere]))


def _numbered(labels: Ints) -> Ints:
    used = np.unique(labels[labels != NOBODY])
    return np.where(labels == NOBODY, NOBODY, np.searchsorted(used, labels))
