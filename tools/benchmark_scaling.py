"""How time and memory of each stage grow with views, Gaussians and objects: the whole line on rooms of `gslift synth`.

    python tools/benchmark_scaling.py [AXIS ...] [--values N,N,...] [--set section.field=value ...] [--out runs/scaling]
    python tools/benchmark_scaling.py --room DIR [--run NAME] [--set ...]

AXIS is one of AXES: one quantity varies, the others stay at BASE. Every stage of every room is a process of its own,
which leaves its result to the next one; what is done is skipped, so the command can be stopped and started again. With
--room a scene folder is measured as it is. What is --set makes a run of its own.

A table for each axis: CPU seconds of each stage (all threads: on a busy machine they tell more than seconds), wall
seconds, CPU milliseconds of a step of the fit and of lifting, and the most memory that the process held, MB. `start` is
a process that imports and does nothing. The last row is the exponent that fits best, the slope of log over log, to what
a stage takes above that: 0 = does not grow, 1 = in proportion. `outputs` writes labels.ply and what goes with it;
`eval` scores the test views.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import typer
from rich.console import Console
from rich.table import Table

from gs_lift.config import load_config
from gs_lift.files import write_text_atomic
from gs_lift.pipeline import SilentReporter, evaluate_run, fit_run, segment_run, write_outputs
from gs_lift.run import Run

START = "start"
STAGES = ("points", "fit", "lift", "segment", "outputs", "eval")


@dataclass(frozen=True)
class Cell:
    """A room, and how many Gaussians it is fitted with."""

    views: int = 100
    gaussians: int = 60_000
    objects: int = 100
    size: int = 128

    @property
    def room(self) -> str:
        return f"room_{self.objects}_{self.views}_{self.size}"

    @property
    def name(self) -> str:
        return f"{self.room}_{self.gaussians}"


BASE = Cell()

AXES: dict[str, list[Cell]] = {
    "views": [replace(BASE, views=count) for count in (50, 100, 200, 400)],
    "gaussians": [replace(BASE, gaussians=count) for count in (30_000, 60_000, 120_000, 240_000)],
    "objects": [replace(BASE, objects=count) for count in (25, 100, 400)],
    "capture": [replace(BASE, views=count, size=64, gaussians=20_000) for count in (200, 2_000)],
}
"""`capture`: 2,000 photos against 200; with `--set memory_budget_gb=0.05` what is kept shows."""

SETTINGS = ["device=cpu", "data.init=depth", "fit.steps=600", "fit.evaluate_every=0", "lift.steps=1000"]
"""Short: time and memory of a step do not depend on how many follow."""

Figures = dict[str, dict[str, float]]
"""Of each stage: seconds, cpu, mb; of fit and lift also step_ms."""


class Until(SilentReporter):
    """Ends a fit before the stage that comes after the one that is wanted, whose steps it times."""

    def __init__(self, wanted: str):
        self.wanted = wanted
        self._steps: list[tuple[int, float]] = []

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
        if name in STAGES and STAGES.index(name) > STAGES.index(self.wanted):
            raise KeyboardInterrupt

        def on_step(step: int, figures: dict[str, float]) -> None:
            if name == self.wanted and step:
                self._steps[1:] = [(step, time.process_time())]  # the first one stays

        yield on_step

    @property
    def figures(self) -> dict[str, float]:
        """step_ms: CPU milliseconds of a step after the first."""
        if self.wanted == "points" or len(self._steps) < 2:
            return {}
        (first, begun), (last, ended) = self._steps
        return {"step_ms": 1000 * (ended - begun) / (last - first)}


def work(stage: str, room: Path, folder: Path, settings: Sequence[str]) -> dict[str, float]:
    """One stage, in a process of its own: what it has found out itself."""
    until = Until(stage)
    one_stage(stage, room, folder, settings, until)
    return until.figures


def one_stage(stage: str, room: Path, folder: Path, settings: Sequence[str], until: Until) -> None:
    run = Run(folder)
    if stage == START:
        return
    if stage == "segment":
        segment_run(run)
    elif stage == "outputs":
        write_outputs(run, folder.with_name(f"{folder.name}.ply"))
    elif stage == "eval":
        evaluate_run(run)
    else:
        try:
            fit_run(room, load_config(None, list(settings)), folder=folder, reporter=until)
        except KeyboardInterrupt:
            if stage == "lift":
                raise


def measured(command: Sequence[str]) -> dict[str, float]:
    """Run it to its end: seconds, CPU seconds, and the most memory of it or of any process that it started."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise typer.Exit(1)
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mb": usage.ru_maxrss * unit / 1e6,
    }


def line(room: Path, folder: Path, settings: Sequence[str], console: Console) -> Figures:
    """The figures of every stage, kept beside the run."""
    path, own = (folder.with_name(f"{folder.name}.json.{name}") for name in ("figures", "steps"))
    path.parent.mkdir(parents=True, exist_ok=True)
    done: Figures = json.loads(path.read_text()) if path.exists() else {}
    for stage in (START, *STAGES):
        if stage not in done:
            console.print(f"{folder.name}: {stage}")
            command = [sys.executable, __file__, "--work", stage, "--room", str(room), "--run", str(folder)]
            command += ["--result", str(own)]
            done[stage] = measured([*command, *(word for each in settings for word in ("--set", each))])
            done[stage] |= json.loads(own.read_text())
            own.unlink()
            write_text_atomic(path, json.dumps(done, indent=1) + "\n")
    return done


def made(cell: Cell, out: Path, console: Console) -> Path:
    room = out / "rooms" / cell.room
    if not (room / "metadata.json").exists():
        console.print(f"{cell.room}: synth")
        options = {"--objects": cell.objects, "--views": cell.views, "--size": cell.size, "--seed": 0}
        words = [str(word) for pair in options.items() for word in pair]
        measured([sys.executable, "-m", "gs_lift", "synth", str(room), *words])
    return room


def named(name: str, settings: Sequence[str]) -> str:
    """Of a run: one with other settings is another."""
    return "_".join([name, *(re.sub(r"[^\w.=-]", "", one) for one in sorted(settings))])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log value over log size, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 0.1)) for value in values]
    center_x, center_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - center_x) ** 2 for one in x)
    return sum((a - center_x) * (b - center_y) for a, b in zip(x, y, strict=True)) / spread


def show(title: str, sizes: Sequence[float], rows: Sequence[Figures], console: Console) -> None:
    for what, unit in (("cpu", "CPU s"), ("seconds", "s"), ("mb", "MB")):
        table = Table(title=f"{title}: {unit}", box=None)
        for name in (title, START, *STAGES):
            table.add_column(name, justify="right")
        for size, figures in zip(sizes, rows, strict=True):
            table.add_row(f"{size:,.0f}", *(f"{figures[stage][what]:.0f}" for stage in (START, *STAGES)))
        if len(rows) > 1:
            start = min(figures[START][what] for figures in rows)
            above = ([figures[stage][what] - start for figures in rows] for stage in STAGES)
            table.add_row("exponent", "", *(f"{exponent(sizes, values):.2f}" for values in above))
        console.print(table)
    for size, figures in zip(sizes, rows, strict=True):
        steps = {stage: found["step_ms"] for stage, found in figures.items() if "step_ms" in found}
        said = ", ".join(f"{stage} {value:.1f}" for stage, value in steps.items())
        console.print(f"{title} {size:,.0f}: CPU ms a step: {said}")


def main(
    axes: Annotated[list[str] | None, typer.Argument(metavar="[AXIS ...]")] = None,
    values: Annotated[str | None, typer.Option(help="Of one axis, instead of its own.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set")] = None,
    out: Annotated[Path, typer.Option()] = Path("runs/scaling"),
    room: Annotated[Path | None, typer.Option(help="A scene to measure.")] = None,
    run: Annotated[Path | None, typer.Option(help="Its run folder.")] = None,
    work_on: Annotated[str | None, typer.Option("--work", hidden=True)] = None,
    result: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    settings = list(overrides or [])
    if work_on is not None:
        assert room is not None
        assert run is not None
        assert result is not None
        return write_text_atomic(result, json.dumps(work(work_on, room, run, settings)) + "\n")
    console = Console(width=160)
    if room is not None:
        return show(
            "room", [1], [line(room, run or out / named(room.name, settings), settings, console)], console
        )
    for axis in axes or [name for name in AXES if name != "capture"]:
        cells = AXES[axis]
        if values is not None:
            field = "views" if axis == "capture" else axis
            cells = [replace(cells[0], **{field: int(value)}) for value in values.split(",")]
        figures = []
        for cell in cells:
            sized = [f"fit.max_gaussians={cell.gaussians}", f"data.init_points={cell.gaussians}"]
            own = [*SETTINGS, *sized, *settings]
            place = out / axis if axis == "capture" else out
            figures.append(line(made(cell, out, console), place / named(cell.name, settings), own, console))
        sizes = [float(getattr(cell, "views" if axis == "capture" else axis)) for cell in cells]
        show(axis, sizes, figures, console)


if __name__ == "__main__":
    typer.run(main)
