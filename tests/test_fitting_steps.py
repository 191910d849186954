"""The fused step is the step that autograd takes: the same loss, gradients, moments and parameters, to rounding."""

import dataclasses
import math

import pytest
import torch
from random_data import random_camera, random_gaussians
from torch import Tensor

from gs_lift import _native
from gs_lift.fitting.batches import BatchStep
from gs_lift.fitting.optimizer import RowAdam
from gs_lift.fitting.steps import (
    AutogradStep,
    FusedStep,
    Optimizers,
    Parameters,
    Shot,
    Step,
    image_gradients,
    step_for,
)

WIDTH, HEIGHT = 45, 38
RATES = {"means": 1e-3, "quats": 1e-3, "scales": 5e-3, "opacities": 5e-2, "sh": 1e-4}


def start(degree: int, count: int = 300) -> tuple[Parameters, Optimizers]:
    gaussians = random_gaussians(1, count, sh_degree=degree, spread=2.0, scales=(0.03, 0.3))
    named = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": gaussians.log_scales,
        "opacities": gaussians.logit_opacities,
        "sh": gaussians.sh,
    }
    parameters = {name: torch.nn.Parameter(value.float().contiguous()) for name, value in named.items()}
    return parameters, {
        name: RowAdam(parameter, RATES[name], head=3 * (name == "sh"), head_lr=2e-3)
        for name, parameter in parameters.items()
    }


def shot(seed: int, degree: int) -> Shot:
    generator = torch.Generator().manual_seed(seed)
    image, background = (torch.rand(*shape, generator=generator) for shape in ((HEIGHT, WIDTH, 3), (3,)))
    return Shot(random_camera(seed, WIDTH, HEIGHT), image, background, degree)


def penalty_of(parameters: Parameters) -> Tensor:
    return 0.3 * parameters["opacities"].sigmoid().mean() + 0.2 * parameters["scales"].exp().mean()


def close(name: str, got: Tensor, wanted: Tensor, share: float = 2e-4) -> None:
    error, scale = float((got - wanted).abs().max()), float(wanted.abs().max())
    assert scale > 0, f"{name}: nothing to compare"
    assert error <= share * scale, f"{name}: off by {error:.2e}, largest entry {scale:.2e}"


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gradients_are_those_of_the_oracle(degree: int, absgrad: bool) -> None:
    ours, theirs = start(degree), start(degree)
    fused, oracle = FusedStep(), AutogradStep("reference")
    loss = fused.loss(ours[0], shot(3, degree), 0.2, absgrad)
    assert loss == pytest.approx(oracle.loss(theirs[0], shot(3, degree), 0.2, absgrad), rel=1e-5)
    info = fused.descend(*ours, None)
    wanted = oracle.descend(*theirs, None)
    for name in ours[0]:
        # After one step the first moment is a tenth of the gradient.
        close(name, ours[1][name].moments["exp_avg"], theirs[1][name].moments["exp_avg"])
    close("means2d", info["means2d"].grad, wanted["means2d"].grad)
    assert torch.equal(info["radii"], wanted["radii"])
    assert (info["width"], info["height"], info["n_cameras"]) == (WIDTH, HEIGHT, 1)
    if absgrad:
        close("absgrad", info["means2d"].absgrad, wanted["means2d"].absgrad)


@pytest.mark.parametrize("penalised", [False, True])
def test_ten_steps_end_where_autograd_ends(penalised: bool) -> None:
    ends, begun = [], start(2)[0]
    for step in (FusedStep(), AutogradStep("cpu")):
        parameters, optimizers = start(2)
        for seed in range(10):
            step.loss(parameters, shot(seed, 2), 0.2, False)
            step.descend(parameters, optimizers, penalty_of(parameters) if penalised else None)
        ends.append(parameters)
    for name, first in begun.items():
        # Adam divides by the gradient's size: where that is rounding, so is the direction.
        fused, autograd, first = (values.detach() for values in (ends[0][name], ends[1][name], first))
        moved, apart = (autograd - first).abs(), (fused - autograd).abs()
        assert float(moved.mean()) > 0
        assert float(apart.mean()) < 0.01 * float(moved.mean()), name


@pytest.mark.parametrize("step", [FusedStep(sparse=True), AutogradStep("cpu", sparse=True)])
def test_a_sparse_step_leaves_what_is_not_seen_as_it_is(step: Step) -> None:
    parameters, optimizers = start(1)
    for seed in (3, 4):  # the second step has momentum to go on with
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        moments = {name: optimizer.moments["exp_avg"].clone() for name, optimizer in optimizers.items()}
        step.loss(parameters, shot(seed, 1), 0.2, False)
        radii = step.descend(parameters, optimizers, None)["radii"][0]
        unseen = (radii == 0).all(dim=1)  # others may be hidden, or between the pixels
        assert 10 < int(unseen.sum()) < 290
        for name, parameter in parameters.items():
            assert torch.equal(parameter[unseen], before[name][unseen]), name
            assert torch.equal(optimizers[name].moments["exp_avg"][unseen], moments[name][unseen]), name
            assert not torch.equal(parameter[~unseen], before[name][~unseen]), name


def test_a_sparse_step_moves_the_seen_as_a_dense_one() -> None:
    ends = []
    for sparse in (False, True):
        parameters, optimizers = start(0)
        step = FusedStep(sparse)
        step.loss(parameters, shot(3, 0), 0.2, False)
        step.descend(parameters, optimizers, None)
        ends.append(parameters["means"].detach().clone())
    assert torch.equal(ends[0], ends[1])  # the first step has no momentum: what is not seen does not move


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_takes_the_same_step(level: str) -> None:
    before, ends = _native.simd_level(), []
    for name in (level, before):
        if not _native.use_simd_level(name):
            pytest.skip(f"this CPU or build has no {level}")
        try:
            parameters, optimizers = start(3)
            step = FusedStep()
            step.loss(parameters, shot(5, 3), 0.2, False)
            step.descend(parameters, optimizers, None)
        finally:
            _native.use_simd_level(before)
        ends.append({name: optimizer.moments["exp_avg"] for name, optimizer in optimizers.items()})
    for name in ends[0]:
        close(name, ends[0][name], ends[1][name])


def test_a_step_wants_its_two_halves_in_turn_and_shapes_that_fit() -> None:
    parameters, optimizers = start(1)
    step = FusedStep()
    step.loss(parameters, shot(3, 1), 0.2, False)
    step.descend(parameters, optimizers, None)
    with pytest.raises(ValueError, match="forward first"):
        step.descend(parameters, optimizers, None)
    with pytest.raises(ValueError, match="sh: 900 values wanted, got 3600"):
        step.loss(parameters, shot(3, 0), 0.2, False)


def test_the_number_of_gaussians_may_change_between_steps() -> None:
    step, losses = FusedStep(), []
    for count in (300, 20, 0, 300):
        parameters, optimizers = start(0, count)
        losses.append(step.loss(parameters, shot(3, 0), 0.2, False))
        step.descend(parameters, optimizers, None)
    assert losses[0] == losses[3] != losses[1]


def test_only_the_cpu_has_a_fused_step() -> None:
    assert isinstance(step_for("cpu", torch.device("cpu"), False), FusedStep)
    assert isinstance(step_for("reference", torch.device("cpu"), False), AutogradStep)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_of_a_batch_goes_down_the_mean_gradient_of_its_views(sparse: bool) -> None:
    seeds, ends = (3, 4, 5), []
    for single in (FusedStep(), AutogradStep("reference")):
        parameters, optimizers = start(2)
        batch = BatchStep(single, len(seeds), sparse)
        loss = batch.loss(parameters, [shot(seed, 2) for seed in seeds], 0.2, True)
        info = batch.descend(parameters, optimizers, penalty_of(parameters))
        ends.append((loss, optimizers, info["pull"]))
    (ours, theirs), (one, other) = ([end[1] for end in ends], [end[2] for end in ends])
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    for name in ours:
        close(name, ours[name].moments["exp_avg"], theirs[name].moments["exp_avg"])
    close("pull", one[0], other[0])
    assert torch.equal(one[1], other[1])

    # By hand, of what every pixel sees: sum up, divide by three.
    parameters, _ = start(2)
    losses, total, pull = 0.0, torch.zeros(300), torch.zeros(300)
    step = AutogradStep("reference")
    for seed in seeds:
        losses += step.loss(parameters, shot(seed, 2), 0.2, True)
        gradients, info = step.gradient(parameters)
        total += gradients["opacities"]
        pull += image_gradients(info, True)[0]
    assert ends[1][0] == pytest.approx(losses / 3)
    more = torch.autograd.grad(penalty_of(parameters), parameters["opacities"])[0]
    seen = total != 0
    wanted = total / 3 + (torch.where(seen, more, 0.0) if sparse else more)
    close("opacities", theirs["opacities"].moments["exp_avg"], 0.1 * wanted)
    close("pull", other[0], pull)


def test_the_gradient_of_a_fused_step_changes_no_parameter() -> None:
    parameters, _ = start(1)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    step = FusedStep()
    step.loss(parameters, shot(3, 1), 0.2, False)
    step.gradient(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name]), name


def test_a_photo_that_is_not_a_number_is_the_loss_of_its_batch_and_moves_nothing() -> None:
    parameters, _ = start(1)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    broken = dataclasses.replace(shot(4, 1), image=torch.full((HEIGHT, WIDTH, 3), math.nan))
    assert math.isnan(BatchStep(FusedStep(), 2, True).loss(parameters, [broken, shot(3, 1)], 0.2, False))
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name]), name
