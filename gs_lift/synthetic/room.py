"""A messy room: textured objects put down in a heap, a floor and four walls."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gs_lift.synthetic.dropping import HeightField, Pose, Shape, drop, drop_beside, prepare, rotate
from gs_lift.synthetic.meshes import Mesh, grid, join
from gs_lift.synthetic.shapes import SHAPES, make_shape
from gs_lift.synthetic.textures import object_textures, room_textures

TWIN_SHARE = 0.16
"""Share of the objects that have an identical twin beside them (at least one pair from four objects up)."""

FLOOR_CELL_M = 0.0125
"""Spacing of the floor's vertices, which keep its light: 2 pixels of 256, wider for smaller frames."""


@dataclass(frozen=True)
class Extents:
    """In metres: half the width of heap and room, the walls' height, the objects' least and largest size."""

    heap: float
    room: float
    wall: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Thing:
    """An object: id (from 1), name of its shape, longest side in metres, pose, id of its twin (0 = none)."""

    id: int
    name: str
    size_m: float
    pose: Pose
    twin: int


@dataclass(frozen=True)
class Room:
    """Everything as one mesh in metres, z up, floor at 0.

    owner: object of each face, 0 = the room (a furnished room gives its floor and walls ids, too); texture: which
    of the square textures, bytes, lies on a face.
    room_grids: rows and columns of the vertices of the floor and the walls, which come first.
    """

    mesh: Mesh
    owner: Int[np.ndarray, "F"]
    texture: Int[np.ndarray, "F"]
    textures: list[np.ndarray]
    things: list[Thing]
    room_grids: list[tuple[int, int]]
    extents: Extents


def extents(objects: int) -> Extents:
    """25 objects of 16 to 38 cm lie on 1.5 m x 1.5 m; beyond 100 they are smaller: 500 on 3.4 m x 3.4 m."""
    shrink = min(1.0, max(0.58, (100 / objects) ** 0.34))
    heap = max(0.35, 0.148 * objects**0.5 * shrink**1.25)
    return Extents(heap, max(1.9, heap + 1.05), 2.0, 0.16 * shrink, 0.38 * shrink)


def furnish(objects: int, seed: int, size: int = 256) -> Room:
    """The room of a seed, with all its objects at rest, as fine as frames of `size` pixels need it."""
    rng = np.random.default_rng([seed, 1])
    sizes = extents(objects)
    texels = 128 if objects <= 150 and size > 128 else 64
    things: list[Thing] = []
    meshes: list[Mesh] = []
    slots: list[int] = []
    textures: list[np.ndarray] = []
    field = HeightField(sizes.heap * 1.5 + 0.6)
    for name, twin_wanted in _cast(objects, rng):
        shape = prepare(make_shape(name, rng), float(rng.uniform(sizes.smallest, sizes.largest)))
        poses = _places(field, shape, rng, sizes.heap, twin_wanted)
        first = len(things) + 1
        for index, pose in enumerate(poses):
            twin = (first + 1 - index) if len(poses) == 2 else 0
            size_m = float(np.ptp(shape.mesh.vertices, axis=0).max())
            things.append(Thing(first + index, name, size_m, pose, twin))
            meshes.append(posed(shape.mesh, pose))
            slots.append(5 + len(textures))
        textures += list(object_textures(np.random.default_rng([seed, 2, first]), texels))
    painted = room_textures(np.random.default_rng([seed, 2]), 1024 if size > 128 else 256, 2 * sizes.room)
    return assembled(sizes, floor_cell_m(size), things, meshes, slots, painted + textures)


def floor_cell_m(size: int) -> float:
    """Spacing of the floor's vertices for frames of `size` pixels."""
    return FLOOR_CELL_M * min(4.0, max(1.0, 256 / size))


def assembled(
    sizes: Extents,
    cell_m: float,
    things: list[Thing],
    meshes: list[Mesh],
    slots: list[int],
    textures: list[np.ndarray],
    shell_owners: tuple[int, int] = (0, 0),
) -> Room:
    """The room of `things`, whose posed `meshes` take the textures from `slots` on; 5 of the floor and the walls come
    first. shell_owners: ids of the floor and of the walls."""
    shell = _shell(sizes, cell_m)
    grids = [(side.rows, side.columns) for side in shell]
    mesh = join(*(side.mesh for side in shell), *meshes)
    faces = [len(side.mesh.faces) for side in shell]
    floor, walls = shell_owners
    owner = np.repeat(
        [floor] + [walls] * (len(shell) - 1) + [thing.id for thing in things],
        faces + [len(each.faces) for each in meshes],
    )
    texture = np.concatenate(
        [np.full(count, side) for side, count in enumerate(faces)]
        + [slot + each.part for slot, each in zip(slots, meshes, strict=True)]
    )
    quantised = [(255 * picture.clip(0, 1) + 0.5).astype(np.uint8) for picture in textures]
    return Room(mesh, owner, texture, quantised, things, grids, sizes)


def _cast(objects: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """Shapes by name in the order they are put down, and whether a twin goes with them; twins first."""
    pairs = max(1, round(TWIN_SHARE * objects / 2)) if objects >= 4 else 0
    names: list[str] = []
    while len(names) < objects - pairs:
        names += [list(SHAPES)[index] for index in rng.permutation(len(SHAPES))]
    return [(name, index < pairs) for index, name in enumerate(names[: objects - pairs])]


def _places(
    field: HeightField, shape: Shape, rng: np.random.Generator, half_m: float, twin_wanted: bool
) -> list[Pose]:
    """Where an object comes to rest, and its twin if there is to be one."""
    first = drop(field, shape, rng, half_m)
    if not twin_wanted:
        return [first]
    beside = drop_beside(field, shape, first, rng)
    return [first, drop(field, shape, rng, half_m) if beside is None else beside]


def posed(mesh: Mesh, pose: Pose) -> Mesh:
    return Mesh(
        rotate(mesh.vertices, pose.rotation) + pose.position,
        rotate(mesh.normals, pose.rotation),
        mesh.uv,
        mesh.faces,
        mesh.part,
    )


def object_to_world(thing: Thing) -> list[list[float]]:
    """[4 4] Takes a shape of size 1 to the room."""
    matrix = np.eye(4)
    matrix[:3, :3] = thing.size_m * thing.pose.rotation
    matrix[:3, 3] = thing.pose.position
    rows: list[list[float]] = matrix.tolist()
    return rows


@dataclass(frozen=True)
class _Side:
    mesh: Mesh
    rows: int
    columns: int


def _shell(sizes: Extents, cell_m: float) -> list[_Side]:
    """The floor and the four walls as grids that face inward, each with a texture as wide as the room."""
    half, width = sizes.room, 2 * sizes.room
    sides = []
    cells = int(np.ceil(width / cell_m))
    share = np.linspace(0, 1, cells + 1)
    floor = np.zeros((cells + 1, cells + 1, 3))
    floor[..., 0], floor[..., 1] = np.meshgrid(share * width - half, share * width - half, indexing="ij")
    sides.append(
        _Side(grid(floor, np.stack(np.meshgrid(share, share, indexing="ij"), axis=-1)), cells + 1, cells + 1)
    )
    across, up = np.linspace(0, 1, int(np.ceil(width / (4 * cell_m))) + 1), np.linspace(0, 1, 41)
    for turn in range(4):
        u, v = np.meshgrid(across, up, indexing="ij")
        x, y, z = (u - 0.5) * width, np.full(u.shape, half), v * sizes.wall
        cosine, sine = round(np.cos(turn * np.pi / 2)), round(np.sin(turn * np.pi / 2))
        wall = np.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=-1)
        # The rows of a texture run downward on the wall.
        uv = np.stack([u, (1 - v) * sizes.wall / width], axis=-1)
        sides.append(_Side(grid(wall, uv), len(across), len(up)))
    return sides
