"""How good a fit is after how many seconds, and where they go.

    python tools/benchmark_fit.py [ROOMS...] [--init depth triangulate] [--threads N] [--set fit.FIELD=VALUE]
                                  [--json FILE]

ROOM is a scene folder, or `demo` for the room of `gslift demo`; by default the demo's and, where they are,
../shared/data/messy_sam_50 and ../shared/data/redkitchen_sam. Each is fitted in a process of its own, from each --init
that it has. Shown are PSNR and SSIM of the test views against the seconds of fitting (without those of scoring), the
share of each part of a step, the time of finding the starting points, the peak memory of the process, and the floor:
the seconds of the blending arithmetic alone, by the operations that tools/benchmark_rasterizer.py counts, on views of
the final Gaussians.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import torch

from gs_lift import _native
from gs_lift.config import Config, load_config
from gs_lift.datasets import load_scene
from gs_lift.errors import GsLiftError
from gs_lift.fitting import fit, trainer
from gs_lift.fitting.steps import FusedStep, Step
from gs_lift.gaussians import Gaussians
from gs_lift.points import initial_points
from gs_lift.scene import Scene
from gs_lift.synthetic import SynthConfig, synthesize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SCORED_EVERY = 250


def default_rooms() -> list[str]:
    return [
        "demo",
        *(str(SHARED / name) for name in ("messy_sam_50", "redkitchen_sam") if (SHARED / name).is_dir()),
    ]


def starting_scene(room: str, init: str, config: Config, folder: Path) -> tuple[Scene, float]:
    """The scene with its starting points, and the seconds that these took."""
    path = Path(room)
    if room == "demo":
        path = folder / "demo"
        synthesize(path, SynthConfig())
    scene = load_scene(path, replace(config.data, init=init))
    start = time.perf_counter()
    points, colors = initial_points(scene, init, seed=config.seed, count=config.data.init_points)
    return replace(scene, points=points, colors=colors), time.perf_counter() - start


def pairs_of(gaussians: Gaussians, scene: Scene) -> tuple[float, float]:
    """Evaluated and blended (pixel, Gaussian) pairs of a training view, on average."""
    evaluated, blended, views = 0, 0, scene.train[::6]
    count = len(gaussians)
    means2d, conics, depths = torch.empty(count, 2), torch.empty(count, 3), torch.empty(count)
    radii, frame = torch.empty(count, 2, dtype=torch.int32), _native.Frame()
    means, quats, scales, opacities = (
        tensor.contiguous()
        for tensor in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
    )
    for view in views:
        camera = view.camera
        size = (camera.width, camera.height)
        _native.project(
            means, quats, scales, opacities, camera.viewmat.float().contiguous(), camera.K.float().contiguous(), *size,
            0.01, 1e10, 0.3, means2d, conics, depths, None, radii, 1,
        )  # fmt: skip
        frame.build(means2d, conics, opacities, depths, radii, *size, 1)
        pairs = frame.pixel_pairs()
        evaluated, blended = evaluated + pairs[0], blended + pairs[1]
    return evaluated / len(views), blended / len(views)


def floor_seconds(gaussians: Gaussians, scene: Scene, config: Config) -> float:
    """Of blending forward and backward in three channels over all steps, a coarse one counting as a quarter."""
    evaluated, blended = pairs_of(gaussians, scene)
    matrix, best = torch.rand(1024, 1024), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    steps = config.fit.steps * (1 - 0.75 * config.fit.coarse_until)
    return steps * (10 * evaluated + (48 + 9) * blended) / (1024**3 / best)


def measure(room: str, init: str, config: Config, threads: int, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(threads)
    scene, points_seconds = starting_scene(room, init, config, folder)
    steps: list[Step] = []

    def remembered(*arguments: Any) -> Step:
        steps.append(step_for(*arguments))
        return steps[-1]

    step_for, trainer.step_for = trainer.step_for, remembered
    curve: list[dict[str, float]] = []
    clock = {"fitting": 0.0, "since": time.perf_counter()}
    held_out = trainer._held_out

    def scored(*arguments: Any) -> dict[str, float]:
        clock["fitting"] += time.perf_counter() - clock["since"]
        figures = held_out(*arguments)
        curve.append({"seconds": clock["fitting"], **figures})
        clock["since"] = time.perf_counter()
        return figures

    trainer._held_out = scored

    def on_step(step: int, figures: dict[str, float]) -> None:
        if step % SCORED_EVERY == 0:
            print(
                f"\r{Path(room).name} from {init}: {step}/{config.fit.steps}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    gaussians = fit(scene, config.fit, seed=config.seed, on_step=on_step)
    seconds = clock["fitting"] + time.perf_counter() - clock["since"]
    print(file=sys.stderr)
    fused = steps[0]
    assert isinstance(fused, FusedStep)
    parts = fused.seconds()
    return {
        "case": {"room": Path(room).name, "init": init, "threads": threads, "steps": config.fit.steps},
        "gaussians": len(gaussians),
        "points_seconds": points_seconds,
        "fit_seconds": seconds,
        "curve": curve,
        "parts": parts | {"rest": seconds - sum(parts.values())},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "floor": floor_seconds(gaussians, scene, config),
    }


def apart(sender: Connection, *arguments: Any) -> None:
    """`measure` in a process of its own: peak memory is that of one fit."""
    try:
        sender.send(measure(*arguments))
    except GsLiftError as error:
        sender.send({"failed": str(error)})


def show(row: dict[str, Any]) -> None:
    case, curve = row["case"], row["curve"]
    print(
        f"\n{case['room']} from {case['init']}, {case['threads']} thread(s): {row['fit_seconds']:.0f} s "
        f"(points {row['points_seconds']:.0f} s), {row['gaussians']} Gaussians, {row['peak_mb']:.0f} MB at the peak; "
        f"blending's arithmetic {row['floor']:.0f} s"
    )
    print("  " + ", ".join(f"{p['seconds']:.0f} s {p['psnr']:.2f} dB {p['ssim']:.3f}" for p in curve))
    print(
        "  "
        + ", ".join(f"{name} {seconds / row['fit_seconds']:.0%}" for name, seconds in row["parts"].items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rooms", nargs="*", default=default_rooms())
    parser.add_argument("--init", nargs="+", default=["depth", "triangulate"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="section.field=value")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    config = load_config(None, [f"fit.evaluate_every={SCORED_EVERY}", *options.overrides])
    rows = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for room in options.rooms:
            for init in options.init:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=apart, args=(sender, room, init, config, options.threads, Path(folder))
                )
                process.start()
                row = receiver.recv()
                process.join()
                if "failed" in row:
                    print(f"\n{room} from {init}: {row['failed']}")
                    continue
                show(row)
                rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
