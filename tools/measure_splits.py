"""How well a split gives back two objects that lie side by side, by where the user points.

    python tools/measure_splits.py runs/room

Every object of a run and the one nearest to it are taken for one, and split again at Gaussians of both: the surest,
those around a place that is drawn, or one that is drawn. Printed: which share of the Gaussians goes to the right side,
mean and worst pair, by the tree of the embeddings alone (`link`) and as it is done (`share_out`).
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from gs_lift.clustering import Constraints, saved_tree
from gs_lift.clustering.constraints import Link, link
from gs_lift.clustering.instances import Space, Things, share_out
from gs_lift.editing import SEEDS
from gs_lift.pipeline import read_embeddings, read_gaussians, read_instances
from gs_lift.run import open_run


def main(
    run: Annotated[Path, typer.Argument(help="A segmented run.")],
    seed: Annotated[int, typer.Option(help="Of the places that are drawn.")] = 0,
) -> None:
    opened = open_run(run)
    instances, gaussians, embeddings = read_instances(opened), read_gaussians(opened), read_embeddings(opened)
    tree, rows = saved_tree(instances.tree), instances.tree["rows"].numpy()
    means = gaussians.means.double().numpy()[rows]
    space = Space(rows, instances.tree["around"].numpy(), instances.tree["mutual"].numpy())
    ones = np.ones(len(rows))
    fast = embeddings.fast.double().numpy()[rows]
    things = Things(len(instances.labels), space, fast, means, ones, ones[:, None])
    labels, scores = instances.labels.numpy()[rows], instances.scores.numpy()[rows]
    rng = np.random.default_rng(seed)

    def places(one: int, kind: str) -> np.ndarray:
        members = np.flatnonzero(labels == one)
        if kind == "the surest":
            return members[np.argsort(-scores[members], kind="stable")[:SEEDS]]
        place = rng.choice(members)
        off = ((means[members] - means[place]) ** 2).sum(axis=1)
        return members[np.argsort(off)[: SEEDS if kind == "around a place" else 1]]

    print("| split at | link alone | as it is done |\n|---|---|---|")
    for kind in ("the surest", "around a place", "one Gaussian"):
        shares: dict[str, list[float]] = {"link": [], "share_out": []}
        for one, other in neighbours(means, labels):
            whole = np.where(labels == other, one, labels)
            first, second = places(one, kind), places(other, kind)
            pairs = [Link(int(rows[a]), int(rows[b]), "") for a, b in product(first, second)]
            cut = link(tree, rows, whole, Constraints((), tuple(pairs)))
            shared = share_out(things, whole, cut, np.sort(np.concatenate([first, second])))
            for name, found in (("link", cut), ("share_out", shared)):
                right = (found[labels == one] == found[first[0]]).sum()
                right += (found[labels == other] == found[second[0]]).sum()
                shares[name].append(right / np.isin(labels, [one, other]).sum())
        cells = [f"{np.mean(some):.3f}, worst {min(some):.3f}" for some in shares.values()]
        print(f"| {kind} | {' | '.join(cells)} |")


def neighbours(means: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """Each object with the one whose centre is nearest, every pair once."""
    there = np.unique(labels[labels >= 0])
    centers = np.stack([means[labels == one].mean(axis=0) for one in there])
    off = ((centers[:, None] - centers) ** 2).sum(axis=2)
    np.fill_diagonal(off, np.inf)
    pairs = {
        tuple(sorted((int(one), int(there[near]))))
        for one, near in zip(there, off.argmin(axis=1), strict=True)
    }
    return sorted((one, other) for one, other in pairs)


if __name__ == "__main__":
    typer.run(main)
