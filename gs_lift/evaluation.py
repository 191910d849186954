"""Scores of a lifted scene on its test views: pictures, classes and objects against the truth.

Discrete labels are rendered, not embeddings: each Gaussian votes for its instance with its blending weight, so that an
object's border lies where its Gaussians end and a mixture of two objects never looks like a third.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gs_lift.errors import pick
from gs_lift.gaussians import Gaussians
from gs_lift.metrics import FrameQuality, OverlapsOfImages, frame_quality, psnr, ssim
from gs_lift.progress import OnStep
from gs_lift.protocols import PROTOCOLS, RELEASED, ClassScores, PanopticScores
from gs_lift.rendering import blending_weights, render
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import VOID, Classes, Embeddings, Instances, Segments
from gs_lift.sparse import Sparse, one_hot, strongest


@dataclass(frozen=True)
class Scores(PanopticScores):
    """What `evaluate` found, in 0..1 (psnr in dB); None where there is no truth to judge by, or nothing to judge."""

    psnr: float | None
    """Mean over the test images."""
    ssim: float | None
    halo: float | None
    """Share of an instance's rendered weight outside the silhouettes of the object that most of it lies in; mean."""
    gaussians: int

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Scores":
        """From `asdict` of it. Raises TypeError or KeyError where it is not that."""
        classes = tuple(ClassScores(**row) for row in content["per_class"])
        return cls(**content | {"per_class": classes})


def evaluate(
    scene: Scene,
    gaussians: Gaussians,
    embeddings: Embeddings,
    instances: Instances,
    *,
    protocol: str = RELEASED,
    backend: str = "cpu",
    on_step: OnStep | None = None,
) -> Scores:
    """Judge pictures and instances on `scene.test`; views without truth count for the pictures only.

    protocol: one of PROTOCOLS. Raises ConfigError for another.
    """
    (scores,) = evaluate_by(
        (protocol,), scene, gaussians, embeddings, instances, backend=backend, on_step=on_step
    )
    return scores


def evaluate_by(
    protocols: Sequence[str],
    scene: Scene,
    gaussians: Gaussians,
    embeddings: Embeddings,
    instances: Instances,
    *,
    backend: str = "cpu",
    on_step: OnStep | None = None,
) -> list[Scores]:
    """What `evaluate` finds, by each of some protocols; rendered once."""
    chosen = [pick(PROTOCOLS, name, "protocol") for name in protocols]
    pictures: list[tuple[float, float]] = []
    overlaps = [OverlapsOfImages() for _ in chosen]
    halos = _Halos(len(instances))
    for step, view in enumerate(scene.test, start=1):
        pictures.append(_picture_scores(gaussians, view.camera, view.image(), backend))
        if view.truth is not None:
            blend, truth = pixel_weights(gaussians, view.camera, backend=backend), view.truth()
            pred = _panoptic(blend, view.camera, embeddings, instances, scene.classes)
            for protocol, gathered in zip(chosen, overlaps, strict=True):
                gathered.append(protocol.overlaps(pred, truth))
            halos.add(blend, instances, truth, scene.classes)
        if on_step is not None:
            on_step(step, dict(zip(("psnr", "ssim"), pictures[-1], strict=True)))
    mean_psnr, mean_ssim = np.mean(pictures, axis=0) if pictures else (np.nan, np.nan)
    return [
        Scores(
            **vars(protocol.scores(gathered.images, scene.classes)),
            psnr=_figure(mean_psnr),
            ssim=_figure(mean_ssim),
            halo=_figure(halos.mean()),
            gaussians=len(gaussians),
        )
        for protocol, gathered in zip(chosen, overlaps, strict=True)
    ]


def panoptic(
    camera: Camera,
    gaussians: Gaussians,
    embeddings: Embeddings,
    instances: Instances,
    classes: Classes,
    *,
    backend: str = "cpu",
) -> Segments:
    """What a camera sees, by the votes of the Gaussians, which count with their blending weights.

    A pixel's class is the one with the most blended probability; a Gaussian that belongs to an instance is a thing at
    least as probably as that, whatever it learnt. Where that is a thing, the instance with the most votes takes the
    pixel and gives it its own class, however small its share is; where no instance has a vote, no object is there, and
    the pixel goes to the most probable stuff, if there is any. A pixel that shows nothing goes to the first stuff class
    (to VOID without one): void in a prediction would be left out of the score. confidence: the winner's share of the
    pixel's weight.
    """
    return _panoptic(
        pixel_weights(gaussians, camera, backend=backend), camera, embeddings, instances, classes
    )


def pixel_weights(
    gaussians: Gaussians, camera: Camera, *, minimum: float = 1e-3, backend: str = "cpu"
) -> Sparse:
    """W of all pixels of a camera. minimum: see `rendering.blending_weights`."""
    weights = blending_weights(gaussians, camera, minimum=minimum, backend=backend)
    return Sparse(
        (weights.values.double().numpy(), weights.indices.numpy(), weights.indptr.numpy()),
        shape=(len(weights), weights.columns),
    )


def _panoptic(
    blend: Sparse, camera: Camera, embeddings: Embeddings, instances: Instances, classes: Classes
) -> Segments:
    probabilities = blend @ _class_probabilities(embeddings, instances, classes)
    semantic, share = _classes_of_pixels(probabilities, classes)
    is_thing = np.array([*classes.is_thing, False])  # the last one is VOID
    winner, votes = strongest(blend @ _membership(instances, is_thing, blend.shape[1]))
    thing = is_thing[semantic]
    instance = np.where(thing, winner, -1)
    taken = instance >= 0
    semantic[taken] = instances.classes.cpu().numpy()[instance[taken]]
    share[taken] = votes[taken]
    lost = thing & ~taken
    if stuff := _stuff(classes):
        best = probabilities[np.ix_(lost, stuff)].argmax(axis=1)
        semantic[lost] = np.array(stuff)[best]
        share[lost] = probabilities[lost, semantic[lost]]
    total = blend.sum(axis=1)
    confidence = np.divide(share, total, out=np.zeros(len(total)), where=total > 0)
    size = (camera.height, camera.width)
    return Segments(
        torch.from_numpy(instance).reshape(size),
        torch.from_numpy(semantic).reshape(size),
        torch.from_numpy(confidence).float().clamp(0, 1).reshape(size),
    )


@dataclass
class _Halos:
    """Rendered weight of M instances inside the silhouettes of true objects, view by view."""

    count: int
    inside: Sparse | None = None
    total: np.ndarray | None = None

    def add(self, blend: Sparse, instances: Instances, truth: Segments, classes: Classes) -> None:
        member = _membership(instances, np.array([*classes.is_thing, False]), blend.shape[1])
        weight = (blend @ member).T.tocsr()  # [M P]
        semantic, instance = truth.semantic.flatten().numpy(), truth.instance.flatten().numpy()
        thing = np.array([*classes.is_thing, False])[semantic]
        objects = np.where(thing, instance, -1).astype(np.int64)
        width = max(int(objects.max(initial=-1)) + 1, self.inside.shape[1] if self.inside is not None else 0)
        inside = weight @ one_hot(objects, width)
        if self.inside is not None:
            self.inside.resize((self.count, width))
            inside = inside + self.inside
        self.inside = inside.tocsr()
        total = weight.sum(axis=1)
        self.total = total if self.total is None else self.total + total

    def mean(self) -> float:
        """Over the instances that show in any silhouette; NaN where none does."""
        if self.inside is None or self.total is None:
            return np.nan
        _, most = strongest(self.inside)
        shown = most > 0
        return float((1 - most[shown] / self.total[shown]).mean()) if shown.any() else np.nan


def segments_quality(scene: Scene) -> FrameQuality | None:
    """Quality of the 2D segments that a lifting starts from: of the training views that have segments and truth."""
    views = [(view.segments, view.truth) for view in scene.train]
    pairs = ((segments(), truth()) for segments, truth in views if segments is not None and truth is not None)
    quality = frame_quality(pairs, things=scene.classes.things)
    return quality if quality.images else None


class Areas:
    """How large instances are in some views, in pixels: blending weight of their Gaussians.

    What the views show of each Gaussian is kept as far as `memory_budget_gb` allows (8 bytes for each Gaussian that a
    view shows), so that other labels take no rendering; beyond it a view is rendered each time.
    """

    def __init__(
        self,
        views: Sequence[View],
        gaussians: Gaussians,
        *,
        backend: str = "cpu",
        memory_budget_gb: float = 0.0,
    ):
        self.views = views
        self._gaussians, self._backend, self._free = gaussians, backend, memory_budget_gb * 1e9
        self._kept: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}

    def of(self, instances: Instances, on_step: OnStep | None = None) -> Float[np.ndarray, "V M"]:
        """Of each instance in each view. on_step: called with (views looked at, {}) after each view."""
        labels, count = instances.labels.cpu().numpy(), len(instances)
        area = np.zeros((len(self.views), count))
        for number in range(len(self.views)):
            seen, weight = self._shown(number)
            mine = labels[seen] >= 0
            area[number] = np.bincount(labels[seen][mine], weights=weight[mine], minlength=count)
            if on_step is not None:
                on_step(number + 1, {})
        return area

    def _shown(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The Gaussians that a view shows, and their weight in it."""
        if number not in self._kept:
            weights = blending_weights(self._gaussians, self.views[number].camera, backend=self._backend)
            totals = weights.totals().numpy()
            seen = np.flatnonzero(totals).astype(np.int32)
            found = seen, totals[seen].astype(np.float32)
            size = sum(array.nbytes for array in found)
            if size > self._free:
                return found
            self._free -= size
            self._kept[number] = found
        return self._kept[number]


def views_of_instances(
    views: Sequence[View], area: Float[np.ndarray, "V M"], *, minimum_pixels: float = 15.0
) -> list[list[str]]:
    """For each instance the names of the views in which it covers `minimum_pixels` or more. area: see `Areas`."""
    return [
        [view.name for view, visible in zip(views, column, strict=True) if visible]
        for column in (area >= minimum_pixels).T
    ]


def _picture_scores(gaussians: Gaussians, camera: Camera, truth: Tensor, backend: str) -> tuple[float, float]:
    """PSNR in dB and SSIM of one view."""
    with torch.no_grad():
        image = render(gaussians, camera, backend=backend).colors.cpu().clamp(0, 1)
        return float(psnr(image, truth.to(image))), float(ssim(image, truth.to(image)))


def _class_probabilities(embeddings: Embeddings, instances: Instances, classes: Classes) -> np.ndarray:
    """[N S] Those that were learnt, with what belongs to an instance raised to a thing of that score at least.

    The views that missed an object taught its Gaussians that they are stuff; the score knows that they missed it.
    """
    learnt = embeddings.semantic.detach().cpu().double().softmax(dim=1).numpy()
    is_thing = np.array(classes.is_thing)
    thing = learnt[:, is_thing].sum(axis=1)
    member = _members(instances, np.append(is_thing, False))
    raised = np.maximum(thing, np.where(member, instances.scores.double().cpu().numpy(), 0.0))
    learnt[:, is_thing] *= (raised / np.maximum(thing, 1e-12))[:, None]
    learnt[:, ~is_thing] *= ((1 - raised) / np.maximum(1 - thing, 1e-12))[:, None]
    return learnt


def _classes_of_pixels(probabilities: np.ndarray, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """The most probable class of each pixel and its share; pixels that show nothing get the first stuff class."""
    semantic = probabilities.argmax(axis=1)
    share = np.take_along_axis(probabilities, semantic[:, None], axis=1)[:, 0]
    stuff = _stuff(classes)
    semantic[share == 0] = stuff[0] if stuff else VOID
    return semantic, share


def _stuff(classes: Classes) -> list[int]:
    return [i for i, is_thing in enumerate(classes.is_thing) if not is_thing]


def _members(instances: Instances, is_thing: np.ndarray) -> np.ndarray:
    """[N] Whether each Gaussian belongs to an instance whose class is a thing; the last one of is_thing is VOID."""
    eligible = np.append(is_thing[instances.classes.cpu().numpy()], False)  # the last one is "none"
    return eligible[instances.labels.cpu().numpy()]


def _membership(instances: Instances, is_thing: np.ndarray, count: int) -> scipy.sparse.csr_array:
    """[N M]: 1 where a Gaussian belongs to an instance whose class is a thing."""
    labels, members = instances.labels.cpu().numpy(), np.flatnonzero(_members(instances, is_thing))
    entries = (np.ones(len(members)), (members, labels[members]))
    return scipy.sparse.csr_array(entries, shape=(count, len(instances)))


def _figure(value: float) -> float | None:
    """A plain float, or None for nan and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
