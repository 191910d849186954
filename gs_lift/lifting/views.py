"""The training views as lifting sees them: candidate pixels, their segments, their rows of W."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor

from gs_lift.distributed import any_of_all, to_rank_zero
from gs_lift.errors import SceneError
from gs_lift.gaussians import Gaussians
from gs_lift.lanes import Lanes
from gs_lift.lifting.evidence import EvidenceOfViews
from gs_lift.lifting.sampling import LabelledPixels, ThingPixels, candidates, labelled_pixels, thing_pixels
from gs_lift.progress import OnStep
from gs_lift.rendering import blending_weights
from gs_lift.rendering.weights import PickedRows, Weights
from gs_lift.scene import Scene, View
from gs_lift.seeds import Purpose, seed_of
from gs_lift.segmentation import Segments

log = logging.getLogger(__name__)

MOSTLY = 0.5
"""Share of a pixel that has to be of a block for the block to learn from it."""


@dataclass(frozen=True)
class Blender:
    """Makes rows of W for the pixels of a camera: the frozen geometry and how it is rendered.

    block: of each Gaussian its column of W, -1 = it only hides what is behind it; None = all have columns.
    """

    gaussians: Gaussians
    backend: str
    minimum: float
    block: Int[Tensor, "N"] | None = None

    @cached_property
    def columns(self) -> int:
        """Of W."""
        return len(self.gaussians) if self.block is None else int((self.block >= 0).sum())

    def __call__(self, view: View, pixels: Int[Tensor, "Q"]) -> Weights:
        """W's rows of these pixels."""
        weights = self._of_all(view, pixels)
        return weights if self.block is None else weights.of_columns(self.block, self.columns)

    def judged(self, view: View, pixels: Int[Tensor, "Q"]) -> tuple[Weights, Bool[Tensor, "Q"] | None]:
        """W's rows, and which of these pixels show MOSTLY the block; None = all."""
        weights = self._of_all(view, pixels)
        if self.block is None:
            return weights, None
        own = weights.of_columns(self.block, self.columns)
        return own, own.alphas() > MOSTLY * weights.alphas()

    def _of_all(self, view: View, pixels: Int[Tensor, "Q"]) -> Weights:
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
    weights: Weights | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        tensors = [self.pixels, *vars(self.things).values(), *vars(self.labelled).values()]
        return sum(tensor.nbytes for tensor in tensors) + (self.weights.nbytes if self.weights else 0)

    def within(self, inside: Bool[Tensor, "C"]) -> "TrainingView":
        """The same, to learn from those candidate pixels alone that are `inside`."""
        return replace(self, things=self.things.within(inside), labelled=self.labelled.within(inside))

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
class Reader:
    """Reads the training views of a scene, by their numbers, as lifting sees them."""

    scene: Scene
    pixels_per_view: int
    seed: int

    def pixels(self, number: int) -> Int[Tensor, "C"]:
        """The candidate pixels of a view, the same each time."""
        camera = self.scene.train[number].camera
        generator = Generator().manual_seed(seed_of(self.seed, Purpose.LIFT_CANDIDATES, number))
        return candidates(camera.height, camera.width, self.pixels_per_view, generator)

    def __call__(self, number: int) -> TrainingView:
        """A view with segments, without its weights. Raises SceneError where they are broken."""
        view, pixels = self.scene.train[number], self.pixels(number)
        segments = read_segments(view, len(self.scene.classes))
        return TrainingView(
            view,
            pixels,
            thing_pixels(segments, pixels, self.scene.classes),
            labelled_pixels(segments, pixels),
        )


@dataclass(frozen=True)
class Prepared:
    """What this process has of the training views: those of its lanes.

    views: of each of its lanes the numbers of those with segments; kept: of these what stays in memory. inside: of each
    the candidate pixels that show the block, as bits; of a whole scene none. visibility: of each of its lanes the
    blending weight of each Gaussian summed over all pixels, in float64; where a view has more pixels than are used,
    scaled up.
    """

    reader: Reader
    views: dict[int, list[int]]
    kept: dict[int, TrainingView]
    inside: dict[int, UInt8[np.ndarray, "_"]]
    visibility: dict[int, Float[Tensor, "N"]]
    evidence: EvidenceOfViews

    @cached_property
    def in_memory(self) -> bool:
        """Whether nothing has to be made anew."""
        return len(self.kept) == sum(map(len, self.views.values()))

    def has(self, lane: int, turn: int) -> bool:
        """Whether the view of that turn in a lane is in memory, weights and all."""
        return self.views[lane][turn] in self.kept

    def view(self, lane: int, turn: int) -> TrainingView:
        number = self.views[lane][turn]
        if number in self.kept:
            return self.kept[number]
        view, inside = self.reader(number), self.inside.get(number)
        return view if inside is None else view.within(_unpacked(inside, len(view.pixels)))

    def gathered(self) -> tuple[Float[Tensor, "N"], EvidenceOfViews] | None:
        """Of all processes, in the first one; None in the others. Lanes are added up in their order."""
        parts = to_rank_zero((self.visibility, self.evidence))
        if parts is None:
            return None
        by_lane = {lane: visibility for lanes, _ in parts for lane, visibility in lanes.items()}
        total = by_lane[0].clone()
        for lane in range(1, len(by_lane)):
            total += by_lane[lane]
        return total.float(), self.evidence.merged([evidence for _, evidence in parts[1:]])


def prepare(
    reader: Reader,
    blender: Blender,
    lanes: Lanes,
    *,
    evidence_views: int,
    budget_gb: float,
    on_view: OnStep | None = None,
) -> Prepared:
    """The views of this process's lanes, the visibility of each Gaussian, and what the segments cover.

    Views with segments are numbered among themselves, and so are those without, which count for visibility only. In
    memory stay the first views that fit into the budget, which is each process's own. on_view: see `lift`.
    """
    scene, count = reader.scene, blender.columns
    views: dict[int, list[int]] = {lane: [] for lane in lanes.own}
    visibility = {lane: torch.zeros(count, dtype=torch.float64) for lane in lanes.own}
    kept: dict[int, TrainingView] = {}
    inside: dict[int, UInt8[np.ndarray, "_"]] = {}
    used, things, evidence = 0.0, False, EvidenceOfViews(scene.classes, count, evidence_views)
    mine = [(number, place) for number, place in enumerate(_places(scene)) if lanes.owns(place)]
    turns = _turns(scene, evidence_views, reader.seed)
    for done, (number, place) in enumerate(sorted(mine, key=lambda one: turns[one[0]]), start=1):
        lane, view = place % lanes.count, scene.train[number]
        found = reader(number) if view.segments is not None else None
        pixels = reader.pixels(number) if found is None else found.pixels
        weights, shows = blender.judged(view, pixels)
        scale = view.camera.height * view.camera.width / len(pixels)
        visibility[lane] += weights.totals() * scale
        if found is not None:
            weights = weights.half()
            found = replace(found, weights=weights)
            if len(found.things) or len(found.labelled):
                evidence.add(number, turns[number], weights, found.things, found.labelled, scale)
            if shows is not None:
                found = found.within(shows)
                inside[number] = np.packbits(shows.numpy())
            if len(found.things) or len(found.labelled):
                views[lane].append(number)
                things |= len(found.things) > 0
                if used + found.nbytes <= budget_gb * 1e9:
                    used += found.nbytes
                    kept[number] = found
        if on_view is not None:
            on_view(done, {"of": float(len(mine))})
    in_order = {lane: sorted(own) for lane, own in views.items()}
    log.info(
        "lifting from %d views, of which %d stay in memory: %.2f GB",
        *(sum(map(len, views.values())), len(kept), used / 1e9),
    )
    if not any_of_all(things) and blender.block is None:
        raise _without_things(scene)
    return Prepared(reader, in_order, kept, inside, visibility, evidence)


def _unpacked(bits: UInt8[np.ndarray, "_"], count: int) -> Bool[Tensor, "C"]:
    return torch.from_numpy(np.unpackbits(bits, count=count).astype(bool))


def check_things(scene: Scene) -> None:
    """Raises SceneError unless some training view has a segment of a thing."""
    for view in scene.train:
        if view.segments is not None:
            segments = read_segments(view, len(scene.classes))
            if len(thing_pixels(segments, torch.arange(segments.instance.numel()), scene.classes)):
                return
    raise _without_things(scene)


def _without_things(scene: Scene) -> SceneError:
    return SceneError(
        f"{scene.name}: no training view has a segment of a thing; put maps into masks/, or make them with "
        "`gslift masks`"
    )


def _places(scene: Scene) -> list[int]:
    """Of each training view its place among those with segments, or among those without."""
    seen = {True: 0, False: 0}
    places = []
    for view in scene.train:
        places.append(seen[view.segments is None])
        seen[view.segments is None] += 1
    return places


def _turns(scene: Scene, evidence_views: int, seed: int) -> list[int]:
    """When each training view has its turn to give evidence: in order if all may, else at random."""
    count = len(scene.train)
    if count <= evidence_views:
        return list(range(count))
    generator = Generator().manual_seed(seed_of(seed, Purpose.LIFT_EVIDENCE, 0))
    turns: list[int] = torch.randperm(count, generator=generator).tolist()
    return turns


def check_segments(scene: Scene, on_view: OnStep | None = None) -> str:
    """Read the segments of all training views once: whoever waits for a fit shall not learn then that one is broken.

    A digest of them, by which others are noticed. on_view: called with (views looked at, {}) after each view. Raises
    SceneError for the first that is broken.
    """
    digest = hashlib.blake2b(digest_size=8)
    for done, view in enumerate(scene.train, start=1):
        if view.segments is not None:
            segments = read_segments(view, len(scene.classes))
            digest.update(view.name.encode())
            for values in vars(segments).values():
                digest.update(values.contiguous().numpy())
        if on_view is not None:
            on_view(done, {})
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
