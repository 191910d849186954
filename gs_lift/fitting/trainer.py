"""The photometric fit: one photo a step or a few, L1 + SSIM, Adam, and a strategy that adds and removes Gaussians."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gs_lift.checkpoint import Checkpoints
from gs_lift.distributed import (
    CHECK_EVERY,
    asked_to_stop,
    check_same,
    from_rank_zero,
    rank_zero,
    wait_for_all,
)
from gs_lift.errors import GsLiftError, SceneError, pick
from gs_lift.fitting.batches import BatchStep
from gs_lift.fitting.losses import photometric_loss
from gs_lift.fitting.optimizer import RowAdam
from gs_lift.fitting.photos import Photos, Shown
from gs_lift.fitting.settings import FitConfig
from gs_lift.fitting.steps import Optimizers, Parameters, Shot, Step, step_for
from gs_lift.fitting.strategies import STRATEGIES, Moment, State, Strategy
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import spatial_order
from gs_lift.lanes import Lanes, check_batches
from gs_lift.metrics import psnr
from gs_lift.progress import OnStep
from gs_lift.rendering import render
from gs_lift.scene import Scene
from gs_lift.seeds import Purpose, seed_of
from gs_lift.threads import torch_on_one_thread

log = logging.getLogger(__name__)

SETTLING = 0.25
"""Share of the steps over which the learning rates fall to `lr_end`."""

HELD_OUT = 64
"""Test views, at most, that a fit looks at while it runs: all of a long capture would take longer than its steps."""


@dataclass
class Training:
    """All that changes from step to step: what a checkpoint holds.

    parameters go by gsplat's names, as its strategies want: means, quats, scales (logarithms), opacities (logits), and
    sh [N K 3], of which only the degree in use is stored: higher terms would be zeros with gradients of zero.
    """

    parameters: Parameters
    optimizers: Optimizers
    strategy: State
    step: int

    def __len__(self) -> int:
        return len(self.parameters["means"])

    @property
    def sh_degree(self) -> int:
        return math.isqrt(self.parameters["sh"].shape[1]) - 1

    def gaussians(self, sh_degree: int) -> Gaussians:
        """A copy as Gaussians with spherical harmonics of `sh_degree`, zeros where the fit has not come to them."""
        parameters = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        sh = _with_terms(parameters["sh"], (sh_degree + 1) ** 2)
        return Gaussians(
            means=parameters["means"],
            quats=parameters["quats"],
            log_scales=parameters["scales"],
            logit_opacities=parameters["opacities"],
            sh0=sh[:, :1].clone(),
            shN=sh[:, 1:].clone(),
        )

    def saved(self) -> dict[str, Any]:
        """Tensors and numbers only, for Checkpoints.save."""
        return {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "moments": {name: dict(optimizer.moments) for name, optimizer in self.optimizers.items()},
            "strategy": self.strategy,
        }


OnGaussians = Callable[[int, Callable[[], Gaussians]], None]
"""Called as on_gaussians(step, make) after each step; make() gives the Gaussians as they are then."""


@torch_on_one_thread()
def fit(
    scene: Scene,
    config: FitConfig | None = None,
    *,
    backend: str = "cpu",
    device: str = "cpu",
    seed: int = 0,
    memory_budget_gb: float = 2.0,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
    on_gaussians: OnGaussians | None = None,
) -> Gaussians:
    """Fit Gaussians to the training photos of a scene, starting from its points.

    memory_budget_gb: for photos that are kept; the others are read when they are needed.

    Goes on from the newest of `checkpoints`, if there is one; the result has the same bytes as that of a run which was
    never stopped, on any number of threads. `on_step(step, figures)` gets "loss", "gaussians" and, every
    `evaluate_every` steps, "psnr" and "ssim" on the test views, or on HELD_OUT of them; if it raises KeyboardInterrupt,
    the state is saved first. `on_gaussians(step, make)` may look at the Gaussians of each step, before on_step:
    `make()` gives them.

    Inside `distributed.joined` all processes call it with the same scene and settings, and get the same Gaussians; each
    reads the photos of its own lanes. The first one's `checkpoints` count, and it alone looks at test views. A
    KeyboardInterrupt of any stops all. On as many processes the bytes are the same again; on others, close.

    Raises SceneError for a scene without points or photos, ConfigError for a value out of range or more processes than
    `config.batch`, GsLiftError if the loss stops being a number, WorldError where processes lose each other.
    """
    config = config or FitConfig()
    make_strategy = pick(STRATEGIES, config.strategy, "fit.strategy")
    if len(scene.train) == 0:
        raise SceneError(f"{scene.name}: no training views to fit to")
    extent = scene.extent
    strategy = make_strategy(config, extent)
    photos = Photos(scene.train, torch.device(device), memory_budget_gb * 1e9)
    check_batches(fit=config.batch)
    lanes = Lanes(min(config.batch, len(photos)), seed)
    latest = from_rank_zero(checkpoints.latest() if checkpoints and rank_zero() else None)
    if latest is None:
        training = _start(scene, config, strategy, photos.device, seed)
    else:
        training = _resume(*latest, scene, config, photos.device)
    single = step_for(backend, photos.device, config.sparse_adam)
    taking = BatchStep(single, lanes.count, config.sparse_adam) if config.batch > 1 else single
    with photos:
        for step in range(training.step + 1, config.steps + 1):
            figures = _one_step(training, photos, lanes, strategy, extent, config, taking)
            if step % CHECK_EVERY == 0 or step == config.steps:
                check_same(f"step {step} of the fit", training.parameters.values())
            if config.evaluate_every and step % config.evaluate_every == 0 and scene.test and rank_zero():
                figures |= _held_out(training, scene, backend)
            if checkpoints and checkpoints.due(step):
                checkpoints.save(step, training.saved())
            if on_gaussians:
                on_gaussians(step, lambda: training.gaussians(config.sh_degree).detach())
            if asked_to_stop(on_step, step, figures):
                if checkpoints and not checkpoints.due(step):
                    checkpoints.save(step, training.saved())
                wait_for_all()
                raise KeyboardInterrupt
    return _finite(training.gaussians(config.sh_degree))


def _finite(gaussians: Gaussians) -> Gaussians:
    """Without Gaussians that have become NaN or infinite: no view shows them, so the loss has not told.

    Raises GsLiftError if there is no other.
    """
    wrong = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
    for tensor in gaussians.parameters().values():
        wrong |= ~tensor.flatten(1).isfinite().all(dim=1) if tensor.dim() > 1 else ~tensor.isfinite()
    if len(gaussians) and bool(wrong.all()):
        raise GsLiftError("no Gaussian is finite any more; lower the learning rates (fit.*_lr)")
    if bool(wrong.any()):
        log.warning("%d of %d Gaussians are not finite and are left out", int(wrong.sum()), len(gaussians))
        return gaussians.rows(~wrong)
    return gaussians


def _start(scene: Scene, config: FitConfig, strategy: Strategy, device: torch.device, seed: int) -> Training:
    """The Gaussians of the scene's points; if there are more than allowed, a random choice of them."""
    points, colors = scene.points, scene.colors
    if len(points) == 0:
        raise SceneError(
            f"{scene.name}: no points to start from; choose data.init = triangulate, depth or random"
        )
    if not bool(points.isfinite().all()):
        raise SceneError(f"{scene.name}: its points have coordinates that are not finite")
    if len(points) > config.max_gaussians:
        generator = torch.Generator().manual_seed(seed_of(seed, Purpose.FIT_POINTS, 0))
        chosen = torch.randperm(len(points), generator=generator)[: config.max_gaussians].sort().values
        points, colors = points[chosen], colors[chosen]
    order = spatial_order(points)
    points, colors = points[order], colors[order]
    gaussians = Gaussians.from_points(points, colors, sh_degree=0, opacity=config.initial_opacity).to(device)
    named = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": gaussians.log_scales,
        "opacities": gaussians.logit_opacities,
        "sh": gaussians.sh0,
    }
    parameters = {name: torch.nn.Parameter(tensor.contiguous()) for name, tensor in named.items()}
    return Training(parameters, _optimizers(parameters, config), strategy.initial_state(), step=0)


def _resume(
    step: int, saved: dict[str, Any], scene: Scene, config: FitConfig, device: torch.device
) -> Training:
    if step > config.steps:
        raise GsLiftError(
            f"{scene.name}: its checkpoint stands at step {step}, after fit.steps={config.steps}; start anew"
        )
    parameters = {name: torch.nn.Parameter(tensor.to(device)) for name, tensor in saved["parameters"].items()}
    optimizers = _optimizers(parameters, config)
    for name, parameter in parameters.items():
        optimizers[name].replace(parameter, _on(saved["moments"][name], device))
    return Training(parameters, optimizers, _on(saved["strategy"], device), step)


def _on(state: State, device: torch.device) -> State:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in state.items()}


def _optimizers(parameters: Parameters, config: FitConfig) -> Optimizers:
    return {
        name: RowAdam(
            parameter,
            _rates(config)[name],
            head=3 * (name == "sh"),
            head_lr=config.sh0_lr,
            betas=(0.9**config.batch, 0.999**config.batch),  # what is remembered is as many photos
        )
        for name, parameter in parameters.items()
    }


def _rates(config: FitConfig) -> dict[str, float]:
    """Learning rates at the start: of the centres in scene extents, of all but the first spherical harmonics."""
    return {
        "means": config.means_lr,
        "quats": config.quats_lr,
        "scales": config.scales_lr,
        "opacities": config.opacities_lr,
        "sh": config.shN_lr,
    }


def _one_step(
    training: Training,
    photos: Photos,
    lanes: Lanes,
    strategy: Strategy,
    extent: float,
    config: FitConfig,
    taking: Step | BatchStep,
) -> dict[str, float]:
    """Render the photos' views, step down the loss, let the strategy work."""
    step = training.step + 1
    parameters, optimizers = training.parameters, training.optimizers
    if step % config.sh_every == 0 and training.sh_degree < config.sh_degree:
        _raise_degree(training)
    shots = [_shot(training, photos, lanes, lane, step, config) for lane in lanes.own]
    if isinstance(taking, BatchStep):
        value = taking.loss(parameters, shots, config.ssim_weight, strategy.absgrad)
    else:
        value = taking.loss(parameters, shots[0], config.ssim_weight, strategy.absgrad)
    if not math.isfinite(value):
        raise GsLiftError(
            f"step {step}: the loss is {value}; lower the learning rates (fit.*_lr) or look for broken photos and poses"
        )
    faster = math.sqrt(config.batch)
    means_lr = faster * extent * config.means_lr * config.means_lr_end ** (step / config.steps)
    decay = faster * config.lr_end ** max(0.0, 1 - (1 - step / config.steps) / SETTLING)
    for name, rate in _rates(config).items():
        optimizers[name].lr = means_lr if name == "means" else rate * decay
    optimizers["sh"].head_lr = config.sh0_lr * decay
    info = taking.descend(parameters, optimizers, strategy.penalty(parameters))
    strategy.after_step(parameters, optimizers, training.strategy, info, Moment(step, means_lr, lanes.seed))
    if len(training) == 0:
        raise GsLiftError(
            f"step {step}: no Gaussian is left; lower fit.prune_opacity or the learning rates (fit.*_lr)"
        )
    training.step = step
    return {"loss": value, "gaussians": float(len(training))}


def _shot(training: Training, photos: Photos, lanes: Lanes, lane: int, step: int, config: FitConfig) -> Shot:
    """What `step` learns from in a lane."""
    index, shrink = _wanted(lanes, lane, step, len(photos), config)
    last = lane == lanes.own[-1]
    following = (lanes.own[0], step + 1) if last else (lane + lanes.own.step, step)
    image = photos.image(index, shrink, then=_wanted(lanes, *following, len(photos), config))
    background = _background(config, lanes.seed, lanes.draw(lane, step)).to(photos.device)
    return Shot(photos.camera(index, shrink), image, background, training.sh_degree)


def _wanted(lanes: Lanes, lane: int, step: int, photos: int, config: FitConfig) -> Shown:
    """The photo of a lane at `step`, of so many."""
    index = lane + lanes.count * lanes.turn(lane, step, lanes.size(lane, photos), Purpose.FIT_ORDER)
    return index, 2 if step <= config.coarse_until * config.steps else 1


def _background(config: FitConfig, seed: int, draw: int) -> Tensor:
    if config.background == "random":
        return torch.rand(
            3, generator=torch.Generator().manual_seed(seed_of(seed, Purpose.FIT_BACKGROUND, draw))
        )
    return torch.full((3,), 1.0 if config.background == "white" else 0.0)


def _raise_degree(training: Training) -> None:
    """Add the spherical harmonics of the next degree, as zeros, and put the Gaussians in their order in space.

    What a view shows then lies together in memory: steps of the CPU are a fifth faster.
    """
    _reorder(training, spatial_order(training.parameters["means"]))
    old, optimizer = training.parameters["sh"], training.optimizers["sh"]
    terms = (training.sh_degree + 2) ** 2
    moments = {"step": optimizer.moments["step"]}
    for key in ("exp_avg", "exp_avg_sq"):
        moments[key] = _with_terms(optimizer.moments[key], terms)
    training.parameters["sh"] = torch.nn.Parameter(_with_terms(old.detach(), terms))
    optimizer.replace(training.parameters["sh"], moments)


def _reorder(training: Training, order: Tensor) -> None:
    """Put the rows of the parameters, of their moments and of the strategy's sums in another order."""
    for name, parameter in training.parameters.items():
        optimizer = training.optimizers[name]
        moments = {key: _rows(value, order) for key, value in optimizer.moments.items()}
        training.parameters[name] = torch.nn.Parameter(parameter.detach()[order])
        optimizer.replace(training.parameters[name], moments)
    for key, value in training.strategy.items():
        training.strategy[key] = _rows(value, order)


def _rows(value: Any, order: Tensor) -> Any:
    """value[order] of a tensor with a row for each Gaussian; anything else as it is."""
    return value[order] if isinstance(value, Tensor) and value.dim() and len(value) == len(order) else value


def _with_terms(sh: Tensor, terms: int) -> Tensor:
    """sh [N K 3] with zeros appended up to `terms` of them."""
    return torch.cat([sh, sh.new_zeros(len(sh), terms - sh.shape[1], 3)], dim=1)


@torch.no_grad()
def _held_out(training: Training, scene: Scene, backend: str) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over the test views; of more than HELD_OUT over that many, evenly spread."""
    gaussians = training.gaussians(training.sh_degree)
    psnrs, ssims = [], []
    for view in scene.test[:: -(-len(scene.test) // HELD_OUT)]:
        image = view.image().to(gaussians.means)
        colors = render(gaussians, view.camera, backend=backend).colors.clamp(0, 1)
        psnrs.append(float(psnr(colors, image)))
        ssims.append(float(1 - photometric_loss(colors, image, ssim_weight=1)))
    return {"psnr": math.fsum(psnrs) / len(psnrs), "ssim": math.fsum(ssims) / len(ssims)}
