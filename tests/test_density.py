"""Our HDBSCAN against the `hdbscan` package, against np.repeat, and on ugly inputs."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from gs_lift.clustering.density import Clustering, cluster_points, grown, recut, spanning_tree
from gs_lift.clustering.hierarchy import Tree, condense, outlier_scores
from gs_lift.clustering.reference import tree_of_merges
from gs_lift.errors import ConfigError

Floats = NDArray[np.float64]


def blobs(count: int, dims: int, centers: int, seed: int) -> Floats:
    """Unequal anisotropic blobs with 7 % of the points strewn between them."""
    rng = np.random.default_rng(seed)
    owner = rng.choice(centers, size=count, p=rng.dirichlet(np.full(centers, 2.0)))
    spread = rng.uniform(0.05, 0.4, size=(centers, dims))
    points = rng.normal(size=(centers, dims))[owner] * 3 + rng.normal(size=(count, dims)) * spread[owner]
    strewn = rng.random(count) < 0.07
    points[strewn] = rng.uniform(-5, 5, size=(int(strewn.sum()), dims))
    return points


def oracle(points: Floats, **options: object):  # type: ignore[no-untyped-def]
    """hdbscan with the exact spanning tree."""
    import hdbscan

    options = {"algorithm": "prims_kdtree", "approx_min_span_tree": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hdbscan.HDBSCAN(gen_min_span_tree=True, **options).fit(points)


def agree(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Points on which two labellings differ when the labels are renamed as well as possible."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((ours.max() + 2, theirs.max() + 2), dtype=np.int64)
    np.add.at(table, (ours, theirs), 1)  # -1 is the last row and column
    rows, columns = linear_sum_assignment(table[:-1, :-1], maximize=True)
    return len(ours) - int(table[rows, columns].sum() + table[-1, -1])


@pytest.mark.parametrize(("count", "dims"), [(900, 2), (1500, 3), (1200, 8), (700, 16)])
def test_exact_spanning_tree_weighs_what_hdbscans_does(count: int, dims: int) -> None:
    points = blobs(count, dims, 12, seed=count)
    tree = spanning_tree(points, min_samples=5, exact=True)
    theirs = np.sort(oracle(points, min_samples=5).minimum_spanning_tree_.to_numpy()[:, 2])
    assert tree.distances == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("neighbours", [2, 6, 40])
def test_exact_holds_however_few_neighbours_are_looked_at(neighbours: int) -> None:
    points = blobs(600, 5, 6, seed=1)
    tree = spanning_tree(points, min_samples=4, neighbours=neighbours, exact=True)
    full = spanning_tree(points, min_samples=4, neighbours=599, exact=True)
    assert tree.distances == pytest.approx(full.distances, rel=1e-12)


def test_components_are_joined_by_their_nearest_points() -> None:
    rng = np.random.default_rng(2)
    points = np.concatenate(
        [rng.normal(size=(60, 4)) * 0.1 + 10 * np.eye(4)[i % 4] * (1 + i) for i in range(9)]
    )
    tree = spanning_tree(points, min_samples=3, neighbours=5)
    theirs = np.sort(oracle(points, min_samples=3).minimum_spanning_tree_.to_numpy()[:, 2])
    # Within a blob 5 neighbours may miss an edge; the 8 edges between the 9 blobs are exact.
    assert tree.distances[-8:] == pytest.approx(theirs[-8:], rel=1e-12)
    assert theirs[-8] > 5 > theirs[-9]


@pytest.mark.parametrize("selection", ["eom", "leaf"])
@pytest.mark.parametrize("allow_single_cluster", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.35])
@pytest.mark.parametrize("max_cluster_size", [0, 120])
def test_hdbscans_tree_gives_hdbscans_labels_and_probabilities(
    selection: str, allow_single_cluster: bool, epsilon: float, max_cluster_size: int
) -> None:
    points = blobs(800, 3, 8, seed=3)
    fitted = oracle(
        points,
        min_samples=4,
        min_cluster_size=11,
        cluster_selection_method=selection,
        allow_single_cluster=allow_single_cluster,
        cluster_selection_epsilon=epsilon,
        max_cluster_size=max_cluster_size,
    )
    ours = recut(
        tree_of_merges(fitted.single_linkage_tree_.to_numpy()),
        min_cluster_size=11,
        selection=selection,
        allow_single_cluster=allow_single_cluster,
        epsilon=epsilon,
        max_cluster_size=max_cluster_size or np.inf,
    )
    assert agree(ours.labels, fitted.labels_) == 0
    assert ours.probabilities == pytest.approx(fitted.probabilities_, abs=1e-12)


@pytest.mark.parametrize("dims", [2, 6])
def test_hdbscans_tree_gives_hdbscans_outlier_scores(dims: int) -> None:
    points = blobs(800, dims, 8, seed=22)
    fitted = oracle(points, min_samples=4, min_cluster_size=11)
    tree = tree_of_merges(fitted.single_linkage_tree_.to_numpy())
    assert outlier_scores(condense(tree, 11)) == pytest.approx(fitted.outlier_scores_, abs=1e-12)
    scores = recut(tree, min_cluster_size=11).outlier_scores
    assert scores == pytest.approx(fitted.outlier_scores_, abs=1e-12)
    assert scores.min() == 0
    assert 0.9 < scores.max() <= 1


def test_an_outlier_is_told_by_its_score() -> None:
    # 0.1 apart but for the last, which is 0.8 away: 1 - (1 / 0.8) / (1 / 0.1).
    points = np.append(np.arange(30) * 0.1, 3.7)[:, None]
    result = cluster_points(points, min_samples=1, min_cluster_size=5)
    assert result.outlier_scores == pytest.approx(np.append(np.zeros(30), 1 - 0.1 / 0.8))


def test_rows_left_out_have_outlier_score_zero() -> None:
    points = blobs(300, 3, 4, seed=23)
    points[7] = np.nan
    result = cluster_points(points, weights=np.arange(300) != 20, min_cluster_size=12)
    assert result.outlier_scores[[7, 20]].tolist() == [0.0, 0.0]
    assert (result.outlier_scores > 0).sum() > 200


@pytest.mark.parametrize("count", [0, 1, 40])
def test_equal_rows_are_no_outliers(count: int) -> None:
    assert cluster_points(np.ones((count, 3)), min_cluster_size=20).outlier_scores.tolist() == [0.0] * count


def nested_blobs(seed: int) -> Floats:
    """Four groups of three blobs of two tight halves each: 4, 12 or 24 clusters, by how closely one looks."""
    rng = np.random.default_rng(seed)
    centers = (
        rng.normal(size=(4, 1, 1, 3)) * 40 + rng.normal(size=(4, 3, 1, 3)) * 5 + rng.normal(size=(4, 3, 2, 3))
    )
    return (centers.reshape(24, 1, 3) + rng.normal(size=(24, 40, 3)) * 0.15).reshape(-1, 3)


def test_granularity_runs_from_few_clusters_to_the_finest_each_cut_refining_the_last() -> None:
    tree = spanning_tree(nested_blobs(seed=22), min_samples=5)
    cuts = [recut(tree, min_cluster_size=20, granularity=g).labels for g in np.linspace(0, 1, 41)]
    for coarse, fine in pairwise(cuts):
        for label in range(fine.max() + 1):
            assert len(np.unique(coarse[fine == label])) == 1
    counts = [int(labels.max()) + 1 for labels in cuts]
    assert counts == sorted(counts)
    assert counts[0] <= 4
    assert counts[-1] == 24
    assert len(set(counts)) > 10  # in many steps
    assert cuts[20].tolist() == recut(tree, min_cluster_size=20).labels.tolist()
    assert cuts[40].tolist() == recut(tree, min_cluster_size=20, selection="leaf").labels.tolist()


@pytest.mark.parametrize(("granularity", "selection"), [(0.5, "eom"), (1.0, "leaf")])
@pytest.mark.parametrize("seed", range(4))
def test_granularity_meets_hdbscans_selections_on_hdbscans_tree(
    granularity: float, selection: str, seed: int
) -> None:
    points = blobs(600, 3, 9, seed=seed)
    fitted = oracle(points, min_samples=4, min_cluster_size=10, cluster_selection_method=selection)
    tree = tree_of_merges(fitted.single_linkage_tree_.to_numpy())
    assert agree(recut(tree, min_cluster_size=10, granularity=granularity).labels, fitted.labels_) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_finer_cut_can_share_out_all_of_the_coarser_one(seed: int) -> None:
    tree = spanning_tree(blobs(700, 3, 5, seed=seed), min_samples=5)
    coarse = recut(tree, min_cluster_size=12)
    fine = recut(tree, min_cluster_size=12, granularity=1.0)
    full = grown(fine, coarse)
    assert (full.labels[fine.labels >= 0] == fine.labels[fine.labels >= 0]).all()
    assert ((full.labels >= 0) == (coarse.labels >= 0)).all()
    for label in range(fine.labels.max() + 1):
        assert len(np.unique(coarse.labels[full.labels == label])) == 1
    assert (full.labels >= 0).sum() > (fine.labels >= 0).sum()
    assert (full.probabilities[full.labels >= 0] > 0).all()


def test_the_tree_says_how_many_neighbours_were_found() -> None:
    points = np.random.default_rng(23).normal(size=(8500, 9))
    assert spanning_tree(points, exact=True).recall == 1
    assert 0.94 <= spanning_tree(points).recall < 1


def test_one_blob_may_be_one_cluster_as_in_hdbscan() -> None:
    points = np.random.default_rng(4).normal(size=(400, 3))
    for epsilon in (0.0, 0.6):
        options = {"min_samples": 5, "min_cluster_size": 90, "allow_single_cluster": True}
        fitted = oracle(points, cluster_selection_epsilon=epsilon, **options)
        ours = cluster_points(points, epsilon=epsilon, exact=True, **options)  # type: ignore[arg-type]
        assert ours.labels.max() == 0
        assert agree(ours.labels, fitted.labels_) == 0


@pytest.mark.parametrize("dims", [3, 8])
def test_labels_are_hdbscans_but_for_ties(dims: int) -> None:
    points = blobs(1500, dims, 12, seed=5)
    theirs = oracle(points, min_samples=5, min_cluster_size=15).labels_
    exact = cluster_points(points, min_samples=5, min_cluster_size=15, exact=True)
    assert agree(exact.labels, theirs) <= 4  # hdbscan's own algorithms differ from each other by as much
    graph = cluster_points(points, min_samples=5, min_cluster_size=15)
    assert agree(graph.labels, theirs) <= 0.01 * 1500


def test_a_weight_counts_as_that_many_equal_points() -> None:
    rng = np.random.default_rng(6)
    points = blobs(500, 4, 6, seed=6)
    times = rng.integers(1, 5, size=500)
    weighted = cluster_points(points, weights=times, min_samples=6, min_cluster_size=25, exact=True)
    repeated = oracle(np.repeat(points, times, axis=0), min_samples=6, min_cluster_size=25)
    assert agree(np.repeat(weighted.labels, times), repeated.labels_) <= 8
    ours = cluster_points(np.repeat(points, times, axis=0), min_samples=6, min_cluster_size=25, exact=True)
    assert ours.labels.tolist() == np.repeat(weighted.labels, times).tolist()


def test_core_distances_reach_past_light_neighbours() -> None:
    points = np.arange(200.0)[:, None]
    tree = spanning_tree(points, weights=np.full(200, 0.25), min_samples=5, neighbours=4)
    # 0.25 - 1 of itself, so (5 + 0.75) / 0.25 = 23 neighbours are wanted: on both sides, or all on one.
    assert tree.cores[100] == 12
    assert tree.cores[0] == 23


def test_a_heavy_point_is_a_cluster_of_its_own() -> None:
    rng = np.random.default_rng(7)
    points = np.concatenate([rng.normal(size=(40, 2)), [[30.0, 0.0]]])
    weights = np.append(np.ones(40), 25.0)
    result = cluster_points(points, weights=weights, min_samples=4, min_cluster_size=10)
    assert result.labels[-1] >= 0
    assert (result.labels == result.labels[-1]).sum() == 1


def test_weight_zero_is_as_good_as_absent() -> None:
    points = blobs(300, 3, 4, seed=8)
    weights = np.ones(300)
    weights[::7] = 0
    result = cluster_points(points, weights=weights, min_samples=4, min_cluster_size=12)
    without = cluster_points(points[weights > 0], min_samples=4, min_cluster_size=12)
    assert result.labels[weights > 0].tolist() == without.labels.tolist()
    assert (result.labels[::7] == -1).all()


def test_a_tree_is_cut_again_without_its_points() -> None:
    points = blobs(700, 3, 8, seed=9)
    tree = cluster_points(points, min_samples=5, min_cluster_size=10).tree
    again = recut(Tree(**tree.arrays()), min_cluster_size=60)
    direct = cluster_points(points, min_samples=5, min_cluster_size=60)
    assert again.labels.tolist() == direct.labels.tolist()
    assert again.probabilities.tolist() == direct.probabilities.tolist()


def test_clusters_are_numbered_by_falling_size() -> None:
    result = cluster_points(blobs(900, 3, 8, seed=10), min_samples=5, min_cluster_size=12)
    sizes = np.bincount(result.labels[result.labels >= 0])
    assert len(sizes) == len(result.persistences) >= 6
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_the_same_on_every_run_and_for_any_number_of_threads() -> None:
    import faiss

    points = blobs(9000, 6, 30, seed=11)  # enough for the inverted file
    before = faiss.omp_get_max_threads()
    try:
        results: list[Clustering] = []
        for threads in (1, 2, 2):
            faiss.omp_set_num_threads(threads)
            results.append(cluster_points(points, min_cluster_size=20))
    finally:
        faiss.omp_set_num_threads(before)
    for other in results[1:]:
        assert other.labels.tobytes() == results[0].labels.tobytes()
        assert other.tree.edges.tobytes() == results[0].tree.edges.tobytes()
        assert other.tree.distances.tobytes() == results[0].tree.distances.tobytes()


# ---- ugly inputs


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("dims", [3, 8])
def test_hardly_any_points_are_noise(count: int, dims: int) -> None:
    result = cluster_points(np.eye(dims)[:count], min_cluster_size=5)
    assert result.labels.tolist() == [-1] * count
    assert result.probabilities.tolist() == [0.0] * count


@pytest.mark.parametrize("dims", [3, 8])
def test_rows_that_are_not_finite_stay_out(dims: int) -> None:
    points = blobs(300, dims, 4, seed=12)
    broken = points.copy()
    broken[5, 0], broken[9, 1], broken[11], broken[12, 1] = np.nan, np.inf, -np.inf, 1e300
    kept = np.isfinite(broken).all(axis=1) & (np.arange(300) != 12)
    result = cluster_points(broken, min_samples=4, min_cluster_size=12)
    assert result.labels[~kept].tolist() == [-1, -1, -1, -1]
    without = cluster_points(points[kept], min_samples=4, min_cluster_size=12)
    assert result.labels[kept].tolist() == without.labels.tolist()


def test_nothing_but_nan_is_nothing_but_noise() -> None:
    assert cluster_points(np.full((7, 4), np.nan), min_cluster_size=2).labels.tolist() == [-1] * 7


@pytest.mark.parametrize("value", [0.0, 1e150, 1e-300])
def test_equal_rows_are_one_cluster(value: float) -> None:
    result = cluster_points(np.full((50, 5), value), min_cluster_size=20)
    assert result.labels.tolist() == [0] * 50
    assert result.probabilities.tolist() == [1.0] * 50
    assert cluster_points(np.full((50, 5), value), min_cluster_size=51).labels.tolist() == [-1] * 50


def test_minus_zero_is_zero() -> None:
    points = np.zeros((10, 2))
    points[::2] = -0.0
    assert cluster_points(points, min_cluster_size=10).labels.tolist() == [0] * 10


@pytest.mark.parametrize("dims", [3, 8])
def test_two_piles_of_duplicates_are_two_clusters(dims: int) -> None:
    points = np.concatenate([np.zeros((30, dims)), np.ones((40, dims))])
    result = cluster_points(points, min_cluster_size=10)
    assert result.labels.tolist() == [1] * 30 + [0] * 40


def test_duplicates_do_not_outweigh_the_cluster_around_them() -> None:
    rng = np.random.default_rng(13)
    blob = rng.normal(size=(400, 3))
    points = np.concatenate([blob, np.repeat(blob[:1], 30, axis=0), rng.normal(size=(400, 3)) + 20])
    result = cluster_points(points, min_samples=10, min_cluster_size=20)
    assert np.bincount(result.labels + 1)[1:].tolist()[0] > 350


@pytest.mark.parametrize("dims", [2, 8])
def test_fewer_points_than_min_cluster_size_are_noise(dims: int) -> None:
    assert (cluster_points(blobs(30, dims, 2, seed=14), min_cluster_size=31).labels == -1).all()


@pytest.mark.parametrize("dims", [2, 8])
def test_fewer_points_than_min_samples_have_the_furthest_as_core(dims: int) -> None:
    points = blobs(12, dims, 2, seed=15)
    tree = spanning_tree(points, min_samples=40)
    furthest = np.linalg.norm(points[:, None] - points[None], axis=-1).max(axis=1)
    assert tree.cores == pytest.approx(furthest)
    assert len(tree.distances) == 11


def test_one_blob_is_not_torn_when_it_may_stay_whole() -> None:
    points = np.random.default_rng(16).normal(size=(500, 8))
    result = cluster_points(points, min_cluster_size=60, allow_single_cluster=True, epsilon=10.0)
    assert (result.labels == 0).all()


@pytest.mark.parametrize("dims", [1, 3, 8])
def test_a_stray_row_far_away_spoils_nothing(dims: int) -> None:
    rng = np.random.default_rng(24)
    points = (40 * np.arange(20)[:, None, None] + rng.normal(size=(20, 30, dims))).reshape(-1, dims)
    strayed = np.concatenate([points, np.full((1, dims), 1e12)])
    result = cluster_points(strayed, min_samples=4, min_cluster_size=20)
    without = cluster_points(points, min_samples=4, min_cluster_size=20)
    assert result.labels[-1] == -1
    assert agree(result.labels[:-1], without.labels) <= 6


def test_light_weights_look_further_without_taking_all_memory_at_once() -> None:
    points = blobs(900, 2, 4, seed=25)
    light = spanning_tree(points, weights=np.full(900, 1 / 128), min_samples=5, exact=True)
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=-1), axis=1)
    # 1/128 - 1 of itself, so 6 * 128 - 1 = 767 others are wanted.
    assert light.cores == pytest.approx(distances[:, 767], rel=1e-12)


def test_distances_that_underflow_are_harmless() -> None:
    points = blobs(200, 4, 2, seed=21) * 1e-200
    assert len(cluster_points(points, min_cluster_size=20).labels) == 200


def test_a_grid_gives_the_same_labels_on_every_run() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3)
    points = np.concatenate([grid, grid + 100])
    first = cluster_points(points, min_cluster_size=50)
    assert first.labels.max() == 1
    assert len(set(first.labels[:1728])) == 1
    assert first.labels.tobytes() == cluster_points(points, min_cluster_size=50).labels.tobytes()


def test_a_thin_chain_does_not_join_two_blobs() -> None:
    rng = np.random.default_rng(17)
    left, right = rng.normal(size=(2, 300, 3)) * 0.3 + np.array([[[0.0, 0, 0]], [[10.0, 0, 0]]])
    chain = np.linspace([0.0, 0, 0], [10.0, 0, 0], 40)
    result = cluster_points(np.concatenate([left, right, chain]), min_cluster_size=50)
    assert result.labels.max() == 1
    assert np.bincount(result.labels[:300] + 1).argmax() != np.bincount(result.labels[300:600] + 1).argmax()


def test_far_from_the_origin_clusters_stay_apart() -> None:
    points = np.concatenate([blobs(500, 8, 1, seed=18) * 0.01, blobs(500, 8, 1, seed=19) * 0.01 + 1])
    near = cluster_points(points, min_cluster_size=60)
    far = cluster_points(points + 1e6, min_cluster_size=60)
    assert agree(far.labels, near.labels) <= 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_cluster_size": 1}, "min_cluster_size must be 2 or more and finite; got 1"),
        ({"min_samples": 0}, "min_samples and neighbours must be 1 or more; got 0"),
        ({"min_samples": np.nan}, "min_samples and neighbours must be 1 or more; got nan"),
        ({"min_samples": np.inf}, "min_samples and neighbours must be 1 or more; got inf"),
        ({"min_cluster_size": np.nan}, "min_cluster_size must be 2 or more and finite; got nan"),
        ({"max_cluster_size": np.nan}, "max_cluster_size must be 0 or more; got nan"),
        ({"epsilon": -1}, "epsilon must be 0 or more and finite; got -1"),
        ({"granularity": 1.2}, "granularity must be 0 to 1; got 1.2"),
        ({"selection": "best"}, "no cluster selection 'best'; one of: eom, leaf"),
        ({"weights": -np.ones(20)}, "weights must be 20 numbers of 0 or more"),
        ({"weights": np.ones(3)}, "weights must be 20 numbers of 0 or more"),
    ],
)
def test_a_parameter_out_of_range_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cluster_points(blobs(20, 3, 2, seed=20), **options)  # type: ignore[arg-type]


def test_points_of_one_axis_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be \[N, D\]; got \[5\]"):
        cluster_points(np.zeros(5))
