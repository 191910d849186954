"""One true scene of a few photos, cameras, points and segments, written in every layout that has photos and poses."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rooms import quat_wxyz, ring

from gs_lift.geometry import OPENGL_TO_OPENCV

WIDTH, HEIGHT = 24, 16
FX, FY, CX, CY = 21.0, 22.0, 12.5, 7.75


@dataclass(frozen=True)
class TrueScene:
    """names [I]; photos [I H W 3] uint8; viewmats [I 4 4]; means [P 3]; colors [P 3] uint8; ids [I H W], 0 = none."""

    names: list[str]
    photos: np.ndarray
    viewmats: np.ndarray
    means: np.ndarray
    colors: np.ndarray
    ids: np.ndarray

    @property
    def opengl(self) -> np.ndarray:
        """[I 4 4] Camera to world."""
        return np.linalg.inv(self.viewmats) @ OPENGL_TO_OPENCV.numpy()


def true_scene(count: int = 6, seed: int = 0) -> TrueScene:
    rng = np.random.default_rng(seed)
    return TrueScene(
        names=[f"{i:04d}" for i in range(count)],
        photos=rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8),
        viewmats=torch.stack(ring(count)).numpy(),
        means=rng.normal(size=(9, 3)),
        colors=rng.integers(0, 256, (9, 3), dtype=np.uint8),
        ids=np.repeat(np.repeat(rng.integers(0, 4, (count, 4, 4)), 4, axis=1), 6, axis=2),
    )


def write_photos(folder: Path, scene: TrueScene, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, photo in zip(scene.names, scene.photos, strict=True):
        Image.fromarray(photo).save(folder / f"{prefix}{name}.png")


def write_masks(folder: Path, scene: TrueScene, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in zip(scene.names, scene.ids, strict=True):
        Image.fromarray(ids.astype(np.uint16)).save(folder / f"{prefix}{name}.png")


COLMAP_IDS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
}


def write_colmap(
    folder: Path,
    scene: TrueScene,
    *,
    binary: bool = True,
    model: str = "PINHOLE",
    params: tuple[float, ...] = (FX, FY, CX, CY),
    where: str = "sparse/0",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """COLMAP's documented formats; no point is seen in any image, which the format allows."""
    write_photos(folder / "images", scene)
    write_masks(folder / "masks", scene)
    sparse = folder / where
    sparse.mkdir(parents=True, exist_ok=True)
    poses = [(quat_wxyz(viewmat[:3, :3]), viewmat[:3, 3]) for viewmat in scene.viewmats]
    if binary:
        _write_colmap_binary(sparse, scene, poses, model, params, size)
    else:
        lines = [f"1 {model} {size[0]} {size[1]} {' '.join(map(repr, params))}"]
        (sparse / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = []
        for number, (name, (quat, t)) in enumerate(zip(scene.names, poses, strict=True), start=1):
            pose = " ".join(repr(float(one)) for one in (*quat, *t))
            lines += [f"{number} {pose} 1 {name}.png", ""]
        (sparse / "images.txt").write_text("\n".join(lines) + "\n")
        lines = []
        for number, (mean, color) in enumerate(zip(scene.means, scene.colors, strict=True), start=1):
            place = " ".join(repr(float(one)) for one in mean)
            lines.append(f"{number} {place} {' '.join(map(str, color))} 0.5")
        (sparse / "points3D.txt").write_text("\n".join(lines) + "\n")
    return folder


def _write_colmap_binary(
    sparse: Path,
    scene: TrueScene,
    poses: list[tuple[np.ndarray, np.ndarray]],
    model: str,
    params: tuple[float, ...],
    size: tuple[int, int],
) -> None:
    camera = struct.pack("<iiQQ", 1, COLMAP_IDS[model], *size) + struct.pack(f"<{len(params)}d", *params)
    (sparse / "cameras.bin").write_bytes(struct.pack("<Q", 1) + camera)
    images = struct.pack("<Q", len(scene.names))
    for number, (name, (quat, t)) in enumerate(zip(scene.names, poses, strict=True), start=1):
        images += (
            struct.pack("<i7di", number, *quat, *t, 1) + f"{name}.png".encode() + b"\0" + struct.pack("<Q", 0)
        )
    (sparse / "images.bin").write_bytes(images)
    points = struct.pack("<Q", len(scene.means))
    for number, (mean, color) in enumerate(zip(scene.means, scene.colors, strict=True), start=1):
        points += struct.pack("<Q3d3Bd", number, *mean, *color.tolist(), 0.5) + struct.pack("<Q", 0)
    (sparse / "points3D.bin").write_bytes(points)


def write_nerfstudio(folder: Path, scene: TrueScene, **fields: object) -> Path:
    """fields: further ones of the file, or in the place of its own; None leaves one out."""
    write_photos(folder / "images", scene)
    write_masks(folder / "masks", scene)
    frames = [
        {"file_path": f"images/{name}.png", "transform_matrix": pose.tolist()}
        for name, pose in zip(scene.names, scene.opengl, strict=True)
    ]
    camera = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT}
    content = camera | {"frames": frames, "ply_file_path": "points.ply"} | fields
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(content))
    write_points(folder / "points.ply", scene)
    return folder


def write_points(path: Path, scene: TrueScene) -> None:
    header = ["ply", "format ascii 1.0", f"element vertex {len(scene.means)}"]
    header += [f"property float {name}" for name in "xyz"]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    rows = [
        f"{' '.join(f'{one:.9g}' for one in mean)} {' '.join(map(str, color))}"
        for mean, color in zip(scene.means, scene.colors, strict=True)
    ]
    path.write_text("\n".join([*header, "end_header", *rows]) + "\n")


def write_polycam(folder: Path, scene: TrueScene) -> Path:
    """Its rows are y, z, x of nerfstudio's z up."""
    write_photos(folder / "keyframes" / "corrected_images", scene)
    write_masks(folder / "masks", scene)
    cameras = folder / "keyframes" / "corrected_cameras"
    cameras.mkdir()
    for name, pose in zip(scene.names, scene.opengl, strict=True):
        rows = {2: pose[0], 0: pose[1], 1: pose[2]}
        content = {f"t_{row}{column}": float(rows[row][column]) for row in rows for column in range(4)}
        content |= {
            "fx": FX,
            "fy": FY,
            "cx": CX,
            "cy": CY,
            "width": WIDTH,
            "height": HEIGHT,
            "blur_score": 90.0,
        }
        (cameras / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_nice_slam(folder: Path, scene: TrueScene) -> Path:
    write_photos(folder / "results", scene, prefix="frame")
    write_masks(folder / "masks", scene, prefix="frame")
    for name in scene.names:
        Image.fromarray(np.full((HEIGHT, WIDTH), 13107, np.uint16)).save(
            folder / "results" / f"depth{name}.png"
        )
    poses = np.linalg.inv(scene.viewmats)
    lines = [" ".join(repr(float(one)) for one in pose.ravel()) for pose in poses]
    (folder / "traj.txt").write_text("\n".join(lines) + "\n")
    camera = {"w": WIDTH, "h": HEIGHT, "fx": FX, "fy": FY, "cx": CX - 0.5, "cy": CY - 0.5, "scale": 6553.5}
    (folder.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder


def write_messy_rooms(folder: Path, scene: TrueScene) -> Path:
    """K is divided by the size; poses are positions and quaternions in Blender axes."""
    write_photos(folder / "color", scene)
    for name in ("detic_instance", "detic_semantic"):
        (folder / name).mkdir()
    for name, ids in zip(scene.names, scene.ids, strict=True):
        np.save(folder / "detic_instance" / f"{name}.npy", ids)
        np.save(folder / "detic_semantic" / f"{name}.npy", (ids > 0).astype(np.int64))
    camera = {
        "K": [[FX / WIDTH, 0, CX / WIDTH], [0, FY / HEIGHT, CY / HEIGHT], [0, 0, 1]],
        "positions": [pose[:3, 3].tolist() for pose in scene.opengl],
        "quaternions": [quat_wxyz(pose[:3, :3]).tolist() for pose in scene.opengl],
    }
    (folder / "metadata.json").write_text(json.dumps({"camera": camera}))
    return folder


CHAIR, WALL = 5, 1
"""Among Panoptic Lifting's classes."""


def write_panoptic_lifting(folder: Path, scene: TrueScene) -> Path:
    """Its pixel centres lie at whole numbers; segments are chairs before a wall."""
    write_photos(folder / "color", scene)
    write_masks(folder / "m2f_instance", scene)
    for name in ("pose", "intrinsic", "m2f_semantics"):
        (folder / name).mkdir()
    for name, viewmat, ids in zip(scene.names, scene.viewmats, scene.ids, strict=True):
        np.savetxt(folder / "pose" / f"{name}.txt", np.linalg.inv(viewmat))
        classes = np.where(ids > 0, CHAIR, WALL).astype(np.uint8)
        Image.fromarray(classes).save(folder / "m2f_semantics" / f"{name}.png")
    K = np.eye(4)
    K[:2, :3] = [[FX, 0, CX - 0.5], [0, FY, CY - 0.5]]
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", K)
    return folder
