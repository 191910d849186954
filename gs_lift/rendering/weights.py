"""Blending weights as a sparse matrix: with geometry frozen, rendering any per-Gaussian quantity E is W @ E."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift import _native
from gs_lift.threads import kernel_threads

Arrays = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]


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
    """[nnz] float32, or float16 after `half`; sums are in the other factor's precision in either case."""
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
            self.indptr.numpy(),
            self.indices.numpy(),
            self.values.numpy(),
            index.contiguous().numpy(),
            indptr.numpy(),
            taken.indices.numpy(),
            taken.values.numpy(),
        )
        return taken

    def pick(self, index: Int[Tensor, "Q"]) -> "PickedRows":
        """The rows at `index`, in that order, without a copy."""
        return PickedRows(self, index.contiguous())

    def of_columns(self, place: Int[Tensor, "N"], count: int) -> "Weights":
        """The same of `count` Gaussians alone; place: the new column of each old one, -1 = it is left out."""
        moved = place[self.indices.long()]
        taken = moved >= 0
        entries = torch.zeros(len(taken) + 1, dtype=torch.int64)
        torch.cumsum(taken, dim=0, out=entries[1:])
        return Weights(entries[self.indptr], moved[taken].int(), self.values[taken], count)

    def half(self) -> "Weights":
        """The same with values rounded to the nearest float16: 6 bytes an entry instead of 8.

        The relative error of a value is 2^-11 at most; below 6.1e-5, where float16 is subnormal, it is 3e-8 absolute.
        """
        return replace(self, values=self.values.half())

    def totals(self) -> Float[Tensor, "N"]:
        """Weight of each Gaussian summed over all rows, float64."""
        sums = torch.zeros(self.columns, dtype=torch.float64)
        _native.weights_add_totals(self.indices.numpy(), self.values.numpy(), sums.numpy())
        return sums

    def alphas(self) -> Float[Tensor, "P"]:
        """Weight of each row summed over all Gaussians, float64."""
        rows = torch.repeat_interleave(torch.arange(len(self)), self.indptr.diff())
        return torch.zeros(len(self), dtype=torch.float64).index_add_(0, rows, self.values.double())

    def blend(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "P D"]:
        """W @ features, differentiable by the features, float32 or float64.

        The same bytes for any number of threads, as the gradient has.
        """
        return _Blend.apply(features, self)

    def blend_transposed(self, pixels: Float[Tensor, "P D"]) -> Float[Tensor, "N D"]:
        """W^T @ pixels: what each Gaussian receives; the gradient of `blend`."""
        out = pixels.new_empty(self.columns, pixels.shape[1])
        _native.weights_blend_transposed(*self.arrays(), pixels.detach().contiguous().numpy(), out.numpy())
        return out

    def arrays(self) -> Arrays:
        """What native kernels take: indptr, the rows that are meant (None: all), indices, values."""
        return self.indptr.numpy(), None, self.indices.numpy(), self.values.numpy()


@dataclass(frozen=True)
class PickedRows:
    """Rows of a matrix of weights, read where they lie: row p is row index[p] of `weights`."""

    weights: Weights
    index: Int[Tensor, "Q"]
    """[Q] int64."""

    def __len__(self) -> int:
        return len(self.index)

    def seen(self) -> tuple[Int[Tensor, "T"], Weights]:
        """The Gaussians that any of the rows sees, ascending, and a copy of the rows with these as its columns."""
        rows = self.weights.rows(self.index)
        seen, place = rows.indices.unique(return_inverse=True)
        return seen.long(), replace(rows, indices=place.int(), columns=len(seen))

    def blend(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "Q D"]:
        """As `Weights.blend`, without gradients."""
        return _blend(self.arrays(), len(self), features)

    def arrays(self) -> Arrays:
        """As `Weights.arrays`."""
        weights = self.weights
        return weights.indptr.numpy(), self.index.numpy(), weights.indices.numpy(), weights.values.numpy()


def _blend(arrays: Arrays, count: int, features: Float[Tensor, "N D"]) -> Float[Tensor, "Q D"]:
    out = features.new_empty(count, features.shape[1])
    _native.weights_blend(*arrays, features.detach().contiguous().numpy(), out.numpy(), kernel_threads())
    return out


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Weights) -> Tensor:
        ctx.weights = weights
        return _blend(weights.arrays(), len(weights), features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.weights.blend_transposed(gradients[0]), None
