"""The live viewer: what it paints and picks, and what a person can do with it in a real browser."""

import io
import json
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from browser import open_browser
from commands import gslift, start_gslift
from PIL import Image
from pytest import approx
from settings import findable_run

from gs_lift.editing import Editor
from gs_lift.errors import ConfigError
from gs_lift.evaluation import panoptic
from gs_lift.exports import Labelled
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import pixel_centers
from gs_lift.palette import GREY, palette
from gs_lift.pipeline import write_outputs
from gs_lift.run import Run
from gs_lift.viewer import Window, open_server, where_to_look
from gs_lift.viewer.painting import MODES, Shown, paint, visible
from gs_lift.viewer.picking import pick
from gs_lift.viewer.server import close_server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return findable_run(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def run(untouched: Run, tmp_path: Path) -> Run:
    shutil.copytree(untouched.folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture(scope="module")
def shown(untouched: Run) -> Shown:
    return Shown.of_editor(Editor(untouched))


# ---- what is painted


def test_instances_have_the_colours_of_labels_ply(shown: Shown) -> None:
    colors = paint("instance", shown)
    assert (colors[shown.labels == 2] == palette(3)[2]).all()
    assert (colors[shown.labels == -1] == GREY).all()


def test_confidence_is_bright_where_it_is_high_and_grey_where_there_is_no_object(shown: Shown) -> None:
    colors = paint("confidence", shown).astype(int).sum(axis=1)
    inside = shown.labels >= 0
    order = np.argsort(shown.scores[inside])
    assert (np.diff(colors[inside][order]) >= -3).all()  # rounding
    assert (colors[~inside] == 180).all()


def test_depth_is_bright_where_it_is_near_and_depends_on_the_place(shown: Shown) -> None:
    means = shown.gaussians.means.numpy()
    for nearest in (0, len(means) - 1):
        colors = paint("depth", shown, position=means[nearest].astype(np.float64))
        assert (colors[nearest] == 255).all()
        assert colors.min() == 55


def test_classes_have_a_colour_each(shown: Shown) -> None:
    colors = paint("class", shown)
    assert len(np.unique(colors[shown.labels >= 0], axis=0)) == 1  # all are "object"
    assert len(np.unique(colors, axis=0)) == 2


def test_what_is_not_selected_is_dimmed(shown: Shown) -> None:
    plain, dimmed = paint("color", shown), paint("color", shown, selected=[1])
    assert (plain[shown.labels == 1] == dimmed[shown.labels == 1]).all()
    others = shown.labels != 1
    assert dimmed[others].std() < 0.5 * plain[others].std()


def test_hidden_and_isolated_objects(shown: Shown) -> None:
    assert (visible(shown, [1]) == (shown.labels != 1)).all()
    assert (visible(shown, [], [0, 2]) == np.isin(shown.labels, [0, 2])).all()
    assert (visible(shown, [2], [0, 2]) == (shown.labels == 0)).all()
    assert not visible(shown, [0], [0]).any()


def test_a_labels_ply_alone_shows_the_same(untouched: Run, shown: Shown, tmp_path: Path) -> None:
    write_outputs(untouched, tmp_path / "labels.ply")
    alone = Shown.of_labelled(Labelled.of_file(tmp_path / "labels.ply"))
    assert (alone.labels == shown.labels).all()
    plain = [[replace(one, score=0.0) for one in some.objects] for some in (alone, shown)]
    assert plain[0] == plain[1]
    assert [one.score for one in alone.objects] == approx([one.score for one in shown.objects], abs=1e-6)
    members = shown.labels >= 0
    for mode in MODES:
        apart = np.abs(paint(mode, alone).astype(int) - paint(mode, shown))
        assert apart[members].max() <= 1, mode
        assert mode == "class" or apart.max() <= 1, mode  # a file has no classes of what is no object


# ---- what is picked


def test_a_click_hits_what_a_rendered_label_map_shows(untouched: Run, shown: Shown) -> None:
    editor = Editor(untouched)
    camera = editor.scene.train[3].camera
    found = panoptic(camera, editor.gaussians, editor.embeddings, editor.instances, editor.scene.classes)
    rays = torch.cat([pixel_centers(camera.height, camera.width).double(), torch.ones(48, 48, 1)], dim=-1)
    rays = rays.double() @ torch.linalg.inv(camera.K).T @ camera.viewmat[:3, :3]
    focal = float(camera.K[0, 0])
    sure = found.confidence > 0.6  # at a border the votes for stuff decide, which a click does not ask
    same = total = 0
    for row in range(0, 48, 3):
        for column in range(0, 48, 3):
            if sure[row, column]:
                hit = pick(shown.gaussians, shown.labels, camera.position, rays[row, column], focal=focal)
                assert hit is not None
                same, total = same + (hit[0] == int(found.instance[row, column])), total + 1
                assert shown.labels[hit[1]] == hit[0]
    assert total > 100
    assert same / total > 0.97


def test_a_click_hits_the_strongest_object_where_objects_outweigh_none() -> None:
    # Three flat Gaussians one behind the other: .4 of none, then .35 and .25 of two objects.
    alphas = torch.tensor([0.4, 0.35 / 0.6, 0.25 / 0.25 * 0.99])
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 3]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        log_scales=torch.zeros(3, 3),
        logit_opacities=torch.logit(alphas),
        sh0=torch.zeros(3, 1, 3),
        shN=torch.zeros(3, 0, 3),
    )
    origin, forward = torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])
    assert pick(gaussians, np.array([-1, 0, 1]), origin, forward) == (0, 1)
    assert pick(gaussians, np.array([-1, -1, 1]), origin, forward) == (-1, 0)


def test_a_click_into_nothing_hits_nothing(shown: Shown) -> None:
    up = torch.tensor([0.0, 0.0, 1.0])
    assert pick(shown.gaussians, shown.labels, torch.tensor([0.0, 0.0, 50.0]), up) is None


# ---- where it is served


def test_a_tunnel_is_named_on_a_remote_machine_and_others_get_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert where_to_look("127.0.0.1", 8080) == ["open http://127.0.0.1:8080 in a browser; Ctrl-C stops"]
    assert where_to_look("::1", 8080) == ["open http://[::1]:8080 in a browser; Ctrl-C stops"]
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    assert "ssh -N -L 8081:127.0.0.1:8081 " in where_to_look("127.0.0.1", 8081)[1]
    assert where_to_look("0.0.0.0", 8080) == [
        "open http://127.0.0.1:8080 in a browser; Ctrl-C stops",
        "warning: --host 0.0.0.0: whoever reaches this machine can look at the scene and edit the run",
    ]


def test_pages_of_others_do_not_connect() -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    port = free_port()
    server = open_server("127.0.0.1", port)
    try:
        for origin, allowed in (
            (f"http://127.0.0.1:{port}", True),
            (f"http://localhost:{port}", True),
            (None, True),  # no browser
            ("https://example.org", False),
            ("null", False),  # a file
            (f"http://127.0.0.1:{port + 1}", False),
        ):
            address = f"ws://127.0.0.1:{port}"
            if allowed:
                connect(address, origin=origin, subprotocols=["viser-v1"]).close()
            else:
                with pytest.raises(InvalidStatus, match="403"):
                    connect(address, origin=origin, subprotocols=["viser-v1"])
    finally:
        close_server(server)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: Address already in use; choose another port"):
            open_server("127.0.0.1", port)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["run", "--port", "0"], "--port 0: wanted 1 to 65535"),
        (["nothing"], "nothing: not a run folder"),
        (["run", "--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 8080: "),
    ],
)
def test_a_viewer_that_cannot_be_is_refused_in_one_line(
    run: Run, tmp_path: Path, options: list[str], said: str
) -> None:
    result = gslift("view", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


class Session:
    """A viewer of a run, and a page that shows it."""

    def __init__(self, run: Run, page: Any, window: Window):
        self.run, self.page, self.window = run, page, window

    def picture(self) -> np.ndarray:
        """The middle of the page, left of the panel, as floats."""
        pixels = self.page.screenshot(clip={"x": 100, "y": 160, "width": 400, "height": 400})
        return np.asarray(Image.open(io.BytesIO(pixels)).convert("RGB"), np.float64)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        for _ in range(1200):
            if holds():
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never: {what}")

    def changed(self, before: np.ndarray) -> None:
        self.until(lambda: np.abs(self.picture() - before).mean() > 1, "the picture changes")

    def settled(self) -> np.ndarray:
        """The picture when it no longer changes."""
        pictures = [self.picture()]

        def still() -> bool:
            pictures.append(self.picture())
            return pictures[-1].std() > 5 and np.abs(pictures[-1] - pictures[-2]).mean() < 0.1

        self.until(still, "the picture rests")
        return pictures[-1]

    def press(self, button: str) -> None:
        self.page.get_by_text(button, exact=True).first.click()

    def field(self, label: str) -> Any:
        """The input beside a label."""
        row = self.page.locator(".mantine-Flex-root").filter(has=self.page.get_by_text(label, exact=True))
        return row.last.locator("input:visible").first

    def objects(self) -> dict[int, str | None]:
        content = json.loads((self.run.folder.parent / "labels.json").read_text())
        return {one["id"]: one.get("name") for one in content["objects"]}


@pytest.fixture
def session(run: Run, browser: Any, tmp_path: Path) -> Iterator[Session]:
    write_outputs(run, tmp_path / "labels.ply")
    port = free_port()
    editor = Editor(run)
    server = open_server("127.0.0.1", port)
    window = Window(server, Shown.of_editor(editor), editor)
    page = browser.new_page(viewport={"width": 900, "height": 720})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text("4 objects").first.wait_for(timeout=60_000)
        session = Session(run, page, window)
        session.settled()
        yield session
        local = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}", "data:", "blob:")
        assert [url for url in requests if not url.startswith(local)] == []
    finally:
        page.close()
        window.close()


def center_on_page(session: Session, instance: int) -> tuple[float, float]:
    """Where on the page the middle of the Gaussians of an instance is, by the camera of the page."""
    shown = session.window.shown
    means = shown.gaussians.means[torch.from_numpy(shown.labels == instance)].double().numpy()
    middle = means[((means - means.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    ((x, y),) = on_page(session, middle[None])
    return x, y


def ends_on_page(session: Session, instance: int) -> list[tuple[float, float]]:
    """Where two Gaussians of an instance are that a click hits, the leftmost and the rightmost one."""
    shown = session.window.shown
    rows = np.flatnonzero(shown.labels == instance)
    means = shown.gaussians.means.double()[torch.from_numpy(rows)]
    eye = torch.from_numpy(next(iter(session.window.server.get_clients().values())).camera.position)
    hits = [pick(shown.gaussians, shown.labels, eye, mean - eye) for mean in means]
    own = [place for place, hit in enumerate(hits) if hit is not None and hit[0] == instance]
    places = sorted(on_page(session, means[own].numpy()))
    return [places[0], places[-1]]


def on_page(session: Session, points: np.ndarray) -> list[tuple[float, float]]:
    """Of points [n 3] of the world, by the camera of the page."""
    camera = next(iter(session.window.server.get_clients().values())).camera
    x, y, z = _matrix(camera.wxyz).T @ (points - camera.position).T
    focal = camera.image_height / 2 / np.tan(camera.fov / 2)
    places = camera.image_width / 2 + focal * x / z, camera.image_height / 2 + focal * y / z
    return list(zip(*(each.tolist() for each in places), strict=True))


def _matrix(wxyz: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(np.roll(wxyz, -1)).as_matrix()


def test_the_picture_changes_with_the_view(session: Session) -> None:
    pictures = [session.settled()]
    for mode in MODES:
        if mode != "instance":
            session.window._mode.value = mode
            session.changed(pictures[-1])
            pictures.append(session.settled())
    apart = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) > 1


def test_a_click_selects_the_object_that_was_clicked(session: Session) -> None:
    for instance in (0, 1, 2):
        x, y = center_on_page(session, instance)
        session.page.mouse.click(x, y)
        session.until(lambda: session.window.selected == [instance], f"{instance} is selected")  # noqa: B023
        session.page.get_by_text(f"selected: {instance + 1}").first.wait_for()


def test_merge_and_undo_change_labels_json(session: Session) -> None:
    before = session.objects()
    session.page.mouse.click(*center_on_page(session, 0))
    session.until(lambda: session.window.selected == [0], "the first is selected")
    session.page.keyboard.down("Shift")
    session.page.mouse.click(*center_on_page(session, 1))
    session.page.keyboard.up("Shift")
    session.until(lambda: session.window.selected == [0, 1], "both are selected")
    session.press("merge")
    session.until(lambda: list(session.objects()) == [1, 3, 4], "labels.json has them as one")
    assert "merge 1, 2" in session.run.edits.read_text()
    session.press("undo")
    session.until(lambda: session.objects() == before, "labels.json is as it was")
    session.press("redo")
    session.until(lambda: list(session.objects()) == [1, 3, 4], "and again")


def test_names_are_shown_as_they_are_and_kept(session: Session) -> None:
    hostile = "</td><img src=x onerror=\"document.title='x'\">"
    session.page.mouse.click(*center_on_page(session, 2))
    session.until(lambda: session.window.selected == [2], "it is selected")
    session.field("name").fill(hostile)
    session.until(lambda: session.window._name.value == hostile, "the name has arrived")
    session.press("set name")
    session.until(lambda: session.objects()[3] == hostile, "labels.json has the name")
    session.page.get_by_text(hostile).first.wait_for()
    assert session.page.locator("img[src=x]").count() == 0


def test_hide_and_isolate_change_the_picture_and_show_all_brings_it_back(session: Session) -> None:
    session.page.mouse.click(*center_on_page(session, 0))
    session.until(lambda: session.window.selected == [0], "it is selected")
    dimmed = session.settled()
    session.press("isolate")
    session.changed(dimmed)
    alone = session.settled()
    session.press("hide")
    session.changed(alone)
    session.press("show all")
    session.until(lambda: not session.window.hidden, "all is shown")
    shown_again = session.settled()
    assert np.abs(shown_again - alone).mean() > 1


def test_a_cut_after_an_edit_does_not_keep_the_edit_from_labels_json(session: Session) -> None:
    begun, go_on = Event(), Event()

    def hold() -> None:
        begun.set()
        go_on.wait(60)

    session.window.writer.submit(hold)  # the writer is busy, as it is for seconds with a large splat
    begun.wait(60)
    session.page.mouse.click(*center_on_page(session, 1))
    session.until(lambda: session.window.selected == [1], "it is selected")
    session.press("delete")
    session.until(lambda: len(session.window.shown.objects) == 3, "it is deleted")
    session.window._granularity.value = 0.45
    session.until(
        lambda: (
            session.window.editor is not None
            and session.window.editor.recipe.changes.get("granularity") == 0.45
        ),
        "it is cut again",
    )
    go_on.set()
    session.until(lambda: list(session.objects()) == [1, 3, 4], "labels.json has it no more")


def test_edits_of_the_shell_are_seen_and_do_not_end_those_of_the_viewer(session: Session) -> None:
    other = Editor(session.run)
    other.do(other.naming(1, "mug"))
    other.save()
    session.page.get_by_text("mug").first.wait_for()
    session.page.mouse.click(*center_on_page(session, 1))
    session.until(lambda: session.window.selected == [1], "it is selected")
    session.press("delete")
    session.until(lambda: session.objects() == {1: "mug", 3: None, 4: None}, "both edits are there")


def test_split_at_clicks_parts_an_object(session: Session) -> None:
    session.page.mouse.click(*center_on_page(session, 0))
    session.until(lambda: session.window.selected == [0], "it is selected")
    session.press("begin")
    session.page.get_by_text("(so far: 0)").first.wait_for()
    for number, place in enumerate(ends_on_page(session, 0), start=1):
        session.page.mouse.click(*place)
        session.page.get_by_text(f"(so far: {number})").first.wait_for()
    session.press("done")
    session.until(lambda: len(session.objects()) == 5, "there are two of it")


def test_an_edit_that_cannot_be_is_told_and_changes_nothing(session: Session) -> None:
    session.press("merge")
    session.page.get_by_text("select an object first").first.wait_for()
    session.page.mouse.click(*center_on_page(session, 0))
    session.until(lambda: session.window.selected == [0], "it is selected")
    session.press("merge")
    session.page.get_by_text("merge 1: wanted two objects or more").first.wait_for()
    assert not session.run.edits.exists()


def test_the_slider_cuts_again(session: Session) -> None:
    session.window._granularity.value = 0.0
    coarse = Editor(session.run)
    coarse.cut({"granularity": 0.0})
    wanted = len(coarse.instances.present)
    session.until(lambda: len(session.window.shown.objects) == wanted, f"there are {wanted} objects")
    session.page.get_by_text(f"{wanted} objects").first.wait_for()


def test_a_photo_and_its_segments_are_shown(session: Session) -> None:
    name = session.window.editor.scene.train[1].name if session.window.editor else ""
    session.press("cameras")
    session.field("photo").click()
    session.page.get_by_role("option", name=name).first.click()
    session.page.get_by_text("2D segments").first.wait_for()


def test_a_scene_grows_while_it_is_fitted(untouched: Run, browser: Any, tmp_path: Path) -> None:
    port = free_port()
    room = untouched.folder.parent / "room"
    command = ["fit", room, "--run", "run", "--view", "--port", port, "--set", "data.init=depth"]
    process = start_gslift(*command, "--set", "fit.steps=100000", cwd=tmp_path)
    page = browser.new_page(viewport={"width": 900, "height": 720})
    try:
        for _ in range(1800):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            page.wait_for_timeout(100)
        page.goto(f"http://127.0.0.1:{port}")
        steps: set[str] = set()
        for _ in range(1800):
            steps.add(page.get_by_text("Gaussians").first.inner_text())
            if len(steps) > 1:
                break
            page.wait_for_timeout(100)
        assert all(re.fullmatch(r"step \d+: [\d,]+ Gaussians", text) for text in steps)
        assert len(steps) > 1
    finally:
        page.close()
        process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[0] == f"open http://127.0.0.1:{port} in a browser; Ctrl-C stops"
    assert "stopped; run the same command again to finish" in errors


def test_the_viewer_ends_with_ctrl_c(run: Run, tmp_path: Path) -> None:
    port = free_port()
    process = start_gslift("view", "run", "--port", port, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == f"open http://127.0.0.1:{port} in a browser; Ctrl-C stops\n"
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "", "")
