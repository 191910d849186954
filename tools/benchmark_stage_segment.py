"""The stage `segment` on large captures that are made up: seconds, memory and objects found (Linux only).

    python tools/benchmark_stage_segment.py [--sizes 100000 300000 1000000 2000000] [--views 100 400]
        [--objects 500 2000] [--limit SECONDS] [--scenes FOLDER] [--json FILE]

Nothing is rendered: see `capture`. Every run is a process of its own, which reads the scene, clusters a small one
first, and then does `cluster` and, on what that gave, `recut_instances` to granularity 0.7. In the table:

- entries: of the evidence, in millions.
- cluster, recut: wall s / CPU s of all threads.
- MB above: the most memory that the process held during both above what it held just before, with the inputs loaded.
- peak MB: the most that it held at all, with Python, torch, and the inputs: splat of degree 3, embeddings, evidence.
- found: true objects that an instance of `cluster` matches with IoU > 1/2; false: instances that match none.

After it, how fast each grows (the exponent of Gaussians that fits best in logarithms). `> 600`: stopped at --limit.
--scenes keeps the made captures, for the next time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import numpy as np
from benchmark_clustering import begin_measuring, embeddings, grouped, memory_mb, save, say, seconds, table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Arrays = dict[str, NDArray[Any]]
Row = dict[str, Any]

SIZES, VIEWS, OBJECTS = (100_000, 300_000, 1_000_000, 2_000_000), (100, 400), (500, 2_000)
WARM_UP = (4_000, 12, 16)  # Gaussians, views, objects
SETUP_S = 300.0
"""Seconds for imports, reading and the warm-up, after which a run counts as failed."""

CLASSES, STUFF_CLASSES = 10, 4
FLOOR = 0.2
"""Share of the Gaussians that are floor and wall, by their semantics as well."""
IN_VIEW, FACING = 0.27, -0.2
"""Share of the building that a view overlooks; cosine from which on a side of an object is seen: three in five are."""
MISSED, MERGED, SPLIT, SPILT = 0.06, 0.10, 0.10, 0.1
"""Shares of a view's objects that get no segment, one with the nearest other, two; of the Gaussians that lie in two
regions."""


def capture(count: int, views: int, objects: int, seed: int = 0) -> Arrays:
    """A building of one storey: objects in a jittered grid a metre apart, floor between them, and floaters.

    Embeddings, the object of each Gaussian and its share of them are those of tools/benchmark_clustering.py. A view
    overlooks the objects around a place, and of them the sides that face it. Each object that it sees is a segment,
    but for errors; the floor and what was missed is stuff.
    """
    rng = np.random.default_rng(seed)
    floor = int(FLOOR * count)
    fast, owner = embeddings(count - floor, 8, objects, seed)
    side = int(np.ceil(objects**0.5))
    centers = np.stack([np.arange(objects) % side, np.arange(objects) // side, np.zeros(objects)], axis=1)
    centers[:, :2] += rng.uniform(-0.2, 0.2, (objects, 2))
    off = rng.normal(size=(len(owner), 3))
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    means = centers[owner] + off * rng.uniform(0.1, 0.35, (objects, 3))[owner]
    strewn = owner < 0
    means[strewn] = rng.uniform([-0.5, -0.5, -0.4], [side, side, 2], (strewn.sum(), 3))
    on_floor = rng.uniform([-0.5, -0.5, -0.4], [side, side, -0.38], (floor, 3))
    classes = rng.integers(STUFF_CLASSES, CLASSES, objects)[owner]
    kinds = np.concatenate([classes, rng.integers(0, STUFF_CLASSES, floor)])
    semantic = rng.normal(0, 0.5, (count, CLASSES)).astype(np.float32)
    semantic[np.arange(count), kinds] += 5
    order = rng.permutation(count)  # densification leaves no objects in a row
    arrays: Arrays = {
        "fast": np.concatenate([fast, rng.normal(size=(floor, 8))])[order].astype(np.float32),
        "means": np.concatenate([means, on_floor])[order].astype(np.float32),
        "semantic": semantic[order],
        "visibility": np.exp(rng.normal(3, 1, count)).astype(np.float32),
        "truth": np.concatenate([owner, np.full(floor, -1)])[order],
    }
    facing = np.concatenate([np.where(strewn[:, None], 0, off), np.zeros((floor, 3))])[order]
    return arrays | seen_by(views, arrays, facing.astype(np.float32), centers, rng)


def seen_by(
    views: int,
    scene: Arrays,
    facing: NDArray[np.float32],
    centers: NDArray[np.float64],
    rng: np.random.Generator,
) -> Arrays:
    """Evidence of `views`: its arrays by name. facing: [N 3] outward, 0 where all sides are seen."""
    means, truth = scene["means"], scene["truth"]
    extent = centers[:, :2].max(axis=0)
    parts: list[tuple[int, NDArray[np.int8], NDArray[np.int64], NDArray[np.int32], NDArray[np.float16]]] = []
    for number in range(views):
        place = np.append(rng.uniform(0, extent), 0.8)
        reach = float(np.sqrt(IN_VIEW * np.prod(extent + 1) / np.pi))
        toward = (place - means).astype(np.float32)
        squared = (toward**2).sum(axis=1)
        rows = np.flatnonzero(squared < reach**2)
        cosine = (toward[rows] * facing[rows]).sum(axis=1) / np.sqrt(squared[rows])
        rows = rows[cosine > FACING].astype(np.int32)
        region, kinds = segmented(means[rows], truth[rows], centers, rng)
        pixels = np.exp(rng.normal(0, 1, len(rows))) * reach**2 / (1 + squared[rows]) * 0.2
        spilt = np.flatnonzero(rng.random(len(rows)) < SPILT)  # over a silhouette: into what is behind
        rows = np.concatenate([rows, rows[spilt]])
        region = np.concatenate([region, np.full(len(spilt), len(kinds) - 2)])
        pixels = np.concatenate([pixels, 0.2 * pixels[spilt]])
        ascending = np.lexsort((rows, region))
        ends = np.cumsum(np.bincount(region, minlength=len(kinds)))
        parts.append(
            (number, kinds, ends, rows[ascending], np.clip(pixels, 0.01, 6e4).astype(np.float16)[ascending])
        )
    lengths = np.cumsum([0, *(len(part[3]) for part in parts)])
    indptr = [at + part[2] for at, part in zip(lengths.tolist(), parts, strict=False)]
    return {
        "view": np.concatenate([np.full(len(part[1]), part[0], dtype=np.int32) for part in parts]),
        "kind": np.concatenate([part[1] for part in parts]),
        "indptr": np.concatenate([np.zeros(1, dtype=np.int64), *indptr]),
        "indices": np.concatenate([part[3] for part in parts]),
        "values": np.concatenate([part[4] for part in parts]),
    }


def segmented(
    means: NDArray[np.float32],
    truth: NDArray[np.int64],
    centers: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Region of each Gaussian that a view sees, and the kind of each region: segments, then stuff, then unknown."""
    from gs_lift.segmentation import Evidence

    objects, place = np.unique(truth[truth >= 0], return_inverse=True)
    fate, segment = rng.random(len(objects)), np.arange(len(objects))
    near = np.minimum(cKDTree(centers[objects]).query(centers[objects], k=[2])[1][:, 0], len(objects) - 1)
    merged = (fate >= MISSED) & (fate < MISSED + MERGED)
    segment[merged] = segment[near[merged]]
    halved = (fate >= 1 - SPLIT)[place]
    count = len(objects)
    region = np.full(len(truth), 2 * count)
    inside = segment[place]
    second = halved & (means[truth >= 0, 0] > centers[objects, 0][place])
    region[truth >= 0] = np.where((fate < MISSED)[place], 2 * count, inside + count * second)
    kinds = np.append(np.full(2 * count, Evidence.THING), [Evidence.STUFF, Evidence.UNKNOWN]).astype(np.int8)
    region[(truth < 0) & (means[:, 2] > 0)] = 2 * count + 1  # floaters lie before anything
    used = np.zeros(len(kinds), dtype=bool)
    used[region] = True
    used[-2:] = True
    return (np.cumsum(used) - 1)[region], kinds[used]


# In the process of one run.


def inputs_of(arrays: Arrays) -> tuple[Any, ...]:
    """Embeddings, Gaussians and classes, as `cluster` takes them; `arrays` is emptied."""
    import torch

    from gs_lift.gaussians import Gaussians
    from gs_lift.segmentation import Classes, Embeddings, Evidence

    tensors = {name: torch.from_numpy(arrays.pop(name)) for name in list(arrays) if name != "truth"}
    evidence = Evidence(**{name: tensors[name] for name in ("view", "kind", "indptr", "indices", "values")})
    known = [tensors[name] for name in ("semantic", "visibility")]
    means = tensors["means"]
    one, many = (
        torch.zeros(len(means), 1, 3),
        torch.full((len(means), 15, 3), 0.1),
    )  # zeros would take no memory
    gaussians = Gaussians(means, torch.ones(len(means), 4), means - 4, torch.ones(len(means)), one, many)
    names = tuple(f"class {number}" for number in range(CLASSES))
    classes = Classes(names, tuple(number >= STUFF_CLASSES for number in range(CLASSES)))
    return Embeddings(tensors["fast"], tensors["fast"].clone(), *known, evidence), gaussians, classes


def run_stage(path: Path, limit_s: float) -> None:
    """Cluster the capture at `path` and cut it again, print the figures; beyond the limit the system kills us."""
    from gs_lift.clustering import ClusterConfig, cluster, recut_instances

    cluster(*inputs_of(capture(*WARM_UP)))
    arrays = {name.stem: np.load(name) for name in sorted(path.glob("*.npy"))}
    figures: Row = {"entries": len(arrays["indices"])}
    inputs = inputs_of(arrays)
    held = begin_measuring(limit_s)
    cpu, wall = time.process_time(), time.perf_counter()
    made = cluster(*inputs, ClusterConfig())
    figures |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    figures["mb"] = memory_mb(os.getpid())["VmHWM"] - held
    cpu, wall = time.process_time(), time.perf_counter()
    again = recut_instances(made, *inputs, ClusterConfig(granularity=0.7))
    figures |= {"recut_wall_s": time.perf_counter() - wall, "recut_cpu_s": time.process_time() - cpu}
    signal.setitimer(signal.ITIMER_REAL, 0)
    peak = memory_mb(os.getpid())["VmHWM"]
    figures |= {"held_mb": held, "mb_of_both": peak - held, "peak_mb": peak, "recut_objects": len(again)}
    print(json.dumps(figures | found(made.labels.numpy(), arrays["truth"])))


def found(labels: NDArray[np.int64], truth: NDArray[np.int64]) -> Row:
    """How many true objects an instance matches with IoU > 1/2, and how many instances match none."""
    both = (labels >= 0) & (truth >= 0)
    pairs, common = np.unique(labels[both] * (truth.max() + 1) + truth[both], return_counts=True)
    label, owner = np.divmod(pairs, truth.max() + 1)
    sizes, objects = np.bincount(labels[labels >= 0]), np.bincount(truth[truth >= 0])
    matches = int((2 * common > sizes[label] + objects[owner] - common).sum())
    return {
        "objects": int((sizes > 0).sum()),
        "found": matches,
        "true_objects": int((objects > 0).sum()),
        "noise_of_objects": float((labels[truth >= 0] < 0).mean()),
    }


# In the process that compares.


def run_alone(path: Path, limit_s: float) -> Row:
    """One run in a process of its own -> its figures; "status" is ok, over (the limit) or failed, with its "reason"."""
    command = [sys.executable, __file__, "--worker", str(path), str(limit_s)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s + SETUP_S)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": "no result"}
    if done.returncode == -signal.SIGALRM:
        return {"status": "over"}
    if done.returncode:
        return {"status": "failed", "reason": (done.stderr.strip() or str(done.returncode)).splitlines()[-1]}
    return {"status": "ok", **json.loads(done.stdout.splitlines()[-1])}


def scene_at(folder: Path, count: int, views: int, objects: int) -> Path:
    """The folder of a capture's arrays, made where it is missing."""
    path = folder / f"{count}_{views}_{objects}"
    if not (path / "done").exists():
        path.mkdir(parents=True, exist_ok=True)
        for name, array in capture(count, views, objects).items():
            np.save(path / f"{name}.npy", array)
        (path / "done").touch()
    return path


def measure(options: argparse.Namespace, scenes: Path) -> list[Row]:
    """A row for each number of objects, of views and of Gaussians."""
    rows: list[Row] = []
    for objects in options.objects:
        for views in options.views:
            for count in sorted(options.sizes):
                path = scene_at(scenes, count, views, objects)
                row: Row = {
                    "gaussians": count,
                    "views": views,
                    "of_objects": objects,
                    "limit_s": options.limit,
                }
                rows.append(row | run_alone(path, options.limit))
                say(f"{count:,} Gaussians, {views} views, {objects} objects: {cells(rows[-1])}")
                save(rows, options.json)  # after each case: the long ones come last
    return rows


# Showing.


def cells(row: Row) -> list[str]:
    if row["status"] != "ok":
        return [row.get("reason", f"> {row['limit_s']:g}")] + ["-"] * 6
    return [
        f"{row['entries'] / 1e6:.1f}",
        f"{seconds(row['wall_s'])} / {seconds(row['cpu_s'])}",
        f"{seconds(row['recut_wall_s'])} / {seconds(row['recut_cpu_s'])}",
        f"{row['mb_of_both']:.0f}",
        f"{row['peak_mb']:.0f}",
        f"{row['found']}/{row['true_objects']}",
        str(row["objects"] - row["found"]),
    ]


def show(rows: list[Row]) -> None:
    header = ["Gaussians", "views", "objects", "entries, M", "cluster, s / CPU s", "recut, s / CPU s"]
    header += ["MB above", "peak MB", "found", "false"]
    lines = [
        [f"{row['gaussians']:,}", str(row["views"]), str(row["of_objects"]), *cells(row)] for row in rows
    ]
    print(table(header, lines))
    print()
    done = [row for row in rows if row["status"] == "ok"]
    for objects, of_objects in grouped(done, "of_objects"):
        for views, some in grouped(of_objects, "views"):
            grows = ", ".join(
                f"{name} {exponent(some, name)}" for name in ("cpu_s", "recut_cpu_s", "mb_of_both")
            )
            print(f"- {objects} objects, {views} views: {grows}")


def exponent(rows: list[Row], figure: str) -> str:
    """The exponent of Gaussians that fits best in logarithms."""
    if len(rows) < 2:
        return "-"
    sizes, values = [row["gaussians"] for row in rows], [max(row[figure], 1e-3) for row in rows]
    return f"N^{np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--views", type=int, nargs="+", default=VIEWS)
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds, after which a run is killed")
    parser.add_argument("--scenes", type=Path, help="keep the made captures in this folder")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # folder, limit: one run
    options = parser.parse_args()
    if options.worker:
        run_stage(Path(options.worker[0]), float(options.worker[1]))
        return
    if min(options.sizes) < 1_000 or min(options.views) < 1 or min(options.objects) < 2:
        parser.error("wanted 1,000 Gaussians, 1 view and 2 objects or more")
    with tempfile.TemporaryDirectory(prefix="benchmark_stage_segment_") as temporary:
        show(measure(options, options.scenes or Path(temporary)))


if __name__ == "__main__":
    main()
