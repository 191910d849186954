"""Blending weights as a sparse matrix: with geometry frozen, rendering any per-Gaussian quantity E is W @ E."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Rows = pixels, columns = Gaussians, in compressed sparse rows; a row's entries stand front to back.

    values: alpha times transmittance of each kept (pixel, Gaussian) pair.
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

    def rows(self, index: Int[Tensor, "Q"]) -> "Weights":
        """The rows at `index`, in that order."""
        start, counts = self.indptr[:-1][index], (self.indptr[1:] - self.indptr[:-1])[index]
        indptr = torch.zeros(len(index) + 1, dtype=torch.int64)
        torch.cumsum(counts, dim=0, out=indptr[1:])
        take = torch.arange(int(indptr[-1])) + torch.repeat_interleave(start - indptr[:-1], counts)
        return Weights(indptr, self.indices[take], self.values[take], self.columns)

    def blend(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "P D"]:
        """W @ features, differentiable by the features."""
        raise NotImplementedError
