"""The losses, held to what the authors' own functions return."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gs_lift.lifting.losses import (
    LOSSES,
    LossWeights,
    concentration,
    contrastive,
    instance_loss,
    semantic_cross_entropy,
    vanilla,
)
from gs_lift.rendering.weights import Weights

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parent.parent.parent / "shared" / "golden"
"""Two more cases, too large for the repository."""


def cases(folder: Path, wanted: set[int] | None = None) -> list[tuple[dict, dict[str, np.ndarray]]]:
    if not (folder / "loss_shared.json").exists():
        return []
    arrays = np.load(folder / "loss_shared.npz")
    found = []
    for case in json.loads((folder / "loss_shared.json").read_text()):
        if wanted is None or case["case"] in wanted:
            prefix = f"{case['case']}_"
            found.append((case, {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}))
    return found


def hold_slow_fast(case: dict, data: dict[str, np.ndarray]) -> None:
    features = torch.from_numpy(data["features"]).requires_grad_()
    fast, slow = features.chunk(2, dim=1)
    loss, _ = instance_loss(
        fast, slow, torch.from_numpy(data["labels"]), torch.from_numpy(data["confidences"]), LossWeights()
    )
    loss.backward()
    expected = case["slow_fast_loss"]
    if expected is None or np.isnan(expected):
        expected = 0.0
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(features.grad, np.nan_to_num(data["grad"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("case", "data"), cases(GOLDEN), ids=lambda item: str(item.get("case", "")))
def test_slow_fast_gives_the_authors_loss_and_gradient(case: dict, data: dict[str, np.ndarray]) -> None:
    hold_slow_fast(case, data)


@pytest.mark.parametrize(("case", "data"), cases(GOLDEN), ids=lambda item: str(item.get("case", "")))
def test_vanilla_gives_the_authors_loss_and_gradient(case: dict, data: dict[str, np.ndarray]) -> None:
    features = torch.from_numpy(data["vanilla_features"]).requires_grad_()
    labels, confidence = torch.from_numpy(data["labels"]), torch.from_numpy(data["confidences"])
    loss = vanilla(features, features, labels, confidence, temperature=case["vanilla_temperature"])
    loss.backward()
    assert loss.item() == pytest.approx(case["vanilla_loss"], abs=1e-6)
    np.testing.assert_allclose(features.grad, data["vanilla_grad"], atol=1e-6, rtol=0)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/golden is not here")
def test_slow_fast_gives_the_authors_figures_on_a_whole_batch_too() -> None:
    for case, data in cases(SHARED, {8, 9}):
        hold_slow_fast(case, data)


def test_contrastive_is_the_softmax_of_the_kernel_by_arithmetic() -> None:
    # One fast pixel at 0; slow pixels of its segment at distance 1, of another at distance 2.
    fast = torch.tensor([[0.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    slow = torch.tensor([[9.0], [9.0], [1.0], [2.0]], dtype=torch.float64)
    own, other = np.exp(np.exp(-1)), np.exp(np.exp(-2))
    loss = contrastive(fast, slow, torch.tensor([7, 5, 7, 9]), torch.ones(4, dtype=torch.float64))
    # Segment 5 has no pixel in the second half: it does not count.
    assert loss.item() == pytest.approx(-np.log(own / (own + other)), abs=1e-12)


def test_concentration_weighs_pixels_by_confidence_and_segments_alike() -> None:
    fast = torch.tensor([[0.0], [1.0], [5.0], [0.0], [2.0], [5.0]], dtype=torch.float64)
    slow = torch.tensor([[9.0], [9.0], [9.0], [0.0], [2.0], [5.0]], dtype=torch.float64)
    segment = torch.tensor([0, 0, 1, 0, 0, 1])
    confidence = torch.tensor([0.5, 1.0, 0.25, 1.0, 1.0, 1.0], dtype=torch.float64)
    expected = -((0.5 * np.exp(-1) + 1.0) / 2 + 0.25) / 2
    assert concentration(fast, slow, segment, confidence).item() == pytest.approx(expected, abs=1e-12)


def random_batch(seed: int, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    fast = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    slow = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    segment = torch.randint(0, 9, (count,), generator=generator)
    return fast.to(dtype), slow.to(dtype), segment, torch.rand(count, generator=generator).to(dtype)


@pytest.mark.parametrize("name", ["contrastive", "concentration", "vanilla"])
@pytest.mark.parametrize("seed", [0, 1])
def test_single_precision_follows_double(name: str, seed: int) -> None:
    values, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        fast, slow, segment, confidence = random_batch(seed, 301, dtype)
        fast.requires_grad_()
        loss = LOSSES[name](fast, slow, segment, confidence)
        loss.backward()
        values.append(loss.item())
        gradients.append(fast.grad.double())
    assert values[1] == pytest.approx(values[0], rel=2e-6)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=1e-4)


def test_contrastive_gives_the_same_bytes_on_one_and_two_threads() -> None:
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        fast, slow, segment, confidence = random_batch(3, 301, torch.float32)
        fast.requires_grad_()
        contrastive(fast, slow, segment, confidence).backward()
        results.append(fast.grad)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


NOTHING_TO_COMPARE = {
    "no pixel": torch.zeros(0, dtype=torch.int64),
    "one pixel": torch.tensor([3]),
    "no segment in both halves": torch.tensor([0, 1, 2, 3]),
}


@pytest.mark.parametrize("segment", NOTHING_TO_COMPARE.values(), ids=NOTHING_TO_COMPARE.keys())
@pytest.mark.parametrize("name", ["contrastive", "concentration", "vanilla"])
def test_nothing_to_compare_is_zero_without_a_gradient(name: str, segment: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    fast = torch.randn(len(segment), 3, generator=generator, requires_grad=True)
    slow = torch.randn(len(segment), 3, generator=generator)
    loss = LOSSES[name](fast, slow, segment, torch.ones(len(segment)))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(fast.grad, torch.zeros_like(fast))


@pytest.mark.parametrize("name", ["contrastive", "concentration", "vanilla"])
def test_coincident_points_have_a_finite_loss_and_no_gradient(name: str) -> None:
    fast = torch.ones(6, 3, requires_grad=True)
    loss = LOSSES[name](fast, torch.ones(6, 3), torch.tensor([0, 0, 1, 0, 1, 1]), torch.ones(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(fast.grad, torch.zeros(6, 3))


def test_embeddings_thousands_apart_have_a_finite_loss_and_gradient() -> None:
    fast = torch.tensor([[0.0], [1e3], [0.0], [0.0]], requires_grad=True)
    slow = torch.tensor([[0.0], [0.0], [-5e3], [5e3]])
    loss = contrastive(fast, slow, torch.tensor([0, 1, 0, 1]), torch.ones(4))
    loss.backward()
    # All kernels are 0, so all pairs are alike: -log(1 / 2).
    assert loss.item() == pytest.approx(np.log(2))
    assert torch.isfinite(fast.grad).all()


def test_slow_embeddings_get_no_gradient() -> None:
    fast, slow, segment, confidence = random_batch(5, 40, torch.float64)
    slow.requires_grad_()
    loss, _ = instance_loss(fast.requires_grad_(), slow, segment, confidence, LossWeights())
    loss.backward()
    assert slow.grad is None


def test_a_loss_of_weight_zero_takes_no_part() -> None:
    fast, slow, segment, confidence = random_batch(5, 40, torch.float64)
    loss, parts = instance_loss(
        fast, slow, segment, confidence, LossWeights(contrastive=0.0, concentration=2.0)
    )
    assert set(parts) == {"concentration"}
    assert loss.item() == pytest.approx(2 * concentration(fast, slow, segment, confidence).item())


def blended_classes(seed: int) -> tuple[Weights, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six pixels over five Gaussians of three classes: weights, logits, the pixels' classes and confidences."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(6, 5, generator=generator) / 5
    weights = Weights(torch.arange(7) * 5, torch.arange(5, dtype=torch.int32).repeat(6), values.flatten(), 5)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (6,), generator=generator)
    return weights, logits, classes, torch.rand(6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_semantic_cross_entropy_is_that_of_the_renormalised_blend(seed: int) -> None:
    weights, logits, classes, confidence = blended_classes(seed)
    gradients, losses = [], []
    for loss_of in (semantic_cross_entropy, plain_cross_entropy):
        leaf = logits.clone().requires_grad_()
        loss = loss_of(leaf, weights, classes, confidence)
        (gradient,) = torch.autograd.grad(loss, leaf)
        gradients.append(gradient)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def plain_cross_entropy(
    logits: torch.Tensor, weights: Weights, classes: torch.Tensor, confidence: torch.Tensor
) -> torch.Tensor:
    """The same by torch's own operations, on a dense matrix."""
    blended = weights.values.double().reshape(6, 5) @ logits.softmax(dim=1)
    probability = blended / (blended.sum(dim=1, keepdim=True) + 1e-8) + 1e-8
    return -(confidence * probability.gather(1, classes[:, None])[:, 0].log()).mean()


def test_semantic_cross_entropy_by_arithmetic() -> None:
    # Two Gaussians with class probabilities (1/2, 1/2) and (1/4, 3/4), seen with weights 0.2 and 0.4 by one pixel.
    weights = Weights(
        torch.tensor([0, 2]), torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0.2, 0.4]), 2
    )
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3)]], dtype=torch.float64)
    loss = semantic_cross_entropy(
        logits, weights, torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64)
    )
    assert loss.item() == pytest.approx(-0.5 * np.log((0.2 / 2 + 0.4 * 3 / 4) / 0.6), abs=1e-6)


def test_a_pixel_that_no_gaussian_covers_gives_a_finite_semantic_loss_and_no_gradient() -> None:
    nothing = Weights(torch.tensor([0, 0]), torch.empty(0, dtype=torch.int32), torch.empty(0), 2)
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = semantic_cross_entropy(logits, nothing, torch.tensor([1]), torch.ones(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_no_labelled_pixel_is_a_semantic_loss_of_zero() -> None:
    nothing = Weights(torch.tensor([0]), torch.empty(0, dtype=torch.int32), torch.empty(0), 2)
    logits = torch.zeros(2, 2, requires_grad=True)
    semantic_cross_entropy(logits, nothing, torch.empty(0, dtype=torch.int64), torch.empty(0)).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))
