"""One scene of a batch: what is to be done, doing it, and whether it is done.

Its run folder holds, besides what a run has (run.py):

labels.ply      the objects, with labels.json and instances.ply
result.json     a Result: written last, so the scene is done where it is there and not older than what it tells of
.worker         host and process that work here, or did last; locked while they do
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gs_lift.block_runs import is_block
from gs_lift.config import Config, config_hash
from gs_lift.files import locked, write_text_atomic
from gs_lift.pipeline import (
    Reporter,
    evaluate_run,
    fit_run,
    read_scene,
    scored_run,
    segment_run,
    write_outputs,
)
from gs_lift.protocols import RELEASED, STRICT
from gs_lift.run import Run

PROTOCOLS_OF_TABLES = (RELEASED, STRICT)
"""By which every scene of a batch is scored; the first is shown."""


@dataclass(frozen=True)
class Task:
    """A scene folder, the run folder that it goes to, and how; both paths absolute. threads: 0 = torch's own."""

    scene: Path
    folder: Path
    config: Config
    threads: int = 0
    overwrite: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run(self) -> Run:
        return Run(self.folder)

    @property
    def labels(self) -> Path:
        return self.folder / "labels.ply"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def worker(self) -> Path:
        return self.folder / ".worker"

    @property
    def log(self) -> Path:
        """What its workers print; beside the run folder, which must not hold anything before it is a run."""
        return self.folder.with_name(f"{self.name}.log")


@dataclass(frozen=True)
class Result:
    """What is kept of a scene that is done."""

    scene: str
    settings: str
    """`config_hash` of what was asked for, before `auto` became what a machine has."""
    seconds: float
    """Of all stages."""
    objects: int
    scored: bool
    """Whether there are test views; scores.json has their scores by PROTOCOLS_OF_TABLES."""
    pq_scene: float | None
    """By the first of them; None where there is no truth."""


def finished(task: Task) -> Result | None:
    """The result of a task that is done with these settings; None if it is not, or was cut or edited since."""
    try:
        result = Result(**json.loads(task.result.read_text()))
        made = [*(task.run.result(stage) for stage in ("fit", "lift", "segment")), task.labels]
        changed = max(path.stat().st_mtime_ns for path in made)
        if changed > task.result.stat().st_mtime_ns:
            return None
    except (OSError, ValueError, TypeError):  # not there, torn, or of another version
        return None
    if (result.scene, result.settings) != (str(task.scene.resolve()), config_hash(task.config)):
        return None
    return None if result.scored and scored_run(task.run, PROTOCOLS_OF_TABLES) is None else result


def do_scene(task: Task, reporter: Reporter) -> Result:
    """Fit, lift, segment and score a scene, skipping what is done, and write labels.ply and its result.

    Waits for any other process that is at it, so that two batches may share a folder. Raises what the stages raise.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    task.worker.touch()
    with locked(task.worker):
        if done := finished(task):
            return done
        task.worker.write_text(f"{socket.gethostname()} {os.getpid()}\n")
        if task.threads:
            torch.set_num_threads(task.threads)
        run = fit_run(
            task.scene, task.config, folder=task.folder, overwrite=task.overwrite, reporter=reporter
        )
        task.result.unlink(missing_ok=True)
        instances = segment_run(run, reporter=reporter)
        write_outputs(run, task.labels, reporter=reporter)
        scores = None
        if read_scene(run).test and not is_block(run):
            scores = scored_run(run, PROTOCOLS_OF_TABLES)
            scores = scores or evaluate_run(run, PROTOCOLS_OF_TABLES, reporter=reporter)
        result = Result(
            scene=str(task.scene.resolve()),
            settings=config_hash(task.config),
            seconds=round(sum(run.seconds.values()), 2),
            objects=len(instances.present),
            scored=scores is not None,
            pq_scene=scores[RELEASED].pq_scene if scores else None,
        )
        write_text_atomic(task.result, json.dumps(asdict(result), indent=1) + "\n")
        return result
