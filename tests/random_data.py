"""Random Gaussians and cameras; the same seed gives the same scene."""

import torch
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.scene import Camera


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """float64, so that every dtype under test starts from the same numbers."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def random_gaussians(
    seed: int,
    count: int,
    *,
    sh_degree: int = 1,
    spread: float = 1.0,
    scales: tuple[float, float] = (0.02, 0.3),
    opacities: tuple[float, float] = (0.1, 0.95),
) -> Gaussians:
    """Gaussians in a cube of half side `spread` around the origin; axes log-uniform in `scales`; float64."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(scales, dtype=torch.float64).log().tolist()
    terms = (sh_degree + 1) ** 2
    return Gaussians(
        means=uniform(generator, count, 3, low=-spread, high=spread),
        quats=torch.randn(count, 4, generator=generator, dtype=torch.float64),
        log_scales=uniform(generator, count, 3, low=low, high=high),
        logit_opacities=torch.logit(uniform(generator, count, low=opacities[0], high=opacities[1])),
        sh0=torch.randn(count, 1, 3, generator=generator, dtype=torch.float64),
        shN=0.3 * torch.randn(count, terms - 1, 3, generator=generator, dtype=torch.float64),
    )


def random_camera(seed: int, width: int, height: int, *, distance: float = 3.0) -> Camera:
    """At `distance` from the origin, which it sees near its centre; its principal point is a little off."""
    generator = torch.Generator().manual_seed(seed)
    position = (
        torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)
        * distance
    )
    target = uniform(generator, 3, low=-0.2, high=0.2)
    focal = uniform(generator, 2, low=0.8, high=1.1) * width
    center = uniform(generator, 2, low=0.42, high=0.58) * torch.tensor([width, height])
    K = torch.tensor([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]], dtype=torch.float64)
    up = torch.randn(3, generator=generator, dtype=torch.float64)
    return Camera(K=K, viewmat=look_at(position, target, up), width=width, height=height)
