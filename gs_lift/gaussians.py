"""3D Gaussians as they are optimised: raw parameters, with the activated ones as properties."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from gs_lift.geometry import SH_C0

PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")
"""The raw tensors of Gaussians, in the order of the class's fields."""


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
    antialiased: bool = False
    """Whether the opacities were learnt with antialiasing (gsplat's rasterize_mode; Mip-Splatting): rendered so too."""

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
        return {name: getattr(self, name) for name in PARAMETERS}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Tensor]) -> "Gaussians":
        given: dict[str, Any] = {name: parameters[name] for name in PARAMETERS}
        return cls(**given)

    def rows(self, index: Int[Tensor, "M"] | Tensor) -> "Gaussians":
        """The Gaussians at `index` (ids or a mask), in that order."""
        return self._with(lambda tensor: tensor[index])

    def detach(self) -> "Gaussians":
        return self._with(lambda tensor: tensor.detach())

    def geometry(self) -> "Gaussians":
        """Detached, without harmonics above degree 0: all that blending weights depend on, and little more."""
        return replace(self, shN=self.shN[:, :0]).detach()

    def to(self, device: str | torch.device) -> "Gaussians":
        return self._with(lambda tensor: tensor.to(device))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Gaussians":
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.parameters().items()}
        return replace(self, **changed)

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
