"""Gaussians in another frame, and whether a splat lies where the cameras of a scene are.

Notation: x' = scale rotation x + translation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.metrics import psnr
from gs_lift.rendering import render
from gs_lift.rendering.reference import sh_bases
from gs_lift.scene import Scene, View

LOOKS, LOOK_SIZE = 4, 128
"""Training views that are rendered to see where a splat lies, and their longest side in pixels."""

LEAST_GAIN_DB = 1.0
"""By how much it must explain them better than one colour. Of three captures (fox, a kitchen, 7-Scenes), a splat at
its place gains 7 dB and more; three times or a third as large, off by .3 of the cameras' extent, or with its axes
swapped, .3 at most. One that is off by a little (1.3 times, turned by 10 degrees) may pass: it gains up to 4.5."""


@dataclass(frozen=True)
class Similarity:
    """float64. rotation may be a mirror too, as long as it is orthogonal."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float

    @property
    def inverse(self) -> "Similarity":
        back = self.rotation.T
        return Similarity(back, -(back @ self.translation) / self.scale, 1 / self.scale)


def moved(gaussians: Gaussians, by: Similarity) -> Gaussians:
    """The Gaussians after a similarity: their places, shapes, and the directions of their colours.

    Raises SplatError for a mirror: a Gaussian's rotation has none.
    """
    if float(torch.linalg.det(by.rotation)) < 0:
        raise SplatError("the frame is mirrored; turn the splat back with the program that mirrored it")
    means = (by.scale * gaussians.means.double() @ by.rotation.T + by.translation).float()
    return replace(
        gaussians,
        means=means,
        quats=_product(
            _quat(by.rotation), torch.nn.functional.normalize(gaussians.quats.double(), dim=1)
        ).float(),
        log_scales=gaussians.log_scales + torch.tensor(by.scale).log(),
        shN=_turned_harmonics(gaussians.shN, by.rotation),
    )


def _quat(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """wxyz, by the eigenvector of its symmetric matrix (Bar-Itzhack 2000): no case has to be told apart."""
    m = rotation
    w = torch.stack([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    symmetric = torch.zeros(4, 4, dtype=m.dtype)
    symmetric[0, 0] = m.trace()
    symmetric[0, 1:] = symmetric[1:, 0] = w
    symmetric[1:, 1:] = m + m.T - m.trace() * torch.eye(3, dtype=m.dtype)
    return torch.linalg.eigh(symmetric).eigenvectors[:, -1]


def _product(one: Float[Tensor, "4"], other: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Of quaternions wxyz: first `other`, then `one`."""
    w, v = one[0], one[1:]
    real = w * other[:, 0] - other[:, 1:] @ v
    imaginary = (
        w * other[:, 1:] + other[:, :1] * v + torch.linalg.cross(v.expand(len(other), 3), other[:, 1:])
    )
    return torch.cat([real[:, None], imaginary], dim=1)


def _turned_harmonics(
    shN: Float[Tensor, "N K1 3"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "N K1 3"]:
    """Coefficients after which direction R d has the colour that d had.

    A rotation mixes the terms of one degree alone, by the matrix that takes their values at turned directions to those
    at the directions: found from a few of them by least squares, exact to rounding.
    """
    degree = round((1 + shN.shape[1]) ** 0.5) - 1
    if degree == 0:
        return shN
    sphere = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(sphere, dim=1)
    before, after = sh_bases(degree, directions), sh_bases(degree, directions @ rotation.T)
    turned = shN.double().clone()
    for band in range(1, degree + 1):
        terms = slice(band * band, (band + 1) ** 2)
        mixing = torch.linalg.lstsq(after[:, terms], before[:, terms]).solution
        own = slice(band * band - 1, (band + 1) ** 2 - 1)
        turned[:, own] = mixing @ turned[:, own]
    return turned.float()


def check_frame(scene: Scene, gaussians: Gaussians, *, backend: str) -> None:
    """Raise SplatError where the splat explains the training photos hardly better than one colour for each does.

    A splat that lies elsewhere than the cameras, turned or of another size, shows them something else or nothing.
    What shows through it has the colour that suits the photo best: it may have been learnt before white.
    """
    views = scene.train[:: max(len(scene.train) // LOOKS, 1)][:LOOKS]
    seen = [_look(view, gaussians, backend) for view in views]
    ours, plain = (sum(values) / len(values) for values in zip(*seen, strict=True))
    if ours >= plain + LEAST_GAIN_DB:
        return
    some = gaussians.means.double().cpu()[:: max(len(gaussians) // 10000, 1)]
    low, high = torch.quantile(some, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    cameras = torch.stack([view.camera.position for view in scene.train])
    raise SplatError(
        f"the splat does not lie where the cameras are: for {len(views)} training photos it has {ours:.1f} dB, one "
        f"colour has {plain:.1f}; 90 % of it lies in {_box(low, high)}, the cameras in "
        f"{_box(cameras.amin(dim=0), cameras.amax(dim=0))}. Train it without a frame of its own (gsplat: "
        "--no-normalize-world-space), take nerfstudio's checkpoint, not its PLY, or go on with data.check_splat=false"
    )


def _look(view: View, gaussians: Gaussians, backend: str) -> tuple[float, float]:
    """PSNR of the splat, and of the photo's mean colour."""
    camera = view.camera
    factor = min(LOOK_SIZE / max(camera.width, camera.height), 1.0)
    size = (max(round(camera.width * factor), 1), max(round(camera.height * factor), 1))
    photo = torch.nn.functional.interpolate(
        view.image().permute(2, 0, 1)[None],
        (size[1], size[0]),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0].permute(1, 2, 0)
    with torch.no_grad():
        seen = render(gaussians, camera.resized(*size), backend=backend)
    through = 1 - seen.alphas.cpu().to(photo)[..., None]
    picture = seen.colors.cpu().to(photo)
    behind = (through * (photo - picture)).sum(dim=(0, 1)) / through.square().sum().clamp_min(1e-12)
    picture = (picture + through * behind.clamp(0, 1)).clamp(0, 1)
    plain = photo.mean(dim=(0, 1)).expand_as(photo)
    return float(psnr(picture, photo)), float(psnr(plain, photo))


def _box(low: Sequence[float] | Tensor, high: Sequence[float] | Tensor) -> str:
    return " x ".join(f"{float(a):.3g}..{float(b):.3g}" for a, b in zip(low, high, strict=True))
