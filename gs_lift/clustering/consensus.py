"""Clusters that the segments of all views agree on.

Notation: T Gaussians of things; S segments of things in V views; n nodes, each a few Gaussians that are alike in
embedding and place; group: a node, or several that were joined.

HDBSCAN follows the density of the embeddings, and an object that few views segment has little of it: it ends as noise,
though those views agree on it. Here nodes are joined by how often the segments put them together, with the clusters of
the embedding as a few views more: they know of what no view shows together, such as front and back of an object.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from gs_lift import _native
from gs_lift.clustering.hierarchy import Floats, Ints
from gs_lift.clustering.instances import NOBODY, Things
from gs_lift.clustering.regions import Regions
from gs_lift.sparse import Sparse, one_hot
from gs_lift.threads import kernel_threads

OF_A_NODE = 20
"""Most Gaussians of a node to begin with. Half as many found no more, twice as many missed small objects."""
PLACE = 4.0
"""Weight of place against embedding, each by its spread, in what makes a node; 1 and 10 score alike."""
ROUNDS = 8
"""Of k-means; 30 score alike."""
AT_ONCE = 1 << 17
"""Points that are halved together: bounds memory."""
DOUBT = 0.2
"""How much a view parts two nodes where one is in a segment and the other in stuff: segmenters miss objects."""
PRIOR = 2.0
"""Views that part any two nodes from the start, so that one that sees them together is not enough."""
TRUST = 0.5
"""Segments that put two nodes together count so much more where one cluster of the embedding holds both. Real
segmenters cut objects to pieces (messy_sam_50: 0 .755, .5 .780, 1 .779), simulated ones err less that way
(messy_noise_100: .769, .751, .735)."""
LEAST = 1 / 12
"""Agreement of granularity 0: what is below is of no use."""


def wanted_agreement(granularity: float) -> float:
    """Least agreement of what is one instance: 1/12, 1/4, 3/4 at granularity 0, 1/2, 1."""
    return LEAST * 9.0**granularity


def granularity_beyond(agreement: Floats) -> Floats:
    """The granularity from which on that much agreement is too little, at least 0."""
    return np.maximum(np.log(np.maximum(agreement, LEAST) / LEAST) / np.log(9.0), 0.0)


@dataclass(frozen=True)
class Joins:
    """How nodes come together: all that another cut needs.

    node: [T] of each Gaussian. clusters: [T] those of the embedding that took part, weight: [] as so many views.
    pairs: [M 2] nodes and groups that join; group n + i is made by the i-th pair. agreement: [M] of the two.
    """

    node: Ints
    clusters: Ints
    pairs: Ints
    agreement: Floats
    weight: Floats

    @classmethod
    def saved(cls, arrays: Mapping[str, Any]) -> "Joins | None":
        names = [each.name for each in fields(cls)]
        return cls(**{name: arrays[name].numpy() for name in names}) if "pairs" in arrays else None

    @property
    def holds(self) -> Floats:
        """[n + M] The greatest agreement that may be wanted for each group to stand: the least of all joins within."""
        nodes = int(self.node.max(initial=-1)) + 1
        result = np.concatenate([np.full(nodes, np.inf), self.agreement])
        for group, (one, other) in enumerate(self.pairs.tolist(), start=nodes):
            result[group] = min(result[group], result[one], result[other])
        return result

    def cut(self, wanted: float) -> Ints:
        """[T] The largest group of each Gaussian that stands on joins of the agreement `wanted`."""
        return top_groups(self.pairs, self.holds >= wanted)[self.node]


def top_groups(pairs: Ints, stands: NDArray[np.bool_]) -> Ints:
    """[n + M] The largest group that each group is in, of those that stand; a part of one that stands does so too."""
    top = np.arange(len(stands))
    nodes = len(stands) - len(pairs)
    for group, pair in enumerate(pairs.tolist(), start=nodes):
        if stands[group]:
            top[pair] = group
    for group in range(len(top) - 1, -1, -1):
        top[group] = top[top[group]]
    return top


def join_nodes(
    regions: Regions, things: Things, clusters: Ints, weight: float, node: Ints | None = None
) -> Joins:
    """Nodes and how they join, with the embedding's `clusters` [T] as views of that `weight` in which all is seen.

    node: [T] as it was made before, None = make it.
    """
    node = nodes_of(things) if node is None else node
    count = int(node.max(initial=-1)) + 1
    things_in, shown = _shares(regions, node, count)
    told = _told(things, clusters, node, count, weight)
    told_in_all = np.asarray(told.sum(axis=1)).ravel()
    shown = shown.with_view(np.flatnonzero(told_in_all), told_in_all)
    segments = scipy.sparse.vstack([things_in, told.T.tocsr()], format="csr")
    first_told = things_in.shape[0]
    del things_in, told  # the kernel's own tables are as large
    pairs, agreement = _native.agglomerate(
        count,
        segments.indptr.astype(np.int64),
        segments.indices.astype(np.int32, copy=False),
        segments.data,
        first_told,
        *(shown.indptr, shown.nodes, shown.inside, shown.outside),
        DOUBT,
        PRIOR,
        LEAST,
        TRUST / weight if weight > 0 else 0.0,
        kernel_threads(),
    )
    return Joins(node, clusters, pairs, agreement, np.array(float(weight)))


@dataclass(frozen=True)
class Shown:
    """The nodes that each view shows, in compressed rows: how far each lies in any of its segments, and in stuff."""

    indptr: Ints
    nodes: NDArray[np.int32]
    inside: NDArray[np.float32]
    outside: NDArray[np.float32]

    def with_view(self, nodes: Ints, inside: Floats) -> "Shown":
        """And one more view, of `nodes`, without stuff; inside: [n] of all nodes."""
        return Shown(
            np.append(self.indptr, self.indptr[-1] + len(nodes)),
            np.append(self.nodes, nodes.astype(np.int32)),
            np.append(self.inside, inside[nodes].astype(np.float32)),
            np.append(self.outside, np.zeros(len(nodes), dtype=np.float32)),
        )


def _shares(regions: Regions, node: Ints, count: int) -> tuple[Sparse, Shown]:
    """[S n] how far the nodes lie in the segments, and in all of each view's; node: [T] below `count`."""
    cover = regions.cover(node, count)
    things_in, stuff, seen = cover.things, cover.stuff, cover.seen
    seen.sort_indices()
    # A product of two nodes' entries shall count a view by the geometric mean of how well both are seen: in full from
    # the mean on, whatever the size of the images. 2 and 4 times the mean score alike.
    enough = max(float(seen.data.sum() / max(regions.views * count, 1)), 1e-9)
    inside, outside = (np.empty(len(seen.data), dtype=np.float32) for _ in range(2))
    scale = np.zeros(count)
    bounds = np.searchsorted(regions.view, np.arange(regions.views + 1))
    for view, (begin, end) in enumerate(pairwise(bounds)):
        own, own_stuff = (slice(*one.indptr[view : view + 2]) for one in (seen, stuff))
        segments = slice(*things_in.indptr[[begin, end]])
        nodes, pixels = seen.indices[own], seen.data[own]
        scale[nodes] = np.sqrt(np.minimum(pixels, enough) / enough) / np.maximum(pixels, 1e-9)
        things_in.data[segments] *= scale[things_in.indices[segments]]
        in_segments = np.bincount(things_in.indices[segments], things_in.data[segments], minlength=count)
        in_stuff = np.bincount(stuff.indices[own_stuff], stuff.data[own_stuff], minlength=count)
        inside[own], outside[own] = in_segments[nodes], in_stuff[nodes] * scale[nodes]
    return things_in, Shown(
        seen.indptr.astype(np.int64), seen.indices.astype(np.int32, copy=False), inside, outside
    )


def _told(things: Things, clusters: Ints, node: Ints, count: int, weight: float) -> Sparse:
    """[n C] the share of each node's weight in each cluster, times the root of what clusters weigh as a view."""
    member = one_hot(node, count).T.tocsr()
    shares = (
        member
        @ scipy.sparse.diags_array(things.weights)
        @ one_hot(clusters, int(clusters.max(initial=-1)) + 1)
    )
    total = member @ things.weights
    return scipy.sparse.diags_array(np.sqrt(weight) / np.maximum(total, 1e-9)) @ shares


def nodes_of(things: Things) -> Ints:
    """[T] node of each: k-means of embedding and place, begun by halving along the widest side."""
    if not len(things):
        return np.zeros(0, dtype=np.int64)
    points = np.concatenate([_by_spread(things.fast), PLACE * _by_spread(things.means)], axis=1)
    vectors = points.astype(np.float32)
    node = halves(points, OF_A_NODE)
    for _ in range(ROUNDS):
        sizes = np.bincount(node)
        centers = (one_hot(node, len(sizes)).T @ points)[sizes > 0] / sizes[sizes > 0][:, None]
        own = (np.cumsum(sizes > 0) - 1)[node]  # a near one to begin with
        node = _native.nearest_centers_from(
            vectors, centers.astype(np.float32), own.astype(np.int32), kernel_threads()
        ).astype(np.int64)
    return np.unique(node, return_inverse=True)[1]


def _by_spread(points: Floats) -> Floats:
    off = points - points.mean(axis=0)
    return off / max(float(np.sqrt((off**2).sum(axis=1).mean())), 1e-12)


def halves(points: Floats, size: int) -> Ints:
    """[T] group of each of points [T D]: groups are halved along their widest side until none has more than `size`."""
    groups = np.empty(len(points), dtype=np.int64)
    count, waiting = 0, [np.arange(len(points))]
    while waiting:
        order = waiting.pop()
        order, starts = _halved(points, order, size, 1 if len(order) > AT_ONCE else len(order))
        if len(order) > AT_ONCE and len(starts) > 2:
            waiting += [order[starts[1] :], order[: starts[1]]]  # the first is done first
            continue
        groups[order] = count + np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        count += len(starts) - 1
    return groups


def _halved(points: Floats, order: Ints, size: int, rounds: int) -> tuple[Ints, Ints]:
    """Rows `order` of the points in the order of their groups after so many rounds, and where each group starts."""
    starts = np.array([0, len(order)])
    while rounds > 0 and (big := np.diff(starts) > size).any():
        rounds -= 1
        counts = np.diff(starts)
        group, placed = np.repeat(np.arange(len(counts)), counts), points[order]
        mean = np.add.reduceat(placed, starts[:-1]) / counts[:, None]
        placed -= mean[group]
        placed *= placed
        widest = np.add.reduceat(placed, starts[:-1]).argmax(axis=1)
        along = points[order, widest[group]]
        order = order[np.lexsort((order, np.where(big[group], along, 0), group))]
        starts = np.unique(np.concatenate([starts, (starts[:-1] + (counts + 1) // 2)[big]]))
    return order, starts


def drop_light(things: Things, labels: Ints, least: float) -> Ints:
    """Labels of groups 0, 1, ... without those that weigh less than `least`."""
    used, labels = np.unique(labels, return_inverse=True)
    heavy = np.bincount(labels, weights=things.weights, minlength=len(used)) >= least
    number = np.where(heavy, np.cumsum(heavy) - 1, NOBODY)
    return number[labels]
