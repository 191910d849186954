"""The neutral scorer: every kind of maps gives the same figures, and what does not fit together is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import gslift
from PIL import Image
from rooms import write_room

from gs_lift.datasets import DataConfig, load_scene
from gs_lift.errors import SceneError
from gs_lift.metrics import panoptic_pixels, pq_scene
from gs_lift.scoring import read_maps, score

SIZE = (16, 32)
BOTH = ("released", "strict")


def truth_of(frames: int = 5, seed: int = 0) -> np.ndarray:
    """[F H W] ids 0 to 3 in blocks of 8 x 8."""
    blocks = np.random.default_rng(seed).integers(0, 4, (frames, 2, 4))
    return np.kron(blocks, np.ones((8, 8), int))


def spoilt(ids: np.ndarray) -> np.ndarray:
    """Objects 1 and 2 are one, and the first two columns are missed."""
    found = np.where(ids == 2, 1, ids)
    found[:, :, :2] = 0
    return found


def write_pair(folder: Path, ids: np.ndarray, names: tuple[str, str] = ("semantic", "instance")) -> Path:
    for name, maps in zip(names, ((ids > 0).astype(np.int64), ids), strict=True):
        (folder / name).mkdir(parents=True)
        for frame, one in enumerate(maps):
            np.save(folder / name / f"{frame:03d}.npy", one)
    return folder


def write_pngs(folder: Path, ids: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for frame, one in enumerate(ids):
        Image.fromarray(one.astype(np.uint16)).save(folder / f"{frame:03d}.png")
    return folder


def write_scannet(folder: Path, ids: np.ndarray, names: tuple[str, str]) -> Path:
    """Objects are chairs (5) on a floor (2)."""
    for name, maps in zip(names, (np.where(ids > 0, 5, 2), ids), strict=True):
        (folder / name).mkdir(parents=True)
        for frame, one in enumerate(maps):
            Image.fromarray(one.astype(np.uint8)).save(folder / name / f"{frame:03d}.png")
    return folder


def test_maps_of_every_kind_score_the_same(tmp_path: Path) -> None:
    ids = truth_of()
    truth, pred = write_pair(tmp_path / "truth", ids), write_pair(tmp_path / "pred", spoilt(ids))
    judged = score(pred, truth, BOTH, rounds=0)
    assert judged.frames == 5
    others = [
        score(write_pngs(tmp_path / "png", spoilt(ids)), truth, BOTH, rounds=0),
        score(pred, write_pngs(tmp_path / "png_truth", ids), BOTH, rounds=0),
    ]
    assert all(other.scores == judged.scores for other in others)
    views = [read_maps(folder).frames for folder in (pred, truth)]
    pixels = [panoptic_pixels(read() for read in frames.values()) for frames in views]
    by_hand = pq_scene(*pixels, things=[1], stuff=[0], minimum_share=0.0)
    assert judged.scores["strict"].pq_scene == pytest.approx(by_hand.pq, abs=1e-9)
    assert judged.scores["strict"].objects_true == 3
    assert 0 < by_hand.pq < 1


def test_what_contrastive_lift_renders_is_scored_with_scannets_classes(tmp_path: Path) -> None:
    ids = truth_of()
    truth = write_scannet(tmp_path / "truth", ids, ("rs_semantics", "rs_instance"))
    same = write_scannet(tmp_path / "same", ids, ("pred_semantics", "pred_surrogateid"))
    judged = score(same, truth, BOTH, rounds=0)
    assert [judged.scores[one].pq_scene for one in BOTH] == [1, 1]
    chair = judged.scores["strict"].per_class[5]
    assert (chair.name, chair.true_positives) == ("chair", 3)


def test_predicted_void_is_a_class_to_the_released_protocol_alone(tmp_path: Path) -> None:
    ids = truth_of()
    truth = write_scannet(tmp_path / "truth", ids, ("rs_semantics", "rs_instance"))
    pred = write_scannet(tmp_path / "pred", ids, ("pred_semantics", "pred_surrogateid"))
    path = pred / "pred_semantics" / "000.png"
    kinds = np.array(Image.open(path))
    kinds[0, :8] = 0
    Image.fromarray(kinds).save(path)
    judged = score(pred, truth, BOTH, rounds=0)
    # 8 of 2560 pixels are under .5 %; twice as many are not.
    assert judged.scores["released"].per_class[0].pq is None
    kinds[:2, :8] = 0
    Image.fromarray(kinds).save(path)
    judged = score(pred, truth, BOTH, rounds=0)
    assert judged.scores["released"].per_class[0].pq == 0
    assert judged.scores["strict"].per_class[0].pq is None


def test_intervals_hold_the_figure_and_follow_the_seed(tmp_path: Path) -> None:
    ids = truth_of(frames=8)
    truth, pred = write_pngs(tmp_path / "truth", ids), write_pngs(tmp_path / "pred", spoilt(ids))
    one, again, other = (score(pred, truth, ["strict"], rounds=50, seed=seed) for seed in (1, 1, 2))
    low, high = one.intervals["strict"]["pq_scene"]
    assert low <= (one.scores["strict"].pq_scene or 0) <= high
    assert low < high
    assert one.intervals == again.intervals != other.intervals
    assert score(truth, truth, ["strict"], rounds=5).intervals["strict"]["pq_scene"] == (1, 1)


def test_a_scene_is_a_truth(tmp_path: Path) -> None:
    room = write_room(tmp_path / "room", frames=10)
    test = load_scene(room, DataConfig()).test
    assert len(test) == 2
    pred = tmp_path / "pred"
    pred.mkdir()
    for view in test:
        assert view.truth is not None
        Image.fromarray((view.truth().instance.numpy() + 1).astype(np.uint16)).save(pred / f"{view.name}.png")
    judged = score(pred, room, ["strict"], rounds=0)
    assert judged.frames == 2
    found, truth = read_maps(pred).frames[test[0].name](), test[0].truth
    assert truth is not None
    assert torch.equal(found.instance, torch.where(truth().instance >= 0, truth().instance + 1, -1))


@pytest.mark.parametrize(
    ("break_it", "part"),
    [
        (lambda pred: (pred / "002.png").unlink(), "no prediction for 1 of 5 frames (002)"),
        (lambda pred: [path.unlink() for path in pred.iterdir()], "no maps; wanted semantic/ and instance/"),
        (lambda pred: (pred / "003.png").write_bytes(b"no"), "not a PNG"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(break_it, part: str, tmp_path: Path) -> None:
    ids = truth_of()
    truth, pred = write_pngs(tmp_path / "truth", ids), write_pngs(tmp_path / "pred", ids)
    break_it(pred)
    with pytest.raises(SceneError) as caught:
        score(pred, truth, BOTH, rounds=0)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_maps_of_other_classes_are_refused(tmp_path: Path) -> None:
    ids = truth_of()
    truth = write_scannet(tmp_path / "truth", ids, ("rs_semantics", "rs_instance"))
    with pytest.raises(SceneError, match=r"2 classes .* the truth has 22"):
        score(write_pngs(tmp_path / "pred", ids), truth, BOTH)


def test_halves_of_a_pair_that_differ_are_refused(tmp_path: Path) -> None:
    truth = write_pair(tmp_path / "truth", truth_of())
    (truth / "semantic" / "001.npy").unlink()
    with pytest.raises(SceneError, match="001 is in only one of semantic/ and instance/"):
        read_maps(truth)
    np.save(truth / "semantic" / "001.npy", np.zeros((3, 3), int))
    with pytest.raises(SceneError, match=r"shape \(16, 32\); semantic's is \(3, 3\)"):
        read_maps(truth).frames["001"]()
    np.save(truth / "semantic" / "001.npy", np.full(SIZE, 7))
    with pytest.raises(SceneError, match="classes 7 to 7; wanted 0 to 1"):
        read_maps(truth).frames["001"]()


def test_the_command_prints_both_protocols_and_writes_json(tmp_path: Path) -> None:
    ids = truth_of()
    write_pngs(tmp_path / "truth", ids)
    write_pngs(tmp_path / "pred", spoilt(ids))
    done = gslift(
        "score", "--pred", "pred", "--truth", "truth", "--bootstrap", 20, "--json", "s.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "released" in done.stdout
    assert "strict" in done.stdout
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["frames"] == 5
    low, high = content["strict"]["intervals"]["pq_scene"]
    assert low <= content["strict"]["pq_scene"] <= high
    wrong = gslift("score", "--pred", "pred", "--truth", "truth", "--protocol", "mine", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "no protocol 'mine'; one of: released, strict" in wrong.stderr
