"""gs_lift: from posed images and noisy 2D segments to 3D objects.

    scene = gs_lift.load_scene("room/")
    points, colors = gs_lift.points.initial_points(scene)
    gaussians = gs_lift.fit(dataclasses.replace(scene, points=points, colors=colors))
    embeddings = gs_lift.lift(scene, gaussians)
    instances = gs_lift.cluster(embeddings, gaussians, scene.classes)

The names below load their modules, and with them torch, when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Camera": "gs_lift.scene",
    "Config": "gs_lift.config",
    "Embeddings": "gs_lift.segmentation",
    "Gaussians": "gs_lift.gaussians",
    "Instances": "gs_lift.segmentation",
    "Scene": "gs_lift.scene",
    "load_scene": "gs_lift.datasets",
    "fit": "gs_lift.fitting",
    "lift": "gs_lift.lifting",
    "cluster": "gs_lift.clustering",
    "render": "gs_lift.rendering",
    "evaluate": "gs_lift.evaluation",
}

if TYPE_CHECKING:
    from gs_lift.clustering import cluster as cluster
    from gs_lift.config import Config as Config
    from gs_lift.datasets import load_scene as load_scene
    from gs_lift.evaluation import evaluate as evaluate
    from gs_lift.fitting import fit as fit
    from gs_lift.gaussians import Gaussians as Gaussians
    from gs_lift.lifting import lift as lift
    from gs_lift.rendering import render as render
    from gs_lift.scene import Camera as Camera
    from gs_lift.scene import Scene as Scene
    from gs_lift.segmentation import Embeddings as Embeddings
    from gs_lift.segmentation import Instances as Instances

__all__ = [  # noqa: RUF022 - types first, then the line from scene to scores
    "Camera",
    "Config",
    "Embeddings",
    "Gaussians",
    "Instances",
    "Scene",
    "load_scene",
    "fit",
    "lift",
    "cluster",
    "render",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gs_lift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
