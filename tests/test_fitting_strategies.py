"""What the strategies do to Gaussians and to the optimizers' moments."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from gs_lift.errors import ConfigError, pick
from gs_lift.fitting import STRATEGIES, FitConfig
from gs_lift.fitting.default import Default, _Capped
from gs_lift.fitting.mcmc import MCMC, MOST_COPIES, add, relocate, shake, shared
from gs_lift.fitting.optimizer import RowAdam
from gs_lift.fitting.strategies import Moment, Optimizers, Parameters

CONFIG = FitConfig(steps=1000, densify_from=0, densify_every=10, densify_until=1.0)


def make_parameters(count: int, seed: int = 0) -> tuple[Parameters, Optimizers]:
    """Random Gaussians of scale 0.02 .. 0.05; moments hold each row's number, to see where it goes."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "means": torch.randn(count, 3, generator=generator),
        "quats": torch.randn(count, 4, generator=generator),
        "scales": torch.log(0.02 + 0.03 * torch.rand(count, 3, generator=generator)),
        "opacities": torch.logit(0.1 + 0.8 * torch.rand(count, generator=generator)),
        "sh": torch.randn(count, 4, 3, generator=generator),
    }
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    optimizers = {name: RowAdam(parameter, lr=0.1) for name, parameter in parameters.items()}
    for optimizer in optimizers.values():
        optimizer.moments["exp_avg"] += torch.arange(1, count + 1).view(
            -1, *[1] * (optimizer.parameter.dim() - 1)
        )
    return parameters, optimizers


def info_with(gradients: torch.Tensor, radii: torch.Tensor) -> dict[str, Any]:
    """What a 200 x 100 rasterization leaves behind whose gradients by means2d [1 N 2] are these, in pixels."""
    means2d = torch.zeros_like(gradients).requires_grad_()
    means2d.grad = gradients
    return {"means2d": means2d, "radii": radii, "width": 200, "height": 100, "n_cameras": 1}


def refine(
    count: int, norms: list[float], config: FitConfig = CONFIG, extent: float = 10.0, **edits: torch.Tensor
):  # type: ignore[no-untyped-def]
    """One round of the default strategy; norms[i] is the gradient of Gaussian i in screen units -1..1."""
    parameters, optimizers = make_parameters(count)
    for name, tensor in edits.items():
        parameters[name].data[:] = tensor
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    strategy = STRATEGIES["default"](config, extent)
    state = strategy.initial_state()
    gradients = torch.zeros(1, count, 2)
    gradients[0, :, 0] = torch.tensor(norms) / (200 / 2)
    info = info_with(gradients, torch.full((1, count, 2), 3, dtype=torch.int32))
    strategy.after_step(parameters, optimizers, state, info, Moment(step=10, means_lr=1e-3, seed=0))
    return before, parameters, optimizers


@pytest.mark.parametrize("absgrad", [False, True])
def test_running_sums_are_those_of_gsplat(absgrad: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters, _ = make_parameters(40)
    ours, theirs = (make(absgrad=absgrad) for make in (_Capped, DefaultStrategy))
    states = ours.initialize_state(), theirs.initialize_state()
    for _ in range(3):
        radii = torch.randint(-1, 3, (1, 40, 2), generator=generator, dtype=torch.int32)
        info = info_with(torch.randn(1, 40, 2, generator=generator), radii)
        info["means2d"].absgrad = torch.rand(1, 40, 2, generator=generator)
        for rules, state in zip((ours, theirs), states, strict=True):
            rules._update_state(parameters, state, {**info, "gaussian_ids": None})
    assert torch.equal(states[0]["count"], states[1]["count"])
    torch.testing.assert_close(states[0]["grad2d"], states[1]["grad2d"])


def test_small_gaussians_that_the_image_pulls_are_cloned() -> None:
    before, after, optimizers = refine(4, [0, 1e-3, 0, 3e-4])  # extent 10: all scales are below 0.01 * 10
    assert len(after["means"]) == 6
    for name in before:
        assert torch.equal(after[name], torch.cat([before[name], before[name][[1, 3]]]))
    assert optimizers["means"].moments["exp_avg"][:, 0].tolist() == [1, 2, 3, 4, 0, 0]


def test_large_gaussians_that_the_image_pulls_are_split_in_two_smaller_ones() -> None:
    before, after, _ = refine(3, [0, 1e-3, 0], extent=0.1)  # all scales are above 0.01 * 0.1
    assert len(after["means"]) == 4
    torch.testing.assert_close(after["scales"][2:], (before["scales"][1] - math.log(1.6)).expand(2, 3))
    assert torch.equal(after["means"][:2], before["means"][[0, 2]])
    assert (after["means"][2:] - before["means"][1]).norm(dim=1).max() < 5 * 0.05


def test_faint_gaussians_are_removed() -> None:
    opacities = torch.logit(torch.tensor([0.5, 0.004, 0.006]))
    before, after, optimizers = refine(3, [0, 0, 0], opacities=opacities)
    assert torch.equal(after["means"], before["means"][[0, 2]])
    assert optimizers["sh"].moments["exp_avg"][:, 0, 0].tolist() == [1, 3]


def test_the_strongest_pulls_come_first_where_room_is_short() -> None:
    config = replace(CONFIG, max_gaussians=6)
    before, after, _ = refine(4, [5e-4, 9e-4, 4e-4, 8e-4], config)
    assert torch.equal(after["means"], torch.cat([before["means"], before["means"][[1, 3]]]))


@pytest.mark.parametrize("room", [4, 3])
def test_no_room_no_growth(room: int) -> None:
    _, after, _ = refine(4, [1, 1, 1, 1], replace(CONFIG, max_gaussians=room))
    assert len(after["means"]) == 4


def test_opacities_are_reset_at_their_step_only() -> None:
    config = replace(CONFIG, densify_from=900, reset_every=30)
    parameters, optimizers = make_parameters(5)
    strategy, info = Default.from_config(config, 1.0), info_with(torch.zeros(1, 5, 2), torch.ones(1, 5, 2))
    state = strategy.initial_state()
    for step in (29, 30):
        opacities = parameters["opacities"].sigmoid()
        strategy.after_step(parameters, optimizers, state, info, Moment(step, 1e-3, 0))
        reset = parameters["opacities"].sigmoid()
        assert torch.equal(reset, opacities) == (step == 29)
    torch.testing.assert_close(reset.detach(), torch.full((5,), 2 * config.prune_opacity))
    assert optimizers["opacities"].moments["exp_avg"].abs().max() == 0


def test_splits_draw_from_seed_and_step_alone() -> None:
    drawn = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        drawn.append(refine(3, [1e-3, 1e-3, 0], extent=0.1)[1]["means"].detach())
    assert torch.equal(*drawn)


def test_shared_gaussians_follow_the_double_sum_of_the_paper() -> None:
    opacities = torch.tensor([0.2, 0.7, 0.95, 0.5], dtype=torch.float64)
    copies = torch.tensor([1, 2, 5, 23])
    scales = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).repeat(4, 1)
    parts, smaller = shared(opacities, scales, copies)
    for i, (opacity, count) in enumerate(zip(opacities.tolist(), copies.tolist(), strict=True)):
        part = 1 - (1 - opacity) ** (1 / count)
        total = sum(
            math.comb(a - 1, k) * (-1) ** k / math.sqrt(k + 1) * part ** (k + 1)
            for a in range(1, count + 1)
            for k in range(a)
        )
        assert float(parts[i]) == pytest.approx(part, rel=1e-12)
        torch.testing.assert_close(smaller[i], opacity / total * scales[i], rtol=1e-9, atol=0)


def test_one_copy_changes_nothing_and_many_count_as_the_most() -> None:
    opacity, scale = torch.tensor([0.6]), torch.ones(1, 3)
    part, smaller = shared(opacity, scale, torch.tensor([1]))
    torch.testing.assert_close((part, smaller), (opacity, scale))
    most, more = (shared(opacity, scale, torch.tensor([count])) for count in (MOST_COPIES, MOST_COPIES + 20))
    assert torch.equal(most[0], more[0])
    # n layers of the part let through what the whole lets through.
    assert float((1 - most[0]) ** MOST_COPIES) == pytest.approx(0.4, rel=1e-4)


def test_dead_gaussians_move_onto_living_ones() -> None:
    parameters, optimizers = make_parameters(6)
    parameters["opacities"].data[[1, 4]] = torch.logit(torch.tensor(0.003))
    before = parameters["means"].detach().clone()
    relocate(parameters, optimizers, 0.005, torch.Generator().manual_seed(0))
    living = [0, 2, 3, 5]
    for dead in (1, 4):
        matches = (parameters["means"][dead] == before[living]).all(dim=1)
        assert matches.sum() == 1
        host = living[int(matches.int().argmax())]
        assert torch.equal(parameters["opacities"][dead], parameters["opacities"][host])
        assert optimizers["means"].moments["exp_avg"][host].abs().max() == 0
    assert torch.equal(parameters["means"][living], before[living])


def test_relocation_without_a_living_gaussian_leaves_all_in_place() -> None:
    parameters, optimizers = make_parameters(3)
    parameters["opacities"].data[:] = -20
    before = parameters["means"].detach().clone()
    relocate(parameters, optimizers, 0.005, torch.Generator().manual_seed(0))
    assert torch.equal(parameters["means"], before)


def test_added_gaussians_share_the_place_of_their_hosts() -> None:
    parameters, optimizers = make_parameters(5)
    before = parameters["means"].detach().clone()
    add(parameters, optimizers, 3, 0.005, torch.Generator().manual_seed(1))
    assert len(parameters["means"]) == len(optimizers["sh"].moments["exp_avg"]) == 8
    assert all(bool((row == before).all(dim=1).any()) for row in parameters["means"][5:])
    assert optimizers["means"].moments["exp_avg"][:, 0].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert optimizers["means"].parameter is parameters["means"]


def test_mcmc_grows_by_a_twentieth_up_to_the_cap() -> None:
    parameters, optimizers = make_parameters(100)
    strategy = MCMC.from_config(replace(CONFIG, strategy="mcmc", max_gaussians=108), 1.0)
    counts = []
    for step in range(10, 50, 10):
        strategy.after_step(parameters, optimizers, {}, {}, Moment(step, 0.0, 0))
        counts.append(len(parameters["means"]))
    assert counts == [105, 108, 108, 108]


def test_noise_shakes_faint_gaussians_along_their_covariance() -> None:
    count = 20_000
    parameters, _ = make_parameters(count)
    parameters["means"].data[:] = 0
    parameters["quats"].data[:] = torch.tensor([1.0, 0, 0, 0])
    parameters["scales"].data[:] = torch.tensor([1.0, 2.0, 3.0]).log()
    parameters["opacities"].data[: count // 2] = torch.logit(
        torch.tensor(0.005)
    )  # sigmoid(0) = half the noise
    parameters["opacities"].data[count // 2 :] = torch.logit(torch.tensor(0.5))
    shake(parameters, 0.1, torch.Generator().manual_seed(0))
    faint, solid = parameters["means"].detach().split(count // 2)
    torch.testing.assert_close(faint.std(dim=0), 0.05 * torch.tensor([1.0, 4.0, 9.0]), rtol=0.03, atol=0)
    assert solid.abs().max() < 1e-12


def test_mcmc_does_the_same_in_metres_and_in_millimetres() -> None:
    moved = []
    for unit in (1.0, 1000.0):
        parameters, optimizers = make_parameters(50)
        parameters["means"].data *= unit
        parameters["scales"].data += math.log(unit)
        strategy = MCMC.from_config(replace(CONFIG, strategy="mcmc"), extent=2 * unit)
        strategy.after_step(parameters, optimizers, {}, {}, Moment(10, 1e-4 * 2 * unit, 0))
        moved.append((parameters["means"].detach() / unit, strategy.penalty(parameters).detach()))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)


def test_an_unknown_strategy_is_told_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no fit\.strategy 'adc'; one of: default, mcmc"):
        pick(STRATEGIES, "adc", "fit.strategy")
