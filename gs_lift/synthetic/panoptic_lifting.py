"""A furnished room on disk, in the layout that gs_lift.datasets.panoptic_lifting describes, and beside it:

    objects/<frame>.png   16-bit ids of the room: every object, things and stuff, then the floor and the walls
    objects.json          class, twin and pose of each of them
    scene_errors.json     errors of the segments that come back from view to view
    synth.json            the settings

Every frame has segments, as a segmenter would make them of the test frames, too.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from gs_lift.errors import ConfigError
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.synthetic.cameras import Pinhole, walk
from gs_lift.synthetic.furniture import CLASSES, THINGS, classes_of_ids, furnished_room
from gs_lift.synthetic.noise import LEVELS, NoiseLevel, SceneErrors, corrupt, scene_errors
from gs_lift.synthetic.options import SynthConfig
from gs_lift.synthetic.pictures import millimetres, write_png
from gs_lift.synthetic.room import Room, object_to_world
from gs_lift.synthetic.segmenter import PanopticSegments, panoptic
from gs_lift.synthetic.shading import Frame

FRAME_FILES = ("color/{}.png", "depth/{}.png", "rs_semantics/{}.png", "rs_instance/{}.png", "objects/{}.png")
STEM = "{:04d}"
LAST_FILE = "splits.json"

TEST_EVERY = 6
"""The first of so many frames is for testing, as the original splits HyperSim."""

PICKLE_PROTOCOL = 4


def furnished(config: SynthConfig) -> Room:
    return furnished_room(config.objects, config.seed, config.size)


def cameras(config: SynthConfig, room: Room) -> list[Pinhole]:
    return walk(config.views, config.size, room.extents, config.seed)


def write_frame(folder: Path, stem: str, frame: Frame, room: Room) -> None:
    """What rendering gives of a frame."""
    semantic = classes_of_ids(room)[frame.instance]
    instance = np.where(np.isin(semantic, list(THINGS)), frame.instance, 0)
    write_png(folder / f"color/{stem}.png", frame.color)
    write_png(folder / f"depth/{stem}.png", millimetres(frame.depth_m))
    write_png(folder / f"rs_semantics/{stem}.png", semantic.astype(np.uint8))
    write_png(folder / f"rs_instance/{stem}.png", instance.astype(np.uint16))
    write_png(folder / f"objects/{stem}.png", frame.instance.astype(np.uint16))


def finish(
    folder: Path, config: SynthConfig, room: Room, cameras: list[Pinhole], on_segments: Callable[[int], None]
) -> None:
    """Write cameras, segments and what is written once. on_segments: called with the frames that have theirs.

    Raises ConfigError for more segments than 16 bits count.
    """
    stems = [STEM.format(view) for view in range(config.views)]
    for stem, camera in zip(stems, cameras, strict=True):
        write_text_atomic(folder / f"pose/{stem}.txt", _matrix_text(_cam_to_world(camera)))
    write_text_atomic(folder / "intrinsic/intrinsic_color.txt", _matrix_text(_intrinsics(cameras[0])))
    semantics = _write_segments(folder, config, room, cameras, stems, on_segments)
    content = pickle.dumps(_segmentation_data(room, semantics), protocol=PICKLE_PROTOCOL)
    write_atomic(folder / "segmentation_data.pkl", lambda file: file.write(content))
    write_text_atomic(folder / "objects.json", json.dumps(_objects(room)))
    splits = {
        "train": [stem for view, stem in enumerate(stems) if view % TEST_EVERY],
        "test": stems[::TEST_EVERY],
    }
    write_text_atomic(folder / LAST_FILE, json.dumps(splits))


def _write_segments(
    folder: Path,
    config: SynthConfig,
    room: Room,
    cameras: list[Pinhole],
    stems: list[str],
    on_segments: Callable[[int], None],
) -> dict[int, int]:
    """The 2D segments, made from the truth on disk. Returns the class of each id of m2f_instance."""
    level = LEVELS[config.noise]
    centers = np.array([thing.pose.position for thing in room.things])
    # Read twice: all of a long capture may not fit into memory.
    trained = (
        _objects_alone(_read(folder / f"objects/{stem}.png"), room)
        for view, stem in enumerate(stems)
        if view % TEST_EVERY
    )
    errors = scene_errors(trained, centers, level, np.random.default_rng([config.seed, 4]))
    semantics: dict[int, int] = {}
    segments_before = 0
    for view, stem in enumerate(stems):
        ids, depth_m = _read(folder / f"objects/{stem}.png"), _read(folder / f"depth/{stem}.png") / 1000.0
        found = _segmented(ids, cameras[view].unproject(depth_m), room, errors, level, config, view)
        instance = np.where(found.instance > 0, found.instance + len(semantics), 0)
        segment = np.where(found.segment > 0, found.segment + segments_before, 0)
        if segment.max() >= 2**16:
            raise ConfigError(
                f"synth.views: more than {2**16 - 1} segments in {config.views} views; wanted fewer views"
            )
        segments_before += int(found.segment.max())
        where = np.unique(instance, return_index=True)
        semantics |= {
            int(index): int(found.semantic.flat[first]) for index, first in zip(*where, strict=True) if index
        }
        _write_maps(folder, stem, found, instance, segment)
        on_segments(view + 1)
    write_text_atomic(folder / "scene_errors.json", json.dumps(asdict(errors)))
    return semantics


def _objects_alone(ids: Int[np.ndarray, "H W"], room: Room) -> Int[np.ndarray, "H W"]:
    """Without the floor and the walls."""
    return np.where(ids <= len(room.things), ids, 0)


def _segmented(
    ids: Int[np.ndarray, "H W"],
    world: np.ndarray,
    room: Room,
    errors: SceneErrors,
    level: NoiseLevel,
    config: SynthConfig,
    view: int,
) -> PanopticSegments:
    objects = _objects_alone(ids, room)
    noisy = corrupt(objects, world, errors, level, np.random.default_rng([config.seed, 5, view]))
    return panoptic(ids, classes_of_ids(room), noisy, level, np.random.default_rng([config.seed, 6, view]))


def _write_maps(
    folder: Path,
    stem: str,
    found: PanopticSegments,
    instance: Int[np.ndarray, "H W"],
    segment: Int[np.ndarray, "H W"],
) -> None:
    for name, ids in (("instance", instance), ("segments", segment), ("semantics", found.semantic)):
        write_png(folder / f"m2f_{name}/{stem}.png", ids.astype(np.uint16))
    write_png(folder / f"m2f_invalid/{stem}.png", np.where(segment == 0, 255, 0).astype(np.uint8))
    confidence = found.confidence.astype(np.float32)
    write_atomic(
        folder / f"m2f_probabilities/{stem}.npz",
        lambda file: np.savez_compressed(
            file,
            probability=found.probability.astype(np.float32),
            confidence=confidence,
            # Without averaging over flipped and scaled copies a segmenter is surer of itself.
            confidence_notta=1 - 0.5 * (1 - confidence),
        ),
    )


def _read(path: Path) -> Int[np.ndarray, "H W"]:
    with Image.open(path) as picture:
        return np.array(picture).astype(np.int64)


def _cam_to_world(camera: Pinhole) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = camera.rotation, camera.position
    return matrix


def _intrinsics(camera: Pinhole) -> np.ndarray:
    """Of pixels whose centres are whole numbers."""
    matrix = np.eye(4)
    matrix[0, 0] = matrix[1, 1] = camera.focal * camera.size
    matrix[:2, 2] = (camera.size - 1) / 2
    return matrix


def _matrix_text(matrix: np.ndarray) -> str:
    return "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in matrix)


def _segmentation_data(room: Room, semantics: dict[int, int]) -> dict[str, Any]:
    """What the original pickles: classes, and those of the ids in rs_instance and in m2f_instance."""
    true = classes_of_ids(room).tolist()
    return {
        "num_semantic_classes": len(CLASSES),
        "fg_classes": sorted(THINGS),
        "bg_classes": [index for index in range(len(CLASSES)) if index not in THINGS],
        "rs_instance_to_semantic": {
            index: semantic for index, semantic in enumerate(true) if semantic in THINGS
        },
        "m2f_instance_to_semantic": semantics,
    }


def _objects(room: Room) -> dict[str, Any]:
    """Id, class, twin's id (0 = none) and pose of each object, which takes a shape of size 1 to the room."""
    rows: list[dict[str, Any]] = [
        {"id": thing.id, "class": thing.name, "twin": thing.twin, "object_to_world": object_to_world(thing)}
        for thing in room.things
    ]
    after = len(rows) + 1
    rows += [{"id": after, "class": "floor"}, {"id": after + 1, "class": "wall"}]
    return {"objects": rows}
