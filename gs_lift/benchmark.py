"""Whole data sets by name: every scene fitted, lifted and scored, skipping what is done; and what others published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gs_lift.batch import PROTOCOLS_OF_TABLES, BatchConfig, Outcome, batch_tasks, run_batch
from gs_lift.config import Config, load_config
from gs_lift.datasets import messy_rooms, panoptic_lifting
from gs_lift.errors import SceneError, pick
from gs_lift.evaluation import Scores
from gs_lift.pipeline import Reporter, SilentReporter, scored_run
from gs_lift.run import Run


@dataclass(frozen=True)
class Dataset:
    """How the scenes of a published data set are told from other folders, and which it has.

    scenes: names of the paper's scenes. published: PQ^scene of each method by the released metric, the mean over them.
    """

    matches: Callable[[Path], bool]
    scenes: tuple[str, ...]
    published: Mapping[str, float]

    def missing(self, found: list[str]) -> list[str]:
        """The paper's scenes that are not among `found`, whose names may have `scene` in front or other separators."""
        there = {_plain(name) for name in found}
        return [name for name in self.scenes if _plain(name) not in there]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower().removeprefix("scene") if letter.isalnum())


DATASETS: dict[str, Dataset] = {
    "messy_rooms": Dataset(
        messy_rooms.matches,
        tuple(f"{room}_{count}" for room in ("old_room", "large_corridor") for count in (25, 50, 100, 500)),
        # Bhalgat et al. 2023, table 2; Zhu et al. 2025 (PCF-Lift).
        {"Panoptic Lifting": 0.632, "Contrastive Lift": 0.690, "PCF-Lift": 0.734},
    ),
    "replica": Dataset(
        panoptic_lifting.matches,
        ("room_0", "room_1", "room_2", "office_0", "office_2", "office_3", "office_4"),
        # Bhalgat et al. 2023, table 1; Siddiqui et al. 2023.
        {"DM-NeRF": 0.441, "PNF": 0.411, "Panoptic Lifting": 0.579, "Contrastive Lift": 0.591},
    ),
    "scannet": Dataset(
        panoptic_lifting.matches,
        (
            *("0050_02", "0144_01", "0221_01", "0300_01", "0354_00", "0389_00"),
            *("0423_02", "0427_00", "0494_00", "0616_00", "0645_02", "0693_00"),
        ),
        {
            **{"DM-NeRF": 0.417, "PNF": 0.483, "Panoptic Lifting": 0.589, "Contrastive Lift": 0.623},
            "PCF-Lift": 0.635,
        },
    ),
    "hypersim": Dataset(
        panoptic_lifting.matches,
        (),  # six; the paper does not name them
        {"DM-NeRF": 0.516, "PNF": 0.448, "Panoptic Lifting": 0.601, "Contrastive Lift": 0.623},
    ),
}


def dataset_config(name: str, path: Path | None = None, overrides: list[str] | None = None) -> Config:
    """The settings in configs/<name>.yaml, or in the file `path`, with overrides. Raises ConfigError for a name that
    is no data set."""
    pick(DATASETS, name, "dataset")
    folder = Path(__file__).parent / "configs"  # in an installed package; beside it in a source tree
    if not folder.is_dir():
        folder = folder.parents[1] / "configs"
    return load_config(path or folder / f"{name}.yaml", overrides)


@dataclass(frozen=True)
class Evaluation:
    """Of a data set: the runs with their scores by both protocols, and the scenes that failed."""

    scored: list[tuple[Run, dict[str, Scores]]]
    failed: list[Outcome]


def evaluate_dataset(
    name: str,
    data: Path,
    runs: Path,
    *,
    config: Config | None = None,
    batch: BatchConfig | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score every scene of data set `name` found in `data` by both protocols; run folders go to `runs`.

    config: None = the data set's own. What is done is skipped, a scene that fails is passed over: see `run_batch`.
    Raises ConfigError for an unknown name, SceneError if no scene is found or none works.
    """
    reporter = reporter or SilentReporter()
    dataset = pick(DATASETS, name, "dataset")
    config = config or dataset_config(name)
    if not data.is_dir():
        raise SceneError(f"{data}: no such folder; wanted the folder that holds the scenes of {name}")
    scenes = [folder for folder in sorted(data.iterdir()) if folder.is_dir() and dataset.matches(folder)]
    if not scenes:
        raise SceneError(f"{data}: none of its folders is a {name} scene")
    outcomes = run_batch(batch_tasks(scenes, runs, config), batch, reporter=reporter)
    failed = [one for one in outcomes if one.result is None]
    runs_done = [one.task.run for one in outcomes if one.result is not None]
    scored = [(run, scores) for run in runs_done if (scores := scored_run(run, PROTOCOLS_OF_TABLES))]
    if not runs_done:
        raise SceneError(f"{data}: all {len(scenes)} scenes failed; the lines above say why")
    if not scored:
        raise SceneError(f"{data}: none of its scenes has test views to score on")
    if failed:
        reporter.say(f"{len(failed)} of {len(scenes)} scenes failed and are not in the means")
    if unscored := len(runs_done) - len(scored):
        reporter.say(f"{unscored} of {len(scenes)} scenes have no test views and are not in the means")
    if missing := dataset.missing([run.name for run, _ in scored]):
        reporter.say(
            f"the published means are over {len(dataset.scenes)} scenes; not here: {', '.join(missing)}"
        )
    return Evaluation(scored, failed)
