"""Runs whose scene is lifted in blocks: the whole line, resumed, cut again, by other processes, refused."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import gslift
from settings import FINDABLE_SETTINGS, findable_room

from gs_lift.batch import BatchConfig, lift_blocks_by
from gs_lift.block_runs import block_runs, in_blocks, is_block, read_blocks
from gs_lift.config import Config, load_config
from gs_lift.editing import Editor
from gs_lift.errors import RunError, SceneError
from gs_lift.gaussians import Gaussians
from gs_lift.pipeline import (
    SilentReporter,
    evaluate_run,
    fit_run,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_segmentation,
    segment_run,
    write_outputs,
)
from gs_lift.ply import write_splat
from gs_lift.run import Run, latest_run, sha256

SETTINGS = [*FINDABLE_SETTINGS, "checkpoint_every=20"]


def in_parts(*overrides: str) -> Config:
    return load_config(None, [*SETTINGS, "blocks.gaussians=2000", *overrides])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return findable_room(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def lifted(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = fit_run(room, in_parts(), folder=tmp_path_factory.mktemp("runs") / "parts")
    segment_run(run)
    return run


@pytest.fixture
def parts(lifted: Run, tmp_path: Path) -> Run:
    """A copy, to be changed."""
    shutil.copytree(lifted.folder, tmp_path / "parts")
    return Run(tmp_path / "parts")


def test_the_result_is_that_of_the_whole(room: Path, lifted: Run, tmp_path: Path) -> None:
    whole = fit_run(room, load_config(None, SETTINGS), folder=tmp_path / "whole")
    assert not in_blocks(whole)
    assert sha256(whole.result("fit")) == sha256(lifted.result("fit"))
    of_whole, of_parts = evaluate_run(whole)["released"], evaluate_run(lifted)["released"]
    assert of_whole.pq_scene is not None
    assert of_parts.pq_scene is not None
    assert of_parts.pq_scene > of_whole.pq_scene - 0.02
    assert of_parts.objects_found == of_whole.objects_found


def test_blocks_are_runs_of_their_own_and_no_latest_ones(lifted: Run) -> None:
    blocks, runs = read_blocks(lifted), block_runs(lifted)
    assert len(blocks) > 1
    assert [run.folder.name for run in runs] == [f"{i:03}" for i in range(1, len(blocks) + 1)]
    for block, run in zip(blocks, runs, strict=True):
        assert is_block(run)
        assert not in_blocks(run)
        assert len(block.rows) <= 2000
        assert torch.equal(read_gaussians(run).means, read_gaussians(lifted).means[block.rows])
        assert len(read_embeddings(run)) == len(read_instances(run).labels) == len(block.rows)
    assert latest_run(lifted.folder.parent).folder == lifted.folder


def test_all_outputs_are_written(parts: Run, tmp_path: Path) -> None:
    assert all(path.stat().st_size > 0 for path in write_outputs(parts, tmp_path / "labels.ply"))


class Stopper(SilentReporter):
    """Ctrl-C at a step of the second block's lifting."""

    def __init__(self) -> None:
        self.lifted = 0

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
        self.lifted += name == "lift"
        second = self.lifted == 2

        def on_step(step: int, figures: dict[str, float]) -> None:
            if second and step == 33:
                raise KeyboardInterrupt

        yield on_step


def test_it_stops_within_a_block_and_goes_on_to_the_same_bytes(
    room: Path, lifted: Run, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_run(room, in_parts(), folder=tmp_path / "run", reporter=Stopper())
    run = Run(tmp_path / "run")
    first, second = block_runs(run)[:2]
    assert first.done("lift")
    assert not second.done("lift")
    assert any(second.checkpoints("lift").glob("step_*.pt"))
    made = first.result("lift").stat().st_mtime_ns
    segment_run(fit_run(room, in_parts(), folder=run.folder))
    assert first.result("lift").stat().st_mtime_ns == made
    for one, other in zip(block_runs(run), block_runs(lifted), strict=True):
        assert sha256(one.result("lift")) == sha256(other.result("lift"))
    assert torch.equal(read_instances(run).labels, read_instances(lifted).labels)


def test_another_granularity_is_cut_in_every_block_and_joined(parts: Run) -> None:
    before = read_instances(parts)
    finer = segment_run(parts, changes={"granularity": 0.9})
    assert len(finer) >= len(before)
    assert torch.equal(segment_run(parts).labels, finer.labels)
    assert torch.equal(segment_run(parts, changes={}).labels, before.labels)


def test_a_block_that_is_edited_is_joined_anew(parts: Run) -> None:
    before = read_instances(parts)
    for block in block_runs(parts):
        editor = Editor(block)
        if len(editor.instances.present):
            editor.do(*editor.edits_of([], [], [], [], [1]))
            editor.save()
    after = segment_run(parts)
    assert (after.labels >= 0).sum() < (before.labels >= 0).sum()


def test_other_settings_of_the_cut_reach_the_blocks(room: Path, parts: Run) -> None:
    lifts = [sha256(block.result("lift")) for block in block_runs(parts)]
    run = fit_run(room, in_parts("cluster.votes=1"), folder=parts.folder, overwrite=True)
    assert not any(block.done("segment") for block in block_runs(run))
    assert all(block.config.cluster.votes == 1 for block in block_runs(run))
    assert [sha256(block.result("lift")) for block in block_runs(run)] == lifts


def test_other_blocks_are_cut_and_lifted_anew(room: Path, parts: Run) -> None:
    with pytest.raises(RunError, match=r"blocks\.overlap \(0\.2 -> 0\.1\)"):
        fit_run(room, in_parts("blocks.overlap=0.1"), folder=parts.folder)
    run = fit_run(room, in_parts("blocks.overlap=0.1"), folder=parts.folder, overwrite=True)
    assert not any(block.done("segment") for block in block_runs(run))
    rows = sum(len(block.rows) for block in read_blocks(run))
    assert rows >= 3000


def test_processes_of_an_engine_do_the_same(room: Path, lifted: Run, tmp_path: Path) -> None:
    by = lift_blocks_by(BatchConfig(jobs=2, cpus=1), SilentReporter())
    run = fit_run(room, in_parts(), folder=tmp_path / "run", lift_blocks=by)
    assert all((block.folder / "labels.ply").is_file() for block in block_runs(run))
    for one, other in zip(block_runs(run), block_runs(lifted), strict=True):
        assert sha256(one.result("lift")) == sha256(other.result("lift"))
    assert torch.equal(segment_run(run).labels, read_instances(lifted).labels)


def test_a_block_that_fails_is_named_and_the_same_call_goes_on(
    room: Path, lifted: Run, tmp_path: Path
) -> None:
    by = lift_blocks_by(BatchConfig(retries=0, cpus=1), SilentReporter())

    def with_a_torn_splat(runs: Sequence[Run]) -> None:
        splat = runs[1].result("fit")
        whole = splat.read_bytes()
        splat.write_bytes(whole[:1000])
        try:
            by(runs)
        finally:
            splat.write_bytes(whole)

    with pytest.raises(RunError, match=r"^1 of \d+ blocks failed: \S*/blocks/002 \(.*splat.ply"):
        fit_run(room, in_parts(), folder=tmp_path / "run", lift_blocks=with_a_torn_splat)
    run = fit_run(room, in_parts(), folder=tmp_path / "run", lift_blocks=by)
    assert torch.equal(segment_run(run).labels, read_instances(lifted).labels)


def test_what_is_not_for_blocks_is_refused_in_one_line(room: Path, parts: Run) -> None:
    block = block_runs(parts)[0]
    with pytest.raises(RunError, match=r"was lifted in blocks.*/blocks/001"):
        Editor(parts)
    with pytest.raises(RunError, match=r"a block has no score"):
        evaluate_run(block)
    written = parts.folder / "pairs.json"
    written.write_text('{"must": [[1, 2]]}')
    done = gslift(
        "segment", parts.folder, "--constraints", written, "--out", parts.folder / "x.ply", cwd=room.parent
    )
    assert done.returncode == 2
    assert "wanted constraints for a block" in " ".join(done.stderr.split())
    (parts.folder / "blocks" / "plan.pt").write_bytes(b"torn")
    done = gslift("segment", parts.folder, "--out", parts.folder / "x.ply", cwd=room.parent)
    assert done.returncode == 2
    assert "plan.pt: not readable" in " ".join(done.stderr.split())


def test_a_blocks_own_constraints_and_edits_outlive_the_whole(room: Path, parts: Run) -> None:
    block = block_runs(parts)[0]
    pair = read_instances(block).labels.nonzero()[:2, 0].tolist()
    written = parts.folder.parent / "pairs.json"
    written.write_text(json.dumps({"must_link": {"gaussians": [pair]}}))
    segment_run(block, constraints=written)
    segment_run(parts, changes={})
    assert read_segmentation(block)[1].written is not None
    segment_run(parts, changes={"granularity": 0.7})
    assert read_segmentation(block)[1].written is not None
    (block.folder / "edits.json").write_text("[]")
    fit_run(room, in_parts("lift.steps=50"), folder=parts.folder, overwrite=True)
    assert (parts.folder / "edits.block001.old1.json").read_text() == "[]"


def test_what_is_missing_of_a_block_is_made_again(room: Path, parts: Run, lifted: Run) -> None:
    one, other = block_runs(parts)[:2]
    one.result("lift").unlink()
    shutil.rmtree(other.folder)
    with pytest.raises(RunError, match="not all blocks are lifted; run `gslift fit"):
        segment_run(parts)
    fit_run(room, in_parts(), folder=parts.folder)
    assert torch.equal(segment_run(parts).labels, read_instances(lifted).labels)
    shutil.rmtree(parts.folder / "blocks")
    parts.result("segment").unlink()
    with pytest.raises(RunError, match="was lifted in blocks, which are gone"):
        segment_run(parts)
    fit_run(room, in_parts(), folder=parts.folder)
    assert torch.equal(segment_run(parts).labels, read_instances(lifted).labels)


def test_a_block_out_of_sight_has_no_objects(room: Path, lifted: Run, tmp_path: Path) -> None:
    near = read_gaussians(lifted)
    far = replace(near, means=near.means + 500)
    both = Gaussians.from_parameters(
        {name: torch.cat([near.parameters()[name], far.parameters()[name]]) for name in near.parameters()}
    )
    write_splat(tmp_path / "both.ply", both)
    config = in_parts("lift.steps=20", "data.check_splat=false")
    run = fit_run(room, config, folder=tmp_path / "run", splat=tmp_path / "both.ply")
    assert any(len(block.views) == 0 for block in read_blocks(run))
    assert not bool((segment_run(run).labels[len(near) :] >= 0).any())


def test_a_scene_without_segments_is_refused_before_it_is_cut(room: Path, tmp_path: Path) -> None:
    shutil.copytree(room, tmp_path / "bare")
    for folder in (tmp_path / "bare").glob("detic_*"):
        shutil.rmtree(folder)
    with pytest.raises(SceneError, match="no training view has a segment of a thing"):
        fit_run(tmp_path / "bare", in_parts(), folder=tmp_path / "run")


def test_a_block_keeps_to_the_settings_of_its_run(
    room: Path, parts: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_runs(parts)[0]
    with pytest.raises(RunError, match="is a block, with the settings of its run"):
        fit_run(room, load_config(None, [*SETTINGS, "lift.steps=9"]), folder=block.folder, overwrite=True)
    monkeypatch.chdir(block.folder)
    assert is_block(Run(Path(".")))
    with pytest.raises(RunError, match="would lie among the blocks"):
        write_outputs(parts, block.folder / "splat.ply")


def test_a_new_budget_reaches_the_blocks(room: Path, parts: Run) -> None:
    fit_run(room, in_parts("memory_budget_gb=0.5"), folder=parts.folder)
    assert {block.config.memory_budget_gb for block in block_runs(parts)} == {0.5}
    assert all(block.done("segment") for block in block_runs(parts))


def test_a_scene_may_be_lifted_at_once_after_all(room: Path, parts: Run) -> None:
    run = fit_run(room, load_config(None, SETTINGS), folder=parts.folder, overwrite=True)
    assert not in_blocks(run)
    made = run.result("lift").stat().st_mtime_ns
    assert len(segment_run(run)) > 0
    fit_run(room, load_config(None, SETTINGS), folder=parts.folder)
    assert run.result("lift").stat().st_mtime_ns == made
