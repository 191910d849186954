"""Points from the training photos and their known cameras: SIFT features, matched, triangulated; then densified."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SceneError
from gs_lift.points.features import extract
from gs_lift.points.matching import Rig, choose_pairs, match_pair
from gs_lift.points.tracks import Tracks, build_tracks
from gs_lift.scene import Camera, Scene

log = logging.getLogger(__name__)

MIN_POINTS = 100
"""Fewer are not worth starting from."""

NEIGHBOURS = 10
"""Photos that each photo is matched with."""

TOLERANCE_PX = 1.0
"""Largest distance from the epipolar line and reprojection error."""


def triangulate(
    scene: Scene,
    *,
    seed: int,
    count: int,
    workdir: Path | None,
    on_step: Callable[[int, dict[str, float]], None],
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """Points of a scene's surfaces with their colours, at most `count`.

    on_step's steps are photos whose features are found. Raises SceneError if fewer than MIN_POINTS come out.
    """
    cameras = [view.camera for view in scene.train]
    images = [view.image() for view in scene.train]
    rig = make_rig(cameras)
    grays = [_gray(image).numpy() for image in images]
    features = extract(
        grays, workers=torch.get_num_threads(), workdir=workdir, on_image=lambda done: on_step(done, {})
    )
    first = np.cumsum([0, *(len(f) for f in features)])
    matches = [
        np.stack([first[i] + a, first[j] + b], axis=1)
        for i, j in choose_pairs(rig, NEIGHBOURS)
        for a, b in [match_pair(rig, i, j, features, TOLERANCE_PX)]
    ]
    table = np.concatenate(matches) if matches else np.zeros((0, 2), np.int64)
    tracks = build_tracks(rig, features, table, TOLERANCE_PX)
    if len(tracks.points) < MIN_POINTS:
        raise SceneError(
            f"{scene.name}: only {len(tracks.points)} points could be triangulated from {len(images)} photos; "
            "check the poses, or use data.init=random or data.init=depth"
        )
    log.info(
        "%d points, %.2f px, %.1f views each",
        len(tracks.points),
        tracks.errors_px.mean(),
        tracks.views.mean(),
    )
    xy = np.concatenate([f.xy for f in features])
    camera = np.repeat(np.arange(len(features)), [len(f) for f in features])
    colors = _colors(images, tracks, camera, xy)
    return torch.from_numpy(tracks.points).float(), colors


def make_rig(cameras: list[Camera]) -> Rig:
    viewmats = torch.stack([camera.viewmat for camera in cameras]).double().numpy()
    K = torch.stack([camera.K for camera in cameras]).double().numpy()
    rotations, translations = viewmats[:, :3, :3], viewmats[:, :3, 3]
    return Rig(K, rotations, translations, -np.einsum("cji,cj->ci", rotations, translations))


def _gray(image: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"]:
    """Luma (ITU-R BT.601)."""
    return 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]


def _colors(
    images: list[Float[Tensor, "H W 3"]], tracks: Tracks, camera: np.ndarray, xy: np.ndarray
) -> Float[Tensor, "P 3"]:
    """The mean colour of the pixels that see each point."""
    seen = np.zeros((len(tracks.feature), 3))
    for c, image in enumerate(images):
        rows = np.flatnonzero(camera[tracks.feature] == c)
        pixel = np.floor(xy[tracks.feature[rows]]).astype(np.int64)
        height, width = image.shape[:2]
        seen[rows] = image.numpy()[pixel[:, 1].clip(0, height - 1), pixel[:, 0].clip(0, width - 1)]
    total = [np.bincount(tracks.point, weights=channel, minlength=len(tracks.points)) for channel in seen.T]
    return torch.from_numpy(np.stack(total, axis=1) / tracks.views[:, None]).float()
