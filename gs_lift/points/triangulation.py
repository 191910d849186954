"""Points from the training photos and their cameras: SIFT matched on epipolar planes, then a plane sweep."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import TooFewPoints
from gs_lift.points.features import Features, extract
from gs_lift.points.matching import Rig, choose_pairs, differences, match_pair, scales
from gs_lift.points.sweep import Photo, sweep
from gs_lift.points.tracks import Tracks, build_tracks
from gs_lift.progress import OnStep
from gs_lift.scene import Scene, View

log = logging.getLogger(__name__)

MIN_POINTS = 100
"""Fewer triangulated points are not worth starting from, and say that the poses are wrong."""

NEIGHBOURS = 10
"""Photos that each photo is matched with."""

TOLERANCE_PX = 1.0
"""Largest distance of a match from its epipolar line, and largest reprojection error of a point."""

FEATURE_SIDE, FEATURE_VIEWS = 640, 128
"""Larger photos are reduced to this longer side; of more photos, the most different ones are taken."""

SWEEP_SIDE, SWEEP_VIEWS = 320, 64
"""The same for the plane sweep, whose cost grows with every pixel."""

GUESSED = 0.3
"""Share of guesses on plain surfaces among the swept points. Test PSNR of messy_sam_50 after 600 steps from
50,000 points, for shares of 0, 0.2 and 0.3 (one run each): 27.9, 28.6, 28.6 dB; from depth maps 29.0."""


def triangulate(
    scene: Scene,
    *,
    seed: int,
    count: int,
    workdir: Path | None,
    on_step: OnStep,
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """Points on a scene's surfaces with their colours, at most `count`: triangulated, then swept, then guessed.

    Raises TooFewPoints if fewer than MIN_POINTS can be triangulated, SceneError if a photo cannot be read,
    BackendError if pycolmap does not run.
    """
    # Chosen by their cameras alone, so that no other photo is decoded.
    views = [scene.train[i] for i in most_different(make_rig(scene.train), FEATURE_VIEWS)]
    photos = [Photo.make(view.image(), view.camera, FEATURE_SIDE) for view in views]
    swept = most_different(make_rig(photos), SWEEP_VIEWS)
    steps = {"steps": float(len(photos) + len(swept))}
    features = extract(
        [photo.gray[0, 0].numpy() for photo in photos],
        workers=torch.get_num_threads(),
        workdir=workdir,
        on_image=lambda done: on_step(done, steps),
    )
    tracks = make_tracks(make_rig(photos), features)
    if len(tracks.points) < MIN_POINTS:
        raise TooFewPoints(
            f"{scene.name}: {len(tracks.points)} points triangulated from {len(photos)} photos, wanted "
            f"{MIN_POINTS}; check the poses, or use data.init=random or data.init=depth"
        )
    error, seen_by = tracks.errors_px.mean(), tracks.views.mean()
    log.info("%d points, %.2f px, %.1f views each", len(tracks.points), error, seen_by)
    sparse, sparse_colors = torch.from_numpy(tracks.points), _colors(photos, features, tracks)
    surfaces, guesses = sweep(
        [photos[i].reduced(SWEEP_SIDE) for i in swept],
        sparse,
        on_photo=lambda done: on_step(len(photos) + done, steps),
    )
    log.info("a plane sweep finds %d more, and guesses %d", len(surfaces), len(guesses))
    generator = torch.Generator().manual_seed(seed)
    room = max(count - len(sparse), 0)
    surfaces = surfaces.sample(room - round(GUESSED * room), generator)
    guesses = guesses.sample(round(GUESSED / (1 - GUESSED) * len(surfaces)), generator)
    points = torch.cat([sparse, surfaces.points, guesses.points])[:count]
    return points.float(), torch.cat([sparse_colors, surfaces.colors, guesses.colors])[:count]


def make_rig(photos: Sequence[Photo | View]) -> Rig:
    viewmats = torch.stack([photo.camera.viewmat for photo in photos]).double().numpy()
    K = torch.stack([photo.camera.K for photo in photos]).double().numpy()
    rotations, translations = viewmats[:, :3, :3], viewmats[:, :3, 3]
    return Rig(K, rotations, translations, -np.einsum("cji,cj->ci", rotations, translations))


def make_tracks(rig: Rig, features: list[Features]) -> Tracks:
    """Match all chosen pairs and triangulate."""
    first = np.cumsum([0, *(len(f) for f in features)])
    matches = [np.zeros((0, 2), np.int64)]
    for i, j in choose_pairs(rig, NEIGHBOURS):
        a, b = match_pair(rig, i, j, features, TOLERANCE_PX)
        matches.append(np.stack([first[i] + a, first[j] + b], axis=1))
    return build_tracks(rig, features, np.concatenate(matches), TOLERANCE_PX)


def most_different(rig: Rig, count: int) -> list[int]:
    """At most `count` cameras, each next one the farthest from all before it; in their old order."""
    if len(rig) <= count:
        return list(range(len(rig)))
    measured = scales(rig)
    chosen, nearest = [0], differences(rig, slice(0, 1), measured)[0]
    while len(chosen) < count:
        last = int(np.argmax(nearest))
        chosen.append(last)
        nearest = np.minimum(nearest, differences(rig, slice(last, last + 1), measured)[0])
    return sorted(chosen)


def _colors(photos: list[Photo], features: list[Features], tracks: Tracks) -> Float[Tensor, "P 3"]:
    """The mean colour of the pixels that see each point."""
    camera = np.repeat(np.arange(len(photos)), [len(f) for f in features])[tracks.feature]
    pixel = np.floor(np.concatenate([f.xy for f in features])[tracks.feature]).astype(np.int64)
    seen = np.zeros((len(pixel), 3))
    for c, photo in enumerate(photos):
        rows = np.flatnonzero(camera == c)
        x = pixel[rows, 0].clip(0, photo.camera.width - 1)
        y = pixel[rows, 1].clip(0, photo.camera.height - 1)
        seen[rows] = photo.colors.numpy()[:, y, x].T
    total = [np.bincount(tracks.point, weights=channel, minlength=len(tracks.points)) for channel in seen.T]
    return torch.from_numpy(np.stack(total, axis=1) / tracks.views[:, None]).float()
