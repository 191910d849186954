"""Data sets by name: which scenes they have, what is skipped, what a broken scene does, what others reached."""

import shutil
from pathlib import Path

import pytest
from settings import TINY, tiny_config

from gs_lift.batch import BatchConfig
from gs_lift.benchmark import DATASETS, dataset_config, evaluate_dataset
from gs_lift.config import Config, differences
from gs_lift.errors import ConfigError, SceneError
from gs_lift.pipeline import SilentReporter, evaluate_run, fit_run, scored_run
from gs_lift.run import open_run
from gs_lift.synthetic import SynthConfig, synthesize


class Lines(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two furnished rooms, and one whose camera is torn."""
    folder = tmp_path_factory.mktemp("replica")
    synthesize(folder / "office_0", SynthConfig(**TINY, layout="panoptic_lifting"), processes=1)
    shutil.copytree(folder / "office_0", folder / "room_1")
    shutil.copytree(folder / "office_0", folder / "broken")
    (folder / "broken" / "intrinsic" / "intrinsic_color.txt").write_text("1 2 3")
    (folder / "notes").mkdir()
    return folder


def test_a_data_set_is_scored_scene_by_scene_and_taken_up_where_it_was_left(
    data: Path, tmp_path: Path
) -> None:
    first = Lines()
    batch = BatchConfig(jobs=2, retries=0)
    found = evaluate_dataset("replica", data, tmp_path, config=tiny_config(), batch=batch, reporter=first)
    assert [run.name for run, _ in found.scored] == ["office_0", "room_1"]
    assert [one.task.name for one in found.failed] == ["broken"]
    assert all(list(scores) == ["released", "strict"] for _, scores in found.scored)
    assert any(line.startswith("scene broken failed") and "4 lines" in line for line in first.lines)
    assert "1 of 3 scenes failed and are not in the means" in first.lines
    assert first.lines[-1].endswith("not here: room_0, room_2, office_2, office_3, office_4")

    (tmp_path / "room_1" / "scores.json").unlink()
    before = (tmp_path / "room_1.log").read_text()
    again = Lines()
    found_again = evaluate_dataset(
        "replica", data, tmp_path, config=tiny_config(), batch=batch, reporter=again
    )
    assert found_again == found
    assert again.lines[0] == "1 of 3 scenes were done before"
    said = (tmp_path / "room_1.log").read_text().removeprefix(before)
    assert [stage for stage in ("fit", "lift") if f"{stage}: done before" in said] == ["fit", "lift"]
    assert "\neval: " in said


def test_scores_are_kept_until_another_cut(data: Path, tmp_path: Path) -> None:
    run = fit_run(data / "office_0", tiny_config(), folder=tmp_path / "run")
    scores = evaluate_run(run, ["released", "strict"])
    assert scored_run(run, ["strict", "released"]) == scores
    assert scored_run(run, ["released", "another"]) is None
    assert evaluate_run(run, ["strict"]) == {"strict": scores["strict"]}
    assert scored_run(run, ["released"]) is None
    (run.folder / "scores.json").write_text('{"strict": {"pq_scene": 1}}')
    assert scored_run(open_run(run.folder), ["strict"]) is None


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_settings_of_its_own_and_published_rows(name: str) -> None:
    assert all(
        field.split(".")[0] in ("data", "fit") for field in differences(Config(), dataset_config(name))
    )
    assert DATASETS[name].published["Contrastive Lift"] > DATASETS[name].published["Panoptic Lifting"]


def test_settings_can_be_changed_and_unknown_names_cannot() -> None:
    assert dataset_config("replica", None, ["fit.steps=7"]).fit.steps == 7
    with pytest.raises(ConfigError, match="no dataset 'imagenet'; one of: hypersim, messy_rooms"):
        dataset_config("imagenet")


def test_scene_names_match_without_their_separators() -> None:
    assert DATASETS["scannet"].missing(["scene0050_02", "scene0144_01"])[0] == "0221_01"
    assert "room_0" not in DATASETS["replica"].missing(["room0"])


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such folder"):
        evaluate_dataset("replica", tmp_path / "nowhere", tmp_path)
    with pytest.raises(SceneError, match="none of its folders is a replica scene"):
        evaluate_dataset("replica", tmp_path, tmp_path)
