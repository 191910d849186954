"""Every recipe finds the blobs; the network against torch; what a recipe changes and what it leaves to the user."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BLOB, FLOOR, assert_same, lift_quickly, scene_of
from torch import Tensor

from gs_lift.checkpoint import Checkpoints
from gs_lift.config import Config, load_config
from gs_lift.errors import ConfigError
from gs_lift.lifting import METHODS, LiftConfig
from gs_lift.lifting.network import CentreNetwork

ALL = [(method, "table") for method in METHODS] + [("paper", "mlp")]


def quick_config(method: str, field: str, steps: int) -> Config:
    settings = [f"lift.method={method}", f"lift.field={field}", f"lift.steps={steps}", "lift.pixels=64"]
    settings += [
        "lift.semantic_pixels=64",
        "lift.neighbours=4",
        "cluster.min_size=4",
        "cluster.min_samples=2",
    ]
    if method == "linear_assignment":
        settings.append("lift.dimensions=8")
    return load_config(None, settings)


@pytest.mark.parametrize(("method", "field"), [one for one in ALL if one[0] != "mask_graph"])
def test_every_embedding_tells_the_blobs_apart(method: str, field: str) -> None:
    embeddings = lift_quickly(scene_of(), quick_config(method, field, 400).lift)
    seen = (BLOB < FLOOR) & (embeddings.visibility > 3)
    means = torch.stack(
        [embeddings.fast[seen & (blob == BLOB)].median(dim=0).values for blob in range(FLOOR)]
    )
    nearest = torch.cdist(embeddings.fast[seen], means).argmin(dim=1)
    assert (nearest == BLOB[seen]).float().mean() > 0.9
    assert torch.pdist(means).min() > 0.05


@pytest.mark.parametrize(("method", "field"), ALL[1:])
def test_every_method_resumes_to_the_same_bytes(method: str, field: str, tmp_path: Path) -> None:
    config = quick_config(method, field, 12).lift
    whole = lift_quickly(scene_of(), config)
    checkpoints = Checkpoints(tmp_path, every=5)

    def stop(step: int, figures: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lift_quickly(scene_of(), config, checkpoints=checkpoints, on_step=stop)
    steps: list[int] = []
    resumed = lift_quickly(
        scene_of(), config, checkpoints=checkpoints, on_step=lambda step, figures: steps.append(step)
    )
    assert steps == [8, 9, 10, 11, 12]
    assert_same(whole, resumed)


def test_assignment_copes_with_fewer_objects_than_segments() -> None:
    config = dataclasses.replace(quick_config("linear_assignment", "table", 60).lift, dimensions=2)
    number = lift_quickly(scene_of(), config).fast
    assert set(number.unique().tolist()) == {0.0, 1.0}


def test_the_mask_graph_learns_classes_and_no_embedding() -> None:
    embeddings = lift_quickly(scene_of(), quick_config("mask_graph", "table", 50).lift)
    assert not embeddings.fast.any()
    assert embeddings.semantic.any()


def torch_network(network: CentreNetwork) -> torch.nn.Sequential:
    """The same network, made of torch's own layers."""
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(network.fast[::2], network.fast[1::2], strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def random_network(seed: int) -> CentreNetwork:
    generator = torch.Generator().manual_seed(seed)
    return CentreNetwork(5 * torch.randn(30, 3, generator=generator) + 2, 4, generator)


@pytest.mark.parametrize("seed", range(2))
def test_the_network_and_its_steps_are_those_of_torch(seed: int) -> None:
    network = random_network(seed)
    oracle = torch_network(network)
    adam = torch.optim.Adam(oracle.parameters(), lr=5e-4)
    target = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    assert network.centres.amin() == -1
    assert network.centres.amax() == 1
    for step in range(1, 6):
        loss = (oracle(network.centres) - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        parameters = [tensor.requires_grad_() for tensor in network.fast]
        ours = (network.embeddings(parameters) - target).square().mean()
        gradients = torch.autograd.grad(ours, parameters)
        network.fast = [tensor.detach() for tensor in parameters]
        network.step(gradients, step, 5e-4, (0.9, 0.999))
        torch.testing.assert_close(ours, loss)
    rows = torch.tensor([3, 17])
    torch.testing.assert_close(network.embeddings(network.fast, rows), oracle(network.centres[rows]))


def test_slow_parameters_are_the_average_of_fast_ones() -> None:
    network = random_network(0)
    before: list[Tensor] = [tensor.clone() for tensor in network.slow]
    network.fast = [tensor + 1 for tensor in network.fast]
    network.follow(0.9)
    for old, new in zip(before, network.slow, strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_a_recipe_changes_what_nobody_set() -> None:
    config = load_config(None, ["lift.method=paper"])
    assert (config.lift.dimensions, config.lift.pull, config.lift.final_rate) == (3, 0, 1)
    assert config.cluster.consensus is False
    assert config.lift.pixels == LiftConfig().pixels


def test_the_user_has_the_last_word_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("lift:\n  dimensions: 5\n")
    overrides = ["cluster.consensus=true", "lift.method=paper"]
    config = load_config(tmp_path / "some.yaml", overrides)
    assert (config.lift.method, config.lift.dimensions, config.lift.pull) == ("paper", 5, 0)
    assert config.cluster.consensus is True


def test_a_saved_config_of_a_recipe_reads_back(tmp_path: Path) -> None:
    from gs_lift.config import dump_config

    config = load_config(None, ["lift.method=vanilla", "lift.pull=0.2"])
    (tmp_path / "saved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize("name", ["method", "field"])
def test_an_unknown_recipe_or_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no lift.{name} 'papper'"):
        load_config(None, [f"lift.{name}=papper"])


def test_every_setting_of_a_recipe_is_one() -> None:
    from gs_lift.config import flatten

    known = flatten(Config())
    for method in METHODS.values():
        assert set(method.settings) <= set(known)
    assert np.unique([method.learns for method in METHODS.values()]).tolist() == [
        "assignment",
        "contrast",
        "nothing",
    ]
