"""The photos of a scene as targets: decoded once, kept in eight bits as far as memory allows."""

from types import TracebackType

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gs_lift.ahead import Ahead
from gs_lift.errors import SceneError
from gs_lift.scene import Camera, View

Shown = tuple[int, int]
"""A view's number, and how many times smaller its photo is wanted along each side."""


class Photos:
    """Cameras and photos of some views, at their own size or smaller.

    memory: bytes of photos that are kept; beyond it a photo is read anew each time, in the background where the caller
    says what comes next. What is kept of one size makes room for another: a fit goes from small to large once.
    """

    def __init__(self, views: tuple[View, ...], device: torch.device, memory: float = 2e9):
        self.views, self.device, self._free = views, device, memory
        self._kept: dict[Shown, Tensor] = {}
        self._ahead: Ahead[Shown, Tensor] = Ahead(self._eight_bits)

    def __len__(self) -> int:
        return len(self.views)

    def __enter__(self) -> "Photos":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.__exit__(kind, error, trace)

    def camera(self, index: int, shrink: int = 1) -> Camera:
        """The camera of view `index`, its image `shrink` times smaller along each side."""
        camera = self.views[index].camera
        if shrink == 1:
            return camera
        return camera.resized(max(1, camera.width // shrink), max(1, camera.height // shrink))

    def image(self, index: int, shrink: int = 1, then: Shown | None = None) -> Float[Tensor, "H W 3"]:
        """The photo of view `index` in 0..1 on the device; `then` will be asked for next.

        Raises SceneError if it is not of its camera's size.
        """
        wanted = (index, shrink)
        following = [then] if then is not None and then != wanted and then not in self._kept else []
        kept = self._kept.get(wanted)
        if kept is None:
            kept = self._ahead.get(wanted, following).to(self.device)
            self._keep(wanted, kept)
        elif following:
            self._ahead.foretell(following)
        return kept.float().div_(255)

    def _keep(self, wanted: Shown, photo: Tensor) -> None:
        for other in [one for one in self._kept if one[1] != wanted[1]]:
            self._free += self._kept.pop(other).numel()
        if photo.numel() <= self._free:
            self._free -= photo.numel()
            self._kept[wanted] = photo

    def _eight_bits(self, wanted: Shown) -> UInt8[Tensor, "H W 3"]:
        return self._read(*wanted).mul(255).round().clamp(0, 255).to(torch.uint8)

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
