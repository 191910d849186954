"""Objects carried over to a splat that was edited elsewhere: which Gaussian is which, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import gaussforge
import numpy as np
import pytest
import torch
from commands import gslift
from random_data import random_gaussians
from torch import Tensor

from gs_lift import ply
from gs_lift.errors import ConfigError, GsLiftError, SplatError
from gs_lift.exports import Labelled
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import quats_to_rotmats
from gs_lift.relabel import default_out, relabel
from gs_lift.segmentation import Classes, Instances
from gs_lift.splats.compact import FORMATS, FROM_SPZ
from gs_lift.splats.frames import Similarity, moved
from gs_lift.splats.matching import match

COUNT = 400
MOVE = Similarity(
    quats_to_rotmats(torch.tensor([[0.3, 0.5, -0.2, 0.7]], dtype=torch.float64))[0],
    torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64),
    2.5,
)
NONE = torch.full((COUNT,), -1)


def splat_of(seed: int, count: int = COUNT) -> Gaussians:
    made = random_gaussians(seed, count, scales=(0.01, 0.1))
    splat = Gaussians(*(tensor.float() for tensor in made.parameters().values()))
    return replace(splat, quats=torch.nn.functional.normalize(splat.quats, dim=1))  # GaussForge wants it so


def joined(*splats: Gaussians) -> Gaussians:
    names = splats[0].parameters()
    return Gaussians.from_parameters(
        {one: torch.cat([each.parameters()[one] for each in splats]) for one in names}
    )


def order(seed: int, count: int = COUNT) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def splat() -> Gaussians:
    return splat_of(1)


@pytest.fixture
def labels(splat: Gaussians, tmp_path: Path) -> Path:
    """Five objects in turns, none for the sixth; the second is named, the third is no chair."""
    ids = torch.arange(COUNT) % 6
    instances = Instances(
        labels=torch.where(ids < 5, ids, -1),
        scores=torch.where(ids < 5, torch.linspace(0.5, 1.0, COUNT), 0.0),
        classes=torch.tensor([0, 0, 1, -1, 0]),
        tree={},
    )
    path = tmp_path / "labels.ply"
    ply.write_labels(path, splat, instances)
    classes = Classes(("chair", "lamp"), (True, True))
    path.with_suffix(".json").write_text(ply.labels_json(splat, instances, classes, names={1: "grandpa's"}))
    return path


def objects(path: Path) -> dict[int, dict[str, object]]:
    return {one["id"]: one for one in json.loads(path.with_suffix(".json").read_text())["objects"]}


# --- Which Gaussian is which ------------------------------------------------------------------------------------------


def test_a_pruned_and_reordered_splat_is_known_by_its_bytes(splat: Gaussians) -> None:
    rows = order(2)[: COUNT // 3]
    found = match(splat.rows(rows), splat)
    assert torch.equal(found.rows, rows)
    assert (found.by_bytes, found.by_place, found.frame) == (COUNT // 3, 0, None)


def test_a_turned_scaled_and_shifted_splat_is_known_by_its_bytes_and_so_is_the_move(splat: Gaussians) -> None:
    rows = order(3)
    found = match(moved(splat, MOVE).rows(rows), splat)
    assert torch.equal(found.rows, rows)
    assert found.by_bytes == COUNT
    assert found.frame is not None
    assert found.frame.scale == pytest.approx(2.5, rel=1e-5)
    assert torch.allclose(found.frame.rotation, MOVE.rotation, atol=1e-5)
    assert torch.allclose(found.frame.translation, MOVE.translation, atol=1e-5)
    assert "moved: turned by 142.48 degrees, scaled by 2.5, shifted by 3, -1, 2" in found.said("it")


def test_an_object_that_was_moved_by_itself_or_copied_keeps_its_rows(splat: Gaussians) -> None:
    own = torch.arange(0, COUNT, 6)
    found = match(joined(splat, moved(splat.rows(own), MOVE)), splat)
    assert torch.equal(found.rows, torch.cat([torch.arange(COUNT), own]))
    assert found.frame is None  # most of it lies where it lay


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_quantised_splat_is_known_by_place_also_where_it_was_moved(
    ending: str, move: bool, splat: Gaussians, labels: Path
) -> None:
    edited = moved(splat, MOVE) if move else splat
    whole, path = labels.with_name("whole.ply"), labels.with_name(f"quantised{ending}")
    ply.write_splat(whole, moved(edited, FROM_SPZ.inverse) if ending == ".spz" else edited)
    result = gaussforge.GaussForge().convert(whole.read_bytes(), "ply", FORMATS[ending])
    path.write_bytes(result["data"])
    done = relabel(path, labels)
    assert done.paths[0] == labels.with_name("quantised_labels.ply")
    assert done.matches.by_bytes == 0
    assert done.matches.by_place == COUNT
    assert (done.matches.frame is not None) == move
    rows = done.matches.rows
    if ending != ".sog":  # which has an order of its own
        assert torch.equal(rows, torch.arange(COUNT))
    assert torch.equal(rows.sort().values, torch.arange(COUNT))
    assert torch.equal(Labelled.of_file(done.paths[0]).ids, Labelled.of_file(labels).ids[rows])


def test_a_recoloured_splat_is_known_by_place_and_shape_also_where_it_was_moved(splat: Gaussians) -> None:
    rows = order(4)
    for edited in (splat, moved(splat, MOVE)):
        found = match(replace(edited, sh0=0.5 * edited.sh0 + 1).rows(rows), splat)
        assert torch.equal(found.rows, rows)
        assert found.by_bytes == 0


def test_what_was_added_is_none_where_it_lies_among_the_others(splat: Gaussians) -> None:
    added = splat_of(5)
    for edited in (joined(splat, added), joined(added, moved(splat, MOVE))):
        found = match(edited, splat)
        own = torch.arange(COUNT)
        assert sorted(found.rows.split(COUNT), key=lambda part: int(part[0]))[0].equal(NONE)
        assert any(part.equal(own) for part in found.rows.split(COUNT))


def test_gaussians_of_equal_bytes_are_told_apart_by_place(splat: Gaussians) -> None:
    alike = replace(splat, sh0=splat.sh0.clone(), logit_opacities=splat.logit_opacities.clone())
    alike.sh0[:200], alike.logit_opacities[:200] = 0.25, 0.5
    rows = order(6)
    for edited in (alike, moved(alike, MOVE)):
        found = match(edited.rows(rows), alike)
        assert torch.equal(found.rows, rows)
        assert found.by_bytes == COUNT
    alike.sh0[:], alike.logit_opacities[:] = 0.25, 0.5  # all of them: nothing else tells
    assert torch.equal(match(alike.rows(rows), alike).rows, rows)


def test_equal_gaussians_at_one_place_are_taken_in_turn(splat: Gaussians) -> None:
    twice = joined(splat, splat)
    assert torch.equal(match(twice, twice).rows, torch.arange(2 * COUNT))


def test_thousands_of_equal_gaussians_at_one_place_are_no_work() -> None:
    one = splat_of(7, 1).rows(torch.zeros(30_000, dtype=torch.int64))
    assert torch.equal(match(one, one).rows, torch.arange(30_000))
    assert int(match(replace(one, sh0=one.sh0 + 1), one).by_place) == 30_000


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_gaussian_is_enough_where_it_was_not_moved(count: int, splat: Gaussians) -> None:
    rows = order(8)[:count]
    assert torch.equal(match(splat.rows(rows), splat).rows, rows)
    assert torch.equal(match(splat.rows(rows), splat.rows(rows)).rows, torch.arange(count))


# --- What is written --------------------------------------------------------------------------------------------------


def test_an_object_extracted_relabelled_and_imported_again_keeps_its_id(labels: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        done = gslift(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("extract", labels, "--id", 3, "--out", "o.ply")
    said = run("relabel", "o.ply", "--from", "labels.ply").splitlines()
    assert (
        said[0]
        == "o.ply: 67 of 67 Gaussians are of labels.ply (67 by their bytes, 0 by place), 0 are not; not moved"
    )
    assert said[1:] == ["wrote o_labels.ply", "wrote o_labels.json"]
    again = Labelled.of_file(tmp_path / "o_labels.ply")
    assert again.ids.tolist() == [3] * 67
    assert again.class_of == {3: "lamp"}
    run("extract", "o_labels.ply", "--id", 3, "--out", "again.ply")
    assert (tmp_path / "again.ply").read_bytes() == (tmp_path / "o.ply").read_bytes()


def test_ids_names_classes_and_scores_are_kept_counts_and_boxes_are_new(
    splat: Gaussians, labels: Path, tmp_path: Path
) -> None:
    kept = torch.nonzero(torch.isin(torch.arange(COUNT) % 6, torch.tensor([1, 3, 5])))[:, 0]
    edited = joined(moved(splat, MOVE).rows(kept[:100]), splat_of(9, 7))
    ply.write_splat(tmp_path / "edited.ply", edited)
    done = relabel(tmp_path / "edited.ply", labels, tmp_path / "new.ply")
    before, after, read = Labelled.of_file(labels), Labelled.of_file(done.paths[0]), objects(done.paths[0])
    assert torch.equal(after.ids[:100], before.ids[kept[:100]])
    assert torch.equal(after.scores[:100], before.scores[kept[:100]])
    assert after.ids[100:].tolist() == [0] * 7
    assert torch.equal(after.gaussians.means, edited.means)
    assert after.class_of == {2: "chair", 4: None}
    assert after.name_of == {2: "grandpa's"} == {2: before.name_of[2]}
    assert list(read) == [2, 4]
    old = objects(labels)
    for one in (2, 4):
        members = edited.means[after.ids == one]
        assert read[one]["count"] == len(members)
        assert read[one]["bbox"]["min"] == pytest.approx(members.amin(dim=0).tolist(), abs=1e-5)
        assert read[one]["score"] == old[one]["score"]
        assert read[one]["color"] == old[one]["color"]


def test_labels_without_a_json_have_ids_and_no_more(splat: Gaussians, labels: Path, tmp_path: Path) -> None:
    labels.with_suffix(".json").unlink()
    ply.write_splat(tmp_path / "edited.ply", splat)
    done = relabel(tmp_path / "edited.ply", labels)
    assert Labelled.of_file(done.paths[0]).class_of == dict.fromkeys(range(1, 6))
    assert torch.equal(Labelled.of_file(done.paths[0]).ids, Labelled.of_file(labels).ids)


# --- What is refused --------------------------------------------------------------------------------------------------


def test_a_foreign_splat_is_refused_in_one_line(labels: Path, tmp_path: Path) -> None:
    ply.write_splat(tmp_path / "foreign.ply", splat_of(10))
    done = gslift("relabel", "foreign.ply", "--from", labels, cwd=tmp_path)
    assert done.returncode == 2
    assert "0 of 400 Gaussians are of" in done.stderr
    assert "wanted 5% at least: name the labels.ply that it was made from" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "foreign_labels.ply").exists()


def test_a_splat_without_labels_is_refused(splat: Gaussians, tmp_path: Path) -> None:
    ply.write_splat(tmp_path / "a.ply", splat)
    with pytest.raises(SplatError, match="no property instance_id"):
        relabel(tmp_path / "a.ply", tmp_path / "a.ply")


def test_nothing_that_is_read_is_replaced(splat: Gaussians, labels: Path, tmp_path: Path) -> None:
    room, own = tmp_path / "room.ply", tmp_path / "room_labels.ply"
    ply.write_splat(room, splat)
    labels.rename(own)
    labels.with_suffix(".json").rename(own.with_suffix(".json"))
    (tmp_path / "link.ply").symlink_to(room)
    (tmp_path / "hard.ply").hardlink_to(own)
    files = {path: path.read_bytes() for path in (room, own, own.with_suffix(".json"))}
    for out in (None, room, own, own.with_suffix(".PLY"), tmp_path / "link.ply", tmp_path / "hard.ply"):
        with pytest.raises(ConfigError, match=r"would replace .*; choose another name with --out"):
            relabel(room, own, out)
    with pytest.raises(ConfigError, match=r"wanted a name that ends in \.ply"):
        relabel(room, own, tmp_path / "out.spz")
    assert files == {path: path.read_bytes() for path in files}


def test_the_name_of_the_result_is_that_of_the_splat_without_any_ending(tmp_path: Path) -> None:
    names = ["a.ply", "a.compressed.ply", "a.spz", "a.ckpt"]
    assert {default_out(tmp_path / name).name for name in names} == {"a_labels.ply"}
    assert default_out(tmp_path / "a.b.ply").name == "a.b_labels.ply"


NESTED = "[" * 100_000
HOSTILE = {
    "{": "not what `gslift segment` writes",
    NESTED: "not what `gslift segment` writes",
    f'{{"objects": {NESTED}': "not what `gslift segment` writes",
    "[]": "not what `gslift segment` writes",
    '{"objects": {}}': "not what `gslift segment` writes",
    '{"objects": [3]}': "object 0: wanted {id, class, ...}, got 3",
    '{"objects": [{"id": "1", "class": null}]}': "id: wanted 1 to 1048576, got '1'",
    '{"objects": [{"id": true, "class": null}]}': "id: wanted 1 to 1048576, got True",
    '{"objects": [{"id": 0, "class": null}]}': "id: wanted 1 to 1048576, got 0",
    '{"objects": [{"id": 2, "class": ["chair"]}]}': "class: wanted text or null, got list",
    '{"objects": [{"id": 2, "class": "chair", "name": 7}]}': "name: wanted text or null, got 7",
    '{"objects": [{"id": 2, "class": "chair", "score": NaN}]}': "score: wanted 0 to 1, got nan",
    '{"objects": [{"id": 2, "class": null}, {"id": 2, "class": null}]}': "object 1: id 2 is there twice",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:60])
def test_a_json_that_is_none_of_ours_is_refused_in_one_line(text: str, labels: Path, tmp_path: Path) -> None:
    labels.with_suffix(".json").write_text(text)
    for read in (lambda: relabel(labels, labels, tmp_path / "out.ply"), lambda: Labelled.of_file(labels)):
        with pytest.raises(SplatError) as caught:
            read()
        assert HOSTILE[text] in str(caught.value)
        assert str(caught.value).startswith(str(labels.with_suffix(".json")))
        assert "\n" not in str(caught.value)


def test_a_json_that_is_too_large_is_not_read(labels: Path, tmp_path: Path) -> None:
    with labels.with_suffix(".json").open("wb") as file:
        file.truncate(2**40)  # it takes no room
    with pytest.raises(SplatError, match=f"{2**40} bytes; wanted at most {2**28}"):
        relabel(labels, labels, tmp_path / "out.ply")


def test_an_id_that_wants_millions_of_colours_is_refused(splat: Gaussians, tmp_path: Path) -> None:
    few = splat.rows(torch.arange(2))
    path = tmp_path / "labels.ply"
    ply.write_labels(path, few, Instances(torch.tensor([0, -1]), torch.zeros(2), torch.zeros(1).long(), {}))
    content = path.read_bytes()
    number = np.int32(1).tobytes()
    assert content.count(number) >= 1
    path.write_bytes(content.replace(number, np.int32(2**30).tobytes()))
    with pytest.raises(GsLiftError, match=r"instance_id holds 1\.07374e\+09; wanted at most 1048576"):
        ply.read_labels(path)
