"""Many scenes, each in a process of its own, here or on a cluster: skips what is done, tries again what fails."""

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gs_lift.batch.engines import ENGINES, BatchConfig, open_engine
from gs_lift.batch.scenes import list_scenes
from gs_lift.batch.task import PROTOCOLS_OF_TABLES, Result, Task, finished
from gs_lift.config import Config
from gs_lift.errors import ConfigError, RunError
from gs_lift.pipeline import LiftBlocks, Reporter, SilentReporter
from gs_lift.run import Run

__all__ = [
    "ENGINES",
    "PROTOCOLS_OF_TABLES",
    "BatchConfig",
    "Outcome",
    "Result",
    "Task",
    "batch_tasks",
    "lift_blocks_by",
    "list_scenes",
    "run_batch",
]

TICK_S = 0.5
"""Seconds at most until a Ctrl-C is heard."""

SHOWN = 3
"""Running scenes whose step stands beside the bar."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or the line that says why there is none."""

    task: Task
    result: Result | None
    reason: str | None = None


def batch_tasks(scenes: Sequence[Path], runs: Path, config: Config, *, overwrite: bool = False) -> list[Task]:
    """A task for each scene folder; its run goes to runs/<name of the folder>."""
    tasks = [
        Task(scene.absolute(), runs.absolute() / scene.name, config, overwrite=overwrite) for scene in scenes
    ]
    for task in tasks:
        if task.folder.resolve() == task.scene.resolve():
            raise ConfigError(
                f"{runs}: {task.name} there is the scene itself; choose another folder for runs"
            )
    return tasks


def run_batch(
    tasks: Sequence[Task], config: BatchConfig | None = None, *, reporter: Reporter | None = None
) -> list[Outcome]:
    """Do all tasks that are not done yet; an outcome for each, in their order.

    A task that fails, by an error or because its process died, is tried again after the others. After Ctrl-C those that
    run stop at a whole step, and the same call goes on from there. Raises BackendError if the engine is not to be had.
    """
    config, reporter = config or BatchConfig(), reporter or SilentReporter()
    outcomes = {task.name: Outcome(task, result) for task in tasks if (result := finished(task))}
    if outcomes:
        reporter.say(f"{len(outcomes)} of {len(tasks)} scenes were done before")
    todo = deque(task for task in tasks if task.name not in outcomes)
    if not todo:
        return [outcomes[task.name] for task in tasks]
    tried: Counter[str] = Counter()
    running: dict[str, Task] = {}
    with open_engine(config, len(todo)) as engine:
        try:
            with reporter.stage("scenes", len(todo)) as on_step:
                done_before = len(outcomes)
                while todo or running:
                    while todo and engine.free:
                        engine.start(task := todo.popleft())
                        running[task.name] = task
                        tried[task.name] += 1
                    on_step(len(outcomes) - done_before, _steps(list(running.values())))
                    for task, reason in engine.ended(TICK_S):
                        del running[task.name]
                        outcome = _outcome(task, reason)
                        again = outcome.result is None and tried[task.name] <= config.retries
                        if again:
                            todo.append(task)
                        else:
                            outcomes[task.name] = outcome
                        reporter.say(_line(outcome, again, f"{len(outcomes)} of {len(tasks)}"))
                on_step(len(outcomes) - done_before, {})
        except KeyboardInterrupt:
            if running:
                scenes = f"{len(running)} scene{'s' if len(running) > 1 else ''}"
                reporter.say(f"stopping {scenes} at a whole step; Ctrl-C again kills what runs")
            raise
    return [outcomes[task.name] for task in tasks]


def lift_blocks_by(config: BatchConfig, reporter: Reporter) -> LiftBlocks:
    """For `fit_run`: the blocks of a large scene, each lifted and segmented in a process of its own.

    What it gives raises RunError where a block failed, after the others are done.
    """

    def lift_blocks(runs: Sequence[Run]) -> None:
        tasks = [Task(run.scene, run.folder.absolute(), run.config) for run in runs]
        outcomes = run_batch(tasks, config, reporter=reporter)
        if failed := [one for one in outcomes if one.result is None]:
            named = ", ".join(f"{one.task.folder} ({one.reason})" for one in failed)
            raise RunError(f"{len(failed)} of {len(runs)} blocks failed: {named}; the same command goes on")

    return lift_blocks


def _outcome(task: Task, reason: str | None) -> Outcome:
    result = finished(task)
    if result is None and reason is None:
        reason = f"no result in {task.folder}; wanted a folder that all machines share, or see {task.log}"
    return Outcome(task, result, reason if result is None else None)


def _line(outcome: Outcome, again: bool, count: str) -> str:
    result, name = outcome.result, outcome.task.name
    if result is None:
        return f"scene {name} failed: {outcome.reason}" + ("; it is tried again" if again else f" ({count})")
    quality = "" if result.pq_scene is None else f", PQ {result.pq_scene:.3f}"
    return f"scene {name}: {result.seconds:.0f} s, {result.objects} objects{quality} ({count})"


def _steps(running: Sequence[Task]) -> dict[str, float]:
    """How far running scenes are: {"room_1 fit": 340}, of the first few."""
    steps = {}
    for task in running[:SHOWN]:
        try:
            with (task.folder / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                last = json.loads(file.read().splitlines()[-1])
            steps[f"{task.name} {last['stage']}"] = float(last["step"])
        except (OSError, ValueError, LookupError, TypeError):  # nothing yet, or half a line
            continue
    return steps
