"""Whole data sets by name: every scene fitted, lifted and scored, skipping what is done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gs_lift.config import Config
from gs_lift.datasets import messy_rooms
from gs_lift.errors import GsLiftError, SceneError, pick
from gs_lift.evaluation import Scores
from gs_lift.pipeline import Reporter, SilentReporter, evaluate_run, fit_run
from gs_lift.run import Run


@dataclass(frozen=True)
class Dataset:
    """How the scenes of a published data set are told from other folders."""

    matches: Callable[[Path], bool]
    config: Config


DATASETS: dict[str, Dataset] = {
    "messy_rooms": Dataset(messy_rooms.matches, Config()),
}


def evaluate_dataset(
    name: str, data: Path, runs: Path, *, reporter: Reporter | None = None
) -> list[tuple[Run, Scores]]:
    """Score every scene of data set `name` found in `data`; run folders go to `runs`.

    A scene that fails is reported and passed over. Raises ConfigError for an unknown name, SceneError if no scene is
    found or none works.
    """
    reporter = reporter or SilentReporter()
    dataset = pick(DATASETS, name, "dataset")
    if not data.is_dir():
        raise SceneError(f"{data}: no such folder; wanted the folder that holds the scenes of {name}")
    scenes = [folder for folder in sorted(data.iterdir()) if folder.is_dir() and dataset.matches(folder)]
    if not scenes:
        raise SceneError(f"{data}: none of its folders is a {name} scene")
    results = []
    for scene in scenes:
        reporter.say(f"scene {scene.name}")
        try:
            run = fit_run(scene, dataset.config, folder=runs / scene.name, reporter=reporter)
            results.append((run, evaluate_run(run, reporter=reporter)))
        except GsLiftError as error:
            reporter.say(f"scene {scene.name} failed: {error}")
    if not results:
        raise SceneError(f"{data}: all {len(scenes)} scenes failed; the lines above say why")
    return results
