"""Labels and votes as sparse matrices."""

import numpy as np
import pytest

from gs_lift.sparse import Sparse, one_hot, strongest


def test_one_hot_has_an_empty_row_for_no_label() -> None:
    assert one_hot(np.array([2, -1, 0]), 3).toarray().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_of_no_labels_one_hot_is_empty() -> None:
    assert one_hot(np.zeros(0, dtype=np.int64), 0).shape == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_strongest_of_each_row(seed: int) -> None:
    dense = np.random.default_rng(seed).integers(0, 4, (40, 6)).astype(np.float64)
    dense[::7] = 0
    winner, value = strongest(Sparse(dense))
    assert value.tolist() == dense.max(axis=1).tolist()
    assert winner.tolist() == np.where(dense.max(axis=1) > 0, dense.argmax(axis=1), -1).tolist()
