"""Scene folders on disk -> Scene.

A layout is a module with `LAYOUT` (a sentence), `matches(path) -> bool` and `read(path, config) -> Scene`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gs_lift.errors import ConfigError, SceneError, pick
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
    segments: str = "auto"
    """Folder of the 2D segments, from the scene's folder on, in the place of its own; `auto`: the layout's own, or
    masks/ and the like beside the photos; `none`."""
    unlabelled: str = "background"
    """What pixels without a segment are where segments have no classes: `background`, or `unknown` where a segmenter
    looked for everything and missed some: objects come out whole, and grow into what nobody segmented."""
    test_every: int = 8
    """Every so many-th photo is for testing where the layout does not say which, the first one included; 0 = none."""
    max_size: int = 640
    """Longest side, in pixels, to which photos are reduced, cameras with them; 0 = as they are."""
    check_splat: bool = True
    """Refuse a splat (`--splat`) that explains the photos worse than one colour does: it lies in another frame."""
    allow_outside: bool = False
    """Read files that a scene folder reaches through links out of itself. Off: a stranger's scene cannot make
    gs_lift open other files."""

    def __post_init__(self) -> None:
        if self.init_points < 1:
            raise ConfigError(f"data.init_points: got {self.init_points}; wanted at least 1")
        pick(dict.fromkeys(("background", "unknown")), self.unlabelled, "data.unlabelled")
        if self.test_every < 0 or self.test_every == 1:
            raise ConfigError(f"data.test_every: got {self.test_every}; wanted 2 or more, or 0 = none")
        if self.max_size < 0 or 0 < self.max_size < 16:
            raise ConfigError(f"data.max_size: got {self.max_size}; wanted 16 or more, or 0 = as they are")


READERS: dict[str, Callable[[], ModuleType]] = {
    name: partial(import_module, f"gs_lift.datasets.{name}")
    for name in ("messy_rooms", "panoptic_lifting", "nerfstudio", "colmap", "polycam", "nice_slam")
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
    name = layout_of(path)
    return _reduced(READERS[name]().read(path, config), config.max_size)


def layout_of(path: Path) -> str:
    """The first of READERS that knows the layout of a folder. Raises SceneError where none does."""
    layouts = []
    for name, load in READERS.items():
        reader = load()
        if reader.matches(path):
            return name
        layouts.append(f"{name} ({reader.LAYOUT})")
    what = "is empty" if not any(path.iterdir()) else "has no layout that gs_lift knows"
    raise SceneError(f"{path}: {what}; looked for {'; '.join(layouts)}")


def _reduced(scene: Scene, max_size: int) -> Scene:
    from gs_lift.datasets.photos import reduced_view

    train, test = (
        tuple(reduced_view(view, max_size) for view in views) for views in (scene.train, scene.test)
    )
    return replace(scene, train=train, test=test)
