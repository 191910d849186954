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
from gs_lift.splats import find_splat, load_splat, names_splat

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


def save_ranks(folder: Path, ranks: dict[int, int], step: int = 9, **changes: Tensor) -> None:
    """Checkpoints whose logits of opacity are the rank; ranks: degree by rank."""
    folder.mkdir(exist_ok=True)
    for rank, degree in ranks.items():
        content = splats(degree) | {"opacities": torch.full((COUNT,), float(rank))} | changes
        saved(folder / f"ckpt_{step}_rank{rank}.pt", {"splats": content})


def test_the_parts_of_all_gpus_are_joined_by_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_ranks(tmp_path, dict.fromkeys(range(11), 1))
    save_ranks(tmp_path, {11: 1}, step=8)
    for name in ("ckpt_9_rank0.pt", "ckpt_9_rank10.pt"):
        with caplog.at_level(logging.WARNING):
            read = load_splat(tmp_path / name)
        assert read.logit_opacities.tolist() == [float(rank) for rank in range(11) for _ in range(COUNT)]
        assert f"{name}: with the Gaussians of 11 ranks" in caplog.text


def test_a_rank_that_is_missing_among_others_is_named(tmp_path: Path) -> None:
    save_ranks(tmp_path, {0: 1, 2: 1})
    with pytest.raises(
        SplatError, match=r"rank 1 is missing beside ranks 0, 2: each has a part of the scene"
    ):
        load_splat(tmp_path / "ckpt_9_rank0.pt")


def test_ranks_of_different_trainings_are_refused(tmp_path: Path) -> None:
    save_ranks(tmp_path, {0: 0, 1: 1})
    with pytest.raises(SplatError, match="ranks of different degrees"):
        load_splat(tmp_path / "ckpt_9_rank1.pt")


def test_each_rank_is_checked_and_named(tmp_path: Path) -> None:
    save_ranks(tmp_path, {0: 3})
    save_ranks(tmp_path, {1: 3}, means=NAN)
    with pytest.raises(SplatError, match=r"ckpt_9_rank1.pt: splats.means holds nan"):
        load_splat(tmp_path / "ckpt_9_rank0.pt")


def test_of_a_folder_the_splat_of_the_last_step_is_taken(tmp_path: Path) -> None:
    save_ranks(tmp_path / "ckpts", {0: 1, 1: 1}, step=29999)
    save_ranks(tmp_path / "ckpts", {0: 1}, step=6999)
    assert find_splat(tmp_path) == find_splat(tmp_path / "ckpts") == tmp_path / "ckpts/ckpt_29999_rank0.pt"
    assert len(load_splat(tmp_path)) == 2 * COUNT
    inria = tmp_path / "inria"
    for step in (7000, 30000):
        (inria / f"point_cloud/iteration_{step}").mkdir(parents=True)
        write_splat(inria / f"point_cloud/iteration_{step}/point_cloud.ply", gaussians())
    assert find_splat(inria) == inria / "point_cloud/iteration_30000/point_cloud.ply"
    (tmp_path / "run/nerfstudio_models").mkdir(parents=True)
    (tmp_path / "run/nerfstudio_models/step-000029999.ckpt").touch()
    assert find_splat(tmp_path / "run").name == "step-000029999.ckpt"


def test_a_folder_without_a_splat_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ckpts").mkdir()
    with pytest.raises(SplatError, match=r"no splat of gsplat .* in this folder; name the file"):
        load_splat(tmp_path)
    assert find_splat(tmp_path / "nothing.ply") == tmp_path / "nothing.ply"


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
