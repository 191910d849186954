"""How long another cut of a saved tree takes: a room of many Gaussians, clustered once and cut again.

    python tools/benchmark_recut.py [--gaussians 300000] [--objects 500] [--repeats 5] [--json FILE]

The room has objects of unequal size in rows on a floor; each Gaussian of an object has the object's embedding (D = 8)
with noise, 5 % of them a mixture of two objects'. A fifth of the Gaussians is stuff. `cluster` makes the tree; each row
below is `recut_instances` with other settings: seconds, best and median, and its ratio to `cluster`. Loading and
writing, as `gslift segment` does, are timed apart.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_lift.clustering import ClusterConfig, cluster, recut_instances
from gs_lift.files import write_text_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.ply import write_labels
from gs_lift.segmentation import Classes, Embeddings

CLASSES = Classes(("stuff", "object"), (False, True))


def room(count: int, objects: int, seed: int = 0) -> tuple[Gaussians, Embeddings]:
    """Gaussians of unequal objects on a grid of places, and of the floor under them."""
    rng = np.random.default_rng(seed)
    owner = rng.choice(objects, size=count, p=rng.dirichlet(np.full(objects, 3.0)))
    side = int(np.ceil(objects**0.5))
    places = np.stack([np.arange(objects) % side, np.arange(objects) // side, np.zeros(objects)], axis=1)
    means = places[owner] + rng.uniform(-0.35, 0.35, size=(count, 3))
    codes = rng.normal(size=(objects, 8))
    fast = codes[owner] + 0.05 * rng.normal(size=(count, 8))
    mixed = np.flatnonzero(rng.random(count) < 0.05)
    share = rng.random((len(mixed), 1))
    fast[mixed] = share * fast[mixed] + (1 - share) * codes[(owner[mixed] + 1) % objects]
    stuff = rng.random(count) < 0.2
    means[stuff] = rng.uniform([-1, -1, -0.6], [side, side, -0.5], size=(int(stuff.sum()), 3))
    semantic = np.where(stuff[:, None], [[3.0, -3.0]], [[-3.0, 3.0]])
    embedding = torch.from_numpy(fast).float()
    visibility = torch.from_numpy(rng.gamma(2.0, 10.0, size=count)).float()
    return (
        Gaussians.from_points(torch.from_numpy(means).float(), torch.zeros(count, 3), sh_degree=0),
        Embeddings(embedding, embedding.clone(), torch.from_numpy(semantic).float(), visibility),
    )


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """The result, and the best and the median time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, min(times), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaussians", type=int, default=300_000)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    gaussians, embeddings = room(options.gaussians, options.objects)
    config = ClusterConfig()
    made, whole, _ = timed(lambda: cluster(embeddings, gaussians, CLASSES, config), 1)
    rows = [
        {
            "case": "cluster",
            "objects": len(made),
            "parts": len(made.parts),
            "best_s": whole,
            "median_s": whole,
        }
    ]
    changes: list[dict[str, float]] = [
        {},
        {"min_size": 200, "min_share": 0},
        {"epsilon": 0.1},
        *({"granularity": g} for g in (0.0, 0.1, 0.25, 0.75, 1.0)),
    ]
    for change in changes:
        cut = replace(config, **change)
        result, best, median = timed(
            lambda cut=cut: recut_instances(made, embeddings, gaussians, CLASSES, cut), options.repeats
        )
        name = (
            ", ".join(f"{key} {value:g}" for key, value in change.items() if key != "min_share") or "the same"
        )
        rows.append(
            {
                "case": name,
                "objects": len(result),
                "parts": len(result.parts),
                "best_s": best,
                "median_s": median,
            }
        )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "tree.pt"
        torch.save(made.tree, saved)
        _, best, median = timed(lambda: torch.load(saved, weights_only=True), options.repeats)
        rows.append({"case": "load the tree", "best_s": best, "median_s": median})
        out = Path(folder) / "labels.ply"
        _, best, median = timed(lambda: write_labels(out, gaussians, made), options.repeats)
        rows.append({"case": "write labels.ply", "best_s": best, "median_s": median})

    print(
        f"{options.gaussians:,} Gaussians, {options.objects} objects, {len(made.tree['rows']):,} of things\n"
    )
    print("| | objects | parts | best s | median s | of cluster |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        share = f"{row['median_s'] / whole:.3f}"
        print(
            f"| {row['case']} | {row.get('objects', '')} | {row.get('parts', '')} "
            f"| {row['best_s']:.3f} | {row['median_s']:.3f} | {share} |"
        )
    if options.json:
        write_text_atomic(options.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
