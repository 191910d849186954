"""Run folders: what is refused, what is redone, what is found again."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gs_lift.config import Config
from gs_lift.errors import GsLiftError, RunError
from gs_lift.run import STAGES, Run, latest_run, open_run, stage_of_field, start_run

CONFIG = replace(Config(), device="cpu", backend="cpu")


def start(folder: Path, config: Config = CONFIG, *, scene: str = "/room", overwrite: bool = False) -> Run:
    return start_run(folder, "room", Path(scene), None, config, overwrite=overwrite, resume=True)


def finish_all(run: Run) -> None:
    for stage in STAGES:
        run.result(stage).write_bytes(b"done")


def test_the_same_settings_continue_and_keep_what_is_done(tmp_path: Path) -> None:
    finish_all(start(tmp_path / "run"))
    assert all(start(tmp_path / "run").done(stage) for stage in STAGES)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    finish_all(start(tmp_path / "run"))
    other = replace(CONFIG, lift=replace(CONFIG.lift, steps=7), seed=9)
    with pytest.raises(RunError, match=r"seed \(0 -> 9\), lift.steps \(\d+ -> 7\); use --overwrite"):
        start(tmp_path / "run", other)
    with pytest.raises(RunError, match=r"scene \(/room -> /hall\)"):
        start(tmp_path / "run", scene="/hall")
    assert all(Run(tmp_path / "run").done(stage) for stage in STAGES)


@pytest.mark.parametrize(
    ("section", "kept"),
    [("data", []), ("fit", ["points"]), ("lift", ["points", "fit"]), ("cluster", ["points", "fit", "lift"])],
)
def test_overwrite_redoes_what_the_change_touches(tmp_path: Path, section: str, kept: list[str]) -> None:
    finish_all(start(tmp_path / "run"))
    change = {
        "data": replace(CONFIG.data, init="random"),
        "fit": replace(CONFIG.fit, steps=11),
        "lift": replace(CONFIG.lift, steps=11),
        "cluster": replace(CONFIG.cluster, min_samples=11),
    }[section]
    run = start(tmp_path / "run", replace(CONFIG, **{section: change}), overwrite=True)
    assert [stage for stage in STAGES if run.done(stage)] == kept
    assert getattr(run.config, section) == change


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and not a run"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_seconds_add_up_over_starts(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.add_seconds("fit", 1.5)
    run.add_seconds("fit", 2.0)
    assert run.seconds == {"fit": 3.5}
    run.forget("fit")
    assert run.seconds == {}


def test_the_latest_run_is_the_one_written_to_last(tmp_path: Path) -> None:
    for seconds, name in [(200, "new"), (100, "old")]:
        start(tmp_path / name)
        os.utime(tmp_path / name / "run.json", (seconds, seconds))
    assert latest_run(tmp_path).folder == tmp_path / "new"


def test_a_missing_or_broken_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs here"):
        latest_run(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"no readable run\.json"):
        _ = open_run(tmp_path).scene


def test_what_a_kill_left_of_the_first_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.run.77.part.json").write_text("{")
    start(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def test_settings_that_made_nothing_yet_may_change(tmp_path: Path) -> None:
    start(tmp_path / "run")
    other = replace(CONFIG, data=replace(CONFIG.data, init="random"))
    assert start(tmp_path / "run", other).config == other


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_torn_record_is_refused_and_overwrite_is_the_way_out(tmp_path: Path, name: str) -> None:
    finish_all(start(tmp_path / "run"))
    (tmp_path / "run" / name).write_text("{")
    with pytest.raises(GsLiftError, match=name.replace(".", r"\.")):
        start(tmp_path / "run")
    run = start(tmp_path / "run", overwrite=True)
    assert run.config == CONFIG
    assert not run.begun


def test_a_kill_between_the_first_two_files_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    start(tmp_path / "run")
    (tmp_path / "run/config.yaml").unlink()
    assert start(tmp_path / "run").config == CONFIG


def test_scores_of_an_earlier_result_do_not_outlive_it(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    (run.folder / "scores.json").write_text("{}")
    run.forget("segment")
    assert not (run.folder / "scores.json").exists()


def test_scoring_again_does_not_add_up(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.add_seconds("eval", 2.0)
    run.add_seconds("eval", 1.0)
    assert run.seconds == {"eval": 1.0}


@pytest.mark.parametrize(
    ("field", "stage"),
    [
        ("data.segments", "lift"),
        ("data.unlabelled", "lift"),
        ("data.check_splat", "fit"),
        ("data.max_size", "points"),
        ("fit.steps", "fit"),
        ("device", "fit"),
        ("cluster.votes", "segment"),
    ],
)
def test_a_setting_touches_its_stage_and_what_follows(field: str, stage: str) -> None:
    assert stage_of_field(field) == stage


def test_other_segments_are_noticed_once_they_were_lifted(tmp_path: Path) -> None:
    def begin(segments: str, *, overwrite: bool = False) -> Run:
        return start_run(
            tmp_path / "run",
            "room",
            Path("/room"),
            None,
            CONFIG,
            segments=segments,
            overwrite=overwrite,
            resume=True,
        )

    run = begin("one")
    run.result("fit").touch()
    assert begin("two").record["segments"] == "two"  # nothing was learnt from the first ones
    run.result("lift").touch()
    begin("two")
    with pytest.raises(RunError, match=r"segments \(two -> three\); use --overwrite"):
        begin("three")
    run = begin("three", overwrite=True)
    assert run.done("fit")
    assert not run.done("lift")
