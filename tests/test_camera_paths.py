"""Camera paths: where the cameras stand, what they look at, which way is up, and what a file may say."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_data import random_gaussians
from rooms import ring
from scipy.spatial.transform import Rotation
from torch import Tensor

from gs_lift.camera_paths import (
    CameraPath,
    framed,
    orbit_of_cameras,
    orbit_of_splat,
    path_of_views,
    read_camera_path,
)
from gs_lift.errors import CameraPathError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.scene import Camera, View

SEED = 5
Z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def camera(viewmat: Tensor, *, width: int = 40, height: int = 30, focal: float = 35.0) -> Camera:
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Camera(K, viewmat, width, height)


def at(x: float, y: float, z: float, target: Tensor | None = None) -> Camera:
    target = torch.zeros(3, dtype=torch.float64) if target is None else target
    return camera(look_at(torch.tensor([x, y, z], dtype=torch.float64), target, Z))


def pixel(one: Camera, point: Tensor) -> tuple[float, float]:
    """(x, y) in pixels; the point must lie in front of the camera."""
    seen = one.viewmat[:3, :3] @ point.double() + one.viewmat[:3, 3]
    assert seen[2] > 0
    x, y, _ = (one.K @ seen / seen[2]).tolist()
    return x, y


def positions(path: CameraPath) -> Tensor:
    return torch.stack([one.position for one in path.cameras])


def azimuths(path: CameraPath) -> Tensor:
    """In degrees, 0..360, around z."""
    places = positions(path)
    return torch.rad2deg(torch.atan2(places[:, 1], places[:, 0])) % 360


@pytest.fixture
def ball() -> Gaussians:
    cube = random_gaussians(SEED, 200, spread=0.3)
    return replace(cube, means=cube.means * 0.3 / cube.means.norm(dim=1, keepdim=True).clamp(min=0.3))


def test_the_orbit_of_a_ring_is_the_ring_in_any_frame_of_the_world(ball: Gaussians) -> None:
    turn = torch.from_numpy(Rotation.from_rotvec([0.4, -1.0, 0.7]).as_matrix())
    shift = torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3], moved[:3, 3] = turn, shift
    cameras = [camera(viewmat @ torch.linalg.inv(moved)) for viewmat in ring(9, radius=2.0, height=1.5)]
    ball = replace(ball, means=ball.means * 0 + shift)
    path = orbit_of_cameras(cameras, ball, 12)
    places = (positions(path) - shift) @ turn  # back in the frame of the ring
    torch.testing.assert_close(places[:, :2].norm(dim=1), torch.full((12,), 2.0).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(places[:, 2], torch.full((12,), 1.5).double(), atol=1e-6, rtol=0)
    # From the first camera on, counter-clockwise seen from above, in even steps.
    angles = torch.rad2deg(torch.atan2(places[:, 1], places[:, 0])) % 360
    steps = (angles - 30 * torch.arange(12) + 180) % 360 - 180
    torch.testing.assert_close(steps, torch.zeros(12).double(), atol=1e-4, rtol=0)
    for one in path.cameras:
        assert pixel(one, shift) == pytest.approx((20, 15))
        x, y = pixel(one, shift + 0.1 * turn @ Z)
        assert x == pytest.approx(20)
        assert y < 15  # up is up in the image


def test_the_orbit_goes_round_an_ellipse_where_the_cameras_did(ball: Gaussians) -> None:
    cameras = [
        at(3 * math.cos(angle), 1.5 * math.sin(angle), 1.0)
        for angle in torch.arange(0, 2 * torch.pi, 0.3).tolist()
    ]
    places = positions(orbit_of_cameras(cameras, ball, 40))
    on_ellipse = (places[:, 0] / 3) ** 2 + (places[:, 1] / 1.5) ** 2
    torch.testing.assert_close(on_ellipse, torch.ones(40).double(), atol=0.05, rtol=0)


def test_a_scene_that_was_seen_from_one_side_is_seen_from_there_only(ball: Gaussians) -> None:
    angles = torch.linspace(-40, 50, 7).deg2rad().tolist()
    cameras = [at(2 * math.cos(angle), 2 * math.sin(angle), 1.0) for angle in angles]
    path = orbit_of_cameras(cameras, ball, 40)
    seen = (azimuths(path) + 180) % 360 - 180
    assert seen.min() == pytest.approx(-40, abs=2)
    assert seen.max() == pytest.approx(50, abs=2)
    assert (seen.roll(-1) - seen).abs().max() < 10  # there and back: it closes without a jump
    torch.testing.assert_close(
        positions(path)[:, :2].norm(dim=1), torch.full((40,), 2.0).double(), atol=0.1, rtol=0
    )


def test_cameras_that_look_the_same_way_look_at_the_gaussians(ball: Gaussians) -> None:
    center = torch.tensor([0.0, 4.0, 0.0], dtype=torch.float64)
    ball = replace(ball, means=ball.means + center)
    ahead = torch.tensor([0.0, 100.0, 0.0], dtype=torch.float64)
    cameras = [
        at(x, 0.0, z, torch.tensor([x, 0.0, z], dtype=torch.float64) + ahead)
        for x in (-1.0, 0.0, 1.0)
        for z in (-0.5, 0.5)
    ]
    for one in orbit_of_cameras(cameras, ball, 10).cameras:
        assert one.position[1] < 1.5
        assert pixel(one, center) == pytest.approx((20, 15), abs=2)


def test_cameras_that_look_straight_down_have_up_against_their_sight(ball: Gaussians) -> None:
    cameras = []
    for i in range(8):
        angle = i * torch.pi / 4
        sideways = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
        place = torch.tensor([math.cos(3 * angle), math.sin(3 * angle), 2.0], dtype=torch.float64)
        cameras.append(camera(look_at(place, place - Z, sideways)))
    for one in orbit_of_cameras(cameras, ball, 6).cameras:
        assert one.position[2] > 1
        assert -one.viewmat[1, 2] > 0.1  # the image's up has a part along z


def test_up_may_be_given(ball: Gaussians) -> None:
    cameras = [camera(viewmat) for viewmat in ring(9)]
    path = orbit_of_cameras(cameras, ball, 8, up=torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))
    for one in path.cameras:
        assert -one.viewmat[1, 0] > 0.5


def test_the_orbit_keeps_the_field_of_view_and_centres_the_image(ball: Gaussians) -> None:
    cameras = [camera(viewmat, focal=focal) for viewmat, focal in zip(ring(3), (30, 35, 90), strict=True)]
    cameras[0].K[0, 2] += 3
    one = orbit_of_cameras(cameras, ball, 2).cameras[1]
    assert one.K.tolist() == [[35, 0, 20], [0, 35, 15], [0, 0, 1]]
    assert (one.width, one.height) == (40, 30)


def test_a_single_camera_is_enough_for_an_orbit(ball: Gaussians) -> None:
    path = orbit_of_cameras([at(2.0, 0.0, 1.0)], ball, 5)
    assert bool(positions(path).isfinite().all())
    assert positions(path)[0].tolist() == pytest.approx([2, 0, 1], abs=0.1)


def test_a_bare_splat_is_seen_whole_from_all_sides_with_minus_y_up(ball: Gaussians) -> None:
    path = orbit_of_splat(ball, 12, width=64, height=48)
    center = ball.means.median(dim=0).values
    for one in path.cameras:
        assert -one.viewmat[1, 1] < -0.5  # the image's up has a large part along -y
        assert pixel(one, center) == pytest.approx((32, 24), abs=2)
        for point in ball.means:
            x, y = pixel(one, point)
            assert 0 < x < 64
            assert 0 < y < 48
    # Counter-clockwise seen from above: each step turns right-handed about up.
    offsets = positions(path) - positions(path).mean(dim=0)
    turned = torch.linalg.cross(offsets, offsets.roll(-1, dims=0))
    assert (turned[:, 1] < 0).all()


def test_far_away_floaters_and_faint_gaussians_hardly_move_the_orbit_of_a_splat(ball: Gaussians) -> None:
    alone = positions(orbit_of_splat(ball, 4, width=64, height=48))
    parameters = {name: torch.cat([tensor, tensor[:10]]) for name, tensor in ball.parameters().items()}
    parameters["means"][200:] = 1e6
    far = positions(orbit_of_splat(Gaussians.from_parameters(parameters), 4, width=64, height=48))
    assert (far - alone).norm(dim=1).max() < 0.2 * alone.norm(dim=1).max()
    faint = replace(ball, logit_opacities=ball.logit_opacities * 0 - 5)
    assert positions(orbit_of_splat(faint, 4, width=64, height=48)).isfinite().all()


def test_another_image_size_keeps_what_is_seen_from_top_to_bottom() -> None:
    one = at(2.0, 1.0, 1.0)
    one.K[0, 2] += 4  # the principal point is off the middle, and stays as far off
    wide = framed(one, 160, 60)
    point = torch.tensor([0.1, 0.2, -0.1], dtype=torch.float64)
    (x, y), (wide_x, wide_y) = pixel(one, point), pixel(wide, point)
    assert wide_y / 60 == pytest.approx(y / 30)
    assert wide_x - 80 == pytest.approx(2 * (x - 20))
    assert (wide.width, wide.height) == (160, 60)


def test_a_path_is_thinned_evenly_and_never_stretched() -> None:
    views = [
        View(f"v{i}", camera(viewmat), lambda: torch.zeros(30, 40, 3)) for i, viewmat in enumerate(ring(7))
    ]
    path = path_of_views(views)
    assert path.names == ("v0", "v1", "v2", "v3", "v4", "v5", "v6")
    assert path.thinned(3).names == ("v0", "v2", "v4")
    assert path.thinned(1).cameras == path.cameras[:1]
    with pytest.raises(CameraPathError, match="--frames 8: this path has 7 cameras"):
        path.thinned(8)


# --- Files ------------------------------------------------------------------------------------------------------------

IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def content(**changes: Any) -> dict[str, Any]:
    entry = {"camera_to_world": IDENTITY, "fov": 60, "aspect": 2}
    return {
        "camera_type": "perspective",
        "render_height": 50,
        "render_width": 100,
        "fps": 12,
        "seconds": 1,
        "camera_path": [entry, entry | {"fov": 90.0}],
    } | changes


def written(folder: Path, text: Any) -> Path:
    path = folder / "path.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_a_file_holds_opengl_cameras_with_a_vertical_field_of_view(tmp_path: Path) -> None:
    path = read_camera_path(written(tmp_path, content()))
    assert (len(path), path.fps, path.names) == (2, 12, ("00000", "00001"))
    one, wide = path.cameras
    assert (one.width, one.height) == (100, 50)
    # OpenGL: looks along -z, y is up.
    assert pixel(one, torch.tensor([0.0, 0.0, -1.0])) == pytest.approx((50, 25))
    top = torch.tensor([0.0, math.tan(math.radians(30)), -1.0], dtype=torch.float64)
    assert pixel(one, top) == pytest.approx((50, 0), abs=1e-6)
    assert pixel(wide, torch.tensor([1.0, 1.0, -1.0])) == pytest.approx((75, 0), abs=1e-6)


def test_the_sixteen_numbers_go_row_by_row(tmp_path: Path) -> None:
    numbers = [0, -1, 0, 7, 1, 0, 0, 8, 0, 0, 1, 9, 0, 0, 0, 1]
    entry = {"camera_to_world": numbers, "fov": 60}
    one = read_camera_path(written(tmp_path, content(camera_path=[entry]))).cameras[0]
    assert one.position.tolist() == pytest.approx([7, 8, 9])
    # The camera's right is (0, 1, 0): the first column.
    assert one.viewmat[0, :3].tolist() == pytest.approx([0, 1, 0])


def test_a_file_need_not_name_fps_and_type(tmp_path: Path) -> None:
    short = {name: value for name, value in content().items() if name not in ("fps", "camera_type")}
    assert read_camera_path(written(tmp_path, short)).fps == 24


def entry_with(**changes: Any) -> list[dict[str, Any]]:
    return [{"camera_to_world": IDENTITY, "fov": 60} | changes]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ([1], "wanted an object with camera_path, got [1]"),
        (content(camera_path=[]), "camera_path: wanted a list of cameras, got []"),
        (content(camera_path=None), "camera_path: wanted a list of cameras, got null"),
        (content(camera_path=[3]), "camera_path[0]: wanted an object, got 3"),
        (content(camera_type="fisheye"), 'camera_type "fisheye"; only perspective'),
        (content(render_width=None), "render_width: wanted a number from 1 to 8192, got null"),
        (content(render_width=10**9), "render_width: wanted a number from 1 to 8192, got 1000000000"),
        (content(render_height=50.5), "render_height: wanted whole pixels, got 50.5"),
        (content(fps=0), "fps: wanted a number from 0.01 to 1000, got 0"),
        (content(camera_path=entry_with(fov="wide")), '[0].fov: wanted a number from 0.1 to 179.9, got "wide"'),
        (content(camera_path=entry_with(fov=float("nan"))), "camera_path[0].fov: wanted a number"),
        (content(camera_path=entry_with(camera_to_world=IDENTITY[:12])), "wanted 16 numbers, got [1, 0,"),
        (content(camera_path=entry_with(camera_to_world=[10**400, *IDENTITY[1:]])), "wanted 16 numbers"),
        (content(camera_path=entry_with(camera_to_world=[float("nan"), *IDENTITY[1:]])), "wanted 16 numbers"),
        (content(camera_path=entry_with(camera_to_world=[2, *IDENTITY[1:]])), "wanted a rotation"),
        (content(camera_path=entry_with(camera_to_world=[-1, *IDENTITY[1:]])), "wanted a rotation"),
        (content(camera_path=entry_with(camera_to_world=[*IDENTITY[:12], 1, 2, 3, 1])), "wanted a rotation"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: Any, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CameraPathError) as caught:
        read_camera_path(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
