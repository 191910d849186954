"""The photos of a scene as targets: decoded once, kept in eight bits as far as memory allows."""

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SceneError
from gs_lift.scene import Camera, View

MEMORY = 2 * 2**30
"""Bytes of photos that are kept; beyond it a photo is read anew each time."""


class Photos:
    """Cameras and photos of some views, at their own size or smaller."""

    def __init__(self, views: tuple[View, ...], device: torch.device, memory: int = MEMORY):
        self.views, self.device, self.free = views, device, memory
        self._kept: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.views)

    def camera(self, index: int, shrink: int = 1) -> Camera:
        """The camera of view `index`, its image `shrink` times smaller along each side."""
        camera = self.views[index].camera
        if shrink == 1:
            return camera
        return camera.resized(max(1, camera.width // shrink), max(1, camera.height // shrink))

    def image(self, index: int, shrink: int = 1) -> Float[Tensor, "H W 3"]:
        """The photo of view `index` in 0..1 on the device. Raises SceneError if it is not of its camera's size."""
        kept = self._kept.get((index, shrink))
        if kept is None:
            kept = _eight_bits(self._read(index, shrink)).to(self.device)
            if kept.numel() <= self.free:
                self.free -= kept.numel()
                self._kept[index, shrink] = kept
        return kept.float().div_(255)

    def _read(self, index: int, shrink: int) -> Float[Tensor, "H W 3"]:
        view, camera = self.views[index], self.camera(index, shrink)
        image = view.image()
        if image.shape != (view.camera.height, view.camera.width, 3):
            raise SceneError(
                f"{view.name}: an image of {tuple(image.shape)}, wanted height, width and 3 channels of its camera: "
                f"{(view.camera.height, view.camera.width, 3)}"
            )
        if not bool(image.isfinite().all()):
            raise SceneError(f"{view.name}: its image has values that are not finite")
        if shrink == 1:
            return image
        planes = image.permute(2, 0, 1)[None]
        smaller = torch.nn.functional.interpolate(planes, size=(camera.height, camera.width), mode="area")
        return smaller[0].permute(1, 2, 0)


def _eight_bits(image: Float[Tensor, "H W 3"]) -> Tensor:
    return image.mul(255).round().clamp(0, 255).to(torch.uint8)
