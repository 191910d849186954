"""An embedding that is a function of a Gaussian's centre, as the paper's is, in place of a table."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

LAYERS, WIDTH = 4, 256
"""As released: four linear layers with ReLU between, of the centre alone, no positional encoding."""
RATE = 5e-4
"""Learning rate, as released."""


class CentreNetwork:
    """Two networks, fast by gradient and slow as its average, of the centres in a cube of half side 1."""

    def __init__(self, means: Float[Tensor, "N 3"], dimensions: int, generator: Generator) -> None:
        low, high = means.amin(dim=0), means.amax(dim=0)
        self.centres = ((means - low) / (high - low).clamp(min=1e-12) * 2 - 1).float().cpu()
        sizes = [3, *[WIDTH] * (LAYERS - 1), dimensions]
        self.fast: list[Tensor] = []
        for inputs, outputs in itertools.pairwise(sizes):
            bound = inputs**-0.5  # as torch.nn.Linear starts
            for shape in ((outputs, inputs), (outputs,)):
                self.fast.append((torch.rand(shape, generator=generator) * 2 - 1) * bound)
        self.slow = [tensor.clone() for tensor in self.fast]
        self.first = [torch.zeros_like(tensor) for tensor in self.fast]
        self.second = [torch.zeros_like(tensor) for tensor in self.fast]

    def embeddings(
        self, parameters: list[Tensor], rows: Int[Tensor, "R"] | None = None
    ) -> Float[Tensor, "R D"]:
        """Of the Gaussians `rows`, None = of all."""
        values = self.centres if rows is None else self.centres[rows]
        for layer in range(LAYERS):
            values = torch.nn.functional.linear(values, parameters[2 * layer], parameters[2 * layer + 1])
            values = values.relu() if layer < LAYERS - 1 else values
        return values

    def follow(self, momentum: float) -> None:
        """slow <- momentum slow + (1 - momentum) fast."""
        for slow, fast in zip(self.slow, self.fast, strict=True):
            slow.mul_(momentum).add_(fast.detach(), alpha=1 - momentum)

    def step(
        self, gradients: tuple[Tensor, ...], number: int, rate: float, betas: tuple[float, float]
    ) -> None:
        """Step `number` of Adam."""
        # In place of torch.optim.Adam: its state is in the checkpoint as plain tensors, and no step depends on another.
        for parameter, gradient, first, second in zip(
            self.fast, gradients, self.first, self.second, strict=True
        ):
            first.lerp_(gradient, 1 - betas[0])
            second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
            scale = (second / (1 - betas[1] ** number)).sqrt_().add_(1e-8)
            parameter.addcdiv_(first / (1 - betas[0] ** number), scale, value=-rate)

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, by name."""
        return {
            f"{kind}_{place}": tensor
            for kind in ("fast", "slow", "first", "second")
            for place, tensor in enumerate(getattr(self, kind))
        }
