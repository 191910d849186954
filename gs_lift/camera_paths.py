"""Where a rendering is seen from: round the training cameras, round a bare splat, or along a path from a file.

Notation: `up` is a unit vector of the world; the azimuth of a point is its angle around `up`, counter-clockwise seen
from above, the way an orbit goes. Cameras are pinholes with OpenCV axes, as everywhere (see geometry.py).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import CameraPathError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import OPENGL_TO_OPENCV, look_at
from gs_lift.scene import Camera, View

FPS = 24.0
"""Frames per second of an orbit, and of a file that does not say."""

VIEWS_FPS = 2.0
"""Views per second: they have nothing to do with each other, so each needs a moment."""

MAX_SIZE = 8192
"""Largest width and height of a frame in pixels."""

SPLAT_UP = (0.0, -1.0, 0.0)
"""Up in a splat that comes without cameras: y points down, as viewers of Inria's PLY files have it."""

_SPLAT_FOV_DEGREES = 50.0
_SPLAT_ELEVATION_DEGREES = 25.0
_SPLAT_DISTANCE = 3.0
"""In median distances of a Gaussian from the centre: a full ball just fits into 50 degrees."""

_ONE_SIDED_DEGREES = 120.0
"""Gap between the azimuths of neighbouring cameras from which on the scene was not walked around."""

_LEAN = 0.001
"""Weight of the mean of the cameras' ups against level horizons."""

_PULL = 0.01
"""Weight of the Gaussians' centre against that of each optical axis: it decides only where axes are parallel."""

MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class CameraPath:
    """Cameras in the order of the frames, the name of each, and how many pass in a second."""

    cameras: tuple[Camera, ...]
    names: tuple[str, ...]
    fps: float

    def __len__(self) -> int:
        return len(self.cameras)

    def thinned(self, frames: int) -> "CameraPath":
        """`frames` of the cameras, evenly chosen, the first always among them."""
        if frames > len(self):
            raise CameraPathError(
                f"--frames {frames}: this path has {len(self)} cameras; wanted at most that"
            )
        chosen = [i * len(self) // frames for i in range(frames)]
        return replace(
            self,
            cameras=tuple(self.cameras[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
        )

    def resized(self, width: int, height: int) -> "CameraPath":
        """The same with every image of one size; see `framed`."""
        return replace(self, cameras=tuple(framed(camera, width, height) for camera in self.cameras))


def framed(camera: Camera, width: int, height: int) -> Camera:
    """The camera with another image size: the same view from top to bottom, more or less at the sides."""
    scale = height / camera.height
    K = camera.K * scale
    K[0, 2] = (camera.K[0, 2] - camera.width / 2) * scale + width / 2
    K[2, 2] = 1
    return replace(camera, K=K, width=width, height=height)


def path_of_views(views: Sequence[View]) -> CameraPath:
    """The cameras of views, by their names."""
    return CameraPath(tuple(view.camera for view in views), tuple(view.name for view in views), VIEWS_FPS)


def orbit_of_cameras(
    cameras: Sequence[Camera],
    gaussians: Gaussians,
    frames: int,
    *,
    up: Float[Tensor, "3"] | None = None,
) -> CameraPath:
    """A closed path as the cameras went, seen from their median height, towards the point that they look at.

    An ellipse where they surround that point; where they saw it from one side only, an arc there and back again. Up is
    the mean of the cameras' unless it is given. It starts at the azimuth of the first camera (an arc at its middle);
    the image size is that of the first camera, the field of view the median.
    """
    positions = torch.stack([camera.position for camera in cameras])
    up = up_of_cameras(cameras) if up is None else up / up.norm()
    focus = focus_of_cameras(cameras, _opaque_means(gaussians).median(dim=0).values)
    offsets = positions - focus
    heights = offsets @ up
    flat = offsets - heights[:, None] * up
    basis = _horizontal_basis(up, flat[0])
    x, y = (flat @ basis.T).unbind(dim=1)
    azimuths, closed = _azimuths(torch.atan2(y, x), frames)
    directions = torch.stack([azimuths.cos(), azimuths.sin()], dim=1)
    radii = _radii(torch.stack([x, y], dim=1), directions) if closed else torch.hypot(x, y).median()
    places = focus + heights.median() * up + (radii.reshape(-1, 1) * directions) @ basis
    first = cameras[0]
    K = torch.eye(3, dtype=torch.float64)
    K[0, 0] = torch.stack([camera.K[0, 0] / camera.height for camera in cameras]).median() * first.height
    K[1, 1] = torch.stack([camera.K[1, 1] / camera.height for camera in cameras]).median() * first.height
    K[0, 2], K[1, 2] = first.width / 2, first.height / 2
    return _numbered(
        [Camera(K, look_at(place, focus, up), first.width, first.height) for place in places], FPS
    )


def orbit_of_splat(
    gaussians: Gaussians, frames: int, *, width: int, height: int, up: Float[Tensor, "3"] | None = None
) -> CameraPath:
    """A circle round the opaque Gaussians, from 25 degrees above, with 50 degrees of view; up is SPLAT_UP by default.

    Centre and distance are medians: far background and floaters hardly move them. Counter-clockwise seen from above.
    """
    up = torch.tensor(SPLAT_UP, dtype=torch.float64) if up is None else up / up.norm()
    means = _opaque_means(gaussians)
    center = means.median(dim=0).values
    distance = _SPLAT_DISTANCE * (means - center).norm(dim=1).median().clamp(min=1e-3)
    elevation = math.radians(_SPLAT_ELEVATION_DEGREES)
    basis = _horizontal_basis(up, torch.zeros(3, dtype=torch.float64))
    azimuths = torch.arange(frames, dtype=torch.float64) / frames * 2 * torch.pi
    directions = torch.stack([azimuths.cos(), azimuths.sin()], dim=1) @ basis
    places = center + distance * (math.cos(elevation) * directions + math.sin(elevation) * up)
    K = _intrinsics(_SPLAT_FOV_DEGREES, width, height)
    return _numbered([Camera(K, look_at(place, center, up), width, height) for place in places], FPS)


def read_camera_path(path: Path) -> CameraPath:
    """A camera path as nerfstudio's viewer and its Blender add-on write it, in the frame of the splat.

    `camera_path`: a list of `camera_to_world` (16 numbers, row by row, OpenGL axes) and `fov` (vertical, in degrees);
    beside it `render_width`, `render_height` and, if it likes, `fps`. Only perspective cameras. Raises CameraPathError.
    """
    content = _read_object(path)
    kind = content.get("camera_type", "perspective")
    if kind != "perspective":
        raise CameraPathError(f"{path}: camera_type {_shown(kind)}; only perspective cameras are rendered")
    width, height = (_whole_number(path, content, name) for name in ("render_width", "render_height"))
    fps = _number(path, content, "fps", 0.01, 1000) if "fps" in content else FPS
    entries = content.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise CameraPathError(f"{path}: camera_path: wanted a list of cameras, got {_shown(entries)}")
    cameras = []
    for i, entry in enumerate(entries):
        where = f"camera_path[{i}]"
        if not isinstance(entry, dict):
            raise CameraPathError(f"{path}: {where}: wanted an object, got {_shown(entry)}")
        fov = _number(path, entry, "fov", 0.1, 179.9, where)
        viewmat = torch.linalg.inv(_pose(path, entry, where) @ OPENGL_TO_OPENCV)
        cameras.append(Camera(_intrinsics(fov, width, height), viewmat, width, height))
    return _numbered(cameras, fps)


def up_of_cameras(cameras: Sequence[Camera]) -> Float[Tensor, "3"]:
    """The mean of the directions that are up in the images; where those cancel, away from where the cameras look."""
    rotations = torch.stack([camera.viewmat[:3, :3] for camera in cameras])
    up = -rotations[:, 1].mean(dim=0)
    if up.norm() < 0.1:  # cameras that look straight down, turned every way
        up = -rotations[:, 2].mean(dim=0)
    if up.norm() < 1e-6:
        up = -rotations[0, 1]
    return up / up.norm()


def level_of_cameras(cameras: Sequence[Camera]) -> Float[Tensor, "3"]:
    """Up, across what is right in the images, where cameras level to the horizon tell it; else the mean of their ups.

    The mean alone leans to where they all look, if they stand on one side: turning about it would roll the picture.
    """
    right = torch.stack([camera.viewmat[0, :3] for camera in cameras])
    matrix = right.T @ right / len(cameras) + _LEAN * torch.eye(3, dtype=right.dtype)
    up = torch.linalg.solve(matrix, up_of_cameras(cameras))
    return up / up.norm()


def focus_of_cameras(cameras: Sequence[Camera], center: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes, in least squares, pulled a little to `center`."""
    identity = torch.eye(3, dtype=torch.float64)
    matrix, vector = _PULL * len(cameras) * identity, _PULL * len(cameras) * center
    for camera in cameras:
        axis = camera.viewmat[2, :3]
        across = identity - axis[:, None] * axis
        matrix, vector = matrix + across, vector + across @ camera.position
    return torch.linalg.solve(matrix, vector)


def _horizontal_basis(up: Float[Tensor, "3"], toward: Float[Tensor, "3"]) -> Float[Tensor, "2 3"]:
    """Two unit vectors across `up`, the first along `toward` if it has a direction; with `up` right-handed."""
    first = toward - (toward @ up) * up
    if first.norm() < 1e-6:
        axis = torch.eye(3, dtype=torch.float64)[int(up.abs().argmin())]
        first = axis - (axis @ up) * up
    first = first / first.norm()
    return torch.stack([first, torch.linalg.cross(up, first)])


def _azimuths(seen: Float[Tensor, "C"], frames: int) -> tuple[Float[Tensor, "F"], bool]:
    """Azimuths of the frames in radians, and whether they go all round: not where the seen ones leave a wide gap."""
    turn = 2 * torch.pi
    phases = torch.arange(frames, dtype=torch.float64) / frames * turn
    ordered = seen.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + turn - ordered[-1:]])
    widest = int(gaps.argmax())
    if gaps[widest] < math.radians(_ONE_SIDED_DEGREES):
        return phases, True
    start = ordered[(widest + 1) % len(ordered)]  # the arc goes on from there to the other side of the gap
    half = (turn - gaps[widest]) / 2
    return start + half + half * phases.sin(), False


def _radii(points: Float[Tensor, "C 2"], directions: Float[Tensor, "F 2"]) -> Float[Tensor, "F"]:
    """How far the ellipse that fits the points lies in each direction: round 0, with the axes of their second moments.

    Points all round an ellipse have half the square of its half axes as moments.
    """
    moments, axes = torch.linalg.eigh(points.T @ points / len(points))
    half_axes = (2 * moments).sqrt().clamp(min=1e-6)
    return ((directions @ axes) / half_axes).norm(dim=1).reciprocal()


def _opaque_means(gaussians: Gaussians) -> Float[Tensor, "M 3"]:
    """Centres of the Gaussians that hide more than half of what is behind them; of all, if none does."""
    means = gaussians.means.detach().cpu().double()
    opaque = gaussians.opacities.detach().cpu() > 0.5
    return means[opaque] if bool(opaque.any()) else means


def _intrinsics(fov_degrees: float, width: int, height: int) -> Float[Tensor, "3 3"]:
    """K of a camera with square pixels that sees `fov_degrees` from top to bottom."""
    focal = height / 2 / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def _numbered(cameras: Sequence[Camera], fps: float) -> CameraPath:
    return CameraPath(tuple(cameras), tuple(f"{i:05d}" for i in range(len(cameras))), fps)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CameraPathError(f"{path}: no such file; wanted orbit, train, test or a JSON file of cameras")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CameraPathError(f"{path}: {path.stat().st_size} bytes; wanted at most {MAX_JSON_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CameraPathError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CameraPathError(f"{path}: wanted an object with camera_path, got {_shown(content)}")
    return content


def _number(
    path: Path, content: dict[str, Any], name: str, low: float, high: float, where: str = ""
) -> float:
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        place = f"{where}.{name}" if where else name
        raise CameraPathError(
            f"{path}: {place}: wanted a number from {low:g} to {high:g}, got {_shown(value)}"
        )
    return float(value)


def _whole_number(path: Path, content: dict[str, Any], name: str) -> int:
    value = _number(path, content, name, 1, MAX_SIZE)
    if value != int(value):
        raise CameraPathError(f"{path}: {name}: wanted whole pixels, got {value:g}")
    return int(value)


def _pose(path: Path, entry: dict[str, Any], where: str) -> Float[Tensor, "4 4"]:
    """camera_to_world of an entry: a rotation and a place."""
    numbers = entry.get("camera_to_world")
    if (
        not isinstance(numbers, list)
        or len(numbers) != 16
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
        or not all(abs(number) < 1e30 for number in numbers)
    ):
        raise CameraPathError(f"{path}: {where}.camera_to_world: wanted 16 numbers, got {_shown(numbers)}")
    pose = torch.tensor([float(number) for number in numbers], dtype=torch.float64).reshape(4, 4)
    rotation = pose[:3, :3]
    rigid = (
        torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-3)
        and float(torch.linalg.det(rotation)) > 0
        and pose[3].tolist() == [0, 0, 0, 1]
    )
    if not rigid:
        raise CameraPathError(
            f"{path}: {where}.camera_to_world: wanted a rotation and a translation, row by row, with 0 0 0 1 below"
        )
    return pose


def _shown(content: Any) -> str:
    text = json.dumps(content)
    return text if len(text) <= 60 else f"{text[:60]}..."
