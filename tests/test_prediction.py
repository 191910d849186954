"""Labels of new points against `hdbscan.approximate_predict`, against np.repeat, and on ugly inputs."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from test_density import agree, blobs, oracle

from gs_lift.clustering import (
    Clustering,
    Tree,
    approximate_predict,
    cluster_points,
    recut,
)
from gs_lift.clustering.reference import tree_by_hdbscan, tree_of_merges
from gs_lift.errors import ConfigError

Floats = NDArray[np.float64]


def their_prediction(fitted, new_points: Floats):  # type: ignore[no-untyped-def]
    import hdbscan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.generate_prediction_data()
        return hdbscan.approximate_predict(fitted, new_points)


def with_their_tree(fitted, min_samples: int, **options: object) -> Clustering:  # type: ignore[no-untyped-def]
    tree = tree_of_merges(fitted.single_linkage_tree_.to_numpy())
    return recut(replace(tree, min_samples=np.array(float(min_samples))), **options)  # type: ignore[arg-type]


def halves(count: int, dims: int, seed: int) -> tuple[Floats, Floats]:
    """Points to cluster and as many new ones of the same blobs."""
    points = blobs(2 * count, dims, 8, seed=seed)
    return points[::2], points[1::2]


@pytest.mark.parametrize("dims", [3, 8])
@pytest.mark.parametrize("selection", ["eom", "leaf"])
@pytest.mark.parametrize("min_samples", [1, 4])
def test_hdbscans_tree_gives_hdbscans_predictions(dims: int, selection: str, min_samples: int) -> None:
    points, new_points = halves(700, dims, seed=1)
    fitted = oracle(points, min_samples=min_samples, min_cluster_size=11, cluster_selection_method=selection)
    ours = with_their_tree(fitted, min_samples, min_cluster_size=11, selection=selection)
    new_points = np.concatenate([new_points, points[::5]])
    labels, probabilities = approximate_predict(ours, points, new_points)
    theirs = their_prediction(fitted, new_points)
    assert labels.max() >= 4
    assert (labels == -1).any()
    assert agree(labels, theirs[0]) == 0
    assert agree(np.append(ours.labels, labels), np.append(fitted.labels_, theirs[0])) == 0  # the same names
    assert probabilities == pytest.approx(theirs[1], abs=1e-9)


@pytest.mark.parametrize("dims", [3, 8])
def test_predictions_are_hdbscans_but_for_ties(dims: int) -> None:
    points, new_points = halves(700, dims, seed=2)
    ours = cluster_points(points, min_samples=5, min_cluster_size=12, exact=True)
    fitted = oracle(points, min_samples=5, min_cluster_size=12)
    labels, probabilities = approximate_predict(ours, points, new_points)
    theirs = their_prediction(fitted, new_points)
    assert agree(labels, theirs[0]) <= 4
    assert np.quantile(np.abs(probabilities - theirs[1]), 0.99) < 1e-9


@pytest.mark.parametrize("dims", [3, 8])
def test_far_away_is_noise(dims: int) -> None:
    points, _ = halves(400, dims, seed=3)
    ours = cluster_points(points, min_samples=5, min_cluster_size=12)
    labels, probabilities = approximate_predict(
        ours, points, np.array([[1e3], [-1e9], [1e149]]) * np.ones(dims)
    )
    assert labels.tolist() == [-1, -1, -1]
    assert probabilities.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dims", [3, 8])
def test_a_point_at_a_dense_one_is_in_its_cluster(dims: int) -> None:
    points, _ = halves(400, dims, seed=4)
    ours = cluster_points(points, min_samples=5, min_cluster_size=12, exact=True)
    labels, probabilities = approximate_predict(ours, points, points)
    assert (labels == ours.labels).mean() > 0.99
    sure = ours.probabilities > 0.5
    assert (labels == ours.labels)[sure].all()
    assert (probabilities[sure] >= ours.probabilities[sure] - 1e-9).all()


def test_a_whole_that_is_one_cluster_ends_where_it_does_for_its_own_points() -> None:
    rng = np.random.default_rng(5)
    points = rng.normal(size=(300, 3)) + np.repeat([[0.0, 0, 0], [5, 0, 0]], 150, axis=0)
    options = {"min_cluster_size": 40, "allow_single_cluster": True}
    fitted = oracle(points, min_samples=5, cluster_selection_epsilon=1.5, **options)
    ours = with_their_tree(fitted, 5, epsilon=1.5, **options)
    assert np.bincount(ours.labels + 1).tolist() == [12, 288]
    new_points = np.concatenate([points, rng.normal(size=(200, 3)), [[90.0, 0, 0]]])
    labels, probabilities = approximate_predict(ours, points, new_points)
    assert labels[:300].tolist() == ours.labels.tolist()
    assert labels[-1] == -1
    theirs = their_prediction(fitted, new_points)
    assert (theirs[0] == 0).all()  # whatever is noise to us has a low probability to the package
    assert probabilities[labels == 0] == pytest.approx(theirs[1][labels == 0], abs=1e-9)
    assert theirs[1][300:][labels[300:] == -1].max() < theirs[1][300:][labels[300:] == 0].min()


def test_a_whole_that_never_parts_is_predicted_all_the_same() -> None:
    points = np.random.default_rng(7).normal(size=(100, 3))
    ours = cluster_points(points, min_samples=5, min_cluster_size=60, allow_single_cluster=True, epsilon=9.0)
    labels, _ = approximate_predict(ours, points, np.array([[0.0, 0, 0], [90, 0, 0]]))
    assert labels.tolist() == [0, -1]


def test_a_weight_counts_as_that_many_equal_points() -> None:
    points, new_points = halves(300, 4, seed=8)
    times = np.random.default_rng(8).integers(1, 5, size=300)
    options = {"min_samples": 6, "min_cluster_size": 25}
    repeated = np.repeat(points, times, axis=0)
    weighted = cluster_points(points, weights=times, exact=True, **options)  # type: ignore[arg-type]
    labels, probabilities = approximate_predict(weighted, points, new_points)
    ours = cluster_points(repeated, exact=True, **options)  # type: ignore[arg-type]
    again = approximate_predict(ours, repeated, new_points)
    assert again[0].tolist() == labels.tolist()
    assert again[1] == pytest.approx(probabilities, abs=1e-12)
    theirs = their_prediction(oracle(repeated, **options), new_points)
    assert agree(labels, theirs[0]) <= 3
    assert np.quantile(np.abs(probabilities - theirs[1]), 0.97) < 1e-9


def test_light_points_reach_further() -> None:
    points, new_points = halves(300, 3, seed=9)
    whole = cluster_points(points, min_samples=3, min_cluster_size=12, exact=True)
    joined, firmly = approximate_predict(whole, points, new_points)
    # Four of weight 1/4 around each point: nearly one of weight 1.
    shards = np.repeat(points, 4, axis=0) + np.random.default_rng(9).normal(size=(1200, 3)) * 1e-9
    light = cluster_points(
        shards, weights=np.full(1200, 0.25), min_samples=3, min_cluster_size=12, exact=True
    )
    labels, probabilities = approximate_predict(light, shards, new_points)
    assert labels.tolist() == joined.tolist()
    assert probabilities == pytest.approx(firmly, abs=1e-6)


def test_a_saved_tree_predicts_the_same() -> None:
    points, new_points = halves(300, 3, seed=10)
    first = cluster_points(points, min_samples=4, min_cluster_size=12)
    again = recut(Tree(**first.tree.arrays()), min_cluster_size=12)
    labels, probabilities = approximate_predict(again, points, new_points)
    assert labels.tolist() == approximate_predict(first, points, new_points)[0].tolist()
    assert probabilities.tolist() == approximate_predict(first, points, new_points)[1].tolist()


# ---- ugly inputs


def test_rows_that_are_not_finite_are_noise() -> None:
    points, new_points = halves(300, 3, seed=11)
    points[3, 0], points[8, 2] = np.nan, 1e200
    ours = cluster_points(points, min_samples=4, min_cluster_size=12)
    straight, _ = approximate_predict(ours, points, new_points)
    new_points[5, 0], new_points[6, 1], new_points[7], new_points[9, 2] = np.nan, np.inf, -np.inf, 1e300
    labels, probabilities = approximate_predict(ours, points, new_points)
    broken = np.isin(np.arange(300), [5, 6, 7, 9])
    assert labels[broken].tolist() == [-1] * 4
    assert probabilities[broken].tolist() == [0.0] * 4
    assert labels[~broken].tolist() == straight[~broken].tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_without_clusters_all_is_noise(count: int) -> None:
    points = blobs(30, 3, 2, seed=12)[:count]
    ours = cluster_points(points, min_cluster_size=31)
    labels, probabilities = approximate_predict(ours, points, np.eye(3))
    assert labels.tolist() == [-1, -1, -1]
    assert probabilities.tolist() == [0.0, 0.0, 0.0]


def test_equal_rows_are_joined_by_their_equals_only() -> None:
    points = np.ones((50, 4))
    ours = cluster_points(points, min_cluster_size=20)
    labels, probabilities = approximate_predict(ours, points, np.array([[1.0] * 4, [1.1] * 4]))
    assert labels.tolist() == [0, -1]
    assert probabilities.tolist() == [1.0, 0.0]


def test_fewer_points_than_are_looked_at_are_all_looked_at() -> None:
    points = np.concatenate([np.zeros((6, 2)) + np.arange(6)[:, None] * 0.01, np.full((6, 2), 5.0)])
    ours = cluster_points(points, min_samples=10, min_cluster_size=4)
    labels, _ = approximate_predict(ours, points, points)
    assert labels.shape == (12,)


def test_no_new_points_have_no_labels() -> None:
    points, _ = halves(100, 3, seed=13)
    labels, probabilities = approximate_predict(cluster_points(points), points, np.zeros((0, 3)))
    assert labels.shape == probabilities.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "new_shape", "said"),
    [
        (100, (5, 4), r"new points must be \[R, 3\] as the old ones are; got \[5, 4\]"),
        (100, (3,), r"new points must be \[R, 3\] as the old ones are; got \[3\]"),
        (99, (5, 3), r"points must be the \[100, D\] that were clustered; got \[99, 3\]"),
    ],
)
def test_other_shapes_are_refused(rows: int, new_shape: tuple[int, ...], said: str) -> None:
    points, _ = halves(100, 3, seed=14)
    ours = cluster_points(points, min_cluster_size=5)
    with pytest.raises(ConfigError, match=said):
        approximate_predict(ours, points[:rows], np.zeros(new_shape))


def test_a_clustering_of_unknown_min_samples_is_refused() -> None:
    points, _ = halves(100, 3, seed=15)
    reference = recut(tree_by_hdbscan(points, min_samples=3), min_cluster_size=5)
    with pytest.raises(ConfigError, match="not known by which min_samples"):
        approximate_predict(reference, points, points)
