"""The error model of 2D segments, and the figures that measure it."""

import numpy as np
import pytest
from live import Live
from segment_quality import segment_quality

from gs_lift.synthetic.noise import (
    LEVELS,
    Cut,
    NoiseLevel,
    SceneErrors,
    corrupt,
    scene_errors,
    touching,
)

NO_ERRORS = SceneErrors()


def flat_world(truth: np.ndarray) -> np.ndarray:
    """Points for pixels: x = column, y = row, z = 0."""
    rows, columns = np.indices(truth.shape)
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(float)


def discs(seed: int, count: int = 30, size: int = 256) -> np.ndarray:
    """Overlapping discs of 3 to 25 pixels' radius: objects of all sizes, many of them touching."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size))
    truth = np.zeros((size, size), dtype=np.int64)
    for index in range(1, count + 1):
        row, column = rng.uniform(0.2 * size, 0.8 * size, 2)
        truth[np.hypot(rows - row, columns - column) < size / 256 * rng.uniform(3, 25)] = index
    return truth


def two_boxes() -> np.ndarray:
    """Objects 1 and 2, 40 x 40 pixels each, side by side, and 3 apart from them."""
    truth = np.zeros((256, 256), dtype=np.int64)
    truth[50:90, 50:90], truth[50:90, 90:130], truth[150:190, 150:190] = 1, 2, 3
    return truth


def noisy(truth: np.ndarray, level: NoiseLevel, errors: SceneErrors = NO_ERRORS, seed: int = 0) -> np.ndarray:
    return corrupt(truth, flat_world(truth), errors, level, np.random.default_rng(seed)).instance


# -- figures -------------------------------------------------------------------------------------------------------


def test_truth_itself_scores_one_whatever_its_ids() -> None:
    truth = discs(0)
    quality = segment_quality(((truth > 0) * (100 - truth), truth))
    assert (quality.recall, quality.precision, quality.sq, quality.pq, quality.spurious) == (1, 1, 1, 1, 0)


def test_figures_of_a_known_case() -> None:
    truth = two_boxes()
    segments = np.zeros_like(truth)
    segments[50:90, 50:80] = 1  # 30 of the 40 columns of object 1: IoU 3/4
    segments[50:90, 90:105] = 2  # 15 of 40 of object 2: no match, but a part of it
    segments[200:220, 20:40] = 3  # on nothing
    quality = segment_quality((segments, truth))
    assert quality.recall == pytest.approx(1 / 3)
    assert quality.precision == pytest.approx(1 / 3)
    assert quality.sq == pytest.approx(3 / 4)
    assert quality.pq == pytest.approx(3 / 4 / (1 + (2 + 2) / 2))
    assert quality.spurious == 1
    assert np.isnan(quality.small_recall)


def test_objects_too_small_to_be_asked_for_cost_nothing() -> None:
    truth = np.zeros((256, 256), dtype=np.int64)
    truth[:20, :20], truth[100:103, 100:104] = 1, 2  # 12 pixels
    assert segment_quality((np.where(truth == 1, 1, 0), truth)).recall == 1
    assert segment_quality((truth, truth)).precision == 1
    assert segment_quality((np.where(truth == 1, 1, 0), truth), minimum_area_px=10).recall == 0.5


def test_the_mean_passes_over_frames_without_a_figure() -> None:
    truth, nothing = two_boxes(), np.zeros((256, 256), dtype=np.int64)
    assert segment_quality((truth, truth), (nothing, nothing)).recall == 1
    assert np.isnan(segment_quality((nothing, nothing)).recall)


# -- errors of a frame ---------------------------------------------------------------------------------------------


def test_without_noise_only_the_ids_are_permuted() -> None:
    truth = discs(0)
    segments = noisy(truth, LEVELS["none"])
    pairs = np.unique(np.stack([truth.ravel(), segments.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(truth))  # one to one
    assert set(pairs[1]) == set(range(len(np.unique(truth))))
    assert (segments > 0).tolist() == (truth > 0).tolist()
    assert not np.array_equal(segments, noisy(truth, LEVELS["none"], seed=1))


def test_levels_get_worse_in_their_order() -> None:
    figures = []
    for name in ("none", "easy", "moderate", "hard"):
        frames = [(noisy(discs(seed), LEVELS[name], seed=seed), discs(seed)) for seed in range(5)]
        figures.append(segment_quality(*frames))
    for kind in ("recall", "precision", "sq", "pq", "small_recall"):
        values = [getattr(quality, kind) for quality in figures]
        assert values == sorted(values, reverse=True), kind
        assert len(set(values)) == 4, kind
    assert [quality.spurious for quality in figures] == sorted(quality.spurious for quality in figures)


def test_the_same_generator_makes_the_same_errors() -> None:
    assert np.array_equal(noisy(discs(1), LEVELS["hard"], seed=5), noisy(discs(1), LEVELS["hard"], seed=5))
    assert not np.array_equal(
        noisy(discs(1), LEVELS["hard"], seed=5), noisy(discs(1), LEVELS["hard"], seed=6)
    )


def test_areas_scale_with_the_frame() -> None:
    figures = []
    for size in (128, 256):
        rooms = [discs(seed, size=size) for seed in range(6)]
        figures.append(
            segment_quality(*((noisy(room, LEVELS["hard"], seed=i), room) for i, room in enumerate(rooms)))
        )
    assert np.ptp([quality.pq for quality in figures]) < 0.1


def test_small_objects_are_missed_more() -> None:
    level = NoiseLevel(small_px=60)
    found = {40: 0, 400: 0}  # pixels
    truth = np.zeros((256, 256), dtype=np.int64)
    truth[:5, :8], truth[100:120, 100:120] = 1, 2
    for seed in range(100):
        segments = noisy(truth, level, seed=seed)
        found[40] += bool(segments[:5, :8].any())
        found[400] += bool(segments[100:120, 100:120].any())
    # missed: 0.9 exp(-40 / 60) = .46 and 0.9 exp(-400 / 60) = .001
    assert 40 <= found[40] <= 68
    assert found[400] >= 98


def test_only_what_touches_merges() -> None:
    truth = two_boxes()
    segments = noisy(truth, NoiseLevel(merge=1.0))
    assert segments[60, 60] == segments[60, 100]
    assert segments[60, 60] != segments[160, 160]


def test_a_cut_makes_two_of_one() -> None:
    segments = noisy(two_boxes(), NoiseLevel(cut=1.0))
    ids, counts = np.unique(segments[50:90, 50:90], return_counts=True)
    assert len(ids) == 2
    assert counts.sum() == 40 * 40
    assert counts.min() >= 0.24 * 40 * 40


def test_spurious_segments_lie_on_no_object() -> None:
    truth = two_boxes()
    segments = noisy(truth, NoiseLevel(spurious=30.0))
    assert segment_quality((segments, truth)).recall == 1
    assert segment_quality((segments, truth)).spurious > 10


def test_jitter_moves_borders_and_leaves_the_inside() -> None:
    truth = two_boxes()
    segments = noisy(truth, NoiseLevel(jitter_px=0.7))
    moved = (segments > 0) != (truth > 0)
    assert moved.any()
    inner = np.zeros_like(moved)
    inner[55:85, 55:85] = True
    assert not moved[inner].any()


def test_scores_say_how_well_a_segment_fits() -> None:
    truth = two_boxes()
    result = corrupt(truth, flat_world(truth), NO_ERRORS, NoiseLevel(spurious=20.0), np.random.default_rng(0))
    assert result.probability[truth > 0].mean() > 0.85  # 0.5 + 0.45 x 1
    assert result.probability[(truth == 0) & (result.instance > 0)].mean() < 0.6  # 0.5 + 0.45 x 0
    assert (result.probability[result.instance == 0] == 1).all()


def test_an_empty_frame_stays_empty() -> None:
    nothing = np.zeros((64, 64), dtype=np.int64)
    assert not noisy(nothing, NoiseLevel(miss=0.5, merge=1, cut=1, partial=1, pieces=3, jitter_px=1)).any()


# -- errors of a scene ---------------------------------------------------------------------------------------------


def test_borders_are_measured_in_pixels() -> None:
    assert touching(two_boxes()) == {(1, 2): 40}


def test_fixed_pairs_are_ones_that_touch() -> None:
    truths = [two_boxes()] * 12
    errors = scene_errors(truths, np.zeros((3, 3)), NoiseLevel(fixed_pairs=1.0), np.random.default_rng(0))
    assert errors.pairs == ((1, 2),)


def test_errors_of_a_scene_need_one_frame_at_a_time() -> None:
    live, level = Live(), NoiseLevel(fixed_pairs=1.0)
    frames = (live.made(two_boxes()) for _ in range(50))
    errors = scene_errors(frames, np.zeros((3, 3)), level, np.random.default_rng(0))
    assert errors.pairs == ((1, 2),)
    assert live.most <= 2


def test_a_fixed_pair_merges_at_its_rate_in_one_frame_after_another() -> None:
    level = NoiseLevel(fixed_pairs=1.0, pair_rate=0.6)
    errors = SceneErrors(pairs=((1, 2),))
    merged = 0
    for seed in range(100):
        segments = noisy(two_boxes(), level, errors, seed=seed)
        merged += segments[60, 60] == segments[60, 100]
    assert merged / 100 == pytest.approx(0.6, abs=0.15)  # three standard deviations


def test_a_fixed_cut_runs_along_its_plane() -> None:
    level = NoiseLevel(fixed_cuts=1.0, cut_rate=1.0)
    errors = SceneErrors(cuts=(Cut(1, (65.0, 0.0, 0.0), (1.0, 0.0, 0.0)),))
    segments = noisy(two_boxes(), level, errors)
    assert len(np.unique(segments[50:90, 50:66])) == 1
    assert len(np.unique(segments[50:90, 66:90])) == 1
    assert segments[60, 60] != segments[60, 80]


def test_a_cut_is_not_made_where_one_side_is_hidden() -> None:
    level = NoiseLevel(fixed_cuts=1.0, cut_rate=1.0)
    errors = SceneErrors(cuts=(Cut(1, (52.0, 0.0, 0.0), (1.0, 0.0, 0.0)),))  # 3 of 40 columns
    assert len(np.unique(noisy(two_boxes(), level, errors)[50:90, 50:90])) == 1


def test_objects_in_pairs_are_not_cut_as_well() -> None:
    truths = [two_boxes()] * 12
    level = NoiseLevel(fixed_pairs=1.0, fixed_cuts=1.0)
    errors = scene_errors(truths, np.zeros((3, 3)), level, np.random.default_rng(0))
    assert [cut.object for cut in errors.cuts] == [3]
