"""Many scenes: which they are, what is skipped, tried again and reported, and what a kill or Ctrl-C does to them."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from commands import gslift, start_gslift
from settings import FINDABLE_SETTINGS, findable_room

from gs_lift.batch import ENGINES, BatchConfig, Task, batch_tasks, list_scenes, run_batch
from gs_lift.batch.local import share_devices
from gs_lift.batch.task import do_scene, finished
from gs_lift.config import Config, load_config
from gs_lift.errors import BackendError, ConfigError, GsLiftError, SceneError
from gs_lift.pipeline import SilentReporter
from gs_lift.report import batch_table
from gs_lift.run import sha256

SETTINGS = [word for setting in FINDABLE_SETTINGS for word in ("--set", setting)]
LONG = ["fit.steps=1000", "checkpoint_every=20"]
"""Settings of a scene that is still being fitted when its first checkpoint is seen."""
LONG_WORDS = [word for setting in LONG for word in ("--set", setting)]


def settings(*overrides: str) -> Config:
    return load_config(None, [*FINDABLE_SETTINGS, *overrides])


class Lines(SilentReporter):
    """Keeps what is said; calls `on_tick` whenever a batch says where it is."""

    def __init__(self, on_tick: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self.on_tick = on_tick

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
        yield lambda step, figures: self.on_tick()


class Killer:
    """Kills a task's worker, once, as soon as it has left a checkpoint of its fit."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.killed: int | None = None

    def __call__(self) -> None:
        if self.killed is None and any(self.task.run.checkpoints("fit").glob("step_*.pt")):
            self.killed = worker_of(self.task)
            os.kill(self.killed, signal.SIGKILL)


def worker_of(task: Task) -> int:
    _, process = task.worker.read_text().split()
    return int(process)


def fitted_once(run: Path) -> bool:
    """Whether no logged step of the fit was done twice."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "fit"]
    return bool(steps) and steps == sorted(set(steps))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return findable_room(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def uninterrupted(room: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of labels.ply with the LONG settings."""
    task = Task(room, tmp_path_factory.mktemp("whole") / "room", settings(*LONG))
    do_scene(task, SilentReporter())
    return sha256(task.labels)


def copies(room: Path, folder: Path, *names: str) -> list[Path]:
    """Of a scene, as links; those called `broken` have lost their cameras."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.startswith("broken"):
            (folder / name).mkdir()
        else:
            shutil.copytree(room, folder / name, copy_function=os.link)
    return [folder / name for name in names]


# Which scenes


def test_a_file_names_scenes_relative_to_itself(tmp_path: Path) -> None:
    listed = tmp_path / "lists" / "scenes.txt"
    listed.parent.mkdir()
    text = "\ufeff# rooms\r\n\r\n  ../a \r\n../b/c/   # the good one\n\t\n/data/room #3\n../room#4\n#../e\nf/../g h"
    listed.write_text(text, encoding="utf-8", newline="")
    names = ["a", "b/c", "/data/room", "room#4", "lists/g h"]
    assert list_scenes(listed) == [tmp_path / name for name in names]


def test_all_visible_sub_folders_of_a_folder_are_scenes(tmp_path: Path) -> None:
    for name in ["b", "a", ".git"]:
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert list_scenes(tmp_path) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no scene"),
        (b"# a\n\n  \n", "names no scene"),
        (b"a\nb\n\n./b/../a/\n", r"/a is there twice \(line 1, line 4\); take one away"),
        (b"a\nx/a\n", r"two scenes are called a \(line 1: .*/a, line 2: .*/x/a\)"),
        (b"a\nlink\n", r"/link is there twice \(line 1, line 2\)"),
        (b"/\n", "line 1: / has no name"),
        (b"\xff\xfe\x00a", "not text"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused_in_one_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    listed = tmp_path / "scenes.txt"
    listed.write_bytes(content)
    with pytest.raises(GsLiftError, match=said) as caught:
        list_scenes(listed)
    assert "\n" not in str(caught.value)
    assert str(listed) in str(caught.value)


def test_what_is_no_list_is_refused(room: Path, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"scenes.txt: cannot be read \(No such file"):
        list_scenes(tmp_path / "scenes.txt")
    with pytest.raises(SceneError, match="names no scene"):
        list_scenes(tmp_path)
    with pytest.raises(ConfigError, match=r"is itself a scene \(messy_rooms\).*`gslift fit"):
        list_scenes(room)
    with pytest.raises(ConfigError, match="room there is the scene itself"):
        batch_tasks([room], room.parent, settings())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"engine": "slurm"}, "no engine 'slurm'; one of: local, ray"),
        ({"jobs": 0}, "--jobs: wanted 1 or more, got 0"),
        ({"cpus": -1}, "--cpus: wanted 1 or more, got -1"),
        ({"gpus": -0.5}, "--gpus: wanted a whole number, or a share below 1"),
        ({"gpus": 1.5}, "--gpus: wanted a whole number, or a share below 1"),
        ({"gpus": float("nan")}, "--gpus: wanted"),
        ({"gpus": float("inf")}, "--gpus: wanted"),
        ({"retries": -1}, "--retries: wanted 0 or more"),
        ({"address": "auto"}, "--address is of a Ray cluster; with it wanted --engine ray, got local"),
    ],
)
def test_options_out_of_their_range_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BatchConfig(**values)


def test_devices_are_shared_out_to_slots() -> None:
    assert share_devices(["0", "1", "2", "3"], 2, 2) == ["0,1", "2,3"]
    assert share_devices(["GPU-a", "GPU-b"], 3, 0.5) == ["GPU-a", "GPU-a", "GPU-b"]
    assert share_devices(["0"], 3, 0.3) == ["0", "0", "0"]
    with pytest.raises(BackendError, match="wanted 4 CUDA devices, found 1"):
        share_devices(["0"], 2, 2)
    with pytest.raises(BackendError, match="wanted 2 CUDA devices, found 1"):
        share_devices(["0"], 3, 0.5)


# What is done


def test_a_scene_is_done_until_its_settings_its_objects_or_its_files_change(
    room: Path, tmp_path: Path
) -> None:
    task = Task(room, tmp_path / "run", settings())
    assert finished(task) is None
    result = do_scene(task, SilentReporter())
    assert finished(task) == result
    assert result.objects == 4
    assert result.pq_scene is not None
    assert finished(replace(task, config=settings("checkpoint_every=7"))) == result
    assert finished(replace(task, config=settings("fit.steps=61"))) is None
    assert finished(replace(task, scene=tmp_path)) is None

    before = task.result.read_bytes()
    task.result.write_bytes(before[:-10])
    assert finished(task) is None
    task.result.write_bytes(before)
    assert finished(task) == result
    os.utime(task.run.result("segment"), ns=(0, task.result.stat().st_mtime_ns + 1))  # cut again
    assert finished(task) is None
    assert do_scene(task, SilentReporter()) == result
    (task.folder / "scores.json").unlink()
    assert finished(task) is None
    assert replace(do_scene(task, SilentReporter()), seconds=result.seconds) == result
    task.labels.unlink()
    assert finished(task) is None


def test_workers_are_of_this_package_whatever_lies_in_the_working_directory(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gs_lift").mkdir()
    (tmp_path / "gs_lift" / "__init__.py").write_text(
        "raise ImportError('a source tree without its kernels')"
    )
    monkeypatch.chdir(tmp_path)
    (outcome,) = run_batch(
        batch_tasks(copies(room, tmp_path / "scenes", "only"), tmp_path / "runs", settings()),
        BatchConfig(jobs=1, cpus=1, retries=0),
        reporter=Lines(),
    )
    assert outcome.result is not None, outcome.reason


def test_a_broken_scene_and_a_killed_one_are_tried_again_and_cost_no_other(
    room: Path, tmp_path: Path, uninterrupted: str
) -> None:
    scenes = copies(room, tmp_path / "scenes", "broken", "first", "killed")
    tasks = batch_tasks(scenes, tmp_path / "runs", settings(*LONG))
    killer, how = Killer(tasks[2]), BatchConfig(jobs=2, cpus=1)
    reporter = Lines(killer)
    broken, first, killed = run_batch(tasks, how, reporter=reporter)

    assert killer.killed
    assert sha256(killed.task.labels) == sha256(first.task.labels) == uninterrupted
    assert broken.result is None
    assert broken.reason
    assert "broken: is empty; looked for" in broken.reason
    failures = [line for line in reporter.lines if " failed: " in line]
    assert sum(line.startswith("scene broken ") for line in failures) == 2  # once, and once again
    assert [line for line in failures if not line.startswith("scene broken ")] == [
        f"scene killed failed: killed by SIGKILL (out of memory?); see {killed.task.log}; it is tried again"
    ]
    assert any(line.startswith("scene first: ") and "objects, PQ 0." in line for line in reporter.lines)
    assert "fit: done before" not in killed.task.log.read_text()  # it went on inside the fit
    assert fitted_once(first.task.folder)

    kept = {one.task.name: one.task.labels.stat().st_mtime_ns for one in (first, killed)}
    again = Lines()
    outcomes = run_batch(tasks, replace(how, retries=0), reporter=again)
    assert outcomes == [broken, first, killed]
    assert {one.task.name: one.task.labels.stat().st_mtime_ns for one in (first, killed)} == kept
    assert again.lines[0] == "2 of 3 scenes were done before"
    assert len(again.lines) == 2  # tried once


def test_a_worker_without_its_parent_stops_at_a_whole_step(room: Path, tmp_path: Path) -> None:
    task = Task(room, tmp_path / "room", settings(*LONG))
    (tmp_path / "scenes.txt").write_text(f"{room}\n")
    batch = start_gslift("batch", "scenes.txt", "--runs", ".", *SETTINGS, *LONG_WORDS, cwd=tmp_path)
    while not any(task.run.checkpoints("fit").glob("step_*.pt")):
        assert batch.poll() is None, batch.communicate()
    batch.kill()
    batch.communicate()
    do_scene(task, SilentReporter())  # waits for the worker to let go
    assert "gslift: stopped; run the same command again to finish" in task.log.read_text()


# The command


def test_ctrl_c_stops_a_batch_and_the_same_command_goes_on(
    room: Path, tmp_path: Path, uninterrupted: str
) -> None:
    copies(room, tmp_path / "scenes", "one", "two")
    arguments = ["batch", "scenes", "--cpus", 1, *SETTINGS, *LONG_WORDS]
    run, log = tmp_path / "runs" / "one", tmp_path / "runs" / "one.log"
    batch = start_gslift(*arguments, cwd=tmp_path)
    while not any((run / "fit").glob("step_*.pt")):
        assert batch.poll() is None, batch.communicate()
    batch.send_signal(signal.SIGINT)
    said, errors = batch.communicate(timeout=120)
    assert batch.returncode == 130
    assert "run the same command again to finish" in errors
    assert "stopping 1 scene at a whole step; Ctrl-C again kills what runs" in said
    assert not list(tmp_path.rglob("*.part*"))
    assert not (run / "splat.ply").exists()
    assert log.read_text().endswith("gslift: stopped; run the same command again to finish\n")

    done = gslift(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 of 2 scenes are in runs" in done.stdout
    assert [sha256(path) for path in sorted(tmp_path.rglob("labels.ply"))] == [uninterrupted] * 2
    assert fitted_once(run)

    other = gslift(*arguments, "--set", "lift.steps=101", "--retries", 0, cwd=tmp_path)
    assert other.returncode == 1, other.stderr
    assert "made with other settings: lift.steps (100 -> 101); use --overwrite" in other.stdout
    assert "0 of 2 scenes are in runs" in other.stdout


def test_the_commands_refuse_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "scenes.txt").write_text("a\na\n")
    for arguments, said in [
        (["batch", "scenes.txt"], "is there twice"),
        (["eval", "--jobs", 2], "--jobs, --engine and the like are for a data set"),
    ]:
        refused = gslift(*arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_the_table_has_a_reason_only_where_one_failed() -> None:
    done = ("room", 12.3, 4, 0.912, "")
    assert [column.header for column in batch_table([done]).columns][-1] == "PQ scene"
    failed = ("broken", None, None, None, "is empty")
    assert [column.header for column in batch_table([done, failed]).columns][-1] == "failed"


# Ray


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"needs the package ray; pip install 'gs_lift\[ray\]'"):
        ENGINES["ray"]().open_engine(BatchConfig(engine="ray"), 1)


@pytest.mark.timeout(900)
def test_a_ray_cluster_does_eleven_of_twelve_scenes_with_a_worker_killed_and_names_the_broken_one(
    room: Path, tmp_path: Path, uninterrupted: str
) -> None:
    ray = pytest.importorskip("ray")
    names = [f"room_{number:02}" for number in range(11)]
    tasks = batch_tasks(copies(room, tmp_path / "scenes", "broken", *names), tmp_path / "runs", settings())
    tasks[1] = replace(tasks[1], config=settings(*LONG))
    killer = Killer(tasks[1])
    reporter = Lines(killer)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    try:
        outcomes = run_batch(tasks, BatchConfig(engine="ray", cpus=1), reporter=reporter)
    finally:
        ray.shutdown()

    assert killer.killed
    assert [one.task.name for one in outcomes if one.result is not None] == names
    assert [one.task.name for one in outcomes if one.result is None] == ["broken"]
    assert "broken: is empty; looked for" in (outcomes[0].reason or "")
    assert sum("its worker died" in line and line.startswith("scene room_00") for line in reporter.lines) == 1
    assert sha256(tasks[1].labels) == uninterrupted
    assert len({sha256(task.labels) for task in tasks[2:]}) == 1


@pytest.mark.timeout(600)
def test_ctrl_c_stops_the_tasks_of_a_ray_cluster_at_a_whole_step(
    room: Path, tmp_path: Path, uninterrupted: str
) -> None:
    pytest.importorskip("ray")
    copies(room, tmp_path / "scenes", "one")
    arguments = ["batch", "scenes", "--engine", "ray", "--cpus", 1, *SETTINGS, *LONG_WORDS]
    run = tmp_path / "runs" / "one"
    batch = start_gslift(*arguments, cwd=tmp_path)
    while not any((run / "fit").glob("step_*.pt")):
        assert batch.poll() is None, batch.communicate()
    batch.send_signal(signal.SIGINT)
    said, errors = batch.communicate(timeout=120)
    assert batch.returncode == 130, errors
    assert "stopping 1 scene at a whole step" in said
    assert not (run / "result.json").exists()
    assert not (run / "splat.ply").exists()

    done = gslift(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(run / "labels.ply") == uninterrupted
    assert fitted_once(run)
    refused = gslift("batch", "scenes", "--engine", "ray", "--runs", "r", "--cpus", 4096, cwd=tmp_path)
    assert refused.returncode == 2
    assert "no machine of the Ray cluster has 4096 CPUs" in refused.stderr
