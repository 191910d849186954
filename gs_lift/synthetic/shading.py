"""Light, computed once per room and kept at the vertices, and the frames that it is seen in.

All surfaces are matt, so what a point reflects does not depend on who looks: the light that arrives at each
vertex is gathered once, without noise that differs from frame to frame, and interpolated over faces. It comes
from a square lamp (soft shadows), from the sky above the open room, and once reflected from what is around.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from gs_lift.synthetic.cameras import Pinhole
from gs_lift.synthetic.raytracing import Tracer
from gs_lift.synthetic.room import Room

LAMP_RAYS = 8
SKY_RAYS = 8
"""Square roots of the numbers of rays per vertex."""

LAMP_COLOR = np.array([1.4, 1.31, 1.17])
SKY_COLOR = np.array([0.40, 0.43, 0.48])
BOUNCE = 0.55
"""Share of full light that a neighbour seen by an ambient ray is taken to receive."""

SAMPLES = 16
"""Rays per pixel of a colour frame."""

LIFT_M = 0.0015
"""Distance from a surface at which its rays start, so that they miss the surface itself."""


@dataclass(frozen=True)
class Frame:
    """What a camera sees.

    instance: the object at each pixel's centre, 0 = the room; in general Room.owner there, 0 = nothing.
    depth_m: there, along the optical axis, 0 = none.
    """

    color: UInt8[np.ndarray, "H W 3"]
    instance: Int[np.ndarray, "H W"]
    depth_m: Float[np.ndarray, "H W"]


def vertex_light(room: Room, tracer: Tracer, start: int, end: int) -> Float[np.ndarray, "V 3"]:
    """Light arriving at the vertices start..end, 1 = as much as paints them in full colour."""
    reflectance = np.stack([(picture / 255.0).mean(axis=(0, 1)) ** 2 for picture in room.textures])[
        room.texture
    ]
    lamp, sky = _lamp(room), _sky()
    batches = []
    for first in range(start, end, 2048):
        vertices = room.mesh.vertices[first : min(first + 2048, end)]
        normals = room.mesh.normals[first : min(first + 2048, end)]
        origins = vertices + LIFT_M * normals
        batches.append(
            _from_lamp(tracer, origins, normals, lamp) + _from_sky(tracer, origins, normals, sky, reflectance)
        )
    return np.concatenate(batches).astype(np.float32) if batches else np.zeros((0, 3), np.float32)


def _stratified(count: int) -> Float[np.ndarray, "K 2"]:
    """count^2 points in the unit square, one per cell; the same for every vertex: no noise in shadows."""
    rng = np.random.default_rng(7)
    cells = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), axis=-1).reshape(-1, 2)
    return (cells + rng.random((count * count, 2))) / count


def _lamp(room: Room) -> Float[np.ndarray, "K 3"]:
    """Points on a square lamp high above, off the middle."""
    half = room.extents.heap
    side = 0.5 + 0.2 * half
    square = (_stratified(LAMP_RAYS) - 0.5) * side
    return np.stack(
        [square[:, 0] + 0.45 * half + 0.35, square[:, 1] - 0.6 * half, np.full(len(square), 2.0 + half)],
        axis=1,
    )


def _from_lamp(
    tracer: Tracer,
    origins: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    lamp: Float[np.ndarray, "K 3"],
) -> Float[np.ndarray, "V 3"]:
    toward = lamp[None] - origins[:, None]
    squared = (toward**2).sum(axis=-1)
    facing = (toward * normals[:, None]).sum(axis=-1) / np.sqrt(squared)
    lit = facing > 0
    starts = np.broadcast_to(origins[:, None], toward.shape)
    seen = np.zeros(lit.shape)
    seen[lit] = ~tracer.blocked(starts[lit], toward[lit])
    # Falls off with the square of the distance and the cosine at the lamp, relative to the point below it.
    height = lamp[0, 2]
    strength = facing.clip(0) * (height / np.sqrt(squared)) ** 2 * (toward[..., 2] / np.sqrt(squared)).clip(0)
    return (seen * strength).mean(axis=1)[:, None] * LAMP_COLOR


def _sky() -> Float[np.ndarray, "K 3"]:
    """Directions over the upper half sphere, denser around the normal (cosine)."""
    square = _stratified(SKY_RAYS)
    radius, angle = np.sqrt(square[:, 0]), 2 * np.pi * square[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - square[:, 0])], axis=1)


def _from_sky(
    tracer: Tracer,
    origins: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    sky: Float[np.ndarray, "K 3"],
    reflectance: Float[np.ndarray, "F 3"],
) -> Float[np.ndarray, "V 3"]:
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    side = np.cross(helper, normals)
    side /= np.linalg.norm(side, axis=1, keepdims=True).clip(1e-9)
    up = np.cross(normals, side)
    directions = (
        sky[None, :, :1] * side[:, None]
        + sky[None, :, 1:2] * up[:, None]
        + sky[None, :, 2:] * normals[:, None]
    )
    starts = np.broadcast_to(origins[:, None], directions.shape)
    met = tracer.faces(starts.reshape(-1, 3), directions.reshape(-1, 3)).reshape(directions.shape[:2])
    # The room is open above; what points below the floor's horizon has always met something.
    seen = np.where(
        (met < 0)[..., None], SKY_COLOR, BOUNCE * (LAMP_COLOR * 0.5 + SKY_COLOR) * reflectance[met]
    )
    return seen.mean(axis=1)


def smoothed(room: Room, light: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """The light with that on floor and walls averaged over neighbouring vertices (1 2 1)."""
    light = light.copy()
    start = 0
    for rows, columns in room.room_grids:
        side = light[start : start + rows * columns].reshape(rows, columns, 3)
        padded = np.pad(side, ((1, 1), (1, 1), (0, 0)), mode="edge")
        padded = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        side[:] = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        start += rows * columns
    return light


class Painter:
    """Frames of a lit room."""

    def __init__(self, room: Room, tracer: Tracer, light: Float[np.ndarray, "V 3"]):
        self.tracer, self.owner, self.texture = tracer, room.owner, room.texture
        attributes = np.concatenate([room.mesh.uv, light], axis=1).astype(np.float32)
        self.corners = attributes[room.mesh.faces].reshape(len(room.mesh.faces), -1)
        self.width = np.array([len(picture) for picture in room.textures], dtype=np.int32)
        self.start = np.concatenate([[0], np.cumsum(self.width.astype(np.int64) ** 2)])[:-1].astype(np.int32)
        texels = np.concatenate([picture.reshape(-1, 3) for picture in room.textures])
        self.texels = np.concatenate([texels, np.zeros((len(texels), 1), np.uint8)], axis=1)

    def frame(self, camera: Pinhole) -> Frame:
        size = camera.size
        instance, depth = self._exact(camera)
        color = np.empty((size, size, 3), np.uint8)
        band = max(1, 2**17 // (SAMPLES * size))
        for top in range(0, size, band):
            color[top : top + band] = self._band(camera, top, min(band, size - top))
        return Frame(color, instance, depth)

    def _exact(self, camera: Pinhole) -> tuple[Int[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        size = camera.size
        rows, columns = np.divmod(np.arange(size * size), size)
        directions = camera.directions(columns + 0.5, rows + 0.5)
        hits = self.tracer.hits(np.broadcast_to(camera.position, directions.shape), directions)
        missed = hits["primID"] < 0
        instance = np.where(missed, 0, self.owner[hits["primID"]])
        depth = np.where(missed, 0.0, hits["tfar"].astype(np.float64))
        return instance.reshape(size, size), depth.reshape(size, size)

    def _band(self, camera: Pinhole, top: int, rows: int) -> UInt8[np.ndarray, "R W 3"]:
        """Some rows of the colour frame: means of SAMPLES points per pixel, then a display's gamma curve."""
        row, column, sample = np.unravel_index(
            np.arange(rows * camera.size * SAMPLES), (rows, camera.size, SAMPLES)
        )
        x, y = _pattern()[sample].T
        directions = camera.directions(column + x, row + top + y)
        radiance = self._radiance(np.broadcast_to(camera.position, directions.shape), directions)
        mean = radiance.reshape(rows, camera.size, SAMPLES, 3).mean(axis=2)
        return (255 * mean.clip(0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)

    def _radiance(
        self, origins: Float[np.ndarray, "P 3"], directions: Float[np.ndarray, "P 3"]
    ) -> Float[np.ndarray, "P 3"]:
        hits = self.tracer.hits(origins, directions)
        face, u, v = hits["primID"], hits["u"][:, None], hits["v"][:, None]
        corners = self.corners[face]
        at = (1 - u - v) * corners[:, :5] + u * corners[:, 5:10] + v * corners[:, 10:]
        radiance = self._reflectance(self.texture[face], at[:, :2]) * at[:, 2:]
        radiance[face < 0] = SKY_COLOR
        return radiance

    def _reflectance(
        self, texture: Int[np.ndarray, "P"], uv: Float[np.ndarray, "P 2"]
    ) -> Float[np.ndarray, "P 3"]:
        """The periodic textures, bilinear; rows run along v, columns along u."""
        width, start = self.width[texture], self.start[texture]
        column, row = uv[:, 0] * width - np.float32(0.5), uv[:, 1] * width - np.float32(0.5)
        left, above = np.floor(column), np.floor(row)
        across, down = (column - left)[:, None], (row - above)[:, None]
        # widths are powers of two
        c0, r0 = left.astype(np.int32) & (width - 1), above.astype(np.int32) & (width - 1)
        c1, r1 = (c0 + 1) & (width - 1), (r0 + 1) & (width - 1)
        upper = (
            self._texel(start + r0 * width + c0) * (1 - across)
            + self._texel(start + r0 * width + c1) * across
        )
        lower = (
            self._texel(start + r1 * width + c0) * (1 - across)
            + self._texel(start + r1 * width + c1) * across
        )
        return (upper * (1 - down) + lower * down) ** 2

    def _texel(self, index: Int[np.ndarray, "P"]) -> Float[np.ndarray, "P 3"]:
        return self.texels[index][:, :3] * np.float32(1 / 255)


def _pattern() -> Float[np.ndarray, "S 2"]:
    """SAMPLES points in a pixel that fill each row and column once (Hammersley)."""
    index = np.arange(SAMPLES)
    reverse = sum(((index >> bit) & 1) * (SAMPLES >> (bit + 1)) for bit in range(SAMPLES.bit_length() - 1))
    return (np.stack([index, reverse], axis=1) + 0.5) / SAMPLES
