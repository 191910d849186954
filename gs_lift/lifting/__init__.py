"""Lifting: 2D segments of many views into one embedding and one class distribution per Gaussian."""

from gs_lift.lifting.losses import LOSSES, LossWeights
from gs_lift.lifting.trainer import LiftConfig, lift

__all__ = ["LOSSES", "LiftConfig", "LossWeights", "lift"]
