"""A room on disk, in one of the LAYOUTS: frames made by several processes, resumed where they stopped.

The pool is spawned: a script that calls `synthesize` with more than one process needs the usual
`if __name__ == "__main__":`.
"""

import json
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from gs_lift.errors import ConfigError
from gs_lift.files import write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.synthetic.cameras import Pinhole
from gs_lift.synthetic.options import LAYOUTS, SynthConfig
from gs_lift.synthetic.raytracing import Tracer
from gs_lift.synthetic.room import Room
from gs_lift.synthetic.shading import Painter, smoothed, vertex_light

LIGHT_CHUNK = 16384
"""Vertices that a worker lights at a time."""


def synthesize(
    folder: Path,
    config: SynthConfig | None = None,
    *,
    on_step: OnStep | None = None,
    processes: int = 2,
) -> None:
    """Write a room to `folder`; the layout's LAST_FILE comes last: a folder without it can be resumed.

    on_step: called with the number of frames that are there and the seconds so far, after each frame; then, with
    {"segments"} too, as each gets its segments. The bytes do not depend on `processes`. Raises ConfigError where the
    folder holds something else.
    """
    config = config or SynthConfig()
    if processes < 1:
        raise ConfigError(f"processes: {processes} is less than 1")
    if _finished(folder, config):
        return
    start = perf_counter()
    layout = LAYOUTS[config.layout]()
    stems = [layout.STEM.format(view) for view in range(config.views)]
    missing = [view for view, stem in enumerate(stems) if not _complete(folder, stem, layout)]
    room = layout.furnished(config)
    cameras = layout.cameras(config, room)
    done = config.views - len(missing)
    tasks = [(cameras[view], folder, stems[view]) for view in missing]
    for _ in _render(room, config.layout, tasks, min(processes, max(1, len(missing)))):
        done += 1
        if on_step is not None:
            on_step(done, {"seconds": perf_counter() - start})

    def on_segments(count: int) -> None:
        if on_step is not None:
            on_step(done, {"seconds": perf_counter() - start, "segments": float(count)})

    layout.finish(folder, config, room, cameras, on_segments)


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
        write_text_atomic(path, json.dumps(config.written(), indent=2) + "\n")
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
    return (folder / LAYOUTS[config.layout]().LAST_FILE).exists()


def _complete(folder: Path, stem: str, layout: ModuleType) -> bool:
    """Whether all FRAME_FILES, what rendering writes of a frame, are there; each was put in place whole."""
    return all((folder / pattern.format(stem)).exists() for pattern in layout.FRAME_FILES)


class _Worker:
    """What a process keeps between tasks: the room, ready for rays, and once it is lit, for frames."""

    def __init__(self, room: Room, layout: str):
        self.room, self.layout = room, LAYOUTS[layout]()
        self.tracer = Tracer(room.mesh.vertices, room.mesh.faces)
        self.painter: Painter | None = None

    def light(self, start: int, end: int) -> Float[np.ndarray, "V 3"]:
        return vertex_light(self.room, self.tracer, start, end)

    def paint(self, light: Float[np.ndarray, "V 3"], camera: Pinhole, folder: Path, stem: str) -> None:
        if self.painter is None:
            self.painter = Painter(self.room, self.tracer, light)
        self.layout.write_frame(folder, stem, self.painter.frame(camera), self.room)


_worker: _Worker
"""Of a spawned process."""


def _enter(room: Room, layout: str) -> None:
    """Start of a spawned process: it ends when its parent does, and leaves Ctrl-C to it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(room, layout)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_worker, method)(*arguments)


class _Here:
    """The workers' work done in this process."""

    def __init__(self, room: Room, layout: str):
        self.worker = _Worker(room, layout)

    def run(self, method: str, tasks: list[tuple[Any, ...]]) -> Iterator[Any]:
        return (getattr(self.worker, method)(*task) for task in tasks)

    def close(self) -> None:
        """Nothing is left to stop."""


class _Pool:
    """The workers' work done in spawned processes."""

    def __init__(self, room: Room, layout: str, processes: int):
        self.pool = ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_enter, initargs=(room, layout)
        )

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
    room: Room, layout: str, frames: list[tuple[Pinhole, Path, str]], processes: int
) -> Iterator[None]:
    """Write the frames (camera, folder and stem of each), yielding when each is there."""
    if not frames:
        return
    work = _Here(room, layout) if processes == 1 else _Pool(room, layout, processes)
    try:
        count = len(room.mesh.vertices)
        chunks = [(start, min(start + LIGHT_CHUNK, count)) for start in range(0, count, LIGHT_CHUNK)]
        light = smoothed(room, np.concatenate(list(work.run("light", chunks))))
        for _ in work.run("paint", [(light, *frame) for frame in frames]):
            yield
    finally:
        work.close()
