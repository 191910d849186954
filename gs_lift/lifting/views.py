"""The training views as lifting sees them: candidate pixels, their segments, their rows of W."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from gs_lift.distributed import any_of_all, to_rank_zero
from gs_lift.errors import SceneError
from gs_lift.gaussians import Gaussians
from gs_lift.lanes import Lanes
from gs_lift.lifting.evidence import EvidenceOfViews
from gs_lift.lifting.sampling import LabelledPixels, ThingPixels, candidates, labelled_pixels, thing_pixels
from gs_lift.rendering import blending_weights
from gs_lift.rendering.weights import PickedRows, Weights
from gs_lift.scene import Scene, View
from gs_lift.seeds import Purpose, seed_of
from gs_lift.segmentation import Segments

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blender:
    """Makes rows of W for the pixels of a camera: the frozen geometry and how it is rendered."""

    gaussians: Gaussians
    backend: str
    minimum: float

    def __call__(self, view: View, pixels: Int[Tensor, "Q"]) -> Weights:
        return blending_weights(
            self.gaussians, view.camera, pixels=pixels, minimum=self.minimum, backend=self.backend
        )


@dataclass(frozen=True)
class TrainingView:
    """One view with segments. `weights` holds W's rows of its candidate pixels, or None where they are made anew."""

    view: View
    pixels: Int[Tensor, "C"]
    things: ThingPixels
    labelled: LabelledPixels
    weights: Weights | None = field(repr=False)

    def rows(self, parts: Sequence[Int[Tensor, "_"]], blender: Blender) -> list[PickedRows]:
        """W's rows of the candidate pixels at each of `parts`, in that order."""
        if self.weights is not None:
            return [self.weights.pick(part) for part in parts]
        # In half precision and in the order of the pixels too: what fitted into memory makes no difference to a byte.
        index, order = torch.cat(list(parts)).sort(stable=True)
        weights = blender(self.view, self.pixels[index]).half()
        places = torch.argsort(order).split([len(part) for part in parts])
        return [weights.pick(place) for place in places]


@dataclass(frozen=True)
class Prepared:
    """What this process has of the training views: those of its lanes.

    views: of each of its lanes those with segments. visibility: of each of its lanes the blending weight of each
    Gaussian summed over all pixels, in float64; where a view has more pixels than are used, scaled up.
    """

    views: dict[int, list[TrainingView]]
    visibility: dict[int, Float[Tensor, "N"]]
    evidence: EvidenceOfViews

    def gathered(self) -> tuple[Float[Tensor, "N"], EvidenceOfViews] | None:
        """Of all processes, in the first one; None in the others. Lanes are added up in their order."""
        parts = to_rank_zero((self.visibility, self.evidence))
        if parts is None:
            return None
        by_lane: dict[int, Tensor] = {}
        for visibility, evidence in parts:
            by_lane |= visibility
            if evidence is not self.evidence:
                self.evidence.take(evidence)
        total = by_lane[0].clone()
        for lane in range(1, len(by_lane)):
            total += by_lane[lane]
        return total.float(), self.evidence


def prepare(
    scene: Scene, blender: Blender, lanes: Lanes, *, pixels_per_view: int, budget_gb: float, seed: int
) -> Prepared:
    """The views of this process's lanes, the visibility of each Gaussian, and what the segments cover.

    Views with segments are numbered among themselves, and so are those without, which count for visibility only. W
    stays in memory for the first views that fit into the budget, which is each process's own.
    """
    views: dict[int, list[TrainingView]] = {lane: [] for lane in lanes.own}
    visibility = {lane: torch.zeros(len(blender.gaussians), dtype=torch.float64) for lane in lanes.own}
    used, evidence = 0.0, EvidenceOfViews(scene.classes)
    seen = {True: 0, False: 0}
    for number, view in enumerate(scene.train):
        place = seen[view.segments is None]
        seen[view.segments is None] += 1
        if not lanes.owns(place):
            continue
        lane = place % lanes.count
        generator = Generator().manual_seed(seed_of(seed, Purpose.LIFT_CANDIDATES, number))
        camera = view.camera
        pixels = candidates(camera.height, camera.width, pixels_per_view, generator)
        weights = blender(view, pixels)
        scale = camera.height * camera.width / len(pixels)
        visibility[lane] += weights.totals() * scale
        if view.segments is None:
            continue
        segments = read_segments(view, len(scene.classes))
        weights = weights.half()
        fits = used + weights.nbytes <= budget_gb * 1e9
        used += weights.nbytes if fits else 0
        things = thing_pixels(segments, pixels, scene.classes)
        labelled = labelled_pixels(segments, pixels)
        if len(things) or len(labelled):
            evidence.add(number, weights, things, labelled, scale)
            views[lane].append(TrainingView(view, pixels, things, labelled, weights if fits else None))
    mine = [view for own in views.values() for view in own]
    cached = sum(view.weights is not None for view in mine)
    log.info("lifting from %d views, weights of %d cached: %.2f GB", len(mine), cached, used / 1e9)
    if not any_of_all(any(len(view.things) for view in mine)):
        raise SceneError(
            f"{scene.name}: no training view has a segment of a thing; put maps into masks/, or make them with "
            "`gslift masks`"
        )
    return Prepared(views, visibility, evidence)


def check_segments(scene: Scene) -> str:
    """Read the segments of all training views once: whoever waits for a fit shall not learn then that one is broken.

    A digest of them, by which others are noticed. Raises SceneError for the first that is broken.
    """
    digest = hashlib.blake2b(digest_size=8)
    for view in scene.train:
        if view.segments is not None:
            segments = read_segments(view, len(scene.classes))
            digest.update(view.name.encode())
            for values in vars(segments).values():
                digest.update(values.contiguous().numpy())
    return digest.hexdigest()


def read_segments(view: View, class_count: int) -> Segments:
    """The view's segments. Raises SceneError if their size is not the camera's or a class is not the scene's."""
    assert view.segments is not None
    segments = view.segments()
    wanted, got = (view.camera.height, view.camera.width), tuple(segments.instance.shape)
    if got != wanted:
        raise SceneError(f"{view.name}: segments are {got}, the image {wanted}; resize the masks")
    highest = int(segments.semantic.max())
    if highest >= class_count:
        raise SceneError(f"{view.name}: segments have class {highest}, the scene only {class_count} classes")
    if not bool(torch.isfinite(segments.confidence).all()):
        raise SceneError(f"{view.name}: segments' confidence is not finite everywhere")
    return segments
