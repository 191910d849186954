"""The recipes that lifting knows: the default, the paper's, and what both are measured against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """What a recipe changes of the settings, and what its embeddings are learnt by.

    settings: "section.field" -> value, where neither the user's file nor --set says anything.
    learns: "contrast", by LossWeights; "assignment", a class per object, matched to each image's segments; "nothing".
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    learns: str = "contrast"


_RELEASED: dict[str, Any] = {
    "lift.dimensions": 3,
    "lift.pull": 0.0,
    "lift.thing_weight": 1.0,
    "lift.final_rate": 1.0,
    "cluster.consensus": False,
    "cluster.min_thing": 0.4,
}
"""As Contrastive Lift was released: three dimensions, no smoothing, a constant rate; then HDBSCAN and nothing else."""

METHODS: dict[str, Method] = {
    "slow_fast": Method(),
    "paper": Method({**_RELEASED, "lift.steps": 8000}),  # 16000 score no better
    "vanilla": Method(
        {
            **_RELEASED,
            "lift.losses.contrastive": 0.0,
            "lift.losses.concentration": 0.0,
            "lift.losses.vanilla": 1.0,
        }
    ),
    # A dimension is an object here, so this is how many there may be.
    "linear_assignment": Method({**_RELEASED, "lift.dimensions": 128}, learns="assignment"),
    "mask_graph": Method({"cluster.embedding_views": 0.0}, learns="nothing"),
}
"""Name -> recipe. `slow_fast`: the default; `paper`: Bhalgat et al. 2023 as released; `vanilla`: its baseline without
slow embeddings; `linear_assignment`: that of Panoptic Lifting (Siddiqui et al. 2023, section 3.3); `mask_graph`:
Gaussians are joined by the segments alone."""
