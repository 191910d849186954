"""Losses on the blended embeddings of one image's pixels.

Notation: B sampled pixels; y segment, c confidence; f, s fast and slow embeddings. As in Contrastive Lift (Bhalgat et
al. 2023, section 3.2), as its authors' code computes it: A is the first half of the pixels, whose fast embeddings are
used, and B the second, whose slow embeddings are; k(u, v) = exp(-||f_u - s_v||), the distance not squared.

Segment ids mean something in one image only, so all pixels of a call come from one image. Where a loss has nothing
to compare (the authors' code gives NaN there) it is 0 and its gradient is 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift import _native
from gs_lift.errors import ConfigError
from gs_lift.rendering.weights import PickedRows, Weights
from gs_lift.threads import kernel_threads

Loss = Callable[
    [Float[Tensor, "B D"], Float[Tensor, "B D"], Int[Tensor, "B"], Float[Tensor, "B"]], Float[Tensor, ""]
]


def contrastive(
    fast: Float[Tensor, "B D"],
    slow: Float[Tensor, "B D"],
    segment: Int[Tensor, "B"],
    confidence: Float[Tensor, "B"],
) -> Float[Tensor, ""]:
    """Tell a pixel's segment among the others: mean over u in A of -log softmax mass, over v in B, of y_v = y_u.

    The logits are k(u, v). A pixel whose segment has no pixel in B does not count. Confidence has no part in it.
    """
    return _OfHalves.apply(fast, slow, segment, confidence, _native.lifting_contrastive)


class _OfHalves(torch.autograd.Function):
    """A loss of the first half's fast embeddings and the second half's slow ones, its gradient made with the value.

    Native: all pairs at once without a matrix of them, and none of the dozens of small operations that would cost
    more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fast: Tensor,
        slow: Tensor,
        segment: Tensor,
        confidence: Tensor,
        native: Callable[..., float],
    ) -> Tensor:
        half, gradient = len(fast) // 2, torch.zeros_like(fast, memory_format=torch.contiguous_format)
        halves = (
            fast.detach()[:half],
            slow.detach()[half:],
            segment[:half].long(),
            segment[half:].long(),
            confidence[:half].to(fast.dtype),
            gradient[:half],
        )
        loss = native(*(tensor.contiguous().numpy() for tensor in halves), kernel_threads())
        ctx.save_for_backward(gradient)
        return fast.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None, None, None


def concentration(
    fast: Float[Tensor, "B D"],
    slow: Float[Tensor, "B D"],
    segment: Int[Tensor, "B"],
    confidence: Float[Tensor, "B"],
) -> Float[Tensor, ""]:
    """Pull each fast embedding to the mean slow embedding m of its segment.

    Minus the mean, over the segments in both halves, of the mean over u in A of c_u exp(-||f_u - m||^2): squared here.
    """
    return _OfHalves.apply(fast, slow, segment, confidence, _native.lifting_concentration)


def vanilla(
    fast: Float[Tensor, "B D"],
    slow: Float[Tensor, "B D"],
    segment: Int[Tensor, "B"],
    confidence: Float[Tensor, "B"],
    temperature: float = 100.0,
) -> Float[Tensor, ""]:
    """The paper's baseline: all pixels against each other, one embedding; `slow` and `confidence` have no part in it.

    k = exp(-||f_u - f_v||^2 / T), T the temperature for pairs of one segment and 1 for others and for u = v.
    """
    if len(fast) == 0:
        return fast.sum()
    squared = (fast[:, None] - fast[None]).square().sum(dim=2)
    same = (segment[:, None] == segment[None]) & ~torch.eye(len(fast), dtype=torch.bool)
    weights = torch.exp(torch.exp(-squared / torch.where(same, temperature, 1.0)))
    positive = (weights * same).sum(dim=1)
    # A pixel alone in its segment has no positive: it adds nothing, but counts in the mean.
    alone = positive == 0
    terms = torch.where(alone, 1.0, positive).log() - weights.sum(dim=1).log()
    return -torch.where(alone, 0.0, terms).sum() / len(fast)


LOSSES: dict[str, Loss] = {"contrastive": contrastive, "concentration": concentration, "vanilla": vanilla}


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss on the instance embeddings; 0 leaves it out."""

    contrastive: float = 1.0
    """Tells the pixels of a segment from those of others (Contrastive Lift, slow-fast)."""
    concentration: float = 1.0
    """Pulls the pixels of a segment to their mean."""
    vanilla: float = 0.0
    """The paper's baseline without slow embeddings; to use it, set the other two to 0."""

    @property
    def used(self) -> tuple[str, ...]:
        """The names of those that are not left out."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    def __post_init__(self) -> None:
        """Raises ConfigError for the first weight that is negative or not finite."""
        for name in (field.name for field in fields(self)):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"lift.losses.{name}: wanted a finite 0 or more, got {getattr(self, name)}")


def instance_loss(
    fast: Float[Tensor, "B D"],
    slow: Float[Tensor, "B D"],
    segment: Int[Tensor, "B"],
    confidence: Float[Tensor, "B"],
    weights: LossWeights,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The weighted sum of the losses, and the value of each that takes part."""
    total, values = fast.sum() * 0, {}
    for name in weights.used:
        loss = LOSSES[name](fast, slow, segment, confidence)
        total, values[name] = total + getattr(weights, name) * loss, float(loss.detach())
    return total, values


def semantic_cross_entropy(
    logits: Float[Tensor, "N S"],
    weights: Weights | PickedRows,
    classes: Int[Tensor, "P"],
    confidence: Float[Tensor, "P"],
) -> Float[Tensor, ""]:
    """Mean over the pixels of -c log p(class); 0 without pixels.

    The Gaussians' class probabilities are blended as colours are and then renormalised. Blending probabilities, not
    logits, is what the authors do (as Panoptic Lifting, section 3.1).
    """
    if len(weights) == 0:
        return logits.sum() * 0
    return _SemanticCrossEntropy.apply(logits, weights, classes, confidence)


def semantic_gradient(
    logits: Float[Tensor, "N S"],
    weights: Weights | PickedRows,
    classes: Int[Tensor, "P"],
    confidence: Float[Tensor, "P"],
) -> tuple[float, Int[Tensor, "T"], Float[Tensor, "T S"]]:
    """`semantic_cross_entropy` of one pixel or more, the Gaussians that any of them sees, ascending, and its gradient
    by their logits; by the others' it is 0."""
    seen = torch.empty(len(logits), dtype=torch.int64)
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    loss, count = _native.lifting_class_loss(
        *weights.arrays(),
        logits.detach().contiguous().numpy(),
        classes.contiguous().numpy(),
        confidence.to(logits.dtype).contiguous().numpy(),
        seen.numpy(),
        gradient.numpy(),
    )
    return loss, seen[:count], gradient[:count]


class _SemanticCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, weights: Weights | PickedRows, classes: Tensor, confidence: Tensor
    ) -> Tensor:
        loss, seen, gradient = semantic_gradient(logits, weights, classes, confidence)
        ctx.save_for_backward(torch.zeros_like(logits).index_copy_(0, seen, gradient))
        return logits.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None, None
