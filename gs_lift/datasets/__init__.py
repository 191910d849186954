"""Scene folders on disk -> Scene.

A layout is a module with `LAYOUT` (a sentence), `matches(path) -> bool` and `read(path, config) -> Scene`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from gs_lift.errors import ConfigError, SceneError
from gs_lift.scene import Scene


@dataclass(frozen=True)
class DataConfig:
    """How a scene is read and where its Gaussians start."""

    init: str = "auto"
    """Where the first Gaussians come from: `points` (the scene's own cloud), `triangulate` (matched photos,
    poses held), `depth` (depth maps of the training views), `random` (inside the cameras' frusta), or `auto`:
    the scene's points, else triangulate, else (too few points found) random; never depth."""
    init_points: int = 50_000
    """How many points `depth` and `random` give, and `triangulate` gives at most; `points` gives them all."""
    allow_outside: bool = False
    """Read files that a scene folder reaches through links out of itself. Off: a stranger's scene cannot make
    gs_lift open other files."""

    def __post_init__(self) -> None:
        if self.init_points < 1:
            raise ConfigError(f"data.init_points: got {self.init_points}; wanted at least 1")


def _messy_rooms() -> ModuleType:
    from gs_lift.datasets import messy_rooms

    return messy_rooms


def _panoptic_lifting() -> ModuleType:
    from gs_lift.datasets import panoptic_lifting

    return panoptic_lifting


READERS: dict[str, Callable[[], ModuleType]] = {
    "messy_rooms": _messy_rooms,
    "panoptic_lifting": _panoptic_lifting,
}
"""Layouts by name, asked in this order."""


def load_scene(path: Path | str, config: DataConfig = DataConfig()) -> Scene:
    """Read the scene folder `path` with the first reader that knows its layout.

    Cameras and the sizes of all files are checked here; pixels are read when a View's function is called.
    Both raise SceneError in one line.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise SceneError(f"{path}: is a file; wanted the folder of a scene")
    if not path.is_dir():
        raise SceneError(f"{path}: no such folder")
    layouts = []
    for name, load in READERS.items():
        reader = load()
        if reader.matches(path):
            scene: Scene = reader.read(path, config)
            return scene
        layouts.append(f"{name} ({reader.LAYOUT})")
    what = "is empty" if not any(path.iterdir()) else "has no layout that gs_lift knows"
    raise SceneError(f"{path}: {what}; looked for {'; '.join(layouts)}")
