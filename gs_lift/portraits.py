"""Each object from the view that shows most of it."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8

from gs_lift.gaussians import Gaussians
from gs_lift.rendering import blending_weights, render
from gs_lift.scene import View
from gs_lift.segmentation import Instances
from gs_lift.sparse import Sparse, one_hot, strongest

MARGIN = 0.15
"""Of an object's larger side, around it."""

DIMMED = 0.35
"""Share of its brightness that stays of what is not the object."""

LEAST = 8
"""Pixels of a side of a portrait."""


def best_views(shown: Sparse, instances: Instances) -> Int[np.ndarray, "M"]:
    """Number of the view that shows most of each instance, -1 = none does. shown: `evaluation.weight_in_views`."""
    area = (shown @ one_hot(instances.labels.cpu().numpy(), len(instances))).toarray()
    if not len(area):
        return np.full(len(instances), -1)
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
        weights = blending_weights(gaussians, camera, backend=backend)
        blend = Sparse(
            (weights.values.double().numpy(), weights.indices.numpy(), weights.indptr.numpy()),
            shape=(len(weights), weights.columns),
        )
        winner = strongest(blend @ one_hot(labels + 1, len(instances) + 1))[0] - 1  # column 0: of no object
        winner = winner.reshape(camera.height, camera.width)
        for instance in np.flatnonzero(best == number).tolist():
            inside = winner == instance
            if inside.any():
                picture = np.where(inside[..., None], colors, DIMMED * colors)
                yield instance, (picture[_around(inside)] * 255).round().astype(np.uint8)


def _around(inside: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    ends = [(int(some[0]), int(some[-1]) + 1) for some in (rows, columns)]
    side = max(max(high - low for low, high in ends) * (1 + 2 * MARGIN), LEAST)
    result = []
    for (low, high), size in zip(ends, inside.shape, strict=True):
        first = round((low + high - side) / 2)
        result.append(slice(max(first, 0), min(first + round(side), size)))
    return result[0], result[1]
