"""What cameras see of a run or of a bare splat, as pictures: one video, a folder of them, or a single one."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gs_lift.camera_paths import (
    MAX_SIZE,
    CameraPath,
    orbit_of_cameras,
    orbit_of_splat,
    path_of_views,
    read_camera_path,
)
from gs_lift.config import Config
from gs_lift.errors import CameraPathError, ConfigError, RunError, pick
from gs_lift.evaluation import panoptic
from gs_lift.files import write_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.pipeline import (
    Reporter,
    SilentReporter,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_scene,
)
from gs_lift.rendering import Rendering, render
from gs_lift.report import depth_limits, depth_picture, label_picture, write_picture
from gs_lift.run import Run
from gs_lift.scene import Camera, Scene
from gs_lift.segmentation import Embeddings, Instances
from gs_lift.splats import load_splat
from gs_lift.video import video_writer

ORBIT_FRAMES = 120
"""Five seconds."""

SPLAT_SIZE = (960, 540)
"""Width and height of a bare splat's pictures, pixels."""

MAX_FRAMES = 100_000

DEPTH_SAMPLES = 8
"""Frames of which the range of depths is taken, for all frames alike: a video must not flicker."""

KINDS = ("color", "depth", "instances")
"""What a picture may show."""

OUTPUTS = {".mp4": "video", ".png": "image"}

BACKGROUNDS = {"black": 0.0, "white": 1.0}

UPS = {
    sign + axis: tuple(value * (axis == other) for other in "xyz")
    for sign, value in (("", 1.0), ("-", -1.0))
    for axis in "xyz"
}


@dataclass(frozen=True)
class PictureOptions:
    """How to render; each field is an option of `gslift render`. None: as the path or the splat has it."""

    path: str = "orbit"
    """orbit, train, test, or a JSON file (see camera_paths.read_camera_path)."""
    what: tuple[str, ...] = ("color",)
    """Names of KINDS, side by side in this order."""
    size: tuple[int, int] | None = None
    """Width and height in pixels."""
    frames: int | None = None
    fps: float | None = None
    background: str = "black"
    up: str | None = None
    """Of an orbit: x, y, z, -x, -y or -z."""

    def __post_init__(self) -> None:
        if not self.what or len(set(self.what)) < len(self.what):
            raise ConfigError(f"--what {','.join(self.what)}: wanted some of {', '.join(KINDS)}, each once")
        for kind in self.what:
            pick(dict.fromkeys(KINDS), kind, "kind of picture")
        pick(BACKGROUNDS, self.background, "background")
        if self.up is not None:
            pick(UPS, self.up, "direction")
        if self.size is not None and not all(1 <= side <= MAX_SIZE for side in self.size):
            raise ConfigError(f"--size {self.size[0]}x{self.size[1]}: wanted 1 to {MAX_SIZE} pixels a side")
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise ConfigError(f"--frames {self.frames}: wanted 1 to {MAX_FRAMES}")
        if self.fps is not None and not 0.01 <= self.fps <= 1000:
            raise ConfigError(f"--fps {self.fps:g}: wanted 0.01 to 1000")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "640x480". Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if not found:
        raise ConfigError(f"--size {text}: wanted WIDTHxHEIGHT in pixels, for example 640x480")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class _Subject:
    """What is looked at; scene, embeddings and instances where the pictures need them."""

    gaussians: Gaussians
    backend: str
    scene: Scene | None = None
    embeddings: Embeddings | None = None
    instances: Instances | None = None


@dataclass(frozen=True)
class _Frame:
    """What one camera saw: [H W 3] uint8 for each kind, and the raw depths [H W] where depth is one of them."""

    name: str
    pictures: dict[str, np.ndarray]
    depths: np.ndarray | None

    @property
    def side_by_side(self) -> np.ndarray:
        return np.concatenate(list(self.pictures.values()), axis=1)


def write_pictures(
    source: Run | Path, out: Path, options: PictureOptions, *, reporter: Reporter | None = None
) -> int:
    """Render a run, or the splat in a file, along a camera path; how many frames that is.

    out: NAME.mp4: a video; NAME.png: its first frame; else a folder of `<view>_<kind>.png`, and for depth of
    `<view>_depth.npy` too: float32, along the optical axis in world units, 0 = nothing there. Every file appears whole
    or not at all. Raises GsLiftError for what does not go together, before anything is rendered.
    """
    reporter = reporter or SilentReporter()
    kind = _kind_of_output(out)
    subject = _read_run(source, options) if isinstance(source, Run) else _read_file(source, options)
    path = _camera_path(subject, options)
    if subject.scene is None and options.path == "orbit" and options.up is None:
        reporter.say("orbit: up is -y; if the scene lies on its side, try --up z")
    if kind == "image":
        path = path.thinned(1)
    elif (
        kind == "video" and options.size is None
    ):  # photos may differ in size or have odd ones; a video may not
        first = path.cameras[0]
        path = path.resized(*(max(2, side - side % 2) for side in (first.width, first.height)))
    with (
        reporter.stage("render", len(path)) as on_step,
        _sink(kind, out, path, options) as save,
        torch.no_grad(),
    ):
        limits = _depth_limits(subject, path) if "depth" in options.what else None
        for step, (name, camera) in enumerate(zip(path.names, path.cameras, strict=True), start=1):
            save(_frame(subject, name, camera, options, limits))
            on_step(step, {})
    return len(path)


def _kind_of_output(out: Path) -> str:
    if out.is_dir() or not out.suffix:
        return "folder"
    if out.suffix.lower() not in OUTPUTS:
        raise ConfigError(f"--out {out}: wanted a name that ends in .mp4 or .png, or a folder")
    return OUTPUTS[out.suffix.lower()]


def _read_run(run: Run, options: PictureOptions) -> _Subject:
    objects = "instances" in options.what
    return _Subject(
        gaussians=read_gaussians(run),
        backend=run.config.resolved().backend,
        scene=read_scene(run),
        embeddings=read_embeddings(run) if objects else None,
        instances=read_instances(run) if objects else None,
    )


def _read_file(splat: Path, options: PictureOptions) -> _Subject:
    if "instances" in options.what:
        raise RunError(
            f"{splat}: a splat alone has no objects; name a run that was segmented, or render its instances.ply"
        )
    if options.path in ("train", "test"):
        raise CameraPathError(
            f"{splat}: a splat alone has no {options.path} views; name a run, or --path orbit"
        )
    config = Config().resolved()
    return _Subject(load_splat(splat).to(config.device), config.backend)


def _camera_path(subject: _Subject, options: PictureOptions) -> CameraPath:
    """The cameras that the options ask for, of the size and in the number that they ask for."""
    if options.path == "orbit":
        path = _orbit(subject, options)
    else:
        if options.up is not None:
            raise CameraPathError(f"--up {options.up}: is for --path orbit only")
        path = _given_path(subject, options.path)
        if options.frames is not None:
            path = path.thinned(options.frames)
    if options.size is not None:
        path = path.resized(*options.size)
    return path


def _orbit(subject: _Subject, options: PictureOptions) -> CameraPath:
    frames = options.frames or ORBIT_FRAMES
    up = None if options.up is None else torch.tensor(UPS[options.up], dtype=torch.float64)
    if subject.scene is None:
        width, height = options.size or SPLAT_SIZE
        return orbit_of_splat(subject.gaussians, frames, width=width, height=height, up=up)
    cameras = [view.camera for view in subject.scene.train]
    return orbit_of_cameras(cameras, subject.gaussians, frames, up=up)


def _given_path(subject: _Subject, name: str) -> CameraPath:
    if subject.scene is None or name not in ("train", "test"):
        return read_camera_path(Path(name))
    views = subject.scene.train if name == "train" else subject.scene.test
    if not views:
        raise CameraPathError(f"{subject.scene.name}: no {name} views to render")
    return path_of_views(views)


def _sink(
    kind: str, out: Path, path: CameraPath, options: PictureOptions
) -> AbstractContextManager[Callable[[_Frame], None]]:
    """Where the frames go, one after the other."""
    if kind == "video":
        return _video(out, path, options)
    if kind == "image":
        return nullcontext(lambda frame: write_picture(out, frame.side_by_side))
    return nullcontext(lambda frame: _save_into(out, frame))


@contextmanager
def _video(out: Path, path: CameraPath, options: PictureOptions) -> Iterator[Callable[[_Frame], None]]:
    width, height = path.cameras[0].width * len(options.what), path.cameras[0].height
    with video_writer(out, width, height, options.fps or path.fps) as append:
        yield lambda frame: append(frame.side_by_side)


def _save_into(folder: Path, frame: _Frame) -> None:
    for kind, picture in frame.pictures.items():
        write_picture(folder / f"{frame.name}_{kind}.png", picture)
    if (depths := frame.depths) is not None:
        write_atomic(folder / f"{frame.name}_depth.npy", lambda file: np.save(file, depths))


def _frame(
    subject: _Subject,
    name: str,
    camera: Camera,
    options: PictureOptions,
    limits: tuple[float, float] | None,
) -> _Frame:
    background = torch.full((3,), BACKGROUNDS[options.background])
    mode = "RGB+ED" if "depth" in options.what else "RGB"
    seen = render(subject.gaussians, camera, background=background, render_mode=mode, backend=subject.backend)
    pictures = {kind: _picture(kind, subject, camera, seen, limits) for kind in options.what}
    depths = None
    if seen.depths is not None:
        depths = torch.where(seen.alphas > 0.5, seen.depths, 0.0).float().cpu().numpy()
    return _Frame(name, pictures, depths)


def _picture(
    kind: str, subject: _Subject, camera: Camera, seen: Rendering, limits: tuple[float, float] | None
) -> np.ndarray:
    """[H W 3] uint8 of one kind."""
    colors = seen.colors.clamp(0, 1)
    if kind == "depth":
        assert seen.depths is not None
        return depth_picture(seen.depths, seen.alphas, limits)
    if kind == "instances":
        assert subject.scene is not None
        assert subject.embeddings is not None
        assert subject.instances is not None
        found = panoptic(
            camera,
            subject.gaussians,
            subject.embeddings,
            subject.instances,
            subject.scene.classes,
            backend=subject.backend,
        )
        return label_picture(found.instance, colors)
    return (colors * 255).round().byte().cpu().numpy()


def _depth_limits(subject: _Subject, path: CameraPath) -> tuple[float, float] | None:
    """The nearest and the farthest of a few frames' limits; None where they show nothing."""
    found = []
    for camera in path.thinned(min(len(path), DEPTH_SAMPLES)).cameras:
        seen = render(subject.gaussians, camera, render_mode="ED", backend=subject.backend)
        assert seen.depths is not None
        found.append(depth_limits(seen.depths, seen.alphas))
    ranges = [limits for limits in found if limits is not None]
    return (min(near for near, _ in ranges), max(far for _, far in ranges)) if ranges else None
