"""report.html: what it shows of a run, that strangers' names do nothing in it, and that it loads nothing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import open_browser
from commands import gslift
from settings import findable_run

from gs_lift.editing import Editor
from gs_lift.gaussians import Gaussians
from gs_lift.pipeline import read_gaussians, read_instances, read_scene
from gs_lift.portraits import DIMMED, best_views, portraits, start_of_splat
from gs_lift.rendering import render
from gs_lift.report_page import write_report
from gs_lift.run import Run
from gs_lift.viewer.picking import pick

HOSTILE = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose names are hostile."""
    made = findable_run(tmp_path_factory.mktemp("report"))
    made.write_record(name=HOSTILE)
    editor = Editor(made)
    editor.do(editor.naming(2, HOSTILE), editor.merging([3, 4]))
    editor.save()
    return made


@pytest.fixture(scope="module")
def page(run: Run) -> Path:
    return write_report(run, run.folder / "report.html")


def test_it_has_a_section_for_all_that_there_is(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        *("Summary", "Settings", "Time and memory", "Curves", "Test views", "Objects", "2D segments"),
        *("Calibration", "Classes"),
    ]
    assert text.count('<div class="object">') == 3
    assert "data.init_points" in text  # a setting that is not the default
    assert "merge 3, 4" in text


def test_scores_are_those_of_eval(run: Run, page: Path) -> None:
    scores = json.loads((run.folder / "scores.json").read_text())["released"]
    text = page.read_text()
    assert f"<b>{scores['pq_scene']:.3f}</b>" in text
    assert f"<b>{scores['objects_found']} / {scores['objects_true']}</b>" in text


def test_objects_stand_in_the_order_of_their_certainty(run: Run, page: Path) -> None:
    instances = read_instances(run)
    ids = [int(one) - 1 for one in re.findall(r'<div class="object">.*?<b>(\d+)</b>', page.read_text())]
    scores = instances.object_scores[ids]
    assert (scores.diff() >= 0).all()
    assert sorted(ids) == instances.present.tolist()


def test_the_page_loads_and_runs_nothing(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text.lower()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    assert "default-src 'none'" in text


def test_names_are_shown_and_do_nothing_in_a_browser(page: Path) -> None:
    with open_browser() as browser:
        shown = browser.new_page()
        requests: list[str] = []
        errors: list[str] = []
        shown.on("request", lambda request: requests.append(request.url.split(":")[0]))
        shown.on("console", lambda message: errors.append(message.text))
        shown.goto(page.as_uri())
        assert shown.title() == f"{HOSTILE} - gs_lift"
        assert HOSTILE in "".join(shown.locator(".object").all_inner_texts())
        broken = shown.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
        assert (broken, errors) == (0, [])
        assert set(requests) <= {"file", "data"}


def test_a_run_without_truth_or_test_views_has_a_page_too(run: Run, tmp_path: Path) -> None:
    room = tmp_path / "room"
    shutil.copytree(run.scene, room)
    for name in ("instance", "semantic"):
        shutil.rmtree(room / name)
    shutil.copytree(run.folder, tmp_path / "run")
    blind = Run(tmp_path / "run")
    blind.write_record(scene=str(room), name="blind")
    (blind.folder / "scores.json").unlink()
    text = write_report(blind, tmp_path / "report.html").read_text()
    assert "nothing here says whether an object is a true one" in text
    assert "Calibration" not in text


def test_the_command_writes_beside_the_run_and_refuses_other_names(run: Run, tmp_path: Path) -> None:
    refused = gslift("report", run.folder, "--out", "report.pdf", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--out report.pdf: wanted a name that ends in .html" in refused.stderr
    done = gslift("report", run.folder, "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "wrote page.html"
    assert (tmp_path / "page.html").exists()


def test_a_torn_line_of_the_metrics_is_passed_over(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    torn = Run(tmp_path / "run")
    with (torn.folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "fit", "st\n[]\n{"stage": "fit", "step": 60, "loss": NaN}\n')
    assert "Curves" in write_report(torn, tmp_path / "report.html").read_text()


# ---- pictures and figures


def test_a_portrait_is_of_the_view_that_shows_most() -> None:
    area = np.array([[1.0, 0], [3.0, 0], [2.0, 0]])
    assert best_views(area).tolist() == [1, -1]
    assert best_views(area[:0]).tolist() == [-1, -1]


def test_a_portrait_shows_its_object_and_dims_the_rest(run: Run) -> None:
    scene, instances, gaussians = read_scene(run), read_instances(run), read_gaussians(run)
    best = np.full(len(instances), -1)
    best[0] = 2
    ((number, pixels),) = portraits(scene.train, gaussians, instances, best)
    assert number == 0
    assert min(pixels.shape[:2]) >= 8
    colors = (render(gaussians, scene.train[2].camera).colors.clamp(0, 1) * 255).detach().numpy()
    height, width = pixels.shape[:2]
    assert height * width < colors.shape[0] * colors.shape[1]
    for row, column in np.ndindex(colors.shape[0] - height + 1, colors.shape[1] - width + 1):
        plain = colors[row : row + height, column : column + width]
        own = np.abs(pixels - plain).max(axis=2) <= 1
        dimmed = np.abs(pixels - DIMMED * plain).max(axis=2) <= 1
        if (own | dimmed).all():  # this is where it was cut out
            assert own[height // 2, width // 2]
            assert dimmed[0, 0]
            break
    else:
        pytest.fail("the portrait is no part of the view")


def test_a_splat_without_cameras_is_seen_from_where_its_objects_show() -> None:
    # Two balls on a floor, z up, with a wall around: from outside, or from below, none shows.
    generator = torch.Generator().manual_seed(0)
    floor = torch.cat([torch.rand(2000, 2, generator=generator) * 6 - 3, torch.zeros(2000, 1)], dim=1)
    angle = torch.rand(3000, generator=generator) * 2 * torch.pi
    wall = torch.stack(
        [4.2 * angle.cos(), 4.2 * angle.sin(), torch.rand(3000, generator=generator) * 6], dim=1
    )
    balls = [
        torch.randn(300, 3, generator=generator) * 0.1 + torch.tensor([x, 0.0, 0.4]) for x in (-1.0, 1.0)
    ]
    means = torch.cat([floor, wall, *balls])
    gaussians = Gaussians.from_points(means, torch.full_like(means, 0.5), opacity=0.99)
    gaussians.log_scales[:5000] = -1.8
    labels = np.repeat([-1, 0, 1], [5000, 300, 300])
    camera, up = start_of_splat(gaussians, labels, width=96, height=54)
    assert up.tolist() == [0, 0, 1]
    assert camera.position[2] > 0.4
    assert camera.position[:2].norm() < 4.2
    for ball in balls:
        seen = pick(gaussians, labels, camera.position, ball.mean(dim=0).double() - camera.position)
        assert seen is not None
        assert seen[0] >= 0
