"""What the segments agree on: against brute force, and on objects that the embedding does not tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import BOOK, MUG, ROOM, Draw, evidence_of, scene

from gs_lift import _native
from gs_lift.clustering import ClusterConfig, cluster, consensus, recut_instances
from gs_lift.clustering.consensus import (
    Joins,
    drop_light,
    granularity_beyond,
    halves,
    join_nodes,
    nodes_of,
    wanted_agreement,
)
from gs_lift.clustering.constraints import Constraints, Link
from gs_lift.clustering.instances import things_of
from gs_lift.clustering.regions import Regions
from gs_lift.segmentation import Evidence, Instances
from gs_lift.sparse import Sparse

PAIR = [((0.0, 0, 0), 0, MUG, 150), ((0.13, 0, 0), 1, BOOK, 150)]
"""Two balls that touch, each with an embedding of its own."""
ONE_CODE = [((0.0, 0, 0), 0, MUG, 150), ((0.13, 0, 0), 0, BOOK, 150)]
"""The same with one embedding: to HDBSCAN they are one."""


def found(instances: Instances, truth: np.ndarray) -> list[float]:
    """Of each true object the IoU of the instance that has most of it, in Gaussians."""
    labels = instances.labels.numpy()
    result = []
    for one in np.unique(truth[truth >= 0]):
        best = np.bincount(labels[truth == one] + 1, minlength=2)[1:].argmax()
        result.append(((labels == best) & (truth == one)).sum() / ((labels == best) | (truth == one)).sum())
    return result


def random_problem(seed: int, nodes: int = 14, views: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X [n 3V], inside and outside [n V]; in every view three segments."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet([0.3] * 4, (nodes, views)) * rng.uniform(0, 1, (nodes, views, 1))
    share[share < 0.1] = 0
    return share[:, :, :3].reshape(nodes, -1), share[:, :, :3].sum(axis=2), share[:, :, 3]


TRUST, TOLD = 0.8, 9
"""The last two of five views are other methods' clusters."""


def agglomerated(
    x: np.ndarray, inside: np.ndarray, outside: np.ndarray, least: float, threads: int = 1
) -> tuple[list, list]:
    segments, shown = Sparse(x.T), Sparse((inside + outside).T)
    view, node = shown.tocoo().coords
    pairs, agreement = _native.agglomerate(
        len(x),
        segments.indptr.astype(np.int64),
        segments.indices.astype(np.int32),
        segments.data,
        TOLD,
        shown.indptr.astype(np.int64),
        shown.indices.astype(np.int32),
        inside[node, view].astype(np.float32),
        outside[node, view].astype(np.float32),
        0.3,
        0.5,
        least,
        TRUST,
        threads,
    )
    return pairs.tolist(), agreement.tolist()


@pytest.mark.parametrize(("seed", "nodes"), [*((seed, 14) for seed in range(6)), (6, 70)])
@pytest.mark.parametrize("least", [0.01, 0.3])
def test_the_two_that_agree_most_join_as_in_brute_force(seed: int, nodes: int, least: float) -> None:
    x, inside, outside = random_problem(seed, nodes)  # of 70, most have more partners than a group remembers
    rows = {node: (x[node], inside[node], outside[node], 1) for node in range(len(x))}
    expected: list[list[int]] = []
    agreements: list[float] = []
    while True:

        def agreement(a: int, b: int) -> float:
            (xa, ia, oa, na), (xb, ib, ob, nb) = rows[a], rows[b]
            told = xa[TOLD:] @ xb[TOLD:]
            same = told + xa[:TOLD] @ xb[:TOLD] * (1 + TRUST * told / (na * nb))
            return same / (ia @ ib + 0.3 * (ia @ ob + oa @ ib) + 0.5)

        best = max(((agreement(a, b), -a, -b) for a in rows for b in rows if a < b), default=(0.0, 0, 0))
        if best[0] < least:
            break
        a, b = -best[1], -best[2]
        expected.append([a, b])
        agreements.append(best[0])
        one, other = rows.pop(a), rows.pop(b)
        rows[len(x) + len(expected) - 1] = tuple(left + right for left, right in zip(one, other, strict=True))
    pairs, found_agreements = agglomerated(x, inside, outside, least)
    assert pairs == expected
    assert agglomerated(x, inside, outside, least, threads=3) == (pairs, found_agreements)
    assert found_agreements == pytest.approx(agreements, rel=1e-5)
    assert len(pairs) > (3 if least < 0.1 else 0)


def test_of_equals_the_first_join_first() -> None:
    x = np.ones((4, 1))
    pairs, agreement = agglomerated(x, x, 0 * x, 0.0)
    # Of the sums 2 . 1 and 1 . 1 the larger has more views behind it.
    assert pairs == [[0, 1], [2, 4], [3, 5]]
    assert agreement == pytest.approx([1 / 1.5, 2 / 2.5, 3 / 3.5])


def test_agglomerate_refuses_what_does_not_fit() -> None:
    starts, nodes, ones = np.array([0, 2]), np.array([0, 1], dtype=np.int32), np.ones(2, dtype=np.float32)
    good = [2, starts, nodes, np.ones(2), 1, starts, nodes, ones, ones, 0.3, 0.5, 0.1, 0.0, 1]
    assert _native.agglomerate(*good)[0].tolist() == [[0, 1]]
    for place, wrong, said in (
        (1, np.array([0, 3]), "segments: offsets"),
        (5, np.array([1, 2]), "views: offsets"),
        (0, 1, "segments: a node is out of range"),
        (6, nodes[::-1].copy(), "views: .* nodes do not rise"),
        (8, ones[:1], "as many values outside"),
    ):
        with pytest.raises(ValueError, match=said):
            _native.agglomerate(*good[:place], wrong, *good[place + 1 :])


@pytest.mark.parametrize("count", [1, 2, 20, 21, 1000])
def test_halves_are_small_and_hold_everything(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 3))
    group = halves(points, 20)
    sizes = np.bincount(group)
    assert sizes.sum() == count
    assert sizes.max() <= 20
    assert sizes.min() >= min(count, 10)


def test_halves_of_equal_points_end() -> None:
    assert np.bincount(halves(np.zeros((70, 2)), 20)).max() <= 20


def test_halving_some_at_a_time_gives_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(4).normal(size=(1000, 5))
    at_once = halves(points, 20)
    for some in (1, 30, 600):
        monkeypatch.setattr(consensus, "AT_ONCE", some)
        assert np.array_equal(halves(points, 20), at_once)


def test_nodes_do_not_mix_objects() -> None:
    gaussians, embeddings, truth = scene(PAIR)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    node = nodes_of(things)
    assert node.max() + 1 >= len(things) / 20
    for members in (truth[things.rows][node == one] for one in range(node.max() + 1)):
        assert len(np.unique(members)) == 1


def test_what_every_view_parts_is_two_objects_though_the_embedding_knows_one() -> None:
    gaussians, embeddings, truth = scene(ONE_CODE)
    assert len(cluster(embeddings, gaussians, ROOM)) == 1
    embeddings.evidence = evidence_of(truth, 12)
    instances = cluster(embeddings, gaussians, ROOM)
    assert len(instances) == 2
    assert min(found(instances, truth)) > 0.95
    assert sorted(instances.classes.tolist()) == [MUG, BOOK]


def test_an_object_that_few_views_segment_is_found_though_its_embedding_is_strewn() -> None:
    gaussians, embeddings, truth = scene(PAIR)
    rng = np.random.default_rng(0)
    embeddings.fast[:150] = torch.from_numpy(rng.normal(size=(150, 8))).float()
    assert found(cluster(embeddings, gaussians, ROOM), truth)[0] < 0.6

    def missed_mostly(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((truth == 0) & (view % 5 > 0), -1, truth)

    embeddings.evidence = evidence_of(truth, 40, missed_mostly)
    assert min(found(cluster(embeddings, gaussians, ROOM), truth)) > 0.9


def test_front_and_back_that_no_view_shows_together_are_one_by_the_embedding() -> None:
    gaussians, embeddings, truth = scene([((x, 0.0, 0.0), int(x), MUG, 150) for x in (0.0, 0.2, 1.0)])
    sides = truth.copy()
    truth = np.where(truth > 0, truth - 1, truth)

    def one_side(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where(sides == view % 2, -2, truth)

    embeddings.evidence = evidence_of(truth, 20, one_side)
    hidden = np.repeat(
        embeddings.evidence.kind.numpy() == Evidence.UNKNOWN, np.diff(embeddings.evidence.indptr)
    )
    embeddings.evidence.values[torch.from_numpy(hidden)] = 0
    assert min(found(cluster(embeddings, gaussians, ROOM), truth)) > 0.95
    alone = cluster(embeddings, gaussians, ROOM, ClusterConfig(embedding_views=0))
    assert found(alone, truth)[0] < 0.6


def test_consensus_can_be_left_out() -> None:
    gaussians, embeddings, truth = scene(ONE_CODE)
    without = cluster(embeddings, gaussians, ROOM)
    embeddings.evidence = evidence_of(truth, 12)
    alone = cluster(embeddings, gaussians, ROOM, ClusterConfig(consensus=False))
    assert torch.equal(alone.labels, without.labels)
    assert torch.equal(alone.scores, without.scores)


def halves_in(share: float, views: int) -> Draw:
    """Draws object 0 as two segments, left and right, in that share of the views."""

    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        right = (np.arange(len(truth)) >= 75) & (truth == 0)
        return np.where(right & (view < share * views), 9, truth)

    return draw


def test_a_finer_cut_parts_what_many_views_part_and_back() -> None:
    gaussians, embeddings, truth = scene(PAIR)
    order = np.argsort(gaussians.means[:150, 1].numpy(), kind="stable")
    for tensor in (gaussians.means, embeddings.fast):
        tensor[:150] = tensor[:150][torch.from_numpy(order)]  # the right half lies to the right
    embeddings.evidence = evidence_of(truth, 20, halves_in(0.75, 20))
    config = ClusterConfig()
    made = cluster(embeddings, gaussians, ROOM, config)
    assert len(made) == 2
    finer = recut_instances(made, embeddings, gaussians, ROOM, replace(config, granularity=0.95))
    assert len(finer) == 3
    split = finer.labels.numpy()[:150]
    assert (split[:75] == np.bincount(split[:75]).argmax()).mean() > 0.85
    assert (split[75:] == np.bincount(split[75:]).argmax()).mean() > 0.85
    parts = made.parts
    assert parts is not None
    mug = int(made.labels[0])
    assert parts.instance.tolist() == [mug, mug]
    at = parts.granularity.tolist()
    assert at[0] == at[1]
    for off, count in ((-0.01, 2), (0.01, 3)):
        cut = replace(config, granularity=at[0] + off)
        assert len(recut_instances(made, embeddings, gaussians, ROOM, cut)) == count


@pytest.mark.parametrize(
    "change",
    [{"granularity": 0.2}, {"granularity": 0.9}, {"min_size": 60.0}, {"embedding_views": 6.0}, {"votes": 0},
     {"consensus": False}, {"split_gap": 0.0}],
    ids=str,
)  # fmt: skip
def test_a_recut_is_what_clustering_anew_would_give(change: dict[str, object]) -> None:
    gaussians, embeddings, truth = scene([*PAIR, ((1.0, 1, 0), 2, MUG, 60)], seed=2)
    embeddings.evidence = evidence_of(truth, 20, halves_in(0.6, 20))
    config = ClusterConfig()
    made = cluster(embeddings, gaussians, ROOM, config)
    other = replace(config, **change)
    again = recut_instances(made, embeddings, gaussians, ROOM, other)
    anew = cluster(embeddings, gaussians, ROOM, other)
    back = recut_instances(again, embeddings, gaussians, ROOM, config)
    for one, wanted in ((again, anew), (back, made)):
        assert torch.equal(one.labels, wanted.labels)
        assert torch.equal(one.scores, wanted.scores)
        assert one.parts is not None
        assert wanted.parts is not None
        assert torch.equal(one.parts.labels, wanted.parts.labels)


def test_constraints_have_the_last_word() -> None:
    gaussians, embeddings, truth = scene([*PAIR, ((1.0, 1, 0), 2, MUG, 60)])
    embeddings.evidence = evidence_of(truth, 20)
    apart = Constraints(cannot=(Link(3, 140, "cannot"),))
    labels = cluster(embeddings, gaussians, ROOM, constraints=apart).labels
    assert labels[3] >= 0
    assert labels[140] >= 0
    assert labels[3] != labels[140]
    together = cluster(embeddings, gaussians, ROOM, constraints=Constraints(must=(Link(3, 310, "must"),)))
    assert len(together) == 2
    assert together.labels[3] == together.labels[310]
    assert together.scores[3] == together.scores[310] == 1


def test_nothing_seen_gives_nothing() -> None:
    gaussians, embeddings, truth = scene([], floor=30)
    embeddings.evidence = evidence_of(truth, 3)
    assert len(cluster(embeddings, gaussians, ROOM)) == 0
    gaussians, embeddings, truth = scene(PAIR)
    embeddings.evidence = evidence_of(truth, 4, lambda view, truth: np.full(len(truth), -2))
    assert len(cluster(embeddings, gaussians, ROOM)) == 0


def test_evidence_without_a_single_view_gives_nothing() -> None:
    gaussians, embeddings, truth = scene(PAIR)
    evidence = evidence_of(truth, 0)
    assert len(cluster(replace(embeddings, evidence=evidence), gaussians, ROOM)) == 0


def test_the_number_of_threads_changes_nothing() -> None:
    gaussians, embeddings, truth = scene(PAIR)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    regions = Regions.of(evidence_of(truth, 8), things.rows, things.count)
    clusters = np.zeros(len(things), dtype=np.int64)
    before = torch.get_num_threads()
    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(join_nodes(regions, things, clusters, 2.0))
    torch.set_num_threads(before)
    for one, other in zip(vars(made[0]).values(), vars(made[1]).values(), strict=True):
        assert np.array_equal(one, other)


def test_granularity_and_agreement_are_each_others_inverse() -> None:
    assert [wanted_agreement(g) for g in (0, 0.5, 1)] == pytest.approx([1 / 12, 1 / 4, 3 / 4])
    shares = np.linspace(0, 1, 7)
    assert granularity_beyond(np.array([wanted_agreement(g) for g in shares])) == pytest.approx(shares)
    assert granularity_beyond(np.array([-np.inf])).tolist() == [0]


def test_a_join_holds_no_more_than_those_that_it_stands_on() -> None:
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    joins = Joins(
        np.array([0, 0, 1, 2, 3]),
        np.zeros(5, dtype=np.int64),
        pairs,
        np.array([0.9, 0.2, 0.5]),
        np.array(2.0),
    )
    assert joins.holds[4:].tolist() == [0.9, 0.2, 0.2]
    assert joins.cut(0.95).tolist() == [0, 0, 1, 2, 3]
    assert joins.cut(0.5).tolist() == [4, 4, 4, 2, 3]
    assert joins.cut(0.1).tolist() == [6, 6, 6, 6, 6]


def test_light_groups_are_dropped_and_the_rest_numbered() -> None:
    gaussians, embeddings, _ = scene(PAIR)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    labels = np.where(np.arange(len(things)) < 5, 7, np.where(np.arange(len(things)) < 100, 3, 9))
    kept = drop_light(things, labels, 20.0)
    assert kept[:5].tolist() == [-1] * 5
    assert np.unique(kept[5:100]).tolist() == [0]
    assert np.unique(kept[100:]).tolist() == [1]
