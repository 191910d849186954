"""Evaluation on a picture small enough to know: two objects before a wall, rendered by the reference backend."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gs_lift.datasets import load_scene
from gs_lift.evaluation import Areas, evaluate, panoptic, segments_quality, views_of_instances
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.rendering import blending_weights, render
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import VOID, Classes, Embeddings, Instances, Segments

CLASSES = Classes(("background", "object"), (False, True))
SIZE = 24
CAMERA = Camera(
    torch.tensor([[24.0, 0, 12], [0, 24, 12], [0, 0, 1]], dtype=torch.float64),
    torch.eye(4, dtype=torch.float64),
    SIZE,
    SIZE,
)
LEFT, RIGHT, WALL, FLOATER = range(4)


def room() -> Gaussians:
    """LEFT and RIGHT, round, about 6 pixels wide, a WALL that fills the image behind them; FLOATER is never seen."""
    means = torch.tensor([[-0.5, 0, 2], [0.5, 0, 2], [0, 0, 8], [0, 0, -3]])
    scales = torch.tensor([0.2, 0.2, 30, 0.2])
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    return Gaussians(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        log_scales=scales.log()[:, None].repeat(1, 3),
        logit_opacities=torch.full((4,), 8.0),
        sh0=((colors - 0.5) / SH_C0)[:, None],
        shN=torch.zeros(4, 0, 3),
    )


def embeddings_of(classes: list[int], count: int = 2) -> Embeddings:
    """Semantics that are all but certain; the instance embeddings are not read."""
    logits = 12 * torch.nn.functional.one_hot(torch.tensor(classes), count).float()
    nothing = torch.zeros(len(classes), 3)
    return Embeddings(nothing, nothing, logits, torch.ones(len(classes)))


def instances_of(labels: list[int], classes: list[int]) -> Instances:
    return Instances(
        torch.tensor(labels), torch.ones(len(labels)), torch.tensor(classes, dtype=torch.int64), {}
    )


OBJECTS = instances_of([0, 1, -1, -1], [1, 1])
SEMANTICS = embeddings_of([1, 1, 0, 0])


def seen(
    instances: Instances = OBJECTS, semantics: Embeddings = SEMANTICS, classes: Classes = CLASSES
) -> Segments:
    return panoptic(CAMERA, room(), semantics, instances, classes, backend="reference")


def scene_of(truth: Callable[[], Segments] | None, image: Tensor | None = None) -> Scene:
    picture = torch.zeros(SIZE, SIZE, 3) if image is None else image
    view = View("0", CAMERA, lambda: picture, truth=truth)
    return Scene("room", (view,), (view, view), torch.zeros(0, 3), torch.zeros(0, 3), CLASSES)


def test_each_object_takes_its_pixels_and_the_wall_the_others() -> None:
    panes = seen()
    assert panes.instance[12, 6] == 0
    assert panes.instance[12, 18] == 1
    assert panes.instance[12, 12] == -1
    assert (panes.semantic == (panes.instance >= 0)).all()
    assert (panes.instance == 0).sum() == (panes.instance == 1).sum()
    assert panes.confidence[12, 6] > 0.8
    assert panes.confidence[2, 12] == pytest.approx(1, abs=1e-4)


def test_the_border_lies_where_half_of_the_weight_is_the_object_s() -> None:
    weight = render(room(), CAMERA, features=torch.eye(4), backend="reference").colors
    assert torch.equal(seen().instance == 0, weight[..., LEFT] > weight[..., WALL])


def test_the_strongest_vote_wins_not_the_largest_instance() -> None:
    # The wall is given to instance 0, and called a thing: the objects still keep their middles.
    panes = seen(instances_of([1, 2, 0, -1], [1, 1, 1]), embeddings_of([1, 1, 1, 0]))
    assert (panes.instance[12, 6], panes.instance[12, 18], panes.instance[2, 2]) == (1, 2, 0)


def test_an_instance_gives_its_class_to_its_pixels() -> None:
    classes = Classes(("wall", "chair", "table"), (False, True, True))
    panes = seen(instances_of([0, 1, -1, -1], [2, 1]), embeddings_of([1, 1, 0, 0], 3), classes)
    assert (panes.semantic[12, 6], panes.semantic[12, 18]) == (2, 1)


@pytest.mark.parametrize(
    "instances",
    [
        instances_of([-1, 0, -1, -1], [1]),
        instances_of([1, 0, -1, -1], [1, 0]),
        instances_of([1, 0, -1, -1], [1, VOID]),
    ],
    ids=["noise", "an instance that is stuff", "an instance of no class"],
)
def test_a_thing_without_an_object_is_stuff(instances: Instances) -> None:
    panes = seen(instances)
    assert (panes.instance[12, 6], panes.semantic[12, 6]) == (-1, 0)


@pytest.mark.parametrize(("score", "shown"), [(0.9, 0), (0.2, -1)])
def test_what_surely_belongs_to_an_object_is_a_thing_though_most_views_missed_it(
    score: float, shown: int
) -> None:
    semantics = embeddings_of([1, 1, 0, 0])
    semantics.semantic[LEFT] = torch.tensor([0.4, 0.0])  # a thing by .4
    panes = seen(replace(OBJECTS, scores=torch.full((4,), score)), semantics)
    assert panes.instance[12, 6] == shown
    assert panes.instance[12, 18] == 1
    assert panes.instance[2, 2] == -1


def halo_of(truth: Segments, instances: Instances = OBJECTS) -> float | None:
    return evaluate(scene_of(lambda: truth), room(), SEMANTICS, instances, backend="reference").halo


def test_halo_is_the_share_of_an_instances_weight_outside_its_silhouette() -> None:
    weight = render(room(), CAMERA, features=torch.eye(4), backend="reference").colors.double()
    truth = seen()
    outside = [
        1 - float(weight[..., one][truth.instance == one].sum() / weight[..., one].sum()) for one in (0, 1)
    ]
    assert halo_of(truth) == pytest.approx(sum(outside) / 2, abs=1e-4)
    assert 0.05 < outside[0] < 0.5


def test_a_wider_silhouette_has_less_halo_and_what_shows_in_none_does_not_count() -> None:
    truth = seen()
    left = torch.arange(SIZE)[None].repeat(SIZE, 1) < SIZE // 2
    wide = replace(truth, instance=torch.where(left, 0, -1), semantic=left.long())
    narrow = replace(
        truth, instance=torch.where(truth.instance == 0, 0, -1), semantic=(truth.instance == 0).long()
    )
    halo = halo_of(wide, instances_of([0, -1, -1, -1], [1]))
    narrower = halo_of(narrow, instances_of([0, -1, -1, -1], [1]))
    assert halo is not None
    assert narrower is not None
    assert halo < 0.05 < narrower
    nothing = replace(
        truth, instance=torch.full((SIZE, SIZE), -1), semantic=torch.zeros(SIZE, SIZE, dtype=torch.int64)
    )
    assert halo_of(nothing) is None


def test_a_thing_without_an_object_stays_where_nothing_is_stuff() -> None:
    panes = seen(instances_of([-1] * 4, []), embeddings_of([1, 1, 1, 1]), Classes(("a", "b"), (True, True)))
    assert (panes.instance == -1).all()
    assert (panes.semantic == 1).all()


@pytest.mark.parametrize(("classes", "expected"), [(CLASSES, 0), (Classes(("a", "b"), (True, True)), VOID)])
def test_a_pixel_that_shows_nothing_is_the_first_stuff(classes: Classes, expected: int) -> None:
    gaussians = room().rows(torch.tensor([LEFT]))
    panes = panoptic(
        CAMERA, gaussians, embeddings_of([1]), instances_of([0], [1]), classes, backend="reference"
    )
    assert (panes.instance[12, 6], panes.semantic[12, 6]) == (0, 1)
    assert (panes.instance[2, 18], panes.semantic[2, 18], panes.confidence[2, 18]) == (-1, expected, 0)


def test_scores_against_itself_are_perfect() -> None:
    scores = evaluate(scene_of(seen), room(), SEMANTICS, OBJECTS, backend="reference")
    assert (scores.pq_scene, scores.sq, scores.rq, scores.pq_things, scores.pq_stuff) == (1, 1, 1, 1, 1)
    assert (scores.miou, scores.objects_true, scores.objects_found, scores.gaussians) == (1, 2, 2, 4)
    assert [(row.name, row.is_thing, row.pq, row.iou) for row in scores.per_class] == [
        ("background", False, 1, 1),
        ("object", True, 1, 1),
    ]


def test_two_objects_in_one_instance_are_one_false_and_two_missed() -> None:
    merged = instances_of([0, 0, -1, -1], [1])
    scores = evaluate(scene_of(seen), room(), SEMANTICS, merged, backend="reference")
    # IoU with each is exactly 1/2: no match.
    assert (scores.pq_things, scores.pq_stuff, scores.pq_scene) == (0, 1, 0.5)
    assert (scores.objects_true, scores.objects_found, scores.miou) == (2, 0, 1)
    row = scores.per_class[1]
    assert (row.true_positives, row.false_positives, row.false_negatives) == (0, 1, 2)


def test_objects_are_counted_even_where_their_class_is_too_rare_to_judge() -> None:
    def truth() -> Segments:
        instance = torch.full((SIZE, SIZE), -1)
        instance[12, 6] = 7
        return Segments(instance, (instance >= 0).long(), torch.ones(SIZE, SIZE))

    scores = evaluate(scene_of(truth), room(), SEMANTICS, OBJECTS, backend="reference")
    assert scores.per_class[1].pq is None
    assert scores.pq_things is None
    assert (scores.objects_true, scores.objects_found) == (1, 0)


def test_without_truth_only_the_pictures_are_judged() -> None:
    steps = []
    image = render(room(), CAMERA, backend="reference").colors.clamp(0, 1)
    scores = evaluate(
        scene_of(None, (image - 0.1).abs()),
        room(),
        SEMANTICS,
        OBJECTS,
        backend="reference",
        on_step=lambda step, figures: steps.append((step, sorted(figures))),
    )
    assert (scores.pq_scene, scores.miou, scores.objects_true, scores.objects_found) == (None,) * 4
    assert scores.psnr == pytest.approx(20, abs=0.5)
    assert 0 < (scores.ssim or 0) < 1
    assert scores.per_class == ()
    assert steps == [(1, ["psnr", "ssim"]), (2, ["psnr", "ssim"])]


def test_truth_that_is_all_void_has_no_figures() -> None:
    nothing = torch.full((SIZE, SIZE), VOID)
    scores = evaluate(
        scene_of(lambda: Segments(nothing, nothing, torch.ones(SIZE, SIZE))),
        room(),
        SEMANTICS,
        OBJECTS,
        backend="reference",
    )
    assert (scores.pq_scene, scores.pq_stuff, scores.miou, scores.objects_true) == (None, None, None, 0)


def test_segments_quality_judges_the_training_views_that_have_both() -> None:
    scene = scene_of(seen)
    both = replace(scene.train[0], segments=seen)
    quality = segments_quality(replace(scene, train=(both, scene.train[0], replace(both, truth=None))))
    assert quality is not None
    assert (quality.images, quality.pq, quality.recall, quality.precision) == (1, 1, 1, 1)
    assert segments_quality(scene) is None


def test_an_instance_is_seen_where_it_covers_pixels() -> None:
    view = scene_of(None).train[0]
    away = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))  # turned around: it looks along -z
    back = replace(view, name="back", camera=replace(CAMERA, viewmat=away))
    instances = instances_of([0, 1, -1, 2], [1, 1, 1])
    area = Areas([view, back], room(), backend="reference").of(instances)
    assert views_of_instances([view, back], area) == [["0"], ["0"], ["back"]]
    assert views_of_instances([view], area[:1], minimum_pixels=576.0) == [[], [], []]


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_areas_are_sums_of_blending_weights_whatever_is_kept(budget: float) -> None:
    view = scene_of(None).train[0]
    areas = Areas([view], room(), backend="reference", memory_budget_gb=budget)
    dense = blending_weights(room(), CAMERA, backend="reference").blend(torch.eye(4)).sum(dim=0)
    for labels in ([0, 1, -1, 2], [1, 0, 0, -1]):
        area = areas.of(instances_of(labels, [1, 1, 1]))
        wanted = [sum(float(dense[g]) for g in range(4) if labels[g] == one) for one in range(3)]
        assert area[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_segments_of_messy_sam_50_are_as_good_as_its_readme_says(shared: Path) -> None:
    quality = segments_quality(load_scene(shared / "data" / "messy_sam_50"))
    assert quality is not None
    assert quality.images == 48
    figures = (quality.recall, quality.precision, quality.sq, quality.pq)
    assert figures == pytest.approx((0.631, 0.572, 0.824, 0.493), abs=5e-4)
