"""How well objects are found: methods of lifting against each other, over rooms, on the same splats.

    python tools/benchmark_lifting.py [ROOMS...] [--methods SET|NAME,NAME] [--out runs/lifting] [--json FILE]
                                      [--table-only]

ROOM is a scene folder, or `synth:OBJECTS:NOISE[:SEED]` for a room that is made first; by default the rooms of the
benchmark. Each is fitted once, by the default settings; every method lifts its segments onto that splat. What is done
is skipped, so the command can be stopped and started again, and several may share one --out. METHODS says what the
names mean, SETS which of them go together: `methods` (the default), `ablation` and `curve`.

`true segments` lifts the truth of the training views, each with ids of its own, as `default` does: what
is missing there is lost to geometry and lifting. `true objects` gives each Gaussian what the truth says of it, with
one set of ids: what is missing there is lost to geometry alone.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import torch
import typer
from benchmark_line import cell, room_folder
from rich.console import Console

from gs_lift.clustering import cluster
from gs_lift.config import Config, load_config
from gs_lift.evaluation import evaluate
from gs_lift.files import write_text_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.lifting import lift
from gs_lift.metrics import Reliability
from gs_lift.pipeline import fit_run, read_embeddings, read_gaussians, read_scene
from gs_lift.rendering import blending_weights
from gs_lift.scene import Scene
from gs_lift.segmentation import VOID, Embeddings, Instances, Segments
from gs_lift.terminal import TerminalReporter, show_warnings
from gs_lift.threads import torch_on_one_thread

NOISES = ("none", "easy", "moderate", "hard")
ROOMS = [
    *(f"synth:{count}:{noise}:{seed}" for noise in NOISES for count in (25, 50, 100) for seed in (0, 1, 2)),
    *(f"synth:500:{noise}:0" for noise in NOISES),
    *(f"furnished:20:{noise}:{seed}" for noise in NOISES for seed in (0, 1, 2)),
    *(f"../shared/data/messy_{name}" for name in ("noise_25", "noise_100", "noise_500", "sam_50")),
]


@dataclass(frozen=True)
class Method:
    """settings: what differs from the defaults. truth: what is known: nothing, the "segments", or the "objects"."""

    settings: tuple[str, ...] = ()
    truth: str = ""


METHODS: dict[str, Method] = {
    "default": Method(),
    "HDBSCAN alone": Method(("cluster.consensus=false", "cluster.min_thing=0.4")),
    "mask graph": Method(("lift.method=mask_graph",)),
    "paper": Method(("lift.method=paper",)),
    "vanilla": Method(("lift.method=vanilla",)),
    "linear assignment": Method(("lift.method=linear_assignment",)),
    "true segments": Method(truth="segments"),
    "true objects": Method(truth="objects"),
    # The default with a part out, or one more.
    "without votes": Method(("cluster.votes=0",)),
    "no clusters in the consensus": Method(("cluster.embedding_views=0",)),
    "clusters as HDBSCAN leaves them": Method(
        ("cluster.split_gap=0", "cluster.min_coherence=0", "cluster.noise_spread=0")
    ),
    "without smoothing": Method(("lift.pull=0",)),
    "3 dimensions": Method(("lift.dimensions=3",)),
    "things weigh 1": Method(("lift.thing_weight=1",)),
    "with segment consistency": Method(("lift.consistency=1.2",)),
    # How the baselines grow with their steps.
    **{
        f"paper {steps}": Method(("lift.method=paper", f"lift.steps={steps}"))
        for steps in (2000, 4000, 16000)
    },
    "paper MLP": Method(("lift.method=paper", "lift.field=mlp", "lift.steps=4000")),
    **{f"vanilla {steps}": Method(("lift.method=vanilla", f"lift.steps={steps}")) for steps in (2000, 8000)},
    **{
        f"linear assignment {steps}": Method(("lift.method=linear_assignment", f"lift.steps={steps}"))
        for steps in (2000, 8000)
    },
}
_NAMES = list(METHODS)
SETS: dict[str, list[str]] = {
    "methods": _NAMES[: _NAMES.index("without votes")],
    "ablation": [
        "default",
        *_NAMES[_NAMES.index("without votes") : _NAMES.index("paper 2000")],
        "HDBSCAN alone",
        "mask graph",
    ],
    "curve": ["paper", "vanilla", "linear assignment", *_NAMES[_NAMES.index("paper 2000") :]],
}
COLUMNS = (
    *("PQ scene", "PQ things", "mIoU", "found", "false", "halo", "ECE", "ECE objects", "lift s", "segment s"),
)


def measure(
    method: Method, scene: Scene, gaussians: Gaussians, lifted: dict[Any, Embeddings]
) -> dict[str, Any]:
    """One cell of the table. lifted: the embeddings by their settings; what is missing is added."""
    config = load_config(None, list(method.settings))
    start = time.perf_counter()
    if method.truth == "objects":
        embeddings, instances = true_objects(scene, gaussians)
        learnt = clustered = time.perf_counter()
    else:
        key = (config.lift, method.truth)
        if key not in lifted:
            lifted[key] = lift(true_segments(scene) if method.truth else scene, gaussians, config.lift)
        embeddings, learnt = lifted[key], time.perf_counter()
        instances = cluster(embeddings, gaussians, scene.classes, config.cluster)
        clustered = time.perf_counter()
    scores = evaluate(scene, gaussians, embeddings, instances)
    return {
        "PQ scene": scores.pq_scene,
        "PQ things": scores.pq_things,
        "mIoU": scores.miou,
        "found": scores.objects_found,
        "objects": scores.objects_true,
        "false": sum(one.false_positives for one in scores.per_class if one.is_thing),
        "halo": scores.halo,
        **calibration(instances, true_objects(scene, gaussians)[1], embeddings.visibility),
        "lift s": learnt - start,
        "segment s": clustered - learnt,
    }


def true_segments(scene: Scene) -> Scene:
    """The scene with the truth of each training view in the place of its segments."""
    return replace(
        scene, train=tuple(replace(view, segments=view.truth) for view in scene.train if view.segments)
    )


def true_objects(scene: Scene, gaussians: Gaussians) -> tuple[Embeddings, Instances]:
    """Of each Gaussian the object, or the stuff, that the truth of the training views has most of its weight in."""
    truths = [view.truth() for view in scene.train if view.truth]
    most = max(int(truth.instance.max()) for truth in truths) + 1
    thing = torch.tensor([*scene.classes.is_thing, False])
    votes = torch.zeros(len(gaussians), most + len(scene.classes) + 1)
    for view, truth in zip([view for view in scene.train if view.truth], truths, strict=True):
        votes += blending_weights(gaussians, view.camera).blend_transposed(
            torch.nn.functional.one_hot(_column(truth, thing, most), votes.shape[1]).float()
        )
    best = votes[:, :-1].argmax(dim=1)
    class_of = torch.full((most,), VOID)
    for truth in truths:
        class_of[truth.instance[truth.instance >= 0].long()] = truth.semantic[truth.instance >= 0].long()
    semantic = torch.where(best < most, class_of[best.clamp(max=most - 1)], best - most).clamp(min=0)
    logits = 20.0 * torch.nn.functional.one_hot(semantic, len(scene.classes)).float()
    labels = torch.where(best < most, best, -1)
    used, numbered = labels.unique(return_inverse=True)
    skipped = int(used[0] == -1)
    nothing = torch.zeros(len(gaussians), 1)
    embeddings = Embeddings(nothing, nothing, logits, votes.sum(dim=1))
    return embeddings, Instances(
        labels=numbered - skipped, scores=(labels >= 0).float(), classes=class_of[used[skipped:]], tree={}
    )


def calibration(found: Instances, true: Instances, visibility: torch.Tensor) -> dict[str, float | None]:
    """Expected calibration errors of the scores of Gaussians and of objects.

    An object is a true one if its IoU with a true object, by the visibility of their Gaussians, is over 1/2. A Gaussian
    is right if it belongs to a true one and to that object.
    """
    if not len(found):
        return {"ECE": None, "ECE objects": None}
    shared = torch.zeros(len(found) + 1, len(true) + 1, dtype=torch.float64)  # the last ones are "none"
    shared.index_put_((found.labels, true.labels), visibility.double(), accumulate=True)
    union = shared.sum(dim=1, keepdim=True) + shared.sum(dim=0) - shared
    iou, home = (shared / union.clamp(min=1e-12))[:-1, :-1].max(dim=1)
    taken = found.labels >= 0
    own = found.labels[taken]
    right = (iou[own] > 0.5) & (home[own] == true.labels[taken])
    return {
        "ECE": _calibration_error(found.scores[taken], right),
        "ECE objects": _calibration_error(found.object_scores, iou > 0.5),
    }


def _calibration_error(score: torch.Tensor, right: torch.Tensor) -> float:
    found = Reliability()
    found.add(score.double().numpy(), right.numpy())
    return found.error


def _column(truth: Segments, thing: torch.Tensor, most: int) -> torch.Tensor:
    """[P] The object of each pixel, or behind those its class of stuff, or behind those nothing."""
    instance, semantic = truth.instance.flatten().long(), truth.semantic.flatten().long()
    rest = torch.where(semantic == VOID, len(thing) - 1, semantic)
    return torch.where((instance >= 0) & thing[semantic], instance, most + rest)


def measure_room(
    room: str, methods: list[str], config: Config, out: Path, reporter: TerminalReporter
) -> None:
    """The cells of a room that are missing yet, each in a file of its own."""
    scene_folder = room_folder(room, out, reporter)
    cells = {name: _cell_file(out, scene_folder.name, name) for name in methods}
    if all(path.exists() for path in cells.values()):
        return
    # A splat by other settings is made again; the cells that are there are not.
    folder = out / scene_folder.name / "run"
    run = fit_run(scene_folder, config, folder=folder, overwrite=True, reporter=reporter)
    scene, gaussians = read_scene(run), read_gaussians(run)
    lifted = {(config.lift, ""): read_embeddings(run)}
    for name, path in cells.items():
        if path.exists():
            continue
        with reporter.stage(name, None):
            row = measure(METHODS[name], scene, gaussians, lifted)
        if name == "default":
            row["lift s"] = run.seconds["lift"]
        write_text_atomic(path, json.dumps(row) + "\n")


def _cell_file(out: Path, room: str, method: str) -> Path:
    return out / room / f"{method.replace(' ', '_')}.json"


def table(rooms: list[str], methods: list[str], out: Path) -> list[dict[str, Any]]:
    """The cells that are there, room by room, and the mean over the rooms that all methods have."""
    rows = []
    for room in rooms:
        for method in methods:
            path = _cell_file(out, room, method)
            if path.exists():
                rows.append({"room": room, "method": method} | json.loads(path.read_text()))
    complete = [room for room in rooms if sum(row["room"] == room for row in rows) == len(methods)]
    for method in methods if complete else ():
        own = [row for row in rows if row["room"] in complete and row["method"] == method]
        names = (*COLUMNS, "objects")
        values = {name: [row[name] for row in own if row.get(name) is not None] for name in names}
        means = {name: round(mean(of_name), 4) if of_name else None for name, of_name in values.items()}
        rows.append({"room": f"mean of {len(complete)}", "method": method} | means)
    return rows


def markdown(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """A table of rooms and methods for each figure, with the means of those rooms that have all methods last."""
    cells = {(row["room"], row["method"]): row for row in rows}
    rooms = list(dict.fromkeys(row["room"] for row in rows))
    blocks = []
    for name in COLUMNS:
        lines = [f"| {name} | {' | '.join(methods)} |", "|" + "---|" * (len(methods) + 1)]
        for room in rooms:
            texts = [_text(name, cells.get((room, method))) for method in methods]
            lines.append(f"| {room} | {' | '.join(texts)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _text(name: str, row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if name == "found":
        return f"{row['found']:.4g}/{row['objects']:.4g}"
    return f"{row[name]:.3g}" if name == "false" else cell(name, row.get(name))


@torch_on_one_thread()
def main(
    rooms: Annotated[
        list[str] | None, typer.Argument(help="Scene folders, or synth:OBJECTS:NOISE[:SEED].")
    ] = None,
    chosen: Annotated[
        str, typer.Option("--methods", help="A set, or names with commas between.")
    ] = "methods",
    out: Annotated[Path, typer.Option(help="Where rooms, splats and cells go.")] = Path("runs/lifting"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows here.")] = None,
    table_only: Annotated[bool, typer.Option(help="Measure nothing; print what is there.")] = False,
) -> None:
    reporter = TerminalReporter(Console(stderr=True))
    show_warnings(reporter)
    rooms, methods = rooms or ROOMS, SETS.get(chosen, chosen.split(","))
    for room in () if table_only else rooms:
        measure_room(room, methods, load_config(None), out, reporter)
    names = [Path(room.replace(":", "_")).name for room in rooms]
    rows = table(names, methods, out)
    print(markdown(rows, methods))
    if json_file:
        write_text_atomic(json_file, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
