"""Rotations, cameras and spherical harmonics.

Notation: quaternions are wxyz; `viewmat` takes world to camera; cameras look along +z with x right and y down
(OpenCV). Pixel (row, column) has its centre at (column + 0.5, row + 0.5).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Value of the spherical harmonic of degree 0."""

OPENGL_TO_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Multiply a camera-to-world matrix on the right: y up, z backward -> y down, z forward (its own inverse)."""


def quats_to_rotmats(quats: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 3 3"]:
    """Rotation matrices of quaternions wxyz, normalised on use."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quats.shape[:-1], 3, 3)


def look_at(
    position: Float[Tensor, "3"], target: Float[Tensor, "3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "4 4"]:
    """The viewmat of a camera at `position` that sees `target` in its centre, `up` pointing up in the image."""
    forward = torch.nn.functional.normalize(target - position, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    viewmat = torch.eye(4, dtype=position.dtype)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ position
    return viewmat


def pixel_centers(height: int, width: int) -> Float[Tensor, "H W 2"]:
    """The (x, y) of every pixel's centre, in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def unproject(
    depth: Float[Tensor, "H W"], K: Float[Tensor, "3 3"], viewmat: Float[Tensor, "4 4"]
) -> Float[Tensor, "H W 3"]:
    """World points of a depth map (along the optical axis, not along the ray), in the units of the depth."""
    height, width = depth.shape
    xy = pixel_centers(height, width).to(depth)
    K, cam_to_world = K.to(depth), torch.linalg.inv(viewmat).to(depth)
    x = (xy[..., 0] - K[0, 2] - K[0, 1] * (xy[..., 1] - K[1, 2]) / K[1, 1]) / K[0, 0]
    y = (xy[..., 1] - K[1, 2]) / K[1, 1]
    points = torch.stack([x * depth, y * depth, depth], dim=-1)
    return points @ cam_to_world[:3, :3].T + cam_to_world[:3, 3]


def spatial_order(means: Float[Tensor, "N 3"]) -> Int[Tensor, "N"]:
    """The Gaussians leaf by leaf of a k-d tree of their centres; those that are not finite count as far away."""
    finite = means.detach().cpu().double().nan_to_num(nan=1e30, posinf=1e30, neginf=-1e30)
    return torch.from_numpy(cKDTree(finite.numpy()).indices.astype(np.int64)).to(means.device)
