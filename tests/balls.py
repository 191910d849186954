"""Objects that are balls of Gaussians with embeddings and classes, and segments of made-up views that cover them."""

from collections.abc import Callable

import numpy as np
import torch

from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings, Evidence

ROOM = Classes(("floor", "mug", "book"), (False, True, True))
FLOOR, MUG, BOOK = 0, 1, 2


def scene(
    objects: list[tuple[tuple[float, float, float], int, int, int]], *, floor: int = 200, seed: int = 0
) -> tuple[Gaussians, Embeddings, np.ndarray]:
    """Balls of radius 0.1 at a place, with an embedding's number, a class and a number of Gaussians; and a floor."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(50, 8))
    means, fast, classes, truth = [], [], [], []
    for number, (place, code, semantic, count) in enumerate(objects):
        means.append(np.array(place) + rng.uniform(-0.06, 0.06, size=(count, 3)))
        fast.append(codes[code] + 0.03 * rng.normal(size=(count, 8)))
        classes += [semantic] * count
        truth += [number] * count
    means.append(rng.uniform([-2, -2, -0.5], [2, 2, -0.4], size=(floor, 3)))
    fast.append(rng.normal(size=(floor, 8)))
    classes += [FLOOR] * floor
    truth += [-1] * floor
    points = torch.from_numpy(np.concatenate(means)).float()
    embeddings = Embeddings(
        fast=torch.from_numpy(np.concatenate(fast)).float(),
        slow=torch.from_numpy(np.concatenate(fast)).float(),
        semantic=6.0 * torch.nn.functional.one_hot(torch.tensor(classes, dtype=torch.int64), 3).float(),
        visibility=torch.from_numpy(rng.uniform(5, 50, size=len(points))).float(),
    )
    return (
        Gaussians.from_points(points, torch.zeros(len(points), 3), sh_degree=0),
        embeddings,
        np.array(truth),
    )


Draw = Callable[[int, np.ndarray], np.ndarray]


def evidence_of(truth: np.ndarray, views: int, draw: Draw | None = None, *, seed: int = 0) -> Evidence:
    """Of `views` views that see every Gaussian with a weight of 1 to 3 pixels.

    draw: (number of the view, truth [N]) -> the region of each Gaussian: a segment 0, 1, ..., -1 = stuff, -2 = what is
    neither; truth itself by default.
    """
    rng = np.random.default_rng(seed)
    view, kind, indptr, indices, values = [], [], [0], [], []
    for number in range(views):
        region = truth if draw is None else draw(number, truth)
        for one in np.unique(region).tolist():
            members = np.flatnonzero(region == one)
            view.append(number)
            kind.append(Evidence.THING if one >= 0 else Evidence.STUFF if one == -1 else Evidence.UNKNOWN)
            indices += members.tolist()
            values += rng.uniform(1, 3, len(members)).tolist()
            indptr.append(len(indices))
    return Evidence(
        view=torch.tensor(view, dtype=torch.int32),
        kind=torch.tensor(kind, dtype=torch.int8),
        indptr=torch.tensor(indptr),
        indices=torch.tensor(indices, dtype=torch.int32),
        values=torch.tensor(values).half(),
    )
