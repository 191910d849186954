"""A scene that is still being fitted, as it grows."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gs_lift.gaussians import Gaussians
from gs_lift.scene import Scene
from gs_lift.viewer.painting import colors_of, covariances_of
from gs_lift.viewer.server import close_server
from gs_lift.viewer.start import set_view

if TYPE_CHECKING:
    import viser

log = logging.getLogger(__name__)

EVERY_S = 2.0
"""Seconds between two pictures."""


class Growth:
    """Shows the Gaussians of a fit every EVERY_S seconds: an OnGaussians of `fit`."""

    def __init__(self, server: "viser.ViserServer"):
        self.server = server
        self.handle: Any = None
        self.shown_at = 0.0
        self.text = server.gui.add_markdown("Gaussians appear when the fit begins")

    def begin(self, scene: Scene) -> None:
        set_view(self.server, [view.camera for view in scene.train])

    def __call__(self, step: int, gaussians: Callable[[], Gaussians]) -> None:
        if time.perf_counter() - self.shown_at < EVERY_S:
            return
        try:
            self._show(step, gaussians())
        except Exception as error:  # a fit of an hour must not end for a picture
            log.warning("the viewer shows step %d no more: %s", step, error)
            self.shown_at = float("inf")

    def _show(self, step: int, some: Gaussians) -> None:
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
