"""One step of the photometric fit, in two ways: through autograd with any rasterizer, or fused for the CPU.

Both have two parts, so that a loss which is not a number stops the fit before anything has changed.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.fitting.losses import photometric_loss
from gs_lift.fitting.optimizer import RowAdam
from gs_lift.rendering import rasterize
from gs_lift.scene import Camera
from gs_lift.threads import kernel_threads

Parameters = dict[str, torch.nn.Parameter]
"""By gsplat's names: means [N 3], quats [N 4], scales [N 3] (logarithms), opacities [N] (logits), sh [N K 3]."""

Optimizers = dict[str, RowAdam]
"""By the names of the parameters."""


@dataclass(frozen=True)
class Shot:
    """What one step learns from."""

    camera: Camera
    image: Float[Tensor, "H W 3"]
    background: Float[Tensor, "3"]
    sh_degree: int


@runtime_checkable
class Step(Protocol):
    """`loss`, then `descend`."""

    def loss(self, parameters: Parameters, shot: Shot, ssim_weight: float, absgrad: bool) -> float:
        """The photometric loss of a view."""

    def descend(
        self, parameters: Parameters, optimizers: Optimizers, penalty: Tensor | None
    ) -> dict[str, Any]:
        """One step of every optimizer down the gradient of that loss and of `penalty`.

        penalty: a term that autograd knows, of scales and opacities only. Returns what gsplat's strategies read:
        radii [1 N 2], width, height, n_cameras, and means2d [1 N 2] with its `grad`, and `absgrad` where wanted.
        """


class AutogradStep:
    """With the rasterizer of any backend. sparse: leave out the Gaussians that are not visible."""

    def __init__(self, backend: str, sparse: bool = False):
        self.backend, self.sparse = backend, sparse

    def loss(self, parameters: Parameters, shot: Shot, ssim_weight: float, absgrad: bool) -> float:
        means, camera = parameters["means"], shot.camera
        colors, _, self._info = rasterize(
            means,
            parameters["quats"],
            parameters["scales"].exp(),
            parameters["opacities"].sigmoid(),
            parameters["sh"],
            camera.viewmat[None].to(means),
            camera.K[None].to(means),
            camera.width,
            camera.height,
            sh_degree=shot.sh_degree,
            backgrounds=shot.background[None],
            absgrad=absgrad,
            backend=self.backend,
        )
        self._info["means2d"].retain_grad()
        self._loss = photometric_loss(colors[0], shot.image, ssim_weight)
        return float(self._loss.detach())

    def descend(
        self, parameters: Parameters, optimizers: Optimizers, penalty: Tensor | None
    ) -> dict[str, Any]:
        (self._loss if penalty is None else self._loss + penalty).backward()
        info = self._info
        seen = (info["radii"][0] > 0).all(dim=1).nonzero()[:, 0] if self.sparse else None
        for optimizer in optimizers.values():
            optimizer.step(seen)
        del self._loss, self._info
        return info


class FusedStep:
    """With the native kernels of the CPU, from the parameters to the parameters; its memory is kept between steps.

    The same step as AutogradStep("cpu") takes, to rounding, and the same bytes for any number of threads. sparse: leave
    out the Gaussians that no pixel shows (fewer than AutogradStep's, which may lie hidden); dense Adam goes on moving
    them by what it remembers.
    """

    NAMES = ("means", "quats", "scales", "opacities", "sh")

    def __init__(self, sparse: bool = False):
        from gs_lift import _native

        self.sparse = sparse
        self._native = _native.FitStep()
        self._radii = torch.empty(0, 2, dtype=torch.int32)

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by part of the step, summed over all steps so far."""
        return self._native.seconds

    def loss(self, parameters: Parameters, shot: Shot, ssim_weight: float, absgrad: bool) -> float:
        means, camera = parameters["means"].detach(), shot.camera
        if len(self._radii) != len(means):
            self._radii = torch.empty(len(means), 2, dtype=torch.int32)
            self._means2d, self._absolute = torch.empty(2, len(means), 2)
        self._absgrad, self._size = absgrad, (camera.width, camera.height)
        return self._native.forward(
            [parameters[name].detach() for name in self.NAMES],
            camera.viewmat.to(means).contiguous(),
            camera.K.to(means).contiguous(),
            camera.width,
            camera.height,
            shot.sh_degree,
            shot.background,
            shot.image,
            ssim_weight,
            self._radii,
            kernel_threads(),
        )

    def descend(
        self, parameters: Parameters, optimizers: Optimizers, penalty: Tensor | None
    ) -> dict[str, Any]:
        extra: tuple[Tensor | None, ...] = (None, None)
        if penalty is not None:
            extra = torch.autograd.grad(penalty, [parameters["scales"], parameters["opacities"]])
        chosen = [optimizers[name] for name in self.NAMES]
        self._native.update(
            [optimizer.advance() for optimizer in chosen],
            (*chosen[0].betas, chosen[0].eps),
            self._means2d,
            self._absolute if self._absgrad else None,
            *extra,
            self.sparse,
            kernel_threads(),
        )
        # Its values are not kept: strategies read the gradients only.
        means2d: Any = torch.empty(1, len(self._radii), 2)
        means2d.grad = self._means2d[None]
        if self._absgrad:
            means2d.absgrad = self._absolute[None]  # as gsplat does
        width, height = self._size
        return {
            "means2d": means2d,
            "radii": self._radii[None],
            "width": width,
            "height": height,
            "n_cameras": 1,
        }


def step_for(backend: str, device: torch.device, sparse: bool) -> Step:
    """The fastest step for a backend."""
    return FusedStep(sparse) if backend == "cpu" and device.type == "cpu" else AutogradStep(backend, sparse)
