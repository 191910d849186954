"""Adam over the rows of a parameter, with the state that gsplat's strategies expect to find and to edit."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.threads import kernel_threads


class RowAdam:
    """Adam (Kingma and Ba 2015, no weight decay) on one parameter of one row per Gaussian.

    The first `head` values of a row may learn at `head_lr`: the spherical harmonics lie in one tensor, and degree 0
    learns 20 times as fast as the rest. On the CPU the step is one native pass, the same bytes for any number of
    threads; elsewhere it is the same formula in PyTorch.

    `param_groups` and `state` are laid out as in torch.optim.Adam (step, exp_avg, exp_avg_sq): gsplat's strategies
    take rows out of the moments and put a new parameter in the old one's place.
    """

    def __init__(
        self,
        parameter: torch.nn.Parameter,
        lr: float,
        *,
        head: int = 0,
        head_lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ):
        self.lr, self.head, self.head_lr, self.betas, self.eps = lr, head, head_lr, betas, eps
        self.param_groups: list[dict[str, Any]] = [{"params": [parameter]}]
        zeros = torch.zeros_like(parameter)
        self.state: dict[torch.nn.Parameter, dict[str, Any]] = {}
        self.replace(parameter, {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.clone()})

    @property
    def parameter(self) -> torch.nn.Parameter:
        return self.param_groups[0]["params"][0]

    @property
    def moments(self) -> dict[str, Any]:
        """`step`, `exp_avg` and `exp_avg_sq` of the parameter, not copied."""
        return self.state[self.parameter]

    def replace(self, parameter: torch.nn.Parameter, moments: dict[str, Any]) -> None:
        """Go on with another parameter and its moments."""
        self.param_groups[0]["params"] = [parameter]
        self.state.clear()
        self.state[parameter] = moments

    def advance(self) -> tuple[Tensor, Tensor, Tensor, int, float, int, float]:
        """Count one step that a native kernel takes; -> what it needs: value, moments, step, lr, head, head_lr."""
        parameter, moments = self.parameter, self.moments
        moments["step"] += 1
        tensors = parameter.detach(), moments["exp_avg"], moments["exp_avg_sq"]
        return (*tensors, moments["step"], self.lr, self.head, self.head_lr)

    @torch.no_grad()
    def step_rows(self, rows: Int[Tensor, "M"], gradient: Float[Tensor, "M ..."]) -> None:
        """One step of these rows down their gradient; the others and their moments stay as they are."""
        parameter, moments = self.parameter, self.moments
        moments["step"] += 1
        tables = [parameter.data, moments["exp_avg"], moments["exp_avg_sq"]]
        taken = [table[rows].view(len(rows), -1) for table in tables]
        value, mean, square = taken
        self._step_of(value, gradient.reshape(value.shape).contiguous(), mean, square, moments["step"])
        for table, updated in zip(tables, taken, strict=True):
            table[rows] = updated.view(len(rows), *table.shape[1:])

    @torch.no_grad()
    def step(self, rows: Int[Tensor, "M"] | None = None) -> None:
        """One step down the parameter's gradient, which is dropped; nothing happens if there is none.

        rows: those to update; the others and their moments stay as they are. All of them by default.
        """
        parameter, moments = self.parameter, self.moments
        if parameter.grad is None or parameter.numel() == 0:
            return
        moments["step"] += 1
        count = len(parameter)
        value, gradient = parameter.data.view(count, -1), parameter.grad.contiguous().view(count, -1)
        mean, square = moments["exp_avg"].view(count, -1), moments["exp_avg_sq"].view(count, -1)
        if rows is not None:
            taken = [tensor[rows] for tensor in (value, mean, square)]
            self._step_in_torch(taken[0], gradient[rows], taken[1], taken[2], moments["step"])
            for tensor, updated in zip((value, mean, square), taken, strict=True):
                tensor[rows] = updated
        else:
            self._step_of(value, gradient, mean, square, moments["step"])
        parameter.grad = None

    def _step_of(self, value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int) -> None:
        """In place, by the fastest way of the device."""
        if value.device.type == "cpu":
            from gs_lift import _native

            settings = (self.lr, self.head_lr, self.head, *self.betas, self.eps, kernel_threads())
            _native.adam(value, gradient, mean, square, step, *settings)
        else:
            self._step_in_torch(value, gradient, mean, square, step)

    def _step_in_torch(
        self, value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int
    ) -> None:
        """Adam's Algorithm 1, in place."""
        beta1, beta2 = self.betas
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rates = value.new_full((value.shape[1],), self.lr)
        rates[: self.head] = self.head_lr
        unbiased = (square / (1 - beta2**step)).sqrt_().add_(self.eps)
        value.sub_(rates / (1 - beta1**step) * mean / unbiased)
