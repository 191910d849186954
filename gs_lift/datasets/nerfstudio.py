"""transforms.json, as nerfstudio, instant-ngp and many exporters write it.

    transforms.json     frames[]: file_path, transform_matrix (camera to world, OpenGL axes); for all frames or each:
                        fl_x, fl_y, cx, cy, w, h (or camera_angle_x), k1 ... k4, p1, p2, camera_model; optional:
                        ply_file_path (points, in the frame of the cameras, after applied_transform),
                        train_ / val_ / test_filenames, mask_path, applied_transform, applied_scale
    masks/ and the like optional; segments: see masks.py

Pixel centres lie at +0.5, as COLMAP's do, from which most of these files come. Pixels that a mask_path leaves out have
no segment; the photo itself is learnt whole. Where a split is listed, photos in no list are left out, and photos
in two are for testing; else every data.test_every-th photo is for testing.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.colmap import scene_of
from gs_lift.datasets.lens import lenses_of
from gs_lift.datasets.photos import Photo
from gs_lift.errors import SceneError
from gs_lift.geometry import OPENGL_TO_OPENCV
from gs_lift.ply import read_points
from gs_lift.scene import Scene

log = logging.getLogger(__name__)

LAYOUT = "transforms.json of nerfstudio or instant-ngp"

PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")


SWAPPED = ((0, 1, 0, 0), (1, 0, 0, 0), (0, 0, -1, 0))
"""applied_transform of the files that ns-process-data wrote before it told (nerfstudio_dataparser.py)."""


def matches(path: Path) -> bool:
    return (path / "transforms.json").is_file()


def read(path: Path, config: DataConfig) -> Scene:
    where = path / "transforms.json"
    files.check_inside(path, where, config.allow_outside)
    content = files.read_json(where)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f"{where}: no list of frames; wanted what nerfstudio or instant-ngp writes")
    found: dict[Path, dict[str, Any]] = {}
    missing = []
    for number, frame in enumerate(frames):
        field = f"frames[{number}].file_path"
        file = _file(path, where, frame.get("file_path"), field, config, files.PHOTO_ENDINGS)
        if file in found:
            raise SceneError(
                f"{where}: {field} is {frame['file_path']!r}, the photo of another frame; remove one"
            )
        if file is None:
            missing.append(frame["file_path"][:80])
        else:
            found[file] = frame
    found = {file: found[file] for file in sorted(found)}  # every so many-th is so by name
    if len(found) < 2:
        raise SceneError(f"{where}: {len(found)} of {len(frames)} photos are there; wanted at least 2")
    if missing:
        log.warning(
            "%s: %d photos are missing (%s, ...) and left out", where, len(missing), ", ".join(missing[:3])
        )
    photos = _photos(path, where, content, found)
    points, colors = _points(path, where, content, config)
    train, test = _split(where, content, [str(frame["file_path"]) for frame in frames], photos, found)
    hidden = _hidden(
        path, where, dict(zip((photo.name for photo in photos), found.values(), strict=True)), config
    )
    scene = scene_of(path, photos, config, points=points, colors=colors, test=test, hidden=hidden)
    scene = replace(scene, applied_transform=_applied_transform(path, where, content))
    if train is None:
        return scene
    scene = replace(scene, train=tuple(view for view in scene.train if view.name in train))
    if not scene.train:
        raise SceneError(f"{where}: no photo of train_filenames is left to train on")
    return scene


def _photos(
    path: Path, where: Path, content: dict[str, Any], found: Mapping[Path, dict[str, Any]]
) -> list[Photo]:
    sizes = {file: files.image_size(file) for file in found}
    cameras = {file: _camera(where, frame, content, sizes[file]) for file, frame in found.items()}
    keys = {file: repr(camera) for file, camera in cameras.items()}
    distinct = {keys[file]: camera for file, camera in cameras.items()}
    lenses = dict(zip(distinct, lenses_of(list(distinct.values()), where), strict=True))
    names = [_name(path, file) for file in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SceneError(f"{where}: {twice} is the photo of two frames; remove one")
    return [
        Photo(name, file, *sizes[file], lenses[keys[file]], _viewmat(where, frame))
        for name, (file, frame) in zip(names, found.items(), strict=True)
    ]


def _name(path: Path, file: Path) -> str:
    """A photo's path below the folder of photos, without its ending."""
    relative = file.with_suffix("").relative_to(path) if file.is_relative_to(path) else Path(file.stem)
    return "/".join(relative.parts[1:] or relative.parts)


def _file(
    path: Path, where: Path, name: object, field: str, config: DataConfig, endings: tuple[str, ...] = ()
) -> Path | None:
    """The file that a field names; instant-ngp leaves endings out. None if it is not there."""
    if not isinstance(name, str) or not name or not name.isprintable():
        raise SceneError(f"{where}: {field} is {repr(name)[:80]}; wanted the path of a file")
    name = name.replace("\\", "/")
    return files.existing(path, (name, *(name + ending for ending in endings)), config.allow_outside)


def _camera(
    where: Path, frame: dict[str, Any], content: dict[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    """By COLMAP's names; of the size that the file says, else the photo's."""

    def number(name: str, default: float | None = None) -> float | None:
        value = frame.get(name, content.get(name, default))
        return None if value is None else files.finite_number(value, name, where)

    model = frame.get("camera_model", content.get("camera_model", "OPENCV"))
    width, height = number("w") or float(size[0]), number("h") or float(size[1])
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    if not all(0 < angle < math.pi for angle in (angle_x, angle_y) if angle):
        raise SceneError(f"{where}: a camera_angle of {angle_x}, {angle_y}; wanted radians from 0 to pi")
    fx = number("fl_x") or (width / 2 / math.tan(angle_x / 2) if angle_x else None)
    if fx is None or not 1 <= width <= 2**20 or not 1 <= height <= 2**20:
        raise SceneError(f"{where}: no focal length and size; wanted fl_x, w and h, or camera_angle_x")
    fy = number("fl_y") or (height / 2 / math.tan(angle_y / 2) if angle_y else fx)
    cx, cy = number("cx", width / 2), number("cy", height / 2)
    k1, k2, k3, k4, p1, p2 = (number(name, 0.0) or 0.0 for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    size_and_place = {"width": round(width), "height": round(height)}
    if model == "OPENCV_FISHEYE":
        return {"model": model, **size_and_place, "params": [fx, fy, cx, cy, k1, k2, k3, k4]}
    if model not in PERSPECTIVE or k4:
        reason = (
            f"camera_model {model!r}" if model not in PERSPECTIVE else f"k4 = {k4:g} of a perspective camera"
        )
        raise SceneError(
            f"{where}: {reason}; wanted OPENCV (k1, k2, k3, p1, p2), PINHOLE or OPENCV_FISHEYE: undistort the photos"
        )
    if k3:
        return {
            "model": "FULL_OPENCV",
            **size_and_place,
            "params": [fx, fy, cx, cy, k1, k2, p1, p2, k3, 0, 0, 0],
        }
    if k1 or k2 or p1 or p2:
        return {"model": "OPENCV", **size_and_place, "params": [fx, fy, cx, cy, k1, k2, p1, p2]}
    return {"model": "PINHOLE", **size_and_place, "params": [fx, fy, cx, cy]}


def _viewmat(where: Path, frame: dict[str, Any]) -> Tensor:
    try:
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SceneError(f"{where}: {frame.get('file_path')}: no transform_matrix of 4 x 4 numbers") from None
    return viewmat_of(f"{where}: {frame.get('file_path')}", matrix)


def viewmat_of(what: str, cam_to_world: np.ndarray) -> Tensor:
    """World -> camera in OpenCV axes from a camera-to-world matrix [4 4] or [3 4] in OpenGL axes.

    Raises SceneError where it is no rotation with a translation.
    """
    if cam_to_world.shape not in ((4, 4), (3, 4)) or not np.isfinite(cam_to_world).all():
        raise SceneError(f"{what}: a pose of shape {list(cam_to_world.shape)}; wanted 4 x 4 finite numbers")
    matrix = np.eye(4)
    matrix[:3] = cam_to_world[:3]
    # Rounded text is off by 1e-4 or so; a scaled or mirrored pose by much more.
    off = np.abs(matrix[:3, :3].T @ matrix[:3, :3] - np.eye(3)).max()
    if off > 1e-2 or np.linalg.det(matrix[:3, :3]) < 0:
        raise SceneError(f"{what}: a pose that is no rotation (off by {off:.2g}); scaled or mirrored?")
    left, _, right = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = left @ right
    return torch.linalg.inv(torch.from_numpy(matrix) @ OPENGL_TO_OPENCV)


def _points(path: Path, where: Path, content: dict[str, Any], config: DataConfig) -> tuple[Tensor, Tensor]:
    name = content.get("ply_file_path")
    file = _file(path, where, name, "ply_file_path", config) if name is not None else None
    if file is None:
        if name is not None:
            log.warning("%s: ply_file_path %s is missing; starting without its points", where, name)
        return torch.zeros(0, 3), torch.zeros(0, 3)
    return read_points(file)


def _applied_transform(path: Path, where: Path, content: dict[str, Any]) -> Tensor | None:
    """What nerfstudio's dataparser takes for it: a file from before it was written lies beside colmap/sparse/0."""
    listed = content.get("applied_transform")
    if listed is None:
        if not (path / "colmap/sparse/0").is_dir():
            return None
        listed = SWAPPED
    try:
        matrix, scale = np.eye(4), float(content.get("applied_scale", 1.0))
        matrix[:3] = np.array(listed, dtype=np.float64)[:3]
        off = np.abs(matrix[:3, :3].T @ matrix[:3, :3] - np.eye(3)).max()
        good = off < 1e-2 and np.linalg.det(matrix[:3, :3]) > 0 and 0 < scale < math.inf
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:  # the cameras do not depend on it
        log.warning("%s: applied_transform is no rotation with a translation; passed over", where)
        return None
    matrix[:3] *= scale
    return torch.from_numpy(matrix)


def _split(
    where: Path,
    content: dict[str, Any],
    names: list[str],
    photos: list[Photo],
    found: Mapping[Path, dict[str, Any]],
) -> tuple[set[str] | None, set[str] | None]:
    """Names of the photos that the file keeps for training, and of those for testing, or else for validation.

    names: of all frames. None: it does not say. Raises SceneError for a list of something else than frames.
    """
    splits = ("train", "test", "val")
    if not any(content.get(f"{split}_filenames") is not None for split in splits):
        return None, None
    by_stem = {
        _stem(str(frame["file_path"])): photo.name
        for photo, frame in zip(photos, found.values(), strict=True)
    }
    known = {_stem(name) for name in names}
    lists: dict[str, set[str]] = {}
    for split in splits:
        listed = content.get(f"{split}_filenames") or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise SceneError(f"{where}: {split}_filenames is no list of file paths; wanted those of frames")
        unknown = [one for one in listed if _stem(one) not in known]
        if unknown:
            raise SceneError(
                f"{where}: {split}_filenames has {unknown[0][:80]!r}, which is no frame's file_path"
            )
        lists[split] = {by_stem[_stem(one)] for one in listed if _stem(one) in by_stem}
    test = lists["test"] or lists["val"]
    if both := lists["train"] & test:
        log.warning("%s: %d photos are for training and for testing; not trained on", where, len(both))
    return lists["train"] or None, test


def _stem(name: str) -> str:
    """A path as a frame and a list of filenames may both write it: `./images/1.png` as `images/1`."""
    name = PurePosixPath(name.replace("\\", "/")).as_posix()
    return next((name[: -len(end)] for end in files.PHOTO_ENDINGS if name.endswith(end)), name)


def _hidden(
    path: Path, where: Path, frames: Mapping[str, dict[str, Any]], config: DataConfig
) -> dict[str, Path]:
    """The images that are black where a photo's pixels are to be left out, by the photo's name."""
    hidden = {}
    for name, frame in frames.items():
        if frame.get("mask_path") is not None:
            file = _file(path, where, frame["mask_path"], "mask_path", config)
            if file is None:
                raise SceneError(
                    f"{where}: mask_path {frame['mask_path'][:80]!r} is missing; remove it from the frame"
                )
            hidden[name] = file
    if hidden:
        log.warning(
            "%s: mask_path of %d frames: left out of the segments, not of the photos", where, len(hidden)
        )
    return hidden
