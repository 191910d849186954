"""What happens to clusters before they are instances: gaps in space, noise, numbers, classes.

Notation: T Gaussians of things; label = cluster of each, NOBODY = none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift import _native
from gs_lift.clustering.density import spanning_tree
from gs_lift.clustering.hierarchy import Floats, Ints, condense
from gs_lift.clustering.knn import NeighbourSearch
from gs_lift.clustering.settings import ClusterConfig
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings
from gs_lift.sparse import Sparse
from gs_lift.threads import kernel_threads

Number = TypeVar("Number", bound=np.generic)

NOBODY = -1
"""Label of a Gaussian that belongs to no instance."""

NEAREST_IN_SPACE = 16
"""Neighbours in space that say what a Gaussian lies among."""

AT_ONCE = 16_384
"""Rows that are worked on at once where that takes many numbers a row: bounds memory."""

OF_A_CLUMP = 24
"""Points of a clump that say where it lies: less than its radius apart, and a gap is several radii wide."""


@dataclass(frozen=True)
class Space:
    """Which Gaussians are things, and which lie around which: all that a cut needs besides the tree.

    rows: [T] of the scene's Gaussians. around: [T K] the nearest others in space, of those that are things. mutual: [T]
    a bit for each of them that has this one among its own.
    """

    rows: Ints
    around: NDArray[np.int32]
    mutual: NDArray[np.uint16]


@dataclass(frozen=True)
class Things:
    """The Gaussians that can belong to an instance.

    count: of all Gaussians of the scene. fast: [T D]. means: [T 3] in world units. weights: [T] visibility, limited,
    relative to its mean, so that they sum to T. semantic: [T C] probability of each thing class.
    """

    count: int
    space: Space
    fast: Floats
    means: Floats
    weights: Floats
    semantic: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Ints:
        return self.space.rows

    def spread(self, values: NDArray[Number], absent: float) -> NDArray[Number]:
        """values [T] on all N Gaussians, `absent` elsewhere."""
        result = np.full(self.count, absent, dtype=values.dtype)
        result[self.rows] = values
        return result


def things_of(
    embeddings: Embeddings,
    gaussians: Gaussians,
    classes: Classes,
    config: ClusterConfig,
    space: Space | None = None,
) -> Things:
    """Those that are things by their semantics, were seen, and are finite; heavy ones weigh max_weight means.

    space: as it was found before, None = find it now.
    """
    rows = _rows_of_things(embeddings, gaussians, classes, config) if space is None else space.rows
    picked = torch.from_numpy(rows)

    def of_rows(tensor: Tensor) -> Floats:
        return tensor.detach().cpu()[picked].double().numpy()

    means, weights = of_rows(gaussians.means), of_rows(embeddings.visibility)
    if len(rows):
        weights = np.minimum(weights / weights.mean(), config.max_weight)
        weights /= weights.mean()
    if space is None:
        around = nearest_in_space(means)
        space = Space(rows, around, _native.mutual_bits(around))
    semantic = np.empty((len(classes.things), len(rows))).T  # column by column, as the classes are summed
    for some in _blocks(len(rows)):
        semantic[some] = _thing_probabilities(embeddings.semantic.detach().cpu()[picked[some]], classes)
    return Things(len(embeddings), space, of_rows(embeddings.fast), means, weights, semantic)


def _rows_of_things(
    embeddings: Embeddings, gaussians: Gaussians, classes: Classes, config: ClusterConfig
) -> Ints:
    visibility = embeddings.visibility.detach().double().cpu().numpy()
    thing = np.zeros(len(embeddings), dtype=bool)
    for some in _blocks(len(embeddings)):
        semantic = _thing_probabilities(embeddings.semantic[some].detach().cpu(), classes)
        thing[some] = semantic.sum(axis=1) >= config.min_thing  # false where a logit is NaN
    finite = np.isfinite(visibility)
    for tensor in (embeddings.fast, gaussians.means):
        finite &= tensor.detach().cpu().isfinite().all(dim=1).numpy()
    return np.flatnonzero(thing & finite & (visibility > config.min_visibility))


def _thing_probabilities(logits: Float[Tensor, "R S"], classes: Classes) -> Floats:
    """[R C] of each thing class."""
    return logits.double().softmax(dim=1).numpy()[:, list(classes.things)]


def _blocks(count: int) -> Iterator[slice]:
    """Slices of at most AT_ONCE rows."""
    yield from (slice(at, min(at + AT_ONCE, count)) for at in range(0, count, AT_ONCE))


def nearest_in_space(means: Floats) -> NDArray[np.int32]:
    """The NEAREST_IN_SPACE others of each of means [T 3], or all there are."""
    if len(means) < 2:
        return np.zeros((len(means), 0), dtype=np.int32)
    return NeighbourSearch(means).query(NEAREST_IN_SPACE).ids


def share_out(things: Things, whole: Ints, labels: Ints, named: Ints) -> Ints:
    """Labels [T] of clusters `whole` [T] that constraints took apart, given anew to all that no constraint names.

    Each of their Gaussians goes with the nearest one of the rows `named`, along neighbours in space that look alike:
    the tree of the embeddings alone takes single Gaussians off a border, and cuts what it does not tell apart anyhow.
    """
    labels = labels.copy()
    for cluster in np.unique(whole[named]):
        seeds = named[(whole[named] == cluster) & (labels[named] != NOBODY)]
        if cluster != NOBODY and len(np.unique(labels[seeds])) > 1:
            members = np.flatnonzero(whole == cluster)
            free = members[~np.isin(members, named)]
            nearest = _nearest_seed(things, members, np.searchsorted(members, seeds))
            labels[free] = labels[seeds][nearest[np.searchsorted(members, free)]]
    return labels


def _nearest_seed(things: Things, members: Ints, seeds: Ints) -> Ints:
    """[n] Of each of the rows `members` the position in `seeds` [s], positions in `members`, that is nearest to it."""
    place = np.full(len(things), NOBODY)
    place[members] = np.arange(len(members))
    neighbours = place[things.space.around[members]]
    row, column = np.nonzero(neighbours != NOBODY)
    other = neighbours[row, column]
    means, fast = things.means[members], things.fast[members]
    cost = sum(_in_medians(np.linalg.norm(values[row] - values[other], axis=1)) for values in (means, fast))
    # Cubed: many small steps within an object are shorter than one across a border.
    graph = Sparse((np.asarray(cost) ** 3 + 1e-9, (row, other)), shape=(len(members), len(members)))
    off, _, source = dijkstra(graph, directed=False, indices=seeds, min_only=True, return_predecessors=True)
    position = np.full(len(members), 0)
    position[seeds] = np.arange(len(seeds))
    nearest = position[np.maximum(source, 0)]
    if (far := np.flatnonzero(~np.isfinite(off))).size:  # no neighbour leads there
        spread = np.concatenate(
            [values / max(float(values.std()), 1e-12) for values in (means, fast)], axis=1
        )
        nearest[far] = cKDTree(spread[seeds]).query(spread[far])[1]
    return nearest


def _in_medians(values: Floats) -> Floats:
    return values / max(float(np.median(values)), 1e-12) if len(values) else values


def split_apart(things: Things, labels: Ints, gap: float, least: float) -> Ints:
    """Cut a cluster where its parts lie further apart in space than `gap` times the smaller part's radius.

    The contrastive loss parts only what was seen in one image: two objects that never were may share an embedding.
    Parts lighter than `least` are no parts; of a cluster that is cut, what lies in none becomes noise.
    """
    # Clumps: neighbours of each other in space. Across a gap wider than a clump no two points are, so only a cluster of
    # several heavy clumps can fall apart, and a few points of each clump tell where.
    clumps = _native.mutual_components(things.space.around, things.space.mutual, labels)
    weights = np.bincount(clumps, weights=things.weights, minlength=len(labels))
    heavy = np.flatnonzero((weights >= least) & (labels >= 0) & (clumps == np.arange(len(labels))))
    suspects = np.flatnonzero(np.bincount(labels[heavy], minlength=1) > 1)
    result, following = labels.copy(), int(labels.max(initial=NOBODY)) + 1
    order = np.argsort(clumps, kind="stable")
    bounds = np.searchsorted(clumps[order], np.stack([heavy, heavy + 1], axis=1))
    for label in suspects:
        of_label = np.flatnonzero(labels[heavy] == label)
        members = [order[begin:end] for begin, end in bounds[of_label]]
        parts = _parts_in_space(things, members, gap, least)
        if len(np.unique(parts[parts >= 0])) < 2:
            continue
        result[labels == label] = NOBODY
        for rows, part in zip(members, parts.tolist(), strict=True):
            if part >= 0:
                result[rows] = label if part == 0 else following + part - 1
        following += int(parts.max())
    return result


def _parts_in_space(things: Things, clumps: list[Ints], gap: float, least: float) -> Ints:
    """The part 0, 1, ... that each clump of a cluster belongs to, -1 = none."""
    sampled = [rows[:: max(1, len(rows) // OF_A_CLUMP)] for rows in clumps]
    clump = np.repeat(np.arange(len(clumps)), [len(rows) for rows in sampled])
    rows = np.concatenate(sampled)
    heaviness = np.array([things.weights[rows].sum() for rows in clumps])
    weights = (heaviness / np.bincount(clump))[clump]
    means = things.means[rows]
    # Single linkage: nothing is strewn here.
    tree = spanning_tree(means, weights=weights, min_samples=1, neighbours=12)
    hierarchy = condense(tree, least)
    part = np.full(len(rows), -1, dtype=np.int64)
    waiting, found = [0], 0
    while waiting:
        node = waiting.pop()
        children = np.flatnonzero(hierarchy.parent == node)
        inside = [hierarchy.owners(np.array([c]))[hierarchy.point_cluster][tree.leaf] == 0 for c in children]
        if len(children) and 1 / hierarchy.birth[children[0]] > gap * min(
            _radius(means[one], weights[one]) for one in inside
        ):
            waiting += children[::-1].tolist()
            continue
        part[hierarchy.owners(np.array([node]))[hierarchy.point_cluster][tree.leaf] == 0] = found
        found += 1
    votes = np.zeros((len(clumps), found + 1))
    np.add.at(votes, (clump, part), 1)  # the last column is that of -1
    return np.where(votes[:, :-1].any(axis=1), votes[:, :-1].argmax(axis=1), -1)


def _radius(means: Floats, weights: Floats) -> float:
    """Root of the mean square distance from the weighted centre."""
    center = np.average(means, axis=0, weights=weights)
    return float(np.sqrt(np.average(((means - center) ** 2).sum(axis=1), weights=weights)))


def drop_scattered(things: Things, labels: Ints, coherence: float, spared: Ints) -> Ints:
    """Make noise of every cluster that is strewn among others in space, but for the labels `spared`."""
    kept = _coherent(things, labels, coherence)
    kept[spared] = True
    return np.where((labels != NOBODY) & np.append(kept, False)[labels], labels, NOBODY)


def rejoin_scattered(things: Things, labels: Ints, whole: Ints, coherence: float, spared: Ints) -> Ints:
    """Give back every cluster that is strewn in space to the largest other one of its `whole` [T], but those `spared`.

    So a cut that takes an object apart keeps what holds together and loses nothing.
    """
    count = int(labels.max(initial=NOBODY)) + 1
    rows = np.flatnonzero(labels != NOBODY)
    home = np.full(count, NOBODY)
    home[labels[rows]] = whole[rows]
    kept = _coherent(things, labels, coherence)
    kept[spared] = True
    total = np.bincount(labels[rows], weights=things.weights[rows], minlength=count)
    becomes = np.arange(count)
    for strewn in np.flatnonzero(~kept & (home != NOBODY)):
        others = np.flatnonzero(home == home[strewn])
        others = others[kept[others]] if kept[others].any() else others
        becomes[strewn] = others[total[others].argmax()]
    return np.append(becomes, NOBODY)[labels]


def _coherent(things: Things, labels: Ints, coherence: float) -> NDArray[np.bool_]:
    """[M] Whether so much of the weight around the members of a cluster belongs to it: near 1 for an object, low for
    the odd embeddings of borders. This tells true small objects from false ones better than their size does.
    """
    count = int(labels.max(initial=NOBODY)) + 1
    rows = np.flatnonzero(labels != NOBODY)
    share = _share_around(things, labels, rows, labels[rows])
    total = np.bincount(labels[rows], weights=things.weights[rows], minlength=count)
    own = np.bincount(labels[rows], weights=things.weights[rows] * share, minlength=count)
    return own >= coherence * total


def assign_noise(
    things: Things, labels: Ints, scores: Floats, spread: float, agreement: float, spared: Ints
) -> tuple[Ints, Floats]:
    """Give noise to an instance where space and embedding say the same, but for the rows `spared`.

    In space, more than `agreement` of the weight of its nearest Gaussians belongs to the instance, and no more to any
    other (noise among them speaks against). In the embedding, that instance's centre is the nearest of all, at most
    `spread` times its radius away. All are judged by the labels given, so that the order does not matter. The score is
    half the agreement, falling with the distance: less than that of a firm member.
    """
    noise = np.setdiff1d(np.flatnonzero(labels == NOBODY), spared)
    count = int(labels.max(initial=NOBODY)) + 1
    if not len(noise) or not count:
        return labels, scores
    centers, radii = _balls(things, labels, count)
    nearest = _native.nearest_centers(
        things.fast[noise].astype(np.float32), centers.astype(np.float32), kernel_threads()
    )
    off = np.linalg.norm(things.fast[noise] - centers[nearest], axis=1) / np.maximum(radii[nearest], 1e-12)
    share = _share_around(things, labels, noise, nearest.astype(np.int64))
    taken = np.flatnonzero((share > agreement) & (off <= spread))
    around = things.space.around[noise[taken]]
    taken = taken[share[taken] >= _largest_share(labels[around], things.weights[around]) * (1 - 1e-9)]
    labels, scores = labels.copy(), scores.copy()
    labels[noise[taken]] = nearest[taken]
    scores[noise[taken]] = 0.5 * share[taken] * (1 - 0.5 * off[taken] / spread)
    return labels, scores


def _share_around(things: Things, labels: Ints, rows: Ints, wanted: Ints) -> Floats:
    """[R] The share of the weight around each of `rows` in space that has the label `wanted` [R]."""
    return _native.share_of_label(things.space.around, labels, things.weights, rows, wanted, kernel_threads())


def _balls(things: Things, labels: Ints, count: int) -> tuple[Floats, Floats]:
    """Weighted centre [M D] and root of the mean square distance from it [M] of the embeddings of each label."""
    rows = np.flatnonzero(labels != NOBODY)
    own, weights, fast = labels[rows], things.weights[rows], things.fast[rows]
    total = np.maximum(np.bincount(own, weights=weights, minlength=count), 1e-300)
    sums = [np.bincount(own, weights=weights * column, minlength=count) for column in fast.T]
    centers = np.stack(sums, axis=1) / total[:, None]
    squared = np.empty(len(rows))
    for some in _blocks(len(rows)):
        squared[some] = ((fast[some] - centers[own[some]]) ** 2).sum(axis=1)
    off = np.bincount(own, weights=weights * squared, minlength=count)
    return centers, np.sqrt(off / total)


def _largest_share(labels: Ints, weights: Floats) -> Floats:
    """[R] The share of the weights [R K] of the label that has most of them; noise has none."""
    largest = np.empty(len(labels))
    for some in _blocks(len(labels)):
        own, weight = labels[some], weights[some]
        same = own[:, :, None] == own[:, None, :]
        each = (same * weight[:, None, :]).sum(axis=2) * (own != NOBODY)
        largest[some] = each.max(axis=1, initial=0) / np.maximum(weight.sum(axis=1), 1e-12)
    return largest


def vote_classes(things: Things, labels: Ints, classes: Classes) -> Int[Tensor, "M"]:
    """The thing class that has most of the visible probability of each instance."""
    count = int(labels.max(initial=NOBODY)) + 1
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    rows = np.flatnonzero(labels != NOBODY)
    own, weights = labels[rows], things.weights[rows]
    votes = np.stack(
        [np.bincount(own, weights=weights * column, minlength=count) for column in things.semantic[rows].T],
        axis=1,
    )
    return torch.tensor(classes.things, dtype=torch.int64)[torch.from_numpy(votes.argmax(axis=1))]
