"""What a user knows: Gaussians, or instances, that are one object or are not.

    {"must_link": {"gaussians": [[12, 40]], "instances": [[3, 7]]},
     "cannot_link": {"gaussians": [[5, 77]], "instances": []}}

Gaussians are counted from 0 in the order of the splat's rows, instances from 1 as in labels.json of the same cut
without constraints. A tree is cut again so that all of it holds, see `link`.
"""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gs_lift import _native
from gs_lift.clustering.hierarchy import Ints, Tree
from gs_lift.errors import ConstraintError

KINDS = ("gaussians", "instances")
MAX_BYTES = 1 << 24
"""A larger constraint file is a mistake."""
MOST_NAMED = 8
"""Pairs of a contradiction that are named."""


@dataclass(frozen=True)
class Link:
    """One pair: the two Gaussians that stand for it, and how its author named it."""

    first: int
    second: int
    name: str

    @property
    def pair(self) -> tuple[int, int]:
        return self.first, self.second


@dataclass(frozen=True)
class Constraints:
    """Pairs of Gaussians that must, and that must not, belong to the same instance."""

    must: tuple[Link, ...] = ()
    cannot: tuple[Link, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.must or self.cannot)

    @property
    def must_gaussians(self) -> Ints:
        """All that must be linked to another, ascending."""
        return np.unique([gaussian for one in self.must for gaussian in one.pair]).astype(np.int64)

    @property
    def gaussians(self) -> Ints:
        """All that are named, ascending."""
        return np.unique([gaussian for one in self.must + self.cannot for gaussian in one.pair]).astype(
            np.int64
        )


@dataclass(frozen=True)
class Written:
    """A constraint file as it was written: pairs of numbers by kind."""

    must_link: dict[str, list[tuple[int, int]]]
    cannot_link: dict[str, list[tuple[int, int]]]

    def resolve(self, gaussians: int, labels: Ints, scores: np.ndarray) -> Constraints:
        """Instances become their most certain Gaussians by labels [N] and scores [N] of the cut without constraints.

        Raises ConstraintError for a number that is none of the scene's.
        """
        speakers = _speakers(labels, scores)

        def links(name: str, pairs: dict[str, list[tuple[int, int]]]) -> tuple[Link, ...]:
            result = []
            for kind in KINDS:
                for pair in pairs[kind]:
                    said = f"{name} {kind} {list(pair)}"
                    first, second = (_gaussian(kind, n, said, gaussians, speakers) for n in pair)
                    result.append(Link(first, second, said))
            return tuple(result)

        return Constraints(links("must_link", self.must_link), links("cannot_link", self.cannot_link))


def _speakers(labels: Ints, scores: np.ndarray) -> dict[int, int]:
    """The most certain Gaussian of each instance 1, 2, ... that has any; the first where several are."""
    order = np.lexsort((np.arange(len(labels)), -scores, labels))
    members = order[labels[order] >= 0]
    ids, first = np.unique(labels[members], return_index=True)
    return dict(zip((ids + 1).tolist(), members[first].tolist(), strict=True))


def _gaussian(kind: str, number: int, said: str, gaussians: int, speakers: dict[int, int]) -> int:
    if kind == "gaussians":
        if not 0 <= number < gaussians:
            raise ConstraintError(f"{said}: there are Gaussians 0 to {gaussians - 1}")
        return number
    if number not in speakers:
        raise ConstraintError(f"{said}: there are instances 1 to {max(speakers, default=0)}")
    return speakers[number]


def read_constraints(path: Path) -> Written:
    """A constraint file. Raises ConstraintError for whatever is none."""
    if not path.is_file():
        raise ConstraintError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ConstraintError(f"{path}: {path.stat().st_size} bytes; wanted at most {MAX_BYTES}")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"{path}: not readable as JSON ({error})") from None
    return written_constraints(content, str(path))


def written_constraints(content: Any, source: str) -> Written:
    """What a constraint file holds, already parsed. Raises ConstraintError, naming the source, for whatever is none."""
    if not isinstance(content, dict) or set(content) - {"must_link", "cannot_link"}:
        raise ConstraintError(
            f"{source}: wanted an object with must_link and cannot_link, got {_shown(content)}"
        )
    return Written(*(_pairs(source, name, content.get(name, {})) for name in ("must_link", "cannot_link")))


def _pairs(path: str, name: str, content: Any) -> dict[str, list[tuple[int, int]]]:
    if not isinstance(content, dict) or set(content) - set(KINDS):
        raise ConstraintError(
            f"{path}: {name}: wanted an object with gaussians and instances, got {_shown(content)}"
        )
    result: dict[str, list[tuple[int, int]]] = {}
    for kind in KINDS:
        pairs = content.get(kind, [])
        if not isinstance(pairs, list):
            raise ConstraintError(f"{path}: {name} {kind}: wanted a list of pairs, got {_shown(pairs)}")
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or any(type(number) is not int for number in pair)
            ):
                raise ConstraintError(
                    f"{path}: {name} {kind}: wanted pairs of whole numbers, got {_shown(pair)}"
                )
        result[kind] = [(pair[0], pair[1]) for pair in pairs]
    return result


def _shown(content: Any) -> str:
    return json.dumps(content)[:80]


def link(tree: Tree, rows: Ints, labels: Ints, constraints: Constraints) -> Ints:
    """Labels [T] of the tree's rows, changed so that all constraints hold; rows [T] says which Gaussians they are.

    Single linkage over the tree's edges within each cluster, with what must be together joined first, and no edge that
    would join what must be apart: so a cluster that holds such a pair is cut at the heaviest edge between the two. A
    Gaussian of no instance that must be linked joins alone. Raises ConstraintError, naming the pairs, where that is
    impossible.
    """
    known = constraints.gaussians
    _, inside, place = np.intersect1d(known, rows, assume_unique=True, return_indices=True)
    leaf_of = dict(zip(known[inside].tolist(), tree.leaf[place].tolist(), strict=True))
    must = [
        (link, _leaf(leaf_of, link, link.first), _leaf(leaf_of, link, link.second))
        for link in constraints.must
    ]
    # What can be in no instance is in no other one's either.
    cannot = [
        (link, leaf_of[link.first], leaf_of[link.second])
        for link in constraints.cannot
        if leaf_of.get(link.first, -1) >= 0 and leaf_of.get(link.second, -1) >= 0
    ]
    groups = _groups(len(tree.weights), must, cannot)
    for one, a, b in cannot:
        if groups[a] == groups[b]:
            raise ConstraintError(f"impossible: {one.name}, {_because(one, a, b, must)}")
    leaf_labels = np.full(len(tree.weights), -1, dtype=np.int64)
    leaf_labels[tree.leaf[tree.leaf >= 0]] = labels[tree.leaf >= 0]
    conflicts = np.array([(groups[a], groups[b]) for _, a, b in cannot], dtype=np.int64).reshape(-1, 2)
    components = _native.link_apart(tree.edges, leaf_labels, groups, conflicts)
    linked = np.zeros(len(tree.weights), dtype=bool)
    for _, a, b in must:
        linked[[a, b]] = True
    components = np.where((leaf_labels >= 0) | linked, components, -1)
    return np.append(np.unique(components, return_inverse=True)[1] - int((components < 0).any()), -1)[
        tree.leaf
    ]


def rejoin(rows: Ints, labels: Ints, constraints: Constraints) -> Ints:
    """Labels [T] with the clusters of Gaussians that must be linked made one again, after something cut them."""
    place = {
        gaussian: int(np.searchsorted(rows, gaussian)) for one in constraints.must for gaussian in one.pair
    }
    labels = labels.copy()
    for one in constraints.must:
        a, b = labels[place[one.first]], labels[place[one.second]]
        if a < 0 or b < 0:
            missing = place[one.first] if a < 0 else place[one.second]
            labels[missing] = max(a, b) if max(a, b) >= 0 else labels.max() + 1
            labels[place[one.first]] = labels[place[one.second]] = labels[missing]
        elif a != b:
            labels[labels == b] = a
    return labels


def _leaf(leaf_of: dict[int, int], link: Link, gaussian: int) -> int:
    leaf = leaf_of.get(gaussian, -1)
    if leaf < 0:
        raise ConstraintError(
            f"impossible: {link.name}: Gaussian {gaussian} can belong to no instance (it is no thing, or was not seen)"
        )
    return leaf


def _groups(count: int, must: list[tuple[Link, int, int]], cannot: list[tuple[Link, int, int]]) -> Ints:
    """[L] a number for each set of leaves that must be together, -1 for leaves in no constraint."""
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    ends = np.array([(a, b) for _, a, b in must], dtype=np.int64).reshape(-1, 2)
    graph = scipy.sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    groups = connected_components(graph, directed=False)[1].astype(np.int64)
    named = np.zeros(count, dtype=bool)
    for _, a, b in [*must, *cannot]:
        named[[a, b]] = True
    return np.where(named, groups, -1)


def _because(cannot: Link, a: int, b: int, must: list[tuple[Link, int, int]]) -> str:
    """The chain of must-links from leaf a to leaf b, in words."""
    if a == b:
        return (
            "but their embeddings are equal" if cannot.first != cannot.second else "but that is one Gaussian"
        )
    ties: dict[int, list[tuple[int, Link]]] = {}
    for one, left, right in must:
        ties.setdefault(left, []).append((right, one))
        ties.setdefault(right, []).append((left, one))
    came: dict[int, tuple[int, Link]] = {}
    waiting = deque([a])
    while waiting and b not in came:
        at = waiting.popleft()
        for there, one in ties[at]:
            if there not in came and there != a:
                came[there] = (at, one)
                waiting.append(there)
    names, at = [], b
    while at != a:
        at, one = came[at]
        names.append(one.name)
    if len(names) > MOST_NAMED:
        names[MOST_NAMED // 2 : -(MOST_NAMED // 2)] = [f"{len(names) - MOST_NAMED} more"]
    return f"but {', '.join(reversed(names))} tie{'s' * (len(names) == 1)} them together"
