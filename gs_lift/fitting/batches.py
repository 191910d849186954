"""A step of several views, in one process or shared by many: down the mean of their gradients.

Each process adds up the gradients of its own views; the rows of the Gaussians that any view shows are then summed over
all processes, and each takes the same step with them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gs_lift.distributed import RowSum, all_reduce_rows
from gs_lift.fitting.steps import Optimizers, Parameters, Shot, Step, image_gradients


class BatchStep:
    """As Step, with the `views` of a batch, of which this process has some, in place of one.

    single: what gives the gradient of one view. sparse: leave out the Gaussians that no pixel of any view shows.
    """

    def __init__(self, single: Step, views: int, sparse: bool):
        self.single, self.views, self.sparse = single, views, sparse
        self._sum = RowSum(0, 0)

    def loss(self, parameters: Parameters, shots: Sequence[Shot], ssim_weight: float, absgrad: bool) -> float:
        """The mean photometric loss of the batch. shots: those of this process."""
        means = parameters["means"]
        width = sum(parameter[0].numel() for parameter in parameters.values()) + 1
        if self._sum.shape != (len(means), width):
            self._sum = RowSum(len(means), width, means.device)
        views = torch.zeros(len(means), dtype=torch.uint8, device=means.device)
        total = 0.0
        for shot in shots:
            value = self.single.loss(parameters, shot, ssim_weight, absgrad)
            total += value
            if not math.isfinite(value):
                continue  # all processes learn of it by the mean
            gradients, info = self.single.gradient(parameters)
            pull, visible = image_gradients(info, absgrad)
            views += visible
            # Whatever a pixel shows pulls at its opacity; others are visible by their box only.
            shown = (gradients["opacities"] != 0) | (pull != 0)
            rows = shown.nonzero()[:, 0]
            columns = [gradients[name][rows].flatten(1) if gradients[name].dim() > 1 else gradients[name][rows, None]
                       for name in parameters]  # fmt: skip
            self._sum.add(rows, torch.cat([*columns, pull[rows, None]], dim=1))
        reduced = all_reduce_rows([self._sum], torch.tensor([total]), views)
        ((self._rows, self._values),), self._counts = reduced.rows, reduced.counts
        return float(reduced.figures[0]) / self.views

    def descend(
        self, parameters: Parameters, optimizers: Optimizers, penalty: Tensor | None
    ) -> dict[str, Any]:
        """One step of every optimizer. Returns what our strategies read of a batch: `pull`, the gradients in the image
        summed over the views, and how many views see each Gaussian."""
        rows, values = self._rows, self._values
        more: dict[str, Tensor] = {}
        if penalty is not None:
            named = ["scales", "opacities"]
            more = dict(
                zip(named, torch.autograd.grad(penalty, [parameters[name] for name in named]), strict=True)
            )
        widths = [parameter[0].numel() for parameter in parameters.values()]
        *columns, pulled = values.split([*widths, 1], dim=1)
        for (name, parameter), column in zip(parameters.items(), columns, strict=True):
            gradient = (column / self.views).to(parameter).view(len(rows), *parameter.shape[1:])
            if self.sparse:
                optimizers[name].step_rows(rows, gradient + more[name][rows] if name in more else gradient)
            else:
                parameter.grad = more.get(name, torch.zeros_like(parameter)).index_add(0, rows, gradient)
                optimizers[name].step()
        pull = torch.zeros(len(self._counts), device=rows.device).index_copy_(0, rows, pulled[:, 0].float())
        del self._rows, self._values
        return {"pull": (pull, self._counts)}
