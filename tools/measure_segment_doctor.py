"""How well `gslift doctor RUN` finds the frames and the errors that are really there, where the views have truth.

python tools/measure_segment_doctor.py RUN...

The real errors of a frame are `disagreement` of its segments with the truth in place of what was lifted. Columns:
differing  real / found: mean over the frames of the share that disagrees
rank       Spearman's correlation of the found share with the real one, over frames
rank PQ    ... with 1 - PQ of the frame's segments against the truth (metrics.frame_quality)
rank conf. the baseline: of 1 - the segmenter's mean confidence on its segments with the real share
quarter    of the really worst quarter of frames, how many are in the worst quarter found
then for each kind: precision / recall, in pixels of all frames; `any` takes all kinds as one.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.stats import spearmanr

from gs_lift.disagreement import AGREE, KINDS, disagreement
from gs_lift.errors import GsLiftError, RunError
from gs_lift.metrics import frame_quality
from gs_lift.pipeline import read_scene
from gs_lift.run import open_run
from gs_lift.segment_doctor import diagnose_run, looks


def row(folder: Path) -> list[str]:
    run = open_run(folder)
    classes = read_scene(run).classes
    found, real, quality, doubt = [], [], [], []
    pixels = {name: np.zeros(3) for name in [*KINDS, "any"]}  # found, real, both
    for look in looks(run, unity=diagnose_run(run).unity):
        if look.view.truth is None:
            continue
        truth = look.view.truth()
        true = disagreement(look.segments, truth, classes)
        found.append(look.frame.differing)
        real.append(sum(true.shares.values()))
        one = frame_quality([(look.segments, truth)], things=classes.things)
        quality.append(one.pq)
        inside = look.segments.instance >= 0
        doubt.append(1 - float(look.segments.confidence[inside].mean()) if bool(inside.any()) else 0.0)
        for name, counts in pixels.items():
            kinds = (look.found.kind, true.kind)
            here, there = ((kind > AGREE) if name == "any" else (kind == KINDS[name]) for kind in kinds)
            weight = look.found.weight * here
            counts += np.array([weight.sum(), there.sum(), weight[there].sum()])
    if not found:
        raise RunError(f"{folder}: no view with segments has truth")
    quarter = max(1, round(len(found) / 4))
    worst = [set(np.argsort(-np.array(values), kind="stable")[:quarter].tolist()) for values in (found, real)]
    judged = ~np.isnan(quality)
    cells = [
        f"{len(found)}",
        f"{np.mean(real):.3f} / {np.mean(found):.3f}",
        f"{spearmanr(found, real).statistic:.2f}",
        f"{spearmanr(np.array(found)[judged], 1 - np.array(quality)[judged]).statistic:.2f}",
        f"{spearmanr(doubt, real).statistic:.2f}",
        f"{len(worst[0] & worst[1])}/{quarter}",
    ]
    return cells + [f"{both / max(f, 1):.2f} / {both / max(r, 1):.2f}" for f, r, both in pixels.values()]


def main(runs: Annotated[list[Path], typer.Argument(help="Run folders.")]) -> None:
    heads = ["run", "frames", "differing", "rank", "rank PQ", "rank conf.", "quarter", *KINDS, "any"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    try:
        for folder in runs:
            print(f"| {folder.name} | {' | '.join(row(folder))} |")
    except GsLiftError as error:
        print(f"measure_segment_doctor: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
