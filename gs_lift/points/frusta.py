"""Random points where the training cameras look."""

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SceneError
from gs_lift.scene import Scene

NEAR, FAR = 0.25, 2.5
"""Depth range in units of the distance to what the cameras look at: from among the objects to the walls."""


def focus(centers: Float[Tensor, "C 3"], axes: Float[Tensor, "C 3"]) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes, by least squares; a weak pull to the centres."""
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]
    pull = 1e-6 * torch.eye(3, dtype=axes.dtype)
    right = (across @ centers[:, :, None]).sum(0)[:, 0] + pull @ centers.mean(dim=0) * len(centers)
    return torch.linalg.solve(across.sum(0) + pull * len(centers), right)


def depth_range(scene: Scene) -> tuple[float, float]:
    """Near and far depth, in world units, guessed from the cameras alone."""
    centers = torch.stack([view.camera.position for view in scene.train])
    axes = torch.stack([view.camera.viewmat[2, :3] for view in scene.train])
    distance = float(((focus(centers, axes) - centers) * axes).sum(dim=1).median())
    # Cameras that look outward, or all one way, have no common focus in front: take their spread instead.
    spread = scene.extent
    if not 0.3 * spread < distance < 30 * spread:
        distance = 2 * spread
    return NEAR * distance, FAR * distance


def scatter(scene: Scene, *, seed: int, count: int) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """`count` points, each in the frustum of a random training camera, uniform over its pixels and in volume.

    Colours are a random middle grey. Source of the idea: random starts of 3DGS for synthetic scenes.
    """
    if not scene.train:
        raise SceneError(f"{scene.name}: no training views")
    generator = torch.Generator().manual_seed(seed)
    near, far = depth_range(scene)
    which = torch.randint(len(scene.train), (count,), generator=generator)
    u = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    # Uniform in volume: depth cubed is uniform between the cubes of near and far.
    depth = (near**3 + u[:, 2] * (far**3 - near**3)) ** (1 / 3)
    cameras = [view.camera for view in scene.train]
    sizes = torch.tensor([[c.width, c.height] for c in cameras], dtype=torch.float64)[which]
    pixels = torch.cat([u[:, :2] * sizes, torch.ones(count, 1, dtype=torch.float64)], dim=1)
    inverse_K = torch.linalg.inv(torch.stack([c.K for c in cameras]))[which]
    cam_to_world = torch.stack([c.cam_to_world for c in cameras])[which]
    local = torch.einsum("nij,nj->ni", inverse_K, pixels) * depth[:, None]
    points = torch.einsum("nij,nj->ni", cam_to_world[:, :3, :3], local) + cam_to_world[:, :3, 3]
    grey = 0.4 + 0.2 * torch.rand(count, 1, generator=generator)
    return points.float(), grey.repeat(1, 3)
