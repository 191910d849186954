"""Compact splats: each format gives the Gaussians back as far as its bits go; damage ends a process, not this one."""

from dataclasses import replace
from pathlib import Path

import gaussforge
import pytest
import torch
from random_data import random_gaussians

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import write_splat
from gs_lift.splats import load_splat, names_splat
from gs_lift.splats.compact import FORMATS

COUNT = 300
LIMITS = {
    ".compressed.ply": (0.01, 0.02, 3),
    ".splat": (1e-6, 0.02, 0),
    ".ksplat": (1e-6, 0.02, 3),
    ".spz": (0.001, 0.04, 3),
    ".sog": (0.001, 0.05, 3),
}
"""Largest error of a place and of a logarithm of a scale, and the degree that is kept."""


@pytest.fixture(scope="module")
def splat() -> Gaussians:
    made = random_gaussians(5, COUNT, sh_degree=3)
    splat = Gaussians(*(tensor.float() for tensor in made.parameters().values()))
    return replace(splat, quats=torch.nn.functional.normalize(splat.quats, dim=1))  # GaussForge wants it so


def written(splat: Gaussians, folder: Path, ending: str) -> Path:
    write_splat(folder / "whole.ply", splat)
    result = gaussforge.GaussForge().convert((folder / "whole.ply").read_bytes(), "ply", FORMATS[ending])
    path = folder / f"splat{ending}"
    path.write_bytes(result["data"])
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_a_compact_splat_is_read_as_far_as_its_bits_go(ending: str, splat: Gaussians, tmp_path: Path) -> None:
    place, size, degree = LIMITS[ending]
    read = load_splat(written(splat, tmp_path, ending))
    assert len(read) == COUNT
    assert read.sh_degree == degree
    nearest = (
        (splat.means[:, None] - read.means).abs().sum(dim=2).argmin(dim=1)
    )  # a .sog is in an order of its own
    assert sorted(nearest.tolist()) == list(range(COUNT))
    read = read.rows(nearest)
    assert float((read.means - splat.means).abs().max()) < place
    assert float((read.log_scales - splat.log_scales).abs().max()) < size
    assert float((read.opacities - splat.opacities).abs().max()) < 0.01
    alike = torch.nn.functional.cosine_similarity(read.quats, splat.quats).abs()
    assert float(alike.min()) > 0.99


@pytest.mark.parametrize("ending", FORMATS)
def test_a_torn_or_foreign_file_is_refused_in_one_line(ending: str, splat: Gaussians, tmp_path: Path) -> None:
    path = written(splat, tmp_path, ending)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2 + 7], b"hello" * 3):
        path.write_bytes(broken)
        with pytest.raises(SplatError) as caught:
            load_splat(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_path_is_known_as_a_splat_by_its_ending(tmp_path: Path) -> None:
    assert all(names_splat(tmp_path / f"nothing{ending}") for ending in FORMATS)
    assert not names_splat(tmp_path / "nothing.glb")
