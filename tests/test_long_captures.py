"""What is read of a view is let go when that is done with: a long capture takes no more memory than a short one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from live import Live
from random_data import random_gaussians
from rooms import write_room

import gs_lift.evaluation
from gs_lift.datasets import load_scene
from gs_lift.evaluation import Areas, evaluate_by, segments_quality
from gs_lift.fitting import fit
from gs_lift.fitting.settings import FitConfig
from gs_lift.gaussians import Gaussians
from gs_lift.held_out import Looker, judge
from gs_lift.lifting import lift
from gs_lift.lifting.settings import LiftConfig
from gs_lift.lifting.views import check_segments
from gs_lift.points import initial_points
from gs_lift.protocols import PROTOCOLS
from gs_lift.scene import Scene, View
from gs_lift.segmentation import Embeddings, Instances, Segments

VIEWS, AT_ONCE = 60, 6
"""Of so many views no more than so many photos and maps are alive: those of the present one, of those that are made
ahead, and of the one before."""

GAUSSIANS = Gaussians(**{name: one.float() for name, one in random_gaussians(0, 40).parameters().items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("capture") / "room", frames=VIEWS)


def watched(scene: Scene, live: Live) -> Scene:
    """The scene, whose views tell `live` what they read."""

    def tensor(read: Callable[[], torch.Tensor] | None) -> Callable[[], torch.Tensor] | None:
        return read and (lambda: live.made(read()))

    def segments(read: Callable[[], Segments] | None) -> Callable[[], Segments] | None:
        def told() -> Segments:
            assert read is not None
            found = read()
            live.made(found.instance)
            return found

        return read and told

    def view(one: View) -> View:
        image = tensor(one.image)
        assert image is not None
        return replace(
            one,
            image=image,
            segments=segments(one.segments),
            truth=segments(one.truth),
            depth=tensor(one.depth),
        )

    return replace(scene, train=tuple(map(view, scene.train)), test=tuple(map(view, scene.test)))


def found() -> tuple[Embeddings, Instances]:
    count = len(GAUSSIANS)
    generator = torch.Generator().manual_seed(0)
    learnt = [torch.rand(count, columns, generator=generator) for columns in (3, 3, 2)]
    labels = torch.randint(-1, 3, (count,), generator=generator)
    instances = Instances(labels, torch.ones(count), torch.ones(3, dtype=torch.int64), {})
    return Embeddings(*learnt, torch.ones(count)), instances


def fitted(scene: Scene) -> Gaussians:
    points, colors = initial_points(scene, "depth", count=200)
    config = FitConfig(steps=90, sh_degree=0, evaluate_every=40)
    return fit(replace(scene, points=points, colors=colors), config, memory_budget_gb=0.0)


STAGES: dict[str, Callable[[Scene], object]] = {
    "check": check_segments,
    "points": lambda scene: initial_points(scene, "depth", count=200),
    "fit": fitted,
    "lift": lambda scene: lift(scene, GAUSSIANS, LiftConfig(steps=90), memory_budget_gb=0.0),
    "eval": lambda scene: evaluate_by(tuple(PROTOCOLS), scene, GAUSSIANS, *found()),
    "report": lambda scene: judge(Looker(scene, GAUSSIANS, *found())),
    "quality": segments_quality,
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_holds_a_few_views_whatever_their_number(folder: Path, stage: str) -> None:
    live = Live()
    STAGES[stage](watched(load_scene(folder), live))
    assert live.most <= AT_ONCE
    assert live.now == 0


@pytest.mark.parametrize(("budget_gb", "times"), [(0.0, 2), (1.0, 1)])
def test_areas_are_rendered_again_where_they_may_not_be_kept(
    folder: Path, budget_gb: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    weights = gs_lift.evaluation.blending_weights
    monkeypatch.setattr(
        gs_lift.evaluation,
        "blending_weights",
        lambda *args, **options: rendered.append(1) or weights(*args, **options),
    )
    views, (_, instances) = load_scene(folder).train, found()
    areas = Areas(views, GAUSSIANS, memory_budget_gb=budget_gb)
    seen: list[int] = []
    assert (areas.of(instances, lambda view, figures: seen.append(view)) == areas.of(instances)).all()
    assert len(rendered) == times * len(views)
    assert seen == list(range(1, len(views) + 1))
