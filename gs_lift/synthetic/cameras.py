"""Where the room is looked at from: an uneven orbit, like someone walking around with a camera."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gs_lift.synthetic.options import train_views
from gs_lift.synthetic.room import Extents

FIELD_OF_VIEW_DEGREES = 60.0

SEEN_M = 1.0
"""Half width of what a camera takes in: a heap of at most this is seen whole, of a larger one each sees a part."""

LARGE_M = 0.38
"""Largest object of an ordinary room; cameras come closer to smaller ones."""


@dataclass(frozen=True)
class Pinhole:
    """A square pinhole camera.

    rotation: camera to world in OpenCV axes (right, down, forward as columns); position in metres; size:
    width and height in pixels.
    """

    rotation: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, "3"]
    size: int

    @property
    def focal(self) -> float:
        """Focal length in widths of the image."""
        return float(0.5 / np.tan(np.radians(FIELD_OF_VIEW_DEGREES) / 2))

    def directions(self, x: Float[np.ndarray, "P"], y: Float[np.ndarray, "P"]) -> Float[np.ndarray, "P 3"]:
        """World directions through points in pixels, as long as their depth along the optical axis is 1."""
        right, down = (x / self.size - 0.5) / self.focal, (y / self.size - 0.5) / self.focal
        return (
            right[:, None] * self.rotation[:, 0] + down[:, None] * self.rotation[:, 1] + self.rotation[:, 2]
        )

    def unproject(self, depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
        """World points of the pixels' centres; depth along the optical axis."""
        rows, columns = np.divmod(np.arange(depth.size), self.size)
        directions = self.directions(columns + 0.5, rows + 0.5).reshape(*depth.shape, 3)
        return self.position + depth[..., None] * directions

    def quaternion(self) -> list[float]:
        """wxyz of camera to world in Blender's axes (x right, y up, z backward)."""
        return _quaternion(self.rotation * [1.0, -1.0, -1.0])


def looking(position: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], size: int) -> Pinhole:
    """The camera at `position` that sees `target` in its centre, z upward in the image."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return Pinhole(np.stack([right, np.cross(forward, right), forward], axis=1), position, size)


def orbit(views: int, size: int, sizes: Extents, seed: int) -> list[Pinhole]:
    """Cameras in the order of the frames: training ones shuffled, then test ones, evenly along the path.

    The path winds around the heap while distance and height go up and down; where the heap is too large to be seen
    whole, what is looked at wanders over it.
    """
    rng = np.random.default_rng([seed, 3])
    phase = rng.uniform(0, 2 * np.pi, 4)
    path = np.arange(views) / views
    turns = (2 if sizes.heap <= SEEN_M + 0.2 else 5) if views >= 30 else 1
    # A later turn looks from between the directions of the first.
    azimuth = 2 * np.pi * (turns * path * (1 - 1 / views) + 0.03 * rng.standard_normal(views) / turns)
    farther = 0.5 + 0.5 * np.sin(2 * np.pi * 3.37 * path + phase[0])
    higher = 0.5 + 0.5 * np.sin(2 * np.pi * 2.21 * path + phase[1])
    spread = sizes.heap * max(0.0, 1 - (SEEN_M / sizes.heap) ** 1.5)
    seen = min(sizes.heap, SEEN_M) * (sizes.largest / LARGE_M) ** 0.5
    cameras = []
    for index in range(views):
        middle = spread * _wander(path[index], phase[2:])
        target = np.array([*(middle + rng.uniform(-0.06, 0.06, 2)), 0.06 + 0.06 * rng.random()])
        away = np.array([np.cos(azimuth[index]), np.sin(azimuth[index])])
        ground = middle + (0.95 + 0.45 * farther[index]) * (0.35 + 0.85 * seen) * away
        height = (0.9 + 0.75 * higher[index]) * (0.35 + 0.8 * seen)
        position = np.array([*ground.clip(-sizes.room + 0.15, sizes.room - 0.15), height])
        cameras.append(looking(position, target, size))
    return [cameras[index] for index in _frame_order(views, rng)]


def walk(views: int, size: int, sizes: Extents, seed: int) -> list[Pinhole]:
    """Cameras in the order of a walk around the furniture, held above heads and lamps.

    They look down at furniture at most 3 m away, so that the tops of the walls stay out of the picture.
    """
    rng = np.random.default_rng([seed, 3])
    phase = rng.uniform(0, 2 * np.pi, 4)
    path = np.arange(views) / views
    turns = 2 if views >= 30 else 1
    azimuth = 2 * np.pi * (turns * path * (1 - 1 / views) + 0.03 * rng.standard_normal(views) / turns)
    farther = 0.5 + 0.5 * np.sin(2 * np.pi * 3.37 * path + phase[0])
    higher = 0.5 + 0.5 * np.sin(2 * np.pi * 2.21 * path + phase[1])
    cameras = []
    for index in range(views):
        way = np.array([np.cos(azimuth[index]), np.sin(azimuth[index])])
        ground = (0.65 + 0.35 * farther[index]) * (sizes.heap + 0.5) * way / np.abs(way).max()
        toward = 0.5 * sizes.heap * _wander(path[index], phase[2:]) - ground
        toward *= min(1.0, 3.0 / np.linalg.norm(toward))
        position = np.array([*ground, 1.9 + 0.4 * higher[index]])
        cameras.append(looking(position, np.array([*(ground + toward), 0.35]), size))
    return cameras


def _wander(at: float, phase: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
    """A path that fills the square -1..1 (Lissajous)."""
    return np.array([np.sin(2 * np.pi * 5 * at + phase[0]), np.sin(2 * np.pi * 7 * at + phase[1])])


def _frame_order(views: int, rng: np.random.Generator) -> list[int]:
    """Places on the path of the frames 0, 1, ..."""
    tested = views - train_views(views)
    test = np.floor((np.arange(tested) + 0.5) * views / tested).astype(int)
    train = np.setdiff1d(np.arange(views), test)
    return [*rng.permutation(train).tolist(), *rng.permutation(test).tolist()]


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> list[float]:
    """wxyz with w >= 0, from the largest of the four squares (Shepperd)."""
    m = rotation
    squares = np.array(
        [1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
         1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]]
    )  # fmt: skip
    rows = np.array(
        [
            [squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], squares[1], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], squares[2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[3]],
        ]
    )
    quaternion = rows[int(squares.argmax())]
    quaternion = quaternion / np.linalg.norm(quaternion)
    return [float(value) for value in (quaternion if quaternion[0] >= 0 else -quaternion)]
