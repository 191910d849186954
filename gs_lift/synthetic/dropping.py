"""Objects put down on a height field, so that they rest on the floor and on each other without overlap.

The field holds the highest z reached so far over each cell of a square grid on the floor. A posed object
comes down vertically until its underside meets the field; both are bounds over whole cells, so what lies
between cannot touch. It stays where it would balance: its centre of mass over the hull of its contacts. Where
it would topple it is turned about the contact nearest to its centre of mass, a little at a time, until it
leans on something (no dynamics).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull

from gs_lift.synthetic.meshes import Mesh
from gs_lift.synthetic.raytracing import Tracer

CONTACT_M = 0.0025
"""What hangs less than this above the field counts as touching it."""


@dataclass(frozen=True)
class Pose:
    """Object to world: rotation [3 3], then the centre's position in metres."""

    rotation: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Shape:
    """A mesh in metres, ready to be dropped.

    rests: rotations that stand on a plane, the most upright one first; likelihood: of each when thrown.
    """

    mesh: Mesh
    tracer: Tracer
    center_of_mass: Float[np.ndarray, "3"]
    rests: Float[np.ndarray, "R 3 3"]
    likelihood: Float[np.ndarray, "R"]


@dataclass(frozen=True)
class Relief:
    """The underside or the top of a posed object over cells, relative to its position, and the first cell."""

    heights: Float[np.ndarray, "X Y"]
    start: Int[np.ndarray, "2"]


def prepare(mesh: Mesh, size_m: float) -> Shape:
    """The mesh scaled from size 1 to `size_m`, with its resting rotations."""
    mesh = Mesh(mesh.vertices * size_m, mesh.normals, mesh.uv, mesh.faces, mesh.part)
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    volume = np.sum(a * np.cross(b, c), axis=1)
    center = ((a + b + c) * volume[:, None]).sum(axis=0) / (4 * volume.sum())
    rests, likelihood = resting_rotations(mesh.vertices, center)
    return Shape(mesh, Tracer(mesh.vertices, mesh.faces), center, rests, likelihood)


def resting_rotations(
    vertices: Float[np.ndarray, "V 3"], center: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "R 3 3"], Float[np.ndarray, "R"]]:
    """Rotations that lay a facet of the convex hull on the floor under the centre of mass; their likelihood.

    Likelihood: the facet's area; half of it all goes to the upright pose, because people put things down.
    """
    hull = ConvexHull(vertices)
    areas = 0.5 * np.linalg.norm(
        np.cross(
            vertices[hull.simplices[:, 1]] - vertices[hull.simplices[:, 0]],
            vertices[hull.simplices[:, 2]] - vertices[hull.simplices[:, 0]],
        ),
        axis=1,
    )
    facets: dict[tuple[float, ...], float] = {}
    for normal, area in zip(np.round(hull.equations[:, :3], 3) + 0.0, areas, strict=True):
        facets[tuple(normal)] = facets.get(tuple(normal), 0.0) + area
    rests, likelihood = [], []
    for normal, area in facets.items():
        rotation = turning(np.array(normal), np.array([0.0, 0.0, -1.0]))
        posed = rotate(vertices, rotation)
        feet = posed[posed[:, 2] < posed[:, 2].min() + 1e-3, :2]
        if balances(feet, rotate(center, rotation)[:2], margin=0.004):
            rests.append(rotation)
            likelihood.append(area)
    order = sorted(range(len(rests)), key=lambda index: -rests[index][2, 2])
    shares = np.array([likelihood[index] for index in order])
    shares /= shares.sum()
    if rests[order[0]][2, 2] > 0.999:
        shares = 0.5 * shares
        shares[0] += 0.5
    return np.stack([rests[index] for index in order]), shares


def turning(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation that takes the direction `start` to `end`."""
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis, cosine = np.cross(start, end), float(start @ end)
    if cosine < -0.999999:
        return np.diag([1.0, -1.0, -1.0])  # only z is ever turned over
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def about(axis: Float[np.ndarray, "3"], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation by `angle` radians about a unit axis (Rodrigues)."""
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def rotate(
    points: Float[np.ndarray, "*N 3"], rotation: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*N 3"]:
    """Every point turned; written out, since a threaded matrix product may round differently."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in rotation], axis=-1)


def balances(feet: Float[np.ndarray, "P 2"], center: Float[np.ndarray, "2"], margin: float = 0.0) -> bool:
    """Whether `center` lies in the hull of the points `feet`, at least about `margin` from its rim."""
    away = feet - center
    reach = np.hypot(away[:, 0], away[:, 1])
    near = reach < 1e-6
    angle = np.sort(np.arctan2(away[~near, 1], away[~near, 0]))
    if len(angle) < 3:
        return False
    gaps = np.diff(np.append(angle, angle[0] + 2 * np.pi))
    if gaps.max() >= np.pi:
        return False
    if not margin:
        return True
    ring = margin * np.stack([np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)], axis=1)
    return all(balances(feet, center + offset) for offset in ring)


class HeightField:
    """Highest z over each cell of a square grid around the origin."""

    def __init__(self, half_m: float, cell_m: float = 0.004):
        self.cell_m = cell_m
        self.count = 2 * int(np.ceil(half_m / cell_m))
        self.heights = np.zeros((self.count, self.count))

    def underside(self, shape: Shape, rotation: Float[np.ndarray, "3 3"]) -> Relief:
        """The least height of the object over each cell, infinite where it is not."""
        return self._relief(shape, rotation, 1.0)

    def top(self, shape: Shape, rotation: Float[np.ndarray, "3 3"]) -> Relief:
        """The greatest height of the object over each cell, minus infinity where it is not."""
        return self._relief(shape, rotation, -1.0)

    def _relief(self, shape: Shape, rotation: Float[np.ndarray, "3 3"], upward: float) -> Relief:
        """Bounds from rays at the cells' corners, edges and centres and from the vertices in them."""
        vertices = rotate(shape.mesh.vertices, rotation)
        start = np.floor(vertices[:, :2].min(axis=0) / self.cell_m).astype(int) - 1
        end = np.floor(vertices[:, :2].max(axis=0) / self.cell_m).astype(int) + 2
        nodes = [
            np.arange(2 * (b - a) + 1) * self.cell_m / 2 + a * self.cell_m
            for a, b in zip(start, end, strict=True)
        ]
        x, y = np.meshgrid(*nodes, indexing="ij")
        reach = 1 + np.abs(vertices[:, 2]).max()
        first = np.minimum if upward > 0 else np.maximum
        heights = _over_cells(_heights(shape, rotation, x, y, -upward * reach, upward), first)
        first.at(
            heights, tuple((np.floor(vertices[:, :2] / self.cell_m).astype(int) - start).T), vertices[:, 2]
        )
        return Relief(heights, start)

    def _window(self, relief: Relief, cell: Int[np.ndarray, "2"]) -> tuple[slice, slice] | None:
        start = relief.start + cell + self.count // 2
        end = start + relief.heights.shape
        if (start < 0).any() or (end > self.count).any():
            return None
        return slice(start[0], end[0]), slice(start[1], end[1])

    def rest_height(self, underside: Relief, cell: Int[np.ndarray, "2"]) -> float | None:
        """The z at which the object, coming down over `cell`, meets the field; None outside the grid."""
        window = self._window(underside, cell)
        return None if window is None else float((self.heights[window] - underside.heights).max())

    def is_free(self, underside: Relief, cell: Int[np.ndarray, "2"], gap_m: float) -> bool:
        """Whether the floor is bare under the object's square over `cell` and within `gap_m` of it."""
        gap = round(gap_m / self.cell_m)
        start = underside.start + cell + self.count // 2
        end = start + underside.heights.shape
        if (start < gap).any() or (end > self.count - gap).any():
            return False
        return not self.heights[start[0] - gap : end[0] + gap, start[1] - gap : end[1] + gap].any()

    def contacts(self, underside: Relief, cell: Int[np.ndarray, "2"], z: float) -> Float[np.ndarray, "P 2"]:
        """Centres of the cells where the object at height z touches, relative to its position."""
        window = self._window(underside, cell)
        assert window is not None, "rest_height was None"
        touching = np.argwhere(underside.heights + z - self.heights[window] < CONTACT_M)
        return (touching + underside.start + 0.5) * self.cell_m

    def put(
        self, shape: Shape, rotation: Float[np.ndarray, "3 3"], cell: Int[np.ndarray, "2"], z: float
    ) -> Pose:
        """Raise the field to the object that rests over `cell` at height z."""
        top = self.top(shape, rotation)
        window = self._window(top, cell)
        assert window is not None, "rest_height was None"
        self.heights[window] = np.maximum(self.heights[window], top.heights + z)
        return Pose(rotation, np.array([*(cell * self.cell_m), z]))


def _heights(
    shape: Shape, rotation: Float[np.ndarray, "3 3"], x: np.ndarray, y: np.ndarray, z: float, direction: float
) -> Float[np.ndarray, "X Y"]:
    """Where vertical rays from height z first meet the rotated object; infinitely far where they miss."""
    origins = np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1)
    rays = np.broadcast_to(rotation[2] * direction, origins.shape)
    distance = shape.tracer.distances(rotate(origins, rotation.T), rays)
    return (z + direction * distance).reshape(x.shape)


def _over_cells(nodes: Float[np.ndarray, "U V"], least: np.ufunc) -> Float[np.ndarray, "X Y"]:
    """The least (or greatest) of the 3 x 3 nodes on each cell; a miss is infinite and never wins."""
    rows = least(least(nodes[:-1:2], nodes[1::2]), nodes[2::2])
    return least(least(rows[:, :-1:2], rows[:, 1::2]), rows[:, 2::2])


def settle(
    field: HeightField,
    shape: Shape,
    rotation: Float[np.ndarray, "3 3"],
    cell: Int[np.ndarray, "2"],
    turns: int = 24,
) -> tuple[Float[np.ndarray, "3 3"], float, float] | None:
    """Rotation, height and lowest point of the object where, put down over `cell`, it balances.

    None if it finds no such pose or leaves the grid.
    """
    step = np.radians(6.0)
    last_axis = None
    for _ in range(turns):
        underside = field.underside(shape, rotation)
        z = field.rest_height(underside, cell)
        if z is None:
            return None
        feet = field.contacts(underside, cell, z)
        center = rotate(shape.center_of_mass, rotation)[:2]
        if balances(feet, center):
            return rotation, z, z + float(underside.heights.min())
        pivot = feet[np.argmin(np.hypot(*(feet - center).T))]
        outward = center - pivot
        if np.hypot(*outward) < 1e-6:
            return None
        axis = np.array([-outward[1], outward[0], 0.0]) / np.hypot(*outward)
        if last_axis is not None and axis @ last_axis < 0:
            step /= 2  # it rocks between two contacts: approach the pose that touches both
        last_axis = axis
        rotation = about(axis, step) @ rotation
    return None


def drop(field: HeightField, shape: Shape, rng: np.random.Generator, half_m: float, tries: int = 12) -> Pose:
    """Put the object down in a square of half width `half_m`, near the middle rather than at the rim.

    It takes the lowest of a few places where it balances; where there is none, the first free place on a spiral.
    """
    best: tuple[float, Float[np.ndarray, "3 3"], Int[np.ndarray, "2"], float] | None = None
    for _ in range(tries):
        yaw = about(np.array([0.0, 0.0, 1.0]), rng.uniform(0, 2 * np.pi))
        rotation = yaw @ shape.rests[rng.choice(len(shape.rests), p=shape.likelihood)]
        spot_m = (rng.uniform(-1, 1, 2) + rng.uniform(-1, 1, 2)) / 2 * half_m * 1.35
        cell = np.round(spot_m / field.cell_m).astype(int)
        settled = settle(field, shape, rotation, cell)
        if settled is None:
            continue
        rotation, z, lowest = settled
        if best is None or lowest < best[0]:
            best = lowest, rotation, cell, z
        if best[0] < rng.uniform(0.0, 0.25):
            break
    if best is None:
        return _put_aside(field, shape, rng, half_m)
    return field.put(shape, *best[1:])


def _put_aside(field: HeightField, shape: Shape, rng: np.random.Generator, half_m: float) -> Pose:
    """Put the object on the floor beside the others, or where it lies lowest if there is no room."""
    rotation = shape.rests[0]
    underside = field.underside(shape, rotation)
    floor = -float(underside.heights.min())
    lowest: tuple[float, Int[np.ndarray, "2"]] | None = None
    for cell in _spiral(0.3 * half_m / field.cell_m, field.count / 2, rng):
        z = field.rest_height(underside, cell)
        if z is not None and (lowest is None or z < lowest[0]):
            lowest = z, cell
            if z <= floor + 1e-9:
                break
    assert lowest is not None, "the field is wider than any object"
    return field.put(shape, rotation, lowest[1], lowest[0])


def _spiral(inner: float, outer: float, rng: np.random.Generator) -> Iterator[Int[np.ndarray, "2"]]:
    """Cells on a sunflower's spiral (turning by the golden angle)."""
    start = rng.uniform(0, 2 * np.pi)
    for index in range(4000):
        angle, reach = start + index * 2.399963, inner + (outer - inner) * index / 4000
        yield np.round(reach * np.array([np.cos(angle), np.sin(angle)])).astype(int)


def drop_beside(field: HeightField, shape: Shape, pose: Pose, rng: np.random.Generator) -> Pose | None:
    """Put a twin beside an object that rests at `pose`, turned like it; None if there is no room."""
    underside = field.underside(shape, pose.rotation)
    start = rng.uniform(0, 2 * np.pi)
    cell = np.round(pose.position[:2] / field.cell_m).astype(int)
    solid = np.argwhere(np.isfinite(underside.heights))
    for angle in start + np.arange(12) * np.pi / 6:
        direction = np.array([np.cos(angle), np.sin(angle)])
        width = np.ptp(solid[:, 0] * direction[0] + solid[:, 1] * direction[1])
        for reach in np.arange(0.5 * width, width + 4):
            beside = cell + np.round(reach * direction).astype(int)
            z = field.rest_height(underside, beside)
            if z is None:
                break
            if z <= pose.position[2] + 1e-9:
                return field.put(shape, pose.rotation, beside, z)
    return None


def stand(
    field: HeightField, shape: Shape, rng: np.random.Generator, half_m: float, gap_m: float = 0.1
) -> Pose:
    """Stand the object upright on bare floor, anywhere in a square of half width `half_m`, nearly square with the room.

    Where no place with a gap of `gap_m` is found, on the floor beside the others.
    """
    for _ in range(4):
        rotation = _quarter_turn(rng) @ shape.rests[0]
        underside = field.underside(shape, rotation)
        for spot_m in rng.uniform(-half_m, half_m, (40, 2)):
            cell = np.round(spot_m / field.cell_m).astype(int)
            if field.is_free(underside, cell, gap_m):
                return field.put(shape, rotation, cell, -float(underside.heights.min()))
    return _put_aside(field, shape, rng, half_m)


def stand_on(
    field: HeightField, shape: Shape, rng: np.random.Generator, base: Pose, reach_m: float, top_m: float
) -> Pose | None:
    """Stand the object upright on the level top of another one, near its middle; None if it finds no place there."""
    for _ in range(8):
        rotation = about(np.array([0.0, 0.0, 1.0]), rng.uniform(0, 2 * np.pi)) @ shape.rests[0]
        cell = np.round((base.position[:2] + rng.uniform(-reach_m, reach_m, 2)) / field.cell_m).astype(int)
        settled = settle(field, shape, rotation, cell, turns=1)
        if settled is not None and abs(settled[2] - top_m) < CONTACT_M:
            return field.put(shape, rotation, cell, settled[1])
    return None


def _quarter_turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A turn about z to one of four sides, a few degrees off."""
    return about(
        np.array([0.0, 0.0, 1.0]), rng.integers(4) * np.pi / 2 + np.radians(7) * rng.standard_normal()
    )
