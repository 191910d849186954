"""The Messy Rooms layout, as released with Contrastive Lift and as `gslift synth` writes it.

    metadata.json                       camera.K divided by width and height; camera.positions [N 3], metres;
                                        camera.quaternions [N 4] wxyz; entry i is the camera-to-world pose of
                                        frame i, Blender axes
    color/<frame>.png                   photos, RGB or RGBA
    detic_instance/<frame>.npy          optional; segments: ids of this frame only, 0 = none
    detic_semantic/<frame>.npy          optional; 0 background, 1 object
    detic_probabilities/<frame>.npy     optional; confidence of each pixel's segment
    instance/, semantic/<frame>.npy     optional; truth: ids of the scene, 0 = background; 0 or 1
    depth/<frame>.png                   optional; 16 bit, millimetres along the optical axis, 0 = none

The first 80 % of the frames are for training, the last 20 % for test. Pixel centres lie at +0.5.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.masks import replaced_segments
from gs_lift.errors import SceneError
from gs_lift.geometry import OPENGL_TO_OPENCV, quats_to_rotmats
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import Classes, Segments

LAYOUT = "metadata.json beside color/"

CLASSES = Classes(names=("background", "object"), is_thing=(False, True))


@dataclass(frozen=True)
class MapFiles:
    """Where the id maps of one frame lie; None = there is no such file."""

    instance: Path
    semantic: Path | None
    confidence: Path | None


def matches(path: Path) -> bool:
    """Whether `path` looks like this layout, perhaps with a part missing, which `read` then names."""
    has_maps = any((path / name).is_dir() for name in ("detic_instance", "instance"))
    return (path / "metadata.json").is_file() or ((path / "color").is_dir() and has_maps)


def read(path: Path, config: DataConfig) -> Scene:
    """Read cameras and the headers of all files; pixels later, when they are asked for."""
    frames = _frames(path)
    for file in (path / "metadata.json", *frames):
        files.check_inside(path, file, config.allow_outside)
    K, viewmats = _cameras(path / "metadata.json", frames)
    width, height = files.image_size(frames[0])
    K = (K * torch.tensor([[width], [height], [1.0]], dtype=K.dtype)).abs()
    views = tuple(
        _view(path, frame, Camera(K, viewmat, width, height), config)
        for frame, viewmat in zip(frames, viewmats, strict=True)
    )
    views = replaced_segments(path, views, CLASSES, config) or views
    n_train = len(views) * 4 // 5
    nothing = torch.zeros(0, 3)
    return Scene(path.resolve().name, views[:n_train], views[n_train:], nothing, nothing, CLASSES)


def _frames(path: Path) -> list[Path]:
    for name in ("metadata.json", "color"):
        if not (path / name).exists():
            raise SceneError(f"{path}: no {name}; the Messy Rooms layout wants {LAYOUT}")
    frames = files.list_photos(path / "color")
    if len(frames) < 2:
        found = "no photos" if not frames else "a single photo"
        raise SceneError(
            f"{path / 'color'}: {found}; wanted at least 2 PNG or JPEG files, to train and to test on"
        )
    return frames


def _view(root: Path, frame: Path, camera: Camera, config: DataConfig) -> View:
    size = (camera.width, camera.height)
    files.check_image_size(frame, *size)
    segments = _maps(root, frame.stem, "detic_instance", "detic_semantic", "detic_probabilities")
    truth = _maps(root, frame.stem, "instance", "semantic", None)
    depth = root / "depth" / f"{frame.stem}.png"
    shape = (camera.height, camera.width)
    for maps in (segments, truth):
        if maps is not None:
            _check_maps(root, maps, shape, config)
    has_depth = depth.exists()
    if has_depth:
        files.check_inside(root, depth, config.allow_outside)
        files.check_image_size(depth, *size)
    return View(
        name=frame.stem,
        camera=camera,
        image=partial(files.read_photo, frame, *size),
        segments=partial(read_segments, segments, shape) if segments else None,
        truth=partial(read_segments, truth, shape) if truth else None,
        depth=partial(files.read_depth_mm, depth, *size) if has_depth else None,
    )


def _maps(root: Path, stem: str, instance: str, semantic: str, confidence: str | None) -> MapFiles | None:
    def there(folder: str | None) -> Path | None:
        path = root / folder / f"{stem}.npy" if folder else None
        return path if path is not None and path.exists() else None

    ids = there(instance)
    return MapFiles(ids, there(semantic), there(confidence)) if ids is not None else None


def _check_maps(root: Path, maps: MapFiles, shape: tuple[int, int], config: DataConfig) -> None:
    for path, kinds in ((maps.instance, "biuf"), (maps.semantic, "biuf"), (maps.confidence, "f")):
        if path is not None:
            files.check_inside(root, path, config.allow_outside)
            files.open_array(path, shape, kinds)


def read_segments(maps: MapFiles, shape: tuple[int, int]) -> Segments:
    """The id maps of one frame. A background pixel belongs to no instance, whatever the instance map says."""
    ids = files.read_ids(maps.instance, shape)
    semantic = files.read_ids(maps.semantic, shape) if maps.semantic else (ids > 0).astype(np.int64)
    if not np.isin(semantic, (0, 1)).all():
        raise SceneError(
            f"{maps.semantic}: classes {semantic.min()} to {semantic.max()}; wanted 0 background, 1 object"
        )
    confidence = np.ones(shape, np.float32)
    if maps.confidence is not None:
        confidence = files.read_confidence(maps.confidence, shape)
    return Segments(
        instance=torch.from_numpy(np.where((ids > 0) & (semantic == 1), ids, -1)),
        semantic=torch.from_numpy(semantic),
        confidence=torch.from_numpy(confidence),
    )


def _cameras(path: Path, frames: list[Path]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "N 4 4"]]:
    """The normalised K and the viewmat of each frame."""
    camera = files.read_json(path).get("camera")
    if not isinstance(camera, dict):
        raise SceneError(
            f"{path}: no `camera` object; wanted camera.K, camera.positions and camera.quaternions"
        )
    K = _numbers(path, camera, "K", (3, 3))
    positions = _numbers(path, camera, "positions", (None, 3))
    quats = _numbers(path, camera, "quaternions", (None, 4))
    _check_K(path, K)
    _check_poses(path, frames, positions, quats)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(frames), 1, 1)
    poses[:, :3, :3] = quats_to_rotmats(torch.from_numpy(quats[: len(frames)]))
    poses[:, :3, 3] = torch.from_numpy(positions[: len(frames)])
    return torch.from_numpy(K), torch.linalg.inv(poses @ OPENGL_TO_OPENCV)


def _numbers(path: Path, camera: dict[str, Any], name: str, shape: tuple[int | None, int]) -> np.ndarray:
    """A field of `camera` as a float64 array; `shape` has None where any length will do."""
    wanted = f"camera.{name} of shape [{' '.join('N' if size is None else str(size) for size in shape)}]"
    if name not in camera:
        raise SceneError(f"{path}: no camera.{name}; wanted {wanted}")
    try:
        array = np.asarray(camera[name], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise SceneError(f"{path}: camera.{name} is not a table of numbers; wanted {wanted}") from None
    if array.ndim != 2 or any(size not in (None, got) for size, got in zip(shape, array.shape, strict=True)):
        raise SceneError(f"{path}: camera.{name} has shape {list(array.shape)}; wanted {wanted}")
    for row in np.flatnonzero(~np.isfinite(array).all(axis=1))[:1]:
        raise SceneError(
            f"{path}: camera.{name}[{row}] is {array[row].tolist()}; wanted finite numbers; "
            "correct it or remove the frame and its pose"
        )
    return array


def _check_K(path: Path, K: np.ndarray) -> None:
    if K[0, 0] == 0 or K[1, 1] == 0 or K[1, 0] != 0 or K[2, 0] != 0 or K[2, 1] != 0 or abs(K[2, 2]) != 1:
        raise SceneError(f"{path}: camera.K is {K.tolist()}; wanted [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    if K[0, 1] != 0:
        raise SceneError(
            f"{path}: camera.K[0][1] is {K[0, 1]:g}, a skew; wanted 0, as no renderer here knows skew; "
            "resample the photos to a camera without it"
        )
    if np.abs(K[:2, 2]).max() > 10:
        raise SceneError(
            f"{path}: camera.K has its centre at {K[:2, 2].tolist()}; wanted fractions of the image: "
            "divide the first row by the width and the second by the height"
        )


def _check_poses(path: Path, frames: list[Path], positions: np.ndarray, quats: np.ndarray) -> None:
    if len(positions) != len(quats):
        raise SceneError(
            f"{path}: {len(positions)} positions, {len(quats)} quaternions; wanted one of each per frame"
        )
    if len(positions) < len(frames):
        raise SceneError(
            f"{path}: {len(positions)} poses for {len(frames)} photos in color/; wanted one per photo"
        )
    stems = [frame.stem for frame in frames]
    if len(positions) > len(frames) and not _consecutive(stems):
        # Entry i belongs to the i-th photo: with one missing in the middle, all later poses would be wrong.
        raise SceneError(
            f"{path}: {len(positions)} poses for {len(frames)} photos, and their numbers have gaps; "
            "remove the poses of missing photos"
        )
    norms = np.linalg.norm(quats, axis=1)
    for i in np.flatnonzero(np.abs(norms - 1) > 0.01)[:1]:
        raise SceneError(f"{path}: camera.quaternions[{i}] has length {norms[i]:.4g}; wanted 1 (w, x, y, z)")


def _consecutive(stems: list[str]) -> bool:
    if not all(stem.isascii() and stem.isdigit() for stem in stems):
        return False
    return int(stems[-1]) - int(stems[0]) == len(stems) - 1
