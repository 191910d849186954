"""Gaussians: activations, rows, and where they start."""

import torch
from pytest import approx

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0


def square() -> Gaussians:
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    return Gaussians.from_points(points, torch.full((4, 3), 0.75), sh_degree=2, opacity=0.1)


def test_a_point_becomes_a_gaussian_as_wide_as_its_three_nearest_neighbours() -> None:
    gaussians = square()
    assert gaussians.scales[0].tolist() == approx([((1 + 1 + 2) / 3) ** 0.5] * 3)
    assert gaussians.opacities.tolist() == approx([0.1] * 4)
    assert (gaussians.sh0 * SH_C0 + 0.5).unique().tolist() == approx([0.75])
    assert gaussians.sh.shape == (4, 9, 3)
    assert gaussians.sh_degree == 2


def test_one_point_and_equal_points_are_finite() -> None:
    for count in (1, 5):
        gaussians = Gaussians.from_points(torch.zeros(count, 3), torch.zeros(count, 3))
        assert gaussians.log_scales.isfinite().all()


def test_rows_take_ids_or_a_mask_and_go_through_parameters() -> None:
    gaussians = square()
    gaussians.logit_opacities += torch.arange(4)
    picked = gaussians.rows(torch.tensor([2, 0]))
    assert torch.equal(picked.logit_opacities, gaussians.logit_opacities[[2, 0]])
    assert len(gaussians.rows(torch.tensor([True, False, True, True]))) == 3
    again = Gaussians.from_parameters(gaussians.parameters())
    assert again.means is gaussians.means
