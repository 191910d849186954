"""Which pixels a step sees."""

import pytest
import torch
from torch import Generator

from gs_lift.lifting.sampling import (
    ThingPixels,
    candidates,
    labelled_pixels,
    sample,
    sample_balanced,
    thing_pixels,
)
from gs_lift.segmentation import VOID, Classes, Segments

CLASSES = Classes(("floor", "mug"), (False, True))


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def things_of(areas: list[int]) -> ThingPixels:
    """One segment after the other, of the given areas."""
    segment = torch.repeat_interleave(torch.arange(len(areas)), torch.tensor(areas))
    offsets = torch.tensor([0, *areas]).cumsum(0)
    return ThingPixels(torch.arange(len(segment)), segment, torch.ones(len(segment)), offsets)


def segments_of(instance: list[list[int]], semantic: list[list[int]]) -> Segments:
    confidence = torch.arange(len(instance) * len(instance[0])).reshape(len(instance), -1) / 10
    return Segments(torch.tensor(instance), torch.tensor(semantic), confidence)


@pytest.mark.parametrize(("total", "count"), [(100, 200), (100, 100), (500, 100), (5000, 100), (900, 1)])
def test_a_sample_has_no_pixel_twice_and_its_size(total: int, count: int) -> None:
    drawn = sample(total, count, generator(0))
    assert len(drawn) == min(total, count)
    assert len(drawn.unique()) == len(drawn)
    assert drawn.min() >= 0
    assert drawn.max() < total


@pytest.mark.parametrize(("total", "count"), [(100, 200), (5000, 100)])
def test_a_sample_is_in_random_order_also_when_nothing_is_left_out(total: int, count: int) -> None:
    # The mean position in each half of 400 samples: in image order they would be 1/4 and 3/4.
    halves = torch.stack(
        [sample(total, count, generator(seed)).double()[:100].reshape(2, -1).mean(1) for seed in range(400)]
    )
    assert halves.mean(dim=0).tolist() == pytest.approx([(total - 1) / 2] * 2, rel=0.01)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_says_how_often_a_segment_is_drawn(balance: float) -> None:
    areas = [10_000, 2_500, 40_000]
    things = things_of(areas)
    counts = torch.zeros(3)
    for seed in range(50):
        drawn = sample_balanced(things, 200, balance, generator(seed))
        assert len(drawn) == len(drawn.unique()) == 200
        counts += torch.bincount(things.segment[drawn], minlength=3)
    wanted = torch.tensor(areas) ** (1 - balance)
    assert (counts / counts.sum()).tolist() == pytest.approx((wanted / wanted.sum()).tolist(), abs=0.02)


def test_a_small_segment_gives_all_its_pixels_to_a_balanced_sample() -> None:
    things = things_of([5, 5000])
    drawn = sample_balanced(things, 200, 1.0, generator(0))
    # Half of the draws fall on the small segment; what they repeat is lost.
    assert torch.bincount(things.segment[drawn])[0] == 5
    assert 150 < len(drawn) <= 200


def test_thing_pixels_are_those_in_segments_of_things_ordered_by_segment() -> None:
    segments = segments_of([[7, -1, 3], [7, 3, 9]], [[1, 0, 1], [1, VOID, 0]])
    things = thing_pixels(segments, torch.arange(6), CLASSES)
    # Pixel 5 lies in segment 9, but is floor; pixel 4 is of no known class, but of a segment.
    assert things.rows.tolist() == [2, 4, 0, 3]
    assert things.segment.tolist() == [0, 0, 1, 1]
    assert things.offsets.tolist() == [0, 2, 4]
    assert things.confidence.tolist() == pytest.approx([0.2, 0.4, 0.0, 0.3])


def test_rows_count_within_the_candidates() -> None:
    segments = segments_of([[7, -1, 3], [7, 3, 9]], [[1, 0, 1], [1, VOID, 0]])
    chosen = torch.tensor([1, 2, 3])
    assert thing_pixels(segments, chosen, CLASSES).rows.tolist() == [1, 2]
    assert labelled_pixels(segments, chosen).classes.tolist() == [0, 1, 1]


def test_void_pixels_are_not_labelled() -> None:
    labelled = labelled_pixels(segments_of([[-1, -1]], [[VOID, 0]]), torch.arange(2))
    assert labelled.rows.tolist() == [1]


def test_a_view_without_segments_has_no_thing_pixels() -> None:
    things = thing_pixels(segments_of([[-1, -1]], [[0, 0]]), torch.arange(2), CLASSES)
    assert len(things) == 0
    assert sample_balanced(things, 10, 1.0, generator(0)).tolist() == []


def test_candidates_are_all_pixels_or_a_random_few() -> None:
    assert candidates(3, 4, 12, generator(0)).tolist() == list(range(12))
    few = candidates(30, 40, 100, generator(0))
    assert len(few.unique()) == 100
    assert torch.equal(few, few.sort().values)
