"""What happens to clusters before they are instances: gaps in space, noise, numbers, classes.

Notation: T Gaussians of things; label = cluster of each, NOBODY = none.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift.clustering.density import spanning_tree
from gs_lift.clustering.hierarchy import first_parting
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)

NOBODY = -1
"""Label of a Gaussian that belongs to no instance."""

NEAREST_IN_SPACE = 16
"""Neighbours in space that say what a noise Gaussian lies among."""


@dataclass(frozen=True)
class Things:
    """The Gaussians that can belong to an instance.

    rows: [T] which of the scene's `count`. fast: [T D]. means: [T 3] in world units. weights: [T] visibility,
    limited, relative to its mean, so that they sum to T. semantic: [T C] probability of each thing class.
    """

    count: int
    rows: Ints
    fast: Floats
    means: Floats
    weights: Floats
    semantic: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def spread(self, values: NDArray[Number], absent: float) -> NDArray[Number]:
        """values [T] on all N Gaussians, `absent` elsewhere."""
        result = np.full(self.count, absent, dtype=values.dtype)
        result[self.rows] = values
        return result


def things_of(
    embeddings: Embeddings,
    gaussians: Gaussians,
    classes: Classes,
    min_thing: float,
    min_visibility: float,
    max_weight: float,
) -> Things:
    """Those that are things by their semantics, were seen, and are finite; heavy ones weigh max_weight means."""
    semantic = embeddings.semantic.detach().double().cpu().softmax(dim=1).numpy()[:, list(classes.things)]
    fast = embeddings.fast.detach().double().cpu().numpy()
    means = gaussians.means.detach().double().cpu().numpy()
    visibility = embeddings.visibility.detach().double().cpu().numpy()
    thing = semantic.sum(axis=1) >= min_thing  # false where a logit is NaN
    finite = np.isfinite(fast).all(axis=1) & np.isfinite(means).all(axis=1) & np.isfinite(visibility)
    rows = np.flatnonzero(thing & finite & (visibility > min_visibility))
    weights = visibility[rows]
    if len(rows):
        weights = np.minimum(weights / weights.mean(), max_weight)
        weights /= weights.mean()
    return Things(len(fast), rows, fast[rows], means[rows], weights, semantic[rows])


def split_apart(things: Things, labels: Ints, gap: float, least: float) -> Ints:
    """Cut a cluster where its parts lie further apart in space than `gap` times the smaller part's radius.

    The contrastive loss parts only what was seen in one image: two objects that never were may share an embedding.
    Parts lighter than `least` are no parts; what lies outside both becomes noise.
    """
    result, following = labels.copy(), int(labels.max(initial=NOBODY)) + 1
    waiting = [np.flatnonzero(labels == label) for label in range(following)]
    while waiting:
        members = waiting.pop()
        side = _sides(things.means[members], things.weights[members], gap, least)
        if side is not None:
            first, second = members[side == 0], members[side == 1]
            result[members[side == NOBODY]] = NOBODY
            result[second] = following
            following += 1
            waiting += [first, second]
    return result


def _sides(means: Floats, weights: Floats, gap: float, least: float) -> Ints | None:
    """0 or 1 for the two parts of a cluster that falls apart in space, NOBODY outside both; None where it does not."""
    if weights.sum() < 2 * least:
        return None
    parting = first_parting(spanning_tree(means, weights=weights, min_samples=3, neighbours=12), least)
    if parting is None:
        return None
    side, distance = parting
    smaller = min(_radius(means[side == part], weights[side == part]) for part in (0, 1))
    return side if distance > gap * smaller else None


def _radius(means: Floats, weights: Floats) -> float:
    """Root of the mean square distance from the weighted centre."""
    center = np.average(means, axis=0, weights=weights)
    return float(np.sqrt(np.average(((means - center) ** 2).sum(axis=1), weights=weights)))


def drop_scattered(things: Things, labels: Ints, coherence: float) -> Ints:
    """Make noise of every cluster that is strewn among others in space.

    What counts is the share of the weight around its members that belongs to the same cluster: near 1 for an object,
    low for the odd embeddings of borders. This tells true small objects from false ones better than their size does.
    """
    rows = np.flatnonzero(labels != NOBODY)
    if not len(rows):
        return labels
    around, weights = _surroundings(things, rows)
    own = labels[around] == labels[rows, None]
    share = (weights * own).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-12)
    count = int(labels.max(initial=NOBODY)) + 1
    total = np.bincount(labels[rows], weights=things.weights[rows], minlength=count)
    kept = (
        np.bincount(labels[rows], weights=things.weights[rows] * share, minlength=count) >= coherence * total
    )
    return np.where((labels != NOBODY) & np.append(kept, False)[labels], labels, NOBODY)


def assign_noise(
    things: Things, labels: Ints, scores: Floats, spread: float, agreement: float
) -> tuple[Ints, Floats]:
    """Give noise to an instance where space and embedding say the same.

    In space, more than `agreement` of the weight of its nearest Gaussians belongs to the instance (noise among them
    speaks against). In the embedding, that instance's centre is the nearest of all, at most `spread` times its radius
    away. All are judged by the labels given, so that the order does not matter. The score is half the agreement,
    falling with the distance: less than that of a firm member.
    """
    noise = np.flatnonzero(labels == NOBODY)
    count = int(labels.max(initial=NOBODY)) + 1
    if not len(noise) or not count:
        return labels, scores
    candidate, share = _majority(things, labels, noise)
    members = [labels == label for label in range(count)]
    centers = np.stack([np.average(things.fast[m], axis=0, weights=things.weights[m]) for m in members])
    radii = np.array([_radius(things.fast[m], things.weights[m]) for m in members])
    distances, nearest = cKDTree(centers).query(things.fast[noise])
    off = distances / np.maximum(radii[nearest], 1e-12)
    taken = (candidate == nearest) & (share > agreement) & (off <= spread)
    labels, scores = labels.copy(), scores.copy()
    labels[noise[taken]] = candidate[taken]
    scores[noise[taken]] = (0.5 * share * (1 - 0.5 * off / spread))[taken]
    return labels, scores


def _majority(things: Things, labels: Ints, rows: Ints) -> tuple[Ints, Floats]:
    """The label of most of the weight around each of `rows` in space, and its share of all the weight there."""
    around, weights = _surroundings(things, rows)
    votes = np.zeros((len(rows), int(labels.max(initial=NOBODY)) + 2))  # the last column is that of NOBODY
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[around]), weights)
    share = votes[:, :-1] / np.maximum(votes.sum(axis=1, keepdims=True), 1e-12)
    return share.argmax(axis=1), share.max(axis=1)


def _surroundings(things: Things, rows: Ints) -> tuple[Ints, Floats]:
    """The nearest Gaussians of `rows` in space and their weights; a Gaussian itself weighs nothing there."""
    wanted = min(NEAREST_IN_SPACE + 1, len(things))
    around = cKDTree(things.means).query(things.means[rows], k=np.arange(1, wanted + 1))[1]
    return around, np.where(around == rows[:, None], 0.0, things.weights[around])


def vote_classes(things: Things, labels: Ints, classes: Classes) -> Int[Tensor, "M"]:
    """The thing class that has most of the visible probability of each instance."""
    count = int(labels.max(initial=NOBODY)) + 1
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    votes = np.zeros((count, len(classes.things)))
    member = labels != NOBODY
    np.add.at(votes, labels[member], (things.semantic * things.weights[:, None])[member])
    return torch.tensor(classes.things, dtype=torch.int64)[torch.from_numpy(votes.argmax(axis=1))]
