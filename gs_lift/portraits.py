"""Each object from the view that shows most of it; all of a splat without cameras from where most of them show."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gs_lift.camera_paths import SPLAT_UP, orbit_of_splat
from gs_lift.evaluation import pixel_weights
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.rendering import render
from gs_lift.scene import Camera, View
from gs_lift.segmentation import Instances
from gs_lift.sparse import Sparse, one_hot, strongest

MARGIN = 0.15
"""Of an object's larger side, around it."""

DIMMED = 0.35
"""Share of its brightness that stays of what is not the object."""

UPS = (SPLAT_UP, (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))
"""Directions that are up in splats without cameras, the usual one first."""

AZIMUTHS, DISTANCES = 6, (1.0, 0.6, 0.35)
"""Places of an orbit, and its radii as shares of the usual one."""

ENOUGH = 100_000
"""Gaussians that tell where to begin."""

PREVIEW = (48, 27)
"""Width and height of what tells how much is seen, pixels."""

LEAST = 8
"""Pixels of a side of a portrait."""


def best_views(area: Float[np.ndarray, "V M"]) -> Int[np.ndarray, "M"]:
    """Number of the view that shows most of each instance, -1 = none does. area: see `evaluation.Areas`."""
    if not len(area):
        return np.full(area.shape[1], -1)
    return np.where(area.max(axis=0) > 0, area.argmax(axis=0), -1)


def portraits(
    views: tuple[View, ...],
    gaussians: Gaussians,
    instances: Instances,
    best: Int[np.ndarray, "M"],
    *,
    backend: str = "cpu",
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Instances and their pictures, view by view: the part of the rendered view around it, all else dimmed.

    An instance that wins no pixel of its best view has none.
    """
    labels = instances.labels.cpu().numpy()
    for number in np.unique(best[best >= 0]):
        camera = views[number].camera
        with torch.no_grad():
            colors = render(gaussians, camera, backend=backend).colors.cpu().clamp(0, 1).numpy()
        winner = _winners(pixel_weights(gaussians, camera, backend=backend), labels)
        winner = winner.reshape(camera.height, camera.width)
        for instance in np.flatnonzero(best == number).tolist():
            inside = winner == instance
            if inside.any():
                picture = np.where(inside[..., None], colors, DIMMED * colors)
                yield instance, (picture[_around(inside)] * 255).round().astype(np.uint8)


def start_of_splat(
    gaussians: Gaussians, labels: Int[np.ndarray, "N"], *, width: int, height: int, backend: str = "cpu"
) -> tuple[Camera, Float[Tensor, "3"]]:
    """The camera to begin with in a splat without any, and which way is up: of orbits round the objects, near and far,
    by each direction that may be up, where most objects show: no wall stands before them, and no floor.

    labels: -1 = no object.
    """
    gaussians = gaussians.detach().to("cpu")
    if (step := len(gaussians) // ENOUGH) > 1:  # fewer ones, larger by as much: walls stay closed
        gaussians, labels = gaussians.rows(torch.arange(0, len(gaussians), step)), labels[::step]
        gaussians = replace(gaussians, log_scales=gaussians.log_scales + np.log(step) / 2)
    members = torch.from_numpy(labels >= 0)
    some = gaussians.rows(members) if bool(members.any()) else gaussians
    center = some.means.double().median(dim=0).values
    best, most = None, (-1, -1.0)
    for direction in UPS:
        up = torch.tensor(direction, dtype=torch.float64)
        for camera in orbit_of_splat(some, AZIMUTHS, width=width, height=height, up=up).cameras:
            for share in DISTANCES:
                near = Camera(
                    camera.K, look_at(center + share * (camera.position - center), center, up), width, height
                )
                shown = _shown(gaussians, labels, near.resized(*PREVIEW), backend)
                if shown > most:
                    best, most = (near, up), shown
    assert best is not None
    return best


def _shown(
    gaussians: Gaussians, labels: Int[np.ndarray, "N"], camera: Camera, backend: str
) -> tuple[int, float]:
    """How many objects take pixels, and which share of all pixels they take."""
    winner = _winners(pixel_weights(gaussians, camera, minimum=0.05, backend=backend), labels)
    taken = winner[winner >= 0]
    return len(np.unique(taken)), len(taken) / max(len(winner), 1)


def _winners(weights: Sparse, labels: Int[np.ndarray, "N"]) -> Int[np.ndarray, "P"]:
    """The label with most of each pixel's weights [P N]; negative = of no object, or nothing there."""
    return strongest(weights @ one_hot(labels + 1, int(labels.max(initial=-1)) + 2))[0] - 1


def _around(inside: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    ends = [(int(some[0]), int(some[-1]) + 1) for some in (rows, columns)]
    side = max(max(high - low for low, high in ends) * (1 + 2 * MARGIN), LEAST)
    result = []
    for (low, high), size in zip(ends, inside.shape, strict=True):
        first = round((low + high - side) / 2)
        result.append(slice(max(first, 0), min(first + round(side), size)))
    return result[0], result[1]
