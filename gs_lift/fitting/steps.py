"""One step of the photometric fit, in two ways: through autograd with any rasterizer, or fused for the CPU.

Both have two parts, so that a loss which is not a number stops the fit before anything has changed. The second is
either the whole step down, or the gradient alone, for a step of several views (see batches.py).
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
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

    def gradient(self, parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """In place of `descend`: the gradient by each parameter, good until the next loss, and what that returns."""


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

    def gradient(self, parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._loss.backward()
        info, gradients = self._info, {}
        for name, parameter in parameters.items():
            gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = None
        del self._loss, self._info
        return gradients, info


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
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []

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
        learners = [optimizer.advance() for optimizer in chosen]
        return self._update(learners, (*chosen[0].betas, chosen[0].eps), extra, self.sparse)

    def gradient(self, parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Any]]:
        shapes = [parameters[name].shape for name in self.NAMES]
        if [tensor.shape for tensor in self._first] != shapes:
            self._first, self._second = ([torch.zeros(shape) for shape in shapes] for _ in range(2))
        # Adam that forgets all leaves the gradient in its first moment; at a rate of 0 it moves nothing.
        learners = []
        for name, first, second in zip(self.NAMES, self._first, self._second, strict=True):
            learners.append((parameters[name].detach(), first.zero_(), second, 1, 0.0, 0, 0.0))
        info = self._update(learners, (0.0, 0.0, 1.0), (None, None), sparse=True)
        return dict(zip(self.NAMES, self._first, strict=True)), info

    def _update(
        self,
        learners: list[tuple[Any, ...]],
        betas_epsilon: tuple[float, float, float],
        extra: tuple[Tensor | None, ...],
        sparse: bool,
    ) -> dict[str, Any]:
        absolute = self._absolute if self._absgrad else None
        self._native.update(
            learners, betas_epsilon, self._means2d, absolute, *extra, sparse, kernel_threads()
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


def image_gradients(info: dict[str, Any], absgrad: bool) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Of one view: how strongly each Gaussian is pulled in the image (screen = -1..1), and whether it is visible."""
    means2d, radii = info["means2d"], info["radii"][0]
    gradients = (means2d.absgrad if absgrad else means2d.grad)[0]
    visible = (radii[:, 0] > 0) & (radii[:, 1] > 0)
    x, y = gradients[:, 0] * (info["width"] / 2), gradients[:, 1] * (info["height"] / 2)
    return torch.hypot(x, y) * visible, visible


def step_for(backend: str, device: torch.device, sparse: bool) -> Step:
    """The fastest step for a backend."""
    return FusedStep(sparse) if backend == "cpu" and device.type == "cpu" else AutogradStep(backend, sparse)
