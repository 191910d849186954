"""Checkpoints: the newest readable state comes back, whatever a kill left behind."""

import pickle
from pathlib import Path

import pytest
import torch

from gs_lift.checkpoint import Checkpoints


def test_the_newest_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "fit", every=10)
    generator = torch.Generator().manual_seed(5)
    state = {
        "means": torch.rand(7, 3, generator=generator),
        "step": 20,
        "rng": generator.get_state(),
        "list": [1.5],
    }
    checkpoints.save(10, {"means": torch.zeros(1)})
    checkpoints.save(20, state)
    found = checkpoints.latest()
    assert found is not None
    step, loaded = found
    assert step == 20
    assert torch.equal(loaded["means"], state["means"])
    assert torch.equal(loaded["rng"], state["rng"])
    assert loaded["list"] == [1.5]


def test_a_torn_file_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(2)})
    (tmp_path / "step_00000002.pt").write_bytes(b"torn")
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert "an older checkpoint is used" in caplog.text


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code from a checkpoint ran')",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"x": Bomb()}, tmp_path / "step_00000001.pt", pickle_module=pickle)
    assert Checkpoints(tmp_path).latest() is None


def test_old_checkpoints_are_pruned_and_a_finished_stage_keeps_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=5, keep=2)
    for step in range(1, 21):
        if checkpoints.due(step):
            checkpoints.save(step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000015.pt", "step_00000020.pt"]
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.latest() is None
