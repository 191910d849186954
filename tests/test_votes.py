"""Each Gaussian's vote, on made-up views that see every Gaussian with a weight of about 2 pixels."""

import numpy as np
import pytest
from balls import MUG, ROOM, Draw, evidence_of, scene

from gs_lift.clustering import ClusterConfig, cluster
from gs_lift.clustering.instances import things_of
from gs_lift.clustering.regions import Regions
from gs_lift.clustering.votes import KEEP, confidence, detections, drop_undetected, match, vote

TWO = [((0.0, 0, 0), 0, MUG, 100), ((1.0, 0, 0), 1, MUG, 100)]


def regions_of(views: int, draw: Draw | None = None) -> tuple[Regions, np.ndarray]:
    """Of two balls; and the true label of each of their Gaussians."""
    gaussians, embeddings, truth = scene(TWO)
    things = things_of(embeddings, gaussians, ROOM, ClusterConfig())
    assert len(things) == 200
    return Regions.of(evidence_of(truth, views, draw), things.rows, things.count), truth[things.rows]


def test_segments_match_by_iou() -> None:
    regions, truth = regions_of(2)
    matched, detected = match(regions, np.where(truth == 0, 1, 0), 2)
    assert matched.tolist() == [1, 0, 1, 0]
    assert detected.all()
    third = np.where((truth == 0) & (np.arange(200) >= 25), -1, truth)  # a quarter of ball 0
    matched, detected = match(regions, third, 2)
    assert matched.tolist() == [-1, 1, -1, 1]
    assert detected.tolist() == [[False, True]] * 2


def test_a_stray_goes_where_its_segments_say() -> None:
    regions, truth = regions_of(4)
    labels = truth.copy()
    labels[:10], labels[100:105] = 1, -1
    found, share = vote(regions, labels, 2)
    assert np.array_equal(found, truth)
    assert share == pytest.approx(1)


def test_without_rounds_labels_stay() -> None:
    regions, truth = regions_of(2)
    labels = np.where(np.arange(200) < 10, 1, truth)
    assert np.array_equal(vote(regions, labels, 0)[0], labels)


@pytest.mark.parametrize(("wrong", "moves"), [(2, False), (4, True)])
def test_a_gaussian_changes_only_by_a_clear_majority(wrong: int, moves: bool) -> None:
    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((np.arange(len(truth)) == 3) & (view < wrong), 1, truth)

    regions, truth = regions_of(4, draw)  # two of four is a tie, but for the weights
    found, share = vote(regions, truth, 1)
    assert found[3] == (1 if moves else 0)
    assert share[3] == pytest.approx(1.0 if moves else 0.5, abs=0.25)


def test_stuff_drives_out_where_views_detect_the_rest() -> None:
    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((np.arange(len(truth)) < 10) & (view > 0), -1, truth)

    regions, truth = regions_of(8, draw)
    found, share = vote(regions, truth, 1)
    assert (found[:10] == -1).all()
    assert (share[:10] == 0).all()
    assert np.array_equal(found[10:], truth[10:])


def test_an_object_that_most_views_missed_stays() -> None:
    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((truth == 0) & (view > 1), -1, truth)

    regions, truth = regions_of(10, draw)  # segmented in 2 of 10: 2 / (2 + .15 * 8) = .63
    found, share = vote(regions, truth, 2)
    assert np.array_equal(found, truth)
    assert np.median(share[truth == 0]) == pytest.approx(2 / 3.2, abs=0.05)
    assert share[truth == 1] == pytest.approx(1)


def test_an_instance_that_no_segment_matches_goes() -> None:
    regions, truth = regions_of(3, lambda view, truth: np.where(truth == 0, -1, truth))
    found, _ = vote(regions, truth, 1)
    assert (found[truth == 0] == -1).all()
    assert (found[truth == 1] == 0).all()  # without gaps


def test_nobody_votes_for_nothing() -> None:
    regions, truth = regions_of(2)
    nobody = np.full(len(truth), -1)
    found, share = vote(regions, nobody, 2)
    assert np.array_equal(found, nobody)
    assert not share.any()


def test_confidence_rises_with_the_share_and_is_0_for_none() -> None:
    share = np.linspace(0, 1, 21)
    sure = confidence(share)
    assert sure[0] == 0
    assert (np.diff(sure) > 0).all()
    assert 0 < confidence(np.array([KEEP]))[0] < 0.25
    assert 0.95 < sure[-1] < 1


def test_views_that_see_and_detect_an_object_are_counted() -> None:
    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((truth == 0) & (view > 1), -1, truth)

    gaussians, embeddings, truth = scene(TWO)
    embeddings.evidence = evidence_of(truth, 10, draw)
    instances = cluster(embeddings, gaussians, ROOM)
    missed, found = int(instances.labels[5]), int(instances.labels[150])
    seen, detected = detections(instances, embeddings.evidence)
    assert seen == [10, 10]
    assert (detected[missed], detected[found]) == (2, 10)
    assert detections(instances, embeddings.evidence, minimum_pixels=1e6) == ([0, 0], [0, 0])


@pytest.mark.parametrize(
    ("views", "detected", "kept"), [(40, 2, False), (40, 3, True), (6, 1, True), (10, 1, False)]
)
def test_what_fewer_views_detect_is_dropped(views: int, detected: int, kept: bool) -> None:
    def draw(view: int, truth: np.ndarray) -> np.ndarray:
        return np.where((truth == 0) & (view >= detected), -1, truth)

    regions, truth = regions_of(views, draw)
    left = drop_undetected(regions, truth, 3)
    assert ((left[truth == 0] >= 0) == kept).all()
    assert (left[truth == 1] == (1 if kept else 0)).all()
    assert np.array_equal(drop_undetected(regions, truth, 0), truth)
