"""What is installed, what a scene is, what is wrong with either, and what to do."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from gs_lift import __version__
from gs_lift.config import Config
from gs_lift.datasets import layout_of, load_scene
from gs_lift.errors import GsLiftError
from gs_lift.rendering.cpu import simd_level
from gs_lift.scene import Scene, View

GOOD, NOTE, WRONG = "ok", "note", "wrong"

FEW_PHOTOS = 20
LOOKS = 8
"""Views whose photo and segments are read."""
DARK = 0.02
"""Mean of a photo that is as good as black."""
BYTES_PER_PHOTO_PIXEL = 3
WEIGHTS_PER_PIXEL, BYTES_PER_WEIGHT = 26, 6
"""Of W, as measured on rooms of 256 x 256 pixels: see docs/benchmarks.md."""


@dataclass(frozen=True)
class Finding:
    """One line: how bad it is, what was looked at, what was found and, where something is wrong, the way out."""

    kind: str
    what: str
    found: str


def check_machine() -> Iterator[Finding]:
    """What gs_lift runs on."""
    yield Finding(
        GOOD, "gs_lift", f"{__version__} on Python {platform.python_version()}, {platform.system()}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(GOOD, "processor", f"{cores} cores, kernels for {simd_level()}, {memory:.0f} GiB of memory")
    yield _torch(cores)
    yield from _faiss()
    yield _gsplat()
    for name, purpose in (
        ("pycolmap", "COLMAP scenes, starting points"),
        ("gaussforge", ".spz, .splat, .sog, .ksplat"),
    ):
        have = _version(name)
        kind, found = (GOOD, have) if have else (WRONG, f"missing ({purpose}): pip install {name}")
        yield Finding(kind, name, found)
    for name in ("onnxruntime", "transformers"):
        have = _version(name)
        extra = have or "missing; only for making segments: pip install 'gs_lift[masks]'"
        yield Finding(GOOD if have else NOTE, name, extra)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    kind = WRONG if free < 1 else GOOD
    yield Finding(
        kind, "disk", f"{free:.1f} GiB free here" + ("; a run takes up to 1 GiB" if free < 1 else "")
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch(cores: int) -> Finding:
    threads = torch.get_num_threads()
    found = f"{torch.__version__}, {threads} threads"
    if torch.cuda.is_available():
        return Finding(GOOD, "torch", f"{found}, CUDA on {torch.cuda.get_device_name(0)}")
    if torch.version.cuda:
        return Finding(
            NOTE, "torch", f"{found}, built for CUDA {torch.version.cuda}, but no device: working on the CPU"
        )
    if threads > cores:
        return Finding(WRONG, "torch", f"{found} on {cores} cores; set OMP_NUM_THREADS={cores}")
    return Finding(GOOD, "torch", f"{found}, CPU only")


def _faiss() -> Iterator[Finding]:
    there = {name: have for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12") if (have := _version(name))}
    if len(there) > 1:
        names = " and ".join(there)
        yield Finding(
            WRONG,
            "faiss",
            f"{names} are both installed and overwrite each other's files: pip uninstall {' '.join(there)}, then "
            "install one (faiss-cpu without a GPU)",
        )
    elif not there:
        yield Finding(WRONG, "faiss", "missing: pip install faiss-cpu (or faiss-gpu-cu12 with a GPU)")
    else:
        name, have = next(iter(there.items()))
        yield Finding(GOOD, "faiss", f"{name} {have}")


def _gsplat() -> Finding:
    have = _version("gsplat")
    if not have:
        return Finding(NOTE, "gsplat", "missing; only needed with a GPU: pip install gsplat")
    return Finding(GOOD, "gsplat", have if torch.cuda.is_available() else f"{have}, not used without CUDA")


def check_scene(path: Path, config: Config) -> Iterator[Finding]:
    """What a scene folder is. The first finding that is wrong may be the last: nothing behind it can be looked at."""
    try:
        scene = load_scene(path, config.data)
    except GsLiftError as error:
        yield Finding(WRONG, "scene", str(error))
        return
    yield from _views(scene, layout_of(path), config)
    yield _cameras(scene)
    yield _points(scene)
    looked = scene.train[:: max(len(scene.train) // LOOKS, 1)][:LOOKS]
    yield from _attempt("photos", lambda: _photos(looked))
    yield from _attempt("segments", lambda: _segments(scene, looked))
    yield _memory(scene, config)
    has_truth = sum(view.truth is not None for view in scene.test)
    yield Finding(
        GOOD if has_truth else NOTE,
        "truth",
        f"of {has_truth} test photos" if has_truth else "none: `gslift eval` scores the pictures only",
    )


def _attempt(what: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except GsLiftError as error:
        yield Finding(WRONG, what, str(error))


def _views(scene: Scene, layout: str, config: Config) -> Iterator[Finding]:
    sizes = sorted({(view.camera.width, view.camera.height) for view in (*scene.train, *scene.test)})
    listed = ", ".join(f"{width}x{height}" for width, height in sizes[:3]) + (
        ", ..." if len(sizes) > 3 else ""
    )
    found = (
        f"{layout}: {len(scene.train)} photos to learn from, {len(scene.test)} to test on, {listed} pixels"
    )
    yield Finding(GOOD, "scene", f"{found} (data.max_size={config.data.max_size})")
    if len(scene.train) < FEW_PHOTOS:
        yield Finding(NOTE, "scene", f"fewer than {FEW_PHOTOS} photos: unseen sides will have holes")


def _cameras(scene: Scene) -> Finding:
    positions = torch.stack([view.camera.position for view in scene.train])
    spread = float((positions - positions.mean(dim=0)).norm(dim=1).max())
    scale = float(positions.abs().max().clamp(min=1e-9))
    if spread < 1e-4 * scale or spread == 0:
        return Finding(
            WRONG, "cameras", "all in one place: nothing tells how far things are; walk while you take photos"
        )
    same = len(positions) - len({tuple(row) for row in positions.numpy().round(9).tolist()})
    if same:
        return Finding(
            NOTE, "cameras", f"{same} photos from the place of another; spread over {2 * spread:.3g} units"
        )
    return Finding(GOOD, "cameras", f"spread over {2 * spread:.3g} units of length")


def _points(scene: Scene) -> Finding:
    if not len(scene.points):
        return Finding(NOTE, "points", "none: they will be triangulated from the photos")
    inside = torch.zeros(len(scene.points), dtype=torch.bool)
    for view in scene.train:
        camera = view.camera
        seen = scene.points.double() @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        pixels = seen @ camera.K.T
        at = pixels[:, :2] / pixels[:, 2:].clamp(min=1e-9)
        size = torch.tensor([camera.width, camera.height])
        inside |= (seen[:, 2] > 0) & (at >= 0).all(dim=1) & (at < size).all(dim=1)
    share = float(inside.double().mean())
    if share < 0.5:
        return Finding(
            WRONG,
            "points",
            f"{1 - share:.0%} of {len(inside)} are in no photo: of another frame than the cameras?",
        )
    return Finding(GOOD, "points", f"{len(inside)}, {share:.0%} of them in a photo")


def _photos(views: tuple[View, ...]) -> Finding:
    means = {view.name: float(view.image().mean()) for view in views}
    if dark := [name for name, mean in means.items() if mean < DARK]:
        return Finding(WRONG, "photos", f"black: {', '.join(dark[:3])}; leave them out")
    return Finding(GOOD, "photos", f"{len(views)} read, mean brightness {np.mean(list(means.values())):.2f}")


def _segments(scene: Scene, views: tuple[View, ...]) -> Finding:
    having = sum(view.segments is not None for view in scene.train)
    if not having:
        return Finding(
            WRONG,
            "segments",
            "none: put one map a photo into masks/ (any of the formats in docs/formats.md), name their folder with "
            "--segments, or make them with `gslift masks`",
        )
    counts, covered = [], []
    for view in views:
        if view.segments is not None:
            ids = view.segments().instance
            counts.append(len(ids[ids >= 0].unique()))
            covered.append(float((ids >= 0).double().mean()))
    found = f"of {having} of {len(scene.train)} photos, classes: {', '.join(scene.classes.names[:6])}"
    found += ", ..." if len(scene.classes) > 6 else ""
    if counts:
        found += f"; {np.mean(counts):.0f} a photo, on {np.mean(covered):.0%} of its pixels"
    if counts and not any(counts):
        return Finding(WRONG, "segments", f"{found}: all empty; is 0 the id of the objects?")
    if having < len(scene.train) / 2:
        return Finding(NOTE, "segments", f"{found}; most photos have none")
    return Finding(GOOD, "segments", found)


def _memory(scene: Scene, config: Config) -> Finding:
    pixels = sum(view.camera.width * view.camera.height for view in scene.train)
    photos = BYTES_PER_PHOTO_PIXEL * pixels / 1e9
    weights = pixels * WEIGHTS_PER_PIXEL * BYTES_PER_WEIGHT / 1e9
    kept = min(max(photos, weights), config.memory_budget_gb)
    found = f"photos {photos:.1f} GB, then weights {weights:.1f} GB; at most {config.memory_budget_gb:g} GB are kept"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if kept > 0.8 * memory:
        return Finding(WRONG, "memory", f"{found}, of {memory:.0f} GB here; lower memory_budget_gb")
    return Finding(GOOD, "memory", found)


def is_well(findings: list[Finding]) -> bool:
    return all(one.kind != WRONG for one in findings)
