"""What a user has corrected: edits of a run's objects that outlast every re-cut.

edits.json of a run holds them in order, those that were undone apart:

    {"splat": "<digest>", "edits": [
      {"said": "merge 3, 7", "must_link": [[12], [40]]},
      {"said": "split 5", "cannot_link": [[5, 6], [77]]},
      {"said": "name of 4: mug", "gaussians": [88, 90], "name": "mug"},
      {"said": "class of 4: chair", "gaussians": [88, 90], "class": "chair"},
      {"said": "delete 9", "delete": [9, 301], "count": 250}],
     "undone": []}

They name Gaussians, rows of the splat counted from 0, since an object's number means something in one cut only. Where
two contradict each other, the later one holds: see `Edits.constraints`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gs_lift.clustering import Constraints
from gs_lift.clustering.constraints import Link
from gs_lift.clustering.hierarchy import Ints
from gs_lift.clustering.instances import NOBODY
from gs_lift.errors import ConstraintError
from gs_lift.files import write_text_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Instances, Parts
from gs_lift.words import clean

MAX_BYTES = 1 << 26
"""A larger edits.json is a mistake."""

MOST_PAIRS, MOST_TIES = 500_000, 5_000
"""Pairs of Gaussians that splits may hold apart, and that merges may tie, in all."""

MUST, CANNOT, NAME, CLASS, DELETE = "must_link", "cannot_link", "name", "class", "delete"


@dataclass(frozen=True)
class Edit:
    """One correction.

    kind: MUST, CANNOT, NAME, CLASS or DELETE. said: in the words of whoever made it. groups: the Gaussians that it is
    about: MUST: each group and the first one are one object, tied by the first Gaussian of each; CANNOT: no two groups
    are; else a single group: a sample of the object, for DELETE of one that had `count` Gaussians. text: the name,
    None = no longer any, or the class.
    """

    kind: str
    said: str
    groups: tuple[tuple[int, ...], ...]
    text: str | None = None
    count: int = 0

    def to_json(self) -> dict[str, Any]:
        groups = [list(group) for group in self.groups]
        content: dict[str, Any] = {"said": self.said}
        if self.kind in (MUST, CANNOT):
            return content | {self.kind: groups}
        if self.kind == DELETE:
            return content | {DELETE: groups[0], "count": self.count}
        return content | {"gaussians": groups[0], self.kind: self.text}


@dataclass(frozen=True)
class Edits:
    """Those that hold, in the order in which they were made, and those that were undone, the last one last."""

    done: tuple[Edit, ...] = ()
    undone: tuple[Edit, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.done)

    def and_then(self, *edits: Edit) -> "Edits":
        """With more of them; what was undone can no longer be redone. Raises ConstraintError where it is too much."""
        more = self.done + edits
        if problem := _too_much(more):
            raise ConstraintError(f"{edits[-1].said if edits else 'edits'}: {problem}")
        return Edits(more, ())

    def undo(self) -> "Edits":
        """Without the last one. Raises ConstraintError where there is none."""
        if not self.done:
            raise ConstraintError("undo: nothing was edited")
        return Edits(self.done[:-1], (*self.undone, self.done[-1]))

    def redo(self) -> "Edits":
        """With the last one that was undone. Raises ConstraintError where there is none."""
        if not self.undone:
            raise ConstraintError("redo: nothing was undone")
        return Edits((*self.done, self.undone[-1]), self.undone[:-1])

    def constraints(self) -> Constraints:
        """The pairs that must, and must not, be one object.

        A later edit wins: what it ties together is no longer held apart; what it holds apart is no longer tied by the
        latest of the ties between the two.
        """
        ties = _Ties()
        cannot: list[Link] = []
        for edit in self.done:
            if edit.kind == MUST:
                # The other Gaussians of a group are what an earlier split held apart there.
                first, *others = (group[0] for group in edit.groups)
                for other in others:
                    ties.tie(Link(first, other, edit.said))
                named = {one for group in edit.groups for one in group}

                def root(one: int, of: int = first, named: frozenset[int] = frozenset(named)) -> int:
                    return ties.root(of if one in named else one)

                cannot = [one for one in cannot if root(one.first) != root(one.second)]
            elif edit.kind == CANNOT:
                pairs = [pair for one, other in combinations(edit.groups, 2) for pair in product(one, other)]
                for first, second in pairs:
                    ties.untie(first, second)
                cannot += [Link(first, second, edit.said) for first, second in pairs]
        return Constraints(tuple(ties.links), tuple(cannot))

    def names(self, labels: Int[Tensor, "N"]) -> dict[int, str]:
        """Instance -> its name, of those that have one."""
        return {one: text for one, text in self._texts(NAME, labels).items() if text}

    def applied(self, instances: Instances, free: Instances, classes: Classes) -> Instances:
        """`instances` of a cut by `constraints`, with what constraints cannot say, numbered as in `free`, the same cut
        without any: an instance keeps its number while most of it is there; a number may be left without Gaussians."""
        labels = self._without_deleted(instances.labels)
        split = [edit.groups for edit in self.done if edit.kind == CANNOT]
        number = _numbers(free.labels.numpy(), labels.numpy(), split, (len(free), len(instances)))
        count = max(len(free), int(number.max(initial=NOBODY)) + 1)
        semantic = np.concatenate([free.classes.numpy(), np.zeros(count - len(free), dtype=np.int64)])
        kept = np.flatnonzero(number != NOBODY)
        semantic[number[kept]] = instances.classes.numpy()[kept]
        numbered = torch.from_numpy(np.append(number, NOBODY)[labels.numpy()])
        for one, name in self._texts(CLASS, numbered).items():
            if name in classes.names:
                semantic[one] = classes.names.index(name)
        return replace(
            instances,
            labels=numbered,
            scores=torch.where(numbered >= 0, instances.scores, 0.0),
            classes=torch.from_numpy(semantic),
            parts=None if instances.parts is None else _parts_of(instances.parts, number),
        )

    def _texts(self, kind: str, labels: Int[Tensor, "N"]) -> dict[int, str | None]:
        """Instance -> text: each goes to the instance that has most of its Gaussians."""
        texts = {}
        for edit in self.done:
            if edit.kind == kind:
                own = labels[torch.tensor(edit.groups[0])]
                if len(own := own[own >= 0]):
                    texts[int(torch.bincount(own).argmax())] = edit.text
        return texts

    def _without_deleted(self, labels: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Instances of which a deleted object is the half or more belong to nobody: a coarser cut may have made it a
        small part of something else, a finer one several."""
        sizes = torch.bincount(labels[labels >= 0])
        for edit in self.done:
            if edit.kind != DELETE:
                continue
            sample = labels[torch.tensor(edit.groups[0])]
            inside = torch.bincount(sample[sample >= 0], minlength=len(sizes)) / len(sample) * edit.count
            gone = torch.nonzero((inside > 0) & (inside >= sizes / 2))[:, 0]
            labels = torch.where(torch.isin(labels, gone), -1, labels)
        return labels


class _Ties:
    """Links that tie Gaussians together, one way between any two: a forest."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self._parent: dict[int, int] = {}

    def root(self, one: int) -> int:
        """The same for all that are tied together."""
        while (above := self._parent.get(one, one)) != one:
            self._parent[one] = one = self._parent.get(above, above)
        return one

    def tie(self, link: Link) -> None:
        first, second = self.root(link.first), self.root(link.second)
        if first != second:
            self.links.append(link)
            self._parent[second] = first

    def untie(self, first: int, second: int) -> None:
        """Take away the latest of the links on the way from one to the other, if there is one."""
        if self.root(first) != self.root(second):
            return
        near: dict[int, list[int]] = {}
        for number, link in enumerate(self.links):
            for one in link.pair:
                near.setdefault(one, []).append(number)
        came: dict[int, tuple[int, int]] = {first: (first, -1)}
        waiting = [first]
        while second not in came:
            one = waiting.pop()
            for number in near.get(one, []):
                a, b = self.links[number].pair
                other = b if one == a else a
                if other not in came:
                    came[other] = (one, number)
                    waiting.append(other)
        way, at = [], second
        while at != first:
            at, number = came[at]
            way.append(number)
        kept = [link for number, link in enumerate(self.links) if number != max(way)]
        self.links, self._parent = [], {}
        for link in kept:
            self.tie(link)


def _too_much(edits: Sequence[Edit]) -> str | None:
    """What is over a limit, in words: all of them must stay quick to apply."""
    sizes = [[len(group) for group in edit.groups] for edit in edits if edit.kind == CANNOT]
    pairs = sum((sum(some) ** 2 - sum(size**2 for size in some)) // 2 for some in sizes)
    ties = sum(len(edit.groups) - 1 for edit in edits if edit.kind == MUST)
    if pairs > MOST_PAIRS:
        return f"{pairs} pairs to be held apart; wanted at most {MOST_PAIRS}"
    return f"{ties} ties; wanted at most {MOST_TIES}" if ties > MOST_TIES else None


def _numbers(
    free: Ints, labels: Ints, split: Sequence[tuple[tuple[int, ...], ...]], counts: tuple[int, int]
) -> Ints:
    """[M] The number of each instance of `labels` [N], NOBODY for those without Gaussians: that of the one of `free`
    [N] that it shares most with, each taken once, large shares first; then new ones. counts: instances of both.

    Each split into k groups has k - 1 new numbers of its own, used or not, in order: so a later edit moves none of
    them. Behind them, those that are new for another reason, by size.
    """
    before, count = counts
    sizes = np.bincount(labels[labels != NOBODY], minlength=count)
    number = np.full(count, NOBODY)
    both = np.flatnonzero((labels != NOBODY) & (free != NOBODY))
    keys, shared = np.unique(labels[both] * max(before, 1) + free[both], return_counts=True)
    taken: set[int] = set()
    for key in keys[np.argsort(-shared, kind="stable")].tolist():
        one, old = divmod(key, before)
        if number[one] == NOBODY and old not in taken:
            number[one] = old
            taken.add(old)
    following = before
    for groups in split:
        fresh = following
        for group in groups:
            one = labels[group[0]]
            if one != NOBODY and number[one] == NOBODY and fresh < following + len(groups) - 1:
                number[one] = fresh
                fresh += 1
        following += len(groups) - 1
    for one in np.argsort(-sizes, kind="stable").tolist():
        if sizes[one] and number[one] == NOBODY:
            number[one] = following
            following += 1
    return number


def _parts_of(parts: Parts, number: Ints) -> Parts:
    """Those of the instances that have a `number` [M], under it."""
    instance = np.append(number, NOBODY)[parts.instance.numpy()]
    kept = np.flatnonzero(instance != NOBODY)
    place = np.full(len(parts) + 1, NOBODY)
    place[kept] = np.arange(len(kept))
    return Parts(
        instance=torch.from_numpy(instance[kept]),
        parent=torch.from_numpy(place[parts.parent.numpy()[kept]]),
        granularity=parts.granularity[torch.from_numpy(kept)],
        labels=torch.from_numpy(place[parts.labels.numpy()]),
    )


def splat_digest(gaussians: Gaussians) -> str:
    """Of the centres: edits name rows, and are worth nothing for another splat."""
    means = np.ascontiguousarray(gaussians.means.detach().cpu().numpy())
    return hashlib.blake2b(means.tobytes(), digest_size=8).hexdigest()


def write_edits(path: Path, edits: Edits, splat: str) -> None:
    """splat: digest of the one whose rows they name. One edit a line."""
    lists = {
        name: ",\n  ".join(json.dumps(edit.to_json(), ensure_ascii=False) for edit in some)
        for name, some in (("edits", edits.done), ("undone", edits.undone))
    }
    text = ",\n ".join(
        f'"{name}": [' + (f"\n  {rows}\n " if rows else "") + "]" for name, rows in lists.items()
    )
    write_text_atomic(path, f'{{"splat": "{splat}",\n {text}}}\n')


def read_edits(path: Path, gaussians: int, splat: str | None = None) -> Edits:
    """Of a splat of so many Gaussians; none where there is no file. Raises ConstraintError for whatever is none."""
    if not path.exists():
        return Edits()
    if path.stat().st_size > MAX_BYTES:
        raise ConstraintError(f"{path}: {path.stat().st_size} bytes; wanted at most {MAX_BYTES}")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"{path}: not readable as JSON ({error}); mend it, or move it away") from None
    if not isinstance(content, dict) or "splat" not in content or set(content) - {"splat", "edits", "undone"}:
        raise ConstraintError(f"{path}: wanted an object with splat, edits and undone")
    if splat is not None and content["splat"] != splat:
        raise ConstraintError(
            f"{path}: of another splat than the run's ({clean(str(content['splat']))} -> {splat}), whose rows are "
            "others; move it away"
        )
    return Edits(*(_read_list(path, name, content.get(name, []), gaussians) for name in ("edits", "undone")))


def _read_list(path: Path, name: str, content: Any, gaussians: int) -> tuple[Edit, ...]:
    if not isinstance(content, list):
        raise ConstraintError(f"{path}: {name}: wanted a list")
    result = []
    for place, one in enumerate(content, start=1):
        edit = edit_from_json(one) if isinstance(one, dict) else None
        if edit is None:
            raise ConstraintError(f"{path}: {name}, entry {place}: not an edit: {json.dumps(one)[:80]}")
        if not all(0 <= gaussian < gaussians for group in edit.groups for gaussian in group):
            raise ConstraintError(f"{path}: {name}, entry {place}: there are Gaussians 0 to {gaussians - 1}")
        result.append(edit)
    if problem := _too_much(result):
        raise ConstraintError(f"{path}: {name}: {problem}")
    return tuple(result)


def edit_from_json(content: dict[str, Any]) -> Edit | None:
    """The way back from `Edit.to_json`; None for what is no edit."""
    said = content.get("said", "")
    for kind, least in ((MUST, 2), (CANNOT, 2), (DELETE, 1)):
        if kind not in content:
            continue
        groups = [content[kind]] if kind == DELETE else content[kind]
        if not isinstance(groups, list) or len(groups) < least or not all(map(_is_group, groups)):
            return None
        count = content.get("count", 0)
        if type(count) is not int or not isinstance(said, str):
            return None
        return Edit(kind, clean(said), tuple(map(tuple, groups)), count=count)
    group = content.get("gaussians")
    kind = NAME if NAME in content else CLASS
    text = content.get(kind)
    usable = isinstance(text, str) or (kind == NAME and text is None)
    if kind not in content or not _is_group(group) or not usable or not isinstance(said, str):
        return None
    return Edit(kind, clean(said), (tuple(content["gaussians"]),), clean(text) if text is not None else None)


def _is_group(group: Any) -> bool:
    return isinstance(group, list) and bool(group) and all(type(one) is int for one in group)
