"""The doctor: healthy scenes are, and each illness is named with its cure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import gslift, python
from layouts import TrueScene, true_scene, write_colmap, write_nerfstudio
from PIL import Image

from gs_lift.config import Config, load_config
from gs_lift.doctor import Finding, check_machine, check_scene, is_well

SCENE = true_scene(8)


def findings(path: Path, *settings: str) -> dict[str, list[Finding]]:
    by_what: dict[str, list[Finding]] = {}
    for one in check_scene(path, load_config(None, list(settings))):
        assert "\n" not in one.found
        by_what.setdefault(one.what, []).append(one)
    return by_what


def test_this_machine_is_well() -> None:
    found = {one.what: one for one in check_machine()}
    assert is_well(list(found.values()))
    assert {"gs_lift", "processor", "torch", "faiss", "gsplat", "pycolmap", "gaussforge", "disk"} <= set(
        found
    )


def test_two_packages_of_faiss_are_named_with_the_cure(tmp_path: Path) -> None:
    """What is installed is read from metadata; a second faiss is put on the path."""
    for name in ("faiss_cpu-1.9", "faiss_gpu-1.7"):
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        package, number = name.replace("_", "-").rsplit("-", 1)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {number}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom gs_lift.doctor import check_machine\n"
    code += "print([one.found for one in check_machine() if one.what == 'faiss' and one.kind == 'wrong'])"
    done = python(code, tmp_path)
    assert "faiss-cpu and faiss-gpu are both installed" in done.stdout, done.stderr
    assert "pip uninstall faiss-cpu faiss-gpu" in done.stdout


def test_a_healthy_scene_is_well(tmp_path: Path) -> None:
    found = findings(write_colmap(tmp_path / "a", replace_points(SCENE)))
    assert is_well([one for several in found.values() for one in several])
    assert found["scene"][0].found.startswith("colmap: 7 photos to learn from, 1 to test on, 24x16 pixels")
    assert found["points"][0].found == "40, 100% of them in a photo"
    assert found["segments"][0].found.startswith("of 7 of 7 photos, classes: background, object; 3 a photo")
    assert found["truth"][0].kind == "note"


def replace_points(scene: TrueScene) -> TrueScene:
    """Points where the cameras look: near the origin."""
    rng = np.random.default_rng(0)
    means, colors = rng.uniform(-0.1, 0.1, (40, 3)), rng.integers(0, 256, (40, 3), dtype=np.uint8)
    return replace(scene, means=means, colors=colors)


def test_what_is_no_scene_is_said_once(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert list(found) == ["scene"]
    assert "is empty; looked for" in found["scene"][0].found
    assert found["scene"][0].kind == "wrong"


def test_a_scene_without_segments_says_where_to_put_them(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, SCENE)
    found = findings(tmp_path, "data.segments=none")["segments"][0]
    assert found.kind == "wrong"
    assert "masks/" in found.found
    assert "gslift masks" in found.found


def test_empty_segments_are_noticed(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, replace(SCENE, ids=np.zeros_like(SCENE.ids)))
    assert "all empty" in findings(tmp_path)["segments"][0].found


def test_cameras_in_one_place_are_noticed(tmp_path: Path) -> None:
    """Each turns where it stands: x = R (X - c) with one c for all."""
    viewmats = SCENE.viewmats.copy()
    viewmats[:, :3, 3] = -np.einsum("nij,j->ni", viewmats[:, :3, :3], np.array([1.0, 2.0, 3.0]))
    write_colmap(tmp_path, replace(SCENE, viewmats=viewmats))
    found = findings(tmp_path)["cameras"][0]
    assert (found.kind, found.found.split(":")[0]) == ("wrong", "all in one place")


def test_points_of_another_frame_are_noticed(tmp_path: Path) -> None:
    write_colmap(tmp_path, replace(SCENE, means=SCENE.means + 1000))
    assert "of another frame than the cameras?" in findings(tmp_path)["points"][0].found


def test_black_and_broken_photos_are_noticed(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, SCENE)
    Image.new("RGB", (24, 16)).save(tmp_path / "images" / "0001.png")
    assert findings(tmp_path)["photos"][0].found.startswith("black: 0001")
    whole = (tmp_path / "images" / "0002.png").read_bytes()
    (tmp_path / "images" / "0002.png").write_bytes(whole[:-40])
    assert "broken image" in findings(tmp_path)["photos"][0].found


def test_the_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "room", SCENE)
    done = gslift("doctor", "room", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nerfstudio: 7 photos" in done.stdout
    (tmp_path / "room" / "transforms.json").write_text(json.dumps({"frames": []}))
    done = gslift("doctor", "room", cwd=tmp_path)
    assert done.returncode == 2
    assert "wanted at least 2" in " ".join(done.stdout.split())


def test_memory_follows_the_size_of_the_photos(tmp_path: Path) -> None:
    assert Config().memory_budget_gb == 2
    write_nerfstudio(tmp_path, SCENE)
    finding = findings(tmp_path)["memory"][0]
    assert finding.found == "photos 0.0 GB, then weights 0.0 GB; at most 2 GB are kept"


@pytest.mark.parametrize("same", [0, 3])
def test_photos_from_one_place_are_counted(same: int, tmp_path: Path) -> None:
    viewmats = SCENE.viewmats.copy()
    for i in range(same):
        viewmats[2 + i] = viewmats[1]
    write_nerfstudio(tmp_path, replace(SCENE, viewmats=viewmats))
    found = findings(tmp_path)["cameras"][0]
    assert (found.kind == "note") == bool(same)
    assert not same or found.found.startswith("3 photos from the place of another")
