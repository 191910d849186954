"""Objects of a run merged, split, named and deleted, from the shell and in memory; and what lasts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import gslift
from settings import findable_run

from gs_lift.editing import Editor, parse_assignment, parse_ids, parse_split
from gs_lift.edits import CANNOT, MUST, Edit, splat_digest, write_edits
from gs_lift.errors import ConfigError, ConstraintError, RunError
from gs_lift.pipeline import evaluate_run, read_instances, segment_run, write_outputs
from gs_lift.run import Run
from gs_lift.words import listed


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return findable_run(tmp_path_factory.mktemp("editing"))


@pytest.fixture
def run(untouched: Run, tmp_path: Path) -> Run:
    """A run of its own for each test, of four objects."""
    shutil.copytree(untouched.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def objects(path: Path) -> dict[int, dict[str, Any]]:
    return {one["id"]: one for one in json.loads(path.read_text())["objects"]}


def members(editor: Editor, one: int) -> set[int]:
    return set(torch.nonzero(editor.instances.labels == one - 1)[:, 0].tolist())


# ---- what each does


def test_a_merge_makes_two_objects_one_and_leaves_all_others(run: Run) -> None:
    editor = Editor(run)
    before = {one: members(editor, one) for one in (1, 2, 3, 4)}
    editor.do(editor.merging([2, 4]))
    assert (editor.instances.present + 1).tolist() == [1, 2, 3]
    assert members(editor, 2) == before[2] | before[4]
    assert members(editor, 1) == before[1]
    assert members(editor, 3) == before[3]


def test_a_split_of_what_was_merged_takes_the_merge_back(run: Run) -> None:
    editor = Editor(run)
    before = editor.instances.labels
    editor.do(editor.merging([2, 4]))
    editor.do(editor.splitting(2))
    assert torch.equal(editor.instances.labels, before)


def test_a_merge_after_a_split_takes_the_split_back(run: Run) -> None:
    editor = Editor(run)
    before = editor.instances.labels
    for one in (1, 2, 3, 4):
        editor.do(editor.splitting(one))
        new = int(editor.instances.present.max()) + 1
        editor.do(editor.merging([one, new]))
        assert torch.equal(editor.instances.labels, before), one


def test_a_split_of_an_object_without_parts_gives_two_halves_and_nothing_is_lost(run: Run) -> None:
    editor = Editor(run)
    before = members(editor, 1)
    editor.do(editor.splitting(1))
    first, second = members(editor, 1), members(editor, 5)
    assert first | second == before
    assert min(len(first), len(second)) >= 16
    means = editor.gaussians.means
    between = (means[list(first)].mean(dim=0) - means[list(second)].mean(dim=0)).norm()
    assert between > means[list(before)].std(dim=0).max()  # two ends, not one strewn in the other


def test_a_split_at_two_places_parts_what_lies_around_each(run: Run) -> None:
    editor = Editor(run)
    inside = np.array(sorted(members(editor, 1)))
    along = editor.gaussians.means[torch.from_numpy(inside), 0].numpy()
    left, right = int(inside[along.argmin()]), int(inside[along.argmax()])
    editor.do(editor.splitting(1, [left, right]))
    assert {int(editor.instances.labels[left]), int(editor.instances.labels[right])} == {0, 4}
    assert set(editor.instances.labels[inside].tolist()) == {0, 4}
    with pytest.raises(ConfigError, match="wanted two places or more that belong to it"):
        editor.splitting(2, [left, right])


def test_a_deleted_object_is_nobodys(run: Run) -> None:
    editor = Editor(run)
    gone = members(editor, 2)
    editor.do(editor.deleting(2))
    assert (editor.instances.present + 1).tolist() == [1, 3, 4]
    assert (editor.instances.labels[list(gone)] == -1).all()
    with pytest.raises(ConfigError, match="no object 2; there are 1, 3, 4"):
        editor.deleting(2)


def test_undo_and_redo_lead_back_and_forth_to_the_same_bytes(run: Run) -> None:
    editor = Editor(run)
    states = [editor.instances.labels]
    for edit in (lambda: editor.merging([1, 2]), lambda: editor.splitting(3), lambda: editor.deleting(4)):
        editor.do(edit())
        states.append(editor.instances.labels)
    for state in states[-2::-1]:
        editor.undo()
        assert torch.equal(editor.instances.labels, state)
    for state in states[1:]:
        editor.redo()
        assert torch.equal(editor.instances.labels, state)


# ---- what lasts


def test_a_re_cut_keeps_the_edits(run: Run) -> None:
    editor = Editor(run)
    gone = sorted(members(editor, 4))
    editor.do(editor.merging([1, 3]), editor.naming(2, "mug"), editor.deleting(4))
    speakers = [link.pair for link in editor.edits.constraints().must]
    editor.save()
    for granularity in (0.2, 0.8, 0.5):
        editor.cut({"granularity": granularity})
        labels = editor.instances.labels
        assert all(labels[a] == labels[b] >= 0 for a, b in speakers)
        assert list(editor.names.values()) == ["mug"]
        assert (labels[gone] == -1).all()
        assert torch.equal(segment_run(run, changes={"granularity": granularity}).labels, labels)


def test_segment_applies_edits_that_were_written_by_hand(run: Run) -> None:
    editor = Editor(run)
    edit = editor.merging([1, 2])
    plain = read_instances(run)
    editor.do(edit)
    editor.save()
    edited, text = read_instances(run), run.edits.read_text()
    run.edits.unlink()
    assert torch.equal(segment_run(run, changes={}).labels, plain.labels)
    run.edits.write_text(text)
    assert torch.equal(segment_run(run).labels, edited.labels)
    assert torch.equal(read_instances(run).labels, edited.labels)
    run.edits.unlink()
    assert torch.equal(segment_run(run).labels, plain.labels)


def test_an_edit_that_cannot_be_leaves_everything_as_it_was(run: Run, tmp_path: Path) -> None:
    constraints = tmp_path / "mine.json"
    constraints.write_text(json.dumps({"cannot_link": {"instances": [[1, 2]]}}))
    segment_run(run, changes={}, constraints=constraints)
    editor = Editor(run)
    before, saved = editor.instances.labels, run.result("segment").read_bytes()
    with pytest.raises(
        ConstraintError, match=r"cannot_link instances \[1, 2\], but merge 1, 2 ties them together"
    ):
        editor.do(editor.merging([1, 2]))
    assert torch.equal(editor.instances.labels, before)
    assert run.result("segment").read_bytes() == saved
    assert not run.edits.exists()


def test_the_edits_of_a_splat_that_is_made_anew_are_put_aside(run: Run) -> None:
    editor = Editor(run)
    editor.do(editor.deleting(1))
    editor.save()
    text = run.edits.read_text()
    run.forget("lift")
    assert run.edits.read_text() == text  # the rows are the same
    run.forget("fit")
    assert not run.edits.exists()
    run.edits.write_text("{}")
    run.forget("fit")
    assert [(run.folder / f"edits.old{i}.json").read_text() for i in (1, 2)] == [text, "{}"]


def test_two_who_edit_at_once_lose_nothing(run: Run) -> None:
    one, other = Editor(run), Editor(run)
    one.do(one.naming(1, "mug"))
    one.save()
    other.do(other.naming(3, "box"))
    with pytest.raises(RunError, match="edited by somebody else meanwhile"):
        other.save()
    assert Editor(run).names == {0: "mug"}
    other.reload()
    other.do(other.naming(3, "box"))
    other.save()
    assert Editor(run).names == {0: "mug", 2: "box"}


def test_a_run_that_was_made_anew_is_not_edited_by_what_was_open(run: Run) -> None:
    editor = Editor(run)
    editor.do(editor.deleting(1))
    saved = run.result("segment").read_bytes()
    splat = run.result("fit").read_bytes()
    run.result("fit").unlink()
    run.result("fit").write_bytes(splat)
    for change in (editor.save, editor.reload):
        with pytest.raises(RunError, match="was made anew meanwhile; open it again"):
            change()
    assert run.result("segment").read_bytes() == saved
    assert not run.edits.exists()


def test_a_split_at_two_near_places_of_a_small_object_parts_them(run: Run) -> None:
    editor = Editor(run)
    inside = sorted(members(editor, 4))
    for seed in range(5):
        first, second = np.random.default_rng(seed).choice(inside, 2, replace=False).tolist()
        edit = editor.splitting(4, [first, second])
        assert not set(edit.groups[0]) & set(edit.groups[1])
        editor.do(edit)
        assert editor.instances.labels[first] != editor.instances.labels[second], f"seed {seed}"
        editor.undo()


def test_what_would_lock_the_run_is_refused_when_it_is_made(run: Run) -> None:
    editor = Editor(run)
    large = Edit(CANNOT, "split 1", (tuple(range(800)), tuple(range(800, 1600))))
    with pytest.raises(
        ConstraintError, match="split 1: 640000 pairs to be held apart; wanted at most 500000"
    ):
        editor.do(large)
    assert not editor.edits
    every = sorted(members(editor, 1))
    editor.do(editor.splitting(1, every))  # at each of its Gaussians
    editor.save()
    assert Editor(run).edits == editor.edits


def test_edits_that_do_not_hold_can_be_undone(run: Run, tmp_path: Path) -> None:
    editor = Editor(run)
    editor.do(editor.naming(1, "mug"))
    editor.save()
    nobody = int(torch.nonzero(~torch.isin(torch.arange(3000), editor.instances.tree["rows"]))[0])
    write_edits(
        run.edits,
        editor.edits.and_then(Edit(MUST, "merge 1, 9", ((editor.edits.done[0].groups[0][0],), (nobody,)))),
        splat_digest(editor.gaussians),
    )
    result = gslift("segment", "run", "--out", "labels.ply", cwd=tmp_path)
    assert result.returncode == 2
    assert "impossible: merge 1, 9" in result.stderr
    assert gslift("edit", "run", "--undo", cwd=tmp_path).returncode == 0
    assert gslift("segment", "run", "--out", "labels.ply", cwd=tmp_path).returncode == 0
    assert objects(tmp_path / "labels.json")[1]["name"] == "mug"


def test_a_copy_of_a_run_leaves_the_files_of_the_original_alone(run: Run, tmp_path: Path) -> None:
    write_outputs(run, tmp_path / "labels.ply")
    shutil.copytree(run.folder, tmp_path / "copy")
    assert Run(tmp_path / "copy").labels is None
    assert run.labels == tmp_path / "labels.ply"
    (tmp_path / "labels.ply").unlink()
    assert run.labels is None


def test_scores_count_what_is_there(run: Run) -> None:
    editor = Editor(run)
    before = evaluate_run(run)["released"]
    editor.do(editor.deleting(2))
    editor.save()
    after = evaluate_run(run)["released"]
    assert after.objects_found < before.objects_found


# ---- from the shell


def test_the_shell_edits_and_writes_again_what_was_written(run: Run, tmp_path: Path) -> None:
    def edit(*options: object) -> str:
        result = gslift("edit", "run", *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert gslift("segment", "run", "--out", "labels.ply", cwd=tmp_path).returncode == 0
    plain = (tmp_path / "labels.json").read_text()
    said = edit("--merge", "2,4", "--name", "3=small mug", "--name", "2=both")
    assert "merge 2, 4 -> 2" in said
    assert "3 objects, 3 edits" in said
    found = objects(tmp_path / "labels.json")
    assert {one: entry.get("name") for one, entry in found.items()} == {1: None, 2: "both", 3: "small mug"}
    assert json.loads((tmp_path / "labels.json").read_text())["cut"]["edits"][0] == "merge 2, 4"
    edit("--undo", "--undo", "--undo")
    assert (tmp_path / "labels.json").read_text() == plain
    assert edit("--redo").splitlines()[0] == "redo: merge 2, 4"
    assert list(objects(tmp_path / "labels.json")) == [1, 2, 3]
    assert edit().splitlines()[0] == "  1  merge 2, 4"
    assert edit("--split", "2").splitlines()[0] == "split 2 -> 2, 4"
    assert "4 objects, after 2 edits" in gslift("segment", "run", "--out", "labels.ply", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--merge", "3"], "--merge 3: wanted ids with commas between"),
        (["--merge", "3,3"], "merge 3, 3: wanted two objects or more"),
        (["--merge", "1,9"], "no object 9; there are 1 to 4"),
        (["--split", "0"], "no object 0; there are 1 to 4"),
        (["--name", "mug"], "--name mug: wanted an id and what it gets, for example 4=mug"),
        (["--name", f"1={'x' * 201}"], "name 1: 201 letters; wanted at most 200"),
        (["--class", "1=chair"], "class 1=chair: no such class of things; one of: "),
        (["--delete", "7"], "no object 7; there are 1 to 4"),
        (["--undo"], "undo: nothing was edited"),
        (["--redo"], "redo: nothing was undone"),
        (["--out", "labels.txt"], "--out labels.txt: wanted a name that ends in .ply"),
        (["--out", "run/splat.ply"], "would replace run/splat.ply, which this run was made from"),
        (["--out", "run/edits.ply"], "would replace run/edits.ply, which this run was made from"),
        (["--delete", "2", "--merge", "1,9"], "no object 9; there are 1 to 4"),
        (["--delete", "1", "--merge", "1,3"], "--delete 1: is merged or split by the same command"),
        (["--split", "1:7"], "--split 1:7: wanted an id, or one with Gaussians of it: 5:120,4000"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    run: Run, tmp_path: Path, options: list[str], said: str
) -> None:
    result = gslift("edit", "run", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not run.edits.exists()


def test_options_are_parsed() -> None:
    assert parse_ids("3,7,12") == [3, 7, 12]
    assert parse_split("5") == (5, [])
    assert parse_split("5:120,4000") == (5, [120, 4000])
    assert parse_assignment("--name", "4=a=b") == (4, "a=b")
    assert listed([1, 2, 3, 4, 6, 7, 9]) == "1 to 4, 6, 7, 9"
    assert listed([]) == "none"
