"""A scene as one HTML file: what is packed, and what a browser makes of it, held to our own renderer."""

import base64
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import open_browser
from commands import gslift
from PIL import Image
from pytest import approx
from settings import findable_run
from torch import Tensor

from gs_lift import ply
from gs_lift.camera_paths import CameraPath
from gs_lift.errors import ConfigError, RunError
from gs_lift.exports import Labelled
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0, look_at, quats_to_rotmats
from gs_lift.metrics import psnr
from gs_lift.pipeline import write_outputs
from gs_lift.rendering import blending_weights, render
from gs_lift.run import Run
from gs_lift.scene import Camera
from gs_lift.scene_page import (
    BOX,
    MAX_CAMERAS,
    MAX_ID,
    SCALE_STEP,
    filled,
    pack,
    script_json,
    write_scene_page,
)

RED, GREEN, BLUE, GLASS = 1, 2, 3, 7
CENTERS = {RED: (-0.6, 0.0, 0.3), GREEN: (0.6, 0.0, 0.3), BLUE: (0.0, 0.8, 0.3), GLASS: (-0.6, -0.7, 0.3)}
"""Three solid balls on a floor, z up, and a thin pane in front of the red one."""
HOSTILE = '</script><img src=x onerror="window.hacked = 1"><!-- {{data}} & \u2028 \' \u2029'
SIZE = {"width": 760, "height": 440}
CANVAS = (460, 440)
BORDER = 60
"""Rows at the top and the bottom of the canvas that buttons may cover."""


def ball(center: tuple[float, ...], count: int, generator: torch.Generator) -> Tensor:
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return torch.tensor(center) + 0.28 * directions


def scene(seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    balls = {one: ball(CENTERS[one], 500, generator) for one in (RED, GREEN, BLUE)}
    x, z = torch.meshgrid(torch.linspace(-1.1, -0.1, 12), torch.linspace(0, 0.7, 10), indexing="ij")
    pane = torch.stack([x, torch.full_like(x, CENTERS[GLASS][1]), z], dim=-1).reshape(-1, 3)
    floor = 3 * torch.rand(2500, 3, generator=generator) * torch.tensor([1.0, 1, 0]) - torch.tensor(
        [1.5, 1.5, 0]
    )
    ids = [one for one in balls for _ in range(500)] + [GLASS] * len(pane) + [0] * len(floor)
    means = torch.cat([*balls.values(), pane, floor])
    count = len(means)
    made = Gaussians.from_points(means, torch.rand(count, 3, generator=generator), sh_degree=1)
    log_scales = torch.tensor([0.05, 0.03, 0.02]).log() + 0.3 * torch.randn(count, 3, generator=generator)
    opacities = torch.full((count,), 0.9)
    opacities[torch.tensor(ids) == GLASS] = 0.15
    gaussians = replace(
        made,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=log_scales,
        logit_opacities=opacities.logit(),
        shN=0.2 * torch.randn(count, 3, 3, generator=generator),  # the page leaves it out
    )
    scores = torch.where(torch.tensor(ids) > 0, torch.rand(count, generator=generator), 0.0)
    class_of = {RED: "ball", GREEN: "ball", BLUE: HOSTILE, GLASS: None}
    return Labelled(gaussians, torch.tensor(ids), scores, class_of, {RED: "red one", GLASS: HOSTILE})


def cameras() -> CameraPath:
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    target = torch.tensor([0.0, 0, 0.2], dtype=torch.float64)
    places = torch.tensor([[-0.4, -2.6, 0.9], [1.8, -1.6, 1.4]], dtype=torch.float64)
    K = torch.tensor([[300.0, 0, 170], [0, 310.0, 120], [0, 0, 1]], dtype=torch.float64)
    listed = tuple(Camera(K, look_at(place, target, up), 320, 240) for place in places)
    return CameraPath(listed, ("first", HOSTILE), 2.0)


# --- What is packed ---------------------------------------------------------------------------------------------------


def unpacked(data: bytes, count: int, scale_low: int) -> dict[str, np.ndarray]:
    """The layout of scene_page.py, read as its text says."""
    boxes = -(-count // BOX)
    low, step = np.split(
        np.frombuffer(data, "<f4", boxes * 6).reshape(boxes, 6).astype(np.float64), 2, axis=1
    )
    planes = np.frombuffer(data, np.uint8, offset=24 * boxes).reshape(16, 2, count).astype(np.int64)
    columns = planes[:, 0] + 256 * planes[:, 1]
    box = np.arange(count) // BOX
    rest = (columns[7:10].T / 2047 - 0.5) * 2**0.5
    quats = np.empty((count, 4))
    for row, largest in enumerate(columns[6]):
        missing = max(0.0, 1 - (rest[row] ** 2).sum()) ** 0.5
        quats[row] = np.insert(rest[row], largest, missing)
    rotations = quats_to_rotmats(torch.from_numpy(quats)).numpy()
    variances = np.exp(2 * SCALE_STEP * (scale_low + columns[3:6].T))
    return {
        "mean": (low[box] + step[box] * columns[:3].T).astype(np.float32),
        "covariance": np.einsum("nij,nj,nkj->nik", rotations, variances, rotations),
        "color": columns[10:13].T / 255,
        "opacity": columns[13] / 1023,
        "score": columns[14] / 255,
        "id": columns[15],
    }


def test_what_is_packed_is_the_scene_to_within_half_a_step() -> None:
    labelled = scene()
    packed = pack(labelled)
    found = unpacked(packed.tobytes(), len(packed.order), packed.scale_low)
    gaussians = labelled.gaussians.rows(packed.order)
    step = packed.boxes[:, 3:].max()
    assert step < 1e-4
    assert np.abs(found["mean"] - gaussians.means.numpy()).max() <= 0.5 * step + 1e-6
    assert np.abs(found["color"] - (0.5 + SH_C0 * gaussians.sh0[:, 0]).numpy()).max() <= 0.5 / 255 + 1e-6
    assert np.abs(found["opacity"] - gaussians.opacities.numpy()).max() <= 0.5 / 1023 + 1e-6
    assert np.abs(found["score"] - labelled.scores[packed.order].numpy()).max() <= 0.5 / 255 + 1e-6
    assert (found["id"] == labelled.ids[packed.order].numpy()).all()
    rotations = quats_to_rotmats(gaussians.quats)
    covariances = rotations @ gaussians.scales.square().diag_embed() @ rotations.mT
    size = covariances.diagonal(dim1=1, dim2=2).sum(dim=1).numpy()
    error = np.abs(found["covariance"] - covariances.numpy()).max(axis=(1, 2)) / size
    assert error.max() < 0.02  # half a step of a scale is 1.6 % of its square


def test_a_gaussian_takes_32_bytes_before_compression() -> None:
    packed = pack(scene())
    count = len(packed.order)
    assert len(packed.tobytes()) == 32 * count + 24 * -(-count // BOX)


def test_extremes_are_clipped_and_stay_finite() -> None:
    labelled = scene()
    gaussians = labelled.gaussians.rows(torch.arange(4))
    gaussians.log_scales[0], gaussians.log_scales[1] = 1e4, -1e4
    gaussians.means[2] = 1e20
    gaussians.sh0[3] = 1e9
    packed = pack(replace(labelled, gaussians=gaussians, ids=labelled.ids[:4], scores=labelled.scores[:4]))
    found = unpacked(packed.tobytes(), 4, packed.scale_low)
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["color"].max() == 0xFFFF / 255
    assert found["covariance"].max() < np.finfo(np.float32).max


def test_a_page_is_the_same_to_the_byte_and_small(tmp_path: Path) -> None:
    labelled = scene()
    sizes = [
        write_scene_page(tmp_path / f"{one}.html", labelled, title="balls", cameras=cameras()) for one in "ab"
    ]
    page = (tmp_path / "a.html").read_bytes()
    assert page == (tmp_path / "b.html").read_bytes()
    assert sizes[0] == len(page) < 70_000 + 32 * len(labelled.ids)


def test_one_gaussian_and_no_object_make_a_page(tmp_path: Path) -> None:
    labelled = scene()
    last = len(labelled.ids) - 1
    one = replace(
        labelled,
        gaussians=labelled.gaussians.rows(torch.tensor([last])),
        ids=labelled.ids[last:],
        scores=labelled.scores[last:],
    )
    write_scene_page(tmp_path / "one.html", one, title="one")
    assert content(tmp_path / "one.html")["objects"] == []


def test_what_a_page_cannot_hold_is_refused(tmp_path: Path) -> None:
    labelled = scene()
    with pytest.raises(ConfigError, match="id 65536; a page holds ids up to 65535"):
        write_scene_page(tmp_path / "a.html", replace(labelled, ids=labelled.ids + MAX_ID - 6), title="many")
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = Labelled(labelled.gaussians.rows(nothing), nothing, torch.zeros(0), {})
    with pytest.raises(RunError, match="nobody: no Gaussians to show"):
        write_scene_page(tmp_path / "a.html", empty, title="nobody")
    assert not list(tmp_path.iterdir())


def content(page: Path) -> dict[str, Any]:
    """The JSON in a page."""
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page.read_text())
    assert found
    return json.loads(found[1])


def test_json_in_a_script_ends_neither_the_element_nor_a_line() -> None:
    text = script_json({"name": HOSTILE})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"name": HOSTILE}


def test_a_part_of_the_page_is_never_taken_for_a_name_in_it() -> None:
    assert filled("{{a}} {{b}}", {"a": "{{b}}", "b": "{{a}}"}) == "{{b}} {{a}}"


def test_objects_have_their_names_classes_colours_and_scores(tmp_path: Path) -> None:
    labelled = scene()
    write_scene_page(tmp_path / "page.html", labelled, title="balls", cameras=cameras())
    page = content(tmp_path / "page.html")
    objects = {one["id"]: one for one in page["objects"]}
    assert {one: row["name"] for one, row in objects.items()} == {1: "red one", 2: None, 3: None, 7: HOSTILE}
    assert [one["name"] for one in page["classes"]] == [HOSTILE, "ball"]
    assert [objects[one]["class"] for one in (RED, GREEN, BLUE, GLASS)] == [1, 1, 0, -1]
    assert objects[RED]["count"] == 500
    assert page["none"] == 2500
    mean = float(labelled.scores[labelled.ids == RED].mean())
    assert objects[RED]["score"] == approx(mean / 0.93, abs=1e-3)
    assert page["up"] == approx([0.0, 0.0, 1.0], abs=0.02)
    assert page["start"]["position"] == [-0.4, -2.6, 0.9]


def test_of_very_many_cameras_some_are_listed(tmp_path: Path) -> None:
    one = cameras().cameras[0]
    many = CameraPath((one,) * 1000, tuple(map(str, range(1000))), 2.0)
    write_scene_page(tmp_path / "page.html", scene(), title="balls", cameras=many)
    names = [camera["name"] for camera in content(tmp_path / "page.html")["cameras"]]
    assert (names[0], names[-1], len(names)) == ("0", "996", MAX_CAMERAS)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return findable_run(tmp_path_factory.mktemp("view"))


def test_the_command_writes_the_page_of_a_run_with_its_cameras_and_names(run: Run) -> None:
    folder = run.folder.parent
    assert gslift("edit", run.folder, "--name", "1=the <b>mug</b>", cwd=folder).returncode == 0
    result = gslift("view", run.folder, "--html", "page.html", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "wrote page.html" in result.stdout
    page = content(folder / "page.html")
    assert len(page["cameras"]) == 9  # of twelve views every fifth and the rest of it are for testing
    assert page["objects"][0]["name"] == "the <b>mug</b>"
    assert page["objects"][0]["class"] == 0


def test_the_command_writes_the_page_of_a_labels_ply(run: Run) -> None:
    folder = run.folder.parent
    write_outputs(run, folder / "labels.ply")
    result = gslift("view", "labels.ply", "--html", "bare.html", cwd=folder)
    assert result.returncode == 0, result.stderr
    page = content(folder / "bare.html")
    assert page["cameras"] == []
    assert page["gaussians"] == len(ply.read_splat(folder / "labels.ply"))
    assert [one["name"] for one in page["classes"]] == ["object"]


def test_the_command_wants_a_name_that_says_what_it_is(tmp_path: Path) -> None:
    result = gslift("view", "--html", "a.png", cwd=tmp_path)
    assert result.returncode == 2
    assert "--html a.png: wanted a name that ends in .html" in result.stderr


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@dataclass
class Opened:
    """The page in a browser, and what went wrong or out of it meanwhile."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, what: str) -> Any:
        return self.page.evaluate(f"window.gslift.{what}")

    def pixels(self) -> np.ndarray:
        """[H W 3] uint8 of the canvas, once it shows what was asked for, without its upper and lower borders."""
        self.ask("settled()")
        width, height = CANVAS
        clip = {"x": 0, "y": BORDER, "width": width, "height": height - 2 * BORDER}
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB"))

    def camera(self) -> Camera:
        seen = self.ask("camera")
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = torch.tensor(seen["axes"], dtype=torch.float64)
        viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor(seen["position"], dtype=torch.float64)
        (fx, fy), (cx, cy) = seen["focal"], seen["center"]
        K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        return Camera(K, viewmat, seen["width"], seen["height"])

    def place(self, one: int) -> tuple[float, float]:
        """Where the centre of a ball is in the picture."""
        camera = self.camera()
        center = torch.tensor([*CENTERS[one], 1.0], dtype=torch.float64)
        x, y, depth = (camera.K @ (camera.viewmat @ center)[:3]).tolist()
        return x / depth, y / depth


@contextmanager
def opened(browser: Any, path: Path, *, script: str | None = None, **options: Any) -> Iterator[Opened]:
    """script: JavaScript that runs before the page's own."""
    context = browser.new_context(**{"viewport": SIZE, **options})
    context.set_default_timeout(120_000)
    if script is not None:
        context.add_init_script(script)
    shown = Opened(context.new_page())
    shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
    shown.page.on("console", lambda message: shown.errors.append(message.text))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.goto(path.as_uri())
    if script is None:
        shown.ask("ready")
    yield shown
    context.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "balls & more.html"
    write_scene_page(path, scene(), title=HOSTILE, cameras=cameras())
    return path


@pytest.fixture
def shown(browser: Any, path: Path) -> Iterator[Opened]:
    with opened(browser, path) as one:
        yield one
        assert one.errors == []


def test_it_opens_from_disk_and_asks_for_nothing_else(shown: Opened, path: Path) -> None:
    assert shown.pixels().std() > 10
    assert [url for url in shown.requests if not url.startswith("blob:")] == [path.as_uri()]
    assert shown.page.inner_text("#status") == "4,120 Gaussians, 4 objects"
    assert shown.page.locator("#message").is_hidden()


def test_it_may_not_reach_anybody(browser: Any, path: Path) -> None:
    with opened(browser, path) as shown:
        tried = "fetch('http://127.0.0.1:9/').then(() => 'reached', (error) => 'refused')"
        assert shown.page.evaluate(tried) == "refused"
        assert any("Content Security Policy" in error for error in shown.errors)


def test_it_decodes_what_was_packed_exactly(shown: Opened) -> None:
    packed = pack(scene())
    expected = unpacked(packed.tobytes(), len(packed.order), packed.scale_low)
    for i in (0, 255, 256, 1000, len(packed.order) - 1):
        found = shown.ask(f"gaussian({i})")
        assert found["mean"] == expected["mean"][i].tolist()
        upper = expected["covariance"][i][np.triu_indices(3)]
        assert found["covariance"] == approx(upper, rel=1e-6, abs=1e-6 * upper.max())
        assert (found["color"], found["id"]) == (expected["color"][i].tolist(), expected["id"][i])
        assert (found["opacity"], found["score"]) == approx((expected["opacity"][i], expected["score"][i]))


@pytest.mark.parametrize("antialiased", [False, True])
def test_its_picture_is_that_of_our_renderer(browser: Any, antialiased: bool, tmp_path: Path) -> None:
    labelled = scene()
    labelled = replace(labelled, gaussians=replace(labelled.gaussians, antialiased=antialiased))
    write_scene_page(tmp_path / "page.html", labelled, title="balls", cameras=cameras())
    background = torch.tensor([14.0, 16, 20]) / 255
    with opened(browser, tmp_path / "page.html") as shown:
        for _ in cameras().cameras:
            found = torch.from_numpy(shown.pixels().copy()) / 255
            ours = render(labelled.gaussians, shown.camera(), sh_degree=0, background=background).colors
            assert float(psnr(found, ours.clamp(0, 1)[BORDER:-BORDER])) > 45
            shown.page.click("#camera-after")


def test_every_mode_shows_something_else(shown: Opened) -> None:
    pictures = []
    for mode in ("color", "instance", "class", "confidence", "depth"):
        shown.page.click(f"#modes button[value={mode}]")
        assert shown.ask("mode") == mode
        pictures.append(shown.pixels().astype(int))
    for k, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 3 for other in pictures[k + 1 :])


def expected_hit(labelled: Labelled, camera: Camera, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pixel the object that it shows most of, by our own blending weights, and by how much it leads: by
    nothing where a pixel shows next to nothing."""
    weights = blending_weights(labelled.gaussians, camera, pixels=pixels, minimum=0.0)
    votes = weights.blend(torch.nn.functional.one_hot(labelled.ids, GLASS + 1).float())
    best = votes[:, 1:].topk(2, dim=1)
    objects = votes[:, 1:].sum(dim=1)
    ids = torch.where(objects > votes[:, 0], best.indices[:, 0] + 1, 0)
    lead = torch.minimum((objects - votes[:, 0]).abs(), best.values[:, 0] - best.values[:, 1])
    lead = torch.where(ids > 0, lead, votes[:, 0] - objects)
    return ids, torch.where(votes.sum(dim=1) > 0.06, lead, 0.0)


def test_what_a_pixel_shows_is_told_by_blending_weights(shown: Opened) -> None:
    camera = shown.camera()
    pixels = torch.randint(camera.width * camera.height, (400,), generator=torch.Generator().manual_seed(3))
    ids, lead = expected_hit(scene(), camera, pixels)
    sure = lead > 0.02
    assert set(ids[sure].tolist()) == {0, RED, GREEN, BLUE, GLASS}
    places = [[p % camera.width + 0.5, p // camera.width + 0.5] for p in pixels[sure].tolist()]
    found = shown.page.evaluate("places => places.map(([x, y]) => window.gslift.pick(x, y))", places)
    assert [one and one["id"] for one in found] == ids[sure].tolist()


def test_a_click_selects_the_object_behind_a_thin_pane(shown: Opened) -> None:
    x, y = shown.place(RED)
    weights = blending_weights(
        scene().gaussians, shown.camera(), pixels=torch.tensor([int(y) * CANVAS[0] + int(x)]), minimum=0.0
    ).blend(torch.nn.functional.one_hot(scene().ids, GLASS + 1).float())[0]
    assert weights[RED] > weights[GLASS] > 0.05  # the pane is in front of it
    before = shown.pixels()
    shown.page.mouse.click(x, y)
    assert shown.ask("selected") == RED
    assert shown.page.locator(".object[aria-selected=true]").get_attribute("data-id") == str(RED)
    assert (before != shown.pixels()).any()
    shown.page.mouse.click(*shown.place(GREEN))
    assert shown.ask("selected") == GREEN
    shown.page.mouse.move(200, 200)
    shown.page.mouse.down()
    shown.page.mouse.move(260, 220, steps=3)
    shown.page.mouse.up()
    assert shown.ask("selected") == GREEN  # a drag is no click
    shown.page.keyboard.press("Escape")
    assert shown.ask("selected") == 0


def test_a_tap_selects_on_a_phone(browser: Any, path: Path) -> None:
    phone = {
        "viewport": {"width": 390, "height": 780},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    }
    with opened(browser, path, **phone) as shown:
        camera, (x, y) = shown.camera(), shown.place(BLUE)
        assert (camera.width, camera.height) == (780, 842)
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
        shown.page.touchscreen.tap(x / 2, y / 2)
        assert shown.ask("selected") == BLUE


def test_hide_isolate_and_show_all_change_the_picture(shown: Opened) -> None:
    everything = shown.pixels()
    shown.page.mouse.click(*shown.place(GREEN))
    shown.page.click("#hide")
    shown.page.keyboard.press("Escape")
    without = shown.pixels()
    assert shown.ask("hidden") == [GREEN]
    assert (shown.ask(f"pick({', '.join(map(str, shown.place(GREEN)))})") or {}).get("id") != GREEN
    shown.page.click("#show-all")
    assert (shown.pixels() == everything).all()
    shown.page.mouse.click(*shown.place(GREEN))
    shown.page.click("#isolate")
    shown.page.keyboard.press("Escape")
    alone = shown.pixels()
    assert sorted(shown.ask("hidden")) == [0, RED, BLUE, GLASS]
    difference = np.abs(without.astype(int) - everything).max(axis=2) > 20
    assert 0.01 < difference.mean() < 0.2
    assert (alone == [14, 16, 20]).all(axis=2).mean() > 0.5
    assert difference[(alone.astype(int) - [14, 16, 20]).max(axis=2) > 60].mean() > 0.5


def test_the_mouse_and_the_cameras_move_the_eye(shown: Opened) -> None:
    def position() -> Any:
        return approx(shown.ask("camera")["position"], abs=1e-6)

    start = position()
    for place in cameras().cameras:
        assert shown.ask("camera")["axes"] == approx(place.viewmat[:3, :3].numpy(), abs=1e-6)
        shown.page.click("#camera-after")
    assert start == shown.ask("camera")["position"]
    shown.page.mouse.move(230, 200)
    shown.page.mouse.wheel(0, -200)
    shown.ask("settled()")
    nearer = position()
    assert start != shown.ask("camera")["position"]
    shown.page.mouse.down()
    shown.page.mouse.move(300, 210, steps=4)
    shown.page.mouse.up()
    assert nearer != shown.ask("camera")["position"]
    axes = np.array(shown.ask("camera")["axes"])
    assert axes @ axes.T == approx(np.eye(3), abs=1e-9)
    shown.page.keyboard.press("r")
    assert start == shown.ask("camera")["position"]


def test_names_from_strangers_do_nothing(shown: Opened) -> None:
    page = shown.page
    assert page.evaluate("[document.images.length, typeof window.hacked]") == [0, "undefined"]
    assert page.locator("h1").text_content() == HOSTILE
    assert HOSTILE in page.locator(f".object[data-id='{GLASS}']").text_content()
    assert HOSTILE in page.locator("#camera").text_content()


def test_the_list_is_filtered_by_id_name_and_class(shown: Opened) -> None:
    def left() -> list[str | None]:
        rows = shown.page.locator(".object:visible")
        return [rows.nth(k).get_attribute("data-id") for k in range(rows.count())]

    assert left() == ["1", "2", "3", "7", "0"]
    for words, expected in {
        "ball": ["1", "2"],
        "red ball": ["1"],
        "7": ["7"],
        "no such": [],
        "ELSE": ["0"],
    }.items():
        shown.page.fill("#filter", words)
        assert left() == expected


@pytest.mark.parametrize(
    ("script", "lacking"),
    [
        ("delete window.DecompressionStream", "DecompressionStream"),
        ("HTMLCanvasElement.prototype.getContext = () => null", "WebGL2"),
    ],
)
def test_a_browser_that_is_too_old_is_told_so(browser: Any, path: Path, script: str, lacking: str) -> None:
    with opened(browser, path, script=script) as shown:
        shown.page.locator("#message", has_text=lacking).wait_for()
        assert shown.errors == []


def test_damaged_data_are_told(browser: Any, path: Path, tmp_path: Path) -> None:
    damaged = base64.b64encode(zlib.compress(b"too short")).decode()
    text = re.sub(r'(id="data">)[^<]*', lambda found: found[1] + damaged, path.read_text())
    (tmp_path / "page.html").write_text(text)
    with opened(browser, tmp_path / "page.html", script="0") as shown:
        shown.page.locator("#message", has_text="damaged").wait_for()


def test_a_splat_without_cameras_begins_where_its_objects_show(browser: Any, tmp_path: Path) -> None:
    write_scene_page(tmp_path / "page.html", scene(), title="balls")
    with opened(browser, tmp_path / "page.html") as shown:
        places = [(x, y) for x in range(10, CANVAS[0], 15) for y in range(10, CANVAS[1], 15)]
        hits = shown.page.evaluate("places => places.map(([x, y]) => window.gslift.pick(x, y))", places)
        assert {hit["id"] for hit in hits if hit} >= {RED, GREEN, BLUE, GLASS}
        before = shown.pixels()
        other = "x" if shown.page.input_value("#up") != "x" else "z"
        shown.page.select_option("#up", other)
        assert (before != shown.pixels()).any()
        assert shown.errors == []
