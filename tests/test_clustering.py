"""From embeddings to instances on small made-up scenes."""

import re

import numpy as np
import pytest
import torch

from gs_lift.clustering import CLUSTERERS, ClusterConfig, cluster, recut, saved_tree
from gs_lift.errors import ConfigError
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings

ROOM = Classes(("floor", "mug", "book"), (False, True, True))
FLOOR, MUG, BOOK = 0, 1, 2


def scene(
    objects: list[tuple[tuple[float, float, float], int, int, int]], *, floor: int = 200, seed: int = 0
) -> tuple[Gaussians, Embeddings, np.ndarray]:
    """Balls of radius 0.1 at a place, with an embedding's number, a class and a number of Gaussians; and a floor."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(50, 8))
    means, fast, classes, truth = [], [], [], []
    for number, (place, code, semantic, count) in enumerate(objects):
        means.append(np.array(place) + rng.uniform(-0.06, 0.06, size=(count, 3)))
        fast.append(codes[code] + 0.03 * rng.normal(size=(count, 8)))
        classes += [semantic] * count
        truth += [number] * count
    means.append(rng.uniform([-2, -2, -0.5], [2, 2, -0.4], size=(floor, 3)))
    fast.append(rng.normal(size=(floor, 8)))
    classes += [FLOOR] * floor
    truth += [-1] * floor
    points = torch.from_numpy(np.concatenate(means)).float()
    embeddings = Embeddings(
        fast=torch.from_numpy(np.concatenate(fast)).float(),
        slow=torch.from_numpy(np.concatenate(fast)).float(),
        semantic=6.0 * torch.nn.functional.one_hot(torch.tensor(classes, dtype=torch.int64), 3).float(),
        visibility=torch.from_numpy(rng.uniform(5, 50, size=len(points))).float(),
    )
    return (
        Gaussians.from_points(points, torch.zeros(len(points), 3), sh_degree=0),
        embeddings,
        np.array(truth),
    )


THREE = [((0.0, 0, 0), 0, MUG, 120), ((1.0, 0, 0), 1, BOOK, 200), ((0.0, 1, 0), 2, MUG, 80)]


def test_objects_are_found_numbered_by_size_and_named() -> None:
    gaussians, embeddings, truth = scene(THREE)
    instances = cluster(embeddings, gaussians, ROOM)
    expected = np.array([1, 0, 2, -1])[truth]  # by falling size: 200, 120, 80; the floor is none
    assert (instances.labels.numpy() == expected).mean() > 0.99
    assert instances.classes.tolist() == [BOOK, MUG, MUG]
    assert instances.counts.tolist() == sorted(instances.counts.tolist(), reverse=True)


def test_scores_are_confidences() -> None:
    gaussians, embeddings, _ = scene(THREE)
    instances = cluster(embeddings, gaussians, ROOM)
    assert instances.scores.dtype == torch.float32
    assert ((instances.scores > 0) == (instances.labels >= 0)).all()
    assert float(instances.scores.max()) == 1.0


def test_the_floor_and_the_unseen_belong_to_nobody() -> None:
    gaussians, embeddings, truth = scene(THREE)
    embeddings.visibility[::3] = 0.1
    labels = cluster(embeddings, gaussians, ROOM).labels
    assert (labels[truth == -1] == -1).all()
    assert (labels[::3] == -1).all()
    assert (labels.numpy()[truth >= 0] >= 0).sum() > 250


def test_what_is_not_finite_belongs_to_nobody() -> None:
    gaussians, embeddings, _ = scene(THREE)
    embeddings.fast[0, 3] = float("nan")
    embeddings.semantic[1, 1] = float("nan")
    embeddings.visibility[2] = float("nan")
    gaussians.means[3, 0] = float("inf")
    instances = cluster(embeddings, gaussians, ROOM)
    assert instances.labels[:4].tolist() == [-1] * 4
    assert len(instances) == 3


def test_a_few_large_gaussians_do_not_decide_alone() -> None:
    gaussians, embeddings, _ = scene(THREE)
    embeddings.visibility[130:320:30] = 3000.0  # in the book, and a little off the book's embedding
    embeddings.fast[130:320:30] += 0.3 * torch.randn(7, 8, generator=torch.Generator().manual_seed(2))
    assert len(cluster(embeddings, gaussians, ROOM, ClusterConfig(noise_spread=0))) == 3


def test_one_class_cannot_split_an_object() -> None:
    gaussians, embeddings, _ = scene(THREE)
    embeddings.semantic[0:120:4] = 6.0 * torch.eye(3)[BOOK]  # a quarter of the first mug looks like a book
    instances = cluster(embeddings, gaussians, ROOM)
    assert len(instances) == 3
    assert instances.classes.tolist() == [BOOK, MUG, MUG]


TWINS = [((0.0, 0, 0), 0, MUG, 150), ((1.5, 0, 0), 0, MUG, 100), ((0.0, 1.5, 0), 0, MUG, 60)]


def test_objects_far_apart_with_one_embedding_are_cut_apart() -> None:
    gaussians, embeddings, truth = scene([*TWINS, ((0.0, 0, 2.0), 1, BOOK, 50)])
    instances = cluster(embeddings, gaussians, ROOM)
    assert (instances.labels.numpy() == truth).mean() > 0.98
    assert len(cluster(embeddings, gaussians, ROOM, ClusterConfig(split_gap=0))) == 2


@pytest.mark.parametrize("count", [40, 200, 3000])
def test_the_only_object_of_a_room_is_one_object(count: int) -> None:
    gaussians, embeddings, truth = scene([((0.0, 0, 0), 0, MUG, count)])
    instances = cluster(embeddings, gaussians, ROOM)
    assert len(instances) == 1
    assert (instances.labels.numpy() == truth).mean() > 0.95


def test_a_cluster_strewn_among_the_others_is_no_object() -> None:
    gaussians, embeddings, truth = scene(THREE)
    # 25 Gaussians of all three objects with an embedding of their own
    borders = np.flatnonzero(truth >= 0)[::16]
    embeddings.fast[borders] = 3.0 + 0.03 * torch.randn(25, 8, generator=torch.Generator().manual_seed(1))
    small = ClusterConfig(min_size=15)
    assert len(cluster(embeddings, gaussians, ROOM, small)) == 3
    assert len(cluster(embeddings, gaussians, ROOM, ClusterConfig(min_size=15, min_coherence=0))) == 4


def test_an_object_seen_through_bars_is_not_cut() -> None:
    near = [((0.0, 0, 0), 0, MUG, 150), ((0.18, 0, 0), 0, MUG, 150), ((1.5, 0, 0), 1, BOOK, 100)]
    gaussians, embeddings, _ = scene(near)  # a gap of 0.06 between sides of radius 0.06
    assert len(cluster(embeddings, gaussians, ROOM)) == 2


def test_noise_joins_where_space_and_embedding_agree_and_only_there() -> None:
    gaussians, embeddings, _ = scene(THREE)
    mug = embeddings.fast[:120].mean(0)
    radius = float((embeddings.fast[:120] - mug).square().sum(1).mean().sqrt())
    # Three Gaussians whose embedding is 40 radii off the mug's, too far for HDBSCAN, but nearest to the mug's.
    outward = torch.nn.functional.normalize(mug - embeddings.fast[120:400].mean(0), dim=0)
    embeddings.fast[:3] = mug + torch.tensor([40.0, 41, 42])[:, None] * radius * outward
    gaussians.means[:3] = torch.tensor(
        [[0.0, 0, 0], [0.01, 0, 0], [1, 0, 0]]
    )  # two in the mug, one in the book
    mugs = int(cluster(embeddings, gaussians, ROOM).labels[60])
    near = cluster(embeddings, gaussians, ROOM, ClusterConfig(noise_spread=6))
    assert near.labels[:3].tolist() == [-1, -1, -1]
    assert near.scores[:3].tolist() == [0, 0, 0]
    far = cluster(embeddings, gaussians, ROOM, ClusterConfig(noise_spread=60))
    assert far.labels[:3].tolist() == [mugs, mugs, -1]
    assert 0 < float(far.scores[1]) < float(far.scores[0]) < 0.5


def test_the_order_of_the_gaussians_does_not_matter() -> None:
    gaussians, embeddings, _ = scene(THREE)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(gaussians)))
    moved = Embeddings(*(tensor[order] for tensor in vars(embeddings).values()))
    straight = cluster(embeddings, gaussians, ROOM)
    shuffled = cluster(moved, gaussians.rows(order), ROOM)
    assert (shuffled.labels == straight.labels[order]).float().mean() > 0.99


def test_the_same_bytes_on_every_run() -> None:
    gaussians, embeddings, _ = scene(THREE)
    first, second = (cluster(embeddings, gaussians, ROOM) for _ in range(2))
    assert first.labels.numpy().tobytes() == second.labels.numpy().tobytes()
    assert first.scores.numpy().tobytes() == second.scores.numpy().tobytes()


def test_the_tree_is_kept_for_another_cut(tmp_path) -> None:  # type: ignore[no-untyped-def]
    gaussians, embeddings, truth = scene(THREE)
    instances = cluster(embeddings, gaussians, ROOM)
    torch.save(instances.tree, tmp_path / "tree.pt")
    saved = torch.load(tmp_path / "tree.pt", weights_only=True)
    coarse = recut(saved_tree(saved), min_cluster_size=100)
    sizes = np.bincount(truth[saved["rows"].numpy()])
    assert coarse.labels.max() + 1 == (sizes >= 100).sum() == 2


@pytest.mark.parametrize("method", sorted(CLUSTERERS))
def test_every_clusterer_finds_the_objects(method: str) -> None:
    gaussians, embeddings, truth = scene(THREE)
    instances = cluster(embeddings, gaussians, ROOM, ClusterConfig(method=method))
    assert (instances.labels.numpy() == np.array([1, 0, 2, -1])[truth]).mean() > 0.98
    assert recut(saved_tree(instances.tree), min_cluster_size=20).labels.max() == 2


@pytest.mark.parametrize("method", sorted(CLUSTERERS))
@pytest.mark.parametrize("things", [0, 1, 2, 7])
def test_a_room_with_hardly_anything_in_it_has_no_instances(method: str, things: int) -> None:
    gaussians, embeddings, _ = scene([((0.0, 0, 0), 0, MUG, things)])
    instances = cluster(embeddings, gaussians, ROOM, ClusterConfig(method=method))
    assert len(instances) == 0
    assert instances.labels.tolist() == [-1] * (things + 200)
    assert instances.scores.tolist() == [0.0] * (things + 200)
    assert instances.classes.dtype == torch.int64


def test_no_gaussians_give_no_instances() -> None:
    gaussians, embeddings, _ = scene([], floor=0)
    instances = cluster(embeddings, gaussians, ROOM)
    assert instances.labels.shape == (0,)
    assert len(instances) == 0


def test_without_thing_classes_there_are_no_instances() -> None:
    gaussians, embeddings, _ = scene(THREE)
    stuff = Classes(("floor", "wall", "ceiling"), (False, False, False))
    assert len(cluster(embeddings, gaussians, stuff)) == 0


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("method", "kmeans", "no cluster.method 'kmeans'; one of: hdbscan, hdbscan_faiss"),
        ("selection", "best", "no cluster.selection 'best'; one of: eom, leaf"),
        ("min_thing", 1.5, "cluster.min_thing: wanted 0 to 1, got 1.5"),
        ("min_size", 1.0, "cluster.min_size: wanted 2 or more, got 1.0"),
        ("noise_spread", -1.0, "cluster.noise_spread: wanted 0 or more, got -1.0"),
        ("epsilon", float("nan"), "cluster.epsilon: wanted 0 or more, got nan"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object, said: str) -> None:
    gaussians, embeddings, _ = scene(THREE)
    with pytest.raises(ConfigError, match=re.escape(said)):
        cluster(embeddings, gaussians, ROOM, ClusterConfig(**{field: value}))  # type: ignore[arg-type]
