"""Photos as a lens bends them, and as a pinhole camera would have taken them.

Notation: (x, y) a direction by the optical axis, x/z and y/z; (u, v) pixels of the photo, centres at +0.5; r the length
of (x, y). Models and the order of their parameters are COLMAP's (src/colmap/sensor/models.h); OpenCV's are the same.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.datasets.colmap_worker import MOST_LENGTH
from gs_lift.errors import SceneError
from gs_lift.workers import run_script

WORKER = Path(__file__).with_name("colmap_worker.py")

FOCAL_RANGE = (0.01, 1000.0)
"""Of the focal length by the photo's longer side: from an angle of 179 degrees to one of 3 minutes."""

PATIENCE_S = 1800.0
"""For a model of the largest city block that anybody has reconstructed."""


@dataclass(frozen=True)
class Lens:
    """What bent a photo of `width` x `height` pixels, and the pinhole camera of the photo without that.

    params: of COLMAP's `model`. K: intrinsics of the pinhole camera, whose picture has pinhole_size (width, height).
    """

    model: str
    params: tuple[float, ...]
    width: int
    height: int
    K: Float[Tensor, "3 3"]
    pinhole_size: tuple[int, int]

    @property
    def is_pinhole(self) -> bool:
        """Whether there is nothing to undo."""
        return self.model in ("PINHOLE", "SIMPLE_PINHOLE")

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of directions (x, y)."""
        shape = MODELS[self.model]
        focals = 1 if shape.one_focal else 2
        fx, fy = self.params[0], self.params[focals - 1]
        cx, cy = self.params[focals : focals + 2]
        bent_x, bent_y = shape.bend(x, y, *self.params[focals + 2 :])
        return fx * bent_x + cx, fy * bent_y + cy


@dataclass(frozen=True)
class _Model:
    one_focal: bool
    bend: Callable[..., tuple[np.ndarray, np.ndarray]]


def _straight(x: np.ndarray, y: np.ndarray, *_: float) -> tuple[np.ndarray, np.ndarray]:
    return x, y


def _radial(
    x: np.ndarray, y: np.ndarray, k1: float, k2: float = 0.0, *_: float
) -> tuple[np.ndarray, np.ndarray]:
    return _opencv(x, y, k1, k2)


def _opencv(
    x: np.ndarray, y: np.ndarray, k1: float, k2: float, p1: float = 0.0, p2: float = 0.0, *higher: float
) -> tuple[np.ndarray, np.ndarray]:
    """Brown-Conrady; with k3 to k6 OpenCV's rational model."""
    k3, k4, k5, k6 = (*higher, 0.0, 0.0, 0.0, 0.0)[:4]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
    )


def _fisheye(x: np.ndarray, y: np.ndarray, *k: float) -> tuple[np.ndarray, np.ndarray]:
    """Kannala-Brandt: the angle to the axis, with a polynomial, is the radius in the photo."""
    k1, k2, k3, k4 = (*k, 0.0, 0.0, 0.0, 0.0)[:4]
    r = np.sqrt(x * x + y * y)
    theta = np.arctan(r)
    t2 = theta * theta
    bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    scale = np.divide(bent, r, out=np.ones_like(r), where=r > 1e-12)
    return x * scale, y * scale


MODELS: dict[str, _Model] = {
    "SIMPLE_PINHOLE": _Model(True, _straight),
    "PINHOLE": _Model(False, _straight),
    "SIMPLE_RADIAL": _Model(True, _radial),
    "RADIAL": _Model(True, _radial),
    "OPENCV": _Model(False, _opencv),
    "FULL_OPENCV": _Model(False, _opencv),
    "OPENCV_FISHEYE": _Model(False, _fisheye),
    "SIMPLE_RADIAL_FISHEYE": _Model(True, _fisheye),
    "RADIAL_FISHEYE": _Model(True, _fisheye),
}
"""By COLMAP's names."""


def lenses_of(cameras: Sequence[dict[str, Any]], where: Path) -> list[Lens]:
    """Lenses from {"model", "width", "height", "params"} by COLMAP's names.

    where: the file that says so, for the errors. Raises SceneError for what is no camera.
    """
    for camera in cameras:
        check_model(camera["model"], where)
        size, params = (camera["width"], camera["height"]), camera["params"]
        _check_camera(camera["model"], size, params, where)
    if all(camera["model"] == "PINHOLE" for camera in cameras):  # nothing to ask pycolmap for
        sizes = np.array([[camera["width"], camera["height"]] for camera in cameras]).reshape(-1, 2)
        params = np.array([camera["params"] for camera in cameras], dtype=np.float64).reshape(-1, 4)
        models = np.array([camera["model"] for camera in cameras], dtype=np.str_)
        arrays = {
            "models": models,
            "params": params,
            "sizes": sizes,
            "pinholes": params,
            "pinhole_sizes": sizes,
        }
        return lenses_in(arrays, where)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "cameras.json"
        source.write_text(json.dumps(list(cameras)))
        return lenses_in(run_worker("lenses", source, where), where)


def check_model(model: str, where: Path) -> None:
    if model not in MODELS:
        raise SceneError(
            f"{where}: a {model} camera; wanted one of {', '.join(MODELS)}: undistort the photos first "
            "(colmap image_undistorter)"
        )


def lenses_in(arrays: dict[str, np.ndarray], where: Path) -> list[Lens]:
    """Lenses from what colmap_worker.py wrote."""
    lenses = []
    for place, model in enumerate(arrays["models"].tolist()):
        check_model(model, where)
        params = tuple(arrays["params"][place].tolist())
        (width, height), flat = arrays["sizes"][place].tolist(), arrays["pinhole_sizes"][place].tolist()
        _check_camera(model, (width, height), params, where)
        fx, fy, cx, cy = arrays["pinholes"][place].tolist()
        K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        lens = Lens(model, params, width, height, K, (flat[0], flat[1]))
        if not lens.is_pinhole:
            _check_undone(lens, where)
        lenses.append(lens)
    return lenses


def _check_camera(model: str, size: tuple[int, int], params: Sequence[float], where: Path) -> None:
    """Refuse what no camera is, before anything is computed of it."""
    focals = 1 if MODELS[model].one_focal else 2
    longest = max(size)
    least, most = FOCAL_RANGE
    what = f"{where}: a {model} camera of {size[0]:g}x{size[1]:g} pixels"
    if not (min(size) >= 1 and longest <= MOST_LENGTH):
        raise SceneError(f"{what}; wanted 1 to {MOST_LENGTH} pixels a side")
    said = ", ".join(f"{one:g}" for one in params[:8])
    if not np.isfinite(params).all():
        raise SceneError(f"{what} with the parameters {said}; wanted finite numbers")
    if not all(least * longest <= focal <= most * longest for focal in params[:focals]):
        raise SceneError(
            f"{what} with the parameters {said}; wanted a focal length over 0, "
            f"{least:g} to {most:g} times its longer side"
        )
    cx, cy = params[focals : focals + 2]
    if not (0 < cx < size[0] and 0 < cy < size[1]):
        raise SceneError(f"{what} with its principal point at ({cx:g}, {cy:g}); wanted it inside the photo")


def _check_undone(lens: Lens, where: Path) -> None:
    """Refuse a lens that cannot be undone: of its pinhole camera's picture not every pixel is in the photo, or the
    photo folds over itself."""
    (fx, _, cx), (_, fy, cy) = lens.K[:2].tolist()
    width, height = lens.pinhole_size
    sane = np.isfinite([fx, fy, cx, cy]).all() and min(fx, fy, width, height) > 0
    if sane and max(width, height) <= 4 * MOST_LENGTH:
        x, y = (np.linspace(0.5, width - 0.5, 65) - cx) / fx, (np.linspace(0.5, height - 0.5, 65) - cy) / fy
        with np.errstate(all="ignore"):  # what overflows is not inside
            u, v = lens.pixels(*np.meshgrid(x, y))
            (uy, ux), (vy, vx) = np.gradient(u), np.gradient(v)
            upright = width < 2 or height < 2 or bool((ux * vy - uy * vx > 0).all())
        inside = (u > -1) & (u < lens.width + 1) & (v > -1) & (v < lens.height + 1)
        if upright and inside.all():
            return
    raise SceneError(
        f"{where}: a {lens.model} camera with the parameters {', '.join(f'{one:g}' for one in lens.params[:8])}, whose "
        "photo folds over itself; undistort the photos first (colmap image_undistorter)"
    )


def run_worker(what: str, source: Path, where: Path) -> dict[str, np.ndarray]:
    """The arrays that colmap_worker.py reads from `source`. Raises SceneError if pycolmap does not."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "arrays.npz"
        problem = run_script(WORKER, what, source, target, patience_s=PATIENCE_S)
        if problem is not None:
            raise SceneError(
                f"{where}: pycolmap cannot read it ({problem}); a file is damaged, or from another place"
            )
        with np.load(target, allow_pickle=False) as content:
            return dict(content)
