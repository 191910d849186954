"""From a folder of photos (and id-map PNGs, if there are any) to a scene that `gslift fit` reads.

    python tools/prepare_photos.py photos/ scene/ --masks masks/

Camera poses come from pycolmap's incremental mapping with one shared pinhole camera: photos with strong lens
distortion should be undistorted first. Photos that cannot be registered are left out and named. Masks are id maps,
8 or 16 bit, matched by stem, 0 = no segment; ids need not agree between photos. Every fifth photo is for testing.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from gs_lift.errors import GsLiftError, SceneError
from gs_lift.files import write_text_atomic

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MEDIAN_DEPTH = 2.0
"""Scene units between a camera and the middle of what it sees; structure from motion leaves the scale open."""


def photo_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as photo:
            photo.load()
            return photo.size
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: broken photo ({error}); replace or remove it") from None


def check_photos(folder: Path) -> list[Path]:
    """The photos of a folder, all of one size."""
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder; wanted a folder of photos")
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(photos) < 5:
        raise SceneError(f"{folder}: {len(photos)} photos; wanted at least 5")
    sizes = {path: photo_size(path) for path in photos}
    for path, size in sizes.items():
        if size != sizes[photos[0]]:
            raise SceneError(
                f"{path}: {size}, but {photos[0].name} is {sizes[photos[0]]}; use photos of one size"
            )
    return photos


def map_photos(photos: Path, work: Path) -> None:
    """Poses by structure from motion, written to model.json in `work`.

    Runs in a process of its own, which it ends: pycolmap clashes with Pillow over zlib, and with Python's shutdown.
    """
    import pycolmap

    database = work / "database.db"
    reader = pycolmap.ImageReaderOptions(camera_model="PINHOLE")
    pycolmap.extract_features(database, photos, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
    pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, photos, work)
    if models:
        model = max(models.values(), key=lambda one: one.num_reg_images())
        camera = next(iter(model.cameras.values()))
        K = camera.calibration_matrix() / np.array([[camera.width], [camera.height], [1.0]])
        images = [image for image in model.images.values() if image.has_pose]
        result = {
            "K": K.tolist(),
            "poses": {image.name: image.cam_from_world().matrix().tolist() for image in images},
            "points": [point.xyz.tolist() for point in model.points3D.values()],
        }
        write_text_atomic(work / "model.json", json.dumps(result))
    os._exit(0)


def run_mapping(photos: Path) -> dict[str, Any]:
    """What `map_photos` finds, or nothing."""
    with tempfile.TemporaryDirectory() as work:
        process = multiprocessing.get_context("spawn").Process(target=map_photos, args=(photos, Path(work)))
        process.start()
        process.join()
        result = Path(work) / "model.json"
        return json.loads(result.read_text()) if result.exists() else {}


def median_depth(poses: dict[str, np.ndarray], points: np.ndarray) -> float:
    """Median distance along the optical axis of the points in front of each camera."""
    depths = np.concatenate([points @ pose[2, :3] + pose[2, 3] for pose in poses.values()])
    return float(np.median(depths[depths > 0]))


def blender_pose(world_to_camera: np.ndarray, scale: float) -> tuple[list[float], list[float]]:
    """Position and quaternion (wxyz) of the camera in the world, y up and z backward."""
    from scipy.spatial.transform import Rotation

    rotation = world_to_camera[:, :3].T
    position = -rotation @ world_to_camera[:, 3] * scale
    xyzw = Rotation.from_matrix(rotation @ np.diag([1.0, -1.0, -1.0])).as_quat()
    return position.tolist(), xyzw[[3, 0, 1, 2]].tolist()


def write_segments(mask: Path | None, frame: str, out: Path, size: tuple[int, int]) -> None:
    """One frame's detic_* arrays from an id map, resized by nearest neighbour; without one, no segments."""
    ids = np.zeros(size[::-1], dtype=np.int32)
    if mask is not None:
        with Image.open(mask) as image:
            ids = np.asarray(image.resize(size, Image.Resampling.NEAREST)).astype(np.int32)
        if ids.ndim != 2:
            raise SceneError(f"{mask}: wanted one channel of ids, got {ids.shape[2]} channels")
    for name, array in {
        "instance": ids,
        "semantic": (ids > 0).astype(np.uint8),
        "probabilities": np.ones(ids.shape, dtype=np.float16),
    }.items():
        folder = out / f"detic_{name}"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{frame}.npy", array)


def prepare(photos: Path, out: Path, masks: Path | None, max_size: int) -> None:
    if (out / "metadata.json").exists():
        raise SceneError(f"{out}: already a scene; name another folder")
    found = check_photos(photos)
    print(f"{len(found)} photos; matching and mapping (minutes) ...")
    model = run_mapping(photos)
    poses = {name: np.array(pose) for name, pose in model.get("poses", {}).items()}
    if len(poses) < 5:
        raise SceneError(
            f"{photos}: only {len(poses)} photos could be registered; take more, with more overlap"
        )
    write_scene(photos, out, masks, model, poses, max_size)
    missing = [path.name for path in found if path.name not in poses]
    print(
        f"wrote {out}: {len(poses)} of {len(found)} photos"
        + (f"; left out: {', '.join(missing)}" if missing else "")
    )


def write_scene(
    photos: Path,
    out: Path,
    masks: Path | None,
    model: dict[str, Any],
    poses: dict[str, np.ndarray],
    max_size: int,
) -> None:
    """The Messy Rooms layout: training views first, every fifth view last."""
    names = sorted(poses)
    names = [name for i, name in enumerate(names) if i % 5 != 2] + names[2::5]
    scale = MEDIAN_DEPTH / median_depth(poses, np.array(model["points"]))
    mask_of = {path.stem: path for path in sorted(masks.glob("*.png"))} if masks else {}
    (out / "color").mkdir(parents=True, exist_ok=True)
    camera: dict[str, Any] = {"K": model["K"], "positions": [], "quaternions": []}
    for index, name in enumerate(names):
        frame = f"{index:05d}"
        with Image.open(photos / name) as photo:
            photo.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
            photo.convert("RGB").save(out / "color" / f"{frame}.png")
            write_segments(mask_of.get(Path(name).stem), frame, out, photo.size)
        position, quaternion = blender_pose(poses[name], scale)
        camera["positions"].append(position)
        camera["quaternions"].append(quaternion)
    write_text_atomic(out / "metadata.json", json.dumps({"camera": camera, "photos": names}))
    if masks:
        print(
            f"{sum(Path(name).stem in mask_of for name in names)} of {len(names)} photos have a mask in {masks}"
        )


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photos.")],
    out: Annotated[Path, typer.Argument(help="Scene folder to write.")],
    masks: Annotated[Path | None, typer.Option(help="Folder of id-map PNGs.")] = None,
    max_size: Annotated[int, typer.Option(help="Longer side of a view, pixels.")] = 480,
) -> None:
    try:
        prepare(photos, out, masks, max_size)
    except GsLiftError as error:
        print(f"prepare_photos: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
