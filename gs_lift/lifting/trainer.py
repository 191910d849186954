"""Lifting by gradient descent: geometry is frozen, so rendering an embedding E is W @ E with constant W."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from gs_lift.ahead import Ahead
from gs_lift.checkpoint import Checkpoints
from gs_lift.distributed import (
    CHECK_EVERY,
    RowSum,
    all_reduce_rows,
    asked_to_stop,
    check_same,
    from_rank_zero,
    rank_zero,
    wait_for_all,
)
from gs_lift.errors import RunError, SceneError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import spatial_order
from gs_lift.lanes import Lanes, check_batches
from gs_lift.lifting.learners import ClassLearner, InstanceLearner, instance_learner
from gs_lift.lifting.sampling import sample, sample_balanced
from gs_lift.lifting.settings import LiftConfig
from gs_lift.lifting.views import Blender, Prepared, Reader, TrainingView, prepare
from gs_lift.progress import OnStep
from gs_lift.rendering.weights import PickedRows
from gs_lift.scene import Scene
from gs_lift.seeds import Purpose, seed_of
from gs_lift.segmentation import Embeddings
from gs_lift.threads import torch_on_one_thread

AHEAD = 2
"""Views that are made in the background, side by side, while a step works: rows of W take two to three times as long as
learning from them."""


@dataclass
class _Learners:
    """Both kinds; between steps, all that changes is theirs."""

    instances: InstanceLearner
    classes: ClassLearner

    def __post_init__(self) -> None:
        self.all: list[InstanceLearner | ClassLearner] = [self.instances, self.classes]

    @cached_property
    def sums(self) -> list[RowSum]:
        """Of each one's gradients, for steps of several views."""
        return [RowSum(*self.instances.shape), RowSum(*self.classes.logits.shape)]

    def tensors(self) -> dict[str, Tensor]:
        return self.instances.tensors() | self.classes.tensors()


@torch_on_one_thread()
def lift(
    scene: Scene,
    gaussians: Gaussians,
    config: LiftConfig | None = None,
    *,
    rows: Int[Tensor, "M"] | None = None,
    backend: str = "cpu",
    seed: int = 0,
    memory_budget_gb: float = 2.0,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
    on_view: OnStep | None = None,
) -> Embeddings:
    """Learn an instance embedding and class logits for each Gaussian from the training views' segments.

    Nothing moves a Gaussian. Embeddings are learnt on the CPU, whatever `backend` makes the blending weights. A start
    from a checkpoint ends with the same bytes as an uninterrupted run, on any number of threads.

    rows: the Gaussians to learn of, a block of the scene: the result has a row for each; the others only hide what is
    behind them, and pixels that show mostly those are left out. None = all.
    memory_budget_gb: for segments and weights that are kept; those of other views are made when they are needed.
    on_step: called with (step, {"loss", "semantic", and each loss by name}) after every step, from 1 to config.steps;
    if it raises KeyboardInterrupt, the step's state is saved first. on_view: called before, as each view is looked at
    once, with (how many were, {"of": how many will be}).

    Inside `distributed.joined` all processes call it with the same scene, Gaussians and settings; each reads the
    segments and makes the weights of its own lanes. The first one's `checkpoints` count; it alone gets visibility and
    evidence (elsewhere zeros and None). A KeyboardInterrupt of any stops all.

    Raises SceneError where no training view has segments or one has the wrong size, ConfigError for a value out of
    range or more processes than `config.batch`, RunError for a checkpoint of another number of Gaussians, WorldError
    where processes lose each other.
    """
    config = config or LiftConfig()
    check_batches(lift=config.batch)
    if not scene.train and rows is None:  # a block may be out of sight
        raise SceneError(f"{scene.name}: no training views to lift from")
    blender, gaussians, order = _blender(gaussians, rows, config, backend)
    segmented = sum(view.segments is not None for view in scene.train)
    lanes = Lanes(max(1, min(config.batch, segmented)), seed)
    prepared = prepare(
        Reader(scene, config.pixels_per_view, seed),
        blender,
        lanes,
        evidence_views=config.evidence_views,
        budget_gb=memory_budget_gb,
        on_view=on_view,
    )
    is_thing = torch.tensor(scene.classes.is_thing)
    learners = _Learners(
        instance_learner(gaussians, config, seed), ClassLearner(len(gaussians), is_thing, config)
    )
    begun = _resume(learners, checkpoints)
    # The kernels too: a step is many small operations, and waking a second thread for each costs more than it saves;
    # where other programs want the cores too, rows of 4096 pixels took 11 ms on two threads and 3.4 on one.
    take_step = _take_step if config.batch == 1 else _take_batch_step
    with torch_on_one_thread(kernels=1), _Taker(prepared, lanes, blender, config) as taker:
        for step in range(begun + 1, config.steps + 1):
            figures = take_step(step, learners, taker)
            if step % CHECK_EVERY == 0 or step == config.steps:
                check_same(f"step {step} of lifting", learners.tensors().values())
            if checkpoints and checkpoints.due(step):
                checkpoints.save(step, learners.tensors())
            if asked_to_stop(on_step, step, figures):
                if checkpoints and not checkpoints.due(step):
                    checkpoints.save(step, learners.tensors())
                wait_for_all()
                raise KeyboardInterrupt
    place = torch.argsort(order.cpu())
    fast, slow = learners.instances.embeddings()
    learnt = fast[place], slow[place], learners.classes.logits[place]
    gathered = prepared.gathered()
    if gathered is None:
        return Embeddings(*learnt, torch.zeros(len(gaussians)))
    visibility, evidence = gathered
    return Embeddings(*learnt, visibility[place], evidence.result(order))


def _blender(
    gaussians: Gaussians, rows: Int[Tensor, "M"] | None, config: LiftConfig, backend: str
) -> tuple[Blender, Gaussians, Int[Tensor, "M"]]:
    """What makes W, the Gaussians of its columns, and which of those to learn of each is.

    Columns are in spatial order: neighbours in space become neighbours in memory, smoothing is 1.4 times as fast.
    """
    geometry = gaussians.geometry()
    own = geometry if rows is None else geometry.rows(rows)
    order = spatial_order(own.means)
    own = own.rows(order)
    if rows is None:
        return Blender(own, backend, config.minimum_weight), own, order
    block = torch.full((len(geometry),), -1)
    block[rows[order.cpu()]] = torch.arange(len(rows))
    return Blender(geometry, backend, config.minimum_weight, block), own, order


def _resume(learners: _Learners, checkpoints: Checkpoints | None) -> int:
    """Put the newest checkpoint into the learners; the steps that it has behind it."""
    latest = from_rank_zero(checkpoints.latest() if checkpoints and rank_zero() else None)
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


@dataclass(frozen=True)
class _Taken:
    """The view of one lane, and what a step takes of it: thing pixels and labelled pixels, and W's rows of each."""

    view: TrainingView
    things: Tensor
    of_things: PickedRows
    labelled: Tensor
    of_labelled: PickedRows


class _Taker:
    """Takes the views of a step, its pixels and their rows; what is not in memory it begins to make a few steps before.

    All is a function of seed, step and lane, whoever makes it and when.
    """

    def __init__(self, prepared: Prepared, lanes: Lanes, blender: Blender, config: LiftConfig):
        self.lanes = lanes
        self._prepared, self._blender, self._config = prepared, blender, config
        self._ahead: Ahead[tuple[int, int], _Taken | None] = Ahead(lambda key: self._take(*key), AHEAD)

    def __enter__(self) -> "_Taker":
        self._ahead.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.__exit__(kind, error, trace)

    def __call__(self, step: int) -> Iterator[_Taken]:
        """What `step` takes of each of this process's lanes that has a view."""
        for lane in self.lanes.own:
            taken = self._ahead.get((step, lane), self._following(step, lane))
            if taken is not None:
                yield taken

    def _following(self, step: int, lane: int) -> list[tuple[int, int]]:
        """Of the next few views those that have to be made."""
        if self._prepared.in_memory:
            return []
        own = self.lanes.own
        first = step * len(own) + own.index(lane)
        places = [divmod(first + further, len(own)) for further in range(1, AHEAD + 1)]
        keys = [(at, own[place]) for at, place in places if at <= self._config.steps]
        return [key for key in keys if self._is_made_anew(*key)]

    def _is_made_anew(self, step: int, lane: int) -> bool:
        turn = self._turn(step, lane)
        return turn is not None and not self._prepared.has(lane, turn)

    def _turn(self, step: int, lane: int) -> int | None:
        views = self._prepared.views[lane]
        return self.lanes.turn(lane, step, len(views), Purpose.LIFT_ORDER) if views else None

    def _take(self, step: int, lane: int) -> _Taken | None:
        turn = self._turn(step, lane)
        if turn is None:
            return None
        view, config = self._prepared.view(lane, turn), self._config
        stream = seed_of(self.lanes.seed, Purpose.LIFT_PIXELS, self.lanes.draw(lane, step))
        generator = Generator().manual_seed(stream)
        things = sample_balanced(view.things, config.pixels, config.balance, generator)
        labelled = sample(len(view.labelled), config.semantic_pixels, generator)
        picked = view.things.rows[things], view.labelled.rows[labelled]
        of_things, of_labelled = view.rows(picked, self._blender)
        return _Taken(view, things, of_things, labelled, of_labelled)


def _take_step(step: int, learners: _Learners, taker: _Taker) -> dict[str, float]:
    """One view: embeddings by its thing pixels, class logits by all its labelled pixels."""
    figures = {"loss": 0.0, "semantic": 0.0}
    taken = next(taker(step), None)
    if taken is None:  # a block without segments
        return figures
    view, things, labelled = taken.view, taken.things, taken.labelled
    if len(things):
        figures |= learners.instances.learn(step, view, things, taken.of_things)
    if len(labelled):
        figures["semantic"] = learners.classes.learn(
            step, view, labelled, taken.of_labelled, things, taken.of_things
        )
    return figures


def _take_batch_step(step: int, learners: _Learners, taker: _Taker) -> dict[str, float]:
    """As `_take_step`, down the mean gradient of one view of each lane, over all processes."""
    sums, lanes = learners.sums, taker.lanes
    figures = dict.fromkeys(("loss", "semantic", *learners.instances.losses), 0.0)
    for taken in taker(step):
        view, things, labelled = taken.view, taken.things, taken.labelled
        if len(things):
            more, *part = learners.instances.gradient(step, view, things, taken.of_things)
            sums[0].add(*part)
            figures |= {name: figures[name] + value for name, value in more.items()}
        if len(labelled):
            loss, *part = learners.classes.gradient(
                step, view, labelled, taken.of_labelled, things, taken.of_things
            )
            sums[1].add(*part)
            figures["semantic"] += loss
    reduced = all_reduce_rows(sums, torch.tensor([*figures.values()]))
    means = [(rows, (values / lanes.count).float()) for rows, values in reduced.rows]
    for (rows, gradient), learner in zip(means, learners.all, strict=True):
        if len(rows):
            learner.descend(step, rows, gradient)
    return dict(zip(figures, (reduced.figures / lanes.count).tolist(), strict=True))
