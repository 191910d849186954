"""Several views a step: every method learns by them, and their mean is the gradient of one where there is one."""

import dataclasses

import pytest
import torch
from blobs import BLOB, FLOOR, QUICK, blobs, lift_quickly, scene_of
from test_lifting_methods import ALL, quick_config

from gs_lift.lanes import Lanes
from gs_lift.lifting import LiftConfig
from gs_lift.lifting.learners import ClassLearner, InstanceLearner, instance_learner
from gs_lift.lifting.views import Blender, Reader, prepare

BATCHES = dataclasses.replace(QUICK, steps=100, batch=3, neighbours=4)


@pytest.mark.parametrize(("method", "field"), [one for one in ALL if one[0] != "mask_graph"])
def test_every_method_learns_from_batches(method: str, field: str) -> None:
    config = dataclasses.replace(quick_config(method, field, 150).lift, batch=3)
    # Of seed 0 linear assignment gives two blobs one number, and stays there: views of a step match against each other.
    embeddings = lift_quickly(scene_of(), config, seed=1)
    seen = (BLOB < FLOOR) & (embeddings.visibility > 3)
    means = torch.stack(
        [embeddings.fast[seen & (blob == BLOB)].median(dim=0).values for blob in range(FLOOR)]
    )
    assert (torch.cdist(embeddings.fast[seen], means).argmin(dim=1) == BLOB[seen]).float().mean() > 0.9
    right = embeddings.semantic.argmax(dim=1) == (BLOB < FLOOR).long()
    assert right[embeddings.visibility > 5].float().mean() > 0.95


def test_the_method_that_learns_nothing_has_batches_too() -> None:
    config = dataclasses.replace(quick_config("mask_graph", "table", 3).lift, batch=2)
    figures: list[set[str]] = []
    lift_quickly(scene_of(), config, on_step=lambda step, found: figures.append({*found}))
    assert figures == [{"loss", "semantic"}] * 3


def test_the_losses_of_a_batch_are_reported_by_name() -> None:
    seen: list[dict[str, float]] = []
    lift_quickly(
        scene_of(), dataclasses.replace(BATCHES, steps=1), on_step=lambda step, found: seen.append(found)
    )
    assert {*seen[0]} == {"loss", "semantic", "contrastive", "concentration"}
    assert seen[0]["loss"] == pytest.approx(seen[0]["contrastive"] + seen[0]["concentration"], rel=1e-5)


def learners(config: LiftConfig) -> tuple[InstanceLearner, ClassLearner]:
    gaussians = blobs()
    return instance_learner(gaussians, config, 0), ClassLearner(
        len(gaussians), torch.tensor([False, True]), config
    )


@pytest.mark.parametrize(("method", "field"), ALL)
def test_a_gradient_and_a_descent_are_a_step(method: str, field: str) -> None:
    config, lanes = quick_config(method, field, 100).lift, Lanes(1, 0)
    blender = Blender(blobs(), "reference", config.minimum_weight)
    prepared = prepare(Reader(scene_of(), 400, 0), blender, lanes, evidence_views=9, budget_gb=1)
    whole, halves = learners(config), learners(config)
    for step in range(1, len(prepared.views[0]) + 1):
        view = prepared.view(0, step - 1)
        generator = torch.Generator().manual_seed(step)
        things = torch.randperm(len(view.things), generator=generator)
        labelled = torch.randperm(len(view.labelled), generator=generator)
        of_things, of_labelled = view.rows((view.things.rows[things], view.labelled.rows[labelled]), blender)
        seen = view, labelled, of_labelled, things, of_things
        figures = whole[0].learn(step, view, things, of_things)
        loss = whole[1].learn(step, *seen)
        got, *part = halves[0].gradient(step, view, things, of_things)
        halves[0].descend(step, *part)
        assert got == pytest.approx(figures, rel=1e-4)
        got, *part = halves[1].gradient(step, *seen)
        halves[1].descend(step, *part)
        assert got == pytest.approx(loss)
    for one, other in zip(whole, halves, strict=True):
        for name, tensor in one.tensors().items():
            torch.testing.assert_close(other.tensors()[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_batch_changes_nothing_of_what_the_segments_cover() -> None:
    one, three = (
        lift_quickly(scene_of(), dataclasses.replace(QUICK, steps=1, batch=batch)) for batch in (1, 3)
    )
    torch.testing.assert_close(three.visibility, one.visibility)
    assert one.evidence is not None
    assert three.evidence is not None
    for name, tensor in vars(one.evidence).items():
        assert torch.equal(getattr(three.evidence, name), tensor), name


def test_there_are_no_more_lanes_than_views_with_segments() -> None:
    scene = scene_of()
    scene = dataclasses.replace(
        scene, train=(scene.train[0], *(dataclasses.replace(one, segments=None) for one in scene.train[1:]))
    )
    embeddings = lift_quickly(scene, dataclasses.replace(BATCHES, steps=5))
    assert embeddings.evidence is not None
    assert embeddings.evidence.view.unique().tolist() == [0]
    torch.testing.assert_close(embeddings.visibility, lift_quickly(scene_of(), QUICK).visibility)
