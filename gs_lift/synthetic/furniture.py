"""A furnished room: chairs, tables, beds, lamps and bags that stand upright, a floor and four walls.

Ids as a panoptic segmenter would have them to tell apart: the objects from 1, then the floor, then the walls.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gs_lift.synthetic.dropping import HeightField, Pose, Shape, prepare, stand, stand_on
from gs_lift.synthetic.meshes import Mesh
from gs_lift.synthetic.room import Extents, Room, Thing, assembled, floor_cell_m, posed
from gs_lift.synthetic.shapes import make_shape
from gs_lift.synthetic.textures import object_textures, room_textures

CLASSES = (
    "void", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "counter", "shelves",
    "curtain", "ceiling", "refridgerator", "television", "person", "toilet", "sink", "lamp", "bag", "otherprop",
)  # fmt: skip
"""The reduced classes of ScanNet as Panoptic Lifting numbers (and spells) them."""

THINGS = frozenset({4, 5, 6, 14, 15, 16, 17, 18, 20})
"""Classes whose objects are told apart; a lamp or a table is not."""

WALL, FLOOR = CLASSES.index("wall"), CLASSES.index("floor")


@dataclass(frozen=True)
class Kind:
    """A piece of furniture: least and most metres of its longest side; the floor it takes, in squares of that side."""

    least_m: float
    most_m: float
    takes: float


KINDS = {
    "bed": Kind(1.9, 2.1, 0.65),
    "table": Kind(1.2, 1.6, 0.6),
    "chair": Kind(0.85, 0.98, 0.28),
    "lamp": Kind(1.45, 1.65, 0.08),
    "bag": Kind(0.34, 0.48, 0.4),
}
"""By the names of their shapes and classes, in the order in which they are put down: large ones first."""

ORDER = ("chair", "table", "bag", "bed", "lamp", "chair", "chair", "bag", "chair", "lamp")
"""What ten objects are; fewer are the first of them."""

FILLED = 0.36
"""Share of the furnished square that is wanted under furniture."""

ON_TABLE = 0.35
"""Chance that a bag stands on a table."""

CELL_M = 0.01
"""Of the height field; furniture needs it less fine than small objects that lie on each other."""

AISLE_M = 1.0
"""Between furniture and walls, where the cameras are."""

WALL_M = 2.8


def furnished_room(objects: int, seed: int, size: int = 256) -> Room:
    """The room of a seed, as fine as frames of `size` pixels need it. Every second chair is the twin of another."""
    rng = np.random.default_rng([seed, 1])
    texels = 128 if objects <= 150 and size > 128 else 64
    half = _half_m(objects)
    field = HeightField(1.3 * half + 3.0, CELL_M)
    things: list[Thing] = []
    meshes: list[Mesh] = []
    slots: list[int] = []
    textures: list[np.ndarray] = []
    for name, twin in _cast(objects):
        if not twin:
            kind = KINDS[name]
            shape = prepare(make_shape(name, rng), float(rng.uniform(kind.least_m, kind.most_m)))
            textures += list(object_textures(np.random.default_rng([seed, 2, len(things) + 1]), texels))
        tables = [thing for thing in things if thing.name == "table"]
        pose = _place(field, shape, rng, half, tables if name == "bag" else [])
        things.append(Thing(len(things) + 1, name, _longest_m(shape.mesh), pose, len(things) if twin else 0))
        if twin:
            first = things[-2]
            things[-2] = Thing(first.id, first.name, first.size_m, first.pose, things[-1].id)
        meshes.append(posed(shape.mesh, pose))
        slots.append(5 + len(textures) - 3)
    reach = max(float(np.abs(mesh.vertices[:, :2]).max()) for mesh in meshes)
    sizes = Extents(reach, reach + AISLE_M, WALL_M, 0.34, 2.1)
    painted = room_textures(np.random.default_rng([seed, 2]), 1024 if size > 128 else 256, 2 * sizes.room)
    # Seen from twice as far as a heap; a room for hundreds of pieces has no more vertices than others.
    cell_m = max(2 * floor_cell_m(size), sizes.room / 250)
    shell = (len(things) + 1, len(things) + 2)
    return assembled(sizes, cell_m, things, meshes, slots, painted + textures, shell)


def classes_of_ids(room: Room) -> Int[np.ndarray, "K"]:
    """The class of each id of a furnished room: 0 void (nothing), the objects, the floor, the walls."""
    return np.array([0, *(CLASSES.index(thing.name) for thing in room.things), FLOOR, WALL])


def _cast(objects: int) -> list[tuple[str, bool]]:
    """Shapes by name in the order they are put down, and whether it is a twin of the one before."""
    names = [ORDER[index % len(ORDER)] for index in range(objects)]
    return [
        (name, name == "chair" and index % 2 == 1) for name in KINDS for index in range(names.count(name))
    ]


def _half_m(objects: int) -> float:
    """Half the width of the square on which so much furniture stands, none of it smaller than a metre."""
    area = sum(KINDS[name].takes * KINDS[name].most_m ** 2 for name, _ in _cast(objects))
    return max(0.9, 0.5 * float(np.sqrt(area / FILLED)))


def _place(
    field: HeightField, shape: Shape, rng: np.random.Generator, half_m: float, tables: list[Thing]
) -> Pose:
    """Where a piece stands: on one of `tables` by chance, else on the floor."""
    if tables and rng.random() < ON_TABLE:
        table = tables[int(rng.integers(len(tables)))]
        top_m = 2 * table.pose.position[2]  # shapes are centred on their bounding box
        on_top = stand_on(field, shape, rng, table.pose, 0.15 * table.size_m, float(top_m))
        if on_top is not None:
            return on_top
    return stand(field, shape, rng, half_m)


def _longest_m(mesh: Mesh) -> float:
    return float(np.ptp(mesh.vertices, axis=0).max())
