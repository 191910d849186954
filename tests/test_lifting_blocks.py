"""Lifting a part of a scene: the rest hides what is behind it, and teaches nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from blobs import BLOB, QUICK, assert_same, lift_quickly, scene_of

from gs_lift.lifting.sampling import ThingPixels
from gs_lift.rendering.weights import Weights
from gs_lift.segmentation import Evidence

BLOCK = torch.nonzero((BLOB == 0) | (BLOB == 2))[:, 0].flip(0)
"""Two of three blobs, last Gaussian first."""


def dense(evidence: Evidence, columns: int) -> np.ndarray:
    result = np.zeros((len(evidence), columns))
    for row in range(len(evidence)):
        entries = slice(evidence.indptr[row], evidence.indptr[row + 1])
        result[row, evidence.indices[entries].numpy()] = evidence.values[entries].float().numpy()
    return result


def test_what_views_show_of_a_block_is_what_they_show_of_it_in_the_whole() -> None:
    whole, block = lift_quickly(scene_of()), lift_quickly(scene_of(), rows=BLOCK)
    assert len(block) == len(BLOCK)
    torch.testing.assert_close(block.visibility, whole.visibility[BLOCK])
    assert whole.evidence is not None
    assert block.evidence is not None
    assert torch.equal(block.evidence.view, whole.evidence.view)
    assert torch.equal(block.evidence.kind, whole.evidence.kind)
    of_whole = dense(whole.evidence, len(BLOB))[:, BLOCK.numpy()]
    # A sum of float32 weights in another order, then to float16.
    np.testing.assert_allclose(dense(block.evidence, len(BLOCK)), of_whole, rtol=2e-3, atol=1e-3)


def test_a_block_tells_its_own_objects_apart() -> None:
    block = lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=150), rows=BLOCK)
    blob = BLOB[BLOCK]
    assert bool((block.semantic.argmax(dim=1) == 1).all())
    centers = torch.stack([block.fast[blob == one].mean(dim=0) for one in (0, 2)])
    nearest = torch.cdist(block.fast, centers).argmin(dim=1)
    assert bool((torch.tensor([0, 2])[nearest] == blob).all())


def test_what_fits_into_memory_makes_no_difference_to_a_block() -> None:
    config = dataclasses.replace(QUICK, steps=6)
    assert_same(
        lift_quickly(scene_of(), config, rows=BLOCK),
        lift_quickly(scene_of(), config, rows=BLOCK, memory_budget_gb=0.0),
    )


def test_a_block_of_all_is_the_whole() -> None:
    config = dataclasses.replace(QUICK, steps=6)
    everything = lift_quickly(scene_of(), config, rows=torch.arange(len(BLOB)))
    torch.testing.assert_close(everything.fast, lift_quickly(scene_of(), config).fast)


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_some_columns_are_those_of_the_dense_matrix(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(6, 9, generator=generator) * (torch.rand(6, 9, generator=generator) < 0.4)
    rows, columns = matrix.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1), (matrix > 0).sum(dim=1).cumsum(0)]).long()
    weights = Weights(indptr, columns.int(), matrix[rows, columns], 9)
    chosen = torch.tensor([7, 2, 4])
    place = torch.full((9,), -1)
    place[chosen] = torch.arange(3)
    taken = weights.of_columns(place, 3)
    assert torch.equal(taken.blend(torch.eye(3)), matrix[:, chosen])
    torch.testing.assert_close(taken.alphas(), matrix[:, chosen].double().sum(dim=1))


def test_a_segment_without_pixels_inside_is_gone() -> None:
    things = ThingPixels(
        rows=torch.tensor([5, 1, 3, 0]),
        segment=torch.tensor([0, 1, 1, 2]),
        confidence=torch.tensor([0.5, 0.6, 0.7, 0.8]),
        offsets=torch.tensor([0, 1, 3, 4]),
    )
    inside = torch.tensor([True, True, False, True, True, False])
    left = things.within(inside)
    assert left.rows.tolist() == [1, 3, 0]
    assert left.segment.tolist() == [0, 0, 1]
    assert left.offsets.tolist() == [0, 2, 3]
    assert len(left.within(torch.zeros(6, dtype=torch.bool))) == 0
