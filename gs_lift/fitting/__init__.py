"""From photos to Gaussians: `fit`."""

from gs_lift.fitting.settings import FitConfig
from gs_lift.fitting.strategies import STRATEGIES
from gs_lift.fitting.trainer import fit

__all__ = ["STRATEGIES", "FitConfig", "fit"]
