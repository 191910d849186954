"""A run under correction: its objects merged, split, named, deleted; every step saved, undone and redone at will."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_lift.block_runs import block_runs, in_blocks
from gs_lift.clustering import ClusterConfig
from gs_lift.clustering.hierarchy import Ints
from gs_lift.edits import (
    CANNOT,
    CLASS,
    DELETE,
    MUST,
    NAME,
    Edit,
    Edits,
    read_edits,
    splat_digest,
    write_edits,
)
from gs_lift.errors import ConfigError, ConstraintError, RunError, suggestion
from gs_lift.evaluation import Areas
from gs_lift.files import locked
from gs_lift.gaussians import Gaussians
from gs_lift.pipeline import (
    Reporter,
    SilentReporter,
    read_embeddings,
    read_gaussians,
    read_scene,
    read_segmentation,
    segment_run,
    write_cut,
    write_segmentation,
)
from gs_lift.recipe import Recipe
from gs_lift.run import Run
from gs_lift.segmentation import Classes, Embeddings, Instances
from gs_lift.threads import torch_on_one_thread
from gs_lift.words import LONGEST, clean, listed

SEEDS = 16
"""Gaussians that stand for a part that is split off: one alone may lie on a border."""

SAMPLE = 64
"""Gaussians by which a deleted object is known again."""

LEAST_PART = 0.1
"""Share of an object that its second largest part has at least, if it is to be split into its parts."""

ROUNDS = 20
"""Of 2-means, at most."""


def parse_ids(text: str) -> list[int]:
    """Of "3,7". Raises ConfigError."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})+", text):
        raise ConfigError(f"--merge {text}: wanted ids with commas between, for example 3,7")
    return [int(one) for one in text.split(",")]


def parse_split(text: str) -> tuple[int, list[int]]:
    """Of "5", or "5:120,4000" with places. Raises ConfigError."""
    if not re.fullmatch(r"\d{1,9}(:\d{1,9}(,\d{1,9})+)?", text):
        raise ConfigError(f"--split {text}: wanted an id, or one with Gaussians of it: 5:120,4000")
    one, _, places = text.partition(":")
    return int(one), [int(place) for place in places.split(",") if place]


def parse_assignment(option: str, text: str) -> tuple[int, str]:
    """Of "4=mug". Raises ConfigError, naming the option."""
    number, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\d{1,9}", number):
        raise ConfigError(f"{option} {text}: wanted an id and what it gets, for example 4=mug")
    return int(number), value


class Editor:
    """A segmented run in memory: Gaussians, embeddings, scene and the last cut.

    Methods that end in -ing make an Edit of objects as they are now, numbered from 1, and change nothing: `do` does, in
    memory; the run itself changes by `save`, the labels.ply that was made of it by `write_outputs`.
    Raises ConfigError for an object that is not there, ConstraintError for what cannot be.
    """

    def __init__(self, run: Run, *, reporter: Reporter | None = None):
        if in_blocks(run):
            first = block_runs(run)[0].folder
            raise RunError(
                f"{run.folder}: was lifted in blocks, which are looked at and edited one by one: wanted {first} or "
                f"another one there; then gslift segment {run.folder} joins them"
            )
        self.run, self.config = run, run.config
        self._free: Instances | None = None
        self._areas: Areas | None = None
        try:
            self.instances = segment_run(run, reporter=reporter)
        except ConstraintError as error:
            # What the edits ask for can no longer be, or contradicts a constraint file: so that they can be undone,
            # the run opens all the same.
            (reporter or SilentReporter()).say(f"note: the edits do not hold: {error}")
            self.instances = read_segmentation(run)[0]
        self.gaussians, self.embeddings, self.scene = (
            read_gaussians(run),
            read_embeddings(run),
            read_scene(run),
        )
        self._made_of, self._splat = _stamps(run), splat_digest(self.gaussians)
        self._saved = self._edits_on_disk()
        self.recipe = self._saved_recipe()

    @property
    def edits(self) -> Edits:
        return self.recipe.edits

    @property
    def names(self) -> dict[int, str]:
        """Instance, from 0 -> its name."""
        return self.edits.names(self.instances.labels)

    # ---- what an edit would be

    def merging(self, ids: Sequence[int]) -> Edit:
        """Objects `ids` are one."""
        if len(set(ids)) < 2:
            raise ConfigError(f"merge {', '.join(map(str, ids)) or 'nothing'}: wanted two objects or more")
        apart = {end for link in self.edits.constraints().cannot for end in link.pair}
        groups = tuple(
            (self._speaker(one), *sorted(apart.intersection(self._members(one).tolist())))
            for one in dict.fromkeys(ids)
        )
        return Edit(MUST, f"merge {', '.join(map(str, dict.fromkeys(ids)))}", groups)

    def splitting(self, one: int, places: Sequence[int] = ()) -> Edit:
        """Object `one` is several: what lies around each of the Gaussians `places`; without them what it was merged
        from last, else its parts by the tree, else its two halves by embedding and place."""
        members = self._members(one)
        said = f"split {one}"
        if places:
            if len(set(places)) < 2 or not np.isin(places, members).all():
                raise ConfigError(f"{said}: wanted two places or more that belong to it")
            return Edit(CANNOT, said, self._around(members, list(dict.fromkeys(places))))
        inside = set(members.tolist())
        ties = [link for link in self.edits.constraints().must if inside.issuperset(link.pair)]
        if ties:
            return Edit(CANNOT, said, tuple((end,) for end in ties[-1].pair))
        parts = sorted(self._parts(one - 1), key=len, reverse=True)
        if len(parts) < 2 or len(parts[1]) < LEAST_PART * len(members):
            parts = self._halves(members)
        if len(parts) < 2:
            raise ConfigError(f"{said}: it has {len(members)} Gaussian, nothing to split")
        each = max(1, 2 * SEEDS // len(parts))
        return Edit(CANNOT, said, tuple(self._surest(part, each) for part in parts))

    def naming(self, one: int, name: str) -> Edit:
        """Object `one` is called so; an empty name takes its name away."""
        if len(name) > LONGEST:
            raise ConfigError(f"name {one}: {len(name)} letters; wanted at most {LONGEST}")
        name = clean(name)
        said = f"name of {one}: {name}" if name else f"no name for {one}"
        return Edit(NAME, said, (self._surest(self._members(one), SEEDS),), name or None)

    def classing(self, one: int, name: str) -> Edit:
        """Object `one` is of that class of things."""
        things = [self.scene.classes.names[thing] for thing in self.scene.classes.things]
        if name not in things:
            raise ConfigError(
                f"class {one}={name}: no such class of things; one of: {', '.join(things)} (a --name may be any word)."
                f"{suggestion(name, things)}"
            )
        return Edit(CLASS, f"class of {one}: {name}", (self._surest(self._members(one), SEEDS),), name)

    def deleting(self, one: int) -> Edit:
        """Object `one` is none: its Gaussians belong to nobody."""
        members = self._members(one)
        sample = members[np.linspace(0, len(members) - 1, min(len(members), SAMPLE)).astype(np.int64)]
        return Edit(DELETE, f"delete {one}", (tuple(sample.tolist()),), count=len(members))

    def outcome(self, edit: Edit) -> str:
        """An edit that was just made, in words, with the ids that its objects have now."""
        if edit.kind not in (MUST, CANNOT):
            return edit.said
        named = [group[0] for group in edit.groups]
        ids = sorted({int(self.instances.labels[gaussian]) + 1 for gaussian in named} - {0})
        return f"{edit.said} -> {listed(ids)}"

    @property
    def summary(self) -> str:
        """How much there is, in words."""
        objects, edits = len(self.instances.present), len(self.edits.done)
        return f"{objects} object{'s' * (objects != 1)}, {edits} edit{'s' * (edits != 1)}"

    def edits_of(
        self,
        merge: Sequence[str],
        split: Sequence[str],
        name: Sequence[str],
        classes: Sequence[str],
        delete: Sequence[int],
    ) -> list[Edit]:
        """As the options of `gslift edit` say them, all of objects as they are now. Raises ConfigError."""
        merged, parted = [parse_ids(one) for one in merge], [parse_split(one) for one in split]
        touched = {one for ids in merged for one in ids} | {one for one, _ in parted}
        if both := touched.intersection(delete):
            raise ConfigError(
                f"--delete {min(both)}: is merged or split by the same command; wanted one of both"
            )
        return [
            *(self.merging(ids) for ids in merged),
            *(self.splitting(one, places) for one, places in parted),
            *(self.naming(*parse_assignment("--name", one)) for one in name),
            *(self.classing(*parse_assignment("--class", one)) for one in classes),
            *(self.deleting(one) for one in delete),
        ]

    # ---- what changes them, in memory until `save`

    def do(self, *edits: Edit) -> None:
        """Make edits, in that order."""
        self._set(replace(self.recipe, edits=self.edits.and_then(*edits)))

    def undo(self) -> Edit:
        """Take the last edit back."""
        self._set(replace(self.recipe, edits=self.edits.undo()))
        return self.edits.undone[-1]

    def redo(self) -> Edit:
        """Make the edit again that was undone last."""
        self._set(replace(self.recipe, edits=self.edits.redo()))
        return self.edits.done[-1]

    def cut(self, changes: dict[str, Any]) -> None:
        """Cut the tree again by other settings; the edits stay."""
        before, self._free = self._free, None
        try:
            self._set(replace(self.recipe, changes=changes))
        except BaseException:
            self._free = before
            raise

    @torch_on_one_thread()
    def _set(self, recipe: Recipe) -> None:
        given = self._given
        self._free = self._free or recipe.free(*given)
        self.instances, self.recipe = recipe.instances(*given, free=self._free), recipe

    @property
    def _given(self) -> tuple[Instances, Embeddings, Gaussians, Classes, ClusterConfig]:
        return self.instances, self.embeddings, self.gaussians, self.scene.classes, self.config.cluster

    def save(self) -> None:
        """Make edits and cut those of the run; edits first: `segment` would make the same cut of them.

        Raises RunError, and changes nothing, where somebody else has edited the run since it was read, or made it anew.
        """
        with locked(self.run.folder):
            if self._made_of != _stamps(self.run):
                raise RunError(f"{self.run.folder}: was made anew meanwhile; open it again")
            if self.edited_elsewhere():
                raise RunError(f"{self.run.edits}: edited by somebody else meanwhile; look, and do it again")
            write_edits(self.run.edits, self.edits, self._splat)
            self._saved = self.edits
            write_segmentation(self.run, self.instances, self.recipe)

    def edited_elsewhere(self) -> bool:
        """Whether the run's edits are others than those that were read or saved last."""
        return self._edits_on_disk() != self._saved

    def reload(self) -> None:
        """Read the edits and the cut again, as somebody else has made them. Raises RunError for a run made anew."""
        if self._made_of != _stamps(self.run):
            raise RunError(f"{self.run.folder}: was made anew meanwhile; open it again")
        self.instances = segment_run(self.run)
        self._saved = self._edits_on_disk()
        self.recipe, self._free = self._saved_recipe(), None

    def _edits_on_disk(self) -> Edits:
        return read_edits(self.run.edits, len(self.gaussians), self._splat)

    def _saved_recipe(self) -> Recipe:
        """Of the last cut, with the edits from their own file: the cut does not know what was undone."""
        return replace(read_segmentation(self.run)[1], edits=self._saved)

    @torch_on_one_thread()
    def write_outputs(
        self,
        out: Path | None = None,
        *,
        state: tuple[Instances, Recipe] | None = None,
        reporter: Reporter | None = None,
    ) -> list[Path]:
        """labels.ply and what goes beside it; where the run was written to last by default. The paths.

        state: the cut to be written, the present one by default: it may change meanwhile.
        """
        out = out or self.run.labels
        instances, recipe = state or (self.instances, self.recipe)
        if out is None:
            raise RunError(f"{self.run.folder}: not written yet; name a labels.ply with --out")
        self._areas = self._areas or Areas(
            self.scene.train,
            self.gaussians,
            backend=self.config.backend,
            memory_budget_gb=self.config.memory_budget_gb,
        )
        with (reporter or SilentReporter()).stage("areas", len(self.scene.train)) as on_view:
            return write_cut(
                self.run,
                out,
                self.gaussians,
                self.embeddings,
                self.scene,
                instances,
                recipe,
                areas=self._areas,
                on_view=on_view,
            )

    # ---- objects

    def _members(self, one: int) -> Ints:
        members = (
            np.flatnonzero(self.instances.labels.numpy() == one - 1) if one > 0 else np.zeros(0, np.int64)
        )
        if not len(members):
            there = (self.instances.present + 1).tolist()
            raise ConfigError(f"no object {one}; there are {listed(there)}")
        return members

    def _speaker(self, one: int) -> int:
        return self._surest(self._members(one), 1)[0]

    def _surest(self, members: Ints, count: int) -> tuple[int, ...]:
        scores = self.instances.scores.numpy()[members]
        return tuple(np.sort(members[np.argsort(-scores, kind="stable")[:count]]).tolist())

    def _around(self, members: Ints, places: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """For each place the members that are nearest to it, and nearer than to any other place; itself first."""
        means = self.gaussians.means.detach().cpu().numpy()[members].astype(np.float64)
        seeds = means[np.searchsorted(members, places)]
        off = ((means[:, None] - seeds) ** 2).sum(axis=2)
        nearest, most = off.argmin(axis=1), max(1, min(2 * SEEDS, len(members)) // len(places))
        groups = []
        for number, place in enumerate(places):
            own = np.flatnonzero(nearest == number)
            around = members[own[np.argsort(off[own, number], kind="stable")]]
            groups.append((place, *(one for one in around.tolist() if one not in places))[:most])
        return tuple(groups)

    def _parts(self, instance: int) -> list[Ints]:
        """Members of each part of an instance, from 0, that is a part of no other one."""
        parts = self.instances.parts
        if parts is None or not len(parts):
            return []
        top = np.arange(len(parts))
        for part, parent in enumerate(parts.parent.tolist()):  # parents come first
            if parent >= 0:
                top[part] = top[parent]
        owner = np.append(top, -1)[parts.labels.numpy()]
        own = np.flatnonzero((parts.instance.numpy() == instance) & (parts.parent.numpy() < 0))
        members = [np.flatnonzero(owner == part) for part in own]
        return [some for some in members if len(some)]

    def _halves(self, members: Ints) -> list[Ints]:
        rows = torch.from_numpy(members)
        features = []
        for values in (self.embeddings.fast, self.gaussians.means):
            some = values.detach().cpu()[rows].double().numpy()
            features.append((some - some.mean(axis=0)) / max(float(some.std()), 1e-12))
        points = np.concatenate(features, axis=1)
        # Begun at the two ends of the widest direction, so that it is the same each time.
        along = points @ np.linalg.svd(points, full_matrices=False)[2][0]
        centers = points[[along.argmin(), along.argmax()]]
        side = np.zeros(len(points), dtype=np.int64)
        for _ in range(ROUNDS):
            side = ((points[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
            if len(np.unique(side)) < 2:
                return [members]
            centers = np.stack([points[side == half].mean(axis=0) for half in (0, 1)])
        nearest = [((points - center) ** 2).sum(axis=1) for center in centers]
        return [members[side == half][np.argsort(nearest[half][side == half])] for half in (0, 1)]


def _stamps(run: Run) -> list[tuple[int, int]]:
    """Tell whether the splat or its embeddings were written anew."""
    found = [run.result(stage).stat() for stage in ("fit", "lift")]
    return [(one.st_mtime_ns, one.st_size) for one in found]
