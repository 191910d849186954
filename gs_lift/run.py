"""A run folder: what one scene's stages leave behind, and whether a stage is still good.

config.yaml     the settings that made it
run.json        scene, splat, seconds and finished stages
metrics.jsonl   figures of every loop
points.npz      starting points         (stage points)
splat.ply       the Gaussians           (stage fit)
embeddings.pt   what lifting learnt     (stage lift)
instances.pt    the objects             (stage segment)
edits.json      what the user has corrected (see edits.py)
fit/ lift/      checkpoints while a stage runs
blocks/         a run for each block of a large scene (see block_runs.py)
"""

import hashlib
import json
import logging
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from gs_lift.config import Config, differences, dump_config, load_config
from gs_lift.errors import GsLiftError, RunError
from gs_lift.files import locked, write_text_atomic

log = logging.getLogger(__name__)

STAGES = ("points", "fit", "lift", "segment")
"""In order; each reads what those before it wrote."""

BLOCKS = "blocks"
"""Folder of the runs of blocks."""

_RESULTS = {"points": "points.npz", "fit": "splat.ply", "lift": "embeddings.pt", "segment": "instances.pt"}
_FIRST_STAGE = {
    **{"data.segments": "lift", "data.unlabelled": "lift", "data.check_splat": "fit"},
    **{
        "data": "points",
        "seed": "points",
        "fit": "fit",
        "lift": "lift",
        "blocks": "lift",
        "cluster": "segment",
    },
}
"""Of a field, or of all those of a section."""


def stage_of_field(name: str) -> str:
    """The first stage whose result a config field changes; `fit.steps` -> `fit`, `device` -> `fit`."""
    return _FIRST_STAGE.get(name) or _FIRST_STAGE.get(name.split(".")[0], "fit")


@dataclass(frozen=True)
class Run:
    """One run folder. Every write is atomic, so the folder is usable after a kill at any moment."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds: scene, splat, seconds."""
        try:
            content = json.loads((self.folder / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.folder}: no readable run.json ({error}); make a run with `gslift fit SCENE`"
            ) from None
        if not isinstance(content, dict) or "scene" not in content:
            raise RunError(
                f"{self.folder}/run.json: wanted an object with a scene; start again with --overwrite"
            )
        return content

    def write_record(self, **changes: Any) -> None:
        with locked(self.folder):
            content = (self.record if (self.folder / "run.json").exists() else {}) | changes
            write_text_atomic(self.folder / "run.json", json.dumps(content, indent=1) + "\n")

    @property
    def labels(self) -> Path | None:
        """The labels.ply that the run was written to last, while it is there; None for a copy of the run."""
        written = self.record.get("labels")
        if not isinstance(written, dict) or written.get("run") != str(self.folder.resolve()):
            return None
        path = Path(str(written.get("path")))
        return path if path.suffix.lower() == ".ply" and path.is_file() else None

    def remember_labels(self, path: Path) -> None:
        self.write_record(labels={"path": str(path.resolve()), "run": str(self.folder.resolve())})

    @property
    def name(self) -> str:
        return str(self.record.get("name", self.folder.name))

    @property
    def scene(self) -> Path:
        return Path(self.record["scene"])

    @property
    def config(self) -> Config:
        return load_config(self.folder / "config.yaml")

    def result(self, stage: str) -> Path:
        """Where a stage puts its result; the stage is done when it exists."""
        return self.folder / _RESULTS[stage]

    def done(self, stage: str) -> bool:
        return self.result(stage).exists()

    @property
    def results(self) -> dict[str, Path]:
        """Of the stages that are done."""
        return {stage: self.result(stage) for stage in STAGES if self.done(stage)}

    def checkpoints(self, stage: str) -> Path:
        return self.folder / stage

    @property
    def begun(self) -> bool:
        """Whether any stage has left a result or a checkpoint."""
        return any(self.done(stage) or any(self.checkpoints(stage).glob("*.pt")) for stage in STAGES)

    @property
    def edits(self) -> Path:
        return self.folder / "edits.json"

    def remove_results(self, stage: str) -> None:
        """Remove what `stage` and all that follow from it have written.

        Edits name rows of the splat: with another one they are put aside, under another name.
        """
        if STAGES.index(stage) <= STAGES.index("fit") and self.edits.exists():
            self._put_aside(self.edits, "edits", "another splat")
        for later in STAGES[STAGES.index(stage) :]:
            self.result(later).unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints(later), ignore_errors=True)
        if STAGES.index(stage) <= STAGES.index("lift"):
            self._remove_blocks()
        (self.folder / "scores.json").unlink(missing_ok=True)

    def _remove_blocks(self) -> None:
        for edits in sorted((self.folder / BLOCKS).glob("*/edits.json")):
            self._put_aside(edits, f"edits.block{edits.parent.name}", "a block that is gone")
        shutil.rmtree(self.folder / BLOCKS, ignore_errors=True)

    def _put_aside(self, edits: Path, name: str, of: str) -> None:
        aside = next(path for i in count(1) if not (path := self.folder / f"{name}.old{i}.json").exists())
        edits.replace(aside)
        log.warning("%s: the edits were of %s; they are kept in %s", self.folder, of, aside.name)

    def forget(self, stage: str) -> None:
        """Remove the results of `stage` and of all that follow from it, and their seconds."""
        self.remove_results(stage)
        seconds = {name: s for name, s in self.seconds.items() if name in STAGES[: STAGES.index(stage)]}
        self.write_record(seconds=seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage, summed over its starts."""
        return dict(self.record.get("seconds", {}))

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count them to a stage that is done once; scoring can be done again, and its last time counts."""
        total = self.seconds
        before = total.get(stage, 0.0) if stage in STAGES else 0.0
        total[stage] = round(before + seconds, 2)
        self.write_record(seconds=total)

    def note_memory(self, stage: str) -> None:
        """Keep the most that this process has taken until now, GB, as what `stage` needed."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        memory = dict(self.record.get("memory_gb", {})) | {stage: round(peak / 1e9, 3)}
        self.write_record(memory_gb=memory)

    def log(self, stage: str, step: int, figures: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        line = json.dumps({"stage": stage, "step": step, "time": round(time.time(), 2), **figures})
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")


def is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def open_run(folder: Path) -> Run:
    """An existing run. Raises RunError where there is none."""
    if not is_run(folder):
        raise RunError(f"{folder}: not a run folder (no run.json); make one with `gslift fit SCENE`")
    return Run(folder)


def latest_run(root: Path) -> Run:
    """The run under `root` that was written to last."""
    records = [path for path in root.glob("**/run.json") if path.parent.parent.name != BLOCKS]
    records.sort(key=lambda path: path.stat().st_mtime_ns)
    if not records:
        raise RunError(f"{root}: no runs here; make one with `gslift fit SCENE`, or name its folder")
    return Run(records[-1].parent)


def start_run(
    folder: Path,
    name: str,
    scene: Path,
    splat: Path | None,
    config: Config,
    *,
    segments: str | None = None,
    overwrite: bool,
    resume: bool,
) -> Run:
    """The run in `folder`, made or continued. segments: a digest of the 2D segments, None = not looked at.

    A folder that was made with another scene, splat or config, or has lifted other segments, is refused with the names
    of what differs, unless `overwrite`: then the stages that the difference touches start again. `resume=False` starts
    all of them again.
    """
    run = Run(folder)
    splat_sha256 = sha256(splat) if splat else None
    identity = {"scene": str(scene), "splat": str(splat) if splat else None, "splat_sha256": splat_sha256}
    identity |= {"segments": segments} if segments is not None else {}
    if run.begun and (folder / "run.json").exists():
        _reconcile(run, identity, config, overwrite)
        if not resume:
            run.remove_results("points")
            (folder / "run.json").unlink(missing_ok=True)
            (folder / "metrics.jsonl").unlink(missing_ok=True)
    elif (folder / "run.json").exists():
        (folder / "run.json").unlink()  # nothing was made with its settings: nothing to protect
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RunError(f"{folder}: not empty and not a run; name another folder with --run")
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.rglob(".*.part*"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    run.write_record(name=name, **identity)  # first: a folder that holds anything else is refused
    write_text_atomic(folder / "config.yaml", dump_config(config))
    return run


def _reconcile(run: Run, identity: dict[str, str | None], config: Config, overwrite: bool) -> None:
    """Refuse what differs by name, or with `overwrite` forget the stages that it touches."""
    try:
        record, made_with = run.record, run.config
    except GsLiftError:  # torn, or written by a version with other fields
        if not overwrite:
            raise
        run.remove_results("points")
        (run.folder / "run.json").unlink()
        return
    stages = []
    changes = []
    lifted = run.done("lift") or any(run.checkpoints("lift").glob("*.pt"))
    for key, value in identity.items():
        if record.get(key) == value:
            continue
        if key == "splat" and record.get("splat_sha256") == identity["splat_sha256"]:
            continue
        if key == "segments" and (key not in record or not lifted):  # nothing was learnt from the others
            continue
        changes.append(f"{key} ({record.get(key)} -> {value})")
        stages.append({"scene": "points", "segments": "lift"}.get(key, "fit"))
    for name, (old, new) in differences(made_with, config).items():
        changes.append(f"{name} ({old} -> {new})")
        stages.append(stage_of_field(name))
    if not changes:
        return
    if not overwrite:
        raise RunError(
            f"{run.folder}: made with other settings: {', '.join(changes)}; "
            "use --overwrite to redo what they touch, or --run for another folder"
        )
    run.forget(min(stages, key=STAGES.index))


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
