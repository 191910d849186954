"""gsplat's packed intermediate results: rows of the visible Gaussians only, of all cameras one after the other."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class VisiblePairs:
    """The (camera, Gaussian) pairs that are seen: camera after camera, by ascending id."""

    camera_ids: Int[Tensor, "nnz"]
    gaussian_ids: Int[Tensor, "nnz"]

    @classmethod
    def of(cls, radii: Int[Tensor, "C N 2"]) -> "VisiblePairs":
        return cls(*(radii > 0).all(dim=-1).nonzero(as_tuple=True))

    def pack(self, values: Tensor) -> Tensor:
        """[C N ...] -> [nnz ...], in the autograd graph."""
        return values[self.camera_ids, self.gaussian_ids]

    def rows(self, cameras: int) -> list[slice]:
        """Where the rows of each of so many cameras lie."""
        ends = torch.bincount(self.camera_ids, minlength=cameras).cumsum(dim=0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
