"""Results in the formats of other programs: objects as splats, COCO panoptic and id maps of the frames, ScanNet's text.

Ids of objects are those of labels.ply, from 1; 0 = none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift import ply
from gs_lift.datasets.scannet import NYU40
from gs_lift.errors import ConfigError, RunError
from gs_lift.evaluation import panoptic
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.palette import palette
from gs_lift.pipeline import (
    Reporter,
    SilentReporter,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_run_edits,
    read_scene,
)
from gs_lift.run import Run
from gs_lift.scene import View
from gs_lift.segmentation import VOID, Classes, Instances, Segments, object_scores
from gs_lift.words import listed

REACH = 0.02
"""Farthest that a vertex may be from the Gaussian whose object it takes, as a share of the mesh's diagonal."""

OPAQUE = 0.1
"""Least opacity of a Gaussian that a vertex takes its object from."""

SPLITS = ("test", "train", "all")


@dataclass(frozen=True)
class Object:
    """What a list says of an object. id: as in labels.json, from 1; count: of its Gaussians; score: in 0..1."""

    id: int
    count: int
    score: float
    class_name: str | None
    name: str | None


@dataclass(frozen=True)
class Labelled:
    """Gaussians with the object of each: ids [N] from 1, 0 = none; scores [N].

    class_of: by id, None = unknown. name_of, score_of: by id, of those that have one; any other's score is that of its
    Gaussians.
    """

    gaussians: Gaussians
    ids: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]
    class_of: dict[int, str | None]
    name_of: dict[int, str] = field(default_factory=dict)
    score_of: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run: Run) -> "Labelled":
        gaussians, instances = read_gaussians(run), read_instances(run)
        names = read_run_edits(run, gaussians).names(instances.labels)
        return cls.of_cut(gaussians, instances, read_scene(run).classes, names)

    @classmethod
    def of_cut(
        cls, gaussians: Gaussians, instances: Instances, classes: Classes, names: Mapping[int, str]
    ) -> "Labelled":
        """names: instance, from 0 -> what the user calls it."""
        semantic = instances.classes.tolist()
        class_of = {
            one + 1: classes.names[semantic[one]] if semantic[one] != VOID else None
            for one in instances.present.tolist()
        }
        name_of = {one + 1: name for one, name in names.items()}
        return cls(gaussians, instances.labels + 1, instances.scores, class_of, name_of)

    @classmethod
    def of_file(cls, path: Path) -> "Labelled":
        """Of a labels.ply; classes and names are those of the .json beside it, if there is one."""
        labels, scores = ply.read_labels(path)
        described = ply.read_labels_json(path.with_suffix(".json"))
        there = {
            one + 1: described.get(one + 1, ply.Described()) for one in labels[labels >= 0].unique().tolist()
        }
        class_of = {one: content.class_name for one, content in there.items()}
        name_of = {one: content.name for one, content in there.items() if content.name is not None}
        score_of = {one: content.score for one, content in there.items() if content.score is not None}
        return cls(ply.read_splat(path), labels + 1, scores, class_of, name_of, score_of)

    @property
    def objects(self) -> tuple[Object, ...]:
        """Those that have Gaussians, by their ids."""
        ids = self.ids.cpu()
        count = int(ids.max()) if len(ids) else 0
        counts = torch.bincount(ids, minlength=count + 1)[1:].tolist()
        scores = object_scores(ids - 1, self.scores.cpu(), count).tolist()
        return tuple(
            Object(one, number, self.score_of.get(one, score), self.class_of.get(one), self.name_of.get(one))
            for one, (number, score) in enumerate(zip(counts, scores, strict=True), start=1)
            if number
        )

    def rows(
        self,
        ids: Sequence[int] = (),
        classes: Sequence[str] = (),
        names: Sequence[str] = (),
        *,
        everything_but: bool = False,
        min_score: float = 0.0,
    ) -> Tensor:
        """[N] Which Gaussians belong to objects of those ids, classes or names, by a score of min_score at least; or
        which do not. Raises ConfigError for one that is not there."""
        if unknown := [one for one in ids if one not in self.class_of]:
            raise ConfigError(f"no object {unknown[0]}; there are {listed(sorted(self.class_of))}")
        there = {name for name in self.class_of.values() if name}
        if missing := [name for name in classes if name not in there]:
            raise ConfigError(
                f"--class {missing[0]}: no object of it; there are {', '.join(sorted(there)) or 'none'}"
            )
        if missing := [name for name in names if name not in self.name_of.values()]:
            called = ", ".join(sorted(set(self.name_of.values()))) or "none"
            raise ConfigError(f"--name {missing[0]}: no object is called so; there are {called}")
        chosen = {*ids, *(one for one, name in self.class_of.items() if name in classes)}
        chosen |= {one for one, name in self.name_of.items() if name in names}
        members = torch.isin(self.ids, torch.tensor(sorted(chosen), dtype=self.ids.dtype))
        members &= self.scores >= min_score
        return ~members if everything_but else members


def extract(labelled: Labelled, rows: Tensor, out: Path) -> int:
    """Write the Gaussians of `rows` [N] as a splat in Inria's exact layout; how many they are.

    Raises ConfigError where there are none.
    """
    count = int(rows.sum())
    if count == 0:
        raise ConfigError(f"--out {out}: no Gaussian is left; lower --min-score")
    out.parent.mkdir(parents=True, exist_ok=True)
    ply.write_splat(out, labelled.gaussians.rows(rows))
    return count


def write_objects(
    labelled: Labelled, folder: Path, *, min_score: float = 0.0, reporter: Reporter | None = None
) -> list[Path]:
    """Each object as a splat of its own: 0001.ply, 0002.ply ..., by their ids."""
    reporter = reporter or SilentReporter()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with reporter.stage("objects", len(labelled.class_of)) as on_step:
        for step, one in enumerate(labelled.class_of, start=1):
            rows = labelled.rows([one], min_score=min_score)
            if bool(rows.any()):
                written.append(folder / f"{one:04d}.ply")
                extract(labelled, rows, written[-1])
            on_step(step, {})
    return written


def views_of(run: Run, split: str) -> list[View]:
    """The views of a run's scene: `test`, `train` or `all`."""
    scene = read_scene(run)
    if split not in SPLITS:
        raise ConfigError(f"--views {split}: wanted one of {', '.join(SPLITS)}")
    views = {"test": scene.test, "train": scene.train, "all": (*scene.train, *scene.test)}[split]
    if not views:
        raise RunError(f"{run.scene}: no {split} views")
    return list(views)


def _seen(run: Run, views: Sequence[View], name: str, reporter: Reporter) -> Iterator[tuple[View, Segments]]:
    """Each view with what it shows of the run's objects."""
    scene, gaussians = read_scene(run), read_gaussians(run)
    embeddings, instances = read_embeddings(run), read_instances(run)
    with reporter.stage(name, len(views)) as on_step:
        for step, view in enumerate(views, start=1):
            backend = run.config.backend
            yield (
                view,
                panoptic(view.camera, gaussians, embeddings, instances, scene.classes, backend=backend),
            )
            on_step(step, {})


def write_id_maps(
    run: Run, folder: Path, *, split: str = "test", reporter: Reporter | None = None
) -> list[Path]:
    """Of each view a 16-bit PNG of its objects' ids."""
    written = []
    for view, segments in _seen(run, views_of(run, split), "id maps", reporter or SilentReporter()):
        ids = (segments.instance + 1).numpy()
        if ids.max(initial=0) >= 2**16:
            raise RunError(f"{run.folder}: {ids.max()} objects; a 16-bit map holds 65535: use --panoptic")
        written.append(folder / f"{view.name}.png")
        _write_png(written[-1], ids.astype(np.uint16))
    return written


def write_panoptic(
    run: Run, folder: Path, *, split: str = "test", reporter: Reporter | None = None
) -> list[Path]:
    """COCO's panoptic format: panoptic.json, and of each view a PNG of ids as R + 256 G + 65536 B.

    An object has its id in all views, a class of stuff the ids behind all objects'; a pixel without a class is 0.
    """
    classes, count = read_scene(run).classes, len(read_instances(run))
    categories = [
        {"id": number + 1, "name": name, "isthing": int(thing), "color": color}
        for number, (name, thing, color) in enumerate(
            zip(classes.names, classes.is_thing, palette(len(classes)).tolist(), strict=True)
        )
    ]
    images, annotations, written = [], [], []
    for number, (view, segments) in enumerate(
        _seen(run, views_of(run, split), "panoptic", reporter or SilentReporter()), start=1
    ):
        ids = panoptic_ids(segments, count)
        written.append(folder / f"{view.name}.png")
        _write_png(
            written[-1], np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        )
        size = {"width": view.camera.width, "height": view.camera.height}
        images.append({"id": number, "file_name": f"{view.name}.jpg", **size})
        rows = [_segment(ids == one, int(one), segments) for one in np.unique(ids[ids > 0])]
        annotations.append({"image_id": number, "file_name": f"{view.name}.png", "segments_info": rows})
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text_atomic(folder / "panoptic.json", json.dumps(content) + "\n")
    return [folder / "panoptic.json", *written]


def panoptic_ids(segments: Segments, objects: int) -> np.ndarray:
    """[H W] 1 to `objects` for things, behind them the classes of stuff, 0 for what has no class."""
    instance, semantic = segments.instance.numpy(), segments.semantic.numpy()
    ids = np.where(instance >= 0, instance + 1, objects + 1 + semantic)
    return np.where((instance < 0) & (semantic == VOID), 0, ids)


def _segment(inside: np.ndarray, one: int, segments: Segments) -> dict[str, object]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    category = int(segments.semantic.numpy()[inside][0]) + 1
    return {"id": one, "category_id": category, "area": int(inside.sum()), "bbox": box, "iscrowd": 0}


def write_scannet(run: Run, folder: Path, mesh: Path, *, reach: float = REACH) -> list[Path]:
    """ScanNet's instance benchmark: <scene>.txt with a line for each object (mask, NYU40 id, score), and the masks of
    the mesh's vertices, 1 = inside.

    A vertex takes the object of the nearest Gaussian that is not transparent, if that is within `reach` diagonals of
    the mesh. Raises SplatError for a mesh without vertices, ConfigError for a scene name with spaces.
    """
    name = run.name
    if any(letter.isspace() for letter in name):
        raise ConfigError(
            f"{name}: ScanNet's format has no spaces in names; fit with --run and another scene name"
        )
    vertices, _ = ply.read_points(mesh)
    labelled, instances = Labelled.of_run(run), read_instances(run)
    owner = objects_of_points(labelled, vertices, reach)
    rows = []
    for number, score in enumerate(instances.object_scores.tolist(), start=1):
        inside = (owner == number).numpy()
        if inside.any():
            mask = Path("pred_mask") / f"{name}_{number:04d}.txt"
            write_text_atomic(folder / mask, "\n".join(map(str, inside.astype(int))) + "\n")
            rows.append(
                f"{mask} {NYU40.get(labelled.class_of[number] or '', NYU40['otherprop'])} {score:.6f}"
            )
    listed = folder / f"{name}.txt"
    write_text_atomic(listed, "\n".join(rows) + ("\n" if rows else ""))
    return [listed, *(folder / row.split()[0] for row in rows)]


def objects_of_points(labelled: Labelled, points: Float[Tensor, "P 3"], reach: float) -> Int[Tensor, "P"]:
    """The object of each point, 0 = none: of the nearest Gaussian that is not transparent."""
    solid = labelled.gaussians.opacities.detach().cpu() >= OPAQUE
    diagonal = float((points.amax(dim=0) - points.amin(dim=0)).norm())
    tree = cKDTree(labelled.gaussians.means.detach().cpu()[solid].numpy().astype(np.float64))
    bound = reach * diagonal if diagonal > 0 else np.inf
    _, nearest = tree.query(points.numpy().astype(np.float64), distance_upper_bound=bound)
    ids = np.append(labelled.ids[solid].numpy(), 0)  # the last one is that of no neighbour
    return torch.from_numpy(ids[nearest])


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))
