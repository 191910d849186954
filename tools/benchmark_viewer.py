"""What the viewer asks of this machine for a splat of many Gaussians: seconds of each thing that a user waits for.

    python tools/benchmark_viewer.py runs/room --gaussians 300000

The run's Gaussians are taken several times over, side by side. The browser's own drawing is not measured here.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from gs_lift.editing import Editor
from gs_lift.exports import Labelled
from gs_lift.gaussians import Gaussians
from gs_lift.run import open_run
from gs_lift.scene_page import write_scene_page
from gs_lift.viewer.painting import MODES, Shown, covariances_of, paint
from gs_lift.viewer.picking import pick


def main(
    run: Annotated[Path, typer.Argument(help="A segmented run.")],
    gaussians: Annotated[int, typer.Option(help="How many to have.")] = 300_000,
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 9,
) -> None:
    editor = Editor(open_run(run))
    once, camera = Shown.of_editor(editor), editor.scene.train[0].camera
    copies = max(1, round(gaussians / len(once)))
    shown = repeated(once, copies)
    ray = camera.viewmat[2, :3]
    tasks: dict[str, Callable[[], object]] = {
        **{f"paint by {mode}": lambda mode=mode: paint(mode, shown) for mode in MODES},
        "paint, one object selected": lambda: paint("instance", shown, selected=[0]),
        "pack for the browser": lambda: packed(shown),
        "click": lambda: pick(shown.gaussians, shown.labels, camera.position, ray),
        "another cut (of the run itself)": lambda: recut(editor),
        "an edit (of the run itself)": lambda: edited(editor),
    }
    print(f"{len(shown)} Gaussians; the run itself has {len(once)}, {len(once.objects)} objects")
    print("| task | median, s |\n|---|---|")
    for name, task in tasks.items():
        print(f"| {name} | {seconds(task, rounds):.3f} |", flush=True)
    labelled = Labelled(
        shown.gaussians, torch.from_numpy(shown.labels + 1), torch.from_numpy(shown.scores).float(), {}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.html"
        spent = seconds(lambda: write_scene_page(path, labelled, title="room"), 1)
        print(f"| scene.html, {path.stat().st_size / 1e6:.1f} MB | {spent:.3f} |")


def repeated(shown: Shown, copies: int) -> Shown:
    """The same several times, side by side."""
    some = shown.gaussians
    shift = 1.1 * (some.means.amax(dim=0) - some.means.amin(dim=0))[0]
    moved = []
    for number in range(copies):
        means = some.means.clone()
        means[:, 0] += number * shift
        moved.append(replace(some, means=means).parameters())
    joined = {name: torch.cat([each[name] for each in moved]) for name in moved[0]}
    return replace(
        shown,
        gaussians=Gaussians.from_parameters(joined),
        **{name: np.tile(getattr(shown, name), copies) for name in ("labels", "scores", "classes")},
    )


def packed(shown: Shown) -> object:
    """As viser packs it: 32 bytes a Gaussian."""
    covariances = covariances_of(shown.gaussians)
    buffer = np.zeros((len(shown), 8), np.uint32)
    buffer[:, :3] = shown.gaussians.means.numpy().view(np.uint32)
    upper = covariances.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
    buffer[:, 4:7] = np.ascontiguousarray(upper, np.float16).view(np.uint32)
    return buffer.tobytes()


def recut(editor: Editor) -> None:
    granularity = 0.45 if editor.recipe.changes.get("granularity") == 0.55 else 0.55
    editor.cut({"granularity": granularity})


def edited(editor: Editor) -> None:
    first, second = (editor.instances.present[:2] + 1).tolist()
    editor.do(editor.merging([first, second]))
    editor.undo()


def seconds(task: Callable[[], object], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        spent.append(time.perf_counter() - start)
    return median(spent)


if __name__ == "__main__":
    typer.run(main)
