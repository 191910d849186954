"""Must-link and cannot-link: what is read, what holds after, and what is refused."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gs_lift.clustering.constraints import Constraints, Link, link, read_constraints, rejoin
from gs_lift.clustering.density import recut, spanning_tree
from gs_lift.errors import ConstraintError

EMPTY = {"gaussians": [], "instances": []}


def written(folder: Path, content: object) -> Path:
    path = folder / "constraints.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pairs(must: list[tuple[int, int]], cannot: list[tuple[int, int]]) -> Constraints:
    return Constraints(
        tuple(Link(a, b, f"must_link gaussians [{a}, {b}]") for a, b in must),
        tuple(Link(a, b, f"cannot_link gaussians [{a}, {b}]") for a, b in cannot),
    )


def three_blobs(seed: int = 0) -> np.ndarray:
    """60 points around each of three places."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(60, 4)) * 0.3 + 6 * np.eye(4)[i] for i in range(3)])


def linked(points: np.ndarray, constraints: Constraints) -> np.ndarray:
    tree = spanning_tree(points, min_samples=4, exact=True)
    labels = recut(tree, min_cluster_size=20).labels
    return link(tree, np.arange(len(points)), labels, constraints)


# ---- the file


def test_a_file_is_read_by_kind(tmp_path: Path) -> None:
    content = {
        "must_link": {"gaussians": [[1, 2]], "instances": [[3, 1]]},
        "cannot_link": {"gaussians": [[5, 6]]},
    }
    read = read_constraints(written(tmp_path, content))
    labels, scores = np.array([0, 0, 1, 1, 2, 2, -1]), np.array([0.2, 0.9, 0.5, 0.5, 0.1, 0.3, 0.0])
    resolved = read.resolve(7, labels, scores)
    assert [one.pair for one in resolved.must] == [(1, 2), (5, 1)]  # the most certain of instances 3 and 1
    assert [one.pair for one in resolved.cannot] == [(5, 6)]
    assert resolved.must[1].name == "must_link instances [3, 1]"


def test_either_half_may_be_missing(tmp_path: Path) -> None:
    read = read_constraints(written(tmp_path, {}))
    assert read.must_link == read.cannot_link == EMPTY
    assert not read.resolve(3, np.full(3, -1), np.zeros(3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ([], r"wanted an object with must_link and cannot_link, got \[\]"),
        ({"mustlink": {}}, "wanted an object with must_link and cannot_link"),
        ({"must_link": [[1, 2]]}, "must_link: wanted an object with gaussians and instances"),
        ({"must_link": {"points": []}}, "must_link: wanted an object with gaussians and instances"),
        ({"cannot_link": {"gaussians": 3}}, "cannot_link gaussians: wanted a list of pairs, got 3"),
        ({"cannot_link": {"gaussians": [[1, 2, 3]]}}, r"wanted pairs of whole numbers, got \[1, 2, 3\]"),
        ({"cannot_link": {"gaussians": [[1, 2.5]]}}, r"wanted pairs of whole numbers, got \[1, 2.5\]"),
        ({"cannot_link": {"gaussians": [[1, True]]}}, r"wanted pairs of whole numbers, got \[1, true\]"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        read_constraints(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match=r"nothing.json: no such file"):
        read_constraints(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"must_link": {"gaussians": [[0, 3]]}}, r"must_link gaussians \[0, 3\]: there are Gaussians 0 to 2"),
        ({"must_link": {"gaussians": [[-1, 1]]}}, "there are Gaussians 0 to 2"),
        (
            {"cannot_link": {"instances": [[1, 3]]}},
            r"cannot_link instances \[1, 3\]: there are instances 1 to 2",
        ),
        ({"cannot_link": {"instances": [[0, 1]]}}, "there are instances 1 to 2"),
    ],
)
def test_numbers_that_are_none_of_the_scenes_are_refused(tmp_path: Path, content: object, said: str) -> None:
    read = read_constraints(written(tmp_path, content))
    with pytest.raises(ConstraintError, match=said):
        read.resolve(3, np.array([0, 1, 1]), np.ones(3))


# ---- what holds


def test_without_constraints_nothing_changes() -> None:
    labels = linked(three_blobs(), Constraints())
    assert len(np.unique(labels[labels >= 0])) == 3


def test_what_holds_already_changes_nothing_though_a_cluster_hangs_together_by_noise() -> None:
    # Five points in a row, the middle one of no cluster: its neighbours are of one all the same.
    tree = spanning_tree(np.arange(5.0)[:, None], min_samples=1)
    labels = np.array([0, 0, -1, 0, 0])
    held = link(tree, np.arange(5), labels, pairs([(0, 1)], []))
    assert held.tolist() == [0, 0, -1, 0, 0]
    apart = link(tree, np.arange(5), labels, pairs([], [(0, 4)]))
    assert apart[0] == apart[1] != apart[3] == apart[4]


def test_must_link_makes_one_of_two_clusters() -> None:
    labels = linked(three_blobs(), pairs([(5, 65)], []))
    assert labels[5] == labels[65] != labels[125]
    assert len(np.unique(labels[labels >= 0])) == 2


def test_cannot_link_cuts_a_cluster_at_the_heaviest_edge_between_the_two() -> None:
    rng = np.random.default_rng(1)
    # Two halves that are one cluster beside a far one: the gap between them is where it must be cut.
    halves = [rng.normal(size=(50, 3)) * 0.2, rng.normal(size=(50, 3)) * 0.2 + [1.2, 0, 0]]
    points = np.concatenate([*halves, rng.normal(size=(80, 3)) * 0.2 + [40, 0, 0]])
    tree = spanning_tree(points, min_samples=4)
    labels = recut(tree, min_cluster_size=60).labels
    assert labels[10] == labels[70] >= 0
    apart = link(tree, np.arange(180), labels, pairs([], [(10, 70)]))
    assert apart[10] != apart[70]
    inside = labels[:100] >= 0
    assert len(np.unique(apart[:50][inside[:50]])) == 1
    assert len(np.unique(apart[50:100][inside[50:]])) == 1
    assert (apart[100:] == apart[100]).mean() > 0.9  # the other cluster stays whole


def test_a_gaussian_of_no_instance_joins_alone() -> None:
    points = np.concatenate([three_blobs(), [[30.0, 30, 30, 30]], [[-30.0, 30, 30, 30]]])
    labels = linked(points, pairs([(180, 5)], []))
    assert labels[180] == labels[5] >= 0
    assert labels[181] == -1
    both = linked(points, pairs([(180, 181)], []))
    assert both[180] == both[181] >= 0
    assert (both == both[180]).sum() == 2


def test_must_and_cannot_hold_together() -> None:
    # 5 with 65, 70 with 125, but not 5 with 125: the second blob is cut between 65 and 70.
    labels = linked(three_blobs(), pairs([(5, 65), (70, 125)], [(5, 125)]))
    assert labels[5] == labels[65]
    assert labels[70] == labels[125]
    assert labels[5] != labels[125]


@pytest.mark.parametrize("seed", range(12))
def test_random_constraints_hold_or_are_refused_with_reason(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = three_blobs(seed)
    must = [tuple(rng.choice(180, 2, replace=False).tolist()) for _ in range(6)]
    cannot = [tuple(rng.choice(180, 2, replace=False).tolist()) for _ in range(12)]
    group = list(range(180))
    for a, b in must * 6:  # until nothing moves: at most 6 links in a chain
        group[a] = group[b] = min(group[a], group[b])
    contradicts = any(group[a] == group[b] for a, b in cannot)
    if contradicts:
        with pytest.raises(ConstraintError, match="tie"):
            linked(points, pairs(must, cannot))
        return
    labels = linked(points, pairs(must, cannot))
    assert all(labels[a] == labels[b] >= 0 for a, b in must)
    assert all(labels[a] != labels[b] or labels[a] < 0 for a, b in cannot)


def test_what_something_else_cut_is_joined_again() -> None:
    labels = np.array([0, 0, 1, 1, -1, 2])
    rejoined = rejoin(np.array([10, 11, 12, 13, 14, 15]), labels, pairs([(11, 12), (14, 15)], []))
    assert rejoined.tolist() == [0, 0, 0, 0, 2, 2]


# ---- what cannot be


def test_a_contradiction_names_all_its_pairs() -> None:
    said = (
        r"impossible: cannot_link gaussians \[1, 130\], but must_link gaussians \[1, 70\], "
        r"must_link gaussians \[70, 130\] tie them together"
    )
    with pytest.raises(ConstraintError, match=said):
        linked(three_blobs(), pairs([(70, 130), (2, 3), (1, 70)], [(1, 130)]))


def test_a_long_contradiction_is_told_in_short() -> None:
    chain = [(i, i + 1) for i in range(170)]
    with pytest.raises(
        ConstraintError, match=r"\[3, 4\], 162 more, must_link gaussians \[166, 167\]"
    ) as refused:
        linked(three_blobs(), pairs(chain, [(0, 170)]))
    assert len(str(refused.value)) < 500


def test_equal_embeddings_cannot_be_told_apart() -> None:
    points = three_blobs()
    points[3] = points[4]
    with pytest.raises(
        ConstraintError, match=r"cannot_link gaussians \[3, 4\], but their embeddings are equal"
    ):
        linked(points, pairs([], [(3, 4)]))


def test_a_gaussian_is_no_other_than_itself() -> None:
    with pytest.raises(ConstraintError, match=r"\[3, 3\], but that is one Gaussian"):
        linked(three_blobs(), pairs([], [(3, 3)]))


def test_what_is_no_thing_can_be_linked_to_nothing_and_is_apart_from_all() -> None:
    points = three_blobs()
    tree = spanning_tree(points, min_samples=4)
    labels = recut(tree, min_cluster_size=20).labels
    rows = np.arange(180) + 1000  # Gaussians 0 to 999 are stuff
    with pytest.raises(ConstraintError, match="Gaussian 7 can belong to no instance"):
        link(tree, rows, labels, pairs([(7, 1005)], []))
    same = link(tree, rows, labels, pairs([], [(7, 1005)]))
    assert len(set(zip(same, labels, strict=True))) == len(set(same)) == len(set(labels))
    for one in combinations(range(0, 180, 20), 2):
        assert (same[one[0]] == same[one[1]]) == (labels[one[0]] == labels[one[1]])
