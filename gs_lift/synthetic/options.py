"""What a synthetic room is made of, checked."""

from dataclasses import dataclass, fields

from gs_lift.errors import ConfigError, pick
from gs_lift.synthetic.noise import LEVELS


@dataclass(frozen=True)
class SynthConfig:
    """A room; the same fields give the same bytes."""

    objects: int = 25
    """Objects that lie about, 1 to 2000."""
    views: int = 60
    """Frames, at least 2; the last fifth is for testing."""
    size: int = 256
    """Width and height of a frame in pixels, at least 16."""
    seed: int = 0
    """Seed of shapes, textures, places, cameras and segmentation errors."""
    noise: str = "moderate"
    """Errors of the 2D segments: none, easy, moderate or hard (MobileSAM on such rooms)."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("objects", 1, 2000), ("views", 2, 99_999), ("size", 16, 4096), ("seed", 0, 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"synth.{name}: {value!r} is not a whole number from {low} to {high}")
        pick(LEVELS, self.noise, "noise level")

    def differences(self, other: dict[str, object]) -> list[str]:
        """Names of the fields in which `other`, as read from a file, differs."""
        return [field.name for field in fields(self) if other.get(field.name) != getattr(self, field.name)]


def train_views(views: int) -> int:
    """How many of the frames are for training: the first 80 %, and at least one for testing."""
    return min(views - 1, max(1, views * 4 // 5))
