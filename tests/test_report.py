"""Reports: the JSON that checks rely on, a table that fits a terminal, a contact sheet that shows what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from gs_lift.evaluation import Scores
from gs_lift.palette import GREY, palette
from gs_lift.report import (
    Strip,
    contact_sheet,
    depth_limits,
    depth_picture,
    label_picture,
    scores_json,
    scores_table,
)

JUDGED = Scores(0.842, 0.9, 0.88, 0.729, 0.956, 0.93, 50, 45, (), 31.25, 0.912, 0.2, 60123)
PERFECT = Scores(1.0, 1.0, 1.0, 0.0, 0.95, 1.0, 500, 412, (), 30.25, 0.9, 0.1, 160000)
UNJUDGED = Scores(*[None] * 8, (), 29.0, 0.9, None, 1000)
KEYS = (
    "name pq_scene sq rq pq_things pq_stuff miou psnr ssim objects_true objects_found halo gaussians seconds"
)


def row(name: str, scores: Scores, seconds: dict[str, float] | None = None) -> tuple:
    return name, {"released": scores}, seconds or {}


def printed(rows: list, published: dict[str, float] | None = None) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(scores_table(rows, published))
    return capture.get().splitlines()


def words(line: str) -> str:
    return " ".join(line.split())


def test_the_json_holds_exactly_the_promised_fields() -> None:
    report = json.loads(scores_json([row("a", JUDGED, {"fit": 75.004, "eval": 3})]))
    assert list(report) == ["scenes", "mean"]
    assert list(report["scenes"][0]) == KEYS.split()
    assert list(report["mean"]) == KEYS.split()[1:-1]
    assert report["scenes"][0]["seconds"] == {"fit": 75.0, "eval": 3}
    assert report["scenes"][0]["pq_scene"] == 0.842


def test_a_mean_is_over_the_scenes_that_have_the_figure() -> None:
    mean = json.loads(scores_json([row("a", JUDGED, {}), row("b", UNJUDGED, {}), row("c", PERFECT, {})]))[
        "mean"
    ]
    assert mean["pq_scene"] == pytest.approx((0.842 + 1) / 2)
    assert mean["psnr"] == pytest.approx((31.25 + 29 + 30.25) / 3)


def test_without_truth_figures_are_null() -> None:
    report = json.loads(scores_json([row("b", UNJUDGED, {})]))
    assert report["scenes"][0]["pq_scene"] is None
    assert report["mean"]["objects_true"] is None
    assert json.loads(scores_json([]))["mean"]["psnr"] is None


def test_the_table_says_it_all_in_80_columns() -> None:
    lines = printed(
        [row("messy_noise_500", PERFECT, {"fit": 1200.0}), row("messy_sam_50", JUDGED, {"fit": 75.4})]
    )
    assert max(map(len, lines)) <= 80
    assert words(lines[1]) == "scene scene SQ RQ things stuff mIoU PSNR SSIM found splats sec."
    assert words(lines[3]) == "messy_noise_500 1.00 1.00 1.00 .000 .950 1.00 30.25 .900 412/500 160k 1200"
    assert words(lines[4]) == "messy_sam_50 .842 .900 .880 .729 .956 .930 31.25 .912 45/50 60k 75"
    assert words(lines[-1]).startswith("mean .921 ")


def both(name: str, released: Scores, strict: Scores) -> tuple:
    return name, {"released": released, "strict": strict}, {"fit": 60.0}


def test_two_protocols_stand_side_by_side_above_what_others_published() -> None:
    rows = [both("office_0", PERFECT, JUDGED), both("office_4", JUDGED, JUDGED)]
    lines = printed(rows, {"Contrastive Lift": 0.591})
    assert max(map(len, lines)) <= 80
    assert words(lines[0]) == "PQ PQ objects strict strict"
    assert words(lines[1]) == "scene scene SQ RQ things mIoU PSNR found PQ mIoU sec."
    assert words(lines[3]) == "office_0 1.00 1.00 1.00 .000 1.00 30.25 412/500 .842 .930 60"
    assert words(lines[6]).startswith("mean of 2 .921 .950 .940")
    assert words(lines[8]) == "Contrastive Lift .591"


def test_the_json_holds_the_second_protocol_under_its_name() -> None:
    report = json.loads(scores_json([both("a", PERFECT, JUDGED)]))
    assert report["scenes"][0]["pq_scene"] == 1
    assert report["scenes"][0]["strict"]["pq_scene"] == 0.842
    assert report["mean"]["strict"]["pq_things"] == 0.729


def test_a_scene_without_truth_has_dashes_and_any_name() -> None:
    lines = printed([row("room [red]", UNJUDGED, {})])
    assert words(lines[-1]) == "room [red] - - - - - - 29.00 .900 - 1k 0"


def test_labels_keep_their_colours_and_get_a_border() -> None:
    picture = label_picture(torch.tensor([[0, 0, -1, -1]] * 2))
    assert picture[0].tolist() == [[*palette(1)[0]], [*palette(1)[0]], [0, 0, 0], [*GREY]]


def strip_of(name: str, **labels: torch.Tensor) -> Strip:
    return Strip(name, torch.full((8, 8, 3), 0.5), **labels)


def test_a_contact_sheet_has_the_columns_that_there_are(tmp_path: Path) -> None:
    ids = torch.arange(8).repeat(8, 1) // 4
    contact_sheet(
        tmp_path / "two.png", [strip_of("0", instances=ids), strip_of("1", instances=ids)], width=64
    )
    contact_sheet(tmp_path / "four.png", [strip_of("0", truth=ids, segments=ids, instances=ids)], width=64)
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "four.png") as four:
        assert (two.format, two.mode) == ("PNG", "RGB")
        assert (four.width - two.width, two.height > four.height) == (2 * 70, True)
        pixels = np.asarray(two)
    assert (pixels[40, 16] == 128).all()
    left, right = pixels[40, 6 + 70 + 10], pixels[40, 6 + 70 + 50]
    assert np.abs(left.astype(int) - (0.75 * palette(2)[0] + 32)).max() <= 1
    assert np.abs(right.astype(int) - (0.75 * palette(2)[1] + 32)).max() <= 1


def cells(path: Path, width: int) -> list[np.ndarray]:
    """The pictures of a sheet's first row, each `width` pixels wide and high."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet).astype(int)
    return [pixels[24 : 24 + width, left : left + width] for left in range(6, pixels.shape[1] - 6, width + 6)]


def test_what_matches_an_instance_has_its_colour(tmp_path: Path) -> None:
    truth = torch.tensor([[9] * 8 + [4] * 8 + [5] * 8] * 24)
    segments = torch.tensor([[30] * 7 + [-1] + [31] * 16] * 24)
    instances = torch.tensor([[1] * 9 + [0] * 7 + [-1] * 8] * 24)
    image = torch.full((24, 24, 3), 0.5)
    contact_sheet(tmp_path / "s.png", [Strip("0", image, truth, segments, instances)], width=24)
    _, true, found, ours = cells(tmp_path / "s.png", 24)
    # Object 9 and segment 30 are instance 1, object 4 is instance 0; object 5 and segment 31 match none.
    assert (true[12, 4] == ours[12, 4]).all()
    assert (found[12, 4] == ours[12, 4]).all()
    assert (true[12, 12] == ours[12, 12]).all()
    for other in (true[12, 20], found[12, 20]):
        assert all(np.abs(other - ours[12, column]).max() > 20 for column in (4, 12, 20))


def test_a_contact_sheet_of_no_view_is_a_picture_still(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "s.png", [])
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.format == "PNG"


def test_near_is_bright_and_nothing_is_black() -> None:
    depths, alphas = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    near, middle, far, nothing = depth_picture(depths, alphas)[0, :, 0].tolist()
    assert 255 == near > middle > far > nothing == 0
    assert depth_picture(depths, 0 * alphas).max() == 0


def test_pictures_of_depth_with_the_same_limits_compare() -> None:
    depths, seen = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2)
    assert depth_limits(depths, seen) == pytest.approx((1.01, 1.99))
    assert depth_limits(depths, 0 * seen) is None
    closer, farther = (depth_picture(depths + more, seen, (1.0, 5.0))[0, :, 0].tolist() for more in (0, 1))
    assert closer[1] == farther[0] == 255 - 200 / 4


def test_a_contact_sheet_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        contact_sheet(tmp_path / name, [strip_of("0")])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
