"""Frames worth another segmentation: who comes first, what is said, what is drawn and where it is written."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import gslift
from PIL import Image
from pytest import approx
from rich.console import Console
from settings import findable_run

from gs_lift import segment_doctor
from gs_lift.disagreement import MISSED, Concern, disagreement
from gs_lift.errors import RunError
from gs_lift.files import write_text_atomic
from gs_lift.pipeline import SilentReporter, read_scene
from gs_lift.progress import OnStep
from gs_lift.report import frames_table
from gs_lift.run import Run
from gs_lift.scene import Camera, Scene, View
from gs_lift.segment_doctor import (
    COLORS,
    Frame,
    Look,
    diagnose_run,
    diagnosis,
    frames_json,
    heat_map,
    in_words,
    looks,
    picture_name,
    table_rows,
    what_to_look_at,
    worst_first,
    write_heat_maps,
)
from gs_lift.segmentation import Classes, Segments


def frame(name: str = "a", *concerns: Concern, objects: dict[int, int] | None = None) -> Frame:
    """Of 10 x 20 pixels, 100 of them of things."""
    shares = {
        kind: sum(one.share for one in concerns if one.kind == kind)
        for kind in ("merged", "split", "missed", "spurious")
    }
    return Frame(name, 200, 100, shares, concerns, objects or {})


def split(share: float, one: int = 3) -> Concern:
    return Concern("split", (1, 2), (one,), share, (4, 5))


def missed(share: float, one: int = 0) -> Concern:
    return Concern("missed", (), (one,), share, (1, 2))


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_the_worst_frame_comes_first_and_good_ones_not_at_all() -> None:
    frames = [frame("a", missed(0.1)), frame("b", missed(0.05), split(0.04)), frame("c", missed(0.3))]
    assert [one.name for one in worst_first(frames)] == ["c", "a"]
    assert [one.name for one in worst_first(frames, least=0)] == ["c", "a", "b"]


def test_the_largest_concerns_are_named() -> None:
    many = frame("a", missed(0.2, 4), split(0.1), missed(0.05, 1), missed(0.02, 2), missed(0.005, 5))
    assert what_to_look_at(many) == "5 missed, 4 in 2, 2 missed and 1 more"
    assert what_to_look_at(frame("a", missed(0.005))) == ""


def test_a_split_counts_with_the_share_of_frames_that_hold_its_object_as_one() -> None:
    """Object 3 has 40 of the 100 pixels: a quarter of it is a share of .1."""
    seen = {3: 40, 0: 20}
    frames = [
        frame("a", split(0.2), missed(0.1), objects=seen),
        frame("b", split(0.09), objects=seen),
        frame("c", objects=seen),
        frame("d", objects={0: 20}),
    ]
    found = diagnosis(frames)
    assert (found.seen, found.split) == ({3: 3, 0: 4}, {3: 1})
    assert found.unity == {3: approx(2 / 3), 0: 1}
    assert found.frames[0].shares == {"merged": 0, "split": approx(0.2 * 2 / 3), "missed": 0.1, "spurious": 0}
    assert found.frames[0].differing == approx(0.2 * 2 / 3 + 0.1)
    assert found.frames[1].concerns[0].share == approx(0.09 * 2 / 3)


def test_objects_that_most_frames_split_are_doubted() -> None:
    found = diagnosis([frame(str(i), *([split(0.2)] if i < 2 else []), objects={3: 40}) for i in range(5)])
    assert found.doubted == [3]
    assert in_words(found) == [
        "2 of 5 frames with segments differ on 10% or more of their pixels of things",
        "object 4 is in several segments in 2 of the 5 frames that see it: if it is several, `gslift edit --split 4`",
    ]


def test_specks_of_an_object_do_not_count_as_seen() -> None:
    speck = replace(frame("a", split(0.01), objects={3: 4}), area=10_000)
    assert diagnosis([speck]).seen == {}
    assert diagnosis([speck]).frames == (speck,)


def test_no_frames_are_no_trouble() -> None:
    found = diagnosis([])
    assert (found.frames, found.doubted) == ((), [])
    assert in_words(found) == ["0 of 0 frames with segments differ on 10% or more of their pixels of things"]
    assert json.loads(frames_json([], {})) == {"frames": []}


def test_the_table_has_twenty_lines_and_says_how_many_more() -> None:
    def printed(count: int) -> list[str]:
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(frames_table(table_rows([frame(f"{i:03}", missed(0.2, 6)) for i in range(count)])))
        return [line.strip() for line in console.export_text().splitlines()[2:] if line.strip()]

    lines = printed(23)
    assert len(lines) == 21
    assert lines[0].split() == ["000", "20.0%", "0.0%", "0.0%", "20.0%", "0.0%", "7", "missed"]
    assert lines[-1] == "and 3 more"
    assert len(printed(20)) == 20


# --- Pictures ---------------------------------------------------------------------------------------------------------

CLASSES = Classes(("stuff", "object"), (False, True))


def look(width: int = 40, *, name: str = "a", confidence: float = 1.0) -> Look:
    """A white photo with one object on its left half that no segment shows."""
    instance = torch.full((20, width), -1)
    instance[:, : width // 2] = 0
    lifted = Segments(instance, torch.where(instance >= 0, 1, 0), torch.full((20, width), confidence))
    segments = replace(lifted, instance=torch.full_like(instance, -1), semantic=torch.zeros_like(instance))
    camera = Camera(torch.eye(3), torch.eye(4), width, 20)
    view = View(name, camera, lambda: torch.ones(20, width, 3))
    return Look(view, segments, lifted, disagreement(segments, lifted, CLASSES))


def test_a_heat_map_is_coloured_where_it_disagrees_and_grey_elsewhere() -> None:
    picture = heat_map(look())
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 520  # 40 pixels, 13 each
    assert picture.shape[0] == 20 * 13 + 48
    grey, yellow = np.array([210] * 3), np.array(COLORS["missed"])
    assert picture[40, 400].tolist() == grey.tolist()
    assert picture[40, 40].tolist() == (0.2 * grey + 0.8 * yellow).round().tolist()


def test_what_counts_little_is_coloured_little() -> None:
    shade = heat_map(look(confidence=0.25))[40, 40]
    assert shade.tolist() == (0.8 * np.array([210] * 3) + 0.2 * np.array(COLORS["missed"])).round().tolist()
    assert heat_map(look(confidence=0.0))[40, 40].tolist() == [210] * 3


def test_large_photos_keep_their_size_and_long_names_fit() -> None:
    assert heat_map(look(600, name="x" * 400)).shape == (20 + 48, 600, 3)


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("00012", "00012.png"),
        ("left/00012", "left/00012.png"),
        ("../../etc/passwd", "etc/passwd.png"),
        ("/tmp/there", "tmp/there.png"),
        ("..\\up", "up.png"),
        ("a/./b//../c", "a/b/c.png"),
        ("..", "view.png"),
        ("", "view.png"),
    ],
)
def test_names_stay_below_the_folder(name: str, picture: str) -> None:
    assert picture_name(name) == picture


def test_names_that_become_the_same_are_numbered() -> None:
    assert picture_name("../a", {"a.png", "a_2.png"}) == "a_3.png"


# --- Runs -------------------------------------------------------------------------------------------------------------

BAD = "00002"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose segments are perfect, but for one frame that lost all after it was lifted."""
    made = findable_run(tmp_path_factory.mktemp("doctor"))
    file = made.scene / "detic_instance" / f"{BAD}.npy"
    np.save(file, np.zeros_like(np.load(file)))
    return made


def test_the_frame_that_lost_its_segments_is_the_worst(run: Run) -> None:
    found = diagnose_run(run)
    scene = read_scene(run)
    assert [one.name for one in found.frames] == [view.name for view in scene.train]
    worst = worst_first(found.frames)[0]
    assert worst.name == BAD
    assert worst.shares["missed"] == worst.differing > 0.5
    assert all(one.shares["missed"] < 0.2 for one in found.frames if one.name != BAD)


def test_what_an_object_is_worth_is_its_score(run: Run) -> None:
    (one,) = looks(run, [BAD])
    plain = segment_doctor.read_instances(run).object_scores
    assert float(one.lifted.confidence.max()) <= 1
    for number, score in enumerate(plain.tolist()):
        inside = one.lifted.instance == number
        if bool(inside.any()):
            assert float(one.lifted.confidence[inside].max()) <= score + 1e-6
    assert np.array_equal(one.found.kind == MISSED, one.lifted.instance.numpy() >= 0)


def test_the_command_prints_the_worst_first_and_writes_the_maps(run: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}
    done = gslift("doctor", run.folder, "--out", tmp_path / "maps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3].split()[0] == BAD
    names = [view.name for view in read_scene(run).train]
    assert f"of {len(names)} frames with segments differ" in done.stdout
    written = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert written == sorted([*(f"{name}.png" for name in names), "frames.json"])
    rows = json.loads((tmp_path / "maps" / "frames.json").read_text())["frames"]
    assert rows[0]["name"] == BAD
    assert rows[0]["differing"] == approx(
        sum(rows[0][kind] for kind in ("merged", "split", "missed", "spurious")), abs=1e-5
    )
    assert [row["differing"] for row in rows] == sorted((row["differing"] for row in rows), reverse=True)
    with Image.open(tmp_path / "maps" / rows[0]["picture"]) as picture:
        assert picture.size[0] == 48 * 11
    assert {path: path.read_bytes() for path in before} == before


def test_photos_are_not_replaced_and_maps_of_an_earlier_time_are(run: Run, tmp_path: Path) -> None:
    photos = run.scene / "color"
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    refused = gslift("doctor", run.folder, "--out", photos, cwd=tmp_path)
    assert refused.returncode == 2
    assert "that is no heat map; name another folder" in refused.stderr
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    for _ in range(2):
        assert gslift("doctor", run.folder, "--out", "maps", cwd=tmp_path).returncode == 0


def test_without_out_nothing_is_written(run: Run, tmp_path: Path) -> None:
    done = gslift("doctor", run.folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert BAD in done.stdout
    assert not list(tmp_path.iterdir())


def test_options_that_do_not_go_together_are_refused(run: Run, tmp_path: Path) -> None:
    done = gslift("doctor", run.folder, "--set", "data.max_size=8", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a RUN has the settings that made it" in done.stderr
    for where in ([], [run.scene]):
        done = gslift("doctor", *where, "--out", "maps", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, "gslift: --out is for a run; name its folder\n")


def test_a_run_that_was_not_segmented_says_so(run: Run, tmp_path: Path) -> None:
    copy = Run(shutil.copytree(run.folder, tmp_path / "copy"))
    copy.result("segment").unlink()
    with pytest.raises(RunError, match="segment is not finished; run `gslift segment"):
        diagnose_run(copy)


def renamed(run: Run, names: dict[int, str]) -> Scene:
    scene = read_scene(run)
    views = tuple(replace(view, name=names.get(i, view.name)) for i, view in enumerate(scene.train))
    return replace(scene, train=views)


def test_hostile_names_do_not_lead_out(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "../../out", 1: "left/eye", 2: f"{tmp_path}/abs", 3: "out", 4: ".."}
    scene = renamed(run, names)
    monkeypatch.setattr(segment_doctor, "read_scene", lambda run: scene)
    folder = tmp_path / "deep" / "maps"
    written = write_heat_maps(run, folder, diagnose_run(run))
    assert len(written) == len({path.resolve() for path in written}) == len(scene.train) + 1
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in written)
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == set(written)
    pictures = {row["name"]: row["picture"] for row in json.loads(written[0].read_text())["frames"]}
    assert [pictures[names[i]] for i in (0, 1, 3, 4)] == ["out.png", "left/eye.png", "out_2.png", "view.png"]


def test_views_without_segments_are_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = read_scene(run)
    views = (replace(scene.train[0], segments=None), *scene.train[1:])
    monkeypatch.setattr(segment_doctor, "read_scene", lambda run: replace(scene, train=views))
    assert [one.name for one in diagnose_run(run).frames] == [view.name for view in views[1:]]


class Stops(SilentReporter):
    """As after Ctrl-C at the second step of a stage."""

    def __init__(self, stage: str):
        self.name = stage

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[OnStep]:
        def on_step(step: int, figures: dict[str, float]) -> None:
            if name == self.name and step == 2:
                raise KeyboardInterrupt

        yield on_step


def test_it_stops_at_a_whole_picture(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        diagnose_run(run, reporter=Stops("segments"))
    with pytest.raises(KeyboardInterrupt):
        write_heat_maps(run, tmp_path, diagnose_run(run), reporter=Stops("maps"))
    names = [view.name for view in read_scene(run).train]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.png" for name in names[:2]]
    for name in names[:2]:
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "run" / "run.json", "{")
    done = gslift("doctor", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
