"""A scene's Gaussians in blocks of space, each with the views that show it.

Notation: N Gaussians, B blocks, V training views. A cell is a box, also with sides at infinity; cells tile space.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Generator, Tensor

from gs_lift.blocks.settings import BlocksConfig
from gs_lift.clustering.hierarchy import Floats, Ints
from gs_lift.gaussians import Gaussians
from gs_lift.lifting.sampling import candidates
from gs_lift.progress import OnStep
from gs_lift.rendering import blending_weights
from gs_lift.scene import Scene
from gs_lift.seeds import Purpose, seed_of

PIXELS = 16_384
"""Of a view, at random, by which it is judged how much it shows of which block."""
FARTHEST = 1e30
"""Where a centre that is not finite is put."""
AROUND_THE_MIDDLE = 0.4, 0.6
"""A cell is cut where the fewest Gaussians lie between these shares of them: through few objects."""
PLACES = 32
"""Between these, to choose from."""


@dataclass(frozen=True)
class Block:
    """Some of a scene's Gaussians, and what to learn of them from.

    rows: of the scene, ascending. core: which of them are of this block alone; the others are of neighbours. views:
    numbers of training views, ascending.
    """

    rows: Int[Tensor, "M"]
    core: Bool[Tensor, "M"]
    views: Int[Tensor, "V"]


def split(
    scene: Scene,
    gaussians: Gaussians,
    config: BlocksConfig,
    *,
    backend: str = "cpu",
    seed: int = 0,
    on_view: OnStep | None = None,
) -> list[Block]:
    """Blocks of at most `config.gaussians` Gaussians, where space can be cut so; views by what they show of a core.

    on_view: called with (views looked at, {}) after each view.
    """
    pieces = list(cells(gaussians.means.detach().cpu().double().numpy(), config))
    home = np.empty(len(gaussians), dtype=np.int64)
    for number, (rows, core) in enumerate(pieces):
        home[rows[core]] = number
    geometry = gaussians.geometry()
    shown = np.zeros((len(scene.train), len(pieces)))
    for number, view in enumerate(scene.train):
        camera = view.camera
        generator = Generator().manual_seed(seed_of(seed, Purpose.BLOCKS, number))
        pixels = candidates(camera.height, camera.width, PIXELS, generator)
        totals = blending_weights(geometry, camera, pixels=pixels, backend=backend).totals().numpy()
        shown[number] = np.bincount(home, weights=totals, minlength=len(pieces)) / len(pixels)
        if on_view is not None:
            on_view(number + 1, {})
    return [
        Block(torch.from_numpy(rows), torch.from_numpy(core), torch.from_numpy(views))
        for (rows, core), views in zip(pieces, covering(shown, config.coverage), strict=True)
    ]


def covering(shown: Float[np.ndarray, "V B"], share: float) -> list[Ints]:
    """For each block the fewest views that have `share` of what all show of it; ascending."""
    chosen = []
    for column in shown.T:
        order = np.argsort(-column, kind="stable")
        reached = np.cumsum(column[order])
        count = (
            int(np.searchsorted(reached, share * reached[-1])) + 1 if len(order) and reached[-1] > 0 else 0
        )
        chosen.append(np.sort(order[:count]))
    return chosen


def cells(means: Float[np.ndarray, "N 3"], config: BlocksConfig) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """The rows of each block, ascending, and which of them are its core: cells are halved until none is too large.

    A cell that cannot be cut, since its Gaussians lie in one point, stays as it is; so does one whose margin alone is
    too large.
    """
    places = np.nan_to_num(means, nan=FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
    waiting = [(np.arange(len(places)), np.full(3, -np.inf), np.full(3, np.inf))]
    while waiting:
        core, low, high = waiting.pop()
        rows = _grown(places, places[core], low, high, config.overlap)
        cut = _cut(places[core]) if len(rows) > config.gaussians and 4 * len(core) > len(rows) else None
        if cut is None:
            yield rows, np.isin(rows, core, assume_unique=True)
            continue
        axis, at = cut
        below = places[core, axis] < at
        middle_high, middle_low = high.copy(), low.copy()
        middle_high[axis] = middle_low[axis] = at
        waiting += [(core[~below], middle_low, high), (core[below], low, middle_high)]


def _grown(places: Floats, own: Floats, low: Floats, high: Floats, overlap: float) -> Ints:
    """Rows of all that lies in a cell, of which `own` are, or not far around it."""
    first, last = np.quantile(own, (0.05, 0.95), axis=0)
    margin = overlap * (last - first)
    return np.flatnonzero(((places >= low - margin) & (places < high + margin)).all(axis=1))


def _cut(places: Floats) -> tuple[int, float] | None:
    """The axis and place of the plane that halves these; None where they lie in one point."""
    low, high = np.quantile(places, (0.1, 0.9), axis=0)
    axis = int(np.argmax(high - low))
    along = places[:, axis]
    first, last = np.quantile(along, AROUND_THE_MIDDLE)
    counts, edges = (
        np.histogram(along, bins=PLACES, range=(first, last)) if first < last else ([0], [first, first])
    )
    fewest = np.flatnonzero(np.asarray(counts) == np.min(counts))
    place = int(fewest[np.argmin(np.abs(fewest - (len(counts) - 1) / 2))])
    at = float(edges[place] + edges[place + 1]) / 2
    return (axis, at) if along.min() < at else None
