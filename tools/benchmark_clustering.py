"""HDBSCAN by ours and by others: seconds, memory and labels over the number of points and of dimensions (Linux only).

    python tools/benchmark_clustering.py [--sizes 20000 100000 300000 1000000] [--dims 3 8 16 32]
        [--methods ours "hdbscan exact" ...] [--limit SECONDS] [--repeats N] [--objects N] [--json FILE]
    python tools/benchmark_clustering.py --defaults [--json FILE]

The points imitate learnt embeddings: see `embeddings`. Every run is a process of its own; imports, reading the points,
a fit of 2,000 of them and the start of hdbscan's worker processes, which takes seconds once in a process, come before
the clock starts. All methods get the same least cluster, max(20, N / 10,000) points, and core distances to the 10th
other point. Of each number of dimensions come two tables:

- wall s / CPU s: of the fit alone, medians of the repeats, which are interleaved over the methods. CPU counts all
  threads and worker processes. `> 120`: stopped at --limit. `-`: not run, as a smaller N was stopped or failed.
- MB: the most memory that the process held during the fit above what it held just before it, with the points loaded.
  `+ n`: the sum of the most that each of hdbscan's worker processes held, less the files of its libraries; nearly
  100 of each are Python and what it imports.
- clusters, noise: how many, and the share of points in none. found: objects that a cluster matches with IoU > 1/2, of
  those that have points.
- ARI: adjusted Rand index against the truth, over all points; noise is a label of its own, and so are the floaters
  that belong to no object. Noise has so many pairs that this says mostly how it is told from floaters; ARI clustered
  is over the points in clusters only, to be read with the noise beside it. ARI exact: against the labels of `hdbscan
  exact`, or where that did not run of `ours exact`, over all points.

After them, how fast CPU time grows (the exponent of N that fits best) and how much longer hdbscan takes than ours.

--defaults instead tries min_cluster_size, min_samples and the selection: one tree of ours for each N, D and
min_samples, cut again and again. A cell is objects found / clusters that match none / ARI. On a shared machine read
the ratios.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.metrics import adjusted_rand_score

from gs_lift.files import write_text_atomic

Points = NDArray[np.float32]
Labels = NDArray[np.int64]
Row = dict[str, Any]

SIZES, DIMS, OBJECTS = (20_000, 100_000, 300_000, 1_000_000), (3, 8, 16, 32), 500
MIN_SAMPLES = 10
WARM_UP = 2_000  # points
WITH_WORKERS = 16_385
"""Points from which hdbscan hands the core distances to joblib's worker processes."""
SETUP_S = 300.0
"""Seconds for imports, compilation and the warm-up, after which a run counts as failed."""

WIDTH = 0.2
"""Root mean square radius of an object, in distances to the nearest other. Exact HDBSCAN tells nearly all objects of
min_cluster_size or more apart then, for D of 3 to 32; at .3 it loses every fifth for D = 3."""
MIXED, FLOATERS = 0.06, 0.07
"""Shares of border points, between two objects, and of points that belong to none."""

TRIED_SHARES, TRIED_FLOORS, TRIED_SAMPLES = (1_000, 2_000, 5_000, 10_000, 20_000), (20, 30), (5, 10, 20)
TRIED_SIZES, TRIED_DIMS = (60_000, 300_000), (8, 16)


def embeddings(count: int, dims: int, objects: int = OBJECTS, seed: int = 0) -> tuple[Points, Labels]:
    """Points [N D] as a lifted scene has them, and the object of each [N], -1 = none.

    Objects are of unequal shares (Dirichlet, 1.5) and widths, Gaussian with unequal axes in random directions, as
    far apart in every D (the raw centres drift apart as D grows). A border point lies up to half way to another
    object. Floaters are strewn over the whole room.
    """
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(objects, dims))
    radii = WIDTH * cKDTree(centers).query(centers, k=2)[0][:, 1] * np.exp(rng.normal(0, 0.35, objects))
    axes = np.exp(rng.normal(0, 0.5, size=(objects, dims)))
    axes *= (radii / np.linalg.norm(axes, axis=1))[:, None]
    # Turned: boxes along the coordinate axes would flatter kd-trees.
    axes = axes[:, :, None] * np.linalg.qr(rng.normal(size=(objects, dims, dims)))[0]

    owner = rng.choice(objects, size=count, p=rng.dirichlet(np.full(objects, 1.5)))
    points = rng.normal(size=(count, dims))
    ends = np.cumsum(np.bincount(owner, minlength=objects))
    for which, rows in enumerate(np.split(np.argsort(owner, kind="stable"), ends[:-1])):
        points[rows] = centers[which] + points[rows] @ axes[which]
    mixed = np.flatnonzero(rng.random(count) < MIXED)
    other = centers[rng.integers(objects, size=len(mixed))]
    points[mixed] += rng.uniform(0, 0.5, size=(len(mixed), 1)) * (other - points[mixed])
    floaters = rng.random(count) < FLOATERS
    points[floaters] = rng.normal(scale=1.2, size=(int(floaters.sum()), dims))
    return points.astype(np.float32), np.where(floaters, -1, owner)


# The methods: (points, min_cluster_size) -> labels. Each imports its own package, so that memory is its own.
#
# min_samples: ours, hdbscan (which asks its tree for min_samples + 1, the point itself first) and fast_hdbscan (the
# same, in its kd-tree and in pynndescent alike) do not count the point itself; sklearn does. min_cluster_size means
# the same in all. Above 30 dimensions fast_hdbscan leaves its kd-tree and wants pynndescent; it fails where there is
# none.


def _ours(points: Points, least: int, exact: bool = False) -> Labels:
    from gs_lift.clustering import cluster_points

    return cluster_points(points, min_cluster_size=least, min_samples=MIN_SAMPLES, exact=exact).labels


def _ours_exact(points: Points, least: int) -> Labels:
    return _ours(points, least, exact=True)


def _hdbscan(points: Points, least: int, **options: Any) -> Labels:
    import hdbscan

    return hdbscan.HDBSCAN(min_cluster_size=least, min_samples=MIN_SAMPLES, **options).fit(points).labels_


def _hdbscan_exact(points: Points, least: int) -> Labels:
    return _hdbscan(points, least, approx_min_span_tree=False, algorithm="boruvka_kdtree")


def _fast_hdbscan(points: Points, least: int) -> Labels:
    import fast_hdbscan

    return fast_hdbscan.HDBSCAN(min_cluster_size=least, min_samples=MIN_SAMPLES).fit(points).labels_


def _sklearn(points: Points, least: int) -> Labels:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=least, min_samples=MIN_SAMPLES + 1, copy=False).fit(points).labels_


METHODS: dict[str, Callable[[Points, int], Labels]] = {
    "ours": _ours,
    "ours exact": _ours_exact,
    "hdbscan": _hdbscan,
    "hdbscan exact": _hdbscan_exact,
    "fast_hdbscan": _fast_hdbscan,
    "sklearn": _sklearn,
}
EXACT = ("hdbscan exact", "ours exact")
"""What labels are compared with, the first that ran."""


def least_cluster(count: int) -> int:
    return max(20, count // 10_000)


# In the process of one run.


def fit_alone(method: str, folder: Path, limit_s: float) -> None:
    """Fit the points in `folder`, leave the labels there, print the figures; beyond the limit the system kills us."""
    warnings.simplefilter("ignore")
    points, fit = np.load(folder / "points.npy"), METHODS[method]
    least = least_cluster(len(points))
    fit(points[:WARM_UP], 20)
    if method.startswith("hdbscan") and len(points) >= WITH_WORKERS:
        fit(points[:WITH_WORKERS, :2], 20)  # starts them; few dimensions are quick
    held = begin_measuring(limit_s)
    cpu, wall = cpu_seconds(), time.perf_counter()
    labels = fit(points, least)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    signal.setitimer(signal.ITIMER_REAL, 0)
    peak = memory_mb(os.getpid())["VmHWM"]
    workers = [memory_mb(pid) for pid, _ in others_of_session()]
    np.save(folder / f"{method}.npy", labels.astype(np.int64))
    figures = {
        "wall_s": wall,
        "cpu_s": cpu,
        "mb": peak - held,
        "workers_mb": sum(memory["VmHWM"] - memory["RssFile"] for memory in workers if memory),
    }
    print(json.dumps(figures))


def begin_measuring(limit_s: float) -> float:
    """What the process holds now, MB; from here on VmHWM is the peak, and beyond the limit the system kills us."""
    gc.collect()
    # What a warm-up freed shall not hide what is taken next.
    with suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held = memory_mb(os.getpid())["VmRSS"]
    # Not a Python handler, which would wait for native code to return.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    return held


def cpu_seconds() -> float:
    """Of this process, its threads, and all that it started: hdbscan's workers stay alive after their work."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = sum(ticks for _, ticks in others_of_session())
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def others_of_session() -> Iterator[tuple[int, int]]:
    """Each other process of our session, which is a run's own, and the clock ticks that it and its children took."""
    session = os.getsid(0)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third, the state
            if int(fields[3]) == session and int(folder.name) != os.getpid():
                yield int(folder.name), sum(int(field) for field in fields[11:15])


def memory_mb(pid: int) -> dict[str, float]:
    """What /proc says of a process: VmHWM (the peak), VmRSS, RssFile (libraries) ...; empty where it ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(kib) * 1024 / 1e6 for name, kib, _ in words}


# In the process that compares.


def run_alone(method: str, folder: Path, limit_s: float) -> Row:
    """One run in a process of its own -> its figures; "status" is ok, over (the limit) or failed, with its "reason"."""
    command = [sys.executable, __file__, "--worker", method, str(folder), str(limit_s)]
    # Files and no pipes: hdbscan's workers hold those open after the run has ended.
    with (folder / "out").open("w+") as out, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        try:
            code = process.wait(limit_s + SETUP_S)
        except subprocess.TimeoutExpired:
            return {"status": "failed", "reason": f"no result after {limit_s + SETUP_S:.0f} s"}
        finally:
            with suppress(ProcessLookupError):
                # And its workers; joblib's tracker ignores this, clears up after them and ends.
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        if code == -signal.SIGALRM:
            return {"status": "over"}
        if code != 0:
            errors.seek(0)
            # The message of a traceback: what is not indented, below its last place.
            below = errors.read().rpartition("\n  File ")[2].partition("\n")[2]
            message = re.search(r"^\S.*", below, re.MULTILINE | re.DOTALL)
            said = " ".join(message[0].split()) if message else f"exit status {code}"
            return {"status": "failed", "reason": f"killed by signal {-code}" if code < 0 else said}
        out.seek(0)
        return {"status": "ok", **json.loads(out.read().splitlines()[-1])}


def compare(options: argparse.Namespace) -> list[Row]:
    """A row for each D, N and method, in this order."""
    rows: list[Row] = []
    for dims in options.dims:
        stopped: set[str] = set()
        for count in sorted(options.sizes):
            rows += compare_at(count, dims, stopped, options)
            save(rows, options.json)  # after each case: the long ones come last
    return rows


def compare_at(count: int, dims: int, stopped: set[str], options: argparse.Namespace) -> list[Row]:
    """The methods on the same points, but for those in `stopped`, to which it adds."""
    points, truth = embeddings(count, dims, options.objects)
    runs: dict[str, list[Row]] = {method: [] for method in options.methods}
    with tempfile.TemporaryDirectory(prefix="benchmark_clustering_") as name:
        folder = Path(name)
        np.save(folder / "points.npy", points)
        del points
        for _ in range(options.repeats):
            for method in options.methods:
                if method in stopped:
                    continue
                run = run_alone(method, folder, options.limit)
                runs[method].append(run)
                if run["status"] != "ok":
                    stopped.add(method)
                say(f"N = {count:,}, D = {dims}, {method}: {told(run)}")
        status = {method: runs[method][-1]["status"] if runs[method] else "not run" for method in runs}
        labels = {method: np.load(folder / f"{method}.npy") for method in runs if status[method] == "ok"}
    exact = next((method for method in EXACT if method in labels), None)
    rows = []
    for method, results in runs.items():
        row: Row = {"points": count, "dims": dims, "method": method, "status": status[method]}
        row |= {"objects": options.objects, "limit_s": options.limit}
        row |= {"min_cluster_size": least_cluster(count), "min_samples": MIN_SAMPLES}
        if status[method] == "failed":
            row["reason"] = results[-1]["reason"]
        if method in labels:
            for figure in ("wall_s", "cpu_s", "mb", "workers_mb"):
                row[figure] = round(statistics.median(run[figure] for run in results), 3)
            row["wall_s_of_each"] = [round(run["wall_s"], 3) for run in results]
            row["cpu_s_of_each"] = [round(run["cpu_s"], 3) for run in results]
            row |= quality(labels[method], truth)
            row["exact"] = exact
            row["ari_exact"] = adjusted_rand_score(labels[exact], labels[method]) if exact else None
        rows.append(row)
    return rows


def quality(labels: Labels, truth: Labels) -> Row:
    """How well clusters are objects."""
    both = (labels >= 0) & (truth >= 0)
    pairs, common = np.unique(labels[both] * (truth.max() + 1) + truth[both], return_counts=True)
    cluster, owner = np.divmod(pairs, truth.max() + 1)
    clusters, objects = np.bincount(labels[labels >= 0]), np.bincount(truth[truth >= 0])
    # IoU > 1/2 with at most one: no assignment to solve.
    found = 2 * common > clusters[cluster] + objects[owner] - common
    return {
        "clusters": int((clusters > 0).sum()),
        "noise": float((labels < 0).mean()),
        "found": int(found.sum()),
        "objects_with_points": int((objects > 0).sum()),
        "ari": float(adjusted_rand_score(truth, labels)),
        "ari_clustered": float(adjusted_rand_score(truth[labels >= 0], labels[labels >= 0])),
    }


def try_defaults(options: argparse.Namespace) -> list[Row]:
    """A row for each N, D, min_samples, selection and min_cluster_size, by ours."""
    from gs_lift.clustering import recut, spanning_tree

    rows: list[Row] = []
    for count in TRIED_SIZES:
        for dims in TRIED_DIMS:
            points, truth = embeddings(count, dims, options.objects)
            for min_samples in TRIED_SAMPLES:
                start = time.perf_counter()
                tree = spanning_tree(points, min_samples=min_samples)
                say(
                    f"N = {count:,}, D = {dims}, min_samples {min_samples}: {time.perf_counter() - start:.1f} s"
                )
                for selection in ("eom", "leaf"):
                    for least in sorted({least for _, least in tried_leasts(count)}):
                        # A single cluster is allowed, as in gs_lift.clustering.cluster.
                        found = recut(
                            tree, min_cluster_size=least, selection=selection, allow_single_cluster=True
                        )
                        case: Row = {"points": count, "dims": dims, "objects": options.objects}
                        case |= {"min_samples": min_samples, "selection": selection}
                        rows.append({**case, "min_cluster_size": least, **quality(found.labels, truth)})
            save(rows, options.json)
    return rows


def tried_leasts(count: int) -> list[tuple[str, int]]:
    """The rules for min_cluster_size and what they come to; floors that change nothing are not told apart."""
    rules = []
    for share in TRIED_SHARES:
        leasts = [max(floor, count // share) for floor in TRIED_FLOORS]
        if len(set(leasts)) == 1:
            rules.append((f"N/{share}", leasts[0]))
        else:
            rules += [
                (f"N/{share}, at least {floor}", least)
                for floor, least in zip(TRIED_FLOORS, leasts, strict=True)
            ]
    return rules


# Showing.


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(rows: list[Row], path: Path | None) -> None:
    if path:
        write_text_atomic(path, json.dumps(rows, indent=1) + "\n")


def told(run: Row) -> str:
    if run["status"] == "ok":
        return f"{run['wall_s']:.2f} s, {run['cpu_s']:.2f} CPU s, {run['mb'] + run['workers_mb']:.0f} MB"
    return run["reason"] if run["status"] == "failed" else "over the limit"


def seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])


def time_cell(row: Row) -> str:
    if row["status"] == "ok":
        return f"{seconds(row['wall_s'])} / {seconds(row['cpu_s'])}"
    return {"over": f"> {row['limit_s']:g}", "failed": "failed", "not run": "-"}[row["status"]]


def quality_cells(row: Row) -> list[str]:
    if row["status"] != "ok":
        return [time_cell(row)] + ["-"] * 6
    workers = f" + {row['workers_mb']:.0f}" if row["workers_mb"] else ""
    return [
        f"{row['mb']:.0f}{workers}",
        str(row["clusters"]),
        share(row["noise"]),
        f"{row['found']}/{row['objects_with_points']}",
        share(row["ari"]),
        share(row["ari_clustered"]),
        share(row["ari_exact"]),
    ]


def show_comparison(rows: list[Row]) -> None:
    for dims, of_dims in grouped(rows, "dims"):
        by_method, by_size = grouped(of_dims, "method"), grouped(of_dims, "points")
        print(f"\n### D = {dims}: wall s / CPU s\n")
        header = ["method", *(f"{count:,}" for count, _ in by_size)]
        print(table(header, [[method, *map(time_cell, some)] for method, some in by_method]))
        print(f"\n### D = {dims}: memory and labels\n")
        header = ["N", "method", "MB", "clusters", "noise", "found", "ARI", "ARI clustered", "ARI exact"]
        print(table(header, [[f"{row['points']:,}", row["method"], *quality_cells(row)] for row in of_dims]))
        print()
        for count, some in by_size:
            exact = next((row["exact"] for row in some if row.get("exact")), "nothing: none of the two ran")
            print(f"- ARI exact at N = {count:,}: against {exact}")
        for row in of_dims:
            if row["status"] == "failed":
                print(f"- {row['method']} at N = {row['points']:,} failed: {row['reason']}")
    print("\n### Growth of CPU time\n")
    for dims, of_dims in grouped(rows, "dims"):
        for method, some in grouped(of_dims, "method"):
            print(f"- {method}, D = {dims}: {growth([row for row in some if row['status'] == 'ok'])}")
    print("\n### hdbscan / ours, wall\n")
    for dims, of_dims in grouped(rows, "dims"):
        for count, some in grouped(of_dims, "points"):
            print(f"- N = {count:,}, D = {dims}: {ratio({row['method']: row for row in some})}")


def grouped(rows: list[Row], field: str) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[field]].append(row)
    return list(groups.items())


def growth(rows: list[Row]) -> str:
    """The exponent of N that fits best in logarithms."""
    sizes, times = [row["points"] for row in rows], [max(row["cpu_s"], 1e-3) for row in rows]
    if len(rows) < 2:
        return "-"
    exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    return f"N^{exponent:.2f} from {min(sizes):,} to {max(sizes):,}"


def ratio(rows: dict[str, Row]) -> str:
    ours, theirs = rows.get("ours", {}), rows.get("hdbscan", {})
    if ours.get("status") != "ok" or theirs.get("status") not in ("ok", "over"):
        return "-"
    if theirs["status"] == "over":
        return f"> {theirs['limit_s'] / max(ours['wall_s'], 1e-3):.1f}"
    return f"{theirs['wall_s'] / max(ours['wall_s'], 1e-3):.2f}"


def show_defaults(rows: list[Row]) -> None:
    for count, of_size in grouped(rows, "points"):
        for dims, of_case in grouped(of_size, "dims"):
            columns = list(dict.fromkeys((row["min_samples"], row["selection"]) for row in of_case))
            cells = {
                (row["min_cluster_size"], (row["min_samples"], row["selection"])): (
                    f"{row['found']} / {row['clusters'] - row['found']} / {share(row['ari'])}"
                )
                for row in of_case
            }
            objects = of_case[0]["objects_with_points"]
            print(f"\n### N = {count:,}, D = {dims}: found of {objects} / false clusters / ARI\n")
            header = ["min_cluster_size", "", *(f"min_samples {least}, {kind}" for least, kind in columns)]
            lines = [
                [rule, str(least), *(cells[least, column] for column in columns)]
                for rule, least in tried_leasts(count)
            ]
            print(table(header, lines))


def about(options: argparse.Namespace) -> str:
    versions = []
    for package in ("hdbscan", "fast_hdbscan", "scikit-learn"):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return f"{len(os.sched_getaffinity(0))} cores; {', '.join(versions)}; {options.objects} objects"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds, after which a run is killed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--defaults", action="store_true", help="try the parameters of ours instead")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)  # method, folder, limit: one run
    options = parser.parse_args()
    if options.worker:
        method, folder, limit_s = options.worker
        fit_alone(method, Path(folder), float(limit_s))
        return
    if options.objects < 2 or min(options.sizes) < 100 or min(options.dims) < 1 or options.repeats < 1:
        parser.error("wanted 2 objects, 100 points, 1 dimension and 1 repeat or more")
    if not (options.limit > 0 and math.isfinite(options.limit)):
        parser.error(f"--limit {options.limit}: wanted a number of seconds")
    rows = try_defaults(options) if options.defaults else compare(options)
    print(about(options))
    show_defaults(rows) if options.defaults else show_comparison(rows)


if __name__ == "__main__":
    main()
