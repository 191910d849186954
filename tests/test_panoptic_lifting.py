"""Furnished rooms in the Panoptic Lifting layout: written, read back, and refused where they are broken."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from settings import frames_and_segments

from gs_lift.datasets import DataConfig, load_scene, panoptic_lifting
from gs_lift.errors import ConfigError, SceneError
from gs_lift.geometry import unproject
from gs_lift.scene import Scene, View
from gs_lift.segmentation import VOID, Segments
from gs_lift.synthetic import SynthConfig, furniture, synthesize
from gs_lift.synthetic.cameras import walk
from gs_lift.synthetic.furniture import KINDS, furnished_room
from gs_lift.synthetic.options import MOST_SEGMENTS
from gs_lift.synthetic.room import Room

TINY = SynthConfig(objects=6, views=6, size=48, seed=1, noise="moderate", layout="panoptic_lifting")
TRAIN, TEST = ["0001", "0002", "0003", "0004", "0005"], ["0000"]
WALL, FLOOR, BED, CHAIR, TABLE, LAMP, BAG = (
    panoptic_lifting.CLASSES.names.index(name)
    for name in ("wall", "floor", "bed", "chair", "table", "lamp", "bag")
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms") / "home"
    synthesize(folder, TINY, processes=1)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same room with faultless segments."""
    folder = tmp_path_factory.mktemp("rooms") / "clean"
    synthesize(
        folder,
        SynthConfig(objects=6, views=2, size=48, seed=1, noise="none", layout="panoptic_lifting"),
        processes=1,
    )
    return folder


@pytest.fixture
def scene_folder(written: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(written, tmp_path / "home"))


@pytest.fixture(scope="module")
def home() -> Room:
    return furnished_room(12, seed=0, size=48)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image).astype(int)


def views(scene: Scene) -> list[View]:
    """In the order of frames."""
    return sorted(scene.train + scene.test, key=lambda view: view.name)


def segments_of(view: View) -> Segments:
    assert view.segments is not None
    return view.segments()


def read_all(folder: Path) -> None:
    for view in views(load_scene(folder)):
        for read in (view.image, view.segments, view.truth, view.depth):
            if read is not None:
                read()


def refused(folder: Path, *parts: str) -> None:
    """Loading, or reading anything of any view, fails in one line that holds all `parts`."""
    with pytest.raises(SceneError) as caught:
        read_all(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- furniture


def test_furniture_stands_upright_on_the_floor_or_on_a_table(home: Room) -> None:
    assert {thing.name for thing in home.things} == set(KINDS)
    tops = [2 * thing.pose.position[2] for thing in home.things if thing.name == "table"]
    for thing in home.things:
        assert thing.pose.rotation[2, 2] == pytest.approx(1)
        vertices = home.mesh.vertices[home.mesh.faces[home.owner == thing.id]].reshape(-1, 3)
        foot = vertices[:, 2].min()
        levels = [0.0, *tops] if thing.name == "bag" else [0.0]
        assert min(abs(foot - level) for level in levels) < 0.003, thing.name
        assert np.abs(vertices[:, :2]).max() < home.extents.room
        kind = KINDS[thing.name]
        assert kind.least_m - 1e-9 <= thing.size_m <= kind.most_m + 1e-9


def test_furniture_does_not_stand_in_furniture(home: Room) -> None:
    low, high = [], []
    for thing in home.things:
        vertices = home.mesh.vertices[home.mesh.faces[home.owner == thing.id]].reshape(-1, 3)
        low.append(vertices.min(axis=0) + 0.005)
        high.append(vertices.max(axis=0) - 0.005)
    for a in range(len(low)):
        for b in range(a):
            apart = (low[a] > high[b]) | (low[b] > high[a])
            assert apart.any(), (home.things[a].name, home.things[b].name)


def test_every_second_chair_is_a_twin(home: Room) -> None:
    chairs = [thing for thing in home.things if thing.name == "chair"]
    for first, second in zip(chairs[::2], chairs[1::2], strict=False):
        assert (first.twin, second.twin) == (second.id, first.id)
        assert first.size_m == second.size_m
    assert all(thing.twin == 0 for thing in home.things if thing.name != "chair")


def test_floor_and_walls_have_the_ids_after_the_objects(home: Room) -> None:
    floor, walls = len(home.things) + 1, len(home.things) + 2
    corners = home.mesh.vertices[home.mesh.faces]
    assert np.abs(corners[home.owner == floor][..., 2]).max() == 0
    assert corners[home.owner == walls][..., 2].max() == pytest.approx(2.8)
    assert set(np.unique(home.owner)) == set(range(1, walls + 1))


def test_cameras_walk_between_furniture_and_walls_and_see_no_sky(home: Room) -> None:
    for camera in walk(30, 48, home.extents, seed=0):
        assert np.abs(camera.position[:2]).max() < home.extents.room
        assert camera.position[2] > max(thing.size_m for thing in home.things if thing.name == "lamp")


def test_a_room_of_one_chair() -> None:
    room = furnished_room(1, seed=0, size=16)
    assert [thing.name for thing in room.things] == ["chair"]


def test_writer_and_reader_know_the_same_classes() -> None:
    assert panoptic_lifting.CLASSES.names == furniture.CLASSES
    assert set(panoptic_lifting.CLASSES.things) == furniture.THINGS == {4, 5, 6, 14, 15, 16, 17, 18, 20}


# --- what is written


def test_every_frame_has_every_file(written: Path) -> None:
    folders = {
        "color": "png", "depth": "png", "pose": "txt", "rs_semantics": "png", "rs_instance": "png", "objects": "png",
        "m2f_semantics": "png", "m2f_instance": "png", "m2f_segments": "png", "m2f_invalid": "png",
        "m2f_probabilities": "npz",
    }  # fmt: skip
    expected = {f"{name}/{stem}.{suffix}" for name, suffix in folders.items() for stem in TRAIN + TEST}
    assert set(contents(written)) - expected == {
        "intrinsic/intrinsic_color.txt", "splits.json", "segmentation_data.pkl", "objects.json",
        "scene_errors.json", "synth.json",
    }  # fmt: skip
    assert json.loads((written / "splits.json").read_text()) == {"train": TRAIN, "test": TEST}


def test_types_are_those_of_the_layout(written: Path) -> None:
    modes = {}
    for path in written.glob("*/0001.png"):
        with Image.open(path) as image:
            modes[path.parent.name] = image.mode
    sixteen = "I;16"
    assert modes == {
        "color": "RGB", "depth": sixteen, "rs_semantics": "L", "rs_instance": sixteen, "objects": sixteen,
        "m2f_semantics": sixteen, "m2f_instance": sixteen, "m2f_segments": sixteen, "m2f_invalid": "L",
    }  # fmt: skip
    with np.load(written / "m2f_probabilities/0001.npz", allow_pickle=False) as arrays:
        assert {name: (arrays[name].shape, arrays[name].dtype) for name in arrays} == {
            "probability": ((48, 48, 22), np.float32),
            "confidence": ((48, 48), np.float32),
            "confidence_notta": ((48, 48), np.float32),
        }


def test_truth_tells_things_apart_and_not_stuff(written: Path) -> None:
    rows = json.loads((written / "objects.json").read_text())["objects"]
    class_of = np.array([0, *(furniture.CLASSES.index(row["class"]) for row in rows)])
    for stem in TRAIN + TEST:
        objects, semantic, instance = (
            picture(written / f"{name}/{stem}.png") for name in ("objects", "rs_semantics", "rs_instance")
        )
        assert (semantic == class_of[objects]).all()
        assert (instance == np.where(np.isin(semantic, (BED, CHAIR, BAG)), objects, 0)).all()
        assert (semantic > 0).all()


def test_ids_of_segments_count_through_all_frames(written: Path) -> None:
    data = pickle.loads((written / "segmentation_data.pkl").read_bytes())
    classes = data["m2f_instance_to_semantic"]
    seen: set[int] = set()
    numbered: set[int] = set()
    for stem in sorted(TRAIN + TEST):
        instance, segment, semantic = (
            picture(written / f"m2f_{name}/{stem}.png") for name in ("instance", "segments", "semantics")
        )
        ids, segments = set(np.unique(instance[instance > 0])), set(np.unique(segment[segment > 0]))
        assert not ids & seen
        assert not segments & numbered
        seen, numbered = seen | ids, numbered | segments
        assert ((instance > 0) == np.isin(semantic, sorted(furniture.THINGS))).all()
        assert ((segment > 0) == (semantic > 0)).all()
        assert ((picture(written / f"m2f_invalid/{stem}.png") == 255) == (segment == 0)).all()
        for index in ids:
            assert set(np.unique(semantic[instance == index])) == {classes[index]}
        for index in segments:
            assert len(np.unique(semantic[segment == index])) == 1
    assert seen == set(classes) == set(range(1, len(seen) + 1))
    assert numbered == set(range(1, len(numbered) + 1))


def test_segmentation_data_is_plain(written: Path) -> None:
    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise AssertionError(f"{module}.{name}")

    data = Plain(io.BytesIO((written / "segmentation_data.pkl").read_bytes())).load()
    assert data["num_semantic_classes"] == 22
    assert data["fg_classes"] == sorted(furniture.THINGS)
    assert sorted(data["fg_classes"] + data["bg_classes"]) == list(range(22))
    assert set(data["rs_instance_to_semantic"].values()) <= furniture.THINGS


def test_probabilities_are_soft_and_agree_with_the_map(written: Path) -> None:
    for stem in TRAIN + TEST:
        with np.load(written / f"m2f_probabilities/{stem}.npz", allow_pickle=False) as arrays:
            probability, confidence = arrays["probability"], arrays["confidence"]
        assert probability.sum(axis=2) == pytest.approx(1, abs=1e-5)
        semantic = picture(written / f"m2f_semantics/{stem}.png")
        assert (probability.argmax(axis=2) == semantic).all()
        assert probability[semantic > 0].max() < 1
        assert confidence.min() >= 0
        assert confidence.max() <= 1


def test_faultless_segments_are_the_truth(clean: Path) -> None:
    for stem in ("0000", "0001"):
        assert (
            picture(clean / f"m2f_semantics/{stem}.png") == picture(clean / f"rs_semantics/{stem}.png")
        ).all()
        found, true = (picture(clean / f"{name}_instance/{stem}.png") for name in ("m2f", "rs"))
        pairs = np.unique(np.stack([found.ravel(), true.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(true))


def test_segments_of_every_frame_err(written: Path, clean: Path) -> None:
    for stem in TRAIN + TEST:
        wrong = picture(written / f"m2f_semantics/{stem}.png") != picture(
            written / f"rs_semantics/{stem}.png"
        )
        assert 0 < wrong.mean() < 0.5


def test_two_processes_write_the_same_bytes_as_one(written: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", TINY, processes=2)
    assert contents(tmp_path / "again") == contents(written)


def test_an_interrupted_room_is_finished_with_the_same_bytes(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    seen: list[int] = []
    segmented: list[float] = []

    def stop_after_two(step: int, figures: dict[str, float]) -> None:
        seen.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(folder, TINY, on_step=stop_after_two, processes=1)
    assert not (folder / "splits.json").exists()
    (folder / "objects/0001.png").unlink()  # as if killed between the files of a frame
    synthesize(
        folder,
        TINY,
        on_step=frames_and_segments(seen, segmented),
        processes=1,
    )
    assert seen == [1, 2, 2, 3, 4, 5, 6]
    assert segmented == list(range(1, 7))
    assert contents(folder) == contents(written)
    synthesize(folder, TINY, on_step=lambda step, figures: pytest.fail("a frame was made"))


def test_a_room_of_the_other_layout_is_refused_by_name(written: Path) -> None:
    with pytest.raises(ConfigError, match=r"layout \('panoptic_lifting', now 'messy_rooms'\)"):
        synthesize(written, SynthConfig(objects=6, views=6, size=48, seed=1))


def test_settings_of_a_messy_room_are_written_as_before_there_were_layouts() -> None:
    config = SynthConfig(objects=6)
    assert config.written() == {"objects": 6, "views": 60, "size": 256, "seed": 0, "noise": "moderate"}
    assert config.differences(config.written()) == []
    assert TINY.written()["layout"] == "panoptic_lifting"


def test_layouts_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no layout 'colmap'; one of: messy_rooms, panoptic_lifting"):
        SynthConfig(layout="colmap")
    with pytest.raises(ConfigError, match="wanted at most 300 views"):
        SynthConfig(objects=100, views=301, layout="panoptic_lifting")
    assert SynthConfig(objects=100, views=MOST_SEGMENTS // 100, layout="panoptic_lifting").views == 300


# --- what is read


def test_split_and_classes_come_back(written: Path) -> None:
    scene = load_scene(written)
    assert [view.name for view in scene.train] == TRAIN
    assert [view.name for view in scene.test] == TEST
    assert len(scene.classes) == 22
    assert scene.classes.things == (4, 5, 6, 14, 15, 16, 17, 18, 20)
    assert len(scene.points) == 0


def test_cameras_come_back(written: Path) -> None:
    room = furnished_room(TINY.objects, TINY.seed, TINY.size)
    for view, pinhole in zip(views(load_scene(written)), walk(6, 48, room.extents, TINY.seed), strict=True):
        pose = view.camera.cam_to_world.numpy()
        assert pose[:3, :3] == pytest.approx(pinhole.rotation, abs=1e-6)
        assert pose[:3, 3] == pytest.approx(pinhole.position, abs=1e-6)
        focal = 48 * pinhole.focal
        K = np.array([[focal, 0, 24], [0, focal, 24], [0, 0, 1]])  # half of 48 pixels
        assert view.camera.K.numpy() == pytest.approx(K, abs=1e-6)
        assert (view.camera.width, view.camera.height) == (48, 48)


def test_depth_carries_pixels_to_the_same_object_in_the_next_frame(written: Path) -> None:
    here, there = views(load_scene(written))[2:4]
    assert here.depth is not None
    assert there.depth is not None
    depth = here.depth().double()
    points = unproject(depth, here.camera.K, here.camera.viewmat).reshape(-1, 3)
    local = points @ there.camera.viewmat[:3, :3].T + there.camera.viewmat[:3, 3]
    projected = local @ there.camera.K.T
    x, y = (projected[:, :2] / projected[:, 2:]).floor().long().unbind(-1)
    inside = (local[:, 2] > 0) & (x >= 0) & (y >= 0) & (x < 48) & (y < 48)
    both = inside.clone()
    both[inside] = (there.depth()[y[inside], x[inside]] - local[inside, 2]).abs() < 0.05
    assert both.double().mean() > 0.15
    ids = [torch.from_numpy(picture(written / f"objects/{view.name}.png")) for view in (here, there)]
    assert (ids[0].flatten()[both] == ids[1][y[both], x[both]]).double().mean() > 0.95


def test_photos_truth_and_segments_come_back(written: Path) -> None:
    for view in views(load_scene(written)):
        stem = view.name
        photo = picture(written / f"color/{stem}.png")
        assert torch.equal((view.image() * 255).round().long(), torch.from_numpy(photo))
        segments = segments_of(view)
        assert view.truth is not None
        truth = view.truth()
        for got, name in ((segments, "m2f"), (truth, "rs")):
            ids, classes = (
                picture(written / f"{name}_{kind}/{stem}.png") for kind in ("instance", "semantics")
            )
            assert got.instance.tolist() == np.where(ids > 0, ids, -1).tolist()
            assert got.semantic.tolist() == np.where(classes > 0, classes, VOID).tolist()
        with np.load(written / f"m2f_probabilities/{stem}.npz", allow_pickle=False) as arrays:
            assert segments.confidence.tolist() == arrays["confidence"].tolist()
        assert (truth.confidence == 1).all()


def test_without_an_archive_the_map_gives_the_classes(scene_folder: Path) -> None:
    before = segments_of(load_scene(scene_folder).train[0])
    shutil.rmtree(scene_folder / "m2f_probabilities")
    after = segments_of(load_scene(scene_folder).train[0])
    assert torch.equal(before.semantic, after.semantic)
    assert (after.confidence == 1).all()


def test_optional_files_may_be_missing(scene_folder: Path) -> None:
    for name in ("depth", "m2f_instance", "m2f_semantics", "rs_instance", "rs_semantics"):
        shutil.rmtree(scene_folder / name)
    (scene_folder / "segmentation_data.pkl").unlink()
    view = load_scene(scene_folder).train[0]
    assert view.segments is None
    assert view.truth is None
    assert view.depth is None


def write_archive(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def test_an_archive_of_fewer_pixels_is_resized_by_nearest_neighbour(scene_folder: Path) -> None:
    probability = np.zeros((24, 16, 22), np.float32)
    classes = np.random.default_rng(0).integers(0, 22, (24, 16))
    np.put_along_axis(probability, classes[..., None], 1.0, axis=2)
    confidence = np.random.default_rng(1).random((24, 16)).astype(np.float16)
    write_archive(scene_folder / "m2f_probabilities/0001.npz", probability=probability, confidence=confidence)
    segments = segments_of(load_scene(scene_folder).train[0])
    # Two rows and three columns for one.
    assert (
        segments.semantic.tolist() == np.where(classes > 0, classes, VOID).repeat(2, 0).repeat(3, 1).tolist()
    )
    assert segments.confidence.tolist() == confidence.astype(np.float32).repeat(2, 0).repeat(3, 1).tolist()


def test_an_archive_without_confidence(scene_folder: Path) -> None:
    write_archive(
        scene_folder / "m2f_probabilities/0001.npz", probability=np.full((48, 48, 22), 1 / 22, np.float32)
    )
    segments = segments_of(load_scene(scene_folder).train[0])
    assert (segments.confidence == 1).all()
    assert (segments.semantic == VOID).all()  # the first of equals is void


def test_a_confidence_rounded_to_more_than_1_is_1(scene_folder: Path) -> None:
    values = np.full((48, 48), 1 + 1e-6)
    write_archive(scene_folder / "m2f_probabilities/0001.npz", **arrays(confidence=values))
    assert (segments_of(load_scene(scene_folder).train[0]).confidence == 1).all()


def test_ids_as_older_versions_of_pillow_wrote_them(scene_folder: Path) -> None:
    path = scene_folder / "m2f_instance/0001.png"
    before = segments_of(load_scene(scene_folder).train[0]).instance
    ids = picture(path)
    assert ids.max() < 256
    Image.fromarray(ids.astype(np.uint8)).save(path)
    assert torch.equal(segments_of(load_scene(scene_folder).train[0]).instance, before)
    palette = Image.fromarray(ids.astype(np.uint8)).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.save(path)
    assert torch.equal(segments_of(load_scene(scene_folder).train[0]).instance, before)


def test_jpeg_photos_and_no_splits(scene_folder: Path) -> None:
    (scene_folder / "splits.json").unlink()
    for path in (scene_folder / "color").glob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    scene = load_scene(scene_folder)
    assert [view.name for view in scene.train] == TRAIN
    assert [view.name for view in scene.test] == TEST


def test_val_stands_for_test_and_frames_may_be_left_out(scene_folder: Path) -> None:
    (scene_folder / "splits.json").write_text(
        json.dumps({"train": ["0005", "0002"], "test": [], "val": ["0001"]})
    )
    (scene_folder / "pose/0003.txt").unlink()  # of a frame that nobody asks for
    scene = load_scene(scene_folder)
    assert [view.name for view in scene.train] == ["0002", "0005"]
    assert [view.name for view in scene.test] == ["0001"]


def test_views_can_be_sent_to_other_processes(written: Path) -> None:
    view = load_scene(written).train[0]
    again = pickle.loads(pickle.dumps(view))
    assert torch.equal(segments_of(again).semantic, segments_of(view).semantic)


def test_the_pickle_beside_the_scene_is_not_read(scene_folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(scene_folder / "sprung"),)

    (scene_folder / "segmentation_data.pkl").write_bytes(pickle.dumps(Trap()))
    for view in views(load_scene(scene_folder)):
        segments_of(view)
    assert not (scene_folder / "sprung").exists()


# --- what is refused


def test_parts_of_the_layout_missing(scene_folder: Path) -> None:
    for name in ("color", "pose", "intrinsic"):
        (scene_folder / name).rename(scene_folder / "elsewhere")
        refused(scene_folder, f"no {name}", "Panoptic Lifting layout")
        (scene_folder / "elsewhere").rename(scene_folder / name)


def test_a_folder_of_something_else_is_told_of_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    refused(tmp_path, "no layout", "messy_rooms", "panoptic_lifting (pose/ and intrinsic/")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "missing"),
        ("", "0 numbers; wanted 4 lines of 4 numbers"),
        ("1 2 3", "3 numbers"),
        ("1 " * 17, "17 numbers"),
        ("0 " * 5000, "more than 4 KiB"),
        ("1 0 0 0 0 1 0 zero 0 0 1 0 0 0 0 1", "not a matrix of numbers"),
        ("1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1", "holds nan or inf"),
        (("-inf " * 16), "holds nan or inf"),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "not a rotation and a position"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "not a rotation and a position"),
        ("1 0 0 0 0 1 0 0 0 0 1 0 1 2 3 1", "not a rotation and a position"),
    ],
)
def test_poses_that_are_none(scene_folder: Path, content: str | None, part: str) -> None:
    path = scene_folder / "pose/0002.txt"
    path.unlink()
    if content is not None:
        path.write_text(content)
    refused(scene_folder, "pose/0002.txt: ", part)


@pytest.mark.parametrize(
    ("K", "part"),
    [
        ("0 0 24 0 0 40 24 0 0 0 1 0 0 0 0 1", "wanted [[fx, 0, cx]"),
        ("40 0.1 24 0 0 40 24 0 0 0 1 0 0 0 0 1", "a skew of 0.1"),
        (
            "40 0 500 0 0 40 24 0 0 0 1 0 0 0 0 1",
            "principal point (500.5, 24.5) is outside the photos of 48x48",
        ),
        ("40 0 24 0 0 40 -1 0 0 0 1 0 0 0 0 1", "principal point (24.5, -0.5)"),
        ("40 0 inf 0 0 40 24 0 0 0 1 0 0 0 0 1", "holds nan or inf"),
    ],
)
def test_intrinsics_that_are_none(scene_folder: Path, K: str, part: str) -> None:
    (scene_folder / "intrinsic/intrinsic_color.txt").write_text(K)
    refused(scene_folder, "intrinsic_color.txt: ", part)


@pytest.mark.parametrize(
    ("splits", "part"),
    [
        ([], "holds a JSON list"),
        ({}, "no frames in `train`"),
        ({"train": ["0001"]}, "no frames in `test`"),
        ({"train": [1], "test": ["0000"]}, "no frames in `train`"),
        ({"train": "0001", "test": ["0000"]}, "no frames in `train`"),
        ({"train": ["../0001"], "test": ["0000"]}, "'../0001' in `train` is no photo"),
        ({"train": ["0001", "0000"], "test": ["0000"]}, "'0000' is both for training and for test"),
    ],
)
def test_splits_that_are_none(scene_folder: Path, splits: Any, part: str) -> None:
    (scene_folder / "splits.json").write_text(json.dumps(splits))
    refused(scene_folder, "splits.json: ", part)


def arrays(shape: tuple[int, ...] = (48, 48, 22), **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"probability": np.full(shape, 0.1, np.float32), **more}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"logits": np.zeros(3)}, "no array `probability`"),
        (arrays((48, 48)), "`probability` has shape (48, 48); wanted (h, w, 22)"),
        (arrays((8, 8, 32)), "`probability` has shape (8, 8, 32); wanted (h, w, 22)"),
        (arrays((0, 48, 22)), "wanted (h, w, 22)"),
        (arrays((256, 256, 22)), "wanted at most 50688 floats"),  # 48 x 48 x 22
        (arrays(confidence=np.ones((24, 24))), "`confidence` has shape (24, 24); wanted (48, 48)"),
        (arrays(confidence=np.full((48, 48), 1.5)), "`confidence` outside 0..1"),
        (arrays(confidence=np.full((48, 48), np.nan)), "`confidence` outside 0..1"),
        (arrays(confidence=np.ones((48, 48), int)), "`confidence` has dtype int64; wanted floats"),
        ({"probability": np.full((48, 48, 22), np.nan, np.float32)}, "nan or inf in `probability`"),
        ({"probability": np.full((4, 4, 22), None, object)}, "`probability` has dtype object; wanted floats"),
    ],
)
def test_archives_that_make_no_sense(scene_folder: Path, content: dict[str, np.ndarray], part: str) -> None:
    write_archive(scene_folder / "m2f_probabilities/0002.npz", **content)
    refused(scene_folder, "m2f_probabilities/0002.npz: ", part)


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def header(shape: tuple[int, ...], kind: str = "<f4") -> str:
    return repr({"descr": kind, "fortran_order": False, "shape": shape})


@pytest.mark.parametrize(
    ("member", "part"),
    [
        (b"", "not a plain .npz archive"),
        (npy("{"), "not a plain .npz archive"),
        (npy(header((48, 48, 22))), "more than its"),
        (npy(header((2**40, 2**40, 22))), "more than its"),
        (npy(header((48, 48, 22), "|O"), pickle.dumps([1])), "has dtype object"),
        (npy(header((48, 48, 22)), bytes(4 * 48 * 48 * 22), b"\x03\x00"), "is of .npy version 3.0"),
        (b"\x00" * 10_000_000, "is 10000000 bytes; wanted at most 50688 floats"),  # 10 kB on disk
    ],
    ids=["nothing", "torn header", "no numbers", "a yottabyte", "objects", "version 3", "bomb"],
)
def test_archives_with_lies_in_them(scene_folder: Path, member: bytes, part: str) -> None:
    with zipfile.ZipFile(scene_folder / "m2f_probabilities/0002.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probability.npy", member)
    refused(scene_folder, "0002.npz: ", part)


@pytest.mark.parametrize("keep", [0, 3, 200, 0.5, 0.95])
def test_torn_archives(scene_folder: Path, keep: float) -> None:
    path = scene_folder / "m2f_probabilities/0002.npz"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content) if keep < 1 else keep)])
    refused(scene_folder, "0002.npz: not a plain .npz archive")


def test_an_archive_with_flipped_bytes_in_it(scene_folder: Path) -> None:
    path = scene_folder / "m2f_probabilities/0002.npz"
    content = bytearray(path.read_bytes())
    for place in range(400, 440):
        content[place] ^= 0xFF
    path.write_bytes(content)
    refused(scene_folder, "0002.npz: ")


def test_an_archive_that_changes_after_loading(scene_folder: Path) -> None:
    view = load_scene(scene_folder).train[1]
    write_archive(scene_folder / "m2f_probabilities/0002.npz", **arrays((22, 48, 22)))
    with pytest.raises(SceneError, match=r"shape \(22, 48, 22\); wanted \(48, 48, 22\)"):
        segments_of(view)


@pytest.mark.parametrize("name", ["m2f_semantics", "rs_semantics"])
def test_a_class_that_there_is_not(scene_folder: Path, name: str) -> None:
    shutil.rmtree(scene_folder / "m2f_probabilities")
    path = scene_folder / name / "0002.png"
    classes = picture(path)
    classes[0, 0] = 22
    Image.fromarray(classes.astype(np.uint16)).save(path)
    refused(scene_folder, f"{name}/0002.png: classes ", "to 22; wanted 0 void to 21 otherprop")


@pytest.mark.parametrize(
    "name", ["color", "m2f_instance", "m2f_semantics", "rs_instance", "rs_semantics", "depth"]
)
def test_pictures_of_another_size(scene_folder: Path, name: str) -> None:
    Image.new("L" if name != "color" else "RGB", (48, 32)).save(scene_folder / name / "0002.png")
    refused(scene_folder, f"{name}/0002.png: 48x32 pixels; wanted 48x48")


@pytest.mark.parametrize("name", ["m2f_instance", "rs_instance", "rs_semantics"])
def test_ids_in_colour(scene_folder: Path, name: str) -> None:
    Image.new("RGB", (48, 48)).save(scene_folder / name / "0002.png")
    refused(scene_folder, f"{name}/0002.png: pixels of mode RGB; wanted ids as grey of 8 or 16 bits")


def test_half_a_truth_and_segments_without_classes(scene_folder: Path) -> None:
    (scene_folder / "rs_instance/0002.png").unlink()
    refused(scene_folder, "rs_instance/0002.png: missing; wanted a truth of both")
    (scene_folder / "rs_semantics/0002.png").unlink()
    for name in ("m2f_semantics/0003.png", "m2f_probabilities/0003.npz"):
        (scene_folder / name).unlink()
    refused(scene_folder, "m2f_instance/0003.png: segments without classes")


@pytest.mark.parametrize(
    "file",
    [
        "color/0000.png", "color/0002.png", "pose/0002.txt", "intrinsic/intrinsic_color.txt", "splits.json",
        "m2f_instance/0002.png", "m2f_probabilities/0002.npz", "rs_semantics/0002.png", "depth/0002.png",
    ],
)  # fmt: skip
def test_links_out_of_the_scene_are_refused_unless_allowed(scene_folder: Path, file: str) -> None:
    outside = scene_folder.parent / "elsewhere"
    (scene_folder / file).rename(outside)
    (scene_folder / file).symlink_to(outside)
    refused(scene_folder, file, "leads out of the scene folder", "data.allow_outside=true")
    assert len(load_scene(scene_folder, DataConfig(allow_outside=True)).train) == 5


def test_one_photo_is_too_few(scene_folder: Path) -> None:
    for stem in TRAIN:
        (scene_folder / f"color/{stem}.png").unlink()
    refused(scene_folder, "color: a single photo; wanted at least 2")
