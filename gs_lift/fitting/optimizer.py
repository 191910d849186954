"""Adam over the rows of a parameter, with the state that gsplat's strategies expect to find and to edit."""

from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015, no weight decay) on one parameter of one row per Gaussian.

    The first `head` values of a row may learn at `head_lr`: the spherical harmonics lie in one tensor, and degree 0
    learns 20 times as fast as the rest. On the CPU the step is one native pass, the same bytes for any number of
    threads; elsewhere it is the same formula in PyTorch. Keeps `step`, `exp_avg` and `exp_avg_sq` as torch.optim.Adam
    does; gsplat's strategies take rows out of and into the latter two.
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
        defaults = {"lr": lr, "head": head, "head_lr": head_lr, "betas": betas, "eps": eps}
        super().__init__([parameter], defaults)
        zeros = torch.zeros_like(parameter)
        self.state[parameter] = {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}

    @property
    def parameter(self) -> torch.nn.Parameter:
        return self.param_groups[0]["params"][0]

    @property
    def moments(self) -> dict[str, Any]:
        """`step`, `exp_avg` and `exp_avg_sq` of the parameter, not copied."""
        return self.state[self.parameter]

    def replace(self, parameter: torch.nn.Parameter, moments: dict[str, Any]) -> None:
        """Go on with another parameter and its moments."""
        self.state.clear()
        self.param_groups[0]["params"] = [parameter]
        self.state[parameter] = moments

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step down the parameter's gradient; nothing happens if it has none."""
        parameter, group = self.parameter, self.param_groups[0]
        if parameter.grad is None or parameter.numel() == 0:
            return
        moments = self.moments
        moments["step"] += 1
        tensors = [parameter, parameter.grad, moments["exp_avg"], moments["exp_avg_sq"]]
        rows = [tensor.reshape(len(parameter), -1) for tensor in tensors]
        if parameter.device.type == "cpu":
            from gs_lift import _native

            _native.adam(
                *(row.detach() for row in rows), step=moments["step"], rate=group["lr"], head=group["head"],
                head_rate=group["head_lr"], beta1=group["betas"][0], beta2=group["betas"][1], epsilon=group["eps"],
            )  # fmt: skip
        else:
            _adam(*rows, step=moments["step"], group=group)


def _adam(value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, *, step: int, group: dict[str, Any]) -> None:
    """Equation block "Algorithm 1" of Adam, in place."""
    beta1, beta2 = group["betas"]
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    rates = value.new_full((value.shape[1],), group["lr"])
    rates[: group["head"]] = group["head_lr"]
    unbiased = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    value.sub_(rates / (1 - beta1**step) * mean / unbiased)
