"""3D Gaussians as they are optimised: raw parameters, with the activated ones as properties."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift.geometry import SH_C0


@dataclass
class Gaussians:
    """N Gaussians in world units.

    quats are wxyz and need no normalisation; spherical harmonics hold degree 0 apart from the K - 1 higher terms.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    logit_opacities: Float[Tensor, "N"]
    sh0: Float[Tensor, "N 1 3"]
    shN: Float[Tensor, "N K1 3"]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def scales(self) -> Float[Tensor, "N 3"]:
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, "N"]:
        return self.logit_opacities.sigmoid()

    @property
    def sh(self) -> Float[Tensor, "N K 3"]:
        return torch.cat([self.sh0, self.shN], dim=1)

    @property
    def sh_degree(self) -> int:
        return round((1 + self.shN.shape[1]) ** 0.5) - 1

    def parameters(self) -> dict[str, Tensor]:
        """The raw tensors by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Tensor]) -> "Gaussians":
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def rows(self, index: Int[Tensor, "M"] | Tensor) -> "Gaussians":
        """The Gaussians at `index` (ids or a mask), in that order."""
        return Gaussians(*(tensor[index] for tensor in self.parameters().values()))

    def detach(self) -> "Gaussians":
        return Gaussians(*(tensor.detach() for tensor in self.parameters().values()))

    def to(self, device: str | torch.device) -> "Gaussians":
        return Gaussians(*(tensor.to(device) for tensor in self.parameters().values()))

    @classmethod
    def from_points(
        cls,
        points: Float[Tensor, "P 3"],
        colors: Float[Tensor, "P 3"],
        *,
        sh_degree: int = 3,
        opacity: float = 0.1,
    ) -> "Gaussians":
        """One round Gaussian per point, as wide as the root mean square distance to its three nearest points.

        points are in world units, colors in 0..1 (3DGS, section 5.1; gsplat's simple_trainer has the same rule).
        """
        count = len(points)
        xyz = points.detach().cpu().numpy().astype(np.float64)
        if count > 1:
            neighbours = min(4, count)
            distance = cKDTree(xyz).query(xyz, k=neighbours)[0][:, 1:]
            width = np.sqrt(np.mean(distance**2, axis=1)).clip(1e-7)
        else:
            width = np.full(count, 0.01)
        log_scales = torch.from_numpy(np.log(width)).float()[:, None].repeat(1, 3)
        quats = torch.zeros(count, 4)
        quats[:, 0] = 1
        return cls(
            means=points.float().clone(),
            quats=quats,
            log_scales=log_scales,
            logit_opacities=torch.logit(torch.full((count,), opacity)),
            sh0=((colors.float() - 0.5) / SH_C0)[:, None, :],
            shN=torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3),
        ).to(points.device)
