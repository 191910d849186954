"""Evidence against the dense matrix W."""

import numpy as np
import pytest
import torch
from random_data import random_camera, random_gaussians

from gs_lift.lifting.evidence import EvidenceOfViews
from gs_lift.lifting.sampling import labelled_pixels, thing_pixels
from gs_lift.rendering import blending_weights
from gs_lift.segmentation import VOID, Classes, Evidence, Segments

CLASSES = Classes(("floor", "mug", "wall"), (False, True, False))
SIZE = (10, 14)


def random_segments(seed: int) -> Segments:
    generator = torch.Generator().manual_seed(seed)
    instance = torch.randint(-1, 3, SIZE, generator=generator)
    semantic = torch.randint(-1, 3, SIZE, generator=generator)
    return Segments(instance, semantic, torch.ones(SIZE))


def add(evidence: EvidenceOfViews, view: int, turn: int) -> None:
    """A small view of its own for each number, which sees a few of 40 Gaussians."""
    weights = blending_weights(
        random_gaussians(5, 40), random_camera(view, 6, 4), minimum=0.3, backend="reference"
    )
    segments = random_segments(view)
    pixels = torch.arange(24)
    things, labelled = thing_pixels(segments, pixels, CLASSES), labelled_pixels(segments, pixels)
    evidence.add(view, turn, weights, things, labelled, 1.0)


def gathered(scale: float = 1.0) -> tuple[Evidence, list[torch.Tensor], list[Segments]]:
    """Of two views, with their dense W and segments; the Gaussians come in reversed order."""
    gaussians = random_gaussians(5, 40)
    evidence, dense, drawn = EvidenceOfViews(CLASSES, 40, 2), [], []
    for number in range(2):
        segments = random_segments(number)
        weights = blending_weights(
            gaussians, random_camera(number, SIZE[1], SIZE[0]), minimum=0.0, backend="reference"
        )
        pixels = torch.arange(SIZE[0] * SIZE[1])
        things = thing_pixels(segments, pixels, CLASSES)
        evidence.add(number, number, weights, things, labelled_pixels(segments, pixels), scale)
        dense.append(weights.blend(torch.eye(40)).flip(1))
        drawn.append(segments)
    return evidence.result(torch.arange(39, -1, -1)), dense, drawn


def matrix(evidence: Evidence) -> np.ndarray:
    result = np.zeros((len(evidence), 40))
    for row in range(len(evidence)):
        entries = slice(evidence.indptr[row], evidence.indptr[row + 1])
        result[row, evidence.indices[entries].numpy()] = evidence.values[entries].float().numpy()
    return result


def test_regions_are_segments_of_things_then_stuff_then_the_rest() -> None:
    evidence, dense, drawn = gathered()
    found, row = matrix(evidence), 0
    for number, (weights, segments) in enumerate(zip(dense, drawn, strict=True)):
        instance, semantic = segments.instance.flatten(), segments.semantic.flatten()
        stuff = (semantic == 0) | (semantic == 2)
        regions = [((instance == one) & ~stuff, Evidence.THING) for one in (0, 1, 2)]
        regions += [(semantic == one, Evidence.STUFF) for one in (0, 2)]
        regions += [((instance == -1) & ((semantic == 1) | (semantic == VOID)), Evidence.UNKNOWN)]
        for pixels, kind in regions:
            assert int(evidence.view[row]) == number
            assert int(evidence.kind[row]) == kind
            wanted = weights[pixels].sum(dim=0).numpy()
            assert np.abs(found[row] - np.where(wanted < 0.01, 0, wanted)).max() < 2e-3
            row += 1
    assert row == len(evidence)


def test_the_regions_of_a_view_add_up_to_what_it_shows() -> None:
    evidence, dense, _ = gathered()
    shown = np.stack([matrix(evidence)[evidence.view == number].sum(axis=0) for number in range(2)])
    assert np.abs(shown - torch.stack([weights.sum(dim=0) for weights in dense]).numpy()).max() < 0.07


def test_pixels_that_stand_for_several_count_as_many() -> None:
    assert np.allclose(matrix(gathered(4.0)[0]).sum(), 4 * matrix(gathered()[0]).sum(), rtol=0.01)


def test_evidence_is_small_and_in_order() -> None:
    evidence, _, _ = gathered()
    assert evidence.values.dtype == torch.float16
    assert evidence.indices.dtype == torch.int32
    for row in range(len(evidence)):
        entries = evidence.indices[evidence.indptr[row] : evidence.indptr[row + 1]]
        assert (entries.diff() > 0).all()


def test_more_than_a_half_can_hold_is_its_greatest() -> None:
    evidence, _, _ = gathered(1e6)
    assert float(evidence.values.max()) == 65504


TURNS = [4, 0, 7, 2, 6, 1, 3, 5]


def of_eight_views(limit: int) -> np.ndarray:
    """[8 40] What each view covers of each Gaussian, of at most `limit` views for each."""
    evidence = EvidenceOfViews(CLASSES, 40, limit)
    for view in np.argsort(TURNS).tolist():
        add(evidence, view, TURNS[view])
    found = evidence.result(torch.arange(40))
    return np.stack([matrix(found)[found.view == number].sum(axis=0) for number in range(8)])


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_gaussian_keeps_the_first_views_that_see_it(limit: int) -> None:
    whole, thinned = of_eight_views(8), of_eight_views(limit)
    for column in range(40):
        seen_by = sorted(np.flatnonzero(whole[:, column]), key=TURNS.__getitem__)
        wanted = np.zeros(8)
        wanted[seen_by[:limit]] = whole[seen_by[:limit], column]
        assert np.array_equal(thinned[:, column], wanted)
    assert ((whole > 0).sum(axis=0) > 2).any(), "no Gaussian has views to leave out"


def test_views_that_several_have_gathered_are_those_of_one() -> None:
    one, halves = (
        EvidenceOfViews(CLASSES, 40, 2),
        [EvidenceOfViews(CLASSES, 40, 2), EvidenceOfViews(CLASSES, 40, 2)],
    )
    for view in np.argsort(TURNS).tolist():
        add(one, view, TURNS[view])
        add(halves[view % 2], view, TURNS[view])
    got, wanted = (found.result(torch.arange(40)) for found in (halves[0].merged(halves[1:]), one))
    for name, tensor in vars(wanted).items():
        assert torch.equal(getattr(got, name), tensor), name
