"""A neutral scorer: anybody's id maps, or a labels.ply, against a truth, by the protocols of `gslift eval`.

A folder of maps is one of:

    semantic/ and instance/                  .npy or .png, as Messy Rooms has its truth
    rs_semantics/ and rs_instance/           .png, Panoptic Lifting's truth; class 0 is void
    pred_semantics/ and pred_surrogateid/    .png, what Panoptic Lifting and Contrastive Lift render
    COCO panoptic, id maps, ...              whatever datasets/masks.py reads: with classes, or things on background

A scene folder is a truth too, that of its test views. Ids of objects must be the same in all frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gs_lift import ply
from gs_lift.datasets import DataConfig, files, load_scene
from gs_lift.datasets.mask_files import OBJECTS, is_mask, read_png
from gs_lift.datasets.masks import find_masks
from gs_lift.datasets.scannet import CLASSES as SCANNET_CLASSES
from gs_lift.errors import SceneError
from gs_lift.evaluation import panoptic
from gs_lift.exports import Labelled
from gs_lift.metrics import OverlapsOfImages
from gs_lift.pipeline import Reporter, SilentReporter
from gs_lift.protocols import PROTOCOLS, STRICT, PanopticScores
from gs_lift.scene import Scene, View
from gs_lift.segmentation import VOID, Classes, Embeddings, Instances, Segments

PAIRS: dict[tuple[str, str], Classes] = {
    ("semantic", "instance"): OBJECTS,
    ("rs_semantics", "rs_instance"): SCANNET_CLASSES,
    ("pred_semantics", "pred_surrogateid"): SCANNET_CLASSES,
}
"""Folders of classes and of ids, and the classes that they are in."""


@dataclass(frozen=True)
class Maps:
    """The panoptic maps of some frames, by name, read when called."""

    frames: Mapping[str, Callable[[], Segments]]
    classes: Classes


@dataclass(frozen=True)
class Judged:
    """scores: by protocol. frames: how many were compared.

    intervals: by protocol, of pq_scene and miou: over frames drawn again and again with replacement, 95 % of the draws
    lie between.
    """

    scores: dict[str, PanopticScores]
    intervals: dict[str, dict[str, tuple[float, float]]]
    frames: int


def score(
    pred: Path,
    truth: Path,
    protocols: Sequence[str],
    *,
    rounds: int = 200,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Judged:
    """Score the maps in the folder `pred`, or the labels.ply, against `truth`.

    rounds: of the bootstrap over frames, 0 = none. Raises SceneError where a frame of the truth has no prediction, or
    the classes differ.
    """
    reporter = reporter or SilentReporter()
    true = _truth_of_scene(truth) or read_maps(truth)
    found = _maps_of_labels(pred, truth) if pred.suffix.lower() == ".ply" else read_maps(pred)
    if found.classes.is_thing != true.classes.is_thing:
        raise SceneError(
            f"{pred}: {len(found.classes)} classes ({', '.join(found.classes.names[:4])}, ...), the truth has "
            f"{len(true.classes)} ({', '.join(true.classes.names[:4])}, ...); score maps of the same classes"
        )
    if missing := [name for name in true.frames if name not in found.frames]:
        raise SceneError(
            f"{pred}: no prediction for {len(missing)} of {len(true.frames)} frames ({', '.join(missing[:3])}); "
            f"it has {', '.join(sorted(found.frames)[:3]) or 'none'}"
        )
    gathered = {name: OverlapsOfImages() for name in protocols}
    with reporter.stage("score", len(true.frames)) as on_step:
        for step, (name, read_truth) in enumerate(true.frames.items(), start=1):
            pair = found.frames[name](), read_truth()
            for protocol in protocols:
                gathered[protocol].append(
                    PROTOCOLS[protocol].overlaps(*_as_judged(protocol, *pair, true.classes))
                )
            on_step(step, {})
    generator = np.random.default_rng(seed)
    draws = [generator.integers(0, len(true.frames), len(true.frames)) for _ in range(rounds)]
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    scores = {}
    for protocol, overlaps in gathered.items():
        of_frames = overlaps.images
        scores[protocol] = PROTOCOLS[protocol].scores(of_frames, true.classes)
        drawn = [PROTOCOLS[protocol].scores([of_frames[one] for one in draw], true.classes) for draw in draws]
        intervals[protocol] = {}
        for figure in ("pq_scene", "miou"):
            values = [value for one in drawn if (value := getattr(one, figure)) is not None]
            if values:
                intervals[protocol][figure] = tuple(np.quantile(values, [0.025, 0.975]).tolist())
    return Judged(scores, intervals, len(true.frames))


def _as_judged(protocol: str, pred: Segments, truth: Segments, classes: Classes) -> tuple[Segments, Segments]:
    """A class called void is none in the truth; the released metric takes it for stuff in a prediction."""
    if classes.names[0] != "void":
        return pred, truth
    truth = replace(truth, semantic=truth.semantic.masked_fill(truth.semantic == 0, VOID))
    if protocol == STRICT:
        pred = replace(pred, semantic=pred.semantic.masked_fill(pred.semantic == 0, VOID))
    return pred, truth


def read_maps(folder: Path) -> Maps:
    """The maps in a folder of one of the kinds above. Raises SceneError where there are none."""
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder; wanted one of maps")
    if pair := _pair_in(folder):
        semantic, instance = (_by_stem(folder / name) for name in pair)
        if missing := sorted(semantic.keys() ^ instance.keys()):
            raise SceneError(f"{folder}: {missing[0]} is in only one of {pair[0]}/ and {pair[1]}/")
        classes = PAIRS[pair]
        frames = {name: partial(_read_pair, semantic[name], instance[name], classes) for name in semantic}
        return Maps(frames, classes)
    names = sorted(
        {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*") if is_mask(path)}
    )
    config = DataConfig(segments=str(folder.absolute()))
    masks = find_masks(folder, names, config) if names else None
    if masks is None:
        raise SceneError(
            f"{folder}: no maps; wanted {', '.join('/ and '.join(pair) + '/' for pair in PAIRS)}, or masks"
        )
    found = {name: masks.read(name) for name in names if name in masks.paths}
    return Maps(found, masks.classes)


def _pair_in(folder: Path) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if all((folder / name).is_dir() for name in pair)), None)


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".npy", ".png"))
    if not paths:
        raise SceneError(f"{folder}: no .npy or .png")
    return {path.stem: path for path in paths}


def _read_pair(semantic: Path, instance: Path, classes: Classes) -> Segments:
    kinds, ids = (_read_ids(path) for path in (semantic, instance))
    if kinds.shape != ids.shape:
        raise SceneError(f"{instance}: shape {ids.shape}; {semantic.parent.name}'s is {kinds.shape}")
    if not ((kinds >= VOID) & (kinds < len(classes))).all():
        raise SceneError(
            f"{semantic}: classes {kinds.min()} to {kinds.max()}; wanted 0 to {len(classes) - 1}"
        )
    thing = np.array([*classes.is_thing, False])[kinds]
    return Segments(
        torch.from_numpy(np.where(thing, ids, -1)), torch.from_numpy(kinds), torch.ones(kinds.shape)
    )


def _read_ids(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".png":
        return read_png(path).astype(np.int64)
    shape = files.map_array(path).shape
    if len(shape) != 2:
        raise SceneError(f"{path}: shape {shape}; wanted ids [H W]")
    return files.read_ids(path, shape)


def _truth_of_scene(folder: Path) -> Maps | None:
    """The truth of a scene's test views; None where the folder is no scene, or has none."""
    scene = _scene(folder)
    frames = {view.name: view.truth for view in scene.test if view.truth is not None} if scene else {}
    return Maps(frames, scene.classes) if scene and frames else None


def _scene(folder: Path) -> Scene | None:
    try:
        return load_scene(folder, DataConfig(max_size=0))
    except SceneError:
        return None


def _maps_of_labels(path: Path, truth: Path) -> Maps:
    """What the test views of the scene `truth` see of a labels.ply."""
    scene = _scene(truth)
    if scene is None:
        raise SceneError(
            f"{truth}: no scene; a labels.ply is scored against a scene folder, whose cameras see it"
        )
    labelled, (labels, scores) = Labelled.of_file(path), ply.read_labels(path)
    number = {name: place for place, name in enumerate(scene.classes.names)}
    if unknown := next(
        (one for one in labelled.class_of.values() if one is not None and one not in number), None
    ):
        raise SceneError(
            f"{path}: objects of the class {unknown}; the scene has {', '.join(scene.classes.names)}"
        )
    most = max(labelled.class_of, default=0)  # ids may have gaps
    classes = torch.tensor(
        [number.get(labelled.class_of.get(one + 1) or "", VOID) for one in range(most)], dtype=torch.int64
    )
    stuff = next((place for place, thing in enumerate(scene.classes.is_thing) if not thing), 0)
    semantic = torch.where(labels >= 0, torch.cat([classes, torch.tensor([stuff])])[labels], stuff)
    logits = 20.0 * torch.nn.functional.one_hot(semantic.clamp(min=0), len(scene.classes)).float()
    nothing = torch.zeros(len(labels), 1)
    embeddings = Embeddings(nothing, nothing, logits, nothing[:, 0])
    instances = Instances(labels=labels, scores=scores, classes=classes, tree={})

    def of(view: View) -> Segments:
        return panoptic(view.camera, labelled.gaussians, embeddings, instances, scene.classes)

    return Maps({view.name: partial(of, view) for view in scene.test}, scene.classes)
