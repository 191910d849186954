"""How classes are learnt: the segment-consistency loss against torch, and what it is for."""

import dataclasses

import pytest
import scipy.sparse
import torch
from blobs import BLOB, FLOOR, QUICK, lift_quickly, scene_of
from torch import Tensor

from gs_lift.lifting import LiftConfig
from gs_lift.lifting.learners import ClassLearner
from gs_lift.lifting.sampling import LabelledPixels, ThingPixels
from gs_lift.lifting.views import TrainingView
from gs_lift.rendering.weights import Weights
from gs_lift.scene import Scene

CLASSES = 4


def random_view(seed: int, pixels: int = 40, gaussians: int = 15) -> tuple[TrainingView, Tensor]:
    """A view whose first half are pixels of five segments, and whose second half has classes; and its dense W."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(pixels, gaussians, generator=generator) * (
        torch.rand(pixels, gaussians, generator=generator) < 0.3
    )
    dense[:, 0] += 0.1
    sparse = scipy.sparse.csr_array(dense.numpy())
    indptr, indices, values = (
        torch.from_numpy(each) for each in (sparse.indptr, sparse.indices, sparse.data)
    )
    weights = Weights(indptr.long(), indices, values, gaussians)
    half = pixels // 2
    segment = torch.arange(5).repeat_interleave(half // 5)
    confidence = torch.rand(half, generator=generator)
    things = ThingPixels(torch.arange(half), segment, confidence, torch.arange(6) * (half // 5))
    classes = torch.randint(CLASSES, (half,), generator=generator)
    labelled = LabelledPixels(torch.arange(half, pixels), classes, confidence.flip(0))
    return TrainingView(scene_of().train[0], torch.arange(pixels), things, labelled, weights), dense


@pytest.mark.parametrize("seed", range(3))
def test_a_step_follows_the_gradient_of_both_losses(seed: int) -> None:
    view, dense = random_view(seed)
    assert view.weights is not None
    config = LiftConfig(steps=10, consistency=0.7, consistency_start=0.0, thing_weight=3.0)
    is_thing = torch.tensor([False, True, False, True])
    learner = ClassLearner(dense.shape[1], is_thing, config)
    learner.logits = torch.randn(dense.shape[1], CLASSES, generator=torch.Generator().manual_seed(seed + 9))
    logits = learner.logits.clone().requires_grad_()
    labelled, things = torch.arange(20), torch.arange(20)
    loss = learner.learn(
        1, view, labelled, view.weights.pick(view.labelled.rows), things, view.weights.pick(view.things.rows)
    )
    blended = dense @ logits.softmax(dim=1)
    log = (blended / blended.sum(dim=1, keepdim=True)).log()
    mean = torch.stack([log[:20][view.things.segment == one].mean(dim=0) for one in range(5)])
    agreed = mean.argmax(dim=1)[view.things.segment]
    assert len(agreed.unique()) > 1
    classes = view.labelled.classes
    own = torch.where(is_thing[classes], 3.0, 1.0) * view.labelled.confidence
    expected = -(own * log[20:].gather(1, classes[:, None])[:, 0]).mean()
    expected = expected - 0.7 * (view.things.confidence * log[:20].gather(1, agreed[:, None])[:, 0]).mean()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    # Adam's first step goes against the sign of each gradient, by the learning rate.
    moved = learner.logits - logits.detach()
    clear = logits.grad.abs() > 1e-4
    assert clear.float().mean() > 0.5
    assert torch.equal(moved[clear].sign(), -logits.grad[clear].sign())


def speckled(share: float) -> Scene:
    """The blobs, with the class of so many of their pixels, drawn at random, that of the floor."""
    scene = scene_of()

    def spoiled(number: int):  # type: ignore[no-untyped-def]
        segments = scene.train[number].segments()
        flip = torch.rand(segments.semantic.shape, generator=torch.Generator().manual_seed(number)) < share
        semantic = torch.where(flip & (segments.instance >= 0), 2, segments.semantic)
        return lambda: dataclasses.replace(segments, semantic=semantic)

    views = [dataclasses.replace(view, segments=spoiled(n)) for n, view in enumerate(scene.train)]
    classes = dataclasses.replace(
        scene.classes, names=(*scene.classes.names, "lamp"), is_thing=(False, True, True)
    )
    return dataclasses.replace(scene, train=tuple(views), classes=classes)


def test_segments_that_disagree_with_themselves_get_one_class() -> None:
    config = dataclasses.replace(QUICK, steps=200, thing_weight=1.0, consistency_start=0.3)
    sure = []
    for consistency in (0.0, 2.0):
        settings = dataclasses.replace(config, consistency=consistency)
        embeddings = lift_quickly(speckled(0.4), settings)
        probability = embeddings.semantic.softmax(dim=1)[:, 1]
        sure.append(float(probability[(BLOB < FLOOR) & (embeddings.visibility > 3)].mean()))
    assert sure[0] < 0.75
    assert sure[1] > sure[0] + 0.1
