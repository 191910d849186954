"""A scene that is still being fitted, as it grows."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.camera_paths import focus_of_cameras, level_of_cameras
from gs_lift.gaussians import Gaussians
from gs_lift.scene import Camera, Scene
from gs_lift.viewer.painting import colors_of, covariances_of
from gs_lift.viewer.server import close_server

if TYPE_CHECKING:
    import viser

EVERY_S = 2.0
"""Seconds between two pictures."""


def set_view(
    server: "viser.ViserServer", cameras: Sequence[Camera], center: Float[Tensor, "3"] | None = None
) -> None:
    """Begin at the first of some cameras, with their up; orbits turn around what they look at, or `center`."""
    camera = cameras[0]
    if center is None:
        center = focus_of_cameras(cameras, torch.stack([one.position for one in cameras]).mean(dim=0))
    up, position, forward = level_of_cameras(cameras), camera.position, camera.viewmat[2, :3]
    reach = max(float((center - position) @ forward), 1e-3)
    server.scene.set_up_direction(up.numpy())
    server.initial_camera.position = position.numpy()
    server.initial_camera.look_at = (position + reach * forward).numpy()
    server.initial_camera.up = up.numpy()
    server.initial_camera.fov = float(2 * np.arctan(camera.height / 2 / float(camera.K[1, 1])))


class Growth:
    """Shows the Gaussians of a fit every EVERY_S seconds: an OnGaussians of `fit`."""

    def __init__(self, server: "viser.ViserServer"):
        self.server = server
        self.handle: Any = None
        self.shown_at = 0.0
        self.text = server.gui.add_markdown("waiting for the first steps")

    def begin(self, scene: Scene) -> None:
        set_view(self.server, [view.camera for view in scene.train])

    def __call__(self, step: int, gaussians: Callable[[], Gaussians]) -> None:
        if time.perf_counter() - self.shown_at < EVERY_S:
            return
        some = gaussians()
        arrays = (
            some.means.detach().cpu().float().numpy(),
            covariances_of(some),
            colors_of(some),
            some.opacities.detach().cpu().float().numpy()[:, None],
        )
        if self.handle is None:
            self.handle = self.server.scene.add_gaussian_splats("/splat", *arrays)
        else:
            self.handle.set_gaussians(*arrays)
        self.text.content = f"step {step}: {len(some):,} Gaussians"
        self.shown_at = time.perf_counter()

    def close(self) -> None:
        close_server(self.server)
