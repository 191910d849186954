"""`gslift render`: what is in the pictures, where they go, and one line for what does not go together."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ENVIRONMENT, gslift
from PIL import Image
from settings import TINY, TINY_SETTINGS
from videos import read_video

from gs_lift.cli import main
from gs_lift.config import load_config
from gs_lift.evaluation import panoptic
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import OPENGL_TO_OPENCV, look_at
from gs_lift.palette import GREY, palette
from gs_lift.pictures import PictureOptions, write_pictures
from gs_lift.pipeline import (
    fit_run,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_scene,
    segment_run,
    write_outputs,
)
from gs_lift.ply import write_splat
from gs_lift.rendering import render
from gs_lift.report import label_picture
from gs_lift.run import Run
from gs_lift.synthetic import SynthConfig, synthesize

SEED = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny room, fitted, lifted and segmented."""
    folder = tmp_path_factory.mktemp("render")
    synthesize(folder / "room", SynthConfig(**TINY))
    config = load_config(None, [*TINY_SETTINGS, "data.init=depth", "fit.steps=100"])
    run = fit_run(folder / "room", config, folder=folder / "runs" / "room")
    segment_run(run)
    return run


def balls(*places: tuple[float, float, float], colors: list[tuple[float, float, float]]) -> Gaussians:
    """Opaque round Gaussians with a standard deviation of 0.2 and those colours from all sides."""
    gaussians = Gaussians.from_points(
        torch.tensor(places, dtype=torch.float32),
        torch.tensor(colors, dtype=torch.float32),
        sh_degree=0,
        opacity=0.999,
    )
    gaussians.log_scales[:] = float(np.log(0.2))
    return gaussians


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture
def splat(tmp_path: Path) -> Path:
    """Red at the origin, green above it (z is up), blue in front of it (towards +x)."""
    gaussians = balls((0, 0, 0), (0, 0, 1), (1, 0, 0), colors=[RED, GREEN, BLUE])
    write_splat(tmp_path / "balls.ply", gaussians)
    return tmp_path / "balls.ply"


def path_file(folder: Path, *places: tuple[float, float, float], fps: float = 5) -> Path:
    """nerfstudio's camera path: cameras at those places that look at the origin, z up."""
    cameras = []
    for place in places:
        position = torch.tensor(place, dtype=torch.float64)
        viewmat = look_at(position, torch.zeros(3).double(), torch.tensor([0.0, 0.0, 1.0]).double())
        pose = torch.linalg.inv(viewmat) @ OPENGL_TO_OPENCV
        cameras.append({"camera_to_world": pose.flatten().tolist(), "fov": 60})
    content = {"render_width": 128, "render_height": 96, "fps": fps, "camera_path": cameras}
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def patch(picture: np.ndarray, x: float, y: float) -> list[int]:
    """The mean colour around a point, given in parts of width and height."""
    row, column = round(y * picture.shape[0]), round(x * picture.shape[1])
    return picture[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1)).round().tolist()


def close(color: list[int], wanted: tuple[float, float, float], tolerance: int = 25) -> bool:
    return bool(np.allclose(color, 255 * np.array(wanted), atol=tolerance))


# --- Bare splats ------------------------------------------------------------------------------------------------------


def test_a_path_from_a_file_shows_each_side_upright_and_not_mirrored(splat: Path, tmp_path: Path) -> None:
    # From -y: green above, blue (at +x) on the right. From +y: blue on the left.
    options = PictureOptions(path=str(path_file(tmp_path, (0, -4, 0), (0, 4, 0))), background="white")
    assert write_pictures(splat, tmp_path / "out", options) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000_color.png",
        "00001_color.png",
    ]
    for name, side in (("00000", 1), ("00001", -1)):
        picture = pixels(tmp_path / "out" / f"{name}_color.png")
        assert picture.shape == (96, 128, 3)
        focal = 48 / np.tan(np.radians(30))
        assert close(patch(picture, 0.5, 0.5), RED)
        assert close(patch(picture, 0.5, 0.5 - focal / 4 / 96), GREEN)
        assert close(patch(picture, 0.5 + side * focal / 4 / 128, 0.5), BLUE)
        assert close(patch(picture, 0.5 - side * focal / 4 / 128, 0.5), (1, 1, 1))


def test_a_video_shows_the_same_in_the_order_of_the_path(splat: Path, tmp_path: Path) -> None:
    options = PictureOptions(path=str(path_file(tmp_path, (0, -4, 0), (0, 4, 0), (0, -4, 0.1))))
    assert write_pictures(splat, tmp_path / "v.mp4", options) == 3
    video = read_video(tmp_path / "v.mp4")
    assert video.frames.shape == (3, 96, 128, 3)
    assert video.fps == 5
    sides = [(patch(frame, 0.66, 0.5)[2] > 128, patch(frame, 0.34, 0.5)[2] > 128) for frame in video.frames]
    assert sides == [(True, False), (False, True), (True, False)]
    assert close(patch(video.frames[0], 0.5, 0.5), RED, tolerance=40)
    assert close(patch(video.frames[0], 0.1, 0.9), (0, 0, 0), tolerance=40)


def test_an_orbit_of_a_splat_has_what_is_asked_for(splat: Path, tmp_path: Path) -> None:
    options = PictureOptions(frames=4, fps=8, size=(40, 30), up="z")
    assert write_pictures(splat, tmp_path / "v.mp4", options) == 4
    video = read_video(tmp_path / "v.mp4")
    assert video.frames.shape == (4, 30, 40, 3)
    assert video.fps == 8
    write_pictures(splat, tmp_path / "still.png", options)
    still = pixels(tmp_path / "still.png").astype(int)
    assert np.abs(still - video.frames[0]).mean() < 8
    green = np.argwhere(still[..., 1] > 150).mean(axis=0)
    red = np.argwhere((still[..., 0] > 150) & (still[..., 1] < 100)).mean(axis=0)
    assert green[0] < red[0] - 3  # green is higher in the image


def test_depth_is_a_picture_and_numbers_and_lies_beside_the_colours(splat: Path, tmp_path: Path) -> None:
    options = PictureOptions(path=str(path_file(tmp_path, (4, 0, 0), (8, 0, 0))), what=("depth", "color"))
    write_pictures(splat, tmp_path / "out", options)
    names = {f"{i:05d}_{what}" for i in range(2) for what in ("color.png", "depth.png", "depth.npy")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    near, far = (np.load(tmp_path / "out" / f"0000{i}_depth.npy", allow_pickle=False) for i in range(2))
    assert near.dtype == np.float32
    assert near.shape == (96, 128)
    assert near[48, 64] == pytest.approx(3, abs=0.05)  # blue, at x = 1, hides red
    assert far[48, 64] == pytest.approx(7, abs=0.05)
    assert near[2, 2] == 0
    # One range of grey for all frames: what is nearer is brighter, also from frame to frame.
    pictures = [pixels(tmp_path / "out" / f"0000{i}_depth.png") for i in range(2)]
    assert pictures[0][48, 64, 0] > pictures[1][48, 64, 0] + 50
    assert pictures[0][2, 2].tolist() == [0, 0, 0]
    write_pictures(splat, tmp_path / "both.png", options)
    both = pixels(tmp_path / "both.png")
    assert both.shape == (96, 256, 3)
    assert (both[:, :128] == pixels_again(splat, tmp_path, options)).all()
    assert (both[:, 128:] == pixels(tmp_path / "out" / "00000_color.png")).all()


def pixels_again(splat: Path, folder: Path, options: PictureOptions) -> np.ndarray:
    """The depth of the first frame alone: its own range of grey, since an image is one frame."""
    write_pictures(splat, folder / "depth.png", PictureOptions(path=options.path, what=("depth",)))
    return pixels(folder / "depth.png")


def test_a_gsplat_checkpoint_gives_the_pictures_of_the_ply(splat: Path, tmp_path: Path) -> None:
    g = balls((0, 0, 0), (0, 0, 1), (1, 0, 0), colors=[RED, GREEN, BLUE])
    named = {"means": g.means, "quats": g.quats, "scales": g.log_scales, "opacities": g.logit_opacities}
    torch.save({"step": 1, "splats": named | {"sh0": g.sh0, "shN": g.shN}}, tmp_path / "ckpt_1_rank0.pt")
    options = PictureOptions(size=(40, 30), frames=1, up="z")
    write_pictures(splat, tmp_path / "a.png", options)
    write_pictures(tmp_path / "ckpt_1_rank0.pt", tmp_path / "b.png", options)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert pixels(tmp_path / "a.png").max() > 200


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_test_views_are_rendered_by_name_as_the_renderer_sees_them(run: Run, tmp_path: Path) -> None:
    scene, gaussians = read_scene(run), read_gaussians(run)
    write_pictures(run, tmp_path, PictureOptions(path="test", what=("color", "instances")))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{view.name}_{kind}.png" for view in scene.test for kind in ("color", "instances")
    }
    view = scene.test[0]
    colors = render(gaussians, view.camera, background=torch.zeros(3)).colors.clamp(0, 1)
    expected = (colors * 255).round().byte().numpy()
    assert (pixels(tmp_path / f"{view.name}_color.png") == expected).all()
    # The mean error of even a tiny fit is far below that of another view's picture.
    error = np.abs(expected / 255 - view.image().numpy()).mean()
    other = np.abs(expected / 255 - scene.test[1].image().numpy()).mean()
    assert error < 0.7 * other


def test_instances_have_the_colours_of_labels_ply(run: Run, tmp_path: Path) -> None:
    scene, instances = read_scene(run), read_instances(run)
    assert len(instances) > 0
    write_pictures(run, tmp_path, PictureOptions(path="test", what=("instances",)))
    view = scene.test[0]
    found = panoptic(
        view.camera, read_gaussians(run), read_embeddings(run), instances, scene.classes
    ).instance
    picture = pixels(tmp_path / f"{view.name}_instances.png").astype(int)
    assert len(found.unique()) > 1
    for label in found.unique().tolist():
        wanted = np.array(palette(label + 1)[label] if label >= 0 else GREY)
        inner = picture[(found == label).numpy() & (picture.sum(axis=2) > 0)]  # borders are black
        # A quarter of it gives way to the brightness of the image.
        assert (np.abs(inner - 0.75 * wanted - 32) <= 33).all()
    assert (label_picture(found) != picture).any()


def test_a_run_is_orbited_with_the_size_of_its_photos(run: Run, tmp_path: Path) -> None:
    options = PictureOptions(frames=3, what=("color", "depth", "instances"))
    write_pictures(run, tmp_path / "v.mp4", options)
    assert read_video(tmp_path / "v.mp4").frames.shape == (3, 48, 3 * 48, 3)


def test_an_odd_photo_becomes_an_even_video_and_stays_odd_in_a_folder(run: Run, tmp_path: Path) -> None:
    path = path_file(tmp_path, (0, -2, 1))
    path.write_text(path.read_text().replace('"render_width": 128', '"render_width": 127'))
    write_pictures(run, tmp_path / "v.mp4", PictureOptions(path=str(path)))
    assert read_video(tmp_path / "v.mp4").frames.shape == (1, 96, 126, 3)
    write_pictures(run, tmp_path / "out", PictureOptions(path=str(path)))
    assert pixels(tmp_path / "out" / "00000_color.png").shape == (96, 127, 3)


def test_a_run_without_objects_still_has_colours(run: Run, tmp_path: Path) -> None:
    bare = shutil.copytree(run.folder, tmp_path / "run")
    (bare / "instances.pt").unlink()
    assert write_pictures(Run(bare), tmp_path / "a.png", PictureOptions()) == 1


def test_nothing_of_the_run_is_changed(run: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    write_pictures(run, tmp_path / "a.png", PictureOptions(what=("color", "depth", "instances")))
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_takes_the_latest_run_and_says_what_it_wrote(run: Run) -> None:
    workplace = run.folder.parents[1]
    result = gslift("render", "--frames", 2, "--what", "color,instances", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "wrote render.mp4 (2 frames)" in result.stdout
    assert read_video(workplace / "render.mp4").frames.shape == (2, 48, 96, 3)
    result = gslift("render", "runs/room", "--path", "test", "--frames", 1, "--out", "one", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "wrote one (1 frame)" in result.stdout
    assert [path.name for path in (workplace / "one").iterdir()] == ["00008_color.png"]


@pytest.fixture(scope="module")
def workplace(run: Run) -> Path:
    folder = run.folder.parents[1]
    write_splat(folder / "balls.ply", balls((0, 0, 0), (0, 0, 0.5), colors=[RED, GREEN]))
    (folder / "torn.pt").write_bytes(b"PK\x03\x04 and no more")
    (folder / "text.ply").write_text("hello")
    (folder / "bad.json").write_text("{}")
    bare = shutil.copytree(run.folder, folder / "bare")
    (bare / "instances.pt").unlink()
    return folder


Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process (a start of Python takes seconds): exit code, output and errors."""

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.chdir(workplace)
        monkeypatch.setattr(logging.getLogger("gs_lift"), "handlers", [])  # the command adds one
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        return stopped.value.code, *capsys.readouterr()

    return call


def test_a_painted_splat_is_rendered_and_the_guess_of_up_is_said(
    run: Run, workplace: Path, command: Command
) -> None:
    write_outputs(run, workplace / "labels.ply")
    code, said, _ = command("render", "instances.ply", "--out", "a.png", "--size", "32x24")
    assert code == 0
    assert "up is -y; if the scene lies on its side, try --up z" in said
    _, said, _ = command("render", "instances.ply", "--out", "a.png", "--up", "z")
    assert "up is" not in said
    assert pixels(workplace / "a.png").shape == (540, 960, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: not a run folder (no run.json)"),
        (["room"], "room: not a run folder (no run.json)"),
        (["none.ply"], "none.ply: No such file or directory"),
        (["none.pt"], "none.pt: No such file or directory"),
        (["torn.pt"], "torn.pt: not a checkpoint as torch.save writes it"),
        (["text.ply"], "text.ply: not a PLY file"),
        (["bad.json"], "bad.json: no splat that gs_lift knows"),
        (["balls.ply", "--what", "instances"], "balls.ply: a splat alone has no objects; name a run"),
        (["balls.ply", "--path", "test"], "balls.ply: a splat alone has no test views; name a run"),
        (["balls.ply", "--path", "none.json"], "none.json: no such file; wanted orbit, train, test or a JSON"),
        (["balls.ply", "--path", "bad.json"], "bad.json: render_width: wanted a number from 1 to 8192, got null"),
        (["bare", "--what", "instances"], "segment is not finished; run `gslift segment bare --out labels.ply`"),
        (["runs/room", "--path", "spiral"], "spiral: no such file; wanted orbit, train, test or a JSON file"),
        (["runs/room", "--what", "colour"], "no kind of picture 'colour'; one of: color, depth, instances"),
        (["runs/room", "--what", "color,color"], "--what color,color: wanted some of color, depth, instances"),
        (["runs/room", "--size", "big"], "--size big: wanted WIDTHxHEIGHT in pixels, for example 640x480"),
        (["runs/room", "--size", "0x10"], "--size 0x10: wanted 1 to 8192 pixels a side"),
        (["runs/room", "--size", "9000x10"], "--size 9000x10: wanted 1 to 8192 pixels a side"),
        (["runs/room", "--size", "33x24"], "33 x 24 pixels; H.264 wants even numbers, or write a folder"),
        (["runs/room", "--frames", "0"], "--frames 0: wanted 1 to 100000"),
        (["runs/room", "--frames", "3", "--path", "test"], "--frames 3: this path has 2 cameras"),
        (["runs/room", "--fps", "0"], "--fps 0: wanted 0.01 to 1000"),
        (["runs/room", "--fps", "nan"], "--fps nan: wanted 0.01 to 1000"),
        (["runs/room", "--background", "pink"], "no background 'pink'; one of: black, white"),
        (["runs/room", "--up", "w"], "no direction 'w'; one of: -x, -y, -z, x, y, z"),
        (["runs/room", "--up", "z", "--path", "test"], "--up z: is for --path orbit only"),
        (["runs/room", "--out", "v.avi"], "--out v.avi: wanted a name that ends in .mp4 or .png, or a folder"),
        (["runs/room", "--out", "balls.ply/x"], "balls.ply"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_answered_by_one_line_and_exit_code_2(
    workplace: Path, command: Command, arguments: list[str], message: str
) -> None:
    before = set(workplace.rglob("*"))
    code, _, errors = command("render", *arguments)
    assert code == 2
    assert message in errors
    assert errors.startswith("gslift: ")
    assert errors.count("\n") == 1
    assert set(workplace.rglob("*")) == before


def test_ctrl_c_leaves_no_half_of_a_video(workplace: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gs_lift", "render", workplace / "balls.ply", "--frames", "3000"]
    process = subprocess.Popen(
        [*map(str, command)], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    while not list(tmp_path.iterdir()):
        time.sleep(0.1)
        assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count(b"\n") == 1
    assert not list(tmp_path.iterdir())
