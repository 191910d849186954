"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024).

The rules of gsplat's MCMCStrategy, written anew: its relocation and its covariances run on CUDA only. Faint Gaussians
move to opaque ones, a few are added at each round up to the cap, and the centres of faint ones are shaken. Lengths are
taken in extents of the scene, so that a scene in millimetres is fitted like the same one in metres (gsplat scales its
scenes to an extent of about one beforehand).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.fitting.settings import FitConfig
from gs_lift.fitting.steps import Optimizers, Parameters
from gs_lift.fitting.strategies import Moment, State
from gs_lift.geometry import quats_to_rotmats
from gs_lift.seeds import Purpose, seed_of

MOST_COPIES = 51
"""More copies of one Gaussian than this are counted as this many (gsplat's n_max)."""

GROWTH = 1.05
"""Gaussians after a round of adding, relative to those before."""


@dataclass(frozen=True)
class MCMC:
    """Relocate, add, shake; fields as in FitConfig, `stop` in steps, `extent` in world units."""

    extent: float
    max_gaussians: int
    start: int
    stop: int
    every: int
    min_opacity: float
    noise: float
    opacity_weight: float
    scale_weight: float
    absgrad: bool = False

    @classmethod
    def from_config(cls, config: FitConfig, extent: float) -> "MCMC":
        return cls(
            extent=extent,
            max_gaussians=config.max_gaussians,
            start=config.densify_from,
            stop=round(config.densify_until * config.steps),
            every=config.densify_every,
            min_opacity=config.prune_opacity,
            noise=config.mcmc_noise,
            opacity_weight=config.mcmc_opacity_weight,
            scale_weight=config.mcmc_scale_weight,
        )

    def initial_state(self) -> State:
        return {}

    def penalty(self, parameters: Parameters) -> Tensor:
        opacities, scales = parameters["opacities"].sigmoid(), parameters["scales"].exp()
        return self.opacity_weight * opacities.mean() + self.scale_weight / self.extent * scales.mean()

    @torch.no_grad()
    def after_step(
        self,
        parameters: Parameters,
        optimizers: Optimizers,
        state: State,
        info: dict[str, Any],
        moment: Moment,
    ) -> None:
        generator = torch.Generator(parameters["means"].device).manual_seed(
            seed_of(moment.seed, Purpose.FIT_STRATEGY, moment.step)
        )
        if self.start < moment.step < self.stop and moment.step % self.every == 0:
            relocate(parameters, optimizers, self.min_opacity, generator)
            target = min(self.max_gaussians, int(GROWTH * len(parameters["means"])))
            add(parameters, optimizers, target - len(parameters["means"]), self.min_opacity, generator)
        shake(parameters, self.noise * moment.means_lr / self.extent**2, generator)


def shared(
    opacities: Float[Tensor, "M"], scales: Float[Tensor, "M 3"], copies: Int[Tensor, "M"]
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M 3"]]:
    """Opacities and scales with which `copies` Gaussians in one place look like the one before (equation 9).

    The paper's double sum over i <= n and k < i of C(i-1, k) (-1)^k o^(k+1) / sqrt(k+1) is a single one: the binomials
    of one k add up to C(n, k+1).
    """
    copies = copies.clamp(1, MOST_COPIES)
    orders = torch.arange(1, MOST_COPIES + 1, device=opacities.device)
    terms = [
        [math.comb(n, j) * (-1) ** (j - 1) / math.sqrt(j) for j in range(1, MOST_COPIES + 1)]
        for n in range(1, MOST_COPIES + 1)
    ]
    table = torch.tensor(terms, dtype=torch.float64, device=opacities.device)
    whole = opacities.double()
    part = 1 - (1 - whole) ** (1 / copies.double())
    factor = whole / (table[copies - 1] * part[:, None] ** orders).sum(dim=1)
    return part.to(opacities), (factor[:, None] * scales).to(scales)


@torch.no_grad()
def relocate(
    parameters: Parameters, optimizers: Optimizers, min_opacity: float, generator: torch.Generator
) -> None:
    """Move the Gaussians that are no more opaque than `min_opacity` onto others, drawn by opacity."""
    opacities = parameters["opacities"].sigmoid()
    dead = torch.where(opacities <= min_opacity)[0]
    alive = torch.where(opacities > min_opacity)[0]
    if len(dead) == 0 or len(alive) == 0:
        return
    hosts = alive[torch.multinomial(opacities[alive], len(dead), replacement=True, generator=generator)]
    _share(parameters, hosts, min_opacity)
    for name, parameter in parameters.items():
        parameter.data[dead] = parameter.data[hosts]
        for key in ("exp_avg", "exp_avg_sq"):
            optimizers[name].moments[key][hosts] = 0


@torch.no_grad()
def add(
    parameters: Parameters, optimizers: Optimizers, count: int, min_opacity: float, generator: torch.Generator
) -> None:
    """Add `count` Gaussians on top of others, drawn by opacity."""
    if count <= 0 or len(parameters["means"]) == 0:
        return
    hosts = torch.multinomial(parameters["opacities"].sigmoid(), count, replacement=True, generator=generator)
    _share(parameters, hosts, min_opacity)
    for name, parameter in list(parameters.items()):
        moments = {"step": optimizers[name].moments["step"]}
        for key in ("exp_avg", "exp_avg_sq"):
            moment = optimizers[name].moments[key]
            moments[key] = torch.cat([moment, moment.new_zeros(count, *moment.shape[1:])])
        parameters[name] = torch.nn.Parameter(torch.cat([parameter.data, parameter.data[hosts]]))
        optimizers[name].replace(parameters[name], moments)


@torch.no_grad()
def shake(parameters: Parameters, amount: float, generator: torch.Generator) -> None:
    """Noise on the centres, along each Gaussian's covariance, for those fainter than about .005 / (1 - .995)."""
    means = parameters["means"]
    faintness = torch.sigmoid(100 * ((1 - parameters["opacities"].sigmoid()) - 0.995))
    noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
    axes = quats_to_rotmats(parameters["quats"]) * parameters["scales"].exp()[:, None, :]
    local = (axes * (noise * faintness[:, None] * amount)[:, :, None]).sum(dim=1)
    means.data += (axes * local[:, None, :]).sum(dim=2)


def _share(parameters: Parameters, hosts: Int[Tensor, "M"], min_opacity: float) -> None:
    """Make room in the hosts for the Gaussians that come: each host counts itself and those that drew it."""
    copies = torch.bincount(hosts, minlength=len(parameters["means"]))[hosts] + 1
    opacities, scales = shared(
        parameters["opacities"].sigmoid()[hosts], parameters["scales"].exp()[hosts], copies
    )
    largest = 1 - torch.finfo(torch.float32).eps
    parameters["opacities"].data[hosts] = opacities.clamp(min_opacity, largest).logit()
    parameters["scales"].data[hosts] = scales.log()
