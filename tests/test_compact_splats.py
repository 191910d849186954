"""Compact splats: each format gives the Gaussians back as far as its bits go; damage ends a process, not this one."""

import gzip
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import gaussforge
import numpy as np
import pytest
import torch
from random_data import random_gaussians
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.ply import write_splat
from gs_lift.rendering.reference import covariances
from gs_lift.splats import load_splat, names_splat
from gs_lift.splats.compact import FORMATS, FROM_SPZ
from gs_lift.splats.frames import moved

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
    splat.logit_opacities[:3], splat.logit_opacities[3:6] = 12.0, -12.0  # 1 and 0 in bytes
    return replace(splat, quats=torch.nn.functional.normalize(splat.quats, dim=1))  # GaussForge wants it so


def written(splat: Gaussians, folder: Path, ending: str) -> Path:
    """By GaussForge, which leaves the axes of an .spz to us."""
    write_splat(folder / "whole.ply", moved(splat, FROM_SPZ.inverse) if ending == ".spz" else splat)
    result = gaussforge.GaussForge().convert((folder / "whole.ply").read_bytes(), "ply", FORMATS[ending])
    path = folder / f"splat{ending}"
    path.write_bytes(result["data"])
    return path


def shapes(splat: Gaussians) -> Tensor:
    """Covariances: quaternions of one shape may differ."""
    return covariances(splat.quats, splat.scales)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_compact_splat_is_read_as_far_as_its_bits_go(ending: str, splat: Gaussians, tmp_path: Path) -> None:
    place, size, degree = LIMITS[ending]
    read = load_splat(written(splat, tmp_path, ending))
    assert len(read) == COUNT
    assert read.sh_degree == degree
    # A .sog is in an order of its own.
    nearest = (splat.means[:, None] - read.means).abs().sum(dim=2).argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(COUNT))
    read = read.rows(nearest)
    assert float((read.means - splat.means).abs().max()) < place
    assert float((read.log_scales - splat.log_scales).abs().max()) < size
    assert float((read.opacities - splat.opacities).abs().max()) < 0.01
    assert bool(read.logit_opacities.isfinite().all())
    assert float((shapes(read) - shapes(splat)).abs().max()) < 0.1 * float(shapes(splat).abs().max())
    assert not read.antialiased


# --- Files written here, by the formats' documents --------------------------------------------------------------------

MEANS = np.array([[0.5, -1.25, 2.0], [1.0, 0.25, -0.75]], np.float32)
LOG_SCALES = np.array([[-1.0, -2.0, -3.0], [-2.5, -1.5, -0.5]], np.float32)
QUATS = np.array([[0.8, 0.6, 0.0, 0.0], [0.5, 0.5, -0.5, 0.5]], np.float32)
COLORS = np.array([[0.2, 0.4, 0.6], [0.9, 0.5, 0.1]], np.float32)
OPACITIES = np.array([0.25, 0.75], np.float32)
LINEAR = np.array([[[0.5, -0.25, 0.125], [0.25, 0.5, -0.5], [-0.125, 0.25, 0.375]]] * 2, np.float32)
"""[2 3 3] Terms of degree 1, for -y, z, -x, of each colour."""


def check_two(read: Gaussians, *, size: float) -> None:
    assert np.abs(read.means.numpy() - MEANS).max() < 1e-3
    assert np.abs(read.log_scales.numpy() - LOG_SCALES).max() < size
    assert np.abs(read.opacities.numpy() - OPACITIES).max() < 0.003
    assert np.abs(0.5 + SH_C0 * read.sh0[:, 0].numpy() - COLORS).max() < 0.005
    wanted = covariances(torch.from_numpy(QUATS), torch.from_numpy(LOG_SCALES).exp())
    assert float((shapes(read) - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_a_splat_of_32_bytes_each(tmp_path: Path) -> None:
    """antimatter15's: x y z and scales as floats, colour and opacity, then the quaternion wxyz, in bytes."""
    rows = []
    for mean, scale, quat, color, opacity in zip(MEANS, LOG_SCALES, QUATS, COLORS, OPACITIES, strict=True):
        shown = [*(round(255 * float(one)) for one in color), round(255 * float(opacity))]
        turned = [min(round(128 + 128 * float(one)), 255) for one in quat]
        rows.append(struct.pack("<6f8B", *mean, *np.exp(scale), *shown, *turned))
    (tmp_path / "two.splat").write_bytes(b"".join(rows))
    check_two(load_splat(tmp_path / "two.splat"), size=1e-5)


def write_spz(path: Path, *, flags: int = 0) -> None:
    """Version 2, by Niantic's document, of degree 1: right, up, back, so that y and z change their signs."""
    there = np.array([1, -1, -1])
    fixed = np.round(MEANS * there * 2**12).astype("<i4").view(np.uint8).reshape(2, 3, 4)[..., :3]
    colors = np.round(255 * (0.15 * (COLORS - 0.5) / SH_C0 + 0.5))
    vectors = np.round(127.5 + 127.5 * QUATS[:, 1:] * there)  # a rotation's axis; w >= 0 is left out
    linear = LINEAR * np.array([-1, -1, 1])[:, None]  # terms of -y, z and -x
    parts = [
        fixed,
        np.round(255 * OPACITIES),
        colors,
        np.round(16 * (LOG_SCALES + 10)),
        vectors,
        128 + 128 * linear,
    ]
    header = struct.pack("<4s2I4B", b"NGSP", 2, 2, 1, 12, flags, 0)
    path.write_bytes(gzip.compress(header + b"".join(one.astype(np.uint8).tobytes() for one in parts)))


def test_an_spz_has_other_axes_than_a_ply(tmp_path: Path) -> None:
    write_spz(tmp_path / "two.spz")
    read = load_splat(tmp_path / "two.spz")
    check_two(read, size=1e-5)
    assert np.abs(read.shN.numpy() - LINEAR).max() < 1e-5
    assert not read.antialiased


def test_a_compact_splat_tells_that_it_is_antialiased(splat: Gaussians, tmp_path: Path) -> None:
    write_spz(tmp_path / "two.spz", flags=1)
    assert load_splat(tmp_path / "two.spz").antialiased
    packed = written(splat, tmp_path, ".compressed.ply")
    packed.write_bytes(
        packed.read_bytes().replace(b"end_header", b"comment SplatRenderMode: mip\nend_header", 1)
    )
    assert load_splat(packed).antialiased
    sog = written(splat, tmp_path, ".sog")
    with zipfile.ZipFile(sog) as archive, zipfile.ZipFile(tmp_path / "mip.sog", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "meta.json":
                content = json.dumps(json.loads(content) | {"antialias": True}).encode()
            other.writestr(name, content)
    assert load_splat(tmp_path / "mip.sog").antialiased


# --- Damage -----------------------------------------------------------------------------------------------------------


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
