"""What is learnt in a step: instance embeddings, in one of several ways, and classes.

A learner holds all that changes from step to step; its tensors are what a checkpoint holds. It takes a whole step by
one view (`learn`), or gives the gradient of each view of a batch (`gradient`) and then steps down their mean
(`descend`): the rows of a table that some pixel sees, other rows have none.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Generator, Tensor

from gs_lift import _native
from gs_lift.gaussians import Gaussians
from gs_lift.lifting.losses import instance_loss, semantic_gradient
from gs_lift.lifting.methods import METHODS
from gs_lift.lifting.network import RATE, CentreNetwork
from gs_lift.lifting.settings import LiftConfig
from gs_lift.lifting.views import TrainingView
from gs_lift.rendering.weights import PickedRows
from gs_lift.seeds import Purpose, seed_of
from gs_lift.threads import kernel_threads

BETAS = 0.9, 0.999
EPSILON = 1e-8


Part = tuple[Any, Int[Tensor, "R"], Float[Tensor, "R W"]]
"""Of one view: its losses, the rows that it touches, ascending, and the gradient by them."""


@runtime_checkable
class InstanceLearner(Protocol):
    """Learns the instance embeddings.

    shape: rows and columns of the table that has gradients. losses: the names of those that are reported.
    """

    shape: tuple[int, int]
    losses: tuple[str, ...]

    def learn(
        self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows
    ) -> dict[str, float]:
        """Step number `step`, from 1, by the thing pixels `things` of a view; the losses by name.

        weights: W's rows of those pixels.
        """
        ...

    def gradient(self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows) -> Part:
        """What `learn` would step down, and the losses by name; nothing changes."""
        ...

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        """Step number `step` down a gradient by these rows."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, by name."""
        ...

    def embeddings(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Fast and slow ones of all Gaussians."""
        ...


def instance_learner(gaussians: Gaussians, config: LiftConfig, seed: int) -> InstanceLearner:
    """The one that the method asks for."""
    learns = METHODS[config.method].learns
    if learns == "contrast" and config.field == "mlp":
        return NetworkLearner(gaussians, config, seed)
    return LEARNERS[learns](gaussians, config, seed)


class TableLearner:
    """By contrast, a fast and a slow embedding for each Gaussian; fast ones are smoothed over neighbours."""

    def __init__(self, gaussians: Gaussians, config: LiftConfig, seed: int) -> None:
        """Random small embeddings, slow a copy of fast.

        The authors start slow independently of fast; at a momentum of 0.9 either is forgotten after some 40 steps.
        """
        self.shape = shape = (len(gaussians), config.dimensions)
        self.config, self.losses = config, config.losses.used
        self.fast = torch.randn(shape, generator=_start(seed)) * config.initial_spread
        self.first, self.second, self.slow = torch.zeros(shape), torch.zeros(shape), self.fast.clone()
        self.neighbours = nearest(gaussians.means, config.neighbours) if config.pull > 0 else None
        # Room for what a step's pixels give to the Gaussians, zeros between steps; and for the smoothed embeddings.
        self._received = torch.zeros(_native.LIFTING_PARTS, *shape)
        self._spare = torch.empty(shape)

    def learn(
        self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows
    ) -> dict[str, float]:
        config = self.config
        fast = weights.blend(self.fast).requires_grad_()
        # As the authors do: the slow embeddings of a step are those before its update.
        slow = weights.blend(self.slow)
        _native.lifting_follow(self.slow.numpy(), self.fast.numpy(), config.momentum, kernel_threads())
        segment, confidence = view.things.segment[things], view.things.confidence[things]
        loss, figures = instance_loss(fast, slow, segment, confidence, config.losses)
        (gradient,) = torch.autograd.grad(loss, fast)
        # The gradient W^T g is summed and used up Gaussian by Gaussian.
        _native.lifting_adam_blended(
            *weights.arrays(),
            gradient.contiguous().numpy(),
            *_arrays(self.fast, self.first, self.second, self._received),
            *_adam(step, config, config.learning_rate),
            kernel_threads(),
        )
        self._smooth()
        return {"loss": float(loss.detach()), **figures}

    def gradient(self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows) -> Part:
        seen, rows = weights.seen()
        fast = rows.blend(self.fast[seen]).requires_grad_()
        slow = rows.blend(self.slow[seen])
        segment, confidence = view.things.segment[things], view.things.confidence[things]
        loss, figures = instance_loss(fast, slow, segment, confidence, self.config.losses)
        (gradient,) = torch.autograd.grad(loss, fast)
        return {"loss": float(loss.detach()), **figures}, seen, rows.blend_transposed(gradient)

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        config = self.config
        _native.lifting_follow(self.slow.numpy(), self.fast.numpy(), config.momentum, kernel_threads())
        tables = _arrays(self.fast, self.first, self.second, rows, gradient)
        _native.lifting_adam_rows(*tables, *_adam(step, config, config.learning_rate))
        self._smooth()

    def _smooth(self) -> None:
        if self.neighbours is not None:
            smoothed = smooth(self.fast, self.neighbours, self.config.pull, out=self._spare)
            # Swapped, not made anew: the first touch of fresh memory takes as long as the smoothing.
            self.fast, self._spare = smoothed, self.fast

    def tensors(self) -> dict[str, Tensor]:
        return {"fast": self.fast, "fast_first": self.first, "fast_second": self.second, "slow": self.slow}

    def embeddings(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        return self.fast, self.slow


class NetworkLearner:
    """By contrast, with networks of the centre in place of tables."""

    def __init__(self, gaussians: Gaussians, config: LiftConfig, seed: int) -> None:
        self.config, self.losses = config, config.losses.used
        self.network = CentreNetwork(gaussians.means, config.dimensions, _start(seed))
        self.shape = (1, sum(tensor.numel() for tensor in self.network.fast))

    def learn(
        self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows
    ) -> dict[str, float]:
        figures, rows, gradient = self.gradient(step, view, things, weights)
        self.descend(step, rows, gradient)
        return figures

    def gradient(self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows) -> Part:
        """One row: the network's parameters one after the other."""
        network = self.network
        seen, rows = weights.seen()
        for parameter in network.fast:
            parameter.requires_grad_()
        fast = rows.blend(network.embeddings(network.fast, seen))
        with torch.no_grad():
            slow = rows.blend(network.embeddings(network.slow, seen))
        segment, confidence = view.things.segment[things], view.things.confidence[things]
        loss, figures = instance_loss(fast, slow, segment, confidence, self.config.losses)
        gradients = torch.autograd.grad(loss, network.fast)
        for parameter in network.fast:
            parameter.requires_grad_(False)
        row = torch.cat([gradient.flatten() for gradient in gradients])[None]
        return {"loss": float(loss.detach()), **figures}, torch.zeros(1, dtype=torch.int64), row

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        network, config = self.network, self.config
        network.follow(config.momentum)
        pieces = gradient[0].split([tensor.numel() for tensor in network.fast])
        gradients = tuple(
            piece.view(tensor.shape) for piece, tensor in zip(pieces, network.fast, strict=True)
        )
        _, rate, *betas, _ = _adam(step, config, RATE)
        network.step(gradients, step, rate, (betas[0], betas[1]))

    def tensors(self) -> dict[str, Tensor]:
        return self.network.tensors()

    def embeddings(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        return self.network.embeddings(self.network.fast), self.network.embeddings(self.network.slow)


class AssignmentLearner:
    """A class for each of so many objects; a step's segments are matched to them at the least cost.

    As Panoptic Lifting (Siddiqui et al. 2023, section 3.3): minus the mean probability of an object over a segment is
    what it costs to match the two, and the loss is the cross-entropy of the pixels, weighted by confidence. The
    embedding that comes out is the number of the most probable object: one number, so that clusters are objects.
    """

    def __init__(self, gaussians: Gaussians, config: LiftConfig, seed: int) -> None:
        self.shape = shape = (len(gaussians), config.dimensions)
        self.config, self.losses = config, tuple[str, ...]()
        self.logits = torch.randn(shape, generator=_start(seed)) * config.initial_spread
        self.first, self.second = torch.zeros(shape), torch.zeros(shape)

    def learn(
        self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows
    ) -> dict[str, float]:
        figures, rows, gradient = self.gradient(step, view, things, weights)
        self.descend(step, rows, gradient)
        return figures

    def gradient(self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows) -> Part:
        segment, confidence = view.things.segment[things], view.things.confidence[things]
        seen, rows = weights.seen()
        blended = rows.blend(self.logits[seen].softmax(dim=1))
        probability = blended / blended.sum(dim=1, keepdim=True).clamp(min=1e-8)
        present, own = segment.unique(return_inverse=True)
        counts = torch.bincount(own).float()
        cost = (
            -torch.zeros(len(present), self.config.dimensions).index_add(0, own, probability)
            / counts[:, None]
        )
        matched, number = scipy.optimize.linear_sum_assignment(cost.numpy())
        target = torch.full((len(present),), -1)
        target[torch.from_numpy(matched)] = torch.from_numpy(number)
        # More segments than objects: the pixels of those that found none say nothing.
        kept = torch.nonzero(target[own] >= 0)[:, 0]
        picked = PickedRows(weights.weights, weights.index[kept])
        loss, touched, gradient = semantic_gradient(self.logits, picked, target[own][kept], confidence[kept])
        return {"loss": loss}, touched, gradient

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        tables = _arrays(self.logits, self.first, self.second, rows, gradient)
        _native.lifting_adam_rows(*tables, *_adam(step, self.config, self.config.learning_rate))

    def tensors(self) -> dict[str, Tensor]:
        return {"fast": self.logits, "fast_first": self.first, "fast_second": self.second}

    def embeddings(self) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        number = self.logits.argmax(dim=1, keepdim=True).float()
        return number, number.clone()


class NoLearner:
    """Learns nothing: every Gaussian has the same embedding, and instances are made by the segments alone."""

    def __init__(self, gaussians: Gaussians, config: LiftConfig, seed: int) -> None:
        self.count, self.shape, self.losses = len(gaussians), (0, 0), tuple[str, ...]()

    def learn(
        self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows
    ) -> dict[str, float]:
        return {}

    def gradient(self, step: int, view: TrainingView, things: Int[Tensor, "B"], weights: PickedRows) -> Part:
        return {}, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0)

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        """Nothing to step down."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def embeddings(self) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        return torch.zeros(self.count, 1), torch.zeros(self.count, 1)


LEARNERS: dict[str, Callable[[Gaussians, LiftConfig, int], InstanceLearner]] = {
    "contrast": TableLearner,
    "assignment": AssignmentLearner,
    "nothing": NoLearner,
}
"""What a Method learns by -> what learns it."""


class ClassLearner:
    """Learns the class logits; all classes are equally likely at the start."""

    def __init__(self, count: int, is_thing: Bool[Tensor, "S"], config: LiftConfig) -> None:
        shape = (count, len(is_thing))
        self.config, self.is_thing = config, is_thing
        self.logits, self.first, self.second = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)

    def learn(
        self,
        step: int,
        view: TrainingView,
        labelled: Int[Tensor, "B"],
        of_labelled: PickedRows,
        things: Int[Tensor, "T"],
        of_things: PickedRows,
    ) -> float:
        """Step number `step`, from 1, by those of a view's labelled pixels and thing pixels; the loss.

        of_labelled, of_things: rows of one W, of those pixels.
        """
        loss, rows, gradient = self.gradient(step, view, labelled, of_labelled, things, of_things)
        self.descend(step, rows, gradient)
        return loss

    def gradient(
        self,
        step: int,
        view: TrainingView,
        labelled: Int[Tensor, "B"],
        of_labelled: PickedRows,
        things: Int[Tensor, "T"],
        of_things: PickedRows,
    ) -> Part:
        """What `learn` would step down, and the loss; nothing changes."""
        config, classes, weights = self.config, view.labelled.classes[labelled], of_labelled
        confidence = torch.where(self.is_thing[classes], config.thing_weight, 1.0)
        confidence = confidence * view.labelled.confidence[labelled]
        if config.consistency > 0 and step > config.consistency_start * config.steps and len(things):
            agreed = self._class_of_segments(view.things.segment[things], of_things)
            doubt = config.consistency * view.things.confidence[things]
            weights = PickedRows(of_labelled.weights, torch.cat([of_labelled.index, of_things.index]))
            classes = torch.cat([classes, agreed])
            # The loss is a mean over all pixels; each kind shall count as a mean over its own.
            confidence = torch.cat(
                [confidence * len(weights) / len(labelled), doubt * len(weights) / len(things)]
            )
        return semantic_gradient(self.logits, weights, classes, confidence)

    def descend(self, step: int, rows: Int[Tensor, "R"], gradient: Float[Tensor, "R W"]) -> None:
        """Step number `step` down a gradient by these rows."""
        tables = _arrays(self.logits, self.first, self.second, rows, gradient)
        _native.lifting_adam_rows(*tables, *_adam(step, self.config, self.config.semantic_rate))

    def _class_of_segments(self, segment: Int[Tensor, "T"], weights: PickedRows) -> Int[Tensor, "T"]:
        """Of each pixel the class of its segment by what was learnt: that of the greatest mean log probability."""
        seen, rows = weights.seen()
        blended = rows.blend(self.logits[seen].softmax(dim=1))
        log = (blended / blended.sum(dim=1, keepdim=True).clamp(min=1e-8)).clamp(min=1e-8).log()
        sums = torch.zeros(int(segment.max()) + 1, log.shape[1]).index_add(0, segment, log)
        return sums.argmax(dim=1)[segment]

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, by name."""
        return {"semantic": self.logits, "semantic_first": self.first, "semantic_second": self.second}


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


def _start(seed: int) -> Generator:
    return Generator().manual_seed(seed_of(seed, Purpose.LIFT_START, 0))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _adam(step: int, config: LiftConfig, first: float) -> tuple[int, float, float, float, float]:
    """The native kernels' settings of Adam: step, learning rate (`first` at the start), beta 1 and 2, epsilon."""
    rate = math.sqrt(config.batch) * config.rate_at(step, first)
    return step, rate, BETAS[0] ** config.batch, BETAS[1] ** config.batch, EPSILON
