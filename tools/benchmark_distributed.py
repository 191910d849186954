"""What sharing one scene among processes costs and brings: 1, 2, 4 gloo processes on this machine.

    python tools/benchmark_distributed.py [SCENE] [--processes 1 2 4] [--batch 4] [--steps 30] [--rounds 3]
                                          [--set section.field=value]

For the fit and for lifting, all with the same batch: seconds a step (median over rounds, which are interleaved, so that
whatever else the machine does falls on all alike), the bytes that a process hands to the other ones' sum at each step,
those of the same gradients without leaving out rows, and the efficiency: the steps a second of N processes against N
times those of one. Where other programs have the cores too, a better guide is the CPU's seconds a step of the first
process, in which waiting for others does not count. Also whether the parameters are the same to the byte. Prints the
rows of the table in docs/scaling.md. By default the room of `gslift demo`, fitted for 600 steps first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import torch
import torch.distributed as dist
from torch import Tensor

from gs_lift import ply
from gs_lift.config import Config, load_config
from gs_lift.datasets import load_scene
from gs_lift.distributed import SUM, checksum, joined, rank_zero
from gs_lift.fitting import fit
from gs_lift.gaussians import Gaussians
from gs_lift.lifting import lift
from gs_lift.points import initial_points
from gs_lift.scene import Scene
from gs_lift.synthetic import SynthConfig, synthesize

SKIPPED = 5
"""Steps that are not timed: photos are read, memory is new."""


class Sent:
    """Bytes of all that is summed over the processes."""

    def __init__(self) -> None:
        self.bytes, self._all_reduce = 0, dist.all_reduce
        dist.all_reduce = self  # type: ignore[assignment]

    def __call__(self, tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        self.bytes += tensor.numel() * tensor.element_size()
        return self._all_reduce(tensor, *arguments, **named)


class Watch:
    """An OnStep that keeps the seconds of each step and the bytes until the first that is timed."""

    def __init__(self, sent: Sent) -> None:
        self.sent, self.at, self.seconds, self.count = sent, time.perf_counter(), list[float](), 0
        self.before, self.cpu_at, self.cpu_seconds = 0, time.process_time(), list[float]()

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        now = time.perf_counter()
        self.count += 1
        if self.count > SKIPPED:
            self.seconds.append(now - self.at)
            self.cpu_seconds.append(time.process_time() - self.cpu_at)
        else:
            self.before = self.sent.bytes
        self.at, self.cpu_at = now, time.process_time()

    def figures(self, sent: int) -> dict[str, float]:
        return {
            "seconds": statistics.median(self.seconds),
            "cpu": statistics.median(self.cpu_seconds),
            "bytes": (sent - self.before) / max(1, len(self.seconds)),
        }


def starting_gaussians(scene: Scene, config: Config) -> Gaussians:
    points, colors = initial_points(scene, config.data.init, seed=config.seed, count=config.data.init_points)
    scene = replace(scene, points=points, colors=colors)
    return fit(scene, replace(config.fit, batch=1, steps=600, evaluate_every=0), seed=config.seed)


def work(room: Path, splat: Path, config: Config, out: Path) -> None:
    """One process: both stages from the same Gaussians; the first writes what it saw."""
    torch.set_num_threads(1)
    scene, gaussians, sent = load_scene(room, config.data), ply.read_splat(splat), Sent()
    # The Gaussians of a fit as points to start from: as many of them, about where they end.
    scene = replace(scene, points=gaussians.means, colors=(gaussians.sh0[:, 0] * 0.28209 + 0.5).clamp(0, 1))
    found: dict[str, Any] = {}
    with joined():
        watch = Watch(sent)
        fitted = fit(scene, config.fit, seed=config.seed, on_step=watch)
        row = 11 + 3 * (1 + fitted.shN.shape[1]) + 1
        found["fit"] = watch.figures(sent.bytes) | {
            "dense": len(fitted) * row * SUM.itemsize, "checksum": checksum(fitted.parameters().values()),
        }  # fmt: skip
        watch = Watch(sent)
        embeddings = lift(scene, gaussians, config.lift, seed=config.seed, on_step=watch)
        row = config.lift.dimensions + len(scene.classes)
        found["lift"] = watch.figures(sent.bytes) | {
            "dense": len(gaussians) * row * SUM.itemsize,
            "checksum": checksum([embeddings.fast, embeddings.slow, embeddings.semantic]),
        }
        if rank_zero():
            out.write_text(json.dumps(found))
    os._exit(0)  # see gs_lift/cli.py


def measured(processes: int, arguments: list[str], folder: Path) -> dict[str, Any]:
    out = folder / "figures.json"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "--",
    ]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, __file__, *arguments, "--out", str(out)], check=True, env=variables)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("room", nargs="?", type=Path)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--splat", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Full photos and all of the spherical harmonics from the first step: the steps that a fit takes most of.
    settings = [
        f"fit.batch={options.batch}", f"lift.batch={options.batch}", f"fit.steps={options.steps}",
        f"lift.steps={options.steps}", "fit.coarse_until=0", "fit.sh_every=1", "fit.densify_from=100000",
        "fit.evaluate_every=0", "device=cpu", "data.init=depth", *options.overrides,
    ]  # fmt: skip
    config = load_config(None, settings)
    if options.out is not None:
        work(options.room, options.splat, config, options.out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room, splat = options.room or folder / "demo", folder / "splat.ply"
        if options.room is None:
            synthesize(room, SynthConfig())
        ply.write_splat(
            splat, starting_gaussians(load_scene(room, config.data), load_config(None, ["data.init=depth"]))
        )
        arguments = [
            str(room),
            "--splat",
            str(splat),
            "--batch",
            str(options.batch),
            "--steps",
            str(options.steps),
        ]
        arguments += [part for override in options.overrides for part in ("--set", override)]
        rounds = [
            {count: measured(count, arguments, folder) for count in options.processes}
            for _ in range(options.rounds)
        ]
    print(
        "| stage | processes | s / step | efficiency | CPU s / step | sent / step | all rows | same bytes |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for stage in ("fit", "lift"):
        first = options.processes[0]
        for count in options.processes:
            all_rounds = [one[count][stage] for one in rounds]
            seconds = statistics.median(one["seconds"] for one in all_rounds)
            # Ratios within a round: both were measured under the same load, or nearly.
            ratio = statistics.median(
                one[first][stage]["seconds"] * first / (one[count][stage]["seconds"] * count)
                for one in rounds
            )
            same = len({one[other][stage]["checksum"] for one in rounds for other in (first, count)}) == 1
            cpu = statistics.median(one["cpu"] for one in all_rounds)
            sent, dense = all_rounds[0]["bytes"] / 1e6, all_rounds[0]["dense"] / 1e6
            print(
                f"| {stage} | {count} | {seconds:.3f} | {ratio:.2f} | {cpu:.3f} | {sent:.2f} MB | {dense:.1f} MB | "
                f"{'yes' if same else 'no'} |"
            )


if __name__ == "__main__":
    main()
