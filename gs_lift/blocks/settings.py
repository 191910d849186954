"""How a large scene is cut into blocks: a section of the config."""

from dataclasses import dataclass

from gs_lift.errors import ConfigError


@dataclass(frozen=True)
class BlocksConfig:
    """When and how a scene is lifted block by block."""

    gaussians: int = 2_000_000
    """Most Gaussians of a block, margins included; a scene with more is cut into blocks, which are lifted one after the
    other. 2,000,000 take 3 GB and `memory_budget_gb` to lift, 4 GB to cluster; 0 = never cut."""
    overlap: float = 0.2
    """How far a block reaches into its neighbours, in widths of its own cell: objects that lie across a border are
    joined by what both blocks see of them."""
    coverage: float = 0.98
    """Share of what all photos show of a cell that the photos of its block show; the rest see too little of it."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first value out of its range."""
        if not self.gaussians >= 0:
            raise ConfigError(f"blocks.gaussians: wanted 0 or more, got {self.gaussians}")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"blocks.overlap: wanted 0 to 1, got {self.overlap}")
        if not 0 < self.coverage <= 1:
            raise ConfigError(f"blocks.coverage: wanted more than 0 and at most 1, got {self.coverage}")
