"""Rotations, cameras and depth: against formulas written another way."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from gs_lift.errors import ConfigError, pick
from gs_lift.geometry import OPENGL_TO_OPENCV, look_at, quats_to_rotmats, unproject
from gs_lift.scene import Camera

SEED = 3


def test_rotation_matrices_match_scipys_for_quaternions_of_any_length() -> None:
    quats = torch.randn(50, 4, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    expected = Rotation.from_quat(quats[:, [1, 2, 3, 0]].numpy()).as_matrix()
    torch.testing.assert_close(quats_to_rotmats(quats * 3), torch.from_numpy(expected))


def test_look_at_puts_the_target_on_the_optical_axis_and_up_up() -> None:
    position, target = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([0.0, 0.5, 0.0])
    viewmat = look_at(position, target, up=torch.tensor([0.0, 0.0, 1.0]))
    seen = viewmat[:3, :3] @ target + viewmat[:3, 3]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.0, float((target - position).norm())]))
    above = viewmat[:3, :3] @ (target + torch.tensor([0.0, 0.0, 0.1])) + viewmat[:3, 3]
    assert above[1] < 0  # y points down
    assert torch.linalg.det(viewmat) == pytest.approx(1)


def test_opengl_axes_flip_back() -> None:
    assert torch.equal(OPENGL_TO_OPENCV @ OPENGL_TO_OPENCV, torch.eye(4, dtype=torch.float64))


def camera() -> Camera:
    K = torch.tensor([[50.0, 0.0, 20.0], [0.0, 40.0, 15.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    position, target = torch.tensor([1.0, 2.0, 1.5]).double(), torch.zeros(3).double()
    return Camera(K, look_at(position, target, torch.tensor([0.0, 0.0, 1.0]).double()), 40, 30)


def test_an_unprojected_pixel_projects_back_onto_its_centre() -> None:
    one = camera()
    depth = 1 + torch.rand(30, 40, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    points = unproject(depth, one.K, one.viewmat)
    row, column = 7, 31
    seen = one.viewmat[:3, :3] @ points[row, column] + one.viewmat[:3, 3]
    torch.testing.assert_close(seen[2], depth[row, column])
    torch.testing.assert_close((one.K @ seen / seen[2])[:2], torch.tensor([column + 0.5, row + 0.5]).double())


def test_a_resized_camera_sees_the_same_directions() -> None:
    one, half = camera(), camera().resized(20, 10)
    direction = torch.tensor([0.1, -0.2, 1.0], dtype=torch.float64)
    pixel, smaller = one.K @ direction, half.K @ direction
    torch.testing.assert_close(smaller[:2], pixel[:2] * torch.tensor([20 / 40, 10 / 30]).double())
    torch.testing.assert_close(one.cam_to_world[:3, 3], one.position)
    assert math.isclose(float(one.position[1]), 2.0)


def test_pick_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no backend 'cuda'; one of: cpu, gsplat"):
        pick({"gsplat": 1, "cpu": 2}, "cuda", "backend")
