"""Neighbours against brute force, with FAISS's flat index, its inverted file and the kd-tree."""

import sys

import numpy as np
import pytest

from gs_lift.clustering.knn import FLAT_POINTS, NeighbourSearch, load_faiss
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


def test_inverted_file_finds_nearly_all_neighbours() -> None:
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(60, 8)) * 3
    points = (
        centers[rng.integers(60, size=FLAT_POINTS + 1000)] + rng.normal(size=(FLAT_POINTS + 1000, 8)) * 0.3
    )
    approximate, exact = NeighbourSearch(points), NeighbourSearch(points, exact=True)
    rows = np.arange(0, len(points), 20)
    assert approximate.query(32, rows).reach is None
    found, wanted = approximate.query(32, rows).distances, exact.query(32, rows).distances
    assert (found <= wanted[:, -1:]).mean() > 0.995


def test_reach_is_never_beyond_a_neighbour_that_was_missed() -> None:
    # Far from the origin and close together: float32 cannot rank these.
    points = 1000 + np.random.default_rng(3).normal(size=(500, 6)) * 1e-3
    points[0] = 0
    found = NeighbourSearch(points).query(8)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    np.put_along_axis(distances, found.ids, np.inf, axis=1)
    assert (found.reach <= distances.min(axis=1)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale: float) -> None:
    points = np.random.default_rng(4).normal(size=(300, 7))
    assert NeighbourSearch(points * scale).query(6).ids.tolist() == brute(points, 6)[0].tolist()


def test_without_faiss_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import of it now fails
    with pytest.raises(BackendError, match=r"pip install 'gs_lift\[cpu\]'"):
        load_faiss()
    assert NeighbourSearch(np.eye(3)).query(1).ids.shape == (3, 1)  # needed only above three dimensions
