"""How the objects and classes of a scene are scored: what the released metric does, and that with its flaws mended.

Panoptic Lifting's released metric (which Contrastive Lift took over, and all published figures are by) compares maps
that were brought to 512 x 512 pixels, whatever their shape; leaves out every class that has less than .5 % of the
pixels in the prediction or in the truth, so that a rare class predicted a little is forgiven and one not predicted at
all counts 0; and forgives an object that the prediction leaves void for more than half. `strict` does none of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gs_lift.metrics import MINIMUM_SHARE, Confusion, Overlaps, PanopticQuality, pq_scene
from gs_lift.segmentation import Classes, Segments

RELEASED, STRICT = "released", "strict"


@dataclass(frozen=True)
class ClassScores:
    """One class of a scene; None where it is not judged. The counts are of segments over the whole scene."""

    name: str
    is_thing: bool
    pq: float | None
    sq: float | None
    rq: float | None
    iou: float | None
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True)
class PanopticScores:
    """How well objects and classes are found, in 0..1; None where there is no truth, or nothing to judge."""

    pq_scene: float | None
    """Panoptic quality over all test pixels at once, the mean over classes."""
    sq: float | None
    """Segmentation quality: mean IoU of the matches, the mean over classes."""
    rq: float | None
    """Recognition quality, the mean over classes."""
    pq_things: float | None
    pq_stuff: float | None
    miou: float | None
    """Mean IoU of the semantic classes."""
    objects_true: int | None
    """Objects in the truth of the test views."""
    objects_found: int | None
    """How many of them have an instance of their class with an IoU over 1/2 over the whole scene."""
    per_class: tuple[ClassScores, ...]


NO_TRUTH = PanopticScores(None, None, None, None, None, None, None, None, ())


@dataclass(frozen=True)
class Protocol:
    """size: (height, width) that maps are brought to by nearest neighbour, None = the truth's own. minimum_share: of
    the pixels, below which a class is not judged. forgive_void: see `pq_scene`."""

    size: tuple[int, int] | None
    minimum_share: float
    forgive_void: bool

    def overlaps(self, pred: Segments, truth: Segments) -> Overlaps:
        """Of one image; where the sizes differ, both take the protocol's, or the prediction the truth's."""
        size = self.size or tuple(truth.semantic.shape)
        return Overlaps.of(_resized(pred, size), _resized(truth, size))

    def scores(self, images: Sequence[Overlaps], classes: Classes) -> PanopticScores:
        """Of all the images of a scene at once."""
        if not images:
            return NO_TRUTH
        scene = Overlaps.joined(images)
        stuff = [number for number in range(len(classes)) if number not in classes.things]

        def judge(minimum_share: float) -> PanopticQuality:
            return pq_scene(
                scene.pred,
                scene.truth,
                things=classes.things,
                stuff=stuff,
                counts=scene.counts,
                minimum_share=minimum_share,
                forgive_void=self.forgive_void,
            )

        quality = judge(self.minimum_share)
        # What is found does not depend on whether its class is too rare for the mean.
        every = judge(0.0).classes
        confusion = Confusion(len(classes))
        confusion.update(scene.pred[:, 0], scene.truth[:, 0], scene.counts)
        return PanopticScores(
            pq_scene=_figure(quality.pq),
            sq=_figure(quality.sq),
            rq=_figure(quality.rq),
            pq_things=_figure(quality.pq_things),
            pq_stuff=_figure(quality.pq_stuff),
            miou=_figure(confusion.miou(self.minimum_share)),
            objects_true=_count(scene.truth[torch.isin(scene.truth[:, 0], torch.tensor(classes.things))]),
            objects_found=sum(every[thing].true_positives for thing in classes.things if thing in every),
            per_class=_class_scores(quality, confusion.iou(self.minimum_share), classes),
        )


PROTOCOLS: dict[str, Protocol] = {
    RELEASED: Protocol(size=(512, 512), minimum_share=MINIMUM_SHARE, forgive_void=True),
    STRICT: Protocol(size=None, minimum_share=0.0, forgive_void=False),
}


def _resized(segments: Segments, size: tuple[int, ...]) -> Segments:
    """By nearest neighbour: each pixel takes the value at its centre."""
    if tuple(segments.semantic.shape) == size:
        return segments
    rows, columns = (
        ((torch.arange(wanted) + 0.5) * (there / wanted)).long()
        for wanted, there in zip(size, segments.semantic.shape, strict=True)
    )
    return Segments(*(values[rows][:, columns] for values in vars(segments).values()))


def _count(pixels: Int[Tensor, "R 2"]) -> int:
    """Different (class, instance) pairs."""
    return len(pixels.unique(dim=0))


def _class_scores(quality: PanopticQuality, ious: np.ndarray, classes: Classes) -> tuple[ClassScores, ...]:
    rows = []
    for number, iou in enumerate(ious):
        judged = quality.classes.get(number)
        rows.append(
            ClassScores(
                name=classes.names[number],
                is_thing=classes.is_thing[number],
                pq=judged.pq if judged else None,
                sq=judged.sq if judged else None,
                rq=judged.rq if judged else None,
                iou=_figure(iou),
                true_positives=judged.true_positives if judged else 0,
                false_positives=judged.false_positives if judged else 0,
                false_negatives=judged.false_negatives if judged else 0,
            )
        )
    return tuple(rows)


def _figure(value: float) -> float | None:
    """A plain float, or None for nan, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
