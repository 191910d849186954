"""The tiny room and the tiny settings that whole-line tests share."""

from pathlib import Path

from gs_lift.config import Config, load_config
from gs_lift.pipeline import fit_run, segment_run
from gs_lift.progress import OnStep
from gs_lift.run import Run
from gs_lift.synthetic import SynthConfig, synthesize

TINY = {"objects": 4, "views": 10, "size": 48, "seed": 1, "noise": "easy"}
"""A room that is ray-traced in a second or two."""

TINY_SETTINGS = [
    "device=cpu",
    "checkpoint_every=20",
    "data.init=auto",
    "fit.steps=60",
    "fit.sh_degree=1",
    "lift.steps=60",
]


def tiny_config() -> Config:
    return load_config(None, TINY_SETTINGS)


FINDABLE = {"objects": 5, "views": 12, "size": 48, "seed": 1, "noise": "none"}
"""A room in which FINDABLE_SETTINGS find four objects, fitted and lifted in a second."""

FINDABLE_SETTINGS = [
    "device=cpu",
    "data.init=depth",
    "data.init_points=3000",
    "fit.sh_degree=1",
    "fit.steps=60",
    "lift.steps=100",
]


def frames_and_segments(seen: list[int], segmented: list[float]) -> OnStep:
    """For `synthesize`: the steps of frames go to one list, how many frames have segments to the other."""

    def on_step(step: int, figures: dict[str, float]) -> None:
        if "segments" in figures:
            segmented.append(figures["segments"])
        else:
            seen.append(step)

    return on_step


def findable_room(folder: Path) -> Path:
    """That room in folder/room."""
    synthesize(folder / "room", SynthConfig(**FINDABLE), processes=1)
    return folder / "room"


def findable_run(folder: Path) -> Run:
    """That room in folder/room, segmented in folder/run."""
    run = fit_run(findable_room(folder), load_config(None, FINDABLE_SETTINGS), folder=folder / "run")
    segment_run(run)
    return run
