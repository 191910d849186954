"""Points from the depth maps of the training views."""

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SceneError
from gs_lift.geometry import unproject
from gs_lift.progress import OnStep
from gs_lift.scene import Scene, View


def backproject(
    scene: Scene, *, seed: int, count: int, on_step: OnStep = lambda step, figures: None
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """At most `count` pixels with depth, drawn evenly from all training views, with their colours.

    on_step(views, {"steps": total}): called after each view. Raises SceneError if no training view has a depth map, or
    none has depth in it.
    """
    views = [view for view in scene.train if view.depth is not None]
    if not views:
        raise SceneError(f"{scene.name}: no depth maps; use data.init=triangulate or data.init=random")
    generator = torch.Generator().manual_seed(seed)
    share = -(-count // len(views))
    # Room for all at first: small parts kept between the large maps of views would keep the heap from shrinking.
    points, colors = (
        torch.empty(share * len(views), 3, dtype=torch.float64),
        torch.empty(share * len(views), 3),
    )
    found = 0
    for step, view in enumerate(views, start=1):
        some, their_colors = _sample(view, share, generator)
        points[found : found + len(some)], colors[found : found + len(some)] = some, their_colors
        found += len(some)
        on_step(step, {"steps": float(len(views))})
    points, colors = points[:found], colors[:found]
    if not len(points):
        raise SceneError(
            f"{scene.name}: the depth maps are empty; use data.init=triangulate or data.init=random"
        )
    keep = torch.randperm(len(points), generator=generator)[:count]
    return points[keep].float(), colors[keep]


def _sample(
    view: View, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "S 3"], Float[Tensor, "S 3"]]:
    assert view.depth is not None
    depth = view.depth()
    valid = (depth > 0).flatten().nonzero()[:, 0]
    chosen = valid[torch.randperm(len(valid), generator=generator)[:count]]
    points = unproject(depth.double(), view.camera.K, view.camera.viewmat).reshape(-1, 3)
    return points[chosen], view.image().reshape(-1, 3)[chosen]
