"""Splats in other frames: moved back exactly, colours included, and noticed where they do not lie at the cameras."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import true_scene, write_nerfstudio
from random_data import random_gaussians
from rooms import ring
from torch import Tensor

from gs_lift.config import load_config
from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.pipeline import fit_run, read_gaussians
from gs_lift.ply import write_splat
from gs_lift.rendering import render
from gs_lift.rendering.reference import sh_bases
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import Classes
from gs_lift.splats import load_splat
from gs_lift.splats.frames import Similarity, check_frame, moved

SIZE = 32


def rotation(seed: int) -> Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.from_numpy(q * np.linalg.det(q))


def similarity(seed: int) -> Similarity:
    offset = torch.from_numpy(np.random.default_rng(seed + 100).normal(size=3))
    return Similarity(rotation(seed), offset, 0.25 + seed)


def gaussians(seed: int, count: int = 40, degree: int = 3) -> Gaussians:
    made = random_gaussians(seed, count, sh_degree=degree)
    return Gaussians(*(tensor.float() for tensor in made.parameters().values()))


def camera(viewmat: Tensor) -> Camera:
    K = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    return Camera(K, viewmat.double(), SIZE, SIZE)


def seen(splat: Gaussians, viewmat: Tensor) -> Tensor:
    return render(splat, camera(viewmat), backend="reference").colors


@pytest.mark.parametrize("seed", range(3))
def test_a_moved_splat_looks_the_same_to_a_camera_that_moved_with_it(seed: int) -> None:
    """The camera of the moved world: depths are `scale` times as long, pixels the same."""
    by, splat = similarity(seed), gaussians(seed)
    for viewmat in ring(3, radius=1.0, height=4.0):
        R, t = viewmat[:3, :3], viewmat[:3, 3]
        after = torch.eye(4, dtype=torch.float64)
        after[:3, :3] = R @ by.rotation.T
        after[:3, 3] = by.scale * t - after[:3, :3] @ by.translation
        assert (seen(moved(splat, by), after) - seen(splat, viewmat)).abs().max() < 2e-4
    assert float(seen(splat, ring(3, radius=1.0, height=4.0)[0]).std()) > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_inverse_undoes_a_move(seed: int) -> None:
    by, splat = similarity(seed), gaussians(seed)
    back = moved(moved(splat, by), by.inverse)
    assert torch.allclose(back.means, splat.means, atol=1e-5)
    assert torch.allclose(back.log_scales, splat.log_scales, atol=1e-5)
    assert torch.allclose(back.shN, splat.shN, atol=1e-5)


@pytest.mark.parametrize("degree", range(5))
def test_a_colour_turns_with_its_gaussian(degree: int) -> None:
    by, draw = similarity(7), torch.Generator().manual_seed(degree)
    shN = torch.randn(5, (degree + 1) ** 2 - 1, 3, generator=draw)
    directions = torch.randn(20, 3, generator=draw, dtype=torch.float64)
    splat = replace(gaussians(0, 5), shN=shN)
    before = torch.einsum("dk,nkc->ndc", sh_bases(degree, directions), splat.sh.double())
    after = torch.einsum(
        "dk,nkc->ndc", sh_bases(degree, directions @ by.rotation.T), moved(splat, by).sh.double()
    )
    assert float((before - after).abs().max()) < 1e-5


def test_a_mirror_is_refused() -> None:
    mirror = Similarity(torch.diag(torch.tensor([1.0, 1, -1]).double()), torch.zeros(3).double(), 1.0)
    with pytest.raises(SplatError, match="mirrored"):
        moved(gaussians(0), mirror)


# --- nerfstudio -------------------------------------------------------------------------------------------------------


def checkpoint(splat: Gaussians, **changes: Tensor) -> dict:
    params = {
        "means": splat.means,
        "quats": splat.quats,
        "scales": splat.log_scales,
        "opacities": splat.logit_opacities[:, None],
        "features_dc": splat.sh0[:, 0],
        "features_rest": splat.shN,
    } | changes
    pipeline = {f"_model.gauss_params.{name}": tensor for name, tensor in params.items()}
    return {"step": 29999, "pipeline": pipeline, "scalers": {"scale": np.float64(65536.0)}}


def write_run(folder: Path, content: dict, by: Similarity) -> Path:
    (folder / "nerfstudio_models").mkdir(parents=True)
    path = folder / "nerfstudio_models" / "step-000029999.ckpt"
    torch.save(content, path)
    transform = torch.cat([by.rotation, by.translation[:, None] / by.scale], dim=1)
    content = {"transform": transform.tolist(), "scale": by.scale}
    (folder / "dataparser_transforms.json").write_text(json.dumps(content))
    return path


def test_a_nerfstudio_checkpoint_comes_back_to_the_cameras(tmp_path: Path) -> None:
    by, splat = similarity(1), gaussians(1)
    read = load_splat(write_run(tmp_path, checkpoint(moved(splat, by)), by))
    assert torch.allclose(read.means, splat.means, atol=1e-5)
    assert torch.allclose(read.log_scales, splat.log_scales, atol=1e-5)
    assert torch.allclose(read.shN, splat.shN, atol=1e-5)
    assert torch.equal(read.sh0, splat.sh0)
    viewmat = ring(1, radius=1.0, height=4.0)[0]
    assert (seen(read, viewmat) - seen(splat, viewmat)).abs().max() < 2e-4


@pytest.mark.parametrize("applied_scale", [1.0, 2.5])
def test_it_follows_the_cameras_that_an_applied_transform_moved(applied_scale: float, tmp_path: Path) -> None:
    """By nerfstudio's arithmetic: what is saved is trained at s (M x), and s a, M A are written down."""
    orient, splat = similarity(2), gaussians(2)  # s, and s times the translation of M
    applied = torch.tensor(
        [[0.0, 1, 0, 0.3], [1, 0, 0, -0.2], [0, 0, -1, 0.1], [0, 0, 0, 1]], dtype=torch.float64
    )
    path = write_run(tmp_path, checkpoint(moved(splat, orient)), orient)
    M = torch.cat([orient.rotation, orient.translation[:, None] / orient.scale], dim=1)
    told = {"transform": (M @ applied).tolist(), "scale": orient.scale * applied_scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(told))
    matrix = applied.clone()
    matrix[:3] *= applied_scale
    read = load_splat(path, applied_transform=matrix)
    assert torch.allclose(read.means, splat.means, atol=1e-5)
    assert torch.allclose(read.log_scales, splat.log_scales, atol=1e-5)
    assert torch.allclose(read.shN, splat.shN, atol=1e-5)
    # Without it they lie in COLMAP's frame, where A x = what is saved.
    original = load_splat(path).means.double() * applied_scale @ applied[:3, :3].T
    assert (
        float((original - original.mean(dim=0) - (splat.means - splat.means.mean(dim=0))).abs().max()) < 1e-5
    )


def test_colours_of_degree_0_are_logits(tmp_path: Path) -> None:
    """splatfacto with sh_degree 0 shows sigmoid(features_dc)."""
    dc = torch.tensor([[0.0, 2.0, -2.0]]).expand(40, 3)
    content = checkpoint(gaussians(0), features_dc=dc.clone(), features_rest=torch.zeros(40, 0, 3))
    read = load_splat(write_run(tmp_path, content, similarity(0)))
    assert torch.allclose(0.5 + SH_C0 * read.sh0[:, 0], dc.sigmoid(), atol=1e-6)


def test_the_first_splatfactos_names_are_known(tmp_path: Path) -> None:
    by, splat, content = similarity(1), gaussians(1), checkpoint(moved(gaussians(1), similarity(1)))
    content["pipeline"] = {
        name.replace("gauss_params.", ""): one for name, one in content["pipeline"].items()
    }
    assert torch.allclose(load_splat(write_run(tmp_path, content, by)).means, splat.means, atol=1e-5)


@pytest.mark.parametrize(
    ("written", "part"),
    [
        (None, "no dataparser_transforms.json"),
        ("[]", "wanted transform and scale"),
        ('{"transform": [[1, 0, 0, 0]], "scale": 1}', "wanted a transform of 3 x 4"),
        ('{"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": 0}', "a scale over 0"),
        ('{"transform": [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": 1}', "no rotation"),
    ],
)
def test_without_a_good_transform_it_is_refused(written: str | None, part: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "a" / "b" / "c", checkpoint(gaussians(0)), similarity(0))
    file = tmp_path / "a" / "b" / "c" / "dataparser_transforms.json"
    file.unlink()
    if written is not None:
        file.write_text(written)
    with pytest.raises(SplatError, match=part):
        load_splat(path)


@pytest.mark.parametrize(
    ("name", "tensor", "part"),
    [
        ("opacities", torch.zeros(40), r"opacities has the shape \[40\]; wanted \[40, 1\]"),
        ("features_rest", torch.zeros(40, 7, 3), "features_rest has 7 terms"),
        ("means", torch.full((40, 3), float("nan")), "means holds nan or infinity in 40"),
        ("quats", torch.zeros(1).expand(40, 4), "quats are all zero in 40 rows"),
    ],
)
def test_a_broken_nerfstudio_checkpoint_is_refused(
    name: str, tensor: Tensor, part: str, tmp_path: Path
) -> None:
    path = write_run(tmp_path, checkpoint(gaussians(0), **{name: tensor}), similarity(0))
    with pytest.raises(SplatError, match=part):
        load_splat(path)


def test_a_run_moves_it_to_the_cameras_of_its_scene(tmp_path: Path) -> None:
    """The scene's applied_transform comes from its transforms.json; an antialiased splat stays one."""
    settings = load_config(None, ["device=cpu", "data.check_splat=false", "lift.steps=2"])
    applied = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
    scene = write_nerfstudio(tmp_path / "scene", true_scene(), applied_transform=applied)
    turned = Similarity(torch.tensor(applied, dtype=torch.float64)[:, :3], torch.zeros(3).double(), 1.0)
    by, splat = similarity(1), gaussians(1)
    write_run(tmp_path / "run", checkpoint(moved(splat, by)), by)  # from COLMAP's frame
    made = fit_run(scene, settings, folder=tmp_path / "made", splat=tmp_path / "run")
    assert torch.allclose(read_gaussians(made).means, moved(splat, turned).means, atol=1e-5)
    write_splat(tmp_path / "mip.ply", replace(splat, antialiased=True))
    made = fit_run(scene, settings, folder=tmp_path / "mip", splat=tmp_path / "mip.ply")
    assert read_gaussians(made).antialiased


# --- Where the cameras are --------------------------------------------------------------------------------------------


def scene_of(splat: Gaussians) -> Scene:
    viewmats = ring(4, radius=1.0, height=4.0)
    views = tuple(
        View(str(i), camera(viewmat), lambda viewmat=viewmat: seen(splat, viewmat).clamp(0, 1))
        for i, viewmat in enumerate(viewmats)
    )
    return Scene("a", views, (), torch.zeros(0, 3), torch.zeros(0, 3), Classes(("a",), (True,)))


TURN = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "by",
    [
        Similarity(torch.eye(3).double(), torch.zeros(3).double(), 3.0),
        Similarity(torch.eye(3).double(), torch.tensor([0.0, 1, 0]).double(), 1.0),
        Similarity(TURN, torch.zeros(3).double(), 1.0),
        Similarity(torch.eye(3).double(), torch.tensor([0.0, 50, 0]).double(), 1.0),
    ],
    ids=["scaled", "shifted", "axes swapped", "out of sight"],
)
def test_a_splat_elsewhere_than_the_cameras_is_refused(by: Similarity) -> None:
    splat = gaussians(2, 200)
    splat = replace(
        splat, means=splat.means * torch.tensor([1.5, 1.0, 0.2])
    )  # a ball looks the same from all sides
    check_frame(scene_of(splat), splat, backend="reference")
    with pytest.raises(
        SplatError,
        match=r"does not lie where the cameras are: .* dB, one colour has .*data\.check_splat=false",
    ):
        check_frame(scene_of(splat), moved(splat, by), backend="reference")


def test_a_faint_likeness_is_enough() -> None:
    splat = gaussians(3, 200)
    blurred = replace(splat, log_scales=splat.log_scales + 0.2)
    check_frame(scene_of(splat), blurred, backend="reference")


def test_a_splat_that_was_learnt_before_white_is_at_its_place() -> None:
    """Most of the photos is white, where nothing is; of the splat alone that would be black."""
    splat = gaussians(4, 12)
    white = torch.ones(3)
    views = tuple(
        View(
            str(i),
            camera(viewmat),
            lambda viewmat=viewmat: render(
                splat, camera(viewmat), background=white, backend="reference"
            ).colors.clamp(0, 1),
        )
        for i, viewmat in enumerate(ring(4, radius=1.0, height=4.0))
    )
    scene = replace(scene_of(splat), train=views)
    assert float((views[0].image() > 0.9).all(dim=2).float().mean()) > 0.5
    check_frame(scene, splat, backend="reference")
    with pytest.raises(SplatError, match="does not lie where the cameras are"):
        check_frame(scene, moved(splat, Similarity(TURN, torch.zeros(3).double(), 1.0)), backend="reference")
