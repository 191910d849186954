"""How Gaussians come and go while they are fitted.

A strategy edits the parameters and the optimizers between steps; what it gathers from step to step lies in a state of
tensors that a checkpoint can hold. Parameters go by gsplat's names: means, quats, scales (logarithms), opacities
(logits), sh [N K 3]. Random numbers follow from (seed, step), so that a resumed run draws the same ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gs_lift.fitting.settings import FitConfig
from gs_lift.fitting.steps import Optimizers, Parameters

State = dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """Where the loop stands when it calls a strategy: after `step` steps (from 1), centres learning at `means_lr`."""

    step: int
    means_lr: float
    seed: int


@runtime_checkable
class Strategy(Protocol):
    """What the loop calls, in this order at each step."""

    @property
    def absgrad(self) -> bool:
        """Whether the rasterizer must give info["means2d"].absgrad."""

    def initial_state(self) -> State: ...

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """A term to add to the loss, of scales and opacities."""

    def after_step(
        self,
        parameters: Parameters,
        optimizers: Optimizers,
        state: State,
        info: dict[str, Any],
        moment: Moment,
    ) -> None: ...


def _default(config: FitConfig, extent: float) -> Strategy:
    from gs_lift.fitting.default import Default

    return Default.from_config(config, extent)


def _mcmc(config: FitConfig, extent: float) -> Strategy:
    from gs_lift.fitting.mcmc import MCMC

    return MCMC.from_config(config, extent)


STRATEGIES: dict[str, Callable[[FitConfig, float], Strategy]] = {"default": _default, "mcmc": _mcmc}
"""By name: (config, extent of the scene in world units) -> strategy."""


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators for a block: gsplat's strategies draw from them. Puts them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
