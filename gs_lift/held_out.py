"""The test views one by one: how wrong each is, and how honest the scores of what it shows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from gs_lift.evaluation import panoptic
from gs_lift.gaussians import Gaussians
from gs_lift.metrics import Overlaps, OverlapsOfImages, Reliability, psnr
from gs_lift.progress import OnStep
from gs_lift.rendering import render
from gs_lift.scene import Scene, View
from gs_lift.segmentation import VOID, Classes, Embeddings, Instances, Segments


@dataclass(frozen=True)
class Judged:
    """A test view. psnr: in dB.

    wrong: share of the pixels that show an object, in truth or to us, that are wrong; those whose truth is void are
    left out; None without truth.
    """

    view: View
    psnr: float
    wrong: float | None


@dataclass(frozen=True)
class Looker:
    """A segmented scene, to be looked at through cameras."""

    scene: Scene
    gaussians: Gaussians
    embeddings: Embeddings
    instances: Instances
    backend: str = "cpu"

    def segments(self, view: View) -> Segments:
        """What a view shows of the instances."""
        classes = self.scene.classes
        return panoptic(
            view.camera, self.gaussians, self.embeddings, self.instances, classes, backend=self.backend
        )

    def psnr(self, view: View) -> float:
        with torch.no_grad():
            image = render(self.gaussians, view.camera, backend=self.backend).colors.cpu().clamp(0, 1)
        return float(psnr(image, view.image()))

    def scores(self, view: View) -> Float[np.ndarray, "H W"]:
        """The instance_score of what each pixel shows, blended."""
        features = self.instances.scores.to(self.gaussians.means)[:, None]
        with torch.no_grad():
            seen = render(self.gaussians, view.camera, features=features, backend=self.backend)
        blended: np.ndarray = (seen.colors[..., 0] / seen.alphas.clamp(min=1e-6)).cpu().clamp(0, 1).numpy()
        return blended


def judge(looker: Looker, *, on_step: OnStep | None = None) -> tuple[list[Judged], Reliability]:
    """All test views, the worst first: by what is wrong where there is truth, else by PSNR; and whether the pixels that
    show an object show the right one as often as their score says. Each is looked at twice, none is kept."""
    views, classes = looker.scene.test, looker.scene.classes
    known = [view for view in views if view.truth is not None]
    step = _counted(on_step)
    overlaps = OverlapsOfImages()
    for view in known:
        assert view.truth is not None
        overlaps.append(Overlaps.of(looker.segments(view), view.truth()))
        step()
    partner = partners(Overlaps.joined(overlaps.images), classes, len(looker.instances))
    reliability, judged = Reliability(), []
    for view in views:
        wrong = None
        if view.truth is not None:
            found, truth = looker.segments(view).instance.numpy(), view.truth()
            true, judgeable = true_objects(truth, classes)
            same, either = np.append(partner, -1)[found] == true, (found >= 0) | (true >= 0)
            wrong = float((~same & either & judgeable).sum() / max((either & judgeable).sum(), 1))
            shown = (found >= 0) & judgeable
            reliability.add(looker.scores(view)[shown], same[shown])
        judged.append(Judged(view, looker.psnr(view), wrong))
        step()
    return sorted(judged, key=lambda one: (-(one.wrong or 0.0), one.psnr)), reliability


def true_objects(truth: Segments, classes: Classes) -> tuple[Int[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """The object of each pixel, -1 = none (stuff has no objects), and where the truth is known."""
    semantic = truth.semantic.numpy()
    thing = np.array([*classes.is_thing, False])[semantic]  # the last one is VOID
    return np.where(thing, truth.instance.numpy(), -1), semantic != VOID


def partners(overlaps: Overlaps, classes: Classes, count: int) -> Int[np.ndarray, "M"]:
    """The true object that each of `count` instances matches with an IoU over 1/2 over all views; -2 = none."""
    semantic, instance = overlaps.truth.numpy().T
    counts, found = overlaps.counts.numpy(), overlaps.pred[:, 1].numpy()
    judgeable = semantic != VOID
    thing = np.array([*classes.is_thing, False])[semantic]
    ids, true = np.unique(np.where(thing, instance, -1), return_inverse=True)
    both = np.zeros((count + 1, len(ids)), dtype=np.int64)  # the last row is that of no instance
    np.add.at(both, (found[judgeable], true[judgeable]), counts[judgeable])
    union = both.sum(axis=1)[:, None] + both.sum(axis=0) - both
    matches = (2 * both > union) & (ids >= 0)
    return (
        np.where(matches.any(axis=1), ids[matches.argmax(axis=1)], -2)[:count]
        if len(ids)
        else np.full(count, -2)
    )


def _counted(on_step: OnStep | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, {})

    return step
