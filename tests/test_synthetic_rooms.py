"""Shapes are closed, things rest without passing through one another, twins lie side by side."""

import itertools

import numpy as np
import pytest
from scipy.spatial import cKDTree

from gs_lift.synthetic.cameras import Pinhole, looking, orbit
from gs_lift.synthetic.dropping import CONTACT_M, HeightField, balances, prepare, resting_rotations, rotate
from gs_lift.synthetic.meshes import Mesh, cuboid, face_vectors, signed_volume
from gs_lift.synthetic.room import Room, extents, furnish, posed
from gs_lift.synthetic.shapes import FURNITURE, SHAPES, make_shape
from gs_lift.synthetic.textures import PATTERNS, object_textures


def winding_number(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """How often a mesh goes around each point: the solid angles of its faces (Van Oosterom and Strackee 1983)."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]][None] - points[:, None] for corner in range(3))
    la, lb, lc = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
    volume = (a * np.cross(b, c)).sum(axis=-1)
    dots = [(a * b).sum(axis=-1) * lc, (b * c).sum(axis=-1) * la, (c * a).sum(axis=-1) * lb]
    return np.arctan2(volume, la * lb * lc + sum(dots)).sum(axis=1) / (2 * np.pi)


def surface_points(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over a mesh, and the outward normals there."""
    across = face_vectors(mesh.vertices, mesh.faces)
    area = np.linalg.norm(across, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    weights = rng.dirichlet([1, 1, 1], count)
    points = (mesh.vertices[mesh.faces[face]] * weights[..., None]).sum(axis=1)
    return points, across[face] / area[face, None]


@pytest.fixture(scope="module")
def room() -> Room:
    return furnish(8, seed=5, size=48)


@pytest.fixture(scope="module")
def bodies(room: Room) -> list[Mesh]:
    """Each object's own mesh in the room."""
    return [
        Mesh(room.mesh.vertices, room.mesh.normals, room.mesh.uv, faces, np.zeros(len(faces), dtype=int))
        for faces in (room.mesh.faces[room.owner == thing.id] for thing in room.things)
    ]


def test_there_are_at_least_ten_shapes() -> None:
    assert len(SHAPES) >= 10


@pytest.mark.parametrize("name", SHAPES | FURNITURE)
def test_a_shape_is_closed_and_turned_outward(name: str) -> None:
    mesh = make_shape(name, np.random.default_rng(0))
    around = winding_number(mesh, np.random.default_rng(1).uniform(-0.6, 0.6, (60, 3)))
    assert np.abs(around - around.round()).max() < 1e-6
    assert around.min() > -1e-6
    assert signed_volume(mesh) > 0
    # Normals at the corners agree with the faces.
    normals = mesh.normals[mesh.faces].sum(axis=1)
    assert ((normals * face_vectors(mesh.vertices, mesh.faces)).sum(axis=1) > 0).all()


@pytest.mark.parametrize("name", SHAPES | FURNITURE)
def test_a_shape_is_centred_with_a_longest_side_of_1(name: str) -> None:
    vertices = make_shape(name, np.random.default_rng(2)).vertices
    assert vertices.min(axis=0) == pytest.approx(-vertices.max(axis=0))
    assert np.ptp(vertices, axis=0).max() == pytest.approx(1)


def test_the_seed_draws_the_proportions() -> None:
    one, same, other = (make_shape("mug", np.random.default_rng(seed)).vertices for seed in (0, 0, 1))
    assert (one == same).all()
    assert not np.array_equal(one, other)


def test_a_box_rests_on_each_of_its_six_sides() -> None:
    rests, likelihood = resting_rotations(cuboid([0.3, 0.2, 0.1]).vertices, np.zeros(3))
    down = {tuple(np.round(rotation.T @ [0, 0, -1]).astype(int)) for rotation in rests}
    assert len(down) == 6
    assert likelihood.sum() == pytest.approx(1)
    assert likelihood[0] > 0.5  # the upright pose comes first


def test_a_body_balances_over_the_hull_of_its_feet_only() -> None:
    feet = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert balances(feet, np.array([0.3, 0.3]))
    assert not balances(feet, np.array([0.6, 0.6]))
    assert not balances(feet[:2], np.array([0.5, 0.0]))


def test_the_height_field_stops_a_box_on_a_box() -> None:
    shape = prepare(cuboid([0.2, 0.2, 0.1]), 1.0)
    field = HeightField(0.5)
    underside = field.underside(shape, np.eye(3))
    here, aside = np.array([0, 0]), np.array([60, 0])  # 60 cells of 4 mm are 24 cm
    micrometre = 1e-6  # Embree's rays are single precision
    assert field.rest_height(underside, here) == pytest.approx(0.05, abs=micrometre)
    field.put(shape, np.eye(3), here, 0.05)
    assert field.rest_height(underside, here) == pytest.approx(0.15, abs=micrometre)
    assert field.rest_height(underside, aside) == pytest.approx(0.05, abs=micrometre)
    assert field.rest_height(underside, np.array([200, 0])) is None


def test_nothing_passes_through_anything(bodies: list[Mesh]) -> None:
    rng = np.random.default_rng(0)
    for index, body in enumerate(bodies):
        points, normals = surface_points(body, 400, rng)
        skin = points - 0.0015 * normals  # what touches may share a millimetre
        assert skin[:, 2].min() > -0.0015
        for other, mesh in enumerate(bodies):
            corners = mesh.vertices[mesh.faces].reshape(-1, 3)
            near = ((skin > corners.min(axis=0)) & (skin < corners.max(axis=0))).all(axis=1)
            if other != index and near.any():
                assert winding_number(mesh, skin[near]).max() < 0.5, (index + 1, other + 1)


def test_everything_rests_on_something(room: Room, bodies: list[Mesh]) -> None:
    rng = np.random.default_rng(0)
    clouds = [surface_points(body, 5000, rng)[0] for body in bodies]
    for index, cloud in enumerate(clouds):
        floor_gap = cloud[:, 2].min()
        others = cKDTree(np.concatenate(clouds[:index] + clouds[index + 1 :]))
        gap = min(floor_gap, others.query(cloud)[0].min())
        # The field is exact on level contacts, and a cell's width times the slope off on others.
        assert gap < 0.006 + CONTACT_M, room.things[index].name


def test_twins_are_the_same_body_side_by_side(room: Room) -> None:
    pairs = [thing for thing in room.things if thing.twin > thing.id]
    assert pairs
    for thing in pairs:
        twin = room.things[thing.twin - 1]
        assert twin.twin == thing.id
        assert (twin.name, twin.size_m) == (thing.name, thing.size_m)
        ours, theirs = (np.unique(room.texture[room.owner == each.id]) for each in (thing, twin))
        assert (ours == theirs).all()
        assert np.hypot(*(twin.pose.position - thing.pose.position)[:2]) < 2 * thing.size_m


def test_a_room_has_the_objects_asked_for() -> None:
    room = furnish(1, seed=0, size=16)
    assert [thing.id for thing in room.things] == [1]
    assert room.things[0].twin == 0
    assert set(np.unique(room.owner)) == {0, 1}


def test_more_objects_get_a_larger_room() -> None:
    sizes = [extents(count) for count in (25, 50, 100, 500)]
    assert all(
        small.heap < large.heap and small.room <= large.room for small, large in itertools.pairwise(sizes)
    )
    assert sizes[0].largest == 0.38
    assert sizes[3].largest < 0.38


@pytest.mark.parametrize("count", [25, 500])
def test_cameras_stand_in_the_room_and_look_down_at_the_heap(count: int) -> None:
    sizes = extents(count)
    for camera in orbit(60, 256, sizes, seed=1):
        assert np.abs(camera.position[:2]).max() < sizes.room
        assert camera.position[2] > 0.5
        aim = camera.position - camera.rotation[:, 2] * camera.position[2] / camera.rotation[2, 2]
        assert np.abs(aim[:2]).max() < sizes.heap + 0.3


def test_a_quaternion_is_its_rotation() -> None:
    rng = np.random.default_rng(0)
    for position in rng.standard_normal((20, 3)) * [1, 1, 0.3]:
        camera = looking(position, np.zeros(3), 16)
        w, *xyz = camera.quaternion()
        x = np.array(xyz)
        for column, axis in zip((camera.rotation * [1, -1, -1]).T, np.eye(3), strict=True):
            turned = axis + 2 * np.cross(x, np.cross(x, axis) + w * axis)
            assert turned == pytest.approx(column)


def test_unproject_inverts_directions() -> None:
    camera: Pinhole = looking(np.array([1.0, 2.0, 1.5]), np.zeros(3), 16)
    points = camera.unproject(np.full((16, 16), 2.0))
    assert (points - camera.position) @ camera.rotation[:, 2] == pytest.approx(np.full((16, 16), 2.0))
    assert points[8, 8] - camera.position == pytest.approx(
        2 * camera.directions(np.array([8.5]), np.array([8.5]))[0]
    )


def test_a_posed_mesh_keeps_its_shape() -> None:
    mesh = make_shape("box", np.random.default_rng(0))
    room = furnish(1, seed=0, size=16)
    moved = posed(mesh, room.things[0].pose)
    assert signed_volume(moved) == pytest.approx(signed_volume(mesh))
    assert np.linalg.norm(moved.normals, axis=1) == pytest.approx(np.ones(len(moved.normals)))
    assert pytest.approx(room.things[0].pose.rotation) == rotate(np.eye(3), room.things[0].pose.rotation).T


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_a_picture_in_0_to_1(name: str) -> None:
    picture = PATTERNS[name](np.random.default_rng(0), 32)
    assert picture.shape == (32, 32, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_textures_hold_nothing_finer_than_two_texels() -> None:
    # Half the signal's step from texel to texel would be aliased at half a pixel per texel.
    for seed in range(5):
        for picture in object_textures(np.random.default_rng(seed), 64):
            spectrum = np.abs(np.fft.fft2(picture.mean(axis=-1))) ** 2
            spectrum[0, 0] = 0
            frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
            assert spectrum[frequency > 0.4].sum() < 0.005 * spectrum.sum()
