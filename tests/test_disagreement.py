"""Segments against lifted objects: each kind by hand, and all of it against loops over pixels."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pytest import approx

from gs_lift.disagreement import (
    AGREE,
    KINDS,
    MERGED,
    MISSED,
    NOTHING,
    SPLIT,
    SPURIOUS,
    Disagreement,
    disagreement,
)
from gs_lift.errors import SceneError
from gs_lift.segmentation import VOID, Classes, Segments

CLASSES = Classes(("stuff", "object"), (False, True))
_ = -1


def maps(
    ids: Sequence[Sequence[int]], *, semantic: object = None, confidence: object = 1.0, thing: int = 1
) -> Segments:
    """By the ids of its rows; where there is one, of class `thing`, else of class 0."""
    instance = torch.tensor(ids)
    classes = torch.where(instance >= 0, thing, 0) if semantic is None else torch.tensor(semantic)
    return Segments(instance, classes, torch.as_tensor(confidence).float().expand(instance.shape))


def exact(segments: Segments, lifted: Segments, classes: Classes = CLASSES) -> Disagreement:
    """Without borders."""
    return disagreement(segments, lifted, classes, border_px=0)


def shares(found: Disagreement) -> tuple[float, ...]:
    """merged, split, missed, spurious."""
    return tuple(found.shares.values())


# --- Each kind --------------------------------------------------------------------------------------------------------


def test_a_segment_is_merged_on_all_objects_but_its_main_one() -> None:
    found = exact(maps([[7] * 12]), maps([[4] * 6 + [9] * 4 + [5] * 2]))
    assert shares(found) == (6 / 12, 0, 0, 0)
    assert found.kind.tolist() == [[AGREE] * 6 + [MERGED] * 6]
    (one,) = found.concerns
    assert (one.kind, one.segments, one.objects) == ("merged", (7,), (4, 5, 9))
    assert one.share == approx(6 / 12)
    assert str(one) == "5+6+10 in one"


def test_what_a_segment_takes_of_another_object_is_merged_from_a_quarter_on() -> None:
    """8 pixels each; the first segment goes on over the second object."""
    lifted = maps([[0] * 8 + [1] * 8])
    assert shares(exact(maps([[5] * 10 + [6] * 6]), lifted)) == (2 / 16, 0, 0, 0)
    assert shares(exact(maps([[5] * 9 + [6] * 7]), lifted)) == (0, 1 / 16, 0, 0)


def test_an_object_is_split_at_all_segments_but_its_main_one() -> None:
    found = exact(maps([[3] * 2 + [8] * 5 + [4] * 3]), maps([[6] * 10]))
    assert shares(found) == (0, 5 / 10, 0, 0)
    assert found.kind.tolist() == [[SPLIT] * 2 + [AGREE] * 5 + [SPLIT] * 3]
    (one,) = found.concerns
    assert (one.segments, one.objects, str(one)) == ((8, 3, 4), (6,), "7 in 3")


def test_the_first_of_equals_is_the_main_one() -> None:
    assert exact(maps([[5, 5, 2, 2]]), maps([[0] * 4])).kind.tolist() == [[SPLIT, SPLIT, AGREE, AGREE]]
    assert exact(maps([[5] * 4]), maps([[3, 3, 1, 1]])).kind.tolist() == [[MERGED, MERGED, AGREE, AGREE]]


def test_the_main_segment_of_an_object_is_one_whose_main_object_it_is() -> None:
    """Segment 0 shows more of object 1 than segment 1 does, but is object 0's."""
    found = exact(maps([[0] * 16 + [1] * 4]), maps([[0] * 10 + [1] * 10]))
    assert found.kind.tolist() == [[AGREE] * 10 + [MERGED] * 6 + [AGREE] * 4]


def test_an_object_without_a_segment_is_missed() -> None:
    found = exact(maps([[_] * 4 + [2] * 5 + [_]]), maps([[1] * 4 + [0] * 5 + [_]]))
    assert shares(found) == (0, 0, 4 / 9, 0)
    assert found.kind.tolist() == [[MISSED] * 4 + [AGREE] * 5 + [NOTHING]]
    assert (found.pixels, found.objects) == (9, {0: 5, 1: 4})
    assert str(found.concerns[0]) == "2 missed"


def test_an_object_may_be_missed_in_part() -> None:
    (one,) = exact(maps([[_] * 4 + [2] * 6]), maps([[1] * 10])).concerns
    assert (one.segments, one.objects, str(one)) == ((2,), (1,), "2 missed in part")


def test_a_segment_without_an_object_is_spurious() -> None:
    found = exact(maps([[3] * 3 + [2] * 5]), maps([[_] * 3 + [0] * 5]))
    assert shares(found) == (0, 0, 0, 3 / 8)
    assert found.concerns[0].segments == (3,)
    assert str(found.concerns[0]) == "no object at 1,0"


def test_a_segment_that_mostly_shows_nothing_has_no_main_object() -> None:
    """2 of its 12 pixels lie on an object: under a quarter of it, and of the object."""
    found = exact(maps([[3] * 12 + [2] * 18]), maps([[_] * 10 + [0] * 20]))
    assert found.kind.tolist() == [[SPURIOUS] * 10 + [SPLIT] * 2 + [AGREE] * 18]


def test_concerns_come_by_their_share() -> None:
    found = exact(maps([[_] * 3 + [1] * 6 + [2] * 2 + [3]]), maps([[0] * 3 + [1] * 8 + [_]]))
    assert [(one.kind, one.share) for one in found.concerns] == [
        ("missed", 3 / 12),
        ("split", 2 / 12),
        ("spurious", 1 / 12),
    ]
    assert [one.at for one in found.concerns] == [(1, 0), (9, 0), (11, 0)]


def test_a_concern_lies_where_its_pixels_are() -> None:
    """A ring has its middle outside."""
    ring = torch.ones(7, 7, dtype=torch.int64)
    ring[1:6, 1:6] = 0
    found = exact(maps(torch.where(ring == 1, -1, 4).tolist()), maps(ring.tolist()))
    assert [(one.kind, one.at) for one in found.concerns] == [("missed", (3, 0))]


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_what_is_lifted_with_little_confidence_counts_little() -> None:
    confidence = [[0.25] * 4 + [1.0] * 5 + [0.5]]
    found = exact(maps([[_] * 4 + [2] * 5 + [3]]), maps([[1] * 4 + [0] * 5 + [_]], confidence=confidence))
    assert shares(found) == (0, 0, 4 * 0.25 / 10, 0.5 / 10)
    assert found.weight.tolist() == confidence


def test_a_split_counts_with_the_unity_of_its_object() -> None:
    segments, lifted = maps([[1] * 3 + [2] * 2 + [3] * 5]), maps([[4] * 5 + [5] * 5])
    found = disagreement(segments, lifted, CLASSES, border_px=0, unity={4: 0.25})
    assert shares(found) == (0, 2 * 0.25 / 10, 0, 0)
    assert found.concerns[0].share == 2 * 0.25 / 10


# --- Borders ----------------------------------------------------------------------------------------------------------

OBJECT = maps([[_] * 3 + [0] * 6 + [_] * 3])


@pytest.mark.parametrize(("border_px", "spurious"), [(2, 0.0), (1, 1 / 8), (0, 2 / 8)])
def test_a_segment_may_go_beyond_its_object_a_little(border_px: float, spurious: float) -> None:
    wide = maps([[_] + [7] * 8 + [_] * 3])
    assert shares(disagreement(wide, OBJECT, CLASSES, border_px=border_px)) == (0, 0, 0, spurious)


@pytest.mark.parametrize(("border_px", "missed"), [(2, 0.0), (1, 1 / 6), (0, 2 / 6)])
def test_a_segment_may_end_before_its_object_does(border_px: float, missed: float) -> None:
    narrow = maps([[_] * 5 + [7] * 4 + [_] * 3])
    assert shares(disagreement(narrow, OBJECT, CLASSES, border_px=border_px)) == (0, 0, missed, 0)


def test_two_objects_may_share_their_border() -> None:
    segments, lifted = maps([[5] * 8 + [6] * 4]), maps([[0] * 6 + [1] * 6])
    assert shares(disagreement(segments, lifted, CLASSES, border_px=2)) == (0, 0, 0, 0)
    assert shares(exact(segments, lifted)) == (2 / 12, 0, 0, 0)


def test_borders_do_not_shrink_what_is_missed_as_a_whole() -> None:
    none = maps([[_] * 12])
    assert shares(disagreement(none, OBJECT, CLASSES)) == (0, 0, 6 / 6, 0)


def test_the_reach_of_borders_is_round() -> None:
    """A corner is sqrt(2) away."""
    segments, lifted = maps([[7, 7], [7, 7]]), maps([[_, 0], [0, 0]])
    corner = maps([[7, _], [_, 7]]), maps([[_, _], [_, 0]])
    assert shares(disagreement(segments, lifted, CLASSES, border_px=1)) == (0, 0, 0, 0)
    assert shares(disagreement(*corner, CLASSES, border_px=1)) == (0, 0, 0, 1 / 2)
    assert shares(disagreement(*corner, CLASSES, border_px=1.5)) == (0, 0, 0, 0)


# --- Classes, void, nothing -------------------------------------------------------------------------------------------


def test_a_segment_of_stuff_is_none_and_one_of_void_is_a_thing() -> None:
    segments = maps([[1, 1, 2, 2, _, _]], semantic=[[0, 0, VOID, VOID, VOID, 0]])
    found = exact(segments, maps([[0, 0, 1, 1, 2, 2]]))
    assert found.kind.tolist() == [[MISSED, MISSED, AGREE, AGREE, MISSED, MISSED]]


def test_a_lifted_pixel_of_stuff_or_void_is_no_object() -> None:
    lifted = maps([[0, 0, _, _]], semantic=[[0, 0, VOID, VOID]])
    assert exact(maps([[1, 1, 1, _]]), lifted).kind.tolist() == [[SPURIOUS] * 3 + [NOTHING]]


def test_of_22_classes_things_count_whatever_their_class() -> None:
    classes = Classes(tuple(f"class {i}" for i in range(22)), tuple(i >= 12 for i in range(22)))
    segments = maps([[0, 0, 1, 1, 2, 2]], semantic=[[21, 21, 11, 11, 12, 12]])
    lifted = maps([[5, 5, 6, 6, _, _]], semantic=[[12, 12, 20, 20, 3, 3]])
    assert exact(segments, lifted, classes).kind.tolist() == [[AGREE] * 2 + [MISSED] * 2 + [SPURIOUS] * 2]


def test_classes_without_stuff_are_all_things() -> None:
    found = exact(maps([[0, 0]], thing=0), maps([[3, 3]], thing=0), Classes(("object",), (True,)))
    assert found.kind.tolist() == [[AGREE, AGREE]]


def test_a_frame_with_nothing_in_it_disagrees_on_nothing() -> None:
    found = disagreement(maps([[_] * 3] * 2), maps([[_] * 3] * 2), CLASSES)
    assert (found.pixels, shares(found), found.concerns, found.objects) == (0, (0, 0, 0, 0), (), {})
    assert found.kind.tolist() == [[NOTHING] * 3] * 2
    assert not found.weight.any()


def test_a_frame_without_segments_misses_all_and_one_without_objects_has_only_spurious_ones() -> None:
    full, empty = maps([[2, 3, 3]]), maps([[_] * 3])
    assert shares(disagreement(empty, full, CLASSES)) == (0, 0, 1, 0)
    assert shares(disagreement(full, empty, CLASSES)) == (0, 0, 0, 1)


def test_maps_of_other_sizes_are_refused() -> None:
    with pytest.raises(
        SceneError, match=r"segments are \(1, 3\), what was lifted \(3, 1\); resize the masks"
    ):
        disagreement(maps([[_] * 3]), maps([[_]] * 3), CLASSES)


def test_huge_ids_are_only_names() -> None:
    small, huge = maps([[1, 1, 2, 2]]), maps([[2**40, 2**40, 7, 7]])
    assert shares(exact(huge, small)) == (0, 0, 0, 0)
    assert shares(exact(small, huge)) == (0, 0, 0, 0)


# --- The whole ------------------------------------------------------------------------------------------------------


def by_loops(segments: Segments, lifted: Segments, border_px: float) -> np.ndarray:
    """Kinds, pixel by pixel, as gs_lift.disagreement's text has them; all ids are of things."""
    s, o = segments.instance.numpy(), lifted.instance.numpy()
    pixels = list(np.ndindex(*s.shape))

    def count(segment: int, instance: int) -> int:
        return sum(s[p] == segment and o[p] == instance for p in pixels)

    segment_ids, object_ids = (sorted(set(each[each >= 0].tolist())) for each in (s, o))
    sizes, areas = {i: (s == i).sum() for i in segment_ids}, {i: (o == i).sum() for i in object_ids}
    main_object, main_segment = {-1: -1}, {-1: -1}
    for i in segment_ids:
        best = max(object_ids, key=lambda one, i=i: count(i, one), default=-1)
        main_object[i] = best if best >= 0 and count(i, best) >= sizes[i] / 4 else -1
    for i in object_ids:
        own = [one for one in segment_ids if main_object[one] == i]
        main_segment[i] = max(own, key=lambda one, i=i: count(one, i), default=-1)
    kind = np.full(s.shape, NOTHING)
    for p in pixels:
        near = {o[q] for q in pixels if (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 <= border_px**2}
        segment, judge = s[p], o[p]
        if segment >= 0 and main_object[segment] in near:
            judge = main_object[segment]
        elif segment < 0 and near != {judge} and main_segment[judge] >= 0:
            judge = -1
        if segment < 0 and judge < 0:
            kind[p] = AGREE if o[p] >= 0 else NOTHING
        elif segment < 0 or judge < 0:
            kind[p] = MISSED if segment < 0 else SPURIOUS
        elif judge != main_object[segment] and count(segment, judge) >= min(sizes[segment], areas[judge]) / 4:
            kind[p] = MERGED
        else:
            kind[p] = AGREE if segment == main_segment[judge] else SPLIT
    return kind


@pytest.mark.parametrize("seed", range(12))
def test_kinds_are_those_of_loops_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(-1, 4, (4, 4)).repeat(2, axis=0).repeat(3, axis=1) for _both in range(2)]
    mixed = np.where(rng.random(blocks[0].shape) < 0.6, blocks[0], blocks[1])
    segments, lifted = maps(mixed.tolist()), maps(blocks[0].tolist(), confidence=rng.random((8, 12)))
    for border_px in (0, 1, 1.5, 2):
        found = disagreement(segments, lifted, CLASSES, border_px=border_px)
        assert found.kind.tolist() == by_loops(segments, lifted, border_px).tolist(), seed
        for name, code in KINDS.items():
            total = found.weight[found.kind == code].sum() / found.pixels
            of_concerns = [one.share for one in found.concerns if one.kind == name]
            assert found.shares[name] == approx(total)
            assert sum(of_concerns) == approx(total)
