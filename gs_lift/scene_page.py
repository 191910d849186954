"""A segmented scene as one HTML file: it draws itself in any browser, from disk, without asking any server.

The page's source is in pages/; what it shows is inlined. Its data are zlib's deflate in base64:

    boxes    float32 [C 6], little-endian: of every 256 Gaussians the least x, y, z and the steps along them
    columns  bytes [16 2 N]: uint16 columns, of each all low bytes, then all high bytes, which deflate far better

Gaussians lie in spatial order. The columns are x y z (low + step * column), three log scales (`scale_low` + column, in
SCALE_STEP), the largest of the quaternion's four and the other three ((column / QUAT_STEPS - 1/2) * sqrt(2)), red green
blue in 255ths, opacity in OPACITY_STEPS, score in 255ths, id (0 = none).
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt16
from torch import Tensor

from gs_lift import __version__
from gs_lift.camera_paths import CameraPath, level_of_cameras, path_of_views
from gs_lift.errors import ConfigError, RunError
from gs_lift.exports import Labelled
from gs_lift.files import write_text_atomic
from gs_lift.geometry import SH_C0, spatial_order
from gs_lift.palette import GREY, palette
from gs_lift.pipeline import read_scene
from gs_lift.portraits import start_of_splat
from gs_lift.run import Run
from gs_lift.scene import Camera

BOX = 256
"""Gaussians that share a box."""

SCALE_STEP = 1 / 64
"""Of a log scale: 0.8 % at most."""

QUAT_STEPS = 2047
OPACITY_STEPS = 1023

SCALE_LIMIT = 40.0
"""Log scales are clipped to it: their squares still are float32."""

MAX_ID = 0xFFFF

MAX_CAMERAS = 250
"""A page lists no more; evenly chosen."""

START_SIZE = (960, 540)
"""Width and height that the start view of a splat without cameras is for, pixels."""

POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; worker-src blob:; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)
"""What the page may do: run its own script and style, known by their hashes, and a worker; reach nobody."""


@dataclass(frozen=True)
class Packed:
    """N Gaussians as the page holds them, see the module; order: the row that each of them was."""

    order: Int[Tensor, "N"]
    boxes: Float[np.ndarray, "C 6"]
    columns: UInt16[np.ndarray, "16 N"]
    scale_low: int

    def tobytes(self) -> bytes:
        low_and_high = self.columns.astype("<u2").view(np.uint8).reshape(*self.columns.shape, 2)
        planes = np.ascontiguousarray(low_and_high.transpose(0, 2, 1))
        return self.boxes.astype("<f4").tobytes() + planes.tobytes()


def write_page(source: Run | Path, out: Path) -> int:
    """Write the page of a run, with its training cameras, or of a labels.ply; how many bytes it has."""
    if isinstance(source, Run):
        cameras = path_of_views(read_scene(source).train)
        return write_scene_page(out, Labelled.of_run(source), title=source.name, cameras=cameras)
    return write_scene_page(out, Labelled.of_file(source), title=source.stem)


def write_scene_page(out: Path, labelled: Labelled, *, title: str, cameras: CameraPath | None = None) -> int:
    """Write the page; how many bytes it has. It begins at the first camera; without any, on an orbit of the splat.

    Raises RunError where there is nothing to show, ConfigError where an id is over MAX_ID.
    """
    if len(labelled.gaussians) == 0:
        raise RunError(f"{title}: no Gaussians to show")
    if (largest := int(labelled.ids.max())) > MAX_ID:
        raise ConfigError(f"{title}: id {largest}; a page holds ids up to {MAX_ID}")
    packed = pack(labelled)
    scene = {
        "gaussians": len(packed.order),
        "scaleLow": packed.scale_low,
        "antialiased": labelled.gaussians.antialiased,
        **described_objects(labelled),
        **_described_cameras(labelled, cameras),
    }
    parts = {name: _source(name) for name in ("scene.css", "scene.js")}
    policy = POLICY.format(script=_hash(parts["scene.js"]), style=_hash(parts["scene.css"]))
    page = filled(
        _source("scene.html"),
        {
            "policy": policy,
            "version": html.escape(__version__),
            "title": html.escape(title),
            "style": parts["scene.css"],
            "script": parts["scene.js"],
            "scene": script_json(scene),
            "data": base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode(),
        },
    )
    write_text_atomic(out, page)
    return len(page.encode())


def pack(labelled: Labelled) -> Packed:
    """The Gaussians in the steps that the page holds them in."""
    order = spatial_order(labelled.gaussians.means).cpu()
    gaussians = labelled.gaussians.detach().to("cpu").rows(order)
    boxes, places = _boxed(gaussians.means.double().numpy())
    scales = gaussians.log_scales.double().numpy().clip(-SCALE_LIMIT, SCALE_LIMIT)
    steps = np.rint(scales / SCALE_STEP).astype(np.int64)
    scale_low = int(steps.min(initial=0))
    colors = 0.5 + SH_C0 * gaussians.sh0[:, 0].double().numpy()
    ids = labelled.ids.cpu()[order].numpy().astype(np.int64)
    columns = [
        places,
        steps - scale_low,
        _smallest_three(gaussians.quats.double().numpy()),
        colors * 255,
        gaussians.opacities.double().numpy()[:, None] * OPACITY_STEPS,
        labelled.scores.cpu()[order].double().numpy().clip(0, 1)[:, None] * 255,
        ids[:, None],
    ]
    table = np.rint(np.concatenate(columns, axis=1)).clip(0, 0xFFFF).astype(np.uint16)
    return Packed(order, boxes, np.ascontiguousarray(table.T), scale_low)


def described_objects(labelled: Labelled) -> dict[str, Any]:
    """`objects` with id, name, class (its place in `classes`), count, score and colour; `classes` with name and colour;
    `none`: how many Gaussians belong to no object."""
    listed = labelled.objects
    names = sorted({one.class_name for one in listed if one.class_name})
    place = {name: number for number, name in enumerate(names)}
    colors = palette(max((one.id for one in listed), default=0)).tolist()
    objects = [
        {
            "id": one.id,
            "name": one.name,
            "class": place.get(one.class_name or "", -1),
            "count": one.count,
            "score": round(one.score, 3),
            "color": colors[one.id - 1],
        }
        for one in listed
    ]
    classes = [
        {"name": name, "color": color}
        for name, color in zip(names, palette(len(names)).tolist(), strict=True)
    ]
    return {
        "objects": objects,
        "classes": classes,
        "none": int((labelled.ids == 0).sum()),
        "grey": list(GREY),
    }


def script_json(content: Any) -> str:
    """JSON that may stand inside <script>: nothing in it can end the element, or a line of a script."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 and U+2029 are escaped
    return text.translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"})


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced, in one pass: what a part says is never taken for a name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _described_cameras(labelled: Labelled, cameras: CameraPath | None) -> dict[str, Any]:
    """`cameras` with their names, `start`, where the page begins, and `up`."""
    if cameras is None or len(cameras) == 0:
        width, height = START_SIZE
        labels = labelled.ids.cpu().numpy() - 1
        start, up = start_of_splat(labelled.gaussians, labels, width=width, height=height)
        return {"cameras": [], "start": _described(start), "up": up.tolist()}
    up = level_of_cameras(cameras.cameras)
    if len(cameras) > MAX_CAMERAS:
        cameras = cameras.thinned(MAX_CAMERAS)
    listed = [
        {"name": name, **_described(camera)}
        for name, camera in zip(cameras.names, cameras.cameras, strict=True)
    ]
    return {"cameras": listed, "start": _described(cameras.cameras[0]), "up": up.tolist()}


def _described(camera: Camera) -> dict[str, Any]:
    """axes: the rows of the rotation, right, down and forward."""
    K = camera.K
    return {
        "position": _rounded(camera.position),
        "axes": [_rounded(row) for row in camera.viewmat[:3, :3]],
        "focal": _rounded(torch.stack([K[0, 0], K[1, 1]])),
        "center": _rounded(K[:2, 2]),
        "size": [camera.width, camera.height],
    }


def _rounded(values: Tensor) -> list[float]:
    """To nine digits: a camera needs no more, and a list of hundreds is short."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def _boxed(means: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "C 6"], Float[np.ndarray, "N 3"]]:
    """The box of every BOX rows as float32 least corner and step, and the rows in steps."""
    starts = np.arange(0, len(means), BOX)
    low = np.minimum.reduceat(means, starts).astype(np.float32)
    high = np.maximum.reduceat(means, starts)
    step = ((high - low) / 0xFFFF).astype(np.float32)
    own = np.arange(len(means)) // BOX
    apart = means - low.astype(np.float64)[own]
    steps = step.astype(np.float64)[own]
    places = np.divide(apart, steps, out=np.zeros_like(apart), where=steps > 0)
    return np.concatenate([low, step], axis=1), places


def _smallest_three(quats: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Which of w x y z is the largest, made positive, and the other three in their order, in QUAT_STEPS."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(axis=1)[:, None]
    quats = quats * np.where(np.take_along_axis(quats, largest, axis=1) < 0, -1, 1)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest[:, 0]]
    rest = np.take_along_axis(quats, others, axis=1)
    return np.concatenate([largest, (rest / np.sqrt(2) + 0.5) * QUAT_STEPS], axis=1)


def _source(name: str) -> str:
    return (resources.files("gs_lift") / "pages" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy: this very script, or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
