"""Triangle meshes of everyday objects, made from grids of points.

Every shape is centred on its bounding box with a longest side of 1 and z up, and is closed: it is a union of
closed surfaces whose faces turn outward. Each face belongs to a part (0 body, 1 second surface, 2 accent),
which later gets a texture of its own; uv runs over a texture once per unit, so it measures lengths on the
surface.
"""

import itertools
from collections.abc import Callable, Sequence
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


def box(rng: np.random.Generator) -> Mesh:
    return cuboid([1.0, rng.uniform(0.4, 0.9), rng.uniform(0.25, 0.8)], parts=(0, 0, 0, 0, 1, 1))


def rounded_box(rng: np.random.Generator) -> Mesh:
    return cuboid([1.0, rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6)], radius=rng.uniform(0.06, 0.13))


def can(rng: np.random.Generator) -> Mesh:
    radius, rim = rng.uniform(0.28, 0.45), 0.04
    return revolved(
        (1, [(0, 0), (radius, 0)]),
        (2, [(radius, 0), (radius, rim)]),
        (0, [(radius, rim), (radius, 1 - rim)]),
        (2, [(radius, 1 - rim), (radius, 1), (radius - rim, 1)]),
        (1, [(radius - rim, 1), (radius - rim, 1 - rim), (0, 1 - rim)]),
    )


def cone(rng: np.random.Generator) -> Mesh:
    foot, tip = rng.uniform(0.3, 0.42), rng.uniform(0.04, 0.12)
    return revolved(
        (1, [(0, 0), (foot + 0.08, 0)]),
        (1, [(foot + 0.08, 0), (foot + 0.08, 0.07)]),
        (1, [(foot + 0.08, 0.07), (foot, 0.07)]),
        (0, [(foot, 0.07), (tip, 1)]),
        (2, [(tip, 1), (0, 1)]),
    )


def bowl(rng: np.random.Generator) -> Mesh:
    height, foot, wall = rng.uniform(0.32, 0.5), 0.2, 0.045
    outside = [(max(r, foot), height + z) for r, z in arc(0.5, height, -90, 0) if r > foot]
    inside = [(r, height + z) for r, z in arc(0.5 - wall, height - wall, 0, -90)]
    return revolved(
        (1, [(0, 0), (foot, 0)]),
        (0, [(foot, 0), *outside]),
        (2, [(0.5, height), (0.5 - wall, height)]),
        (1, inside),
    )


def plate(rng: np.random.Generator) -> Mesh:
    height = rng.uniform(0.08, 0.13)
    return revolved(
        (0, [(0, 0), (0.28, 0)]),
        (0, [(0.28, 0), (0.5, height - 0.02)]),
        (2, [(0.5, height - 0.02), (0.5, height)]),
        (1, [(0.5, height), (0.31, 0.035), (0.27, 0.03)]),
        (0, [(0.27, 0.03), (0, 0.03)]),
    )


def mug(rng: np.random.Generator) -> Mesh:
    radius, wall = rng.uniform(0.36, 0.44), 0.05
    cup = revolved(
        (1, [(0, 0), (radius, 0)]),
        (0, [(radius, 0), (radius, 1)]),
        (2, [(radius, 1), (radius - wall, 1)]),
        (1, [(radius - wall, 1), (radius - wall, wall)]),
        (1, [(radius - wall, wall), (0, wall)]),
    )
    reach = rng.uniform(0.24, 0.32)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
    path = np.stack(
        [radius - wall / 2 + reach * np.cos(angle), 0 * angle, 0.5 + 0.27 * np.sin(angle)], axis=1
    )
    return join(cup, tube(path, 0.05, part=2))


def torus(rng: np.random.Generator) -> Mesh:
    thick = rng.uniform(0.11, 0.17)
    angle = np.linspace(-np.pi, np.pi, 25)
    ring = [(0.5 - thick + thick * np.cos(t), thick * np.sin(t)) for t in angle]
    return revolved((0, ring[:13]), (0, ring[12:]))


def book(rng: np.random.Generator) -> Mesh:
    width, thick, cover = rng.uniform(0.65, 0.8), rng.uniform(0.12, 0.24), 0.025
    board = [width, 1.0, cover]
    return join(
        moved(cuboid(board), [0, 0, (thick - cover) / 2]),
        moved(cuboid(board), [0, 0, (cover - thick) / 2]),
        moved(cuboid([cover, 1.0, thick - 2 * cover], parts=(2,) * 6), [(cover - width) / 2, 0, 0]),
        moved(
            cuboid([width - cover - 0.03, 0.95, thick - 2 * cover], parts=(1,) * 6), [cover / 2 - 0.015, 0, 0]
        ),
    )


def bottle(rng: np.random.Generator) -> Mesh:
    radius, shoulder, neck = rng.uniform(0.16, 0.22), rng.uniform(0.5, 0.62), rng.uniform(0.055, 0.08)
    slope = [
        (neck + (radius - neck) * (1 + np.cos(t)) / 2, shoulder + 0.22 * t / np.pi)
        for t in np.linspace(0, np.pi, 8)
    ]
    return revolved(
        (2, [(0, 0), (radius, 0)]),
        (2, [(radius, 0), (radius, 0.08)]),
        (0, [(radius, 0.08), (radius, shoulder - 0.04)]),
        (2, [(radius, shoulder - 0.04), *slope, (neck, 0.88)]),
        (1, [(neck, 0.88), (neck + 0.02, 0.88), (neck + 0.02, 1.0)]),
        (1, [(neck + 0.02, 1.0), (0, 1.0)]),
    )


def chair(rng: np.random.Generator) -> Mesh:
    side, seat, leg = rng.uniform(0.44, 0.54), rng.uniform(0.42, 0.5), 0.055
    feet = [
        moved(
            cuboid([leg, leg, seat], parts=(2,) * 6), [x * (side - leg) / 2, y * (side - leg) / 2, seat / 2]
        )
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    board = moved(cuboid([side, side, 0.06]), [0, 0, seat + 0.03])
    rest = moved(cuboid([side, 0.05, 0.94 - seat], parts=(1,) * 6), [0, (side - 0.05) / 2, (1.06 + seat) / 2])
    return join(*feet, board, rest)


def stool(rng: np.random.Generator) -> Mesh:
    radius, height, legs = rng.uniform(0.34, 0.44), rng.uniform(0.6, 0.8), int(rng.integers(3, 5))
    seat = revolved(
        (1, [(0, height), (radius, height)]),
        (2, [(radius, height), (radius, height + 0.08)]),
        (0, [(radius, height + 0.08), (0, height + 0.08)]),
    )
    feet = []
    for angle in np.arange(legs) * 2 * np.pi / legs:
        outward = np.array([np.cos(angle), np.sin(angle), 0])
        top, foot = 0.6 * radius * outward + [0, 0, height + 0.04], 0.9 * radius * outward
        path = foot + (top - foot) * np.linspace(0, 1, 16)[:, None]
        feet.append(tube(path, 0.045, part=2, corners=8))
    return join(seat, *feet)


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


def l_block(rng: np.random.Generator) -> Mesh:
    height, arm = rng.uniform(0.6, 0.9), rng.uniform(0.25, 0.35)
    outline = [(0, 0), (1, 0), (1, arm), (arm, arm), (arm, height), (0, height)]
    return prism(outline, rng.uniform(0.35, 0.6))


def u_block(rng: np.random.Generator) -> Mesh:
    height, arm = rng.uniform(0.5, 0.7), rng.uniform(0.2, 0.28)
    outline = [
        (0, 0), (1, 0), (1, height), (1 - arm, height), (1 - arm, arm), (arm, arm), (arm, height), (0,
        height),
    ]  # fmt: skip
    return prism(outline, rng.uniform(0.35, 0.6))


def ball(rng: np.random.Generator) -> Mesh:
    squash = rng.uniform(0.85, 1.0)
    return revolved((0, arc(0.5, 0.5 * squash, -90, 90, 25)))


def crate(rng: np.random.Generator) -> Mesh:
    """An open box."""
    width, height, wall = rng.uniform(0.6, 0.85), rng.uniform(0.35, 0.55), 0.05
    floor = moved(cuboid([1.0, width, wall], parts=(1,) * 6), [0, 0, wall / 2])
    long = [cuboid([1.0, wall, height - wall], parts=(0, 0, 0, 0, 2, 2))] * 2
    short = [cuboid([wall, width - 2 * wall, height - wall], parts=(0, 0, 0, 0, 2, 2))] * 2
    z = (height + wall) / 2
    walls = [moved(mesh, [0, y * (width - wall) / 2, z]) for mesh, y in zip(long, (-1, 1), strict=True)]
    walls += [moved(mesh, [x * (1 - wall) / 2, 0, z]) for mesh, x in zip(short, (-1, 1), strict=True)]
    return join(floor, *walls)


def pan(rng: np.random.Generator) -> Mesh:
    radius, height, wall = 0.32, rng.uniform(0.1, 0.16), 0.025
    body = revolved(
        (0, [(0, 0), (radius - 0.04, 0)]),
        (0, [(radius - 0.04, 0), (radius, height)]),
        (2, [(radius, height), (radius - wall, height)]),
        (1, [(radius - wall, height), (radius - wall - 0.03, wall)]),
        (1, [(radius - wall - 0.03, wall), (0, wall)]),
    )
    handle = cuboid([0.42, 0.07, 0.05], radius=0.02, parts=(2,) * 6)
    return join(body, moved(handle, [radius + 0.19, 0, height - 0.05]))


SHAPES: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "box": box,
    "rounded_box": rounded_box,
    "can": can,
    "cone": cone,
    "bowl": bowl,
    "plate": plate,
    "mug": mug,
    "torus": torus,
    "book": book,
    "bottle": bottle,
    "chair": chair,
    "stool": stool,
    "l_block": l_block,
    "u_block": u_block,
    "ball": ball,
    "crate": crate,
    "pan": pan,
}
"""What lies about, by name: a generator to its proportions."""


def make_shape(name: str, rng: np.random.Generator) -> Mesh:
    """One shape with proportions drawn from `rng`, centred and of size 1."""
    return normalised(SHAPES[name](rng))
