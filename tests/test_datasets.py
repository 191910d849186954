import json
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rooms import ring, write_room

from gs_lift.datasets import READERS, DataConfig, load_scene
from gs_lift.errors import ConfigError, SceneError
from gs_lift.geometry import unproject


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return write_room(tmp_path / "room")


def edit(room: Path, **camera: Any) -> None:
    """Change fields of metadata.json's camera; None removes one."""
    content = json.loads((room / "metadata.json").read_text())
    content["camera"].update(camera)
    content["camera"] = {name: value for name, value in content["camera"].items() if value is not None}
    (room / "metadata.json").write_text(json.dumps(content))


def camera_of(room: Path) -> dict[str, Any]:
    camera: dict[str, Any] = json.loads((room / "metadata.json").read_text())["camera"]
    return camera


def read_all(room: Path | str) -> None:
    view = load_scene(room).train[0]
    for read in (view.image, view.segments, view.truth, view.depth):
        if read is not None:
            read()


def refused(room: Path | str, *parts: str) -> None:
    """Loading, or reading anything of the first view, fails in one line that holds all `parts`."""
    with pytest.raises(SceneError) as caught:
        read_all(room)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"0"))
    framed = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


# --- what is read


def test_first_eighty_percent_train_and_the_rest_test(tmp_path: Path) -> None:
    scene = load_scene(write_room(tmp_path / "r", frames=9, maps=False))
    assert [view.name for view in scene.train] == [f"{i:05d}" for i in range(7)]  # int(0.8 * 9)
    assert [view.name for view in scene.test] == ["00007", "00008"]
    assert scene.name == "r"
    assert len(scene.points) == len(scene.colors) == 0
    assert scene.classes.names == ("background", "object")
    assert scene.classes.is_thing == (False, True)


def test_cameras_come_back_in_opencv_axes(room: Path) -> None:
    scene = load_scene(room)
    for view, viewmat in zip(scene.train + scene.test, ring(5), strict=True):
        torch.testing.assert_close(view.camera.viewmat, viewmat, atol=1e-9, rtol=0)
        assert (view.camera.width, view.camera.height) == (12, 8)
    # Normalised by 12 and 8.
    K = torch.tensor([[0.9 * 12, 0, 6], [0, 1.35 * 8, 4], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(scene.train[0].camera.K, K)


def test_signs_of_K_are_dropped_as_the_original_does(room: Path) -> None:
    edit(room, K=[[0.9, 0, -0.5], [0, -1.35, -0.5], [0, 0, -1]])
    K = torch.tensor([[10.8, 0, 6], [0, 10.8, 4], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(load_scene(room).train[0].camera.K, K)


def test_segments_have_no_instance_on_the_background(room: Path) -> None:
    view = load_scene(room).train[0]
    ids = np.load(room / "detic_instance" / "00000.npy").astype(int)
    semantic = np.ones_like(ids)
    semantic[:4] = 0
    np.save(room / "detic_semantic" / "00000.npy", semantic)
    assert view.segments is not None
    segments = view.segments()
    expected = np.where((ids > 0) & (semantic == 1), ids, -1)
    assert segments.instance.tolist() == expected.tolist()
    assert segments.semantic.tolist() == semantic.tolist()
    probabilities = np.load(room / "detic_probabilities" / "00000.npy").astype(np.float32)
    assert segments.confidence.tolist() == probabilities.tolist()


def test_truth_has_full_confidence(room: Path) -> None:
    view = load_scene(room).test[0]
    assert view.truth is not None
    truth = view.truth()
    ids = np.load(room / "instance" / "00004.npy").astype(int)
    assert truth.instance.tolist() == np.where(ids > 0, ids, -1).tolist()
    assert (truth.confidence == 1).all()


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint32", "int64", "uint64", "float16", "float64", ">i4"]
)
def test_ids_of_any_number_type(room: Path, dtype: str) -> None:
    ids = np.load(room / "detic_instance" / "00000.npy").astype(dtype)
    np.save(room / "detic_instance" / "00000.npy", ids)
    view = load_scene(room).train[0]
    assert view.segments is not None
    whole = ids.astype(int)
    assert view.segments().instance.tolist() == np.where(whole > 0, whole, -1).tolist()


def test_optional_files_may_be_missing(room: Path) -> None:
    (room / "detic_instance" / "00001.npy").unlink()
    (room / "detic_probabilities" / "00000.npy").unlink()
    (room / "detic_semantic" / "00000.npy").unlink()
    (room / "instance" / "00000.npy").unlink()
    (room / "depth" / "00000.png").unlink()
    first, second, *_ = load_scene(room).train
    assert first.truth is None
    assert first.depth is None
    assert second.segments is None
    assert first.segments is not None
    segments = first.segments()
    assert torch.equal(segments.semantic, (segments.instance > 0).long())
    assert (segments.confidence == 1).all()


def test_a_room_of_photos_alone(tmp_path: Path) -> None:
    view = load_scene(write_room(tmp_path / "r", maps=False)).train[0]
    assert view.segments is None
    assert view.truth is None
    assert view.depth is None


def test_alpha_is_dropped_not_blended(room: Path) -> None:
    path = room / "color" / "00000.png"
    pixels = np.array(Image.open(path))
    rgba = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    Image.fromarray(rgba).save(path)
    image = load_scene(room).train[0].image()
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(pixels))


def test_depth_is_in_metres(room: Path) -> None:
    view = load_scene(room).train[0]
    millimetres = np.array(Image.open(room / "depth" / "00000.png")).astype(float)
    assert view.depth is not None
    assert view.depth().numpy() == pytest.approx(millimetres / 1000)


def test_frames_with_numbers_are_sorted_by_number(room: Path) -> None:
    before = [view.image() for view in load_scene(room).train]
    for path in room.glob("*/*.*"):
        path.rename(path.with_stem(str(int(path.stem) + 8)))  # 8, 9, 10, 11, 12
    scene = load_scene(room)
    assert [view.name for view in scene.train] == ["8", "9", "10", "11"]
    for view, image in zip(scene.train, before, strict=True):
        assert torch.equal(view.image(), image)


def test_nothing_but_headers_is_read_at_load(room: Path) -> None:
    view = load_scene(room).train[0]
    (room / "color" / "00000.png").unlink()
    with pytest.raises(SceneError, match=r"00000\.png: missing"):
        view.image()


def test_views_can_be_sent_to_other_processes(room: Path) -> None:
    view = load_scene(room).train[0]
    again = pickle.loads(pickle.dumps(view))
    assert torch.equal(again.image(), view.image())
    assert torch.equal(again.segments().instance, view.segments().instance)


def test_relative_paths_survive_a_change_of_folder(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room.parent)
    view = load_scene("room").train[0]
    monkeypatch.chdir(room)
    assert view.image().shape == (8, 12, 3)


def test_trailing_poses_without_photos_are_passed_over(room: Path) -> None:
    (room / "color" / "00004.png").unlink()
    assert len(load_scene(room).train) == 3  # int(0.8 * 4)


# --- what is refused


def test_folders_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "nothing: no such folder")
    (tmp_path / "file").write_text("x")
    refused(str(tmp_path / "file"), "file: is a file; wanted the folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is empty", "messy_rooms (metadata.json beside color/)")
    (tmp_path / "empty" / "note.txt").write_text("x")
    refused(tmp_path / "empty", "no layout", "messy_rooms")


def test_parts_of_the_layout_missing(room: Path) -> None:
    (room / "metadata.json").rename(room / "camera.json")
    refused(room, "no metadata.json", "color/")
    (room / "camera.json").rename(room / "metadata.json")
    (room / "color").rename(room / "colour")
    refused(room, "no color")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "holds a JSON list; wanted an object"),
        (b"{}", "no `camera` object"),
        (b'{"camera": [1]}', "no `camera` object"),
    ],
)
def test_metadata_that_is_no_metadata(room: Path, content: bytes, part: str) -> None:
    (room / "metadata.json").write_bytes(content)
    refused(room, "metadata.json", part)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("K", None, "no camera.K; wanted camera.K of shape [3 3]"),
        ("K", [[1, 0], [0, 1]], "camera.K has shape [2, 2]"),
        ("K", [[1, 0, 0], [0, 1]], "camera.K is not a table of numbers"),
        ("K", "identity", "camera.K is not a table of numbers"),
        ("K", [[0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], "wanted [[fx, 0, cx]"),
        ("K", [[1, 0.01, 0.5], [0, 1, 0.5], [0, 0, 1]], "camera.K[0][1] is 0.01, a skew; wanted 0"),
        ("K", [[1, -0.01, 0.5], [0, 1, 0.5], [0, 0, 1]], "resample the photos to a camera without it"),
        ("K", [[200, 0, 128], [0, 200, 128], [0, 0, 1]], "divide the first row by the width"),
        ("K", [[float("nan"), 0, 0.5], [0, 1, 0.5], [0, 0, 1]], "camera.K[0] is [nan, 0.0, 0.5]"),
        ("positions", None, "no camera.positions"),
        (
            "positions",
            [[0, 0]] * 5,
            "camera.positions has shape [5, 2]; wanted camera.positions of shape [N 3]",
        ),
        ("positions", [[0, 0, 0]] * 4, "4 positions, 5 quaternions"),
        (
            "positions",
            [[0, 0, 0]] * 3 + [[0, float("nan"), 0]] + [[0, 0, 0]],
            "camera.positions[3] is [0.0, nan, 0.0]",
        ),
        ("positions", [[10**400, 0, 0]] * 5, "camera.positions"),
        ("positions", {"0": [0, 0, 0]}, "camera.positions is not a table of numbers"),
        (
            "quaternions",
            [[1, 0, 0, 0]] * 2 + [[0, 0, 0, 0]] * 3,
            "camera.quaternions[2] has length 0; wanted 1",
        ),
        ("quaternions", [[2, 0, 0, 0]] * 5, "camera.quaternions[0] has length 2"),
        ("quaternions", [[float("inf"), 0, 0, 0]] * 5, "camera.quaternions[0] is [inf"),
    ],
)
def test_cameras_that_are_none(room: Path, field: str, value: Any, part: str) -> None:
    edit(room, **{field: value})
    refused(room, "metadata.json", part)


def test_fewer_poses_than_photos(room: Path) -> None:
    camera = camera_of(room)
    edit(room, positions=camera["positions"][:4], quaternions=camera["quaternions"][:4])
    refused(room, "4 poses for 5 photos")


def test_a_photo_missing_in_the_middle_would_shift_all_poses(room: Path) -> None:
    (room / "color" / "00002.png").unlink()
    refused(room, "5 poses for 4 photos", "gaps")


def test_no_photo_and_one_photo(tmp_path: Path) -> None:
    room = write_room(tmp_path / "r", frames=1)
    refused(room, "a single photo; wanted at least 2")
    (room / "color" / "00000.png").unlink()
    refused(room, "no photos")
    (room / "color").rmdir()
    (room / "color").write_text("x")
    refused(room, "color: cannot be read")


def test_two_files_of_one_frame(room: Path) -> None:
    Image.open(room / "color" / "00001.png").save(room / "color" / "00001.jpg")
    refused(room, "00001.png: the same frame as 00001.jpg")


def test_photos_of_different_sizes(room: Path) -> None:
    Image.new("RGB", (13, 8)).save(room / "color" / "00003.png")
    refused(room, "00003.png: 13x8 pixels; wanted 12x8")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not a PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "broken image"),
        (b"GIF89a" + bytes(20), "not a PNG or JPEG"),
        (png_header(10_000, 9_999), "more than"),
        (png_header(60_000, 60_000), "more than"),
    ],
)
@pytest.mark.parametrize("file", ["color/00000.png", "depth/00000.png"])
def test_broken_images_and_bombs(room: Path, file: str, content: bytes, part: str) -> None:
    (room / file).write_bytes(content)
    refused(room, file, part)


def test_a_truncated_photo(room: Path) -> None:
    path = room / "color" / "00000.png"
    path.write_bytes(path.read_bytes()[:-60])
    refused(room, "00000.png: broken image")
    path.write_bytes(png_header(12, 8))
    refused(room, "00000.png: broken image")


def test_photos_and_depth_in_each_others_format(room: Path) -> None:
    (room / "color" / "00000.png").replace(room / "photo.png")
    (room / "depth" / "00000.png").replace(room / "color" / "00000.png")
    refused(room, "color/00000.png: pixels of mode I;16; wanted 8-bit colours")
    Image.new("RGB", (12, 8)).save(room / "color" / "00000.png")
    (room / "photo.png").replace(room / "depth" / "00000.png")
    refused(room, "depth/00000.png: pixels of mode RGB; wanted 16-bit grey, millimetres")


@pytest.mark.parametrize(
    "name", ["detic_instance", "detic_semantic", "detic_probabilities", "instance", "semantic"]
)
def test_maps_of_another_size(room: Path, name: str) -> None:
    path = room / name / "00003.npy"
    np.save(path, np.load(path).T)
    refused(room, f"{name}/00003.npy: shape (12, 8); wanted (8, 12)", "nearest")


@pytest.mark.parametrize(
    ("name", "array", "part"),
    [
        ("instance", np.full((8, 12), 0.5), "fractions among the ids"),
        ("instance", np.full((8, 12), np.nan), "fractions among the ids"),
        ("instance", np.full((8, 12), -2), "ids from -2 to -2"),
        ("instance", np.full((8, 12), 2**40), "ids from 1099511627776"),
        ("instance", np.full((8, 12), 2**63, np.uint64), "ids from"),
        ("instance", np.full((8, 12), "7"), "dtype <U1; wanted whole numbers"),
        ("instance", np.full((8, 12), 1j), "dtype complex128"),
        ("instance", np.zeros((8, 12, 1)), "shape (8, 12, 1)"),
        ("semantic", np.full((8, 12), 7), "classes 7 to 7; wanted 0 background, 1 object"),
        ("probabilities", np.full((8, 12), 3), "dtype int64; wanted floats"),
        ("probabilities", np.full((8, 12), 1.5), "values outside 0..1"),
        ("probabilities", np.full((8, 12), np.nan), "values outside 0..1"),
    ],
)
def test_maps_with_values_that_make_no_sense(room: Path, name: str, array: np.ndarray, part: str) -> None:
    np.save(room / f"detic_{name}" / "00000.npy", array)
    refused(room, f"detic_{name}/00000.npy", part)


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_maps_are_not_unpickled(room: Path) -> None:
    path = room / "detic_instance" / "00000.npy"
    trap = np.full((8, 12), Trap(room / "sprung"), dtype=object)
    np.save(path, trap, allow_pickle=True)
    refused(room, "00000.npy: not a plain .npy array (pickled objects)")
    path.write_bytes(pickle.dumps(Trap(room / "sprung")))
    refused(room, "00000.npy: not a plain .npy array (pickled objects)")
    assert not (room / "sprung").exists()


@pytest.mark.parametrize("keep", [0, 5, 60, 150])
def test_truncated_maps(room: Path, keep: int) -> None:
    path = room / "detic_instance" / "00000.npy"
    path.write_bytes(path.read_bytes()[:keep])
    refused(room, "00000.npy: not a plain .npy array")


def test_a_map_that_promises_a_terabyte(room: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    header = header.ljust(117) + b"\n"
    (room / "instance" / "00000.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    )
    refused(room, "instance/00000.npy: not a plain .npy array")


def test_an_archive_instead_of_a_map(room: Path) -> None:
    with (room / "instance" / "00000.npy").open("wb") as file:
        np.savez(file, np.zeros((8, 12)))
    refused(room, "instance/00000.npy: an archive of arrays")


@pytest.mark.parametrize(
    "file", ["color/00000.png", "detic_instance/00000.npy", "depth/00000.png", "metadata.json"]
)
def test_links_out_of_the_scene_are_refused_unless_allowed(room: Path, file: str) -> None:
    outside = room.parent / "elsewhere"
    (room / file).rename(outside)
    (room / file).symlink_to(outside)
    refused(room, file, "leads out of the scene folder", "data.allow_outside=true")
    assert len(load_scene(room, DataConfig(allow_outside=True)).train) == 4


def test_a_linked_folder_is_an_escape_too_and_a_linked_scene_is_not(room: Path) -> None:
    (room.parent / "link").symlink_to(room)
    assert len(load_scene(room.parent / "link").train) == 4
    (room / "color").rename(room.parent / "photos")
    (room / "color").symlink_to(room.parent / "photos")
    refused(room, "leads out of the scene folder")


def test_every_reader_says_what_it_looks_for() -> None:
    for load in READERS.values():
        reader = load()
        assert reader.LAYOUT
        assert callable(reader.matches)
        assert callable(reader.read)


def test_data_config_refuses_no_points() -> None:
    with pytest.raises(ConfigError, match=r"data\.init_points: got 0"):
        DataConfig(init_points=0)


# --- scenes that others made


@pytest.mark.parametrize("name", ["messy_sam_50", "redkitchen_sam", "messy_noise_500"])
def test_depth_of_a_frame_lands_on_its_neighbour(shared: Path, name: str) -> None:
    scene = load_scene(shared / "data" / name)
    centers = torch.stack([view.camera.position for view in scene.train])
    first = scene.train[0]
    nearest = int((centers - centers[0]).norm(dim=1).argsort()[1])
    other = scene.train[nearest]
    assert first.depth is not None
    assert other.depth is not None
    depth = first.depth().double()
    points = unproject(depth, first.camera.K, first.camera.viewmat)[depth > 0]
    colors = first.image()[depth > 0]
    local = points @ other.camera.viewmat[:3, :3].T + other.camera.viewmat[:3, 3]
    projected = local @ other.camera.K.T
    x, y = (projected[:, :2] / projected[:, 2:]).floor().long().unbind(-1)
    inside = (local[:, 2] > 0) & (x >= 0) & (y >= 0) & (x < other.camera.width) & (y < other.camera.height)
    there = other.depth()[y[inside], x[inside]].double()
    error = (there - local[inside, 2]).abs()
    covisible = (there > 0) & (error < 0.01 + 0.005 * there)
    # The READMEs: co-visible 0.39 to 0.97 of the pixels in view; next to none with the axes the wrong way round.
    assert covisible.double().mean() > 0.38
    difference = (other.image()[y[inside], x[inside]] - colors[inside])[covisible].abs().mean() * 255
    assert difference < 36


def test_shared_test_frames_have_no_segments_and_full_truth(shared: Path) -> None:
    scene = load_scene(shared / "data" / "messy_sam_50")
    assert (len(scene.train), len(scene.test)) == (48, 12)
    view = scene.test[0]
    assert view.segments is not None
    assert view.truth is not None
    assert (view.segments().instance == -1).all()
    assert view.truth().instance.max() <= 50
    assert torch.equal(view.truth().semantic == 1, view.truth().instance > 0)
