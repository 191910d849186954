"""Small scenes for tests: a folder in the Messy Rooms layout, and textured planes whose surface is known exactly."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gs_lift.geometry import OPENGL_TO_OPENCV, look_at, pixel_centers
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import Classes

STEP_HEIGHT = 0.4
"""Height of the step in textured_scene."""


def ring(count: int, *, radius: float = 0.6, height: float = 1.5) -> list[Tensor]:
    """Viewmats of cameras on a ring, looking at the origin; z is up."""
    up, origin = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64) / count * 2 * torch.pi
    places = torch.stack(
        [radius * angles.cos(), radius * angles.sin(), torch.full_like(angles, height)], dim=1
    )
    return [look_at(place, origin, up) for place in places]


def quat_wxyz(rotation: np.ndarray) -> np.ndarray:
    """Of a rotation matrix, by the eigenvector of its Davenport matrix (an oracle: gs_lift only goes the other way)."""
    m = rotation
    antisymmetric = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    davenport = np.zeros((4, 4))
    davenport[0, 0], davenport[0, 1:], davenport[1:, 0] = np.trace(m), antisymmetric, antisymmetric
    davenport[1:, 1:] = m + m.T - np.trace(m) * np.eye(3)
    return np.linalg.eigh(davenport)[1][:, -1]


def write_room(
    folder: Path, *, frames: int = 5, width: int = 12, height: int = 8, seed: int = 0, maps: bool = True
) -> Path:
    """A scene folder with random pixels; cameras on a ring. With `maps` also segments, truth and depth."""
    rng = np.random.default_rng(seed)
    for name in ("color", *(("detic_instance", "detic_semantic", "detic_probabilities") if maps else ())):
        (folder / name).mkdir(parents=True)
    for name in ("instance", "semantic", "depth") if maps else ():
        (folder / name).mkdir()
    positions, quaternions = [], []
    for i, viewmat in enumerate(ring(frames)):
        blender = (torch.linalg.inv(viewmat) @ OPENGL_TO_OPENCV).numpy()
        positions.append(blender[:3, 3].tolist())
        quaternions.append(quat_wxyz(blender[:3, :3]).tolist())
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "color" / f"{i:05d}.png")
        if maps:
            _write_maps(folder, f"{i:05d}", (height, width), rng)
    K = [[0.9, 0.0, 0.5], [0.0, 1.35, 0.5], [0.0, 0.0, 1.0]]
    camera = {"K": K, "positions": positions, "quaternions": quaternions}
    (folder / "metadata.json").write_text(json.dumps({"camera": camera}))
    return folder


def _write_maps(folder: Path, stem: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    ids = rng.integers(0, 4, shape)
    np.save(folder / "detic_instance" / f"{stem}.npy", ids.astype(np.uint8))
    np.save(folder / "detic_semantic" / f"{stem}.npy", (ids > 0).astype(np.uint8))
    confidence = np.where(ids > 0, rng.uniform(0.3, 1, shape), 1)
    np.save(folder / "detic_probabilities" / f"{stem}.npy", confidence.astype(np.float16))
    np.save(folder / "instance" / f"{stem}.npy", ids.astype(np.int16))
    np.save(folder / "semantic" / f"{stem}.npy", (ids > 0).astype(np.uint8))
    depth = rng.integers(1000, 3000, shape, dtype=np.uint16)
    Image.fromarray(depth).save(folder / "depth" / f"{stem}.png")


def textured_scene(*, views: int = 8, size: int = 96, seed: int = 0) -> Scene:
    """A textured floor at z = 0 with a square step at z = STEP_HEIGHT, seen from a ring of cameras."""
    texture = _texture(seed)
    K = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = [Camera(K, viewmat, size, size) for viewmat in ring(views)]
    train = tuple(_rendered(f"{i}", camera, texture) for i, camera in enumerate(cameras))
    nothing = torch.zeros(0, 3)
    return Scene("step", train, (), nothing, nothing, Classes(("background", "object"), (False, True)))


def _texture(seed: int) -> Tensor:
    """Noise of several frequencies [1 3 512 512] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, size, size, generator=generator),
            size=(512, 512),
            mode="bicubic",
            align_corners=False,
        )
        for size in (16, 48, 128)
    ]
    return torch.stack(layers).mean(dim=0).clamp(0, 1)


def _rendered(name: str, camera: Camera, texture: Tensor) -> View:
    pixels = torch.cat(
        [pixel_centers(camera.height, camera.width), torch.ones(camera.height, camera.width, 1)], dim=-1
    ).double()
    rays = pixels @ torch.linalg.inv(camera.K).T @ camera.viewmat[:3, :3]

    def reach(z: float) -> tuple[Tensor, Tensor]:
        depth = (z - camera.position[2]) / rays[..., 2]
        return depth, camera.position + depth[..., None] * rays

    floor_depth, floor = reach(0.0)
    step_depth, step = reach(STEP_HEIGHT)
    on_step = (step[..., :2].abs() < 0.3).all(dim=-1)
    points = torch.where(on_step[..., None], step, floor)
    # The step shows another part of the texture than the floor around it.
    places = points[..., :2] / 2 + on_step[..., None] * 0.37
    colors = torch.nn.functional.grid_sample(
        texture, places[None].float(), align_corners=False, padding_mode="reflection"
    )
    image, depth = (
        colors[0].permute(1, 2, 0).contiguous(),
        torch.where(on_step, step_depth, floor_depth).float(),
    )
    return View(name, camera, image=lambda: image, depth=lambda: depth)
