"""RowAdam against torch.optim.Adam in float64."""

import pytest
import torch

from gs_lift import _native
from gs_lift.fitting.optimizer import RowAdam


def gradients(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * 10.0 ** (-i) for i in range(count)]


@pytest.mark.parametrize("shape", [(70, 3), (129,), (65, 9, 3)])
def test_steps_are_those_of_torch(shape: tuple[int, ...]) -> None:
    ours = torch.nn.Parameter(torch.zeros(shape))
    theirs = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = RowAdam(ours, lr=0.01)
    wanted = torch.optim.Adam([theirs], lr=0.01, eps=1e-15)
    for gradient in gradients(5, *shape):
        ours.grad, theirs.grad = gradient.clone(), gradient.double()
        optimizer.step()
        wanted.step()
        assert ours.grad is None
    torch.testing.assert_close(ours.detach().double(), theirs.detach(), rtol=1e-4, atol=1e-6)
    assert optimizer.moments["step"] == 5
    torch.testing.assert_close(
        optimizer.moments["exp_avg_sq"].double(), wanted.state[theirs]["exp_avg_sq"], rtol=1e-5, atol=0
    )


def test_the_head_of_a_row_learns_at_its_own_rate() -> None:
    shape = (66, 4, 3)
    whole = torch.nn.Parameter(torch.ones(shape))
    head, rest = torch.nn.Parameter(torch.ones(66, 1, 3)), torch.nn.Parameter(torch.ones(66, 3, 3))
    together = RowAdam(whole, lr=0.001, head=3, head_lr=0.02)
    apart = [RowAdam(head, lr=0.02), RowAdam(rest, lr=0.001)]
    for gradient in gradients(3, *shape):
        whole.grad, head.grad, rest.grad = gradient, gradient[:, :1].clone(), gradient[:, 1:].clone()
        for optimizer in (together, *apart):
            optimizer.step()
    assert torch.equal(whole, torch.cat([head, rest], dim=1))


def test_the_torch_path_of_other_devices_takes_the_same_steps() -> None:
    native, plain = torch.nn.Parameter(torch.ones(7, 6)), torch.nn.Parameter(torch.ones(7, 6))
    ours, theirs = (RowAdam(parameter, lr=0.01, head=2, head_lr=0.1) for parameter in (native, plain))
    for step, gradient in enumerate(gradients(4, 7, 6), start=1):
        native.grad = gradient.clone()
        ours.step()
        moments = theirs.moments
        theirs._step_in_torch(plain.data, gradient, moments["exp_avg"], moments["exp_avg_sq"], step)
    torch.testing.assert_close(native, plain)


def test_threads_change_no_byte() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            parameter = torch.nn.Parameter(torch.ones(1000, 9))
            optimizer = RowAdam(parameter, lr=0.01, head=3, head_lr=0.1)
            parameter.grad = gradients(1, 1000, 9)[0]
            optimizer.step()
            results.append(parameter.detach().numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_without_a_gradient_nothing_moves() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = RowAdam(parameter, lr=0.1)
    optimizer.step()
    assert optimizer.moments["step"] == 0
    assert torch.equal(parameter, torch.ones(4, 3))


def test_a_gradient_in_any_memory_order_is_taken_as_it_looks() -> None:
    strided, plain = torch.nn.Parameter(torch.zeros(5, 3)), torch.nn.Parameter(torch.zeros(5, 3))
    gradient = gradients(1, 3, 5)[0]
    strided.grad, plain.grad = gradient.T, gradient.T.contiguous()
    RowAdam(strided, lr=0.1).step()
    RowAdam(plain, lr=0.1).step()
    assert torch.equal(strided, plain)


def test_moments_of_another_shape_are_refused() -> None:
    rows = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="differ in shape"):
        _native.adam(
            rows, rows.clone(), torch.zeros(4, 2), rows.clone(), 1, 0.1, 0.1, 0, 0.9, 0.999, 1e-15, 1
        )
