"""A scene in blocks: how it is cut, and how what was found in the pieces is put together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import BLOB, blobs, scene_of

from gs_lift.blocks import Block, BlocksConfig, join, split, together
from gs_lift.blocks.splitting import cells, covering
from gs_lift.errors import ConfigError
from gs_lift.segmentation import Embeddings, Instances


def hall(count: int = 2000, seed: int = 0) -> np.ndarray:
    """Centres in a box of 8 x 2 x 1, and a few far away or nowhere."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(0, 1, (count, 3)) * [8, 2, 1]
    means[:3] = [[1e4, 0, 0], [np.nan, 1, 1], [-np.inf, 0, 0]]
    return means


@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_every_gaussian_is_in_the_core_of_one_block(overlap: float) -> None:
    config = BlocksConfig(gaussians=500, overlap=overlap)
    pieces = list(cells(hall(), config))
    cores = np.concatenate([rows[core] for rows, core in pieces])
    assert np.array_equal(np.sort(cores), np.arange(2000))
    assert all(len(rows) <= 500 and (np.diff(rows) > 0).all() for rows, _ in pieces)
    assert len(pieces) <= (8 if overlap == 0 else 16)


def test_a_margin_is_as_wide_as_it_was_asked_for() -> None:
    """Along one axis cells have no other margin; widths are those between the quantiles .05 and .95."""
    means = np.zeros((1000, 3))
    means[:, 0] = np.linspace(0, 1, 1000)
    (left, in_left), (right, in_right) = cells(means, BlocksConfig(gaussians=700, overlap=0.2))
    for rows, core, inner in ((left, in_left, 1), (right, in_right, 0)):
        own, margin = means[rows[core], 0], means[rows[~core], 0]
        assert margin.max() - margin.min() == pytest.approx(0.2 * 0.9 * (own.max() - own.min()), abs=0.004)
        assert abs(margin - own.max() if inner else margin - own.min()).min() < 0.002


def test_a_cut_goes_where_the_fewest_gaussians_are() -> None:
    rng = np.random.default_rng(1)
    means = rng.uniform(0, 1, (4000, 3)) * [10, 1, 1]
    means = means[(means[:, 0] < 4.6) | (means[:, 0] > 4.9)]
    pieces = list(cells(means, BlocksConfig(gaussians=2500, overlap=0.0)))
    assert [len(rows) for rows, _ in pieces] == [(means[:, 0] < 4.7).sum(), (means[:, 0] > 4.7).sum()]


@pytest.mark.parametrize("count", [1, 30])
def test_what_cannot_be_cut_stays_one_block(count: int) -> None:
    ((rows, core),) = cells(np.ones((count, 3)), BlocksConfig(gaussians=1))
    assert rows.tolist() == list(range(count))
    assert core.all()


def test_the_views_of_a_block_are_the_fewest_that_show_enough_of_it() -> None:
    shown = np.array([[5.0, 0], [1, 0], [0, 0], [4, 2]])
    assert [views.tolist() for views in covering(shown, 0.9)] == [[0, 3], [3]]
    assert [views.tolist() for views in covering(shown, 0.95)] == [[0, 1, 3], [3]]
    assert [views.tolist() for views in covering(shown * 0, 0.9)] == [[], []]


def test_a_block_has_the_views_that_show_it() -> None:
    """A camera that looks away from all has no part in any block."""
    scene = scene_of()
    first = scene.train[0]
    away = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64)) @ first.camera.viewmat
    back = replace(first, camera=replace(first.camera, viewmat=away))
    scene = replace(scene, train=(back, *scene.train))
    blocks = split(scene, blobs(), BlocksConfig(gaussians=40, coverage=1.0), backend="reference")
    assert len(blocks) > 1
    cores = torch.cat([block.rows[block.core] for block in blocks])
    assert cores.sort().values.tolist() == list(range(len(BLOB)))
    assert all(block.views.tolist() == [1, 2, 3, 4] for block in blocks)


def instances_of(labels: list[int], classes: list[int], score: float = 0.5) -> Instances:
    scores = torch.where(torch.tensor(labels) >= 0, torch.tensor(score), 0.0)
    return Instances(
        torch.tensor(labels), scores, torch.tensor(classes, dtype=torch.int64), {"rows": torch.zeros(1)}
    )


def halves(shared: int = 12) -> list[Block]:
    """Forty Gaussians in a row: blocks of the left and the right half and `shared` more beyond."""
    rows = torch.arange(20 + shared), torch.arange(20 - shared, 40)
    return [
        Block(rows[0], rows[0] < 20, torch.tensor([0])),
        Block(rows[1], rows[1] >= 20, torch.tensor([0])),
    ]


def test_an_object_across_the_border_is_one() -> None:
    left = [-1] * 14 + [0] * 18  # from 14 on
    right = [-1] * 6 + [0] * 20 + [1] * 6  # 14 to 33, and another one after it
    joined = join(halves(), [instances_of(left, [1], 0.25), instances_of(right, [1, 2])], 40)
    assert joined.labels.tolist() == [-1] * 14 + [0] * 20 + [1] * 6
    assert joined.classes.tolist() == [1, 2]
    assert joined.scores.tolist() == [0] * 14 + [0.25] * 6 + [0.5] * 20
    assert joined.tree == {}


def test_two_objects_of_one_block_stay_two_whatever_its_neighbour_says() -> None:
    left = [-1] * 8 + [0] * 6 + [1] * 6 + [-1] * 12
    right = [0] * 12 + [-1] * 20  # both as one
    joined = join(halves(), [instances_of(left, [0, 0]), instances_of(right, [0])], 40)
    assert joined.labels.tolist() == [-1] * 8 + [0] * 6 + [1] * 6 + [-1] * 20


def test_objects_that_share_too_little_stay_apart() -> None:
    left = [-1] * 10 + [0] * 14 + [-1] * 8  # 10 to 23
    right = [-1] * 13 + [0] * 19  # 21 to 39: three in common
    joined = join(halves(), [instances_of(left, [0]), instances_of(right, [0])], 40)
    assert joined.labels.tolist() == [-1] * 10 + [1] * 10 + [-1] + [0] * 19


def test_objects_that_agree_on_little_stay_apart() -> None:
    left = [-1] * 4 + [0] * 22 + [-1] * 6  # 4 to 25
    right = [-1] * 12 + [0] * 20  # 20 to 39: six in common, of 18 and 12 among those that both blocks have
    joined = join(halves(), [instances_of(left, [0]), instances_of(right, [0])], 40)
    assert joined.labels.tolist() == [-1] * 4 + [1] * 16 + [0] * 20


def test_the_surer_of_two_matches_is_taken() -> None:
    """An object of the right block is as good as one of two of the left, and overlaps the other one too."""
    left = [-1] * 8 + [0] * 7 + [1] * 17
    right = [-1] * 2 + [0] * 22 + [-1] * 8  # 10 to 31
    joined = join(halves(), [instances_of(left, [0, 1]), instances_of(right, [1])], 40)
    assert joined.labels.tolist() == [-1] * 8 + [1] * 7 + [0] * 17 + [-1] * 8
    mirrored = [-1] * 8 + [1] * 7 + [0] * 17
    joined = join(halves(), [instances_of(mirrored, [1, 0]), instances_of(right, [1])], 40)
    assert joined.labels.tolist() == [-1] * 8 + [1] * 7 + [0] * 17 + [-1] * 8


def test_a_splinter_in_the_next_core_is_no_object() -> None:
    left, right = [-1] * 32, [-1] * 12 + [0] * 4 + [-1] * 16  # 20 to 23
    joined = join(halves(), [instances_of(left, []), instances_of(right, [0])], 40)
    assert len(joined) == 0
    assert not bool(joined.scores.any())


def test_a_class_is_that_of_most_gaussians_in_cores() -> None:
    left, right = [-1] * 12 + [0] * 20, [-1] * 4 + [0] * 26 + [-1] * 2
    joined = join(halves(), [instances_of(left, [3]), instances_of(right, [5])], 40)
    assert joined.classes.tolist() == [5]  # 8 of the left core, 18 of the right
    assert len(joined) == 1


def test_blocks_without_objects_have_none_together() -> None:
    nothing = instances_of([-1] * 32, [])
    joined = join(halves(), [nothing, nothing], 40)
    assert len(joined) == 0
    assert joined.labels.tolist() == [-1] * 40


def test_each_gaussian_has_the_embedding_of_its_core() -> None:
    found = []
    for seed, block in enumerate(halves()):
        generator = torch.Generator().manual_seed(seed)
        fast, slow, semantic = (
            torch.randn(len(block.rows), width, generator=generator) for width in (3, 3, 2)
        )
        found.append(Embeddings(fast, slow, semantic, torch.rand(len(block.rows), generator=generator)))
    whole = together(halves(), iter(found), 40)
    assert torch.equal(whole.fast, torch.cat([found[0].fast[:20], found[1].fast[12:]]))
    assert torch.equal(whole.visibility, torch.cat([found[0].visibility[:20], found[1].visibility[12:]]))
    assert whole.evidence is None


@pytest.mark.parametrize(("name", "value"), [("gaussians", -1), ("overlap", 1.5), ("coverage", 0.0)])
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^blocks\.{name}: wanted [^\n]*got {value}$"):
        BlocksConfig(**{name: value})
