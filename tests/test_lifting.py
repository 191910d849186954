"""Lifting as a whole, on three blobs on a floor, seen by four cameras."""

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import (
    BLOB,
    FLOOR,
    PER_BLOB,
    QUICK,
    SIZE,
    assert_same,
    blobs,
    lift_quickly,
    scene_of,
    with_segments,
)
from torch import Tensor

from gs_lift import _native
from gs_lift.checkpoint import Checkpoints
from gs_lift.errors import ConfigError, RunError, SceneError
from gs_lift.lifting import LiftConfig, LossWeights, lift
from gs_lift.lifting.learners import nearest, smooth
from gs_lift.lifting.views import _turns
from gs_lift.rendering import blending_weights
from gs_lift.rendering.weights import PickedRows, Weights
from gs_lift.segmentation import VOID, Embeddings, Segments


def spread_and_gaps(embeddings: Embeddings) -> tuple[float, Tensor]:
    """The largest distance of a Gaussian from its blob's mean embedding, and the distances between the means."""
    fast = embeddings.fast[BLOB < FLOOR].reshape(3, PER_BLOB, -1)
    means = fast.mean(dim=1)
    return float((fast - means[:, None]).norm(dim=2).max()), torch.cdist(means, means)


def test_blobs_that_never_share_a_segment_end_further_apart_than_each_is_wide() -> None:
    config = dataclasses.replace(QUICK, steps=300, neighbours=4)
    spread, gaps = spread_and_gaps(lift_quickly(scene_of(), config))
    assert gaps[~torch.eye(3, dtype=torch.bool)].min() > 2 * spread


def test_blobs_that_share_their_segments_end_together() -> None:
    config = dataclasses.replace(QUICK, steps=300, neighbours=4)
    _, gaps = spread_and_gaps(lift_quickly(scene_of(merged=True), config))
    assert gaps[0, 1] < 0.25 * min(gaps[0, 2], gaps[1, 2])


def test_slow_follows_fast() -> None:
    embeddings = lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=200))
    assert (embeddings.slow - embeddings.fast).abs().max() < 0.2 * embeddings.fast.abs().max()


def test_the_classes_of_what_is_seen_are_learnt() -> None:
    embeddings = lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=300))
    seen = embeddings.visibility > 5
    assert seen.sum() > 40
    right = embeddings.semantic.argmax(dim=1) == (BLOB < FLOOR).long()
    assert right[seen].float().mean() > 0.95


def test_objects_segmented_in_half_of_the_views_are_kept_where_things_weigh_more() -> None:
    scene = scene_of()
    floor_only = Segments(
        torch.full((SIZE, SIZE), -1), torch.zeros(SIZE, SIZE, dtype=torch.int64), torch.ones(SIZE, SIZE)
    )
    blind = [dataclasses.replace(view, segments=lambda: floor_only) for view in scene.train[:2]]
    scene = dataclasses.replace(scene, train=(*blind, *scene.train[2:]))
    kept = []
    for weight in (0.25, 4.0):
        embeddings = lift_quickly(scene, dataclasses.replace(QUICK, steps=300, thing_weight=weight))
        kept.append(float(embeddings.semantic.argmax(dim=1)[BLOB < FLOOR].float().mean()))
    assert kept[0] < 0.3
    assert kept[1] > 0.7


def test_visibility_is_the_blending_weight_over_all_training_pixels() -> None:
    scene = scene_of()
    expected = sum(
        blending_weights(blobs(), view.camera, minimum=1e-3, backend="reference").totals()
        for view in scene.train
    )
    torch.testing.assert_close(
        lift_quickly(scene, dataclasses.replace(QUICK, steps=1)).visibility, expected.float()
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first = lift_quickly(scene_of(), seed=3)
    assert_same(first, lift_quickly(scene_of(), seed=3))
    assert not torch.equal(first.fast, lift_quickly(scene_of(), seed=4).fast)


def test_one_and_two_threads_give_the_same_bytes() -> None:
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=5)))
    torch.set_num_threads(threads)
    assert_same(*results)


def test_one_and_two_threads_give_the_same_bytes_where_both_are_used() -> None:
    seed, pixels, columns, channels = 3, 6000, 500, 16
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, columns, (pixels, 8), generator=generator, dtype=torch.int32)
    values = torch.rand(pixels * 8, generator=generator).half()
    rows = Weights(torch.arange(pixels + 1) * 8, indices.flatten(), values, columns).pick(
        torch.arange(pixels)
    )
    start = torch.randn(columns, channels, generator=generator)
    gradient = torch.randn(pixels, channels, generator=generator)
    results = [adam_blended(rows, start, gradient, threads=threads) for threads in (1, 2, 3)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def adam_blended(
    rows: PickedRows, start: Tensor, gradient: Tensor, *, threads: int, steps: int = 2
) -> Tensor:
    parameter, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    room = torch.zeros(_native.LIFTING_PARTS, *start.shape)
    tensors = [tensor.numpy() for tensor in (gradient, parameter, first, second, room)]
    for step in range(1, steps + 1):
        _native.lifting_adam_blended(*rows.arrays(), *tensors, step, 0.1, 0.9, 0.999, 1e-8, threads)
    assert not room.any()
    return parameter


@pytest.mark.parametrize("channels", [3, 8, 16, 24, 32, 45])
def test_fused_adam_is_torchs_on_the_rows_that_any_pixel_sees(channels: int) -> None:
    """Also those whose pixels have a gradient of zero: their moments move them on."""
    generator = torch.Generator().manual_seed(channels)
    values = (0.1 + torch.rand(6, generator=generator)).half()
    indices = torch.tensor([0, 2, 2, 5, 4, 0], dtype=torch.int32)
    rows = Weights(torch.tensor([0, 2, 4, 6]), indices, values, 7).pick(torch.tensor([0, 1, 2]))
    dense = torch.zeros(3, 7).index_put_(
        (torch.arange(3).repeat_interleave(2), indices.long()), values.float(), accumulate=True
    )
    start = torch.randn(7, channels, generator=generator)
    gradient = torch.randn(3, channels, generator=generator)
    gradient[2] = 0
    leaf = start.clone().requires_grad_()
    leaf.grad = dense.T @ gradient
    optimizer = torch.optim.Adam([leaf], lr=0.1)
    for _ in range(2):
        optimizer.step()
    got = adam_blended(rows, start, gradient, threads=1)
    torch.testing.assert_close(got, leaf.detach(), atol=1e-5, rtol=0)
    assert torch.equal(got[[1, 3, 6]], start[[1, 3, 6]])


def test_weights_made_anew_at_each_step_give_the_same_bytes_as_cached_ones() -> None:
    config = dataclasses.replace(QUICK, steps=6)
    assert_same(
        lift_quickly(scene_of(), config),
        lift_quickly(scene_of(), config, memory_budget_gb=0.0),
    )


def test_weights_that_do_not_stay_are_made_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[str] = []

    def noted(*arguments: Any, **options: Any) -> Weights:
        makers.append(threading.current_thread().name)
        return blending_weights(*arguments, **options)

    monkeypatch.setattr("gs_lift.lifting.views.blending_weights", noted)
    lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=6), memory_budget_gb=0.0)
    looked_at, steps = makers[:4], makers[4:]
    assert not any(name.startswith("ahead") for name in looked_at)
    assert [name.startswith("ahead") for name in steps].count(True) == 5  # all but the first
    assert len(steps) == 6


def test_views_take_their_turns_at_random_where_not_all_may_speak() -> None:
    scene = scene_of()
    many = dataclasses.replace(scene, train=scene.train * 10)
    assert _turns(many, 40, 0) == list(range(40))
    turns = _turns(many, 39, 0)
    assert sorted(turns) == list(range(40))
    assert turns != list(range(40))
    assert turns == _turns(many, 5, 0) != _turns(many, 5, 1)


class Killed(Exception):
    """Ends a run without any farewell."""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, seed: int) -> None:
    whole = lift_quickly(scene_of(), seed=seed)
    checkpoints = Checkpoints(tmp_path, every=7)

    def kill(step: int, figures: dict[str, float]) -> None:
        if step == 17:
            raise Killed

    with pytest.raises(Killed):
        lift_quickly(scene_of(), seed=seed, checkpoints=checkpoints, on_step=kill)
    steps: list[int] = []
    resumed = lift_quickly(
        scene_of(), seed=seed, checkpoints=checkpoints, on_step=lambda step, figures: steps.append(step)
    )
    assert steps == list(range(15, 31))
    assert_same(whole, resumed)


def test_an_interrupt_saves_the_step_that_it_came_after(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1000)

    def interrupt(step: int, figures: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lift_quickly(scene_of(), checkpoints=checkpoints, on_step=interrupt)
    assert checkpoints.latest()[0] == 5
    assert_same(lift_quickly(scene_of()), lift_quickly(scene_of(), checkpoints=checkpoints))


def test_an_interrupt_after_a_checkpoint_does_not_write_it_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=5)
    path = tmp_path / "step_00000005.pt"

    def interrupt(step: int, figures: dict[str, float]) -> None:
        if step == 5:
            path.unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lift_quickly(scene_of(), checkpoints=checkpoints, on_step=interrupt)
    assert not path.exists()


def test_on_step_is_told_the_losses_by_name() -> None:
    seen: list[dict[str, float]] = []
    config = dataclasses.replace(QUICK, steps=2, losses=LossWeights(vanilla=0.5))
    lift_quickly(scene_of(), config, on_step=lambda step, figures: seen.append(figures))
    assert len(seen) == 2
    assert set(seen[0]) == {"loss", "contrastive", "concentration", "vanilla", "semantic"}


def test_neighbours_are_the_nearest_others_also_where_centres_coincide() -> None:
    means = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [5, 0, 0]])
    found = nearest(means, 2)
    assert [set(row.tolist()) for row in found] == [{1, 2}, {0, 2}, {0, 1}, {2, found[3].tolist()[1]}]
    assert all(i not in row for i, row in enumerate(found.tolist()))


@pytest.mark.parametrize("channels", [3, 4, 8, 16, 24, 45])
def test_smoothing_moves_each_towards_the_mean_of_its_neighbours(channels: int) -> None:
    features = torch.randn(5, channels, generator=torch.Generator().manual_seed(0))
    neighbours = torch.tensor([[1, 2], [0, 2], [4, 3], [2, 0], [0, 1]], dtype=torch.int32)
    expected = 0.75 * features + 0.25 * features[neighbours.long()].mean(dim=1)
    torch.testing.assert_close(smooth(features, neighbours, 0.25), expected)


def test_a_scene_of_one_gaussian_is_lifted() -> None:
    one = blobs().rows(torch.tensor([0]))
    embeddings = lift(scene_of(), one, dataclasses.replace(QUICK, steps=3), backend="reference")
    assert torch.isfinite(embeddings.fast).all()


def test_a_view_with_one_thing_pixel_and_nothing_else_is_harmless() -> None:
    instance, semantic = torch.full((SIZE, SIZE), -1), torch.full((SIZE, SIZE), VOID)
    instance[3, 4] = 5
    scene = with_segments(scene_of(), instance=instance, semantic=semantic)
    assert torch.isfinite(lift_quickly(scene, dataclasses.replace(QUICK, steps=5)).fast).all()


def test_a_view_without_segments_still_counts_for_visibility() -> None:
    scene = scene_of()
    blind = dataclasses.replace(scene.train[0], segments=None)
    config = dataclasses.replace(QUICK, steps=1)
    assert torch.equal(
        lift_quickly(dataclasses.replace(scene, train=(blind, *scene.train[1:])), config).visibility,
        lift_quickly(scene, config).visibility,
    )


UGLY = {
    "another size": (
        {
            "instance": torch.zeros(SIZE, SIZE + 1, dtype=torch.int64),
            "semantic": torch.zeros(SIZE, SIZE + 1, dtype=torch.int64),
            "confidence": torch.ones(SIZE, SIZE + 1),
        },
        r"view0: segments are \(20, 21\), the image \(20, 20\)",
    ),
    "an unknown class": ({"semantic": torch.full((SIZE, SIZE), 2)}, "view0: segments have class 2"),
    "a NaN": ({"confidence": torch.full((SIZE, SIZE), torch.nan)}, "view0: segments' confidence"),
}


@pytest.mark.parametrize(("tensors", "message"), UGLY.values(), ids=UGLY.keys())
def test_segments_that_cannot_be_used_are_named(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        lift_quickly(with_segments(scene_of(), **tensors))


def test_a_scene_without_any_segment_or_view_is_refused() -> None:
    scene = scene_of()
    none = tuple(dataclasses.replace(view, segments=None) for view in scene.train)
    with pytest.raises(SceneError, match="no training view has a segment of a thing"):
        lift_quickly(dataclasses.replace(scene, train=none))
    with pytest.raises(SceneError, match="no training views"):
        lift_quickly(dataclasses.replace(scene, train=()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dimensions", 0), ("pixels", 1), ("semantic_pixels", -1), ("neighbours", -1), ("steps", -1),
        ("pixels_per_view", 0), ("balance", 1.5), ("momentum", 1.1), ("pull", -0.1), ("final_rate", 0.0),
        ("learning_rate", 0.0), ("learning_rate", math.inf), ("semantic_rate", -0.1), ("initial_spread", -0.1),
        ("thing_weight", math.inf), ("minimum_weight", -1e-3), ("evidence_views", 0),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^lift\.{name}: wanted [^\n]*got {value}$"):
        LiftConfig(**{name: value})


FLOATS = [field.name for field in dataclasses.fields(LiftConfig) if field.type is float]


@pytest.mark.parametrize("name", FLOATS)
def test_nan_is_refused_in_every_float(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^lift\.{name}: wanted .*got nan$"):
        LiftConfig(**{name: math.nan})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LossWeights)])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_loss_weight_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^lift\.losses\.{name}: wanted .*got {value}$"):
        LossWeights(**{name: value})


@pytest.mark.parametrize("seed", [10_000_000_000_000, 2**63 - 1])
def test_every_seed_that_a_config_takes_lifts(seed: int) -> None:
    embeddings = lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=2), seed=seed)
    assert bool(embeddings.fast.isfinite().all())


def test_a_checkpoint_of_other_gaussians_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=1), checkpoints=checkpoints)
    with pytest.raises(RunError, match="other Gaussians or dimensions"):
        lift_quickly(scene_of(), dataclasses.replace(QUICK, dimensions=3), checkpoints=checkpoints)
