"""Malformed input of every class, given to the command line: one line, exit code 2, nothing written, nothing run."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import test_layouts
import test_masks
from layouts import true_scene, write_colmap, write_nerfstudio, write_nice_slam, write_polycam
from random_data import random_gaussians
from rooms import write_room

from gs_lift.cli import main
from gs_lift.gaussians import Gaussians
from gs_lift.ply import write_splat

SCENE = true_scene()


def photos_of_four_by_three(folder: Path) -> Path:
    """A room of the size that the masks of test_masks.py are for."""
    room = write_room(folder / "room", width=4, height=3)
    (room / "mine").mkdir()
    return room


def mask_case(name: str, content: bytes) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        room = photos_of_four_by_three(folder)
        frame = sorted((room / "color").iterdir())[0].stem
        (room / "mine" / f"{frame}{Path(name).suffix}").write_bytes(content)
        return ["fit", str(room), "--segments", str(room / "mine")]

    return write


def transforms_case(fields: dict[str, object]) -> Callable[[Path], list[str]]:
    return lambda folder: ["fit", str(write_nerfstudio(folder / "a" / "b", SCENE, **fields))]


def replaced(write: Callable[[Path], Path], name: str, content: bytes) -> Callable[[Path], list[str]]:
    """A scene one of whose files has another content."""

    def make(folder: Path) -> list[str]:
        scene = write(folder / "data" / "scene")
        (scene / name).write_bytes(content)
        return ["fit", str(scene)]

    return make


def splat_case(name: str, content: bytes | Callable[[Path], bytes]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        scene = write_nerfstudio(folder / "scene", SCENE)
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(folder))
        return ["fit", str(scene), "--splat", str(path)]

    return make


def splat_bytes(folder: Path, edit: Callable[[bytes], bytes]) -> bytes:
    made = random_gaussians(0, 5, sh_degree=1)
    write_splat(folder / "whole.ply", Gaussians(*(one.float() for one in made.parameters().values())))
    return edit((folder / "whole.ply").read_bytes())


def yaml_case(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "c.yaml").write_text(text)
        return ["fit", str(write_nerfstudio(folder / "scene", SCENE)), "--config", str(folder / "c.yaml")]

    return make


def colmap(folder: Path) -> Path:
    return write_colmap(folder, SCENE)


def text_colmap(folder: Path) -> Path:
    return write_colmap(folder, SCENE, binary=False)


def doubling_alias(name: str) -> str:
    after = chr(ord(name) + 1)
    return f"{after}: &{after} [*{name}, *{name}]\n"


CASES: dict[str, Callable[[Path], list[str]]] = {
    **{f"mask: {what}": mask_case(name, content) for what, (name, content, _) in test_masks.BROKEN.items()},
    **{f"transforms: {what}": transforms_case(fields) for what, (fields, _) in test_layouts.BROKEN.items()},
    "transforms: not JSON": replaced(lambda f: write_nerfstudio(f, SCENE), "transforms.json", b"{"),
    "transforms: deep JSON": replaced(lambda f: write_nerfstudio(f, SCENE), "transforms.json", b"[" * 10**5),
    "COLMAP: empty cameras": replaced(colmap, "sparse/0/cameras.bin", b""),
    "COLMAP: cameras of noise": replaced(colmap, "sparse/0/cameras.bin", bytes(range(256)) * 4),
    "COLMAP: images of noise": replaced(colmap, "sparse/0/images.bin", bytes(range(256)) * 4),
    "COLMAP: points of noise": replaced(colmap, "sparse/0/points3D.bin", b"\xff" * 64),
    "COLMAP: text of words": replaced(text_colmap, "sparse/0/cameras.txt", b"one PINHOLE wide high\n"),
    "COLMAP: text of an unknown model": replaced(
        text_colmap, "sparse/0/cameras.txt", b"1 MAGIC 24 16 1 2 3 4\n"
    ),
    "COLMAP: images that lead out": replaced(
        text_colmap, "sparse/0/images.txt", b"1 1 0 0 0 0 0 0 1 ../../../secret.png\n\n"
    ),
    "Polycam: no JSON": replaced(
        lambda f: write_polycam(f, SCENE), "keyframes/corrected_cameras/0001.json", b"\x00\x01"
    ),
    "NICE-SLAM: a number too many": replaced(lambda f: write_nice_slam(f, SCENE), "traj.txt", b"1 " * 97),
    "photo: torn": replaced(lambda f: write_nerfstudio(f, SCENE), "images/0001.png", b"\x89PNG\r\n\x1a\n"),
    "photo: text": replaced(lambda f: write_nerfstudio(f, SCENE), "images/0000.png", b"hello"),
    "photo: a bomb": replaced(
        lambda f: write_nerfstudio(f, SCENE), "images/0002.png", b"P6 99999 99999 255\n"
    ),
    "cloud: no PLY": replaced(lambda f: write_nerfstudio(f, SCENE), "points.ply", b"ply\nnothing"),
    "cloud: promises more": replaced(
        lambda f: write_nerfstudio(f, SCENE),
        "points.ply",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n",
    ),
    "splat: empty": splat_case("a.ply", b""),
    "splat: cut short": splat_case("a.ply", lambda folder: splat_bytes(folder, lambda whole: whole[:-7])),
    "splat: promises more": splat_case(
        "a.ply",
        lambda folder: splat_bytes(folder, lambda whole: whole.replace(b"vertex 5", b"vertex 999999999999")),
    ),
    "splat: a property less": splat_case(
        "a.ply",
        lambda folder: splat_bytes(folder, lambda whole: whole.replace(b"property float opacity\n", b"")),
    ),
    "splat: nan": splat_case(
        "a.ply", lambda folder: splat_bytes(folder, lambda whole: whole[:-40] + b"\xff" * 40)
    ),
    "splat: a pickle": splat_case("a.pt", lambda folder: test_masks.torch_bytes(test_masks.Runs())),
    "splat: another checkpoint": splat_case(
        "a.ckpt", lambda folder: test_masks.torch_bytes({"pipeline": {}})
    ),
    "splat: gzip of zeros as spz": splat_case("a.spz", gzip.compress(bytes(10**6))),
    "splat: 33 bytes of .splat": splat_case("a.splat", bytes(33)),
    "splat: a sog that is no archive": splat_case("a.sog", b"PK\x03\x04" + bytes(100)),
    "splat: text": splat_case("a.xyz", b"1 2 3"),
    "YAML: not one": yaml_case("fit: [1, 2"),
    "YAML: a list": yaml_case("- fit"),
    "YAML: code": yaml_case("!!python/object/apply:os.system ['true']"),
    "YAML: an unknown field": yaml_case("fit:\n  step: 3\n"),
    "YAML: words for numbers": yaml_case("fit:\n  steps: many\n"),
    "YAML: a million aliases": yaml_case(
        "a: &a [x, x]\n" + "".join(map(doubling_alias, "abcdefghijklmnopqrst"))
    ),
}


def test_there_are_more_than_sixty_of_them() -> None:
    kinds = {what.split(":")[0] for what in CASES}
    assert len(CASES) >= 60
    assert kinds == {
        *("mask", "transforms", "COLMAP", "Polycam", "NICE-SLAM", "photo", "cloud", "splat", "YAML"),
    }


@pytest.mark.parametrize("what", CASES)
def test_malformed_input_is_one_line_and_exit_code_two(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = CASES[what](tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(
            [
                *arguments,
                "--run",
                "run",
                "--set",
                "fit.steps=1",
                "--set",
                "lift.steps=1",
                "--set",
                "device=cpu",
            ]
        )
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.err.startswith("gslift: ")
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.out + captured.err
    assert not (tmp_path / "run" / "splat.ply").exists()
