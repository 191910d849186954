"""A room on disk, in the layout of Messy Rooms: frames made by several processes, resumed where they stopped.

The pool is spawned: a script that calls `synthesize` with more than one process needs the usual
`if __name__ == "__main__":`.
"""

import json
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from gs_lift.errors import ConfigError
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.synthetic.cameras import Pinhole, orbit
from gs_lift.synthetic.noise import LEVELS, corrupt, scene_errors
from gs_lift.synthetic.options import SynthConfig, train_views
from gs_lift.synthetic.raytracing import Tracer
from gs_lift.synthetic.room import Room, furnish
from gs_lift.synthetic.shading import Frame, Painter, smoothed, vertex_light

FRAME_FILES = ("color/{}.png", "depth/{}.png", "semantic/{}.npy", "instance/{}.npy")
"""What rendering writes of a frame, in this order."""

LIGHT_CHUNK = 16384
"""Vertices that a worker lights at a time."""


def synthesize(
    folder: Path,
    config: SynthConfig | None = None,
    *,
    on_step: OnStep | None = None,
    processes: int = 2,
) -> None:
    """Write a room to `folder`; metadata.json comes last: a folder without it can be resumed.

    on_step: called with the number of frames that are there and the seconds so far, after each frame. The
    bytes do not depend on `processes`. Raises ConfigError where the folder holds something else.
    """
    config = config or SynthConfig()
    if processes < 1:
        raise ConfigError(f"processes: {processes} is less than 1")
    if _finished(folder, config):
        return
    start = perf_counter()
    missing = [view for view in range(config.views) if not _complete(folder, view)]
    room = furnish(config.objects, config.seed, config.size)
    cameras = orbit(config.views, config.size, room.extents, config.seed)
    done = config.views - len(missing)
    for _ in _render(room, folder, cameras, missing, min(processes, max(1, len(missing)))):
        done += 1
        if on_step is not None:
            on_step(done, {"seconds": perf_counter() - start})
    _write_segments(folder, config, room, cameras)
    write_text_atomic(folder / "objects.json", json.dumps(_objects(room)))
    write_text_atomic(folder / "metadata.json", json.dumps(_metadata(cameras)))


def _finished(folder: Path, config: SynthConfig) -> bool:
    """Whether the room is there. Puts the config into a new folder, refuses a folder with other contents."""
    path = folder / "synth.json"
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; give a folder for the room")
    if not path.exists():
        if folder.exists() and any(not other.name.startswith(".") for other in folder.iterdir()):
            raise ConfigError(
                f"{folder}: holds files that synth did not write; give a new or an empty folder"
            )
        write_text_atomic(path, json.dumps(asdict(config), indent=2) + "\n")
        return False
    try:
        other = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error}); remove the folder") from None
    if not isinstance(other, dict):
        raise ConfigError(
            f"{path}: wanted the settings of a room, got a {type(other).__name__}; remove the folder"
        )
    names = config.differences(other)
    if names:
        listed = ", ".join(f"{name} ({other.get(name)!r}, now {getattr(config, name)!r})" for name in names)
        raise ConfigError(
            f"{folder}: holds a room with other settings: {listed}; give another folder or remove it"
        )
    return (folder / "metadata.json").exists()


def _complete(folder: Path, view: int) -> bool:
    """Whether all files of a frame are there; each was put in place whole."""
    return all((folder / pattern.format(f"{view:05d}")).exists() for pattern in FRAME_FILES)


class _Worker:
    """What a process keeps between tasks: the room, ready for rays, and once it is lit, for frames."""

    def __init__(self, room: Room):
        self.room = room
        self.tracer = Tracer(room.mesh.vertices, room.mesh.faces)
        self.painter: Painter | None = None

    def light(self, start: int, end: int) -> Float[np.ndarray, "V 3"]:
        return vertex_light(self.room, self.tracer, start, end)

    def paint(self, light: Float[np.ndarray, "V 3"], camera: Pinhole, folder: Path, view: int) -> None:
        if self.painter is None:
            self.painter = Painter(self.room, self.tracer, light)
        _write_frame(folder, view, self.painter.frame(camera))


_worker: _Worker
"""Of a spawned process."""


def _enter(room: Room) -> None:
    """Start of a spawned process: it ends when its parent does, and leaves Ctrl-C to it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(room)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_worker, method)(*arguments)


class _Here:
    """The workers' work done in this process."""

    def __init__(self, room: Room):
        self.worker = _Worker(room)

    def run(self, method: str, tasks: list[tuple[Any, ...]]) -> Iterator[Any]:
        return (getattr(self.worker, method)(*task) for task in tasks)

    def close(self) -> None:
        """Nothing is left to stop."""


class _Pool:
    """The workers' work done in spawned processes."""

    def __init__(self, room: Room, processes: int):
        self.pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_enter, initargs=(room,))

    def run(self, method: str, tasks: list[tuple[Any, ...]]) -> Iterator[Any]:
        """Results in the order of the tasks; few are handed out at a time, so that stopping is quick."""
        waiting: deque[Future[Any]] = deque()
        for task in tasks:
            waiting.append(self.pool.submit(_call, method, task))
            if len(waiting) > 4:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


def _render(
    room: Room, folder: Path, cameras: list[Pinhole], views: list[int], processes: int
) -> Iterator[int]:
    """Write the frames of `views`, yielding each when it is there."""
    if not views:
        return
    work = _Here(room) if processes == 1 else _Pool(room, processes)
    try:
        count = len(room.mesh.vertices)
        chunks = [(start, min(start + LIGHT_CHUNK, count)) for start in range(0, count, LIGHT_CHUNK)]
        light = smoothed(room, np.concatenate(list(work.run("light", chunks))))
        tasks = [(light, cameras[view], folder, view) for view in views]
        for view, _ in zip(views, work.run("paint", tasks), strict=True):
            yield view
    finally:
        work.close()


def _write_frame(folder: Path, view: int, frame: Frame) -> None:
    _write_png(folder / f"color/{view:05d}.png", frame.color)
    _write_png(
        folder / f"depth/{view:05d}.png", np.rint(1000 * frame.depth_m).clip(0, 65535).astype(np.uint16)
    )
    _write_npy(folder / f"semantic/{view:05d}.npy", (frame.instance > 0).astype(np.uint8))
    _write_npy(folder / f"instance/{view:05d}.npy", frame.instance.astype(np.int16))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    write_atomic(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def _write_npy(path: Path, array: np.ndarray) -> None:
    write_atomic(path, lambda file: np.save(file, array))


def _write_segments(folder: Path, config: SynthConfig, room: Room, cameras: list[Pinhole]) -> None:
    """The 2D segments of the training frames, made from the truth on disk; empty ones for the test frames."""
    level = LEVELS[config.noise]
    truths = [np.load(folder / f"instance/{view:05d}.npy") for view in range(config.views)]
    trained = truths[: train_views(config.views)]
    centers = np.array([thing.pose.position for thing in room.things])
    errors = scene_errors(trained, centers, level, np.random.default_rng([config.seed, 4]))
    for view, truth in enumerate(truths):
        if view < len(trained):
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
    write_text_atomic(folder / "scene_errors.json", json.dumps(asdict(errors)))


def _objects(room: Room) -> dict[str, Any]:
    """Id, shape, twin's id (0 = none) and pose of each object, which takes a shape of size 1 to the room."""
    rows = []
    for thing in room.things:
        object_to_world = np.eye(4)
        object_to_world[:3, :3] = thing.size_m * thing.pose.rotation
        object_to_world[:3, 3] = thing.pose.position
        rows.append(
            {
                "id": thing.id,
                "name": thing.name,
                "twin": thing.twin,
                "object_to_world": object_to_world.tolist(),
            }
        )
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
