"""Edits: what is written and read, which of them hold, and what they make of a cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gs_lift.edits import CANNOT, CLASS, DELETE, MUST, NAME, Edit, Edits, read_edits, write_edits
from gs_lift.errors import ConstraintError
from gs_lift.segmentation import Classes, Instances, Parts

CLASSES = Classes(("floor", "chair", "lamp"), (False, True, True))


def merge(*gaussians: int) -> Edit:
    return Edit(MUST, f"merge {gaussians}", tuple((one,) for one in gaussians))


def split(*groups: tuple[int, ...]) -> Edit:
    return Edit(CANNOT, f"split {groups}", groups)


def instances_of(labels: list[int], parts: Parts | None = None) -> Instances:
    ids = torch.tensor(labels)
    return Instances(ids, (ids >= 0).float(), torch.ones(max(labels) + 1, dtype=torch.int64), {}, parts)


def pairs(edits: Edits) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    constraints = edits.constraints()
    return {link.pair for link in constraints.must}, {link.pair for link in constraints.cannot}


# ---- the file


ALL = (
    merge(12, 40, 41),
    split((5, 6), (77,)),
    Edit(NAME, "name 4 Tasse \u2615", ((88,),), "Tasse \u2615"),
    Edit(NAME, "name 4", ((88,),), None),
    Edit(CLASS, "class 4 chair", ((88,),), "chair"),
    Edit(DELETE, "delete 9", ((9, 30),), count=250),
)


def test_edits_come_back_from_their_file(tmp_path: Path) -> None:
    path, edits = tmp_path / "edits.json", Edits(ALL[:4], ALL[4:])
    write_edits(path, edits, "abc")
    assert read_edits(path, 100, "abc") == edits
    assert len(path.read_text().splitlines()) == 5 + len(ALL)  # a line for each edit


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_edits(tmp_path / "edits.json", 3, "abc") == Edits()


def test_edits_of_another_splat_are_refused(tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.json", Edits(ALL), "abc")
    with pytest.raises(ConstraintError, match="of another splat than the run's"):
        read_edits(tmp_path / "edits.json", 100, "abd")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "wanted an object with splat, edits and undone"),
        ('{"edits": []}', "wanted an object with splat, edits and undone"),
        ('{"splat": "", "edit": []}', "wanted an object with splat, edits and undone"),
        ('{"splat": "", "edits": {}}', "edits: wanted a list"),
        ('{"splat": "", "edits": [3]}', "edits, entry 1: not an edit: 3"),
        ('{"splat": "", "edits": [{"said": "merge"}]}', "not an edit"),
        ('{"splat": "", "edits": [{"must_link": [[1]]}]}', "not an edit"),
        ('{"splat": "", "edits": [{"must_link": [[1], [true]]}]}', "not an edit"),
        ('{"splat": "", "edits": [{"must_link": [[1], []]}]}', "not an edit"),
        ('{"splat": "", "edits": [{"cannot_link": 5}]}', "not an edit"),
        ('{"splat": "", "edits": [{"name": 7, "gaussians": [1]}]}', "not an edit"),
        ('{"splat": "", "edits": [{"class": null, "gaussians": [1]}]}', "not an edit"),
        ('{"splat": "", "edits": [{"name": "mug"}]}', "not an edit"),
        ('{"splat": "", "edits": [{"name": "mug", "gaussians": [1], "said": 3}]}', "not an edit"),
        ('{"splat": "", "edits": [{"delete": [1], "count": "many"}]}', "not an edit"),
        ('{"splat": "", "undone": [{"delete": [10]}]}', "undone, entry 1: there are Gaussians 0 to 9"),
        ('{"splat": "", "edits": [{"must_link": [[0], [-1]]}]}', "there are Gaussians 0 to 9"),
        (
            json.dumps({"splat": "", "edits": [{"cannot_link": [[1] * 800, [2] * 800]}]}),
            "640000 pairs to be held apart; wanted at most 500000",
        ),
        (
            json.dumps({"splat": "", "edits": [{"must_link": [[1]] * 5002}]}),
            "5001 ties; wanted at most 5000",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "edits.json"
    path.write_text(content)
    with pytest.raises(ConstraintError, match=said):
        read_edits(path, 10)


def test_names_that_would_do_something_to_a_terminal_are_cleaned(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    name = "mug\n\x1b[2J\ud800 " + 500 * "x"
    path.write_text(json.dumps({"splat": "", "edits": [{"said": name, "name": name, "gaussians": [1]}]}))
    (edit,) = read_edits(path, 10).done
    assert edit.text == edit.said == ("mug [2J " + 500 * "x")[:200]


# ---- which of them hold


def test_what_is_undone_is_done_again_until_something_else_is_done() -> None:
    first, second, third = merge(1, 2), merge(3, 4), merge(5, 6)
    edits = Edits().and_then(first, second).undo()
    assert edits == Edits((first,), (second,))
    assert edits.redo() == Edits((first, second))
    assert edits.and_then(third) == Edits((first, third))
    with pytest.raises(ConstraintError, match="nothing was undone"):
        edits.and_then(third).redo()
    with pytest.raises(ConstraintError, match="nothing was edited"):
        Edits().undo()


def test_a_merge_ties_all_to_the_first() -> None:
    assert pairs(Edits((merge(1, 5, 9),))) == ({(1, 5), (1, 9)}, set())


def test_a_split_holds_every_two_groups_apart() -> None:
    assert pairs(Edits((split((1, 2), (3,), (4,)),))) == (set(), {(1, 3), (2, 3), (1, 4), (2, 4), (3, 4)})


def test_a_merge_after_a_split_wins() -> None:
    assert pairs(Edits((split((1,), (3,)), merge(1, 3)))) == ({(1, 3)}, set())


def test_a_merge_by_way_of_a_third_wins_too() -> None:
    assert pairs(Edits((split((1,), (3,)), merge(1, 2), merge(2, 3)))) == ({(1, 2), (2, 3)}, set())


def test_a_merge_takes_back_a_split_that_named_many() -> None:
    wide = Edit(MUST, "merge", ((9, 1, 2), (8, 3, 4)))
    assert pairs(Edits((split((1, 2), (3, 4)), wide))) == ({(9, 8)}, set())


def test_a_split_after_merges_takes_the_latest_tie_between_the_two() -> None:
    edits = Edits((merge(1, 2), merge(2, 3), merge(7, 8), split((1,), (3,))))
    assert pairs(edits) == ({(1, 2), (7, 8)}, {(1, 3)})


def test_many_edits_are_quick_to_apply() -> None:
    chain = Edits(tuple(merge(one, one + 1) for one in range(3000)))
    must, _ = pairs(chain.and_then(split((0,), (3000,))))
    assert len(must) == 2999
    assert (2999, 3000) not in must  # the latest on the way


def test_constraints_never_contradict_each_other() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        edits = Edits(
            tuple(
                (merge if rng.random() < 0.6 else lambda a, b: split((a,), (b,)))(*map(int, pair))
                for pair in (rng.choice(6, 2, replace=False) for _ in range(12))
            )
        )
        must, cannot = pairs(edits)
        group = {one: {one} for one in range(6)}
        for a, b in must:
            joined = group[a] | group[b]
            group |= dict.fromkeys(joined, joined)
        assert not [(a, b) for a, b in cannot if b in group[a]], f"seed {seed}"


# ---- what they make of a cut


def test_an_instance_keeps_its_number_and_one_that_was_merged_away_is_left_empty() -> None:
    free = instances_of([0, 0, 0, 1, 1, 2, 3])
    cut = instances_of([0, 0, 0, 1, 0, 0, 1])  # the second one lost a Gaussian, and has the fourth one
    edited = Edits((merge(0, 5),)).applied(cut, free, CLASSES)
    assert edited.labels.tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert (len(edited), edited.present.tolist()) == (4, [0, 1])


def test_a_new_instance_takes_the_number_behind_all_others() -> None:
    free, cut = instances_of([0, 0, 0, 0, 0, 1]), instances_of([0, 0, 1, 1, 1, 2])
    edited = Edits((split((0,), (2,)),)).applied(cut, free, CLASSES)
    assert edited.labels.tolist() == [2, 2, 0, 0, 0, 1]


def test_new_instances_are_numbered_in_the_order_of_the_edits() -> None:
    free = instances_of([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    cut = instances_of([0, 0, 0, 2, 3, 1, 1, 1, 4, 4])
    one, both = split((0,), (3,), (4,)), split((5,), (8,))
    assert Edits((one, both)).applied(cut, free, CLASSES).labels.tolist() == [0, 0, 0, 2, 3, 1, 1, 1, 4, 4]
    assert Edits((both, one)).applied(cut, free, CLASSES).labels.tolist() == [0, 0, 0, 3, 4, 1, 1, 1, 2, 2]


def test_an_edit_moves_the_number_of_no_earlier_one() -> None:
    free = instances_of([0, 0, 0, 1, 1, 1])
    first, second = split((0,), (2,)), split((3,), (5,))
    both = instances_of([0, 0, 2, 1, 1, 3])
    assert Edits((first, second)).applied(both, free, CLASSES).labels.tolist() == [0, 0, 2, 1, 1, 3]
    merged_back = instances_of([0, 0, 0, 1, 1, 2])
    edits = Edits((first, second, merge(0, 2)))
    assert edits.applied(merged_back, free, CLASSES).labels.tolist() == [0, 0, 0, 1, 1, 3]


def test_a_deleted_object_is_nobodys_and_the_others_keep_their_numbers() -> None:
    free = instances_of([0, 0, 0, 1, 1, 2])
    edited = Edits((Edit(DELETE, "delete 2", ((3, 4),), count=2),)).applied(free, free, CLASSES)
    assert edited.labels.tolist() == [0, 0, 0, -1, -1, 2]
    assert edited.scores.tolist() == [1, 1, 1, 0, 0, 1]


def test_a_deleted_object_does_not_take_away_the_large_one_that_a_coarser_cut_puts_it_into() -> None:
    coarse = instances_of([0, 0, 0, 0, 0, 1])
    edits = Edits((Edit(DELETE, "delete 2", ((3, 4),), count=2),))
    assert edits.applied(coarse, coarse, CLASSES).labels.tolist() == [0, 0, 0, 0, 0, 1]


def test_all_pieces_of_a_deleted_object_are_gone_in_a_finer_cut() -> None:
    fine = instances_of([0, 0, 1, 1, 2, 2])
    edits = Edits((Edit(DELETE, "delete 1", ((0, 1, 2, 3),), count=4),))
    assert edits.applied(fine, fine, CLASSES).labels.tolist() == [-1, -1, -1, -1, 2, 2]


def test_the_last_name_and_class_of_an_instance_hold() -> None:
    free = instances_of([0, 0, 1])
    edits = Edits(
        (
            Edit(NAME, "", ((0,),), "mug"),
            Edit(NAME, "", ((1,),), "cup"),
            Edit(NAME, "", ((2,),), "box"),
            Edit(NAME, "", ((2,),), None),
            Edit(CLASS, "", ((2,),), "lamp"),
            Edit(CLASS, "", ((0,),), "a class that the scene no longer has"),
        )
    )
    edited = edits.applied(free, free, CLASSES)
    assert edits.names(edited.labels) == {0: "cup"}
    assert edited.classes.tolist() == [1, 2]


def test_a_name_goes_with_most_of_its_gaussians() -> None:
    labels = torch.tensor([0, 1, 1, 1, -1])
    edits = Edits((Edit(NAME, "", ((0, 1, 2, 4),), "mug"), Edit(NAME, "", ((4,),), "nobody's")))
    assert edits.names(labels) == {1: "mug"}


def test_parts_follow_their_instances() -> None:
    parts = Parts(
        instance=torch.tensor([0, 0, 1, 1]),
        parent=torch.tensor([-1, -1, -1, 2]),
        granularity=torch.tensor([0.6, 0.6, 0.7, 0.8]),
        labels=torch.tensor([0, 1, 2, 3, -1]),
    )
    free = instances_of([0, 0, 1, 1, 2], parts)
    edited = Edits((Edit(DELETE, "", ((0, 1),), count=2),)).applied(free, free, CLASSES).parts
    assert edited is not None
    assert edited.instance.tolist() == [1, 1]
    assert edited.parent.tolist() == [-1, 0]
    assert edited.labels.tolist() == [-1, -1, 0, 1, -1]
    gone = Edits((Edit(DELETE, "", ((2, 3),), count=2), Edit(DELETE, "", ((4,),), count=1)))
    edited = gone.applied(free, free, CLASSES).parts
    assert edited is not None
    assert edited.instance.tolist() == [0, 0]


def test_a_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.json", Edits((merge(12, 40),)), "abc")
    content = json.loads((tmp_path / "edits.json").read_text())
    assert content == {
        "splat": "abc",
        "edits": [{"said": "merge (12, 40)", "must_link": [[12], [40]]}],
        "undone": [],
    }
