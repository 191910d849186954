"""Which object a click has hit."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.rendering import blending_weights
from gs_lift.scene import Camera

WIDTH = 3
"""Of the patch that is rendered around the ray, pixels: its middle is what was clicked."""


def pick(
    gaussians: Gaussians,
    labels: Int[np.ndarray, "N"],
    origin: Float[Tensor, "3"],
    direction: Float[Tensor, "3"],
    *,
    focal: float = 800.0,
    backend: str = "cpu",
) -> tuple[int, int] | None:
    """The label that takes the pixel in which the ray lies, and the Gaussian that has most of its votes.

    Votes are blending weights, as in a label map that is rendered; -1 = no object, where what belongs to none outweighs
    all objects together. focal: of the picture, in pixels. None where nothing is.
    """
    origin, direction = origin.double(), torch.nn.functional.normalize(direction.double(), dim=0)
    up = torch.zeros(3, dtype=torch.float64)
    up[int(direction.abs().argmin())] = 1.0  # any that is not along the ray
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, WIDTH / 2], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(K, look_at(origin, origin + direction, up), WIDTH, WIDTH)
    middle = torch.tensor([WIDTH * WIDTH // 2])
    weights = blending_weights(gaussians, camera, pixels=middle, backend=backend)
    rows, values = weights.indices.numpy(), weights.values.double().numpy()
    if not len(rows):
        return None
    found = labels[rows]
    votes = np.bincount(found + 1, weights=values)
    label = -1 if votes[0] > votes[1:].sum() else int(votes[1:].argmax())
    return label, int(rows[np.where(found == label, values, -1.0).argmax()])
