"""Where the first Gaussians lie: the scene's own points, matched photos, depth maps, or anywhere in sight."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import BackendError, SceneError, pick
from gs_lift.scene import Scene

log = logging.getLogger(__name__)

Cloud = tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]
"""Points in the world and their colours in 0..1, both float32."""

OnStep = Callable[[int, dict[str, float]], None]


def _auto(scene: Scene, **options: object) -> Cloud:
    if len(scene.points):
        return _points(scene, **options)
    try:
        return _triangulate(scene, **options)
    except (SceneError, BackendError) as error:
        log.warning("%s; the Gaussians start at random, which costs quality", error)
        return _random(scene, **options)


def _points(scene: Scene, **options: object) -> Cloud:
    if not len(scene.points):
        raise SceneError(f"{scene.name}: no points of its own; use data.init=triangulate or data.init=random")
    return scene.points.float(), scene.colors.float()


def _triangulate(scene: Scene, **options: object) -> Cloud:
    from gs_lift.points.triangulation import triangulate

    return triangulate(scene, **options)  # type: ignore[arg-type]


def _depth(scene: Scene, **options: object) -> Cloud:
    from gs_lift.points.backprojection import backproject

    return backproject(scene, seed=options["seed"], count=options["count"])  # type: ignore[arg-type]


def _random(scene: Scene, **options: object) -> Cloud:
    from gs_lift.points.frusta import scatter

    return scatter(scene, seed=options["seed"], count=options["count"])  # type: ignore[arg-type]


INITS: dict[str, Callable[..., Cloud]] = {
    "auto": _auto,
    "points": _points,
    "triangulate": _triangulate,
    "depth": _depth,
    "random": _random,
}


def initial_points(
    scene: Scene,
    init: str = "auto",
    *,
    seed: int = 0,
    count: int = 50_000,
    workdir: Path | None = None,
    on_step: OnStep | None = None,
) -> Cloud:
    """Points and colours from which a fit starts; the same for the same scene and seed.

    init: a name of INITS, as `DataConfig.init` describes them. count: how many `depth` and `random` give and
    `triangulate` gives at most. workdir: where temporary files go; the system's folder if None.
    Raises SceneError where the scene lacks what was asked for, ConfigError for an unknown name.
    """
    points, colors = pick(INITS, init, "data.init")(
        scene, seed=seed, count=count, workdir=workdir, on_step=on_step or (lambda step, figures: None)
    )
    return points, colors


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)
