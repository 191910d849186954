"""A scene as every reader returns it: cameras, lazily read images, segments and truth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.segmentation import Classes, Segments


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    K: intrinsics in pixels, pixel centres at +0.5. viewmat: world -> camera, OpenCV axes. Both float64 on the CPU.
    width, height: in pixels.
    """

    K: Float[Tensor, "3 3"]
    viewmat: Float[Tensor, "4 4"]
    width: int
    height: int

    @property
    def cam_to_world(self) -> Float[Tensor, "4 4"]:
        return torch.linalg.inv(self.viewmat)

    @property
    def position(self) -> Float[Tensor, "3"]:
        """Centre of the camera in the world."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def resized(self, width: int, height: int) -> "Camera":
        """The same camera with another image size."""
        factors = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.K.dtype)
        return replace(self, K=self.K * factors[:, None], width=width, height=height)


@dataclass(frozen=True)
class View:
    """One photo and what is known of it. Images, segments, truth and depth are read when called, never earlier.

    image(): [H W 3] in 0..1. segments(), truth(): Segments. depth(): [H W] along the optical axis in world units,
    0 = none. None instead of a function: there is no such file.
    """

    name: str
    camera: Camera
    image: Callable[[], Float[Tensor, "H W 3"]]
    segments: Callable[[], Segments] | None = None
    truth: Callable[[], Segments] | None = None
    depth: Callable[[], Float[Tensor, "H W"]] | None = None


@dataclass(frozen=True)
class Scene:
    """Views to learn from and views to be judged on; points [P 3] in the world with colors [P 3] in 0..1."""

    name: str
    train: tuple[View, ...]
    test: tuple[View, ...]
    points: Float[Tensor, "P 3"]
    colors: Float[Tensor, "P 3"]
    classes: Classes
    applied_transform: Float[Tensor, "4 4"] | None = None
    """From the data's original frame, COLMAP's, to that of the cameras, where its layout tells (nerfstudio's name)."""

    @property
    def extent(self) -> float:
        """Radius of the training cameras around their mean, times 1.1, in world units (3DGS's `cameras_extent`)."""
        positions = torch.stack([view.camera.position for view in self.train])
        return 1.1 * float((positions - positions.mean(dim=0)).norm(dim=1).max().clamp(min=1e-6))
