"""From embeddings to instances on small made-up scenes."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from balls import BOOK, MUG, ROOM, scene

from gs_lift.clustering import CLUSTERERS, ClusterConfig, cluster, recut, recut_instances, saved_tree
from gs_lift.clustering.constraints import Constraints, Link
from gs_lift.errors import ConfigError
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings, Instances

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
    assert 0.98 < float(instances.scores.max()) <= 1


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
    tensors = embeddings.fast, embeddings.slow, embeddings.semantic, embeddings.visibility
    moved = Embeddings(*(tensor[order] for tensor in tensors))
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


# ---- other cuts of the same tree


def the_same(a: Instances, b: Instances) -> bool:
    assert a.parts is not None
    assert b.parts is not None
    pairs = [*zip(vars(a.parts).values(), vars(b.parts).values(), strict=True)]
    pairs += [(a.labels, b.labels), (a.scores, b.scores), (a.classes, b.classes)]
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"min_size": 100.0},
        {"epsilon": 0.5},
        {"granularity": 0.0},
        {"granularity": 1.0},
        {"selection": "leaf"},
        {"split_gap": 0.0},
        {"min_coherence": 0.0, "noise_spread": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", sorted(CLUSTERERS))
def test_a_recut_is_what_clustering_anew_would_give(method: str, change: dict[str, Any]) -> None:
    gaussians, embeddings, _ = scene([*THREE, *TWINS[1:]], seed=3)
    config = ClusterConfig(method=method)
    made = cluster(embeddings, gaussians, ROOM, config)
    other = replace(config, **change)
    again = recut_instances(made, embeddings, gaussians, ROOM, other)
    assert the_same(again, cluster(embeddings, gaussians, ROOM, other))
    assert the_same(recut_instances(again, embeddings, gaussians, ROOM, config), made)


def test_a_smaller_least_size_finds_small_objects() -> None:
    gaussians, embeddings, _ = scene([*THREE, ((1.0, 1, 0), 3, BOOK, 20)])
    made = cluster(embeddings, gaussians, ROOM)
    assert len(made) == 3
    small = ClusterConfig(min_size=10, min_share=0)
    assert len(recut_instances(made, embeddings, gaussians, ROOM, small)) == 4


def two_part_mug(seed: int = 0) -> tuple[Gaussians, Embeddings, np.ndarray]:
    """A mug of two parts whose embeddings are near each other, beside a book and another mug."""
    gaussians, embeddings, truth = scene([((0.0, 0, 0), 0, MUG, 200), *THREE[1:]], seed=seed)
    near = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    embeddings.fast[100:200] += 0.2 * near / near.norm()
    gaussians.means[100:200, 2] += 0.12
    return gaussians, embeddings, truth


def test_parts_are_found_within_their_object_and_become_objects_at_their_granularity() -> None:
    gaussians, embeddings, _ = two_part_mug()
    config = ClusterConfig(min_samples=5)
    made = cluster(embeddings, gaussians, ROOM, config)
    mug = int(made.labels[50])
    assert mug == int(made.labels[150])
    assert len(made) == 3
    parts = made.parts
    assert parts is not None
    assert parts.instance.tolist() == [mug, mug]
    assert parts.parent.tolist() == [-1, -1]
    body, handle = parts.labels[:100], parts.labels[100:200]
    assert (body == body.mode().values).float().mean() > 0.7  # the others lie between the two
    assert (handle == handle.mode().values).float().mean() > 0.7
    assert min(int(body.mode().values), int(handle.mode().values)) >= 0
    assert int(body.mode().values) != int(handle.mode().values)
    assert (parts.labels[200:] == -1).all()
    finer = replace(config, granularity=float(parts.granularity[0]))
    apart = recut_instances(made, embeddings, gaussians, ROOM, finer)
    assert len(apart) == 4
    assert int(apart.labels[50]) != int(apart.labels[150])


def test_a_part_that_is_strewn_through_its_object_stays_in_it() -> None:
    gaussians, embeddings, _ = two_part_mug()
    # The same two embeddings, but the Gaussians of both anywhere in the mug.
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    embeddings.fast[:200] = embeddings.fast[order]
    config = ClusterConfig(min_samples=5)
    made = cluster(embeddings, gaussians, ROOM, config)
    finest = recut_instances(made, embeddings, gaussians, ROOM, replace(config, granularity=1.0))
    assert len(made) == len(finest) == 3
    assert ((finest.labels >= 0) == (made.labels >= 0)).float().mean() > 0.99


def test_nothing_has_no_parts() -> None:
    gaussians, embeddings, _ = scene([], floor=5)
    parts = cluster(embeddings, gaussians, ROOM).parts
    assert parts is not None
    assert len(parts) == 0
    assert parts.labels.tolist() == [-1] * 5


def linked(must: list[tuple[int, int]], cannot: list[tuple[int, int]]) -> Constraints:
    return Constraints(
        tuple(Link(a, b, "must") for a, b in must), tuple(Link(a, b, "cannot") for a, b in cannot)
    )


def test_constraints_hold_in_the_end_whatever_the_steps_after_the_tree_do() -> None:
    gaussians, embeddings, _ = scene([*TWINS, ((0.0, 0, 2.0), 1, BOOK, 50)])
    # The twins share an embedding and are cut apart in space; two of them are one object all the same.
    made = cluster(embeddings, gaussians, ROOM, constraints=linked([(3, 160)], []))
    assert made.labels[3] == made.labels[160] != made.labels[270]
    assert len(made) == 3
    # And the largest is two objects, though neither space nor embedding says so.
    apart = cluster(embeddings, gaussians, ROOM, constraints=linked([], [(3, 77)]))
    assert apart.labels[3] != apart.labels[77]
    assert min(int(apart.labels[3]), int(apart.labels[77])) >= 0


def test_noise_that_must_not_join_stays_out() -> None:
    gaussians, embeddings, _ = scene(THREE)
    mug = embeddings.fast[:120].mean(0)
    radius = float((embeddings.fast[:120] - mug).square().sum(1).mean().sqrt())
    outward = torch.nn.functional.normalize(mug - embeddings.fast[120:400].mean(0), dim=0)
    embeddings.fast[0] = mug + 40 * radius * outward
    gaussians.means[0] = 0.0
    config = ClusterConfig(noise_spread=60)
    assert cluster(embeddings, gaussians, ROOM, config).labels[0] >= 0
    apart = cluster(embeddings, gaussians, ROOM, config, constraints=linked([], [(0, 60)]))
    assert apart.labels[0] == -1
    together = cluster(
        embeddings, gaussians, ROOM, replace(config, noise_spread=0), constraints=linked([(0, 60)], [])
    )
    assert together.labels[0] == together.labels[60] >= 0
    assert together.scores[[0, 60]].tolist() == [1, 1]


def test_a_linked_cluster_is_kept_though_it_is_strewn() -> None:
    gaussians, embeddings, truth = scene(THREE)
    borders = np.flatnonzero(truth >= 0)[::16]
    embeddings.fast[borders] = 3.0 + 0.03 * torch.randn(25, 8, generator=torch.Generator().manual_seed(1))
    small = ClusterConfig(min_size=15)
    kept = cluster(
        embeddings, gaussians, ROOM, small, constraints=linked([(int(borders[0]), int(borders[1]))], [])
    )
    assert len(kept) == 4


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
        ("min_size", 1.0, "cluster.min_size: wanted 2 or more and finite, got 1.0"),
        ("noise_spread", -1.0, "cluster.noise_spread: wanted 0 or more and finite, got -1.0"),
        ("epsilon", float("nan"), "cluster.epsilon: wanted 0 or more and finite, got nan"),
        ("granularity", -0.1, "cluster.granularity: wanted 0 to 1, got -0.1"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object, said: str) -> None:
    gaussians, embeddings, _ = scene(THREE)
    with pytest.raises(ConfigError, match=re.escape(said)):
        cluster(embeddings, gaussians, ROOM, ClusterConfig(**{field: value}))  # type: ignore[arg-type]
