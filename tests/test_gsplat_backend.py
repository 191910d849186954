"""What runs of the gsplat adapter without a GPU: its arguments, and the weights of listed pairs."""

import inspect

import gsplat
import pytest
import torch
from random_data import random_camera, random_gaussians

from gs_lift.errors import BackendError
from gs_lift.rendering import blending_weights, gsplat_backend, rasterize


def test_gsplat_takes_our_arguments_with_our_defaults() -> None:
    theirs = inspect.signature(gsplat.rasterization).parameters
    for name, parameter in inspect.signature(gsplat_backend.rasterize).parameters.items():
        if name != "packed":  # theirs is True: info of [C N] is the simpler one
            assert theirs[name].default == parameter.default, name
    assert "packed" in theirs


def test_an_argument_that_gsplat_lost_is_named() -> None:
    with pytest.raises(BackendError, match="gsplat's rasterization takes no shiny, soft: install gsplat"):
        gsplat_backend.taking(gsplat.rasterization, {"means": 0, "soft": 1, "shiny": 2})


@pytest.mark.parametrize("minimum", [0.0, 0.01])
def test_weights_of_listed_pairs_are_the_oracles(minimum: float) -> None:
    gaussians, camera = random_gaussians(0, 100, scales=(0.1, 0.5)), random_camera(0, 17, 12)
    listed = blending_weights(gaussians, camera, minimum=0.0, backend="reference")
    _, _, info = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.means,
        camera.viewmat[None],
        camera.K[None],
        camera.width,
        camera.height,
        backend="reference",
    )
    got = gsplat_backend.weights_of_pairs(
        listed.indices.long(),
        torch.repeat_interleave(torch.arange(17 * 12), listed.indptr.diff()),
        info["means2d"][0],
        info["conics"][0],
        info["opacities"][0],
        camera.width,
        camera.height,
        minimum,
    )
    wanted = blending_weights(gaussians, camera, minimum=minimum, backend="reference")
    assert len(wanted.values) > 500
    assert torch.equal(got.indptr, wanted.indptr)
    assert torch.equal(got.indices, wanted.indices)
    torch.testing.assert_close(got.values, wanted.values)


def test_pairs_of_an_empty_image_are_empty_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    weights = gsplat_backend.weights_of_pairs(
        none, none, torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2), 3, 2, minimum=0.0
    )
    assert weights.indptr.tolist() == [0] * 7
