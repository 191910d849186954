"""A raw export of Polycam ("raw data").

    keyframes/corrected_images/, corrected_cameras/     photos without their lens, and their cameras; else
    keyframes/images/, cameras/
    cameras/<stem>.json     t_00 ... t_23 (camera to world, OpenGL axes, y up), fx, fy, cx, cy, width, height
    masks/ and the like     optional; segments: see masks.py

The world is turned to z up, as nerfstudio turns it. Every data.test_every-th photo is for testing.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.colmap import scene_of
from gs_lift.datasets.lens import lenses_of
from gs_lift.datasets.nerfstudio import viewmat_of
from gs_lift.datasets.photos import Photo
from gs_lift.errors import SceneError
from gs_lift.scene import Scene

log = logging.getLogger(__name__)

LAYOUT = "keyframes/images and keyframes/cameras of Polycam's raw export"

PAIRS = (("corrected_images", "corrected_cameras"), ("images", "cameras"))
Z_UP = (2, 0, 1)
"""Rows of t_ij from which those of the matrix come."""


def matches(path: Path) -> bool:
    return _folders(path) is not None


def _folders(path: Path) -> tuple[Path, Path] | None:
    root = path / "keyframes"
    pairs = ((root / images, root / cameras) for images, cameras in PAIRS)
    return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)


def read(path: Path, config: DataConfig) -> Scene:
    folders = _folders(path)
    if folders is None:
        raise SceneError(f"{path}: no photos and cameras; wanted {LAYOUT}")
    images, cameras = folders
    found: list[tuple[Path, dict[str, Any], np.ndarray]] = []
    for photo in files.list_photos(images):
        file = cameras / f"{photo.stem}.json"
        if not file.is_file():
            log.warning("%s: no %s; left out", photo, file.name)
            continue
        for one in (photo, file):
            files.check_inside(path, one, config.allow_outside)
        found.append((photo, *_camera(file)))
    if len(found) < 2:
        raise SceneError(f"{images}: {len(found)} photos with a camera; wanted at least 2")
    lenses = lenses_of([camera for _, camera, _ in found], cameras)
    photos = [
        Photo(photo.stem, photo, *files.image_size(photo), lens, viewmat_of(str(photo), pose))
        for lens, (photo, _, pose) in zip(lenses, found, strict=True)
    ]
    nothing = torch.zeros(0, 3)
    return scene_of(path, photos, config, points=nothing, colors=nothing)


def _camera(file: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The camera by COLMAP's names, and its pose [3 4]."""
    content = files.read_json(file)

    def number(name: str) -> float:
        return files.finite_number(content.get(name), name, file)

    width, height = number("width"), number("height")
    params = [number(name) for name in ("fx", "fy", "cx", "cy")]
    pose = np.array([[number(f"t_{row}{column}") for column in range(4)] for row in Z_UP])
    return {"model": "PINHOLE", "width": round(width), "height": round(height), "params": params}, pose
