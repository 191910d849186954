"""Protocols: what the released metric forgives and the strict one does not, by hand; and that counts say it all."""

from functools import partial

import numpy as np
import pytest
import torch

from gs_lift.metrics import Confusion, Overlaps, panoptic_pixels, pq_scene
from gs_lift.protocols import PROTOCOLS, PanopticScores, Protocol
from gs_lift.segmentation import VOID, Classes, Segments

approx = pytest.approx
CLASSES = Classes(("floor", "chair", "cup"), (False, True, True))
RELEASED, STRICT = PROTOCOLS["released"], PROTOCOLS["strict"]


def segments(semantic: list[list[int]], instance: list[list[int]] | None = None) -> Segments:
    classes = torch.tensor(semantic)
    ids = torch.where(classes > 0, 0, -1) if instance is None else torch.tensor(instance)
    return Segments(ids, classes, torch.ones(classes.shape))


def rows(*runs: tuple[int, int]) -> list[list[int]]:
    """One row of pixels, from runs (class, how many)."""
    return [[semantic for semantic, count in runs for _ in range(count)]]


def score(protocol: Protocol, pred: Segments, truth: Segments) -> PanopticScores:
    return protocol.scores([protocol.overlaps(pred, truth)], CLASSES)


def random_image(rng: np.random.Generator) -> Segments:
    semantic = torch.from_numpy(rng.integers(-1, 3, (9, 7)))
    return Segments(torch.from_numpy(rng.integers(-1, 4, (9, 7))), semantic, torch.ones(9, 7))


@pytest.mark.parametrize("seed", range(4))
def test_counted_overlaps_score_as_their_pixels_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [(random_image(rng), random_image(rng)) for _ in range(3)]
    preds, truths = zip(*images, strict=True)
    scene = Overlaps.joined([Overlaps.of(*image) for image in images])
    assert int(scene.counts.sum()) == 3 * 9 * 7
    judge = partial(pq_scene, things=[1, 2], stuff=[0], minimum_share=0.0)
    by_pixels = judge(panoptic_pixels(preds), panoptic_pixels(truths))
    assert judge(scene.pred, scene.truth, counts=scene.counts) == by_pixels
    pixels, counted = Confusion(3), Confusion(3)
    pixels.update(panoptic_pixels(preds)[:, 0], panoptic_pixels(truths)[:, 0])
    counted.update(scene.pred[:, 0], scene.truth[:, 0], scene.counts)
    assert (pixels.counts == counted.counts).all()


def test_an_image_has_one_row_for_each_pair_of_segments() -> None:
    overlaps = Overlaps.of(segments(rows((0, 3), (1, 2))), segments(rows((0, 4), (1, 1))))
    found = {
        (*pred, *true): count
        for pred, true, count in zip(
            overlaps.pred.tolist(), overlaps.truth.tolist(), overlaps.counts.tolist(), strict=True
        )
    }
    assert found == {(0, -1, 0, -1): 3, (1, 0, 0, -1): 1, (1, 0, 1, 0): 1}


def test_huge_ids_are_counted_as_small_ones() -> None:
    rng = np.random.default_rng(0)
    image = random_image(rng)
    huge = Segments(image.instance * 2**40, image.semantic, image.confidence)
    small = Overlaps.of(image, image)
    large = Overlaps.of(huge, huge)
    assert sorted(large.counts.tolist()) == sorted(small.counts.tolist())
    assert {(kind, one // 2**40) for kind, one in large.pred.tolist()} == {
        tuple(row) for row in small.pred.tolist()
    }


def test_no_images_have_no_figures() -> None:
    scores = STRICT.scores([], CLASSES)
    assert (scores.pq_scene, scores.miou, scores.objects_true, scores.per_class) == (None, None, None, ())


def test_a_class_predicted_a_little_is_forgiven_by_the_released_protocol_alone() -> None:
    truth = segments(rows((0, 800), (1, 200)))
    slip = segments(rows((0, 798), (2, 2), (1, 200)))  # .2 % cup
    assert score(RELEASED, slip, truth).pq_scene == approx(1.0)
    assert score(STRICT, slip, truth).pq_scene == approx((798 / 800 + 1 + 0) / 3)
    assert score(STRICT, slip, truth).miou == approx((798 / 800 + 1 + 0) / 3)


def test_an_object_left_void_is_missed_by_the_strict_protocol_alone() -> None:
    truth = segments(rows((0, 50), (1, 30), (2, 20)))
    silent = segments(rows((0, 50), (VOID, 30), (2, 20)))
    assert score(RELEASED, silent, truth).per_class[1].false_negatives == 0
    assert score(STRICT, silent, truth).per_class[1].false_negatives == 1
    half = segments(rows((0, 50), (1, 16), (VOID, 14), (2, 20)))
    # Released: the union leaves the void out, 16/16. Strict: 16/30.
    assert score(RELEASED, half, truth).per_class[1].pq == approx(1.0)
    assert score(STRICT, half, truth).per_class[1].pq == approx(16 / 30)


def test_the_released_protocol_looks_at_512_by_512_pixels() -> None:
    # 1024 rows of which every second is a chair's: nearest neighbours at .5 + 2k see the odd ones alone.
    stripes = torch.arange(1024)[:, None] % 2
    image = Segments(torch.where(stripes > 0, 0, -1), stripes, torch.ones(1024, 1))
    overlaps = RELEASED.overlaps(image, image)
    assert int(overlaps.counts.sum()) == 512 * 512
    assert overlaps.truth[:, 0].tolist() == [1]
    assert int(STRICT.overlaps(image, image).counts.sum()) == 1024


def test_a_prediction_of_another_size_takes_the_truths() -> None:
    truth, small = segments([[0, 0, 1, 1], [0, 0, 1, 1]]), segments([[0, 1]])
    assert score(STRICT, small, truth).pq_scene == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_calls_a_perfect_prediction_perfect(protocol: str) -> None:
    truth = segments([[0, 0, 1, 1], [2, 2, 1, 1]], [[-1, -1, 4, 4], [9, 9, 4, 4]])
    scores = score(PROTOCOLS[protocol], truth, truth)
    assert (scores.pq_scene, scores.miou, scores.objects_true, scores.objects_found) == (1, 1, 2, 2)
