"""Lifting by gradient descent: geometry is frozen, so rendering an embedding E is W @ E with constant W."""

import math
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Generator, Tensor

from gs_lift import _native
from gs_lift.checkpoint import Checkpoints
from gs_lift.errors import ConfigError, RunError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import spatial_order
from gs_lift.lifting.losses import LossWeights, instance_loss, semantic_gradient
from gs_lift.lifting.sampling import sample, sample_balanced
from gs_lift.lifting.views import Blender, TrainingView, prepare
from gs_lift.progress import OnStep
from gs_lift.rendering.weights import PickedRows
from gs_lift.scene import Scene
from gs_lift.seeds import Purpose, seed_of
from gs_lift.segmentation import Embeddings
from gs_lift.threads import kernel_threads, torch_on_one_thread


@dataclass(frozen=True)
class LiftConfig:
    """How the segments are lifted into embeddings."""

    steps: int = 4000
    """Optimisation steps, each on one view; 3000 with falling rates scored as 8000 without on messy_sam_50."""
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
    losses: LossWeights = field(default_factory=LossWeights)
    """Weights of the losses on the instance embeddings."""
    minimum_weight: float = 1e-3
    """Blending weights below this are dropped; 1e-3 loses 0.26 % of the weight and a third of the entries."""
    pixels_per_view: int = 65_536
    """Pixels of a view that training draws from, chosen at random once; bounds time and memory for large photos."""
    memory_budget_gb: float = 2.0
    """Memory for cached blending weights, 6 bytes an entry: 256 x 256 pixels that see 26 Gaussians each take 11 MB, so
    2 GB hold 180 such views. Views beyond it make them anew at each step, which takes two to three times as long."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first value out of its range."""
        # NaN compares false with everything: each test asks for what is wanted.
        at_least = {
            "dimensions": 1, "pixels": 2, "semantic_pixels": 0, "neighbours": 0, "steps": 0, "pixels_per_view": 1,
            "memory_budget_gb": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"lift.{name}: wanted {least} or more, got {getattr(self, name)}")
        for name in ("semantic_rate", "initial_spread", "minimum_weight", "thing_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"lift.{name}: wanted a finite 0 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"lift.learning_rate: wanted more than 0 and finite, got {self.learning_rate}")
        for name in ("balance", "momentum", "pull"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"lift.{name}: wanted 0 to 1, got {getattr(self, name)}")
        if not 0 < self.final_rate <= 1:
            raise ConfigError(f"lift.final_rate: wanted more than 0 and at most 1, got {self.final_rate}")


@dataclass
class _State:
    """All that changes from step to step; what a checkpoint holds."""

    fast: Float[Tensor, "N D"]
    fast_first: Float[Tensor, "N D"]
    fast_second: Float[Tensor, "N D"]
    slow: Float[Tensor, "N D"]
    semantic: Float[Tensor, "N S"]
    semantic_first: Float[Tensor, "N S"]
    semantic_second: Float[Tensor, "N S"]

    @classmethod
    def start(cls, count: int, classes: int, config: LiftConfig, seed: int) -> "_State":
        """Random small embeddings, slow a copy of fast, all classes equally likely.

        The authors start slow independently of fast; at a momentum of 0.9 either is forgotten after some 40 steps.
        """
        shape = (count, config.dimensions)
        fast = torch.randn(shape, generator=_generator(seed, Purpose.LIFT_START, 0)) * config.initial_spread
        return cls(
            fast=fast,
            fast_first=torch.zeros(shape),
            fast_second=torch.zeros(shape),
            slow=fast.clone(),
            semantic=torch.zeros(count, classes),
            semantic_first=torch.zeros(count, classes),
            semantic_second=torch.zeros(count, classes),
        )

    def tensors(self) -> dict[str, Tensor]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass
class _Problem:
    """What a step works on and with; nothing here is to be saved."""

    config: LiftConfig
    seed: int
    views: list[TrainingView]
    blender: Blender
    neighbours: Int[Tensor, "N K"] | None
    is_thing: Bool[Tensor, "S"]
    received: Float[Tensor, "parts N D"]
    """Room for what a step's pixels give to the Gaussians; zeros between steps."""
    spare: Float[Tensor, "N D"]
    """Room for the smoothed embeddings."""


@torch_on_one_thread()
def lift(
    scene: Scene,
    gaussians: Gaussians,
    config: LiftConfig | None = None,
    *,
    backend: str = "cpu",
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
) -> Embeddings:
    """Learn an instance embedding and class logits for each Gaussian from the training views' segments.

    Nothing moves a Gaussian. Embeddings are learnt on the CPU, whatever `backend` makes the blending weights. A start
    from a checkpoint ends with the same bytes as an uninterrupted run, on any number of threads.

    on_step: called with (step, {"loss", "semantic", and each loss by name}) after every step, from 1 to config.steps;
    if it raises KeyboardInterrupt, the step's state is saved first.

    Raises SceneError where no training view has segments or one has the wrong size, ConfigError for a value out of
    range, RunError for a checkpoint of another number of Gaussians.
    """
    config = config or LiftConfig()
    gaussians = gaussians.detach()
    # Neighbours in space become neighbours in memory: smoothing is then 1.4 times as fast.
    order = spatial_order(gaussians.means)
    gaussians = gaussians.rows(order)
    blender = Blender(gaussians, backend, config.minimum_weight)
    views, visibility, evidence = prepare(
        scene, blender, pixels_per_view=config.pixels_per_view, budget_gb=config.memory_budget_gb, seed=seed
    )
    state = _State.start(len(gaussians), len(scene.classes), config, seed)
    begun = _resume(state, checkpoints)
    neighbours = nearest(gaussians.means, config.neighbours)
    received = torch.zeros(_native.LIFTING_PARTS, len(gaussians), config.dimensions)
    is_thing = torch.tensor(scene.classes.is_thing)
    spare = torch.empty_like(state.fast)
    problem = _Problem(config, seed, views, blender, neighbours, is_thing, received, spare)
    # The kernels too: a step is many small operations, and waking a second thread for each costs more than it saves;
    # where other programs want the cores too, rows of 4096 pixels took 11 ms on two threads and 3.4 on one.
    with torch_on_one_thread(kernels=1):
        for step in range(begun + 1, config.steps + 1):
            figures = _take_step(step, state, problem)
            if checkpoints and checkpoints.due(step):
                checkpoints.save(step, dict(state.tensors()))
            if on_step:
                try:
                    on_step(step, figures)
                except KeyboardInterrupt:
                    if checkpoints and not checkpoints.due(step):
                        checkpoints.save(step, dict(state.tensors()))
                    raise
    place = torch.argsort(order.cpu())
    return Embeddings(
        state.fast[place], state.slow[place], state.semantic[place], visibility[place], evidence.result(order)
    )


def _resume(state: _State, checkpoints: Checkpoints | None) -> int:
    """Put the newest checkpoint into `state`; the steps that it has behind it."""
    latest = checkpoints.latest() if checkpoints else None
    if latest is None:
        return 0
    step, saved = latest
    for name, tensor in state.tensors().items():
        if name not in saved or saved[name].shape != tensor.shape:
            raise RunError(
                f"lift: the checkpoint of step {step} has other Gaussians or dimensions ({name}); use --overwrite"
            )
        tensor.copy_(saved[name])
    return step


def nearest(means: Float[Tensor, "N 3"], count: int) -> Int[Tensor, "N K"] | None:
    """The `count` nearest other Gaussians of each by their centres, int32; None where there are none."""
    count = min(count, len(means) - 1)
    if count <= 0:
        return None
    xyz = means.detach().cpu().numpy().astype(np.float64)
    index = cKDTree(xyz).query(xyz, k=count + 1)[1]
    # Each is its own nearest, except where centres coincide: then it may stand elsewhere in its row.
    own = np.arange(len(xyz))[:, None]
    others = np.where(index[:, 1:] == own, index[:, :1], index[:, 1:])
    return torch.from_numpy(others.astype(np.int32))


def _take_step(step: int, state: _State, problem: _Problem) -> dict[str, float]:
    """One view: embeddings by its thing pixels, class logits by all its labelled pixels."""
    config, seed = problem.config, problem.seed
    epoch, place = divmod(step - 1, len(problem.views))
    order = torch.randperm(len(problem.views), generator=_generator(seed, Purpose.LIFT_ORDER, epoch))
    view = problem.views[int(order[place])]
    generator = _generator(seed, Purpose.LIFT_PIXELS, step)
    things = sample_balanced(view.things, config.pixels, config.balance, generator)
    labelled = sample(len(view.labelled), config.semantic_pixels, generator)
    picked = view.things.rows[things], view.labelled.rows[labelled]
    of_things, of_labelled = view.rows(picked, problem.blender)
    figures = {"loss": 0.0, "semantic": 0.0}
    if len(things):
        figures |= _learn_instances(step, state, problem, view, things, of_things)
    if len(labelled):
        figures["semantic"] = _learn_classes(step, state, problem, view, labelled, of_labelled)
    return figures


def _generator(seed: int, purpose: Purpose, count: int) -> Generator:
    return Generator().manual_seed(seed_of(seed, purpose, count))


def _learn_instances(
    step: int,
    state: _State,
    problem: _Problem,
    view: TrainingView,
    things: Int[Tensor, "B"],
    weights: PickedRows,
) -> dict[str, float]:
    config = problem.config
    fast = weights.blend(state.fast).requires_grad_()
    # As the authors do: the slow embeddings of a step are those before its update.
    slow = weights.blend(state.slow)
    _native.lifting_follow(state.slow.numpy(), state.fast.numpy(), config.momentum, kernel_threads())
    segment, confidence = view.things.segment[things], view.things.confidence[things]
    loss, figures = instance_loss(fast, slow, segment, confidence, config.losses)
    (gradient,) = torch.autograd.grad(loss, fast)
    # The gradient W^T g is summed and used up Gaussian by Gaussian.
    _native.lifting_adam_blended(
        *weights.arrays(),
        gradient.contiguous().numpy(),
        *_arrays(state.fast, state.fast_first, state.fast_second, problem.received),
        *_adam(step, config.learning_rate, config),
        kernel_threads(),
    )
    if problem.neighbours is not None and config.pull > 0:
        smoothed = smooth(state.fast, problem.neighbours, config.pull, out=problem.spare)
        # Swapped, not made anew: the first touch of fresh memory takes as long as the smoothing.
        state.fast, problem.spare = smoothed, state.fast
    return {"loss": float(loss.detach()), **figures}


def _learn_classes(
    step: int,
    state: _State,
    problem: _Problem,
    view: TrainingView,
    labelled: Int[Tensor, "B"],
    weights: PickedRows,
) -> float:
    config = problem.config
    classes, confidence = view.labelled.classes[labelled], view.labelled.confidence[labelled]
    confidence = torch.where(problem.is_thing[classes], config.thing_weight, 1.0) * confidence
    loss, seen, gradient = semantic_gradient(state.semantic, weights, classes, confidence)
    _native.lifting_adam_rows(
        *_arrays(state.semantic, state.semantic_first, state.semantic_second, seen, gradient),
        *_adam(step, config.semantic_rate, config),
    )
    return loss


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _adam(step: int, rate: float, config: LiftConfig) -> tuple[int, float, float, float, float]:
    """The native kernels' settings of Adam: step, learning rate, beta 1 and 2, epsilon."""
    return step, rate * config.final_rate ** (step / config.steps), 0.9, 0.999, 1e-8


def smooth(
    features: Float[Tensor, "N D"],
    neighbours: Int[Tensor, "N K"],
    pull: float,
    *,
    out: Float[Tensor, "N D"] | None = None,
) -> Float[Tensor, "N D"]:
    """(1 - pull) features + pull * the mean of the neighbours' features, in `out` where given."""
    out = torch.empty_like(features) if out is None else out
    _native.lifting_smooth(features.numpy(), neighbours.numpy(), pull, out.numpy(), kernel_threads())
    return out
