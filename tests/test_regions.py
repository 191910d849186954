"""Sums over what segments cover: against dense matrices, and on made-up views of two balls."""

import numpy as np
import pytest
import torch
from balls import MUG, ROOM, evidence_of, scene

from gs_lift import _native
from gs_lift.clustering import ClusterConfig
from gs_lift.clustering.instances import things_of
from gs_lift.clustering.regions import Regions
from gs_lift.segmentation import Evidence
from gs_lift.sparse import Sparse

TWO = [((0.0, 0, 0), 0, MUG, 100), ((1.0, 0, 0), 1, MUG, 100)]


def test_regions_hold_what_the_views_show() -> None:
    gaussians, embeddings, truth = scene(TWO)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    regions, truth = Regions.of(evidence_of(truth, 3), things.rows, things.count), truth[things.rows]
    assert regions.views == 3
    assert regions.view.tolist() == [0, 0, 1, 1, 2, 2]
    cover = regions.cover(np.arange(200), 200)
    assert np.allclose(cover.things.sum(axis=1), regions.size)
    assert np.array_equal(cover.things[[0]].toarray()[0] > 0, truth == 0)
    assert cover.stuff.nnz == 0  # the floor is stuff, but none of its Gaussians is a thing
    assert np.allclose(cover.seen.sum(axis=1), regions.size.reshape(3, 2).sum(axis=1))


def test_a_segments_size_counts_all_that_fill_it() -> None:
    gaussians, embeddings, truth = scene(TWO)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    evidence = evidence_of(truth, 1, lambda view, truth: np.zeros(len(truth), dtype=np.int64))
    regions = Regions.of(evidence, things.rows, things.count)
    # 200 Gaussians of things among 400
    assert regions.size[0] > 1.5 * regions.cover(np.zeros(200, dtype=np.int64), 1).things.sum()


def random_evidence(seed: int, dtype: torch.dtype) -> tuple[Evidence, np.ndarray]:
    """Three views of two segments, two stuff classes and an unknown region, of 60 Gaussians; and as a dense matrix."""
    rng = np.random.default_rng(seed)
    dense = rng.uniform(0.01, 300, (15, 60)) * (rng.random((15, 60)) < 0.3)
    sparse = Sparse(torch.from_numpy(dense).to(dtype).float().numpy())
    kind = 3 * [Evidence.THING, Evidence.THING, Evidence.STUFF, Evidence.STUFF, Evidence.UNKNOWN]
    evidence = Evidence(
        view=torch.arange(3, dtype=torch.int32).repeat_interleave(5),
        kind=torch.tensor(kind, dtype=torch.int8),
        indptr=torch.from_numpy(sparse.indptr.astype(np.int64)),
        indices=torch.from_numpy(sparse.indices.astype(np.int32)),
        values=torch.from_numpy(sparse.data).to(dtype),
    )
    return evidence, sparse.toarray().astype(np.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_regions_are_those_of_dense_matrices(dtype: torch.dtype, seed: int) -> None:
    evidence, dense = random_evidence(seed, dtype)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(60, 40, replace=False))
    labels = rng.integers(-1, 4, 40)
    regions, chosen = Regions.of(evidence, rows, 60), dense[:, rows]
    member = np.eye(5)[labels][:, :4]  # the last of five, left out, is that of -1
    kind, of_view = evidence.kind.numpy(), np.repeat(np.eye(3), 5, axis=0).T
    thing, stuff = kind == Evidence.THING, of_view * (kind == Evidence.STUFF)
    assert regions.size == pytest.approx(dense[thing].sum(axis=1))
    cover = regions.cover(labels, 4)
    assert cover.things.toarray() == pytest.approx(chosen[thing] @ member)
    assert cover.stuff.toarray() == pytest.approx(stuff @ chosen @ member)
    assert cover.seen.toarray() == pytest.approx(of_view @ chosen @ member)
    matched = rng.integers(-1, 4, 6)
    votes = np.eye(5)[matched][:, :4].T @ chosen[thing]
    assert pytest.approx(votes) == regions.votes(matched, 4).toarray().T
    factor = rng.uniform(0, 1, (3, 5))
    assert regions.votes_of_stuff(labels, factor) == pytest.approx(
        (stuff @ chosen * factor[:, labels]).sum(axis=0)
    )


def test_every_float16_is_read_as_it_is() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wanted = halves.astype(np.float64)
    alone = np.arange(len(halves) + 1)  # a region each
    where = np.zeros(len(halves), dtype=np.int32)
    sums = _native.label_sums(alone, where, halves, np.zeros(1, dtype=np.int32), 1, 2)[2]
    assert np.array_equal(sums, wanted, equal_nan=True)


def test_evidence_that_does_not_fit_is_refused() -> None:
    starts, zero, one = np.array([0, 1]), np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32)
    for arguments, said in (
        ((np.array([0, 2]), zero, one, zero, 1, 1), "offsets do not rise"),
        ((starts, zero + 1, one, zero, 1, 1), "no such Gaussian"),
        ((starts, zero, one, zero + 1, 1, 1), "number is out of range"),
        ((starts, zero, one[:0], zero, 1, 1), "as many indices"),
    ):
        with pytest.raises(ValueError, match=said):
            _native.label_sums(*arguments)
    with pytest.raises(ValueError, match="an instance of each region"):
        _native.region_votes(starts, zero, one, zero, 1, zero[:0], 1)
    two = np.array([1, 0], dtype=np.int32)
    for place, count, said in (
        (two[::-1].copy(), 2, "Gaussians do not rise"),
        (two, 2, "one after another"),
        (two - 1, 2, "as many chosen"),
    ):
        with pytest.raises(ValueError, match=said):
            _native.region_votes(np.array([0, 2]), two, one.repeat(2), place, count, zero, 1)
    for label, factor in ((zero + 1, np.ones((1, 2))), (zero, np.ones((0, 2)))):
        with pytest.raises(ValueError, match="factor"):
            _native.stuff_votes(starts, zero, one, zero, zero, zero, label, factor)
