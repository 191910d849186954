"""Every layout gives the same scene: cameras to 1e-6, photos, points, segments; lenses are undone as by COLMAP."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import python
from layouts import (
    CHAIR,
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    WALL,
    WIDTH,
    TrueScene,
    true_scene,
    write_colmap,
    write_masks,
    write_messy_rooms,
    write_nerfstudio,
    write_nice_slam,
    write_panoptic_lifting,
    write_photos,
    write_points,
    write_polycam,
)
from PIL import Image
from scipy.interpolate import griddata

from gs_lift.datasets import DataConfig, layout_of, load_scene
from gs_lift.datasets.lens import MODELS, lenses_of
from gs_lift.errors import ConfigError, GsLiftError, SceneError
from gs_lift.scene import Scene

SCENE = true_scene()
AS_IS = DataConfig(max_size=0)

WRITERS: dict[str, Callable[[Path, TrueScene], Path]] = {
    "colmap": write_colmap,
    "colmap text": lambda folder, scene: write_colmap(folder, scene, binary=False),
    "colmap/sparse": lambda folder, scene: write_colmap(folder, scene, where="colmap/sparse/0"),
    "sparse": lambda folder, scene: write_colmap(folder, scene, where="sparse"),
    "nerfstudio": write_nerfstudio,
    "polycam": write_polycam,
    "nice_slam": write_nice_slam,
}
WITH_POINTS = ("colmap", "colmap text", "colmap/sparse", "sparse", "nerfstudio")


@pytest.fixture(params=WRITERS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def views_of(scene: Scene) -> list:
    return sorted((*scene.train, *scene.test), key=lambda view: view.name)


def check_views(scene: Scene, classes: tuple[int, int] = (0, 1)) -> None:
    """Cameras, photos and segments are the true ones; classes: of what is in no segment, and of what is in one."""
    views = views_of(scene)
    assert [view.name[-4:] for view in views] == SCENE.names
    for view, photo, viewmat, ids in zip(views, SCENE.photos, SCENE.viewmats, SCENE.ids, strict=True):
        K = torch.tensor([[FX, 0, CX], [0, FY, CY], [0, 0, 1]], dtype=torch.float64)
        assert torch.allclose(view.camera.K, K, atol=1e-9)
        assert np.abs(view.camera.viewmat.numpy() - viewmat).max() < 1e-6
        assert (view.camera.width, view.camera.height) == (WIDTH, HEIGHT)
        assert torch.equal((view.image() * 255).round().to(torch.uint8), torch.from_numpy(photo))
        segments = view.segments()
        assert torch.equal(segments.instance, torch.from_numpy(np.where(ids > 0, ids, -1)))
        assert torch.equal(segments.semantic, torch.from_numpy(np.where(ids > 0, classes[1], classes[0])))


def test_every_layout_gives_the_same_scene(layout: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path / "data" / "room", SCENE)
    scene = load_scene(folder, AS_IS)
    assert scene.name == "room"
    assert [view.name[-4:] for view in scene.test] == ["0000"]
    check_views(scene)
    if layout in WITH_POINTS:
        order = np.lexsort(scene.points.numpy().T)
        wanted = np.lexsort(SCENE.means.T)
        assert np.abs(scene.points.numpy()[order] - SCENE.means[wanted]).max() < 1e-6
        assert np.array_equal((scene.colors.numpy()[order] * 255).round(), SCENE.colors[wanted])
    else:
        assert len(scene.points) == 0


def test_the_layouts_with_segments_of_their_own_give_it_too(tmp_path: Path) -> None:
    messy = load_scene(write_messy_rooms(tmp_path / "messy", SCENE), AS_IS)
    panoptic = load_scene(write_panoptic_lifting(tmp_path / "panoptic", SCENE), AS_IS)
    check_views(messy)
    check_views(panoptic, (WALL, CHAIR))
    assert [view.name for view in messy.test] == ["0004", "0005"]
    assert [view.name for view in panoptic.test] == ["0000"]
    assert {layout_of(tmp_path / name) for name in ("messy", "panoptic")} == {
        "messy_rooms",
        "panoptic_lifting",
    }


def test_nice_slam_has_depth_in_metres_and_says_that_it_has_no_truth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_nice_slam(tmp_path / "room", SCENE)
    view = load_scene(folder, DataConfig(max_size=16)).train[0]
    assert view.truth is None
    assert view.depth is not None
    assert view.depth().shape == (11, 16)
    assert view.depth().unique().tolist() == pytest.approx([2.0], abs=1e-6)  # 13107 / 6553.5
    assert "no truth of objects" in caplog.text


def test_photos_and_cameras_are_reduced_together(layout: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path / "room", SCENE)
    view = views_of(load_scene(folder, DataConfig(max_size=16)))[0]
    # 24 x 16 -> 16 x 10.67, rounded to 11: the rounding is in the camera too.
    assert (view.camera.width, view.camera.height) == (16, 11)
    wanted = [FX * 16 / 24, FY * 11 / 16, CX * 16 / 24, CY * 11 / 16]
    K = view.camera.K
    assert [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] == pytest.approx(wanted)
    assert view.image().shape == (11, 16, 3)
    assert float(view.image().mean()) == pytest.approx(SCENE.photos[0].mean() / 255, abs=0.02)
    rows = ((np.arange(11) + 0.5) * 16 / 11).astype(int)
    columns = ((np.arange(16) + 0.5) * 24 / 16).astype(int)
    ids = SCENE.ids[0][np.ix_(rows, columns)]
    assert torch.equal(view.segments().instance, torch.from_numpy(np.where(ids > 0, ids, -1)))


@pytest.mark.parametrize(("every", "test"), [(8, ["0000"]), (3, ["0000", "0003"]), (0, [])])
def test_every_so_many_th_photo_is_for_testing(every: int, test: list[str], tmp_path: Path) -> None:
    scene = load_scene(write_colmap(tmp_path, SCENE), DataConfig(test_every=every))
    assert [view.name for view in scene.test] == test
    assert len(scene.train) + len(scene.test) == 6


@pytest.mark.parametrize("field", ["test_every=1", "test_every=-2", "max_size=3", "max_size=-1"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    name, value = field.split("=")
    with pytest.raises(ConfigError, match=f"data.{name}"):
        DataConfig(**{name: int(value)})


# --- Lenses -----------------------------------------------------------------------------------------------------------

LENSES: dict[str, tuple[float, ...]] = {
    "SIMPLE_PINHOLE": (60.0, 49.0, 33.0),
    "PINHOLE": (60.0, 62.0, 49.0, 33.0),
    "SIMPLE_RADIAL": (60.0, 49.0, 33.0, -0.11),
    "RADIAL": (60.0, 49.0, 33.0, 0.08, -0.02),
    "OPENCV": (60.0, 62.0, 49.0, 33.0, 0.06, -0.08, -0.001, 0.002),
    "FULL_OPENCV": (60.0, 62.0, 49.0, 33.0, 0.06, -0.08, -0.001, 0.002, 0.01, 0.02, -0.01, 0.003),
    "OPENCV_FISHEYE": (60.0, 62.0, 49.0, 33.0, 0.03, -0.01, 0.002, 0.001),
    "SIMPLE_RADIAL_FISHEYE": (60.0, 49.0, 33.0, 0.03),
    "RADIAL_FISHEYE": (60.0, 49.0, 33.0, 0.03, -0.01),
}

PROJECT = """
import json, numpy as np, pycolmap
x, y = np.meshgrid(np.linspace(-.7, .7, 9), np.linspace(-.5, .5, 7))
points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
for model, params in json.load(open("lenses.json")).items():
    camera = pycolmap.Camera(model=model, width=100, height=66, params=params)
    print(json.dumps([model, camera.img_from_cam(points).tolist()]))
"""


def test_lenses_bend_as_in_colmap(tmp_path: Path) -> None:
    assert set(LENSES) == set(MODELS)
    (tmp_path / "lenses.json").write_text(json.dumps(LENSES))
    done = python(PROJECT, tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = dict(json.loads(line) for line in done.stdout.splitlines())
    x, y = np.meshgrid(np.linspace(-0.7, 0.7, 9), np.linspace(-0.5, 0.5, 7))
    cameras = [{"model": m, "width": 100, "height": 66, "params": list(p)} for m, p in LENSES.items()]
    for lens in lenses_of(cameras, tmp_path):
        u, v = lens.pixels(x.ravel(), y.ravel())
        assert np.abs(np.stack([u, v], axis=1) - np.array(theirs[lens.model])).max() < 1e-9, lens.model


@pytest.mark.parametrize(
    ("model", "reach"), [("SIMPLE_RADIAL", 1.15), ("OPENCV", 1.15), ("OPENCV_FISHEYE", 1.6)]
)
def test_an_undistorted_photo_is_the_one_that_a_pinhole_camera_takes(
    model: str, reach: float, tmp_path: Path
) -> None:
    """The photo holds a smooth function of the direction, bent by the lens; undistorted it is that function again."""
    (lens,) = lenses_of([{"model": model, "width": 100, "height": 66, "params": LENSES[model]}], tmp_path)
    x, y = np.meshgrid(np.linspace(-reach, reach, 161), np.linspace(-0.8 * reach, 0.8 * reach, 121))
    u, v = lens.pixels(x, y)
    inside = (u > -3) & (u < 103) & (v > -3) & (v < 69)
    centers = np.meshgrid(np.arange(100) + 0.5, np.arange(66) + 0.5)
    at = [griddata((u[inside], v[inside]), one[inside], tuple(centers), method="linear") for one in (x, y)]
    photo = np.stack([0.5 + 0.3 * at[0], 0.5 + 0.4 * at[1], np.full((66, 100), 0.5)], axis=-1)
    assert np.isfinite(photo).all()
    scene = true_scene(2)
    write_colmap(tmp_path, scene, model=model, params=LENSES[model], size=(100, 66))
    for name in scene.names:
        Image.fromarray((photo * 255).round().clip(0, 255).astype(np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
        Image.fromarray((at[0] > 0.1).astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    view = load_scene(tmp_path, DataConfig(max_size=0, test_every=0)).train[0]
    K = view.camera.K.numpy()
    flat_x = (np.arange(view.camera.width) + 0.5 - K[0, 2]) / K[0, 0]
    flat_y = (np.arange(view.camera.height) + 0.5 - K[1, 2]) / K[1, 1]
    image = view.image().numpy()
    assert np.abs(image[..., 0] - (0.5 + 0.3 * flat_x)).max() < 0.004
    assert np.abs(image[..., 1] - (0.5 + 0.4 * flat_y[:, None])).max() < 0.004
    right = view.segments().instance.numpy() > 0
    sure = np.abs(flat_x - 0.1) > 1.0 / K[0, 0]
    assert (right[:, sure] == (flat_x > 0.1)[sure]).all()


# --- What COLMAP leaves behind ----------------------------------------------------------------------------------------


def test_the_largest_of_several_models_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path, SCENE, where="sparse/1")
    write_colmap(tmp_path, true_scene(3), where="sparse/0")
    assert len(views_of(load_scene(tmp_path))) == 6
    assert "2 models; took the largest, not sparse/0" in caplog.text


def test_photos_without_a_pose_and_poses_without_a_photo_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_colmap(tmp_path, SCENE)
    (tmp_path / "images/0003.png").rename(tmp_path / "images/extra.png")
    assert len(views_of(load_scene(tmp_path))) == 5
    assert "1 photos of the model are missing (0003.png)" in caplog.text
    assert "1 of 6 photos have no pose" in caplog.text


def test_reduced_copies_are_used_where_they_are_large_enough(tmp_path: Path) -> None:
    scene = write_colmap(
        tmp_path, SCENE, size=(4 * WIDTH, 4 * HEIGHT), params=(4 * FX, 4 * FY, 4 * CX, 4 * CY)
    )
    (scene / "images").rename(scene / "images_4")
    (scene / "images").mkdir()
    for name, photo in zip(SCENE.names, SCENE.photos, strict=True):
        Image.fromarray(photo).resize((4 * WIDTH, 4 * HEIGHT)).save(scene / "images" / f"{name}.png")
    view = views_of(load_scene(scene, DataConfig(max_size=24)))[0]
    assert torch.equal((view.image() * 255).round().to(torch.uint8), torch.from_numpy(SCENE.photos[0]))
    assert view.camera.K[0, 0] == pytest.approx(FX)
    large = views_of(load_scene(scene, DataConfig(max_size=0)))[0]
    assert (large.camera.width, float(large.camera.K[0, 0])) == (4 * WIDTH, 4 * FX)


def test_photos_in_sub_folders_keep_their_names(tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE, binary=False)
    images = tmp_path / "sparse/0/images.txt"
    images.write_text(images.read_text().replace(" 0", " left/0").replace(" left/0.", " 0."))
    (tmp_path / "images/left").mkdir()
    for photo in (tmp_path / "images").glob("*.png"):
        photo.rename(tmp_path / "images/left" / photo.name)
    views = views_of(load_scene(tmp_path))
    assert [view.name for view in views] == [f"left/{name}" for name in SCENE.names]
    assert views[0].segments is not None  # of the flat folder masks/


# --- transforms.json --------------------------------------------------------------------------------------------------


def test_a_focal_length_may_come_as_an_angle(tmp_path: Path) -> None:
    angle = 2 * np.arctan(WIDTH / 2 / FX)
    write_nerfstudio(
        tmp_path, SCENE, fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None, camera_angle_x=angle
    )
    K = load_scene(tmp_path, AS_IS).train[0].camera.K
    assert [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] == pytest.approx([FX, FX, WIDTH / 2, HEIGHT / 2])


def test_each_frame_may_have_a_camera_of_its_own_and_leave_out_its_ending(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, SCENE)
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][2] |= {"fl_x": 30.0, "file_path": "images/0002"}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    focals = [float(view.camera.K[0, 0]) for view in views_of(load_scene(tmp_path, AS_IS))]
    assert focals == [FX, FX, 30.0, FX, FX, FX]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_of_the_file_is_kept(split: str, tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, SCENE, **{f"{split}_filenames": ["images/0001.png", "images/0004.png"]})
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.test] == ["0001", "0004"]


def test_every_so_many_th_is_counted_by_name_not_by_the_order_of_frames(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, SCENE)
    file = tmp_path / "transforms.json"
    content = json.loads(file.read_text())
    content["frames"].reverse()
    file.write_text(json.dumps(content))
    scene = load_scene(tmp_path, DataConfig(test_every=4))
    assert [view.name for view in scene.test] == ["0000", "0004"]
    for view in views_of(scene):
        assert np.abs(view.camera.viewmat.numpy() - SCENE.viewmats[int(view.name)]).max() < 1e-6


def test_photos_in_no_list_of_a_split_are_left_out_and_those_in_two_are_for_testing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = {"train": (1, 2, 3), "val": (0,), "test": (3, 4)}
    fields = {f"{split}_filenames": [f"./images/000{i}.png" for i in some] for split, some in lists.items()}
    scene = load_scene(write_nerfstudio(tmp_path, SCENE, **fields))
    assert [view.name for view in scene.train] == ["0001", "0002"]
    assert [view.name for view in scene.test] == ["0003", "0004"]
    assert "1 photos are for training and for testing" in caplog.text


def test_a_split_may_name_photos_outside_where_that_is_allowed(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "scene", SCENE)
    (tmp_path / "scene/images").rename(tmp_path / "photos")
    file = tmp_path / "scene/transforms.json"
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        frame["file_path"] = str(tmp_path / "photos" / Path(frame["file_path"]).name)
    content["test_filenames"] = [content["frames"][2]["file_path"]]
    file.write_text(json.dumps(content))
    scene = load_scene(tmp_path / "scene", DataConfig(allow_outside=True))
    assert [view.name for view in scene.test] == ["0002"]
    refused(tmp_path / "scene", "leads out of the scene folder")


def test_points_are_in_the_frame_of_the_cameras_whatever_was_applied_to_both(tmp_path: Path) -> None:
    """nerfstudio's `applied_transform` led from COLMAP's frame to the file's; ns-process-data moved the points too."""
    applied = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
    scene = load_scene(write_nerfstudio(tmp_path, SCENE, applied_transform=applied), AS_IS)
    assert np.abs(scene.points.numpy() - SCENE.means).max() < 1e-6


APPLIED = [[0.0, 0, 1, 2], [1, 0, 0, 3], [0, 1, 0, 4]]


@pytest.mark.parametrize(
    ("fields", "colmap", "rows"),
    [
        ({"applied_transform": APPLIED}, True, APPLIED),
        ({"applied_transform": APPLIED, "applied_scale": 2}, False, [[2 * one for one in row] for row in APPLIED]),
        ({}, True, [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]),
        ({}, False, None),
        ({"applied_transform": np.diag([1, 1, -1, 1]).tolist()}, False, None),
        ({"applied_transform": [[1, 0, 0, 0]]}, False, None),
        ({"applied_transform": "all", "applied_scale": -1}, False, None),
    ],
    ids=["as told", "with its scale", "of old files", "none", "a mirror", "a row", "a word"],
)  # fmt: skip
def test_what_led_from_colmaps_frame_to_the_cameras_is_known(
    fields: dict[str, object], colmap: bool, rows: list[list[float]] | None, tmp_path: Path
) -> None:
    """As nerfstudio's dataparser takes it: a splat that was trained there has to follow."""
    if colmap:
        (tmp_path / "colmap/sparse/0").mkdir(parents=True)
    applied = load_scene(write_nerfstudio(tmp_path, SCENE, **fields), AS_IS).applied_transform
    assert (None if applied is None else applied[:3].tolist()) == rows


def test_a_mask_is_of_the_photo_and_goes_through_its_lens(tmp_path: Path) -> None:
    """The mask is black in the photo's first 6 columns: what is left out is what the pinhole camera sees of them."""
    k1 = 0.3
    write_nerfstudio(tmp_path, SCENE, k1=k1)
    content = json.loads((tmp_path / "transforms.json").read_text())
    keep = np.full((HEIGHT, WIDTH), 255, np.uint8)
    keep[:, :6] = 0
    Image.fromarray(keep).save(tmp_path / "keep.png")
    content["frames"][1]["mask_path"] = "keep.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    view = views_of(load_scene(tmp_path, AS_IS))[1]
    K, width, height = view.camera.K.numpy(), view.camera.width, view.camera.height
    x, y = np.meshgrid(np.arange(width) + 0.5 - K[0, 2], np.arange(height) + 0.5 - K[1, 2])
    x, y = x / K[0, 0], y / K[1, 1]
    u = FX * x * (1 + k1 * (x * x + y * y)) + CX
    black = torch.from_numpy(u < 6)
    assert 0 < int(black.sum()) < black.numel()
    unbent = torch.arange(width).add(0.5) < 6 * width / WIDTH
    assert not torch.equal(black, unbent.expand(height, width))
    assert torch.equal(view.segments().semantic == -1, black)


def test_what_a_mask_leaves_out_has_no_segment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_nerfstudio(tmp_path, SCENE)
    content = json.loads((tmp_path / "transforms.json").read_text())
    keep = np.zeros((HEIGHT, WIDTH), np.uint8)
    keep[:, :12] = 255
    Image.fromarray(keep).save(tmp_path / "keep.png")
    content["frames"][1]["mask_path"] = "keep.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    segments = views_of(load_scene(tmp_path))[1].segments()
    assert (segments.semantic[:, 12:] == -1).all()
    assert (segments.instance[:, 12:] == -1).all()
    assert (segments.semantic[:, :12] >= 0).all()
    assert "mask_path of 1 frames" in caplog.text


# --- Damage -----------------------------------------------------------------------------------------------------------


def read_all(folder: Path, config: DataConfig) -> None:
    for view in views_of(load_scene(folder, config)):
        view.image()
        if view.segments:
            view.segments()


def refused(folder: Path, *parts: str, config: DataConfig = AS_IS) -> None:
    with pytest.raises(GsLiftError) as caught:
        read_all(folder, config)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def truncate(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cameras.bin", "focal length over 0"),
        ("images.bin", "images.bin promises 6 entries"),
        ("points3D.bin", "points3D.bin promises 9 entries"),
    ],
)
def test_a_torn_model_is_refused(name: str, part: str, tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE)
    truncate(tmp_path / "sparse/0" / name, 0.6)
    refused(tmp_path, part)


@pytest.mark.parametrize(("name", "at"), [("images.bin", 81), ("points3D.bin", 51)])
def test_an_entry_that_claims_more_than_its_file_holds_is_refused(name: str, at: int, tmp_path: Path) -> None:
    """The count of the first entry's points, or of its track's steps."""
    write_colmap(tmp_path, SCENE)
    file = tmp_path / "sparse/0" / name
    content = bytearray(file.read_bytes())
    assert content[at : at + 8] == bytes(8)
    content[at : at + 8] = (2**40).to_bytes(8, "little")
    file.write_bytes(content)
    refused(tmp_path, f"{name} ends within entry 1")


def test_a_model_that_claims_a_quintillion_points_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE)
    points = tmp_path / "sparse/0/points3D.bin"
    points.write_bytes((2**60).to_bytes(8, "little") + points.read_bytes()[8:])
    refused(tmp_path, "points3D.bin promises 1152921504606846976 entries")


@pytest.mark.parametrize(
    ("params", "part"),
    [((FX, FY, CX, float("nan")), ""), ((-FX, FY, CX, CY), "focal length over 0"), ((0.0, FY, CX, CY), "")],
)
def test_a_camera_that_is_none_is_refused(params: tuple[float, ...], part: str, tmp_path: Path) -> None:
    refused(write_colmap(tmp_path, SCENE, params=params), part)


@pytest.mark.parametrize("size", [(2**40, 2**40), (70_000, 16), (0, 16)])
def test_a_photo_of_a_trillion_pixels_a_side_is_refused_before_it_is_undistorted(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """pycolmap would walk along its border, for hours."""
    write_colmap(tmp_path, SCENE, model="SIMPLE_RADIAL", params=(FX, CX, CY, 0.1), size=size)
    refused(tmp_path, f"a SIMPLE_RADIAL camera of {size[0]}x{size[1]} pixels")


def test_a_lens_whose_photo_folds_over_itself_is_refused(tmp_path: Path) -> None:
    refused(
        write_colmap(tmp_path, SCENE, model="SIMPLE_RADIAL", params=(FX, CX, CY, -5.0)), "folds over itself"
    )


@pytest.mark.parametrize("length", [0.0, 2.0])
def test_a_quaternion_that_is_no_rotation_is_refused(length: float, tmp_path: Path) -> None:
    """pycolmap makes a sheared matrix of it, or the identity."""
    write_colmap(tmp_path, SCENE, binary=False)
    stretch_first_quaternion(tmp_path, length)
    refused(tmp_path, f"'0000.png' has a quaternion of length {length:g}")


def test_a_rounded_quaternion_is_made_a_rotation(tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE, binary=False)
    stretch_first_quaternion(tmp_path, 1.001)
    view = views_of(load_scene(tmp_path))[0]
    assert np.abs(view.camera.viewmat.numpy() - SCENE.viewmats[0]).max() < 1e-6


def stretch_first_quaternion(folder: Path, length: float) -> None:
    file = folder / "sparse/0/images.txt"
    first, rest = file.read_text().split("\n", 1)
    words = first.split()
    words[1:5] = [repr(length * float(word)) for word in words[1:5]]
    file.write_text("\n".join([" ".join(words), rest]))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("../../../../../../../../etc/passwd", "leads out of the scene folder"),
        ("/etc/passwd", "leads out of the scene folder"),
        ("00\x1b[31m.png", "wanted names without control characters"),
    ],
)
def test_a_name_in_a_model_opens_no_file_elsewhere(name: str, part: str, tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE, binary=False)
    file = tmp_path / "sparse/0/images.txt"
    file.write_text(file.read_text().replace("0000.png", name))
    refused(tmp_path, part)


def test_a_model_without_images_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE)
    (tmp_path / "sparse/0/images.bin").write_bytes(bytes(8))
    refused(tmp_path, "no image has a pose")


@pytest.mark.parametrize(
    ("content", "part"), [(b"hello", "not a PNG or JPEG"), (None, "missing"), (0.5, "broken image")]
)
def test_a_photo_that_breaks_after_the_scene_was_read_is_named(
    content: bytes | float | None, part: str, tmp_path: Path
) -> None:
    write_colmap(tmp_path, SCENE, model="SIMPLE_RADIAL", params=(FX, CX, CY, 0.01))
    view = views_of(load_scene(tmp_path))[1]
    photo = tmp_path / "images/0001.png"
    if isinstance(content, float):
        truncate(photo, content)
    elif content is None:
        photo.unlink()
    else:
        photo.write_bytes(content)
    with pytest.raises(SceneError, match=f"0001.png: .*{part}"):
        view.image()


def test_poses_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    viewmats = SCENE.viewmats.copy()
    viewmats[2, 0, 3] = np.nan
    broken = TrueScene(SCENE.names, SCENE.photos, viewmats, SCENE.means, SCENE.colors, SCENE.ids)
    refused(write_colmap(tmp_path, broken))


def test_photos_of_another_shape_than_the_camera_are_refused(tmp_path: Path) -> None:
    refused(write_colmap(tmp_path, SCENE, size=(HEIGHT, WIDTH)), "another shape than its camera's", "turned")


def test_a_model_without_its_photos_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, SCENE)
    for photo in (tmp_path / "images").iterdir():
        photo.unlink()
    refused(tmp_path, "no photos", "0000.png")


def test_a_model_that_leads_out_of_the_scene_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path / "scene", SCENE)
    (tmp_path / "scene/images/0002.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "scene/images/0002.png").symlink_to(tmp_path / "elsewhere.png")
    refused(tmp_path / "scene", "leads out of the scene folder")
    assert len(views_of(load_scene(tmp_path / "scene", DataConfig(allow_outside=True)))) == 6


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "no frames": ({"frames": None}, "no list of frames"),
    "frames of numbers": ({"frames": [1, 2]}, "no list of frames"),
    "one frame": ({"frames": [{"file_path": "images/0000.png"}]}, "1 of 1 photos are there"),
    "focal length of text": ({"fl_x": "wide"}, "fl_x is 'wide'"),
    "infinite focal length": ({"fl_x": float("inf")}, "fl_x is inf"),
    "no focal length": ({"fl_x": None, "fl_y": None}, "no focal length and size"),
    "a huge width": ({"w": 2.0**40}, "no focal length and size"),
    "an unknown camera": ({"camera_model": "EQUIRECTANGULAR"}, "camera_model 'EQUIRECTANGULAR'"),
    "points outside": ({"ply_file_path": "../../points.ply"}, "leads out of the scene folder"),
    "a lens that folds": ({"k1": float("nan")}, "k1 is nan"),
    "points of a number": ({"ply_file_path": 3}, "ply_file_path is 3"),
    "a whole number of 400 digits": ({"fl_x": 10**400}, "wanted a finite number"),
    "an angle of half a turn": (
        {"fl_x": None, "fl_y": None, "camera_angle_x": np.pi},
        "radians from 0 to pi",
    ),
    "a principal point far away": ({"cx": 1e9}, "principal point at (1e+09, 7.75)"),
    "the same behind a lens": ({"cx": 1e9, "k1": 0.1}, "principal point at (1e+09, 7.75)"),
    "an angle of nearly 180 degrees": ({"fl_x": 1e-300, "k1": 0.1}, "times its longer side"),
    "a lens that bends back": ({"k1": -3.0}, "folds over itself"),
    "a lens that overflows": ({"k1": 1e300}, "folds over itself"),
    "a split of a number": ({"test_filenames": 3}, "test_filenames is no list"),
    "a split of numbers": ({"train_filenames": [1, 2]}, "train_filenames is no list"),
    "a split of strangers": ({"val_filenames": ["images/9.png"]}, "'images/9.png', which is no frame's"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_transforms_json_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    fields, part = BROKEN[what]
    refused(write_nerfstudio(tmp_path / "a" / "b", SCENE, **fields), part)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("file_path", "../../secret.png", "leads out of the scene folder"),
        ("file_path", None, "file_path is None"),
        ("file_path", "images/0001.png", "the photo of another frame"),
        ("file_path", "/", "leads out of the scene folder"),
        ("file_path", "images/\ud800.png", "wanted the path of a file"),
        ("file_path", "ima\nges\x1b[31m.png", "wanted the path of a file"),
        ("file_path", "x" * 5000, "1 of 2 photos are there"),
        ("transform_matrix", [[10**400] * 4] * 4, "no transform_matrix"),
        ("mask_path", "nowhere.png", "'nowhere.png' is missing"),
        ("mask_path", "../../../x.png", "leads out of the scene folder"),
        ("transform_matrix", [[1, 2], [3, 4]], "a pose of shape [2, 2]"),
        ("transform_matrix", "none", "no transform_matrix"),
        ("transform_matrix", [[float("nan")] * 4] * 4, "4 x 4 finite numbers"),
        ("transform_matrix", np.diag([2.0, 2, 2, 1]).tolist(), "no rotation"),
        ("transform_matrix", np.diag([-1.0, 1, 1, 1]).tolist(), "scaled or mirrored"),
    ],
)
def test_a_broken_frame_is_refused_in_one_line(field: str, value: object, part: str, tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "a" / "b", true_scene(2))
    file = tmp_path / "a" / "b" / "transforms.json"
    content = json.loads(file.read_text())
    content["frames"][0][field] = value
    file.write_text(json.dumps(content))
    refused(file.parent, part)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("t_12", None, "t_12 is None"),
        ("t_12", 7.0, "no rotation"),
        ("fx", 10**400, "wanted a finite number"),
        ("fx", -1, "wanted a focal length over 0"),
        ("width", 1e12, "wanted 1 to 65536 pixels a side"),
    ],
)
def test_a_broken_polycam_camera_is_refused(field: str, value: object, part: str, tmp_path: Path) -> None:
    write_polycam(tmp_path, SCENE)
    file = tmp_path / "keyframes/corrected_cameras/0002.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    refused(tmp_path, part)


def test_a_nice_slam_trajectory_of_another_length_is_refused(tmp_path: Path) -> None:
    write_nice_slam(tmp_path / "room", SCENE)
    lines = (tmp_path / "room/traj.txt").read_text().splitlines()
    (tmp_path / "room/traj.txt").write_text("\n".join(lines[:-1]))
    refused(tmp_path / "room", "6 photos and 5 poses")
    (tmp_path / "room/traj.txt").write_text("1 2 three")
    refused(tmp_path / "room", "not lines of 16 numbers")
    (tmp_path / "room/traj.txt").write_text("\n".join(lines).replace(lines[1].split()[0], "nan"))
    refused(tmp_path / "room", "finite numbers")


@pytest.mark.parametrize(
    ("camera", "part"),
    [
        ({"w": WIDTH}, "wanted camera with w, h"),
        ([1, 2], "wanted camera with w, h"),
        ({"w": 10**400}, "wanted a finite number"),
        ({"w": 1e300}, "wanted 1 to 65536 pixels a side"),
        ({"scale": 0}, "scale is 0"),
        ({"fx": True}, "fx is True"),
    ],
)
def test_a_nice_slam_camera_that_is_none_is_refused(camera: object, part: str, tmp_path: Path) -> None:
    write_nice_slam(tmp_path / "room", SCENE)
    file = tmp_path / "cam_params.json"
    whole = json.loads(file.read_text())["camera"]
    alone = camera == {"w": WIDTH}
    file.write_text(
        json.dumps({"camera": whole | camera if isinstance(camera, dict) and not alone else camera})
    )
    refused(tmp_path / "room", part)


def test_photos_without_segments_are_a_scene_of_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write_photos(tmp_path / "images", SCENE)
    write_points(tmp_path / "points.ply", SCENE)
    write_nerfstudio(tmp_path, SCENE)
    for mask in (tmp_path / "masks").iterdir():
        mask.unlink()
    with pytest.raises(SceneError, match="no segments for any of 6 photos"):
        load_scene(tmp_path)
    (tmp_path / "masks").rmdir()
    assert all(view.segments is None for view in load_scene(tmp_path).train)
    write_masks(tmp_path / "other", SCENE)
    assert load_scene(tmp_path, DataConfig(segments="other")).train[0].segments is not None
