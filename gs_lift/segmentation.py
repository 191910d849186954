"""What is known of objects: in one image (Segments), per Gaussian (Embeddings), in the scene (Instances)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

VOID = -1
"""Semantic class of a pixel that is not to be judged; also "no segment" and "no instance"."""


@dataclass(frozen=True)
class Classes:
    """The semantic classes of a scene; a class id is an index into both."""

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def things(self) -> tuple[int, ...]:
        return tuple(i for i, thing in enumerate(self.is_thing) if thing)


@dataclass(frozen=True)
class Segments:
    """One image's segments, or its truth.

    instance: id of each pixel's segment, -1 = none. A segmenter's ids mean something in this image only; the ids of a
        truth are the same in all images.
    semantic: class of each pixel, VOID = not known.
    confidence: the segmenter's, in 0..1; 1 where there is nothing to doubt.
    """

    instance: Int[Tensor, "H W"]
    semantic: Int[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]


@dataclass(frozen=True)
class Evidence:
    """What the 2D segments of the training views cover: the blending weight of each Gaussian within each of them.

    A sparse matrix of R regions, view after view: every segment of a thing, every stuff class, and what is neither.
    Its sum over the regions of a view is how much that view shows of each Gaussian, in pixels.

    view: number of the view that each region is of, from 0. kind: THING, STUFF or UNKNOWN.
    indptr, indices, values: compressed sparse rows, indices rising in each; values are float16 or float32.
    """

    view: Int[Tensor, "R"]
    kind: Int[Tensor, "R"]
    indptr: Int[Tensor, "R1"]
    indices: Int[Tensor, "nnz"]
    values: Float[Tensor, "nnz"]

    THING: ClassVar[int] = 1
    STUFF: ClassVar[int] = 0
    UNKNOWN: ClassVar[int] = -1

    def __len__(self) -> int:
        return len(self.view)


@dataclass
class Embeddings:
    """What lifting learns for each Gaussian, and what it learns from.

    fast: instance embedding, learnt by gradient.
    slow: its exponential moving average (Contrastive Lift, section 3.2).
    semantic: class logits.
    visibility: total blending weight over all training pixels; 0 = never seen.
    evidence: what the segments cover; None where nobody kept it: then instances are made by the embeddings alone.
    """

    fast: Float[Tensor, "N D"]
    slow: Float[Tensor, "N D"]
    semantic: Float[Tensor, "N S"]
    visibility: Float[Tensor, "N"]
    evidence: Evidence | None = None

    def __len__(self) -> int:
        return len(self.fast)


@dataclass(frozen=True)
class Parts:
    """What the instances of a scene consist of, as far as their embeddings tell: P parts.

    instance: that each belongs to.
    parent: the part that it is a part of, -1 = directly of the instance; parents come before children.
    granularity: from which on it is an instance of its own (see ClusterConfig).
    labels: the smallest part of each Gaussian, -1 = none.
    """

    instance: Int[Tensor, "P"]
    parent: Int[Tensor, "P"]
    granularity: Float[Tensor, "P"]
    labels: Int[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.instance)


SURE = 0.93
"""Mean score of an object's Gaussians from which on all of 430 objects but one in fifty were true ones."""


def object_scores(labels: Int[Tensor, "N"], scores: Float[Tensor, "N"], count: int) -> Float[Tensor, "M"]:
    """Confidence of each of `count` instances: the mean score of its Gaussians over that of an object that is found for
    sure, at most 1. Even there those of its border are not certain."""
    taken = labels >= 0
    sums = torch.bincount(labels[taken], weights=scores[taken].double(), minlength=count)
    counts = torch.bincount(labels[taken], minlength=count).clamp(min=1)
    return (sums / counts / SURE).clamp(max=1).float()


@dataclass(frozen=True)
class Instances:
    """The objects of a scene.

    labels: instance of each Gaussian, -1 = none; instances are numbered by falling size. After edits an instance keeps
        its number: one may have no Gaussians.
    scores: confidence of each Gaussian's label in 0..1, 0 where it has none.
    classes: semantic class of each instance.
    tree: what a re-cut needs (see clustering.recut_instances).
    parts: what they consist of; None where nobody looked.
    """

    labels: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]
    classes: Int[Tensor, "M"]
    tree: dict[str, Tensor]
    parts: Parts | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def object_scores(self) -> Float[Tensor, "M"]:
        """Confidence of each instance, see `object_scores`."""
        return object_scores(self.labels, self.scores, len(self))

    @property
    def counts(self) -> Int[Tensor, "M"]:
        """Gaussians of each instance."""
        return torch.bincount(self.labels[self.labels >= 0], minlength=len(self))

    @property
    def present(self) -> Int[Tensor, "_"]:
        """The instances that have Gaussians."""
        return torch.nonzero(self.counts)[:, 0]
