"""What pycolmap knows, read in a process of its own, run as a script: `python colmap_worker.py model|lenses IN OUT`.

A process of its own, because one that imports pycolmap 4.2.1 first crashes when Pillow writes a PNG (two
zlibs), and because a damaged model may end it; and by path, not by `-m`, because the package around it imports torch.

model: IN is a folder of a COLMAP model, binary or text. OUT, an .npz, gets of its I registered images, C cameras and P
    points: names [I], camera [I] (index), viewmats [I 4 4]; lenses as below; means [P 3], colors [P 3] uint8.
lenses: IN is a JSON list of {"model", "width", "height", "params"} by COLMAP's names. OUT gets of each: models [C],
    params [C 12] (zeros behind its own), sizes [C 2] (width, height), and of the pinhole camera that sees only what the
    lens has seen, pinholes [C 4] (fx, fy, cx, cy) and pinhole_sizes [C 2].
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MOST_PARAMS = 12

MOST_LENGTH = 1 << 16
"""Pixels of a photo's side: JPEG has no more, and pycolmap walks along the borders of what it undistorts."""

MOST_MEMORY = 16 << 30
"""Bytes of address space: a file that claims more than it holds ends this process, not the machine."""


def main(what: str, source: str, target: Path) -> None:
    import pycolmap

    pycolmap.logging.minloglevel = 3
    if what == "model":
        result = model(pycolmap, source)
    else:
        cameras = [pycolmap.Camera(**one) for one in json.loads(Path(source).read_text())]
        result = lenses(pycolmap, cameras)
    part = target.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, **result)
    os.replace(part, target)


def check_binary(folder: Path) -> None:
    """Raise ValueError where a binary file ends before what it promises: pycolmap would read on, into anything.

    The layout is COLMAP's (src/colmap/scene/reconstruction_io_binary.cc).
    """
    images, points = folder / "images.bin", folder / "points3D.bin"
    if images.is_file():
        content = images.read_bytes()

        def image(at: int) -> int:  # id, pose, camera; a name that ends in 0; points of 24 bytes
            end = content.index(b"\0", at + 64) + 1
            return end + 8 + 24 * int.from_bytes(content[end : end + 8], "little")

        _walk(images, content, 73, image)
    if points.is_file():
        content = points.read_bytes()

        def point(at: int) -> int:  # id, place, colour, error; a track of 8 bytes a step
            return at + 51 + 8 * int.from_bytes(content[at + 43 : at + 51], "little")

        _walk(points, content, 51, point)


def _walk(path: Path, content: bytes, least: int, after: Callable[[int], int]) -> None:
    """after: from the place of an entry of at least `least` bytes to that behind it."""
    count, place = int.from_bytes(content[:8], "little"), 8
    if 8 + count * least > len(content):
        raise ValueError(f"{path.name} promises {count} entries in {len(content)} bytes")
    for entry in range(count):
        if place + least > len(content) or (place := after(place)) > len(content):
            raise ValueError(f"{path.name} ends within entry {entry + 1} of {count}")


def model(pycolmap: Any, folder: str) -> dict[str, np.ndarray]:
    check_binary(Path(folder))
    reconstruction = pycolmap.Reconstruction(folder)
    images = sorted((one for one in reconstruction.images.values() if one.has_pose), key=lambda one: one.name)
    if not images:
        raise ValueError("no image has a pose")
    ids = sorted({one.camera_id for one in images})
    viewmats = np.tile(np.eye(4), (len(images), 1, 1))
    for viewmat, image in zip(viewmats, images, strict=True):
        pose = image.cam_from_world()
        # pycolmap takes quaternions as they are; rounded ones are off by 1e-6 or so.
        length = np.linalg.norm(pose.rotation.quat)
        if not abs(length - 1) < 1e-2:  # NaN included
            raise ValueError(f"{image.name!r} has a quaternion of length {length:.2g}; wanted a rotation")
        viewmat[:3, :3] = pycolmap.Rotation3d(pose.rotation.quat / length).matrix()
        viewmat[:3, 3] = pose.translation
    points = list(reconstruction.points3D.values())
    return {
        "names": np.array([one.name for one in images], dtype=np.str_),
        "camera": np.array([ids.index(one.camera_id) for one in images], dtype=np.int64),
        "viewmats": viewmats,
        "means": np.array([one.xyz for one in points], dtype=np.float64).reshape(-1, 3),
        "colors": np.array([one.color for one in points], dtype=np.uint8).reshape(-1, 3),
        **lenses(pycolmap, [reconstruction.cameras[one] for one in ids]),
    }


def lenses(pycolmap: Any, cameras: list[Any]) -> dict[str, np.ndarray]:
    params = np.zeros((len(cameras), MOST_PARAMS))
    pinholes = np.zeros((len(cameras), 4))
    sizes = np.zeros((2, len(cameras), 2), dtype=np.int64)
    for place, camera in enumerate(cameras):
        own = np.asarray(camera.params)[:MOST_PARAMS]
        params[place, : len(own)] = own
        if not camera.verify_params():
            raise ValueError(f"a {camera.model_name} camera with {len(camera.params)} parameters")
        if max(camera.width, camera.height) > MOST_LENGTH or min(camera.width, camera.height) < 1:
            raise ValueError(f"a {camera.model_name} camera of {camera.width}x{camera.height} pixels")
        options = pycolmap.UndistortCameraOptions()
        flat = camera if camera.is_undistorted() else pycolmap.undistort_camera(options, camera)
        focals = (flat.focal_length_x, flat.focal_length_y)
        pinholes[place] = (*focals, flat.principal_point_x, flat.principal_point_y)
        sizes[:, place] = (camera.width, camera.height), (flat.width, flat.height)
    models = np.array([camera.model_name for camera in cameras], dtype=np.str_)
    return {
        "models": models,
        "params": params,
        "sizes": sizes[0],
        "pinholes": pinholes,
        "pinhole_sizes": sizes[1],
    }


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except Exception as error:  # pycolmap raises a dozen types; the parent makes one line of it
        print(" ".join(str(error).split())[-300:] or type(error).__name__)
        sys.exit(1)
