"""Metrics: figures of the released code, arithmetic by hand, and inputs that hold little or nothing."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gs_lift.metrics import (
    ClassQuality,
    Confusion,
    Overlaps,
    OverlapsOfImages,
    PanopticQuality,
    Reliability,
    frame_quality,
    panoptic_pixels,
    pq_scene,
    psnr,
    ssim,
)
from gs_lift.segmentation import VOID, Segments

approx = pytest.approx
GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "pq_shared.json").read_text())


def golden_pixels(case: int) -> tuple[Tensor, Tensor]:
    with np.load(GOLDEN / "pq_shared.npz") as arrays:
        return torch.from_numpy(arrays[f"{case}_pred"]), torch.from_numpy(arrays[f"{case}_target"])


def pixels(*runs: tuple[int, int, int]) -> Tensor:
    """Panoptic pixels from runs (class, instance, how many)."""
    return torch.tensor([(semantic, instance) for semantic, instance, count in runs for _ in range(count)])


def quality(pred: Tensor, truth: Tensor, minimum_share: float = 0.005) -> PanopticQuality:
    return pq_scene(pred, truth, things=[1], stuff=[0], minimum_share=minimum_share)


def segments(instance: list[list[int]], semantic: list[list[int]] | None = None) -> Segments:
    ids = torch.tensor(instance)
    return Segments(
        ids, (ids >= 0).long() if semantic is None else torch.tensor(semantic), torch.ones(ids.shape)
    )


# --- PQ^scene ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['kind']}")
def test_pq_sq_rq_agree_with_the_released_metric(case: dict) -> None:
    pred, truth = golden_pixels(case["case"])
    before = pred.clone(), truth.clone()
    found = pq_scene(pred, truth, things=case["things"], stuff=case["stuff"], void=case["void_target_class"])
    assert (found.pq, found.sq, found.rq) == approx((case["pq"], case["sq"], case["rq"]), abs=1e-9)
    assert torch.equal(pred, before[0])
    assert torch.equal(truth, before[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['kind']}")
def test_miou_agrees_with_the_released_metric(case: dict) -> None:
    pred, truth = golden_pixels(case["case"])
    confusion = Confusion(case["num_classes"], case["ignore_class"])
    confusion.update(pred[:, 0], truth[:, 0])
    assert confusion.miou() == approx(case["miou"], abs=1e-9)


def test_a_split_object_is_found_once_and_leaves_a_false_part() -> None:
    truth = pixels((0, -1, 10), (1, 0, 6), (1, 1, 4))
    pred = pixels((0, -1, 10), (1, 7, 4), (1, 8, 2), (1, 9, 4))
    # Objects: IoU 4/6 and 1, one false part: PQ = (4/6 + 1) / (2 + 1/2). Stuff: 1.
    assert quality(pred, truth).pq_things == approx((4 / 6 + 1) / 2.5, abs=1e-7)
    assert quality(pred, truth).pq == approx(((4 / 6 + 1) / 2.5 + 1) / 2, abs=1e-7)


def test_an_id_that_changes_between_images_splits_the_object() -> None:
    truth = [segments([[0, 0]]), segments([[0, 0]])]
    steady, changing = [segments([[5, 5]]), segments([[5, 5]])], [segments([[5, 5]]), segments([[6, 6]])]
    assert quality(panoptic_pixels(steady), panoptic_pixels(truth)).pq_things == 1
    assert quality(panoptic_pixels(changing), panoptic_pixels(truth)).pq_things == 0


def test_an_iou_of_one_half_is_no_match() -> None:
    found = quality(pixels((1, 0, 5), (0, -1, 5)), pixels((1, 0, 10)))
    assert found.classes[1] == ClassQuality(0.0, 0.0, 0.0, 0, 1, 1)


def test_the_instances_of_stuff_do_not_matter() -> None:
    assert quality(pixels((0, 3, 4), (0, 9, 6)), pixels((0, -1, 10))).pq_stuff == 1


def test_pixels_of_void_truth_are_left_out() -> None:
    truth = pixels((1, 0, 10), (VOID, -1, 90))
    assert quality(pixels((1, 5, 10), (0, -1, 90)), truth).pq == 1


def test_predicted_void_is_left_out_of_the_union() -> None:
    assert quality(pixels((1, 5, 6), (VOID, -1, 4)), pixels((1, 0, 10))).pq_things == 1


def test_an_object_that_is_mostly_predicted_void_is_not_missed() -> None:
    truth = pixels((1, 0, 10), (1, 1, 10))
    pred = pixels((VOID, -1, 6), (0, -1, 4), (1, 8, 10))
    assert quality(pred, truth).classes[1].false_negatives == 0


def test_a_rare_class_is_dropped_unless_asked_for() -> None:
    truth, pred = pixels((0, -1, 996), (1, 0, 4)), pixels((0, -1, 996), (1, 0, 4))
    assert set(quality(pred, truth).classes) == {0}
    assert set(quality(pred, truth, minimum_share=0.0).classes) == {0, 1}


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    found = quality(pixels((0, -1, 20)), pixels((0, -1, 10), (1, 0, 10)))
    assert found.pq_things == 0
    assert found.pq == approx((0 + 0) / 2)  # the background's IoU is 10/20, no match


def test_negative_and_huge_ids_are_just_ids() -> None:
    truth = pixels((0, -1, 10), (1, 2**40, 10), (1, -7, 10))
    pred = pixels((0, -1, 10), (1, -(2**50), 10), (1, 2**62, 10))
    assert quality(pred, truth).pq == 1


EMPTY = torch.empty(0, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("pred", "truth"),
    [(EMPTY, EMPTY), (pixels((0, -1, 5)), pixels((VOID, -1, 5))), (pixels((7, 1, 5)), pixels((8, 1, 5)))],
    ids=["no pixel", "all void", "unknown classes only"],
)
def test_nothing_to_judge_is_nan(pred: Tensor, truth: Tensor) -> None:
    found = quality(pred, truth)
    assert math.isnan(found.pq)
    assert math.isnan(found.pq_things)
    assert found.classes == {}


def test_no_overlap_is_zero() -> None:
    assert quality(pixels((0, -1, 5), (1, 1, 5)), pixels((1, 1, 5), (0, -1, 5))).pq == 0


def test_things_without_stuff_have_a_mean_of_their_own() -> None:
    found = quality(pixels((1, 4, 5)), pixels((1, 1, 5)))
    assert found.pq == found.pq_things == 1
    assert math.isnan(found.pq_stuff)


def test_twelve_images_of_500_objects_are_judged_in_a_second() -> None:
    generator = torch.Generator().manual_seed(0)
    instance = torch.randint(0, 500, (12 * 256 * 256 // 64,), generator=generator).repeat_interleave(64)
    truth = torch.stack([torch.ones_like(instance), instance], dim=1)
    noisy = torch.where(torch.rand(len(instance), generator=generator) < 0.2, instance.roll(999), instance)
    start = time.process_time()
    assert quality(torch.stack([truth[:, 0], noisy], dim=1), truth).classes[1].true_positives == 500
    assert time.process_time() - start < 2  # 0.3 s measured; a loop over pixels takes minutes


# --- Classes ----------------------------------------------------------------------------------------------------------


def test_miou_of_two_classes() -> None:
    confusion = Confusion(2)
    confusion.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    confusion.update(torch.tensor([[1]]), torch.tensor([[1]]))
    assert confusion.iou() == approx([1 / 2, 2 / 3])
    assert confusion.miou() == approx((1 / 2 + 2 / 3) / 2)


def test_a_prediction_of_no_class_misses_its_pixel() -> None:
    confusion = Confusion(2)
    confusion.update(torch.tensor([0, VOID, 9]), torch.tensor([0, 0, 1]))
    assert confusion.iou() == approx([1 / 2, 0])


def test_void_truth_is_not_counted_and_nothing_is_nan() -> None:
    confusion = Confusion(2)
    confusion.update(torch.tensor([0, 1]), torch.tensor([VOID, VOID]))
    assert confusion.counts.sum() == 0
    assert math.isnan(confusion.miou())


# --- 2D segments ------------------------------------------------------------------------------------------------------


def test_frame_quality_by_hand() -> None:
    truth = segments([[0, 0, 0, 0, 1, 1, 1, 1, 2, -1]])
    found = segments([[7, 7, 7, -1, 3, 3, 4, 4, 5, 6]])
    # Objects of 3 px and more: 0 (IoU 3/4, found) and 1 (two halves). Segment 5 lies on the small object 2.
    row = frame_quality([(found, truth)], things=[1], minimum_area_px=3)
    assert row.recall == 1 / 2
    assert row.precision == 1 / 4
    assert row.sq == 3 / 4
    assert row.pq == (3 / 4) / (1 + 3 / 2 + 1 / 2)


def test_frame_quality_leaves_out_images_without_objects_and_means_over_the_others() -> None:
    empty, good, bad = segments([[-1, -1]]), segments([[0, 0]]), segments([[-1, 3]])
    row = frame_quality([(good, empty), (good, good), (bad, good)], things=[1], minimum_area_px=1)
    assert (row.images, row.recall, row.pq) == (2, 1 / 2, 1 / 2)


def test_frame_quality_of_nothing_is_nan() -> None:
    assert math.isnan(frame_quality([], things=[1]).pq)


def test_frame_quality_does_not_seek_stuff() -> None:
    truth = segments([[0, 0, 1, 1]], semantic=[[0, 0, 1, 1]])
    assert frame_quality([(truth, truth)], things=[1], minimum_area_px=1).recall == 1


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_psnr_of_a_known_error() -> None:
    assert float(psnr(torch.full((4, 4, 3), 0.6), torch.full((4, 4, 3), 0.5))) == approx(20, abs=1e-4)
    assert float(psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3))) == math.inf


def ssim_by_definition(image: Tensor, truth: Tensor, padding: str) -> float:
    """Window by window, as Wang et al. write it: weighted means, variances and covariance of each 11x11 patch."""
    axis = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / np.outer(axis, axis).sum()
    border = 5 if padding == "same" else 0
    x, y = (np.pad(t.numpy(), ((border, border), (border, border), (0, 0))) for t in (image, truth))
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            for channel in range(3):
                a, b = (t[row : row + 11, column : column + 11, channel] for t in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variances = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                    * (2 * covariance + 9e-4) / (variances + 9e-4)
                )  # fmt: skip
    return float(np.mean(values))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_ssim_is_what_its_definition_says(padding: str) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(14, 17, 3, generator=generator, dtype=torch.float64)
    truth = (image + 0.2 * torch.rand(14, 17, 3, generator=generator, dtype=torch.float64)).clamp(0, 1)
    assert float(ssim(image, truth, padding=padding)) == approx(
        ssim_by_definition(image, truth, padding), abs=1e-12
    )


def test_ssim_of_equal_images_is_one_and_can_be_differentiated() -> None:
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(16, 16, 3, generator=generator)
    assert float(ssim(image, image)) == approx(1, abs=1e-6)
    other = torch.rand(16, 16, 3, generator=generator).requires_grad_()
    ssim(other, image).backward()
    assert other.grad is not None
    assert other.grad.abs().sum() > 0


def test_the_calibration_error_is_the_mean_distance_by_bins() -> None:
    found = Reliability()
    assert found.error == 0
    found.add(np.array([0.95, 0.95]), np.array([True, False]))
    found.add(np.array([0.25, 0.25]), np.array([False, False]))
    # The last bin: said .95, true .5; bin 3: said .25, true 0. Half of all in each.
    assert found.error == approx((0.45 + 0.25) / 2)
    assert found.counts.tolist() == [0, 0, 0, 2, *10 * [0], 2]
    assert (found.said[14], found.right[14]) == (approx(0.95), 0.5)


def test_the_overlaps_of_many_images_are_those_of_each() -> None:
    gathered, each = OverlapsOfImages(), []
    assert gathered.images == []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        maps = [torch.randint(-1, 9 * seed + 2, (20, 30), generator=generator) for _ in range(4)]
        pred, truth = (Segments(one, other, torch.ones(20, 30)) for one, other in (maps[:2], maps[2:]))
        each.append(Overlaps.of(pred, truth))
        gathered.append(each[-1])
    for one, other in zip(gathered.images, each, strict=True):
        for name, tensor in vars(other).items():
            assert torch.equal(getattr(one, name), tensor), name
