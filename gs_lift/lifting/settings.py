"""How segments are lifted: the settings of the stage `lift`."""

import dataclasses
import math
from dataclasses import dataclass

from gs_lift.errors import ConfigError, pick
from gs_lift.lifting.losses import LossWeights
from gs_lift.lifting.methods import METHODS

FIELDS = ("table", "mlp")


@dataclass(frozen=True)
class LiftConfig:
    """How the segments are lifted into embeddings."""

    method: str = "slow_fast"
    """A recipe of lifting.METHODS: `slow_fast`, `paper`, `vanilla`, `linear_assignment` or `mask_graph`. `load_config`
    gives the fields that neither file nor --set names the recipe's values."""
    field: str = "table"
    """What holds the instance embeddings: a `table` with one for each Gaussian, or an `mlp` of its centre, the paper's
    field, which learns 40 times slower per step here."""
    steps: int = 4000
    """Optimisation steps; 3000 with falling rates scored as 8000 without on messy_sam_50."""
    batch: int = 1
    """Views of a step, 1 to 255, of whose gradients it takes the mean; processes of torchrun share them. Rates grow by
    its square root and Adam remembers as many views, as in the fit; with 4 and a quarter of the steps scores did not
    change (mIoU .970 on a room of 15 objects), nor did they at other rates."""
    dimensions: int = 8
    """Channels of an instance embedding. The paper has 3; 8 with `pull` scored .842 instead of .806 on messy_sam_50."""
    pixels: int = 1024
    """Thing pixels of a step, at most; half of them give fast embeddings, half slow ones."""
    balance: float = 0.0
    """How evenly a step's pixels are spread over its segments: 0 = by area as in the paper (messy_sam_50: .842), 1 =
    alike (.817)."""
    semantic_pixels: int = 1024
    """Pixels of a step for the classes, background included."""
    learning_rate: float = 0.02
    """Of the instance embeddings (Adam)."""
    final_rate: float = 0.1
    """Share of both learning rates that is left at the last step; they fall exponentially."""
    semantic_rate: float = 0.05
    """Of the class logits (Adam)."""
    momentum: float = 0.9
    """Share of itself that a slow embedding keeps at each step."""
    neighbours: int = 8
    """Nearest Gaussians, by their centres, that each one is smoothed over."""
    pull: float = 0.1
    """How far each fast embedding moves to the mean of its neighbours' after each step; 0 = no smoothing."""
    initial_spread: float = 0.01
    """Standard deviation of the fast embeddings at the start."""
    thing_weight: float = 3.0
    """Weight of a thing's pixels in the class loss: an object wins over the stuff behind it if it is segmented in one
    view of 1 + thing_weight. 1, 2, 4 scored .842, .868, .872 on messy_sam_50 and .926, .936, .947 on messy_noise_25."""
    consistency: float = 0.0
    """Weight of the segment-consistency loss (Panoptic Lifting, section 3.3): all pixels of a segment shall have the
    class that is the most probable over it."""
    consistency_start: float = 0.6
    """Share of the steps after which it begins, when the classes have settled; as released."""
    losses: LossWeights = dataclasses.field(default_factory=LossWeights)
    """Weights of the losses on the instance embeddings."""
    minimum_weight: float = 1e-3
    """Blending weights below this are dropped; 1e-3 loses 0.26 % of the weight and a third of the entries."""
    pixels_per_view: int = 65_536
    """Pixels of a view that training draws from, chosen at random once; bounds time and memory for large photos."""
    evidence_views: int = 200
    """Views, at most, whose segments speak for a Gaussian when instances are made; where more see it, these are drawn,
    the same ones for neighbours: bounds memory for long captures."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first value out of its range."""
        pick(METHODS, self.method, "lift.method")
        pick(dict.fromkeys(FIELDS), self.field, "lift.field")
        # NaN compares false with everything: each test asks for what is wanted.
        at_least = {
            "dimensions": 1, "pixels": 2, "semantic_pixels": 0, "neighbours": 0, "steps": 0, "pixels_per_view": 1,
            "evidence_views": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"lift.{name}: wanted {least} or more, got {getattr(self, name)}")
        if not 1 <= self.batch <= 255:
            raise ConfigError(f"lift.batch: wanted 1 to 255 views, got {self.batch}")
        for name in ("semantic_rate", "initial_spread", "minimum_weight", "thing_weight", "consistency"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"lift.{name}: wanted a finite 0 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"lift.learning_rate: wanted more than 0 and finite, got {self.learning_rate}")
        for name in ("balance", "momentum", "pull", "consistency_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"lift.{name}: wanted 0 to 1, got {getattr(self, name)}")
        if not 0 < self.final_rate <= 1:
            raise ConfigError(f"lift.final_rate: wanted more than 0 and at most 1, got {self.final_rate}")

    def rate_at(self, step: int, first: float) -> float:
        """A learning rate of `first` at the start, after `step` steps."""
        return first * self.final_rate ** (step / self.steps)
