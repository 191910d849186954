"""Blending weights as a sparse matrix: with geometry frozen, rendering any per-Gaussian quantity E is W @ E."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift import _native
from gs_lift.threads import kernel_threads


@dataclass(frozen=True)
class Weights:
    """Rows = pixels, columns = Gaussians, in compressed sparse rows; a row's entries stand front to back.

    values: alpha times transmittance of each kept (pixel, Gaussian) pair. All tensors lie on the CPU.
    """

    indptr: Int[Tensor, "P1"]
    """[P + 1] int64; row p lies at indptr[p]:indptr[p + 1]."""
    indices: Int[Tensor, "nnz"]
    """[nnz] int32, Gaussian ids."""
    values: Float[Tensor, "nnz"]
    """[nnz] float32."""
    columns: int
    """Number of Gaussians."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Memory that the matrix takes, in bytes."""
        return sum(
            tensor.numel() * tensor.element_size() for tensor in (self.indptr, self.indices, self.values)
        )

    def rows(self, index: Int[Tensor, "Q"]) -> "Weights":
        """The rows at `index`, in that order."""
        counts = (self.indptr[1:] - self.indptr[:-1])[index]
        indptr = torch.zeros(len(index) + 1, dtype=torch.int64)
        torch.cumsum(counts, dim=0, out=indptr[1:])
        count = int(indptr[-1])
        taken = Weights(indptr, self.indices.new_empty(count), self.values.new_empty(count), self.columns)
        _native.weights_select_rows(
            *self._arrays(),
            index.contiguous().numpy(),
            indptr.numpy(),
            taken.indices.numpy(),
            taken.values.numpy(),
        )
        return taken

    def split(self, count: int) -> tuple["Weights", "Weights"]:
        """The first `count` rows and the others; they share this matrix's memory."""
        at = int(self.indptr[count])
        first = Weights(self.indptr[: count + 1], self.indices[:at], self.values[:at], self.columns)
        return first, Weights(self.indptr[count:] - at, self.indices[at:], self.values[at:], self.columns)

    def compact(self) -> tuple[Int[Tensor, "T"], "Weights"]:
        """The Gaussians that any row sees, ascending, and the same matrix with only their columns."""
        indices = torch.empty_like(self.indices)
        seen = torch.empty(min(self.columns, len(indices)), dtype=torch.int64)
        count = _native.weights_compact_columns(
            self.indices.numpy(), self.columns, indices.numpy(), seen.numpy()
        )
        return seen[:count], Weights(self.indptr, indices, self.values, count)

    def totals(self) -> Float[Tensor, "N"]:
        """Weight of each Gaussian summed over all rows, float64."""
        sums = torch.zeros(self.columns, dtype=torch.float64)
        _native.weights_add_totals(self.indices.numpy(), self.values.numpy(), sums.numpy())
        return sums

    def blend(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "P D"]:
        """W @ features, differentiable by the features, float32 or float64.

        The same bytes for any number of threads, as the gradient has.
        """
        return _Blend.apply(features, self)

    def blend_transposed(self, pixels: Float[Tensor, "P D"]) -> Float[Tensor, "N D"]:
        """W^T @ pixels: what each Gaussian receives; the gradient of `blend`."""
        out = pixels.new_empty(self.columns, pixels.shape[1])
        _native.weights_blend_transposed(
            *self._arrays(), pixels.detach().contiguous().numpy(), out.numpy(), kernel_threads()
        )
        return out

    def blend_transposed_seen(
        self, pixels: Float[Tensor, "P D"]
    ) -> tuple[Int[Tensor, "T"], Float[Tensor, "T D"]]:
        """The Gaussians that any row sees, ascending, and their rows of `blend_transposed`; the others' are 0."""
        most = min(self.columns, len(self.indices))
        seen, out = torch.empty(most, dtype=torch.int64), pixels.new_empty(most, pixels.shape[1])
        count = _native.weights_blend_transposed_seen(
            *self._arrays(),
            self.columns,
            pixels.detach().contiguous().numpy(),
            seen.numpy(),
            out.numpy(),
            kernel_threads(),
        )
        return seen[:count], out[:count]

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.indptr.numpy(), self.indices.numpy(), self.values.numpy()


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Weights) -> Tensor:
        ctx.weights = weights
        out = features.new_empty(len(weights), features.shape[1])
        _native.weights_blend(
            *weights._arrays(), features.detach().contiguous().numpy(), out.numpy(), kernel_threads()
        )
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.weights.blend_transposed(gradients[0]), None
