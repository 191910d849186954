"""The command line: every command once for real, and one line with exit code 2 for what a user gets wrong."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ENVIRONMENT, gslift
from PIL import Image
from settings import TINY_SETTINGS

from gs_lift.ply import read_labels, read_splat

SYNTH = ["--objects", "4", "--views", "10", "--size", "48", "--seed", "1", "--noise", "easy"]
SETTINGS = [word for setting in (*TINY_SETTINGS, "data.init=depth") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a room, and a run of it under runs/."""
    folder = tmp_path_factory.mktemp("workplace")
    for arguments in (["synth", "room", *SYNTH], ["fit", "room", *SETTINGS]):
        result = gslift(*arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def test_segment_cuts_again_and_back_and_eval_scores_the_last_cut(workplace: Path) -> None:
    def objects(*options: object) -> tuple[bytes, dict[str, Any]]:
        result = gslift("segment", "--out", "cut/labels.ply", *options, cwd=workplace)
        assert result.returncode == 0, result.stderr
        return (workplace / "cut" / "labels.ply").read_bytes(), json.loads(
            (workplace / "cut" / "labels.json").read_text()
        )

    plain, said = objects()
    assert said["cut"] == {}
    large, said = objects("--min-cluster-size", 1e6)
    assert said["cut"] == {"min_size": 1e6, "min_share": 0.0}
    assert said["instances"] == 0
    assert large != plain
    assert gslift("eval", "--json", "scores.json", cwd=workplace).returncode == 0
    assert json.loads((workplace / "scores.json").read_text())["scenes"][0]["objects_found"] == 0
    assert objects("--granularity", 0, "--epsilon", 0.01)[1]["cut"] == {"epsilon": 0.01, "granularity": 0.0}
    # Of so short a run only the smallest clusters leave a choice.
    coarsest, finest = (objects("--min-cluster-size", 5, "--granularity", share)[0] for share in (0, 1))
    assert coarsest != finest
    assert objects()[0] == plain


def test_segment_obeys_constraints(workplace: Path) -> None:
    assert gslift("segment", "--out", "free/labels.ply", cwd=workplace).returncode == 0
    free, _ = read_labels(workplace / "free" / "labels.ply")
    a, b, c = (int(row) for row in (free == 0).nonzero()[[0, 20, -1], 0])
    wanted = {"must_link": {"gaussians": [[a, b]]}, "cannot_link": {"gaussians": [[a, c]]}}
    (workplace / "wanted.json").write_text(json.dumps(wanted))
    result = gslift("segment", "--out", "told/labels.ply", "--constraints", "wanted.json", cwd=workplace)
    assert result.returncode == 0, result.stderr
    told, _ = read_labels(workplace / "told" / "labels.ply")
    assert told[a] == told[b] != told[c]
    said = json.loads((workplace / "told" / "labels.json").read_text())["cut"]["constraints"]
    assert said["cannot_link"] == {"gaussians": [[a, c]], "instances": []}
    for impossible, reason in [
        ([[1, 99]], "cannot_link instances [1, 99]: there are instances 1 to "),
        ([[1, 1]], "impossible: cannot_link instances [1, 1], but that is one Gaussian"),
    ]:
        (workplace / "wanted.json").write_text(json.dumps({"cannot_link": {"instances": impossible}}))
        refused = gslift("segment", "--out", "x/labels.ply", "--constraints", "wanted.json", cwd=workplace)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"gslift: {reason}")
        assert refused.stderr.count("\n") == 1
    assert not (workplace / "x").exists()
    assert gslift("segment", "--out", "free/labels.ply", cwd=workplace).returncode == 0


def test_segment_and_eval_take_the_latest_run_and_write_what_they_say(workplace: Path) -> None:
    segmented = gslift("segment", "--out", "out/labels.ply", cwd=workplace)
    assert segmented.returncode == 0, segmented.stderr
    assert {path.name for path in (workplace / "out").iterdir()} == {
        "labels.ply",
        "labels.json",
        "instances.ply",
    }
    scored = gslift("eval", "--json", "scores.json", cwd=workplace)
    assert scored.returncode == 0, scored.stderr
    scores = json.loads((workplace / "scores.json").read_text())
    figures = [
        "pq_scene",
        "sq",
        "rq",
        "pq_things",
        "pq_stuff",
        "miou",
        "psnr",
        "ssim",
        "objects_true",
        "objects_found",
        "halo",
        "gaussians",
    ]
    assert list(scores) == ["scenes", "mean"]
    assert list(scores["scenes"][0]) == ["name", *figures, "seconds"]
    assert scores["scenes"][0]["name"] == "room"
    assert 0 <= scores["scenes"][0]["pq_scene"] <= 1
    assert scores["scenes"][0]["objects_true"] == 4
    assert {"fit", "lift", "segment"} <= set(scores["scenes"][0]["seconds"])


def test_render_writes_colors_and_depth_of_every_test_view(workplace: Path) -> None:
    options = ["--path", "test", "--what", "color,depth"]
    result = gslift("render", "runs/room", *options, "--out", "pictures", cwd=workplace)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (workplace / "pictures").iterdir()}
    assert names == {
        f"{view}_{what}" for view in ("00008", "00009") for what in ("color.png", "depth.png", "depth.npy")
    }
    with Image.open(workplace / "pictures" / "00008_color.png") as picture:
        assert picture.size == (48, 48)


def test_a_finished_run_is_not_done_again(workplace: Path) -> None:
    before = (workplace / "runs/room/splat.ply").stat().st_mtime_ns
    again = gslift("fit", "room", *SETTINGS, cwd=workplace)
    assert again.returncode == 0
    assert "done before" in again.stdout
    assert (workplace / "runs/room/splat.ply").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["ply", "checkpoint", "folder"])
def test_a_splat_is_lifted_onto_without_fitting(workplace: Path, tmp_path: Path, kind: str) -> None:
    fitted = splat = workplace / "runs/room/splat.ply"
    if kind != "ply":
        g, splat = read_splat(fitted), tmp_path / "ckpt_59_rank0.pt"
        named = {"means": g.means, "quats": g.quats, "scales": g.log_scales, "opacities": g.logit_opacities}
        torch.save({"step": 59, "splats": named | {"sh0": g.sh0, "shN": g.shN}}, splat)
    if kind == "folder":
        splat = tmp_path
    arguments = ["fit", workplace / "room", "--run", "given", "--splat", splat, *SETTINGS]
    assert gslift(*arguments, cwd=tmp_path).returncode == 0
    assert (tmp_path / "given/splat.ply").read_bytes() == fitted.read_bytes()
    assert (tmp_path / "given/embeddings.pt").exists()
    assert not (tmp_path / "given/points.npz").exists()


def test_a_data_set_is_evaluated_scene_by_scene_and_a_bad_scene_is_reported(
    workplace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workplace / "room", tmp_path / "data" / "good")
    shutil.copytree(workplace / "room", tmp_path / "data" / "bad")
    (tmp_path / "data/bad/color/00003.png").write_bytes(b"not a picture")
    shutil.copytree(workplace / "runs/room", tmp_path / "runs/messy_rooms/good")
    # The scene moved and the settings are tiny: the run is refused, and says what differs.
    result = gslift("eval", "--dataset", "messy_rooms", "--data", "data", cwd=tmp_path)
    assert result.returncode == 2
    assert "scene bad failed" in result.stdout
    assert "scene good failed" in result.stdout
    assert "fit.steps (60 -> " in " ".join(result.stdout.split())


def test_config_prints_what_it_reads(workplace: Path) -> None:
    printed = gslift("config", "--set", "fit.steps=77", cwd=workplace)
    assert "steps: 77" in printed.stdout
    (workplace / "mine.yaml").write_text(printed.stdout)
    assert gslift("config", "--config", "mine.yaml", cwd=workplace).stdout == printed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "nowhere"),
        (["fit", "room", "--set", "fit.step=3"], "no field fit.step. Did you mean 'fit.steps'?"),
        (["fit", "room", "--set", "fit.steps=-5"], "fit.steps"),
        (["fit", "room", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["fit", "room", "--splat", "none.ply"], "none.ply"),
        (["fit", "room", *SETTINGS, "--set", "seed=5"], "seed (0 -> 5); use --overwrite"),
        (["fit", "room", "--colour", "red"], "--colour"),
        (["fit"], "scene"),
        (["segment", "nowhere", "--out", "labels.ply"], "nowhere: not a run folder"),
        (["segment", "--out", "labels.txt"], ".ply"),
        (
            ["segment", "--out", "labels.ply", "--granularity", "2"],
            "cluster.granularity: wanted 0 to 1, got 2",
        ),
        (
            ["segment", "--out", "labels.ply", "--min-cluster-size", "1"],
            "cluster.min_size: wanted 2 or more and finite, got 1",
        ),
        (
            ["segment", "--out", "labels.ply", "--epsilon", "nan"],
            "cluster.epsilon: wanted 0 or more and finite, got nan",
        ),
        (["segment", "--out", "labels.ply", "--constraints", "none.json"], "none.json: no such file"),
        (["segment", "runs/room", "--out", "runs/room/splat.ply"], "would replace"),
        (["segment", "runs/room", "--out", "runs/room/run.ply"], "would replace"),
        (["eval", "--dataset", "messy_rooms"], "--data DIR"),
        (
            ["eval", "--dataset", "imagenet", "--data", "."],
            "no dataset 'imagenet'; one of: hypersim, messy_rooms",
        ),
        (["synth", "new", "--noise", "loud"], "loud"),
        (["synth", "new", "--layout", "colmap"], "one of: messy_rooms, panoptic_lifting"),
        (["synth", "new", "--objects", "many"], "--objects"),
        (["synth", "new", "--objects", "0"], "objects"),
        (["render", "nowhere", "--out", "x"], "nowhere: not a run folder"),
        (["dance"], "dance"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_by_one_line_and_exit_code_2(
    workplace: Path, arguments: list[str], message: str
) -> None:
    result = gslift(*arguments, cwd=workplace)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("gslift: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.parametrize("name", ["embeddings.pt", "splat.ply", "run.json", "config.yaml"])
def test_a_damaged_run_is_answered_by_one_line_and_exit_code_2(
    workplace: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(workplace / "runs/room", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"{torn")
    result = gslift("segment", tmp_path / "run", "--out", "labels.ply", cwd=tmp_path)
    assert result.returncode == 2
    assert name in result.stderr
    assert result.stderr.count("\n") == 1


def break_image(room: Path) -> None:
    (room / "color/00002.png").write_bytes((room / "color/00002.png").read_bytes()[:60])


def shrink_mask(room: Path) -> None:
    np.save(room / "detic_instance/00002.npy", np.zeros((7, 9), np.uint8))


def spoil_pose(room: Path) -> None:
    metadata = json.loads((room / "metadata.json").read_text())
    metadata["camera"]["positions"][2][0] = float("nan")
    (room / "metadata.json").write_text(json.dumps(metadata))


def empty_scene(room: Path) -> None:
    shutil.rmtree(room / "color")
    (room / "color").mkdir()


@pytest.mark.parametrize(
    "harm", [break_image, shrink_mask, spoil_pose, empty_scene], ids=lambda f: f.__name__
)
def test_a_broken_scene_is_answered_by_one_line_and_exit_code_2(
    workplace: Path, tmp_path: Path, harm
) -> None:
    shutil.copytree(workplace / "room", tmp_path / "room")
    harm(tmp_path / "room")
    result = gslift("fit", "room", *SETTINGS, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert "room" in result.stderr


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(workplace: Path, tmp_path: Path) -> None:
    arguments = ["fit", workplace / "room", *SETTINGS, "--set", "fit.steps=3000", "--set", "lift.steps=10"]
    command = [sys.executable, "-m", "gs_lift", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "runs/room/fit"
    while not list(checkpoints.glob("step_*.pt")):
        assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"run the same command again to finish" in errors
    assert not list(tmp_path.rglob("*.part*"))
    last = max(int(path.stem.split("_")[1]) for path in checkpoints.glob("step_*.pt"))
    assert gslift(*arguments, cwd=tmp_path).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "runs/room/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "fit"]
    assert steps == sorted(set(steps))  # none was done twice
    assert max(steps) == 3000 > last
