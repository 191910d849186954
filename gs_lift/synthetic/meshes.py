"""Triangle meshes made from grids of points: boxes, solids of revolution, pipes, prisms.

All are closed: unions of closed surfaces whose faces turn outward. Each face belongs to a part (0 body, 1 second
surface, 2 accent), which gets a texture of its own later; uv runs over a texture once per unit, so it measures
lengths on the surface of a shape of size 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Points = Float[np.ndarray, "V 3"]
Profile = Sequence[tuple[float, float]]

SPACING = 0.055
"""Longest edge wanted on a shape of size 1: light is kept at the vertices, every 1.5 cm on a 27 cm object."""

SEGMENTS = 40
"""Corners of what ought to be a circle."""

PARTS = 3
"""Textures of an object."""


@dataclass(frozen=True)
class Mesh:
    """Vertices with outward unit normals and uv (1 = a texture); faces as vertex ids, with their parts."""

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "V 2"]
    faces: Int[np.ndarray, "F 3"]
    part: Int[np.ndarray, "F"]


def grid(
    points: Float[np.ndarray, "U V 3"], uv: Float[np.ndarray, "U V 2"], part: int = 0, *, wraps: bool = False
) -> Mesh:
    """The surface through a grid of points, its front toward dU x dV. `wraps`: the last row is the first."""
    rows, columns = points.shape[:2]
    ids = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = ids[:-1, :-1].ravel(), ids[1:, :-1].ravel(), ids[1:, 1:].ravel(), ids[:-1, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    vertices = points.reshape(-1, 3)
    cross = face_vectors(vertices, faces)
    keep = np.linalg.norm(cross, axis=1) > 1e-10  # a pole makes triangles without area
    faces, cross = faces[keep], cross[keep]
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], cross)
    if wraps:
        seam = normals[ids[0]] + normals[ids[-1]]
        normals[ids[0]] = normals[ids[-1]] = seam
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    return Mesh(vertices, normals, uv.reshape(-1, 2), faces, np.full(len(faces), part))


def face_vectors(vertices: Points, faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3"]:
    """Each face's normal, as long as twice its area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def join(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]),
        np.concatenate([mesh.part for mesh in meshes]),
    )


def normalised(mesh: Mesh) -> Mesh:
    """Moved and scaled so that the bounding box is centred on 0 with a longest side of 1."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    size = (high - low).max()
    return Mesh((mesh.vertices - (low + high) / 2) / size, mesh.normals, mesh.uv, mesh.faces, mesh.part)


def moved(mesh: Mesh, offset: Sequence[float]) -> Mesh:
    return Mesh(mesh.vertices + np.asarray(offset), mesh.normals, mesh.uv, mesh.faces, mesh.part)


def steps(low: float, high: float, spacing: float = SPACING) -> Float[np.ndarray, "K"]:
    return np.linspace(low, high, max(2, 1 + int(np.ceil((high - low) / spacing - 1e-9))))


def cuboid(size: Sequence[float], *, radius: float = 0.0, parts: Sequence[int] = (0,) * 6) -> Mesh:
    """A box centred on 0 with edges rounded by `radius`; parts of -x +x -y +y -z +z."""
    half = np.asarray(size, dtype=np.float64) / 2
    sides = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            along_u, along_v = (_ruler(half[k], radius) for k in (u, v))
            points = np.empty((len(along_u), len(along_v), 3))
            points[..., axis] = sign * half[axis]
            points[..., u], points[..., v] = np.meshgrid(along_u, along_v, indexing="ij")
            uv = points[..., [u, v]] + [
                0.37 * axis,
                0.21 * sign,
            ]  # so that the sides show other parts of the texture
            if axis == 0:
                uv = uv[..., ::-1]  # keeps z the texture's second axis on all four walls
            if radius:
                core = points.clip(-half + radius, half - radius)
                away = points - core
                points = core + radius * away / np.linalg.norm(away, axis=-1, keepdims=True)
            if sign < 0:
                points, uv = points[:, ::-1], uv[:, ::-1]
            sides.append(grid(points, uv, parts[2 * axis + (sign > 0)]))
    return join(*sides)


def _ruler(half: float, radius: float) -> Float[np.ndarray, "K"]:
    if not radius:
        return steps(-half, half)
    bend = half - radius * (1 - np.tan(np.linspace(0, np.pi / 4, 4)))  # even angles on the rounding
    return np.concatenate([-bend[:0:-1], steps(-half + radius, half - radius), bend[1:]])


def revolved(*pieces: tuple[int, Profile]) -> Mesh:
    """A solid of revolution about z. A piece is a part and a smooth run of (radius, z), with edges between.

    The runs follow one another up the outside and, if hollow, down the inside, so that the left of them is
    solid.
    """
    widest = max(radius for _, profile in pieces for radius, _ in profile)
    turns = max(1, round(2 * np.pi * widest))
    angle = np.linspace(0, 2 * np.pi, SEGMENTS + 1)
    sides, length = [], 0.0
    for part, profile in pieces:
        radius, z = _refined(np.asarray(profile, dtype=np.float64)).T
        run = length + np.concatenate([[0], np.cumsum(np.hypot(np.diff(radius), np.diff(z)))])
        length = run[-1]
        points = np.stack(
            [
                np.cos(angle)[:, None] * radius,
                np.sin(angle)[:, None] * radius,
                np.broadcast_to(z, (len(angle), len(z))),
            ],
            axis=-1,
        )
        points[-1] = points[0]
        if np.ptp(z) < 1e-9:  # a disc or a rim: its texture is laid flat on it
            uv = points[..., :2] + 0.5
        else:
            uv = np.stack(np.broadcast_arrays(angle[:, None] / (2 * np.pi) * turns, run), axis=-1)
        sides.append(grid(points, uv, part, wraps=True))
    return join(*sides)


def _refined(profile: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "Q 2"]:
    """The same run with no step longer than SPACING."""
    pieces = [profile[:1]]
    for start, end in itertools.pairwise(profile):
        count = max(1, int(np.ceil(np.linalg.norm(end - start) / SPACING - 1e-9)))
        pieces.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(pieces)


def arc(radius: float, height: float, start: float, end: float, count: int = 12) -> list[tuple[float, float]]:
    """Points (radius cos t, height sin t) for t from start to end, in degrees."""
    angle = np.radians(np.linspace(start, end, count))
    return [(max(0.0, radius * np.cos(t)), height * np.sin(t)) for t in angle]


def tube(path: Float[np.ndarray, "K 3"], radius: float, part: int = 0, *, corners: int = 12) -> Mesh:
    """A closed pipe along a path in a plane x = constant or y = constant (no twist), with flat ends."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along[0], along[-1] if len(path) > 2 else [0, 0, 1])
    if np.linalg.norm(side) < 1e-6:
        side = np.cross(along[0], [0, 0, 1] if abs(along[0][2]) < 0.9 else [1, 0, 0])
    side = side / np.linalg.norm(side)
    up = np.cross(along, side)
    angle = np.linspace(0, 2 * np.pi, corners + 1)
    ring = np.cos(angle)[:, None, None] * side + np.sin(angle)[:, None, None] * up
    points = path + radius * ring
    points[-1] = points[0]
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    uv = np.stack(np.broadcast_arrays(angle[:, None] / (2 * np.pi), length), axis=-1)
    wall = grid(points, uv, part, wraps=True)
    ends = []
    for index, order in ((0, 1), (-1, -1)):
        disc = np.stack([np.broadcast_to(path[index], points[:, index].shape), points[:, index]], axis=1)
        ends.append(grid(disc[::order], np.zeros((*disc.shape[:2], 2)), part, wraps=True))
    mesh = join(wall, *ends)
    return mesh if signed_volume(mesh) > 0 else _turned(mesh)


def _turned(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, -mesh.normals, mesh.uv, mesh.faces[:, ::-1], mesh.part)


def signed_volume(mesh: Mesh) -> float:
    """Volume enclosed, counting overlaps twice; positive if the faces turn outward."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)


def prism(outline: Profile, height: float) -> Mesh:
    """An outline in x, z (counter-clockwise seen from -y, made of axis-parallel steps) drawn out along y."""
    corners = np.asarray(outline, dtype=np.float64)
    depth = steps(-height / 2, height / 2)
    walls, run = [], 0.0
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        share = steps(0, float(np.linalg.norm(end - start)))
        line = start + (end - start) * (share / share[-1])[:, None]
        points = np.empty((len(line), len(depth), 3))
        points[..., 0], points[..., 2] = line[:, :1], line[:, 1:]
        points[..., 1] = depth
        uv = np.stack(np.broadcast_arrays((run + share)[:, None], depth), axis=-1)
        walls.append(grid(points[:, ::-1], uv[:, ::-1]))
        run += share[-1]
    xs, zs = np.unique(corners[:, 0]), np.unique(corners[:, 1])
    for x0, x1 in itertools.pairwise(xs):
        for z0, z1 in itertools.pairwise(zs):
            if _inside_outline(corners, (x0 + x1) / 2, (z0 + z1) / 2):
                walls += _lids(steps(x0, x1), steps(z0, z1), height / 2)
    return join(*walls)


def _inside_outline(corners: Float[np.ndarray, "P 2"], x: float, z: float) -> bool:
    ends = np.roll(corners, -1, axis=0)
    upright = corners[:, 0] == ends[:, 0]
    low, high = np.minimum(corners[:, 1], ends[:, 1]), np.maximum(corners[:, 1], ends[:, 1])
    return bool(np.sum(upright & (corners[:, 0] > x) & (low < z) & (z < high)) % 2)


def _lids(x: Float[np.ndarray, "K"], z: Float[np.ndarray, "L"], half: float) -> list[Mesh]:
    lids = []
    for sign in (-1, 1):
        points = np.empty((len(x), len(z), 3))
        points[..., 0], points[..., 2] = np.meshgrid(x, z, indexing="ij")
        points[..., 1] = sign * half
        uv = points[..., [0, 2]] + 0.5
        lids.append(grid(points[:, ::-1], uv[:, ::-1], part=1) if sign > 0 else grid(points, uv, part=1))
    return lids
