"""Killed anywhere, a run goes on and ends with the bytes of one that was never stopped."""

import signal
from pathlib import Path

import pytest
from commands import python
from settings import TINY, tiny_config

from gs_lift.pipeline import fit_run, segment_run, write_outputs
from gs_lift.run import STAGES, sha256
from gs_lift.synthetic import SynthConfig, synthesize

KILLED = """
import os, signal
from contextlib import contextmanager
from pathlib import Path
from gs_lift.pipeline import fit_run, segment_run
from settings import tiny_config

class Killer:
    def say(self, text): pass
    def panel(self, title, rows): pass

    @contextmanager
    def stage(self, name, total):
        if (name, 0) == {where}:
            os.kill(os.getpid(), signal.SIGKILL)
        def on_step(step, figures):
            if (name, step) == {where}:
                os.kill(os.getpid(), signal.SIGKILL)
        yield on_step
        if (name, -1) == {where}:
            os.kill(os.getpid(), signal.SIGKILL)

run = fit_run(Path({room!r}), tiny_config(), folder=Path({folder!r}), reporter=Killer())
segment_run(run, reporter=Killer())
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "room"
    synthesize(folder, SynthConfig(**TINY), processes=1)
    return folder


def finish(room: Path, folder: Path) -> dict[str, str]:
    """Run, or go on, to the end: the digest of every stage's result, in their order, and of every output."""
    run = fit_run(room, tiny_config(), folder=folder)
    segment_run(run)
    made = [run.result(stage) for stage in STAGES] + write_outputs(run, folder / "labels.ply")
    return {path.name: sha256(path) for path in made}


@pytest.fixture(scope="module")
def uninterrupted(room: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return finish(room, tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize(
    "where",
    [
        ("points", 0),
        ("fit", 0),
        ("fit", 33),
        ("fit", -1),
        ("lift", 0),
        ("lift", 47),
        ("segment", 0),
        ("segment", -1),
    ],
    ids=lambda where: f"{where[0]}-{where[1]}",
)
def test_a_killed_run_resumes_to_the_same_bytes(
    room: Path, tmp_path: Path, uninterrupted: dict[str, str], where: tuple[str, int]
) -> None:
    folder = tmp_path / "run"
    code = KILLED.format(where=where, room=str(room), folder=str(folder))
    killed = python(code, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert finish(room, folder) == uninterrupted


def test_the_number_of_threads_changes_no_byte(
    room: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    code = f"""
from pathlib import Path
from test_resume import finish
print(finish(Path({str(room)!r}), Path({str(tmp_path / "run")!r})))
"""
    alone = python(code, tmp_path, OMP_NUM_THREADS="1")
    assert alone.stdout.strip() == str(uninterrupted), alone.stderr


def test_two_whole_runs_give_the_same_bytes(
    room: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    assert finish(room, tmp_path / "again") == uninterrupted
