"""Real photos without truth: the whole line on each, and how far its objects agree with segments that it never saw.

    python tools/benchmark_captures.py SCENE ... [--out runs/captures] [--set section.field=value]

Prints test PSNR and SSIM, seconds, objects, and over the held-out frames two agreements: of each 2D segment with the
rendered instance that fits it best (mean IoU), and of each rendered instance with its best segment. Segmenters cut
objects to parts that are as good, and miss others, so neither reaches 1. A contact sheet of each scene goes to --out.
"""

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import numpy as np
import typer
from rich.console import Console

from gs_lift.config import load_config
from gs_lift.evaluation import panoptic
from gs_lift.pipeline import (
    evaluate_run,
    fit_run,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_scene,
    segment_run,
    write_contact_sheet,
)
from gs_lift.protocols import RELEASED
from gs_lift.run import Run
from gs_lift.terminal import TerminalReporter, show_warnings

LEAST = 0.001
"""Smallest share of a frame's pixels that a segment or a rendered instance is asked for."""


def agreements(run: Run) -> tuple[float, float]:
    """Mean best IoU of held-out segments with rendered instances, and of those with segments."""
    scene, gaussians = read_scene(run), read_gaussians(run)
    embeddings, instances = read_embeddings(run), read_instances(run)
    of_segments: list[float] = []
    of_instances: list[float] = []
    for view in scene.test:
        if view.segments is None:
            continue
        shown = (
            panoptic(view.camera, gaussians, embeddings, instances, scene.classes).instance.numpy().ravel()
        )
        given = view.segments().instance.numpy().ravel()
        if not (given >= 0).any():
            continue  # a frame whose segments were kept back
        segment, rows = np.unique(given, return_inverse=True)
        instance, columns = np.unique(shown, return_inverse=True)
        both = np.zeros((len(segment), len(instance)))
        np.add.at(both, (rows, columns), 1)
        iou = both / (both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both)
        iou = iou[segment >= 0][:, instance >= 0]
        large_rows = both.sum(axis=1)[segment >= 0] >= LEAST * len(given)
        large_columns = both.sum(axis=0)[instance >= 0] >= LEAST * len(given)
        of_segments += iou[large_rows].max(axis=1, initial=0).tolist()
        of_instances += iou[:, large_columns].max(axis=0, initial=0).tolist()
    return tuple(float(np.mean(values)) if values else float("nan") for values in (of_segments, of_instances))


def main(
    scenes: Annotated[list[Path], typer.Argument(help="Scene folders.")],
    out: Annotated[Path, typer.Option(help="Where runs and sheets go.")] = Path("runs/captures"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.field=value.")] = None,
) -> None:
    reporter = TerminalReporter(Console(stderr=True))
    show_warnings(reporter)
    lines = [
        "| scene | photos | pixels | test PSNR | SSIM | objects | segments' best IoU | instances' | seconds |"
    ]
    lines.append("|---" * 9 + "|")
    for path in scenes:
        run = fit_run(path, load_config(None, overrides), folder=out / path.name, reporter=reporter)
        segment_run(run, reporter=reporter)
        scores = evaluate_run(run, reporter=reporter)[RELEASED]
        write_contact_sheet(run, out / f"{path.name}.png")
        scene = read_scene(run)
        camera = scene.train[0].camera
        first, second = agreements(run)
        lines.append(
            f"| {path.name} | {len(scene.train)} + {len(scene.test)} | {camera.width}x{camera.height} "
            f"| {scores.psnr:.2f} | {scores.ssim:.3f} | {len(read_instances(run))} | {first:.3f} | {second:.3f} "
            f"| {sum(run.seconds.values()):.0f} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
