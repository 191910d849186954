"""Neighbours against brute force: our search over groups, exact and approximate, and FAISS's indexes."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from gs_lift import _native
from gs_lift.clustering.knn import (
    EVERY,
    EXACT_POINTS,
    RECALL,
    GpuIndex,
    NeighbourSearch,
    faiss_has_gpu,
    load_faiss,
)
from gs_lift.errors import BackendError


def brute(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(points)), distances.shape), distances))[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 8, 17])
def test_neighbours_are_those_of_brute_force(dims: int) -> None:
    points = np.random.default_rng(dims).normal(size=(400, dims))
    found = NeighbourSearch(points).query(12)
    ids, distances = brute(points, 12)
    assert found.ids.tolist() == ids.tolist()
    assert found.distances == pytest.approx(distances, rel=1e-12)


@pytest.mark.parametrize("dims", [3, 5])
def test_ties_are_ordered_by_index(dims: int) -> None:
    points = np.concatenate([np.eye(dims), -np.eye(dims)])  # all at sqrt(2) but for the opposite one
    found = NeighbourSearch(points).query(2 * dims - 1)
    assert found.ids[0].tolist() == [i for i in range(1, 2 * dims) if i != dims] + [dims]


@pytest.mark.parametrize("dims", [3, 8])
def test_there_are_no_more_neighbours_than_others(dims: int) -> None:
    points = np.random.default_rng(0).normal(size=(4, dims))
    found = NeighbourSearch(points).query(10)
    assert found.ids.shape == (4, 3)
    assert np.isinf(found.reach).all()


@pytest.mark.parametrize("dims", [3, 8])
def test_some_rows_can_be_asked_alone(dims: int) -> None:
    points = np.random.default_rng(1).normal(size=(200, dims))
    search = NeighbourSearch(points)
    rows = np.array([7, 3, 150])
    assert search.query(5, rows).ids.tolist() == search.query(5).ids[rows].tolist()


def many_blobs(count: int, dims: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(60, dims)) * 3
    return centers[rng.integers(60, size=count)] + rng.normal(size=(count, dims)) * 0.3


@pytest.mark.parametrize("dims", [2, 8, 20])
def test_exact_is_exact_however_many_groups_there_are(dims: int) -> None:
    points = many_blobs(EXACT_POINTS + 1000, dims, seed=2)
    rows = np.arange(0, len(points), 90)
    found = NeighbourSearch(points, exact=True).query(20, rows)
    distances = np.sqrt(((points[rows, None] - points[None]) ** 2).sum(axis=-1))
    distances[np.arange(len(rows)), rows] = np.inf
    assert found.distances == pytest.approx(np.sort(distances, axis=1)[:, :20], rel=1e-12)


def test_an_approximate_search_finds_nearly_all_neighbours_and_measures_how_many() -> None:
    points = np.random.default_rng(2).normal(size=(EXACT_POINTS + 1000, 12))  # hard: no groups in it
    approximate, exact = NeighbourSearch(points), NeighbourSearch(points, exact=True)
    found, wanted = approximate.query(32), exact.query(32)
    assert found.reach is None
    recall = (found.distances <= wanted.distances[:, -1:]).mean()
    assert RECALL - 0.02 < recall < 1
    assert approximate.recall == pytest.approx(recall, abs=0.02)
    assert exact.recall == 1


def test_faiss_indexes_give_the_same_neighbours() -> None:
    # On the CPU: what a GPU does differently is FAISS's, what we do around it is tested here.
    points = many_blobs(2000, 6, seed=5)
    own = np.arange(len(points))
    index = GpuIndex(points, device=None)
    ids, distances = index.nearest(points, own, 12, EVERY)
    wanted = NeighbourSearch(points, exact=True).query(12)
    assert ids.tolist() == wanted.ids.tolist()
    assert distances.tolist() == wanted.distances.tolist()
    assert (index.nearest(points, own, 12, 32)[1] <= wanted.distances[:, -1:]).mean() > 0.98


@pytest.mark.gpu
def test_faiss_on_a_gpu_gives_the_same_neighbours() -> None:
    if not faiss_has_gpu():
        pytest.skip("the installed FAISS has no GPU")
    points = many_blobs(20_000, 6, seed=6)
    own = np.arange(len(points))
    ids, _ = GpuIndex(points).nearest(points, own, 12, EVERY)
    assert ids.tolist() == NeighbourSearch(points, exact=True).query(12).ids.tolist()


@pytest.mark.parametrize("dims", [3, 8])
def test_other_places_than_the_points_can_be_asked(dims: int) -> None:
    rng = np.random.default_rng(7)
    points, places = rng.normal(size=(900, dims)), rng.normal(size=(50, dims)) * 2
    ids, distances = NeighbourSearch(points).nearest_to(places, 6)
    apart = np.sqrt(((places[:, None] - points[None]) ** 2).sum(axis=-1))
    assert ids.tolist() == np.argsort(apart, axis=1)[:, :6].tolist()
    assert distances == pytest.approx(np.sort(apart, axis=1)[:, :6], rel=1e-12)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_finds_the_same(level: str) -> None:
    before = _native.simd_level()
    points = many_blobs(700, 11, seed=8)
    wanted = NeighbourSearch(points).query(9).ids.tolist()
    if not _native.use_simd_level(level):
        pytest.skip(f"this CPU or build has no {level}")
    try:
        assert NeighbourSearch(points).query(9).ids.tolist() == wanted
    finally:
        _native.use_simd_level(before)


def test_halving_makes_even_groups_of_near_points() -> None:
    points = np.random.default_rng(9).normal(size=(1000, 3))
    order, starts = _native.halve(points, 64)
    sizes = np.diff(starts)
    assert sorted(order.tolist()) == list(range(1000))
    assert starts[0] == 0
    assert starts[-1] == 1000
    assert 31 <= sizes.min() <= sizes.max() <= 64
    boxes = [np.ptp(points[order[a:b]], axis=0) for a, b in pairwise(starts)]
    assert np.median(boxes, axis=0).max() < 0.5 * np.ptp(points, axis=0).max()


def test_reach_is_never_beyond_a_neighbour_that_was_missed() -> None:
    # Far from the origin and close together: float32 cannot rank these.
    points = 1000 + np.random.default_rng(3).normal(size=(500, 6)) * 1e-3
    points[0] = 0
    found = NeighbourSearch(points).query(8)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    np.put_along_axis(distances, found.ids, np.inf, axis=1)
    assert (found.reach <= distances.min(axis=1)).all()


@pytest.mark.parametrize("dims", [1, 2, 6])
@pytest.mark.parametrize("far", [1e6, 1e9, 1e12, 1e100])
def test_exact_is_exact_though_float32_cannot_tell_the_near_ones_apart(dims: int, far: float) -> None:
    rng = np.random.default_rng(10)
    points = rng.normal(size=(400, dims))
    points[200:, 0] += far
    points[0] = -far
    found = NeighbourSearch(points, exact=True).query(9)
    distances = brute(points, 9)[1]
    assert found.distances == pytest.approx(distances, rel=1e-12)
    assert found.reach is not None
    assert found.reach == pytest.approx(distances[:, -1], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale: float) -> None:
    points = np.random.default_rng(4).normal(size=(300, 7))
    assert NeighbourSearch(points * scale).query(6).ids.tolist() == brute(points, 6)[0].tolist()


def test_without_faiss_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import of it now fails
    with pytest.raises(BackendError, match=r"pip install 'gs_lift\[cpu\]'"):
        load_faiss()
    assert NeighbourSearch(np.eye(3)).query(1).ids.shape == (3, 1)  # needed only above three dimensions


@pytest.mark.parametrize("dims", [1, 3, 11])
@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_the_nearest_centre_is_that_of_brute_force_wherever_the_search_starts(
    dims: int, wrong: float
) -> None:
    rng = np.random.default_rng(dims)
    points, centers = many_blobs(3_000, dims, 1).astype(np.float32), many_blobs(700, dims, 1)
    centers = np.round(centers * 8) / 8  # so some are equal, and some as near
    centers = centers.astype(np.float32)
    points[:500] = np.round(points[:500] * 4) / 4
    wanted = ((points[:, None].astype(np.float64) - centers[None]) ** 2).sum(axis=2)
    start = np.where(rng.random(3_000) < wrong, rng.integers(700, size=3_000), wanted.argmin(axis=1))
    found = [
        _native.nearest_centers_from(points, centers, start.astype(np.int32), threads)
        for threads in (1, 2, 3)
    ]
    brute_force = _native.nearest_centers(points, centers, 1)
    for one in found:
        assert one.tolist() == brute_force.tolist()
    assert np.allclose(np.take_along_axis(wanted, found[0][:, None], 1)[:, 0], wanted.min(axis=1), rtol=1e-5)


def test_of_equal_centres_the_first_is_nearest() -> None:
    centers = np.repeat(np.arange(40, dtype=np.float32)[:, None], 3, axis=0)  # thrice each
    points = np.arange(40, dtype=np.float32)[:, None]
    start = np.full(40, 119, dtype=np.int32)
    assert _native.nearest_centers_from(points, centers, start, 2).tolist() == (3 * np.arange(40)).tolist()
    with pytest.raises(ValueError, match="to start from"):
        _native.nearest_centers_from(points, centers, start + 1, 1)
    with pytest.raises(ValueError, match="shapes"):
        _native.nearest_centers_from(points, centers, start[:1], 1)
