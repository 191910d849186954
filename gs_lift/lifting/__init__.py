"""Lifting: 2D segments of many views into one embedding and one class distribution per Gaussian."""

from gs_lift.lifting.losses import LOSSES, LossWeights
from gs_lift.lifting.methods import METHODS
from gs_lift.lifting.settings import LiftConfig
from gs_lift.lifting.trainer import lift

__all__ = ["LOSSES", "METHODS", "LiftConfig", "LossWeights", "lift"]
