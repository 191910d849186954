"""The objects of a labels.ply on a splat that was made from it: pruned, re-ordered, moved or quantised elsewhere."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gs_lift import __version__, ply
from gs_lift.errors import ConfigError, SplatError
from gs_lift.files import write_text_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import VOID, Classes, Instances
from gs_lift.splats import compact, find_splat, load_splat
from gs_lift.splats.matching import Matches, match

LEAST_SHARE = 0.05
"""Of the edited splat's Gaussians that must be of labels.ply. Of 54 653 of a like room none passes for its own."""


@dataclass(frozen=True)
class Relabelled:
    """The files that were written, and what was matched."""

    paths: tuple[Path, Path]
    matches: Matches


def relabel(edited: Path, labels: Path, out: Path | None = None) -> Relabelled:
    """Write the Gaussians of `edited` with the objects of `labels` at `out` (EDITED_labels.ply), its .json beside it.

    Ids, scores, names and classes are kept; objects without Gaussians are left out, so that ids may have gaps. Raises
    ConfigError where it would replace what it reads, SplatError for files that are none, or have little in common.
    """
    edited = find_splat(edited)
    out = out if out is not None else default_out(edited)
    check_out(out, edited, labels)
    ids, scores = ply.read_labels(labels)
    described = ply.read_labels_json(labels.with_suffix(".json"))
    gaussians, original = load_splat(edited), ply.read_splat(labels)
    matches = match(gaussians, original)
    found = matches.by_bytes + matches.by_place
    if found < LEAST_SHARE * len(gaussians):
        raise SplatError(
            f"{edited}: {found} of {len(gaussians)} Gaussians are of {labels}; wanted {LEAST_SHARE:.0%} at least: "
            "name the labels.ply that it was made from, or run `gslift fit SCENE --splat` for a new splat"
        )
    known = matches.rows >= 0
    rows = matches.rows.clamp(min=0)
    instances = Instances(
        labels=torch.where(known, ids[rows], -1),
        scores=torch.where(known, scores[rows], 0.0),
        classes=torch.zeros(0, dtype=torch.int64),
        tree={},
    )
    # Programs leave out the comment that tells it.
    gaussians = replace(gaussians, antialiased=gaussians.antialiased or original.antialiased)
    _write(out, gaussians, instances, described, f"objects of {labels.name}")
    return Relabelled((out, out.with_suffix(".json")), matches)


def _write(
    out: Path,
    gaussians: Gaussians,
    instances: Instances,
    described: dict[int, ply.Described],
    comment: str,
) -> None:
    """A labels.ply and its .json of instances without classes, which `described` has, by id."""
    count = int(instances.labels.max().clamp(min=VOID)) + 1
    objects = [described.get(one + 1, ply.Described()) for one in range(count)]
    names = tuple(dict.fromkeys(one.class_name for one in objects if one.class_name is not None))
    number = {name: place for place, name in enumerate(names)}
    semantic = [VOID if one.class_name is None else number[one.class_name] for one in objects]
    instances = Instances(
        instances.labels, instances.scores, torch.tensor(semantic, dtype=torch.int64), instances.tree
    )
    ply.write_labels(out, gaussians, instances, comments=[f"gs_lift {__version__}", comment])
    text = ply.labels_json(
        gaussians,
        instances,
        Classes(names, (True,) * len(names)),
        names={i: one.name for i, one in enumerate(objects) if one.name is not None},
        certain={i: one.score for i, one in enumerate(objects) if one.score is not None},
    )
    write_text_atomic(out.with_suffix(".json"), text)


def default_out(edited: Path) -> Path:
    """Beside it: room.compressed.ply -> room_labels.ply."""
    endings = [one for one in compact.FORMATS if edited.name.lower().endswith(one)]
    stem = edited.name[: -len(endings[0])] if endings else edited.stem
    return edited.with_name(f"{stem}_labels.ply")


def check_out(out: Path, edited: Path, labels: Path) -> None:
    """Raises ConfigError unless `out` is a .ply, and neither it nor its .json would replace what is read."""
    if out.suffix.lower() != ".ply":
        raise ConfigError(f"--out {out}: wanted a name that ends in .ply")
    for path in (out, out.with_suffix(".json")):
        for own in (edited, labels, labels.with_suffix(".json")):
            if path.resolve() == own.resolve() or (path.exists() and own.exists() and path.samefile(own)):
                raise ConfigError(f"--out {out}: would replace {own}; choose another name with --out")
