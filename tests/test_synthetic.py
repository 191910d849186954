"""Rooms on disk: layout, bytes, truth that agrees with itself, resuming."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segment_quality import segment_quality
from settings import frames_and_segments

from gs_lift.errors import ConfigError
from gs_lift.synthetic import SynthConfig, synthesize
from gs_lift.synthetic.options import train_views

TINY = SynthConfig(objects=5, views=5, size=48, seed=3, noise="hard")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms") / "tiny"
    synthesize(folder, TINY, processes=1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stack(folder: Path, kind: str) -> np.ndarray:
    return np.stack([np.load(path) for path in sorted((folder / kind).glob("*.npy"))])


def depths_m(folder: Path) -> np.ndarray:
    return (
        np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "depth").glob("*.png"))]) / 1000
    )


def test_every_frame_has_every_file(room: Path) -> None:
    frames = {
        "color/{}.png", "depth/{}.png", "semantic/{}.npy", "instance/{}.npy",
        "detic_semantic/{}.npy", "detic_instance/{}.npy", "detic_probabilities/{}.npy",
    }  # fmt: skip
    expected = {pattern.format(f"{view:05d}") for pattern in frames for view in range(5)}
    assert set(contents(room)) - expected == {
        "metadata.json", "objects.json", "scene_errors.json", "synth.json",
    }  # fmt: skip


def test_types_are_those_of_the_layout(room: Path) -> None:
    with Image.open(room / "color/00000.png") as color, Image.open(room / "depth/00000.png") as depth:
        assert color.mode == "RGB"
        assert color.size == depth.size == (48, 48)
        assert depth.mode == "I;16"
    types = {kind: np.load(room / kind / "00000.npy").dtype for kind in ("semantic", "instance")}
    assert types == {"semantic": np.uint8, "instance": np.int16}
    assert np.load(room / "detic_instance/00000.npy").dtype == np.uint8
    assert np.load(room / "detic_probabilities/00000.npy").dtype == np.float16


def test_semantic_is_one_where_an_object_is(room: Path) -> None:
    assert (stack(room, "semantic") == (stack(room, "instance") > 0)).all()
    assert (stack(room, "detic_semantic") == (stack(room, "detic_instance") > 0)).all()


def test_all_five_objects_are_seen(room: Path) -> None:
    assert set(np.unique(stack(room, "instance"))) == {0, 1, 2, 3, 4, 5}


def test_the_last_fifth_has_no_segments(room: Path) -> None:
    segments, probabilities = stack(room, "detic_instance"), stack(room, "detic_probabilities")
    assert train_views(5) == 4
    assert (segments[:4].reshape(4, -1).max(axis=1) > 0).all()
    assert (segments[4:] == 0).all()
    assert (probabilities[4:] == 1).all()
    assert (probabilities[segments == 0] == 1).all()


@pytest.mark.parametrize(("views", "train"), [(2, 1), (4, 3), (10, 8), (60, 48)])
def test_four_fifths_are_for_training_and_something_is_left(views: int, train: int) -> None:
    assert train_views(views) == train


def rotation(quaternion: list[float]) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def reprojections(room: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Instance ids of a frame and of another where its pixels land there, for those that both see.

    Written from the description of the layout: normalised K, Blender axes, pixel centres at +0.5, depth along the
    optical axis.
    """
    camera = json.loads((room / "metadata.json").read_text())["camera"]
    K = np.array(camera["K"]) * [[48], [48], [1]]
    cam_to_world = [rotation(quaternion) * [1, -1, -1] for quaternion in camera["quaternions"]]
    positions = np.array(camera["positions"])
    instance, depth = stack(room, "instance"), depths_m(room)
    rows, columns = np.mgrid[:48, :48] + 0.5
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(rows)], axis=-1)
    for here, there in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]:
        world = (rays * depth[here][..., None]) @ cam_to_world[here].T + positions[here]
        seen = (world - positions[there]) @ cam_to_world[there]
        x = K[0, 0] * seen[..., 0] / seen[..., 2] + K[0, 2]
        y = K[1, 1] * seen[..., 1] / seen[..., 2] + K[1, 2]
        inside = (seen[..., 2] > 0) & (x >= 0) & (x < 48) & (y >= 0) & (y < 48)
        column, row = x[inside].astype(int), y[inside].astype(int)
        both = np.abs(depth[there][row, column] - seen[..., 2][inside]) < 0.02
        yield instance[here][inside][both], instance[there][row[both], column[both]]


def test_depth_carries_every_pixel_to_the_same_object_in_another_frame(room: Path) -> None:
    pairs = list(reprojections(room))
    here, there = (np.concatenate(ids) for ids in zip(*pairs, strict=True))
    assert len(here) > 0.3 * 5 * 48 * 48
    # What is left lies on outlines: a 48-pixel frame's pixel is 4 cm wide.
    assert (here == there).mean() > 0.98
    assert (here == there)[here > 0].mean() > 0.9


def test_objects_json_puts_each_object_where_the_frames_see_it(room: Path) -> None:
    camera = json.loads((room / "metadata.json").read_text())["camera"]
    to_world = rotation(camera["quaternions"][0]) * [1, -1, -1]
    focal = camera["K"][0][0]
    instance = np.load(room / "instance/00000.npy")
    for row in json.loads((room / "objects.json").read_text())["objects"]:
        pose = np.array(row["object_to_world"])
        x, y, z = (pose[:3, 3] - camera["positions"][0]) @ to_world
        radius_px = 48 * focal * np.linalg.norm(pose[:3, 0]) / z
        rows, columns = np.nonzero(instance == row["id"])
        if len(rows):
            center = 48 * (focal * np.array([y, x]) / z + 0.5)
            away = np.hypot(rows + 0.5 - center[0], columns + 0.5 - center[1])
            assert away.max() < 0.9 * radius_px + 1, row["name"]  # half the diagonal of a cube of side 1


def test_two_processes_write_the_same_bytes_as_one(room: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", TINY, processes=2)
    assert contents(tmp_path / "again") == contents(room)


def test_another_seed_is_another_room(room: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", SynthConfig(objects=5, views=2, size=48, seed=4), processes=1)
    assert (tmp_path / "other/color/00000.png").read_bytes() != (room / "color/00000.png").read_bytes()


def test_noise_changes_segments_and_nothing_else(room: Path, tmp_path: Path) -> None:
    synthesize(
        tmp_path / "clean", SynthConfig(objects=5, views=5, size=48, seed=3, noise="none"), processes=1
    )
    clean, noisy = contents(tmp_path / "clean"), contents(room)
    changed = {name.split("/")[0] for name in clean if clean[name] != noisy[name]}
    changed.discard("scene_errors.json")  # a room this small may have no pair that touches in most frames
    assert changed == {"detic_instance", "detic_semantic", "detic_probabilities", "synth.json"}
    for view in range(4):
        truth = np.load(tmp_path / f"clean/instance/{view:05d}.npy")
        segments = np.load(tmp_path / f"clean/detic_instance/{view:05d}.npy")
        assert segment_quality((segments, truth)).pq == 1


def test_an_interrupted_room_is_finished_with_the_same_bytes(room: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    seen: list[int] = []
    segmented: list[float] = []

    def stop_after_two(step: int, figures: dict[str, float]) -> None:
        seen.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(folder, TINY, on_step=stop_after_two, processes=1)
    assert not (folder / "metadata.json").exists()
    (folder / "instance/00001.npy").unlink()  # as if killed between the files of a frame
    before = (folder / "color/00000.png").stat().st_mtime_ns
    synthesize(
        folder,
        TINY,
        on_step=frames_and_segments(seen, segmented),
        processes=1,
    )
    assert seen == [1, 2, 2, 3, 4, 5]
    assert segmented == list(range(1, 6))
    assert (folder / "color/00000.png").stat().st_mtime_ns == before
    assert contents(folder) == contents(room)


def test_a_finished_room_is_left_alone(room: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in room.rglob("*")}
    synthesize(room, TINY, on_step=lambda step, figures: pytest.fail("a frame was made"))
    assert {path: path.stat().st_mtime_ns for path in room.rglob("*")} == before


def test_other_settings_are_refused_by_name(room: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"other settings: views \(5, now 6\), noise \('hard', now 'easy'\)"
    ):
        synthesize(room, SynthConfig(objects=5, views=6, size=48, seed=3, noise="easy"))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ConfigError, match="synth did not write"):
        synthesize(tmp_path, TINY)
    with pytest.raises(ConfigError, match="is a file"):
        synthesize(tmp_path / "thesis.txt", TINY)


def test_a_torn_synth_json_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "synth.json").write_text('{"objects": ')
    with pytest.raises(ConfigError, match="not readable as JSON"):
        synthesize(tmp_path, TINY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objects": 0}, "objects: 0 is not a whole number from 1"),
        ({"objects": True}, "objects: True"),
        ({"views": 1}, "views: 1 is not a whole number from 2"),
        ({"size": 8}, "size: 8 is not a whole number from 16"),
        ({"seed": -1}, "seed: -1"),
        ({"noise": "loud"}, "no noise level 'loud'; one of: easy, hard, moderate, none"),
    ],
)
def test_a_value_that_makes_no_room_is_a_config_error(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthConfig(**fields)  # type: ignore[arg-type]


def test_no_process_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="processes"):
        synthesize(tmp_path / "room", TINY, processes=0)
