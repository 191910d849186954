"""SIFT features of many images, from worker processes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gs_lift.errors import BackendError

WORKER = Path(__file__).with_name("sift_worker.py")


@dataclass(frozen=True)
class Features:
    """One image's features: xy [F 2] in pixels, centres at +0.5; descriptors [F 128] float32 of length 1."""

    xy: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.xy)


def extract(
    grays: list[np.ndarray],
    *,
    workers: int,
    workdir: Path | None = None,
    on_image: Callable[[int], None] = lambda done: None,
) -> list[Features]:
    """The features of grey images (float32 [H W] in 0..1). The number of workers does not change the result.

    on_image(n) is called when n images are done. Raises BackendError if pycolmap is missing or dies.
    """
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sift_", dir=workdir) as name:
        folder = Path(name)
        for i, gray in enumerate(grays):
            np.save(folder / f"gray_{i:06d}.npy", gray.astype(np.float32))
        _run_workers(folder, min(workers, len(grays)), on_image)
        return [_load(folder / f"sift_{i:06d}.npz") for i in range(len(grays))]


def _run_workers(folder: Path, workers: int, on_image: Callable[[int], None]) -> None:
    running: list[subprocess.Popen[bytes]] = []
    try:
        for first in range(workers):
            with (folder / f"worker_{first}.log").open("wb") as log:
                command = [sys.executable, str(WORKER), str(folder), str(first), str(workers)]
                running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log))
        reported = 0
        while any(process.poll() is None for process in running):
            time.sleep(0.05)
            done = len(list(folder.glob("sift_??????.npz")))
            if done > reported:
                on_image(done)
                reported = done
    finally:
        for process in running:
            process.kill()
            process.communicate()
    for first, process in enumerate(running):
        if process.returncode:
            lines = (folder / f"worker_{first}.log").read_text(errors="replace").strip().splitlines()
            said = lines[-1][:200] if lines else "no message"
            raise BackendError(
                f"pycolmap stopped with code {process.returncode} ({said}); "
                "reinstall it, or use data.init=random or data.init=depth"
            )


def _load(path: Path) -> Features:
    with np.load(path) as content:
        descriptors = content["descriptors"].astype(np.float32)
        lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
        return Features(content["xy"].astype(np.float64), descriptors / np.maximum(lengths, 1e-6))
