"""Splats of other programs: PLY and gsplat checkpoints are told apart, a hostile checkpoint is refused in one line."""

import io
import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from random_data import random_gaussians
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import write_splat
from gs_lift.splats import load_splat, names_splat

COUNT = 6
NO_ARCHIVE = r"not a checkpoint as torch\.save writes it"


def gaussians(degree: int = 3) -> Gaussians:
    made = random_gaussians(1, COUNT, sh_degree=degree)
    return Gaussians(*(tensor.float() for tensor in made.parameters().values()))


def splats(degree: int = 3) -> dict[str, Tensor]:
    """By gsplat's names."""
    g = gaussians(degree)
    return {
        "means": g.means,
        "quats": g.quats,
        "scales": g.log_scales,
        "opacities": g.logit_opacities,
        "sh0": g.sh0,
        "shN": g.shN,
    }


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def same(one: Gaussians, other: Gaussians) -> bool:
    pairs = zip(one.parameters().values(), other.parameters().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_checkpoint_is_read_bit_by_bit(tmp_path: Path, degree: int) -> None:
    # As simple_trainer writes it: a state_dict, with other entries beside it.
    content = {"step": 29999, "splats": OrderedDict(splats(degree)), "pose_adjust": {"w": torch.zeros(2)}}
    assert same(load_splat(saved(tmp_path / "ckpt_29999_rank0.pt", content)), gaussians(degree))


def test_parameters_and_half_precision_become_plain_float32(tmp_path: Path) -> None:
    content = {name: torch.nn.Parameter(tensor.half()) for name, tensor in splats().items()}
    read = load_splat(saved(tmp_path / "c.pt", {"splats": content}))
    for name, tensor in read.parameters().items():
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        torch.testing.assert_close(tensor, gaussians().parameters()[name], atol=2e-3, rtol=2e-3)


def test_files_are_told_apart_by_content_whatever_their_name(tmp_path: Path) -> None:
    saved(tmp_path / "splat", {"splats": splats()})
    write_splat(tmp_path / "other.bin", gaussians())
    assert same(load_splat(tmp_path / "splat"), gaussians())
    assert same(load_splat(tmp_path / "other.bin"), gaussians())
    (tmp_path / "third.glb").write_bytes(bytes(64))
    with pytest.raises(SplatError, match=r"no splat that gs_lift knows .* convert it to PLY first"):
        load_splat(tmp_path / "third.glb")
    with pytest.raises(FileNotFoundError):
        load_splat(tmp_path / "nothing.ply")


def test_a_path_names_a_splat_if_it_is_a_file_or_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "run.pt").mkdir()
    (tmp_path / "file").touch()
    meant = {name: names_splat(tmp_path / name) for name in ("file", "run.pt", "no.ply", "no.PT", "runs")}
    assert meant == {"file": True, "run.pt": False, "no.ply": True, "no.PT": True, "runs": False}


def test_the_parts_of_all_gpus_are_joined_by_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step, rank in ((9, 0), (9, 10), (9, 2), (8, 1)):
        content = splats() | {"opacities": torch.full((COUNT,), float(rank))}
        saved(tmp_path / f"ckpt_{step}_rank{rank}.pt", {"splats": content})
    for name in ("ckpt_9_rank0.pt", "ckpt_9_rank10.pt"):
        with caplog.at_level(logging.WARNING):
            read = load_splat(tmp_path / name)
        assert read.logit_opacities.tolist() == [0.0] * COUNT + [2.0] * COUNT + [10.0] * COUNT
        assert f"{name}: with the Gaussians of 3 ranks" in caplog.text


def test_ranks_of_different_trainings_are_refused(tmp_path: Path) -> None:
    for rank in (0, 1):
        saved(tmp_path / f"ckpt_9_rank{rank}.pt", {"splats": splats(degree=rank)})
    with pytest.raises(SplatError, match="ranks of different degrees"):
        load_splat(tmp_path / "ckpt_9_rank1.pt")


@pytest.mark.parametrize("comment", ["SplatRenderMode: mip", "antialiased 1"])
def test_a_splat_that_was_learnt_with_antialiasing_is_read_with_a_warning(
    comment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_splat(tmp_path / "mip.ply", gaussians(), comments=[comment])
    assert same(load_splat(tmp_path / "mip.ply"), gaussians())
    assert "learnt with antialiasing" in caplog.text


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    path = saved(tmp_path / "c.pt", {"splats": splats(), "extra": Malicious(harm)})
    with pytest.raises(SplatError, match="holds more than tensors, which could run code and is refused"):
        load_splat(path)
    assert not harm.exists()
    torch.load(path, weights_only=False)  # the file does harm where it is trusted: the test means something
    assert harm.is_dir()


def test_a_plain_pickle_is_refused_unread(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Malicious(harm)))
    with pytest.raises(SplatError, match=NO_ARCHIVE):
        load_splat(tmp_path / "c.pt")
    saved(tmp_path / "old.pt", {"splats": splats()}, _use_new_zipfile_serialization=False)
    with pytest.raises(SplatError, match=NO_ARCHIVE):
        load_splat(tmp_path / "old.pt")
    assert not harm.exists()


def test_a_shape_that_the_file_cannot_hold_takes_no_memory(tmp_path: Path) -> None:
    """One number that is repeated 10^12 times by a stride of 0: a file of a kilobyte, terabytes if it were copied."""
    huge = splats() | {"means": torch.zeros(1).expand(10**12, 3)}
    path = saved(tmp_path / "c.pt", {"splats": huge})
    with pytest.raises(SplatError, match=r"splats.means claims the shape \[1000000000000, 3\], more than"):
        load_splat(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    torch.save({"splats": splats() | {"means": torch.zeros(10**6, 3)}}, stored)
    with (
        zipfile.ZipFile(stored) as whole,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    assert (tmp_path / "c.pt").stat().st_size < 10**5
    with pytest.raises(SplatError, match="a compressed archive"):
        load_splat(tmp_path / "c.pt")


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path / "c.pt", {"splats": splats()})
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(SplatError, match=NO_ARCHIVE):
        load_splat(path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"splats": splats()})
    whole = path.read_bytes()
    place = whole.index(b"splats")
    path.write_bytes(whole[: place - 20] + bytes(40) + whole[place + 20 :])
    with pytest.raises(SplatError) as caught:
        load_splat(path)
    assert "\n" not in str(caught.value)


def without(name: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in splats().items() if key != name}


NAN = splats()["means"].clone()
NAN[2, 1] = float("nan")
ZERO = splats()["quats"].clone()
ZERO[4] = 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "a Tensor; wanted \"splats\", as gsplat's simple_trainer writes it"),
        ({"pipe": {}, "step": 3}, 'keys pipe, step; wanted "splats"'),
        ({"pipeline": {}, "step": 3}, "no _model.gauss_params.means; wanted a checkpoint of splatfacto"),
        ({}, 'keys none; wanted "splats"'),
        ({"splats": torch.zeros(3)}, 'keys splats; wanted "splats"'),
        ({"splats": without("sh0")}, "splats has no sh0; there are means, quats"),
        ({"splats": without("means") | {"means3d": NAN}}, "splats has no means; there are"),
        ({"splats": splats() | {"quats": [1, 0, 0, 0]}}, "splats.quats: wanted a tensor of floating point"),
        ({"splats": splats() | {"means": torch.zeros(COUNT, 3).long()}}, "splats.means: wanted a tensor of"),
        ({"splats": splats() | {"means": torch.zeros(COUNT, 3).to_sparse()}}, "splats.means: wanted a tensor of"),
        ({"splats": splats() | {"means": torch.zeros(COUNT, 3, device="meta")}}, "splats.means claims the shape"),
        ({"splats": splats() | {"means": torch.zeros(0, 3)}}, "holds no Gaussians (splats.means is [0, 3])"),
        ({"splats": splats() | {"means": torch.tensor(1.0)}}, "holds no Gaussians (splats.means is [])"),
        ({"splats": splats() | {"means": torch.zeros(COUNT, 2)}}, "splats.means has the shape [6, 2]; wanted [6, 3]"),
        ({"splats": splats() | {"quats": torch.ones(5, 4)}}, "splats.quats has the shape [5, 4]; wanted [6, 4]"),
        ({"splats": splats() | {"opacities": torch.ones(COUNT, 1)}}, "splats.opacities has the shape [6, 1]; want"),
        ({"splats": splats() | {"sh0": torch.ones(COUNT, 3)}}, "splats.sh0 has the shape [6, 3]; wanted [6, 1, 3]"),
        ({"splats": splats() | {"shN": torch.ones(COUNT, 45)}}, "splats.shN has the shape [6, 45]; wanted [6, 15, 3]"),
        ({"splats": splats() | {"shN": torch.ones(COUNT, 7, 3)}}, "splats.shN has 7 terms; wanted 0, 3, 8, 15 or 24"),
        ({"splats": splats() | {"means": NAN}}, "splats.means holds nan or infinity in 1 of 6 rows (first: 2)"),
        ({"splats": splats() | {"scales": torch.ones(COUNT, 3).double() * 1e300}}, "scales holds nan or infinity in 6"),
        ({"splats": splats() | {"quats": ZERO}}, "splats.quats are all zero in 1 rows (first: 4)"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = saved(tmp_path / "c.pt", content)
    with pytest.raises(SplatError) as caught:
        load_splat(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
