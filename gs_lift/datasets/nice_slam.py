"""Replica as NICE-SLAM rendered it: photos and depth, no truth of objects.

    results/frame000000.jpg, depth000000.png     depth: 16 bit, in cam_params.json's scale, 0 = none
    traj.txt                one camera-to-world matrix a line, OpenCV axes
    ../cam_params.json      camera: w, h, fx, fy, cx, cy, scale; also looked for beside traj.txt
    masks/ and the like     optional; segments: see masks.py

cx and cy count from the centre of the first pixel (599.5 of 1200), so .5 is added. Every data.test_every-th photo is
for testing. There is no truth: only the pictures can be scored.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.colmap import scene_of
from gs_lift.datasets.lens import Lens, lenses_of
from gs_lift.datasets.nerfstudio import viewmat_of
from gs_lift.datasets.photos import Photo, photo_view
from gs_lift.errors import SceneError
from gs_lift.geometry import OPENGL_TO_OPENCV
from gs_lift.scene import Scene

log = logging.getLogger(__name__)

LAYOUT = "results/frame*.jpg beside traj.txt of NICE-SLAM's Replica"

MOST_POSES = 10**6


def matches(path: Path) -> bool:
    return (path / "traj.txt").is_file() and (path / "results").is_dir()


def read(path: Path, config: DataConfig) -> Scene:
    paths = [one for one in files.list_photos(path / "results") if one.stem.startswith("frame")]
    poses = _poses(path / "traj.txt", config, path)
    if len(paths) != len(poses) or len(paths) < 2:
        raise SceneError(
            f"{path}: {len(paths)} photos and {len(poses)} poses; wanted as many, and at least 2"
        )
    lens, scale = _camera(path, config)
    photos = []
    for photo, pose in zip(paths, poses, strict=True):
        files.check_inside(path, photo, config.allow_outside)
        opengl = pose @ OPENGL_TO_OPENCV.numpy()
        photos.append(
            Photo(photo.stem, photo, *files.image_size(photo), lens, viewmat_of(str(photo), opengl))
        )
    log.warning("%s: no truth of objects comes with it; only the pictures can be scored", path)
    nothing = torch.zeros(0, 3)
    scene = scene_of(path, photos, config, points=nothing, colors=nothing)
    by_name = {photo.name: photo for photo in photos}
    with_depth = [
        tuple(replace(view, depth=_depth(by_name[view.name], scale, config)) for view in views)
        for views in (scene.train, scene.test)
    ]
    return replace(scene, train=with_depth[0], test=with_depth[1])


def _depth(photo: Photo, scale: float, config: DataConfig) -> Any:
    """What reads the depth of a view in metres; None where there is no file."""
    file = photo.path.with_name(photo.path.stem.replace("frame", "depth") + ".png")
    if not file.is_file():
        return None
    read = partial(_read_depth, file, photo.width, photo.height, scale)
    return photo_view(photo, None, read, config.max_size).depth


def _read_depth(file: Path, width: int, height: int, scale: float) -> torch.Tensor:
    return files.read_depth_mm(file, width, height) * (1000 / scale)


def _poses(file: Path, config: DataConfig, root: Path) -> np.ndarray:
    """[N 4 4]."""
    files.check_inside(root, file, config.allow_outside)
    try:
        if file.stat().st_size > MOST_POSES * 400:
            raise SceneError(f"{file}: {file.stat().st_size >> 20} MiB; wanted at most {MOST_POSES} poses")
        values = np.array([float(word) for word in file.read_text().split()])
    except (OSError, ValueError) as error:
        raise SceneError(f"{file}: not lines of 16 numbers ({' '.join(str(error).split())[:80]})") from None
    if len(values) % 16:
        raise SceneError(f"{file}: {len(values)} numbers; wanted 16 for each photo")
    return values.reshape(-1, 4, 4)


def _camera(path: Path, config: DataConfig) -> tuple[Lens, float]:
    """The camera of all photos, and depth's units per metre."""
    # The data set keeps one file for all its scenes above them: not a link that leads out, but where it belongs.
    file = next(
        (one / "cam_params.json" for one in (path, path.parent) if (one / "cam_params.json").is_file()), None
    )
    if file is None:
        raise SceneError(f"{path}: no cam_params.json, here or in the folder above")
    if file.parent == path:
        files.check_inside(path, file, config.allow_outside)
    content = files.read_json(file).get("camera")
    names = ("w", "h", "fx", "fy", "cx", "cy", "scale")
    if not isinstance(content, dict) or not all(name in content for name in names):
        raise SceneError(f"{file}: wanted camera with {', '.join(names)}")
    width, height, fx, fy, cx, cy, scale = (files.finite_number(content[one], one, file) for one in names)
    if scale <= 0:
        raise SceneError(f"{file}: scale is {scale:g}; wanted depth's units per metre, over 0")
    params = [fx, fy, cx + 0.5, cy + 0.5]
    camera = {"model": "PINHOLE", "width": round(width), "height": round(height), "params": params}
    return lenses_of([camera], file)[0], scale
