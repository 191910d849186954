"""Several processes on one scene end where one does, to the byte; and nothing waits for one that is gone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT
from settings import TINY

from gs_lift import distributed
from gs_lift.config import load_config
from gs_lift.distributed import RowSum, World, all_reduce_rows, check_same, checksum, from_rank_zero, launched
from gs_lift.errors import ConfigError
from gs_lift.lanes import Lanes, check_batches
from gs_lift.pipeline import fit_run
from gs_lift.run import Run, sha256
from gs_lift.seeds import Purpose
from gs_lift.synthetic import SynthConfig, synthesize

SETTINGS = [
    "device=cpu", "checkpoint_every=10", "data.init=random", "data.init_points=1500", "fit.steps=40", "fit.batch=4",
    "fit.sh_degree=1", "fit.sh_every=15", "fit.densify_from=5", "fit.densify_every=10", "fit.background=random",
    "lift.steps=40", "lift.batch=4",
]  # fmt: skip
"""A second of work: every kind of step, and Gaussians that come and go."""

WAIT_S = 120
"""A test fails after so long instead of waiting for ever."""

STRUCK = """
import os, signal, sys, time
from gs_lift import cli, distributed
from gs_lift.{module} import trainer

taken = trainer.{function}

def striking(*arguments):
    figures = taken(*arguments)
    striking.steps += 1
    if distributed.world().rank == {rank} and striking.steps == {step}:
        {strike}
    return figures

striking.steps = 0
trainer.{function} = striking
cli.main(sys.argv[1:])
"""
"""The command, struck in one process after a step."""

KILL = "os.kill(os.getpid(), signal.SIGKILL)"

CTRL_C = """
        # To torchrun, as a terminal does; this process goes on when it was handed on to it.
        os.kill(os.getppid(), signal.SIGINT)
        interrupt = signal.getsignal(signal.SIGINT).__self__
        while not interrupt.wished:
            time.sleep(0.01)
"""


def torchrun(processes: int, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node N ...` on a port of its own; ends for sure."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    command += [str(argument) for argument in arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=WAIT_S, check=False
    )


def fitted(room: Path, run: Path, *more: str) -> list[object]:
    """The arguments of `fit`."""
    sets = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    return ["fit", room, "--run", run, *sets]


def results(folder: Path) -> dict[str, str]:
    return {stage: sha256(Run(folder).result(stage)) for stage in ("fit", "lift")}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "room"
    synthesize(folder, SynthConfig(**TINY), processes=1)
    return folder


@pytest.fixture(scope="module")
def alone(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, without torchrun."""
    return fit_run(room, load_config(None, SETTINGS), folder=tmp_path_factory.mktemp("runs") / "alone").folder


def figures_of(folder: Path) -> list[str]:
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"step": 40' in line]


@pytest.mark.parametrize("processes", [2, 4])
def test_so_many_processes_give_the_bytes_of_one(
    room: Path, alone: Path, tmp_path: Path, processes: int
) -> None:
    run = tmp_path / "run"
    done = torchrun(processes, "-m", "--", "gs_lift", *fitted(room, run), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(alone)
    assert done.stdout.count("wrote ") == 1  # the others are silent
    assert f"in each of {processes} processes" in done.stdout
    assert len(figures_of(run)) == len(figures_of(alone)) == 2
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in alone.iterdir())


def test_gaussians_came_and_went(alone: Path) -> None:
    assert '"gaussians": 1500.0' not in figures_of(alone)[0]


def struck(room: Path, run: Path, **where: object) -> subprocess.CompletedProcess[str]:
    script = run.with_suffix(".py")
    script.write_text(STRUCK.format(**where))
    return torchrun(2, "--", script, *fitted(room, run), cwd=run.parent)


def goes_on(room: Path, run: Path) -> None:
    again = torchrun(2, "-m", "--", "gs_lift", *fitted(room, run), cwd=run.parent)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("stage", "module", "function", "rank"),
    [("fit", "fitting", "_one_step", 1), ("lift", "lifting", "_take_batch_step", 0)],
    ids=["a helper while fitting", "the first while lifting"],
)
def test_a_killed_process_ends_all_and_the_same_command_ends_with_the_same_bytes(
    room: Path, alone: Path, tmp_path: Path, stage: str, module: str, function: str, rank: int
) -> None:
    run = tmp_path / "run"
    killed = struck(room, run, module=module, function=function, rank=rank, step=25, strike=KILL)
    assert killed.returncode != 0
    assert "exitcode  : -9" in killed.stderr
    assert not Run(run).done(stage)
    assert [path.name for path in Run(run).checkpoints(stage).glob("step_*")]
    goes_on(room, run)
    assert results(run) == results(alone)


def test_ctrl_c_stops_all_after_the_same_step_and_the_same_command_goes_on(
    room: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    where = {"module": "fitting", "function": "_one_step", "rank": 1, "step": 25}
    stopped = struck(room, run, **where, strike=CTRL_C)
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped; run the same command again to finish") == 1
    assert (Run(run).checkpoints("fit") / "step_00000025.pt").exists()
    goes_on(room, run)
    assert results(run) == results(alone)


TALK = """
import torch
from gs_lift import distributed
from gs_lift.distributed import *

with distributed.joined() as world:
    rank = world.rank
    assert world == distributed.world() == World(rank, 2)
    assert rank_zero() == (rank == 0)
    assert from_rank_zero({"rank": rank}) == {"rank": 0}
    assert to_rank_zero(rank) == ([0, 1] if rank == 0 else None)
    assert any_of_all(rank == 1)
    assert not any_of_all(False)

    one, other = RowSum(5, 2), RowSum(3, 1)
    one.add(torch.tensor([1, 3 + rank]), torch.full((2, 2), 1.0 + rank))
    reduced = all_reduce_rows([one, other], torch.tensor([0.5]), torch.tensor([1, rank], dtype=torch.uint8))
    (rows, values), (none, empty) = reduced.rows
    assert rows.tolist() == [1, 3, 4]
    assert values.tolist() == [[1.0 + 2.0] * 2, [1.0] * 2, [2.0] * 2]
    assert (none.tolist(), empty.shape) == ([], (0, 1))
    assert (reduced.figures.tolist(), reduced.counts.tolist()) == ([1.0], [2, 1])
    assert not all_reduce_rows([one, other], torch.zeros(0)).rows[0][0].numel()  # they are empty again

    check_same("step 7", [torch.ones(3)])
    try:
        check_same("step 8", [torch.ones(3), torch.tensor([1e-30 * rank])])
    except WorldError as error:
        print(error)
assert distributed.world() == World(0, 1)
"""


def test_two_processes_talk(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    done = torchrun(2, "talk.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 8: process 1 of 2 does not have the numbers of process 0") == 2


def test_one_process_sends_nothing() -> None:
    assert (launched(), from_rank_zero("x")) == (World(0, 1), "x")
    check_same("nothing", [torch.ones(1)])
    table = RowSum(4, 1)
    table.add(torch.tensor([2, 0]), torch.tensor([[1.0], [2.0]]))
    table.add(torch.tensor([2]), torch.tensor([[0.25]]))
    ((rows, values),) = all_reduce_rows([table], torch.zeros(0)).rows
    assert (rows.tolist(), values.tolist()) == ([0, 2], [[2.0], [1.25]])


def test_a_checksum_sees_one_bit() -> None:
    assert checksum([torch.tensor([1.0])]) == checksum([torch.tensor([1.0])])
    assert checksum([torch.tensor([1.0])]) != checksum([torch.tensor([1.0]).nextafter(torch.tensor(2.0))])


def test_more_processes_than_views_of_a_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_batches(fit=1, lift=1)
    monkeypatch.setattr(distributed, "_world", World(0, 4))
    check_batches(fit=4, lift=5)
    with pytest.raises(
        ConfigError, match=r"fit.batch=8, lift.batch=1; .*--set fit.batch=4 --set lift.batch=4"
    ):
        check_batches(fit=8, lift=1)


@pytest.mark.parametrize("section", ["fit", "lift"])
@pytest.mark.parametrize("batch", [0, 256])
def test_a_batch_has_bounds(section: str, batch: int) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.batch: wanted 1 to 255"):
        load_config(None, [f"{section}.batch={batch}"])


def test_every_view_of_a_lane_comes_once_in_a_pass_and_processes_share_the_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes, views = Lanes(count=3, seed=5), 11
    assert [lanes.size(lane, views) for lane in range(3)] == [4, 4, 3]
    for lane in range(3):
        turns = [lanes.turn(lane, step, 4, Purpose.FIT_ORDER) for step in range(1, 9)]
        assert sorted(turns[:4]) == sorted(turns[4:]) == [0, 1, 2, 3]
    assert len({lanes.draw(lane, step) for lane in range(3) for step in range(1, 9)}) == 3 * 8
    monkeypatch.setattr(distributed, "_world", World(0, 2))
    assert [*lanes.own] == [0, 2]
    monkeypatch.setattr(distributed, "_world", World(1, 2))
    assert [*lanes.own] == [1]
    assert [view for view in range(views) if lanes.owns(view)] == [1, 4, 7, 10]


def test_other_commands_are_not_shared(tmp_path: Path) -> None:
    variables = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", **ENVIRONMENT}
    command = [sys.executable, "-m", "gs_lift", "segment", "--out", "labels.ply"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 2
    assert done.stderr.startswith("gslift: only `fit` is shared by the processes of torchrun")
