"""Lifting by gradient descent: geometry is frozen, so rendering an embedding E is W @ E with constant W."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gs_lift.checkpoint import Checkpoints
from gs_lift.errors import RunError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import spatial_order
from gs_lift.lifting.learners import ClassLearner, InstanceLearner, instance_learner
from gs_lift.lifting.sampling import sample, sample_balanced
from gs_lift.lifting.settings import LiftConfig
from gs_lift.lifting.views import Blender, TrainingView, prepare
from gs_lift.progress import OnStep
from gs_lift.scene import Scene
from gs_lift.seeds import Purpose, seed_of
from gs_lift.segmentation import Embeddings
from gs_lift.threads import torch_on_one_thread


@dataclass
class _Learners:
    """Both kinds; between steps, all that changes is theirs."""

    instances: InstanceLearner
    classes: ClassLearner

    def tensors(self) -> dict[str, Tensor]:
        return self.instances.tensors() | self.classes.tensors()


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
    is_thing = torch.tensor(scene.classes.is_thing)
    learners = _Learners(
        instance_learner(gaussians, config, seed), ClassLearner(len(gaussians), is_thing, config)
    )
    begun = _resume(learners, checkpoints)
    # The kernels too: a step is many small operations, and waking a second thread for each costs more than it saves;
    # where other programs want the cores too, rows of 4096 pixels took 11 ms on two threads and 3.4 on one.
    with torch_on_one_thread(kernels=1):
        for step in range(begun + 1, config.steps + 1):
            figures = _take_step(step, learners, views, blender, config, seed)
            if checkpoints and checkpoints.due(step):
                checkpoints.save(step, learners.tensors())
            if on_step:
                try:
                    on_step(step, figures)
                except KeyboardInterrupt:
                    if checkpoints and not checkpoints.due(step):
                        checkpoints.save(step, learners.tensors())
                    raise
    place = torch.argsort(order.cpu())
    fast, slow = learners.instances.embeddings()
    return Embeddings(
        fast[place], slow[place], learners.classes.logits[place], visibility[place], evidence.result(order)
    )


def _resume(learners: _Learners, checkpoints: Checkpoints | None) -> int:
    """Put the newest checkpoint into the learners; the steps that it has behind it."""
    latest = checkpoints.latest() if checkpoints else None
    if latest is None:
        return 0
    step, saved = latest
    for name, tensor in learners.tensors().items():
        if name not in saved or saved[name].shape != tensor.shape:
            raise RunError(
                f"lift: the checkpoint of step {step} has other Gaussians or dimensions ({name}); use --overwrite"
            )
        tensor.copy_(saved[name])
    return step


def _take_step(
    step: int, learners: _Learners, views: list[TrainingView], blender: Blender, config: LiftConfig, seed: int
) -> dict[str, float]:
    """One view: embeddings by its thing pixels, class logits by all its labelled pixels."""
    epoch, place = divmod(step - 1, len(views))
    order = torch.randperm(len(views), generator=_generator(seed, Purpose.LIFT_ORDER, epoch))
    view = views[int(order[place])]
    generator = _generator(seed, Purpose.LIFT_PIXELS, step)
    things = sample_balanced(view.things, config.pixels, config.balance, generator)
    labelled = sample(len(view.labelled), config.semantic_pixels, generator)
    picked = view.things.rows[things], view.labelled.rows[labelled]
    of_things, of_labelled = view.rows(picked, blender)
    figures = {"loss": 0.0, "semantic": 0.0}
    if len(things):
        figures |= learners.instances.learn(step, view, things, of_things)
    if len(labelled):
        figures["semantic"] = learners.classes.learn(step, view, labelled, of_labelled, things, of_things)
    return figures


def _generator(seed: int, purpose: Purpose, count: int) -> Generator:
    return Generator().manual_seed(seed_of(seed, purpose, count))
