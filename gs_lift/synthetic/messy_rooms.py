"""A messy room on disk, in the layout that gs_lift.datasets.messy_rooms describes, and beside it:

objects.json        shape, twin and pose of each object
scene_errors.json   errors of the segments that come back from view to view
synth.json          the settings
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.synthetic.cameras import Pinhole, orbit
from gs_lift.synthetic.noise import LEVELS, corrupt, scene_errors
from gs_lift.synthetic.options import SynthConfig, train_views
from gs_lift.synthetic.pictures import millimetres, write_png
from gs_lift.synthetic.room import Room, furnish, object_to_world
from gs_lift.synthetic.shading import Frame

FRAME_FILES = ("color/{}.png", "depth/{}.png", "semantic/{}.npy", "instance/{}.npy")
STEM = "{:05d}"
LAST_FILE = "metadata.json"


def furnished(config: SynthConfig) -> Room:
    return furnish(config.objects, config.seed, config.size)


def cameras(config: SynthConfig, room: Room) -> list[Pinhole]:
    return orbit(config.views, config.size, room.extents, config.seed)


def write_frame(folder: Path, stem: str, frame: Frame, room: Room) -> None:
    """What rendering gives of a frame; `room` is not needed for it."""
    write_png(folder / f"color/{stem}.png", frame.color)
    write_png(folder / f"depth/{stem}.png", millimetres(frame.depth_m))
    _write_npy(folder / f"semantic/{stem}.npy", (frame.instance > 0).astype(np.uint8))
    _write_npy(folder / f"instance/{stem}.npy", frame.instance.astype(np.int16))


def finish(
    folder: Path, config: SynthConfig, room: Room, cameras: list[Pinhole], on_segments: Callable[[int], None]
) -> None:
    """Write the segments and what is written once. on_segments: called with the frames that have theirs."""
    _write_segments(folder, config, room, cameras, on_segments)
    write_text_atomic(folder / "objects.json", json.dumps(_objects(room)))
    write_text_atomic(folder / LAST_FILE, json.dumps(_metadata(cameras)))


def _write_npy(path: Path, array: np.ndarray) -> None:
    write_atomic(path, lambda file: np.save(file, array))


def _write_segments(
    folder: Path, config: SynthConfig, room: Room, cameras: list[Pinhole], on_segments: Callable[[int], None]
) -> None:
    """The 2D segments of the training frames, made from the truth on disk; empty ones for the test frames."""
    level, trained = LEVELS[config.noise], train_views(config.views)
    centers = np.array([thing.pose.position for thing in room.things])
    # Read twice: all of a long capture may not fit into memory.
    truths = (_truth(folder, view) for view in range(trained))
    errors = scene_errors(truths, centers, level, np.random.default_rng([config.seed, 4]))
    for view in range(config.views):
        truth = _truth(folder, view)
        if view < trained:
            with Image.open(folder / f"depth/{view:05d}.png") as depth:
                world = cameras[view].unproject(np.asarray(depth) / 1000.0)
            segments = corrupt(truth, world, errors, level, np.random.default_rng([config.seed, 5, view]))
            instance, probability = segments.instance, segments.probability
        else:
            instance, probability = np.zeros_like(truth), np.ones(truth.shape)
        dtype = np.uint8 if instance.max() < 256 else np.int16
        _write_npy(folder / f"detic_instance/{view:05d}.npy", instance.astype(dtype))
        _write_npy(folder / f"detic_semantic/{view:05d}.npy", (instance > 0).astype(np.uint8))
        _write_npy(folder / f"detic_probabilities/{view:05d}.npy", probability.astype(np.float16))
        on_segments(view + 1)
    write_text_atomic(folder / "scene_errors.json", json.dumps(asdict(errors)))


def _truth(folder: Path, view: int) -> Int[np.ndarray, "H W"]:
    truth: np.ndarray = np.load(folder / f"instance/{view:05d}.npy")
    return truth


def _objects(room: Room) -> dict[str, Any]:
    """Id, shape, twin's id (0 = none) and pose of each object, which takes a shape of size 1 to the room."""
    rows = [
        {"id": thing.id, "name": thing.name, "twin": thing.twin, "object_to_world": object_to_world(thing)}
        for thing in room.things
    ]
    return {"objects": rows}


def _metadata(cameras: list[Pinhole]) -> dict[str, Any]:
    focal = cameras[0].focal
    return {
        "camera": {
            "K": [[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]],
            "positions": [camera.position.tolist() for camera in cameras],
            "quaternions": [camera.quaternion() for camera in cameras],
        }
    }
