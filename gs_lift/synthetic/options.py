"""What a synthetic room is made of, checked."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from types import ModuleType

from gs_lift.errors import ConfigError, pick
from gs_lift.synthetic.noise import LEVELS


def _messy_rooms() -> ModuleType:
    from gs_lift.synthetic import messy_rooms

    return messy_rooms


def _panoptic_lifting() -> ModuleType:
    from gs_lift.synthetic import panoptic_lifting

    return panoptic_lifting


LAYOUTS: dict[str, Callable[[], ModuleType]] = {
    "messy_rooms": _messy_rooms,
    "panoptic_lifting": _panoptic_lifting,
}
"""Modules by the names that `--layout` takes. Each has FRAME_FILES, STEM and LAST_FILE (see synthesis),
furnished(config) -> Room, cameras(config, room), write_frame(folder, stem, frame, room), and
finish(folder, config, room, cameras)."""

MOST_SEGMENTS = 30_000
"""Objects x views at most where segments are numbered through all frames in 16 bits: errors about double them."""


@dataclass(frozen=True)
class SynthConfig:
    """A room; the same fields give the same bytes."""

    objects: int = 25
    """Objects that lie about, 1 to 2000."""
    views: int = 60
    """Frames, at least 2; the last fifth is for testing, or every sixth (panoptic_lifting)."""
    size: int = 256
    """Width and height of a frame in pixels, at least 16."""
    seed: int = 0
    """Seed of shapes, textures, places, cameras and segmentation errors."""
    noise: str = "moderate"
    """Errors of the 2D segments: none, easy, moderate or hard (MobileSAM on such rooms)."""
    layout: str = "messy_rooms"
    """What is written: messy_rooms, objects in a heap; or panoptic_lifting, furniture and its 22 classes."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("objects", 1, 2000), ("views", 2, 99_999), ("size", 16, 4096), ("seed", 0, 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"synth.{name}: {value!r} is not a whole number from {low} to {high}")
        pick(LEVELS, self.noise, "noise level")
        pick(LAYOUTS, self.layout, "layout")
        if self.layout == "panoptic_lifting" and self.objects * self.views > MOST_SEGMENTS:
            raise ConfigError(
                f"synth.views: {self.objects} objects in {self.views} views; the panoptic_lifting layout numbers "
                f"segments in 16 bits: wanted at most {MOST_SEGMENTS // self.objects} views"
            )

    def written(self) -> dict[str, object]:
        """The fields as a file holds them: without the layout where it is the first one, as before there were two."""
        values = asdict(self)
        if self.layout == "messy_rooms":
            del values["layout"]
        return values

    def differences(self, other: dict[str, object]) -> list[str]:
        """Names of the fields in which `other`, as read from a file, differs."""
        other = {"layout": "messy_rooms"} | other
        return [field.name for field in fields(self) if other.get(field.name) != getattr(self, field.name)]


def train_views(views: int) -> int:
    """How many of the frames are for training: the first 80 %, and at least one for testing."""
    return min(views - 1, max(1, views * 4 // 5))
