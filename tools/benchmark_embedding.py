"""How fast embeddings are learnt: steps per second, with W cached and made on the fly, against the memory's bandwidth.

    python tools/benchmark_embedding.py [--json FILE] [--scene FOLDER] [--splat FILE] [--repeats N]

A step of the first table takes the rows of W of random pixels of one of eight views, blends embeddings with them
(W @ E), and makes a step of Adam with the gradient W^T @ G for a given G of the pixels: what a training step does, less
its losses and smoothing. `on the fly` makes those rows anew, from the projection of all Gaussians on.

The floor is the time to move, at the bandwidth that one addition of large arrays reaches in the same run, what any
implementation must: 6 bytes for each entry of the rows and 24 for each row; the embeddings of the Gaussians that are
seen once for the blend, and they and their two moments once more in and out for Adam; the blended pixels out, G in.
Where all of it stays in the caches, a step can be faster than that.

The second table is the real trainer's step at the default settings, and the parts of it.

Everything is interleaved; the median is shown with the minimum in brackets: CPU milliseconds on one thread, which other
programs disturb least, wall-clock on two. On a machine that others use, read the minima. Gaussians: `--splat`, else
those of a short fit of --scene; where that folder is missing, a synthetic room.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import torch
from benchmark_rasterizer import intrinsics, synthetic_room

from gs_lift import _native, ply
from gs_lift.config import DataConfig
from gs_lift.datasets import load_scene
from gs_lift.fitting import FitConfig, fit
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.lifting import LiftConfig, learners, lift, trainer
from gs_lift.lifting.learners import ClassLearner
from gs_lift.lifting.views import Blender, TrainingView
from gs_lift.rendering.weights import PickedRows, Weights
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import Classes, Segments
from gs_lift.threads import torch_on_one_thread

PIXELS, CHANNELS, THREADS = (2048, 4096), (8, 16, 32), (1, 2)
VIEWS = 8
PARTS: dict[str, list[tuple[Any, str]]] = {
    "sampling": [(trainer, "sample_balanced"), (trainer, "sample")],
    "rows of W": [(TrainingView, "rows")],
    "blends": [(PickedRows, "blend")],
    "losses": [(learners, "instance_loss")],
    "gradient and Adam": [(_native, "lifting_adam_blended")],
    "smoothing": [(learners, "smooth")],
    "slow": [(_native, "lifting_follow")],
    "classes": [(ClassLearner, "learn")],
}


def synthetic_scene(size: int = 256) -> tuple[Scene, Gaussians]:
    """Views from the middle of a room of 60,000 Gaussians; a segment is a square of 32 pixels."""
    room = synthetic_room(60_000)
    gaussians = Gaussians.from_points(room.means, torch.rand(60_000, 3), opacity=0.5, sh_degree=0)
    gaussians = Gaussians(
        **vars(gaussians)
        | {
            "quats": room.quats,
            "log_scales": room.scales.log(),
            "logit_opacities": room.opacities.logit(),
        }
    )
    squares = torch.arange(size) // 32
    instance = squares[:, None] * 100 + squares[None]
    segments = Segments(instance, torch.ones(size, size, dtype=torch.int64), torch.ones(size, size))
    views = []
    for number in range(24):
        angle = torch.tensor(number / 24 * 2 * torch.pi)
        target = torch.stack([angle.cos(), torch.tensor(0.3), angle.sin()])
        viewmat = look_at(torch.zeros(3), target, torch.tensor([0.0, -1.0, 0.0])).double()
        camera = Camera(intrinsics(size).double(), viewmat, size, size)
        views.append(View(str(number), camera, lambda: torch.zeros(size, size, 3), lambda: segments))
    classes = Classes(("floor", "thing"), (False, True))
    none = torch.zeros(0, 3)
    return Scene("synthetic room", tuple(views), (), none, none, classes), gaussians


def bandwidth(threads: int, numbers: int = 1 << 24) -> float:
    """Bytes per second of c = a + b on arrays far larger than the caches; the best of a few."""
    a, b, c = (torch.ones(numbers) for _ in range(3))
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.add(a, b, out=c)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    return 3 * 4 * numbers / min(seconds)


class Step:
    """One case of the first table: its state, and what its steps took."""

    def __init__(self, gaussians: int, pixels: int, channels: int, threads: int, cached: bool) -> None:
        self.pixels, self.channels, self.threads, self.cached = pixels, channels, threads, cached
        generator = torch.Generator().manual_seed(0)
        self.embeddings = 0.01 * torch.randn(gaussians, channels, generator=generator)
        self.first, self.second = torch.zeros_like(self.embeddings), torch.zeros_like(self.embeddings)
        self.received = torch.zeros(_native.LIFTING_PARTS, gaussians, channels)
        self.gradient = 0.01 * torch.randn(pixels, channels, generator=generator)
        self.ms: list[float] = []
        self.bytes: list[int] = []

    def take(self, view: View, weights: Weights, blender: Blender, generator: torch.Generator) -> None:
        pixels = torch.randperm(len(weights), generator=generator)[: self.pixels]
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        with torch_on_one_thread(kernels=self.threads):
            start = clock()
            made = weights if self.cached else blender(view, pixels).half()
            rows = made.pick(pixels if self.cached else torch.arange(self.pixels))
            rows.blend(self.embeddings)
            tensors = (self.gradient, self.embeddings, self.first, self.second, self.received)
            _native.lifting_adam_blended(
                *rows.arrays(),
                *(tensor.numpy() for tensor in tensors),
                len(self.ms) + 1,
                0.01,
                0.9,
                0.999,
                1e-8,
                self.threads,
            )
            self.ms.append(1000 * (clock() - start))
        self.bytes.append(self.must_move(weights.rows(pixels)))

    def must_move(self, rows: Weights) -> int:
        entries, seen = len(rows.indices), len(torch.unique(rows.indices))
        width = 4 * self.channels
        return 6 * entries + 24 * self.pixels + (1 + 2 * 3) * width * seen + 2 * width * self.pixels

    def row(self, bytes_per_second: float) -> dict[str, Any]:
        median, best, moved = statistics.median(self.ms), min(self.ms), statistics.mean(self.bytes)
        return {
            "case": "cached" if self.cached else "on the fly",
            "pixels": self.pixels,
            "dimensions": self.channels,
            "threads": self.threads,
            "ms": {"median": round(median, 3), "minimum": round(best, 3)},
            "steps_per_second": {"median": round(1000 / median), "best": round(1000 / best)},
            "bytes": round(moved),
            "floor_ms": round(1000 * moved / bytes_per_second, 3),
        }


def steps(scene: Scene, gaussians: Gaussians, repeats: int) -> list[dict[str, Any]]:
    gaussians = gaussians.detach().rows(trainer.spatial_order(gaussians.means))
    blender = Blender(gaussians, "cpu", LiftConfig().minimum_weight)
    views = scene.train[:VIEWS]
    weights = [blender(view, torch.arange(view.camera.height * view.camera.width)).half() for view in views]
    cases = [
        Step(len(gaussians), pixels, channels, threads, cached)
        for cached in (True, False)
        for pixels in PIXELS
        for channels in CHANNELS
        for threads in THREADS
    ]
    generator = torch.Generator().manual_seed(1)
    speed: dict[int, float] = defaultdict(float)
    for repeat in range(repeats):
        if repeat % 4 == 0:
            for threads in THREADS:
                speed[threads] = max(speed[threads], bandwidth(threads))
        for case in cases:
            # The first step of a turn finds its state pushed out of the caches by the other cases.
            for turn in range(5 if case.cached else 2):
                number = (repeat * 5 + turn) % len(views)
                case.take(views[number], weights[number], blender, generator)
    entries = sum(len(each.indices) for each in weights) / sum(len(each) for each in weights)
    about = {
        "case": "machine",
        "gaussians": len(gaussians),
        "entries_per_pixel": round(entries, 1),
        "megabytes_per_view": round(sum(each.nbytes for each in weights) / len(weights) / 1e6, 1),
        "gigabytes_per_second": {str(threads): round(rate / 1e9, 1) for threads, rate in speed.items()},
    }
    return [about] + [case.row(speed[case.threads]) for case in cases]


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        result = function(*arguments, **options)
        seconds[-1] += time.thread_time() - start
        return result

    return wrapper


def real_step(scene: Scene, gaussians: Gaussians, cached: bool, count: int) -> dict[str, Any]:
    """The trainer itself, `count` steps at the default settings; and its parts, in another run of as many."""
    config = LiftConfig(steps=count)

    def ms_of_steps(on_step: Callable[[], None]) -> list[float]:
        ticks: list[float] = []

        def note(step: int, figures: dict[str, float]) -> None:
            ticks.append(time.thread_time())
            on_step()

        lift(scene, gaussians, config, memory_budget_gb=2.0 if cached else 0.0, on_step=note)
        return [1000 * (end - start) for start, end in itertools.pairwise(ticks)]

    plain = ms_of_steps(lambda: None)
    parts = {name: [0.0] for name in PARTS}
    originals = [(owner, name, getattr(owner, name)) for places in PARTS.values() for owner, name in places]
    for part, places in PARTS.items():
        for owner, name in places:
            setattr(owner, name, timed(getattr(owner, name), parts[part]))
    try:
        ms_of_steps(lambda: [seconds.append(0.0) for seconds in parts.values()] and None)
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    median, best = statistics.median(plain), min(plain)
    medians = {name: 1000 * statistics.median(seconds[1:-1]) for name, seconds in parts.items()}
    return {
        "case": "trainer, cached" if cached else "trainer, on the fly",
        "pixels": config.pixels + config.semantic_pixels,
        "dimensions": config.dimensions,
        "threads": 1,
        "ms": {"median": round(median, 3), "minimum": round(best, 3)},
        "steps_per_second": {"median": round(1000 / median), "best": round(1000 / best)},
        "parts_ms": {name: round(ms, 3) for name, ms in medians.items()},
    }


def show(rows: list[dict[str, Any]]) -> None:
    about = rows[0]
    print(
        f"{about['gaussians']} Gaussians, {about['entries_per_pixel']} entries per pixel, "
        f"{about['megabytes_per_view']} MB per view; GB/s by threads: {about['gigabytes_per_second']}"
    )
    print("case        pixels   D  threads      ms [best]   steps/s [best]   floor ms   MB")
    for row in rows[1:]:
        if "floor_ms" not in row:
            continue
        print(
            f"{row['case']:10}  {row['pixels']:6}  {row['dimensions']:2}  {row['threads']:7}  "
            f"{row['ms']['median']:6.2f} [{row['ms']['minimum']:5.2f}]   "
            f"{row['steps_per_second']['median']:6} [{row['steps_per_second']['best']:5}]   "
            f"{row['floor_ms']:8.2f}  {row['bytes'] / 1e6:4.1f}"
        )
    for row in rows[1:]:
        if "parts_ms" in row:
            whole = sum(row["parts_ms"].values())
            print(
                f"{row['case']}: {row['ms']['median']:.2f} [{row['ms']['minimum']:.2f}] ms a step; medians:"
            )
            for name, ms in row["parts_ms"].items():
                print(f"    {name:18} {ms:6.3f} ms  {100 * ms / max(whole, row['ms']['median']):3.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--scene", type=Path, default=Path("../shared/data/messy_sam_50"))
    parser.add_argument("--splat", type=Path, help="PLY of Gaussians of the scene")
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    if options.scene.exists():
        scene = load_scene(options.scene, DataConfig(init="depth"))
        gaussians = ply.read_splat(options.splat) if options.splat else fit(scene, FitConfig(steps=500))
    else:
        scene, gaussians = synthetic_scene()
    print(scene.name)
    torch.set_num_threads(max(THREADS))
    rows = steps(scene, gaussians, options.repeats)
    rows += [real_step(scene, gaussians, True, 300), real_step(scene, gaussians, False, 100)]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
