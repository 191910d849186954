"""Where the first Gaussians lie: the scene's own points, matched photos, depth maps, or anywhere in sight."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import ConfigError, SceneError, TooFewPoints, pick
from gs_lift.progress import OnStep
from gs_lift.scene import Scene

log = logging.getLogger(__name__)

Cloud = tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]
"""Points in the world and their colours in 0..1, both float32."""


@dataclass(frozen=True)
class _Wanted:
    seed: int
    count: int
    workdir: Path | None
    on_step: OnStep


def _auto(scene: Scene, wanted: _Wanted) -> Cloud:
    if len(scene.points):
        return _points(scene, wanted)
    try:
        return _triangulate(scene, wanted)
    except TooFewPoints as error:
        # Nothing else: a broken photo or a missing package can be mended, and a run keeps the cloud it began with.
        log.warning("%s; the Gaussians start at random, which costs quality", error)
        return _random(scene, wanted)


def _points(scene: Scene, wanted: _Wanted) -> Cloud:
    if not len(scene.points):
        raise SceneError(f"{scene.name}: has no points; use data.init=triangulate or data.init=random")
    return scene.points.float(), scene.colors.float()


def _triangulate(scene: Scene, wanted: _Wanted) -> Cloud:
    from gs_lift.points.triangulation import triangulate

    return triangulate(
        scene, seed=wanted.seed, count=wanted.count, workdir=wanted.workdir, on_step=wanted.on_step
    )


def _depth(scene: Scene, wanted: _Wanted) -> Cloud:
    from gs_lift.points.backprojection import backproject

    return backproject(scene, seed=wanted.seed, count=wanted.count, on_step=wanted.on_step)


def _random(scene: Scene, wanted: _Wanted) -> Cloud:
    from gs_lift.points.frusta import scatter

    return scatter(scene, seed=wanted.seed, count=wanted.count)


INITS: dict[str, Callable[[Scene, _Wanted], Cloud]] = {
    "auto": _auto,
    "points": _points,
    "triangulate": _triangulate,
    "depth": _depth,
    "random": _random,
}
"""The values of `data.init`."""


def initial_points(
    scene: Scene,
    init: str = "auto",
    *,
    seed: int = 0,
    count: int = 50_000,
    workdir: Path | None = None,
    on_step: OnStep | None = None,
) -> Cloud:
    """Points and colours from which a fit starts; the same bytes for the same scene, seed and count.

    init: a name of INITS; `DataConfig.init` describes them. count: how many `depth` and `random` give, and
    `triangulate` at most. workdir: where temporary files go; None = the system's place for them.
    on_step(step, {"steps": total}): called by `triangulate` and `depth` as they get on.
    Raises SceneError if the scene lacks what was asked for or a photo cannot be read, ConfigError for an unknown
    name, BackendError if `triangulate` or `auto` finds no working pycolmap.
    """
    if count < 1:
        raise ConfigError(f"data.init_points: got {count}; wanted at least 1")
    if not scene.train:
        raise SceneError(f"{scene.name}: no training views")
    start = pick(INITS, init, "data.init")
    return start(scene, _Wanted(seed, count, workdir, on_step or (lambda step, figures: None)))
