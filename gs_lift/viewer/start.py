"""Where a viewer's page begins."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.camera_paths import focus_of_cameras, level_of_cameras
from gs_lift.scene import Camera

if TYPE_CHECKING:
    import viser


def set_view(
    server: "viser.ViserServer",
    cameras: Sequence[Camera],
    center: Float[Tensor, "3"] | None = None,
    *,
    up: Float[Tensor, "3"] | None = None,
) -> None:
    """Begin at the first of some cameras, with their `up`; orbits turn around what they look at, or `center`."""
    camera = cameras[0]
    if center is None:
        center = focus_of_cameras(cameras, torch.stack([one.position for one in cameras]).mean(dim=0))
    up = level_of_cameras(cameras) if up is None else up
    position, forward = camera.position, camera.viewmat[2, :3]
    reach = max(float((center - position) @ forward), 1e-3)
    server.scene.set_up_direction(up.numpy())
    server.initial_camera.position = position.numpy()
    server.initial_camera.look_at = (position + reach * forward).numpy()
    server.initial_camera.up = up.numpy()
    server.initial_camera.fov = float(2 * np.arctan(camera.height / 2 / float(camera.K[1, 1])))
