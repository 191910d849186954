"""The whole line over several scenes, as a Markdown table: how well, and how long.

    python tools/benchmark_line.py ROOMS... [--out runs/line] [--set section.field=value]... [--json FILE]

ROOM is a scene folder, or `synth:OBJECTS:NOISE[:SEED]` for a room that is made first, `furnished:...` for one with
furniture and 22 classes in the Panoptic Lifting layout. Each scene is fitted, lifted,
segmented and scored in a run folder of its own under --out; what is done is skipped, so the command can be stopped and
started again. Beside the scene's scores stands the quality of the 2D segments that went in, per frame and against the
truth: what lifting started from.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import typer
from rich.console import Console

from gs_lift.config import Config, load_config
from gs_lift.errors import ConfigError, GsLiftError
from gs_lift.evaluation import segments_quality
from gs_lift.files import write_text_atomic
from gs_lift.pipeline import evaluate_run, fit_run, read_scene, write_contact_sheet
from gs_lift.synthetic import SynthConfig, synthesize
from gs_lift.terminal import TerminalReporter, show_warnings

COLUMNS = (
    *("scene", "2D PQ", "PQ scene", "SQ", "RQ", "PQ things", "PQ stuff", "mIoU"),
    *("found", "PSNR", "SSIM", "Gaussians", "points s", "fit s", "lift s", "segment s", "eval s"),
)


LAYOUT_OF = {"synth": "messy_rooms", "furnished": "panoptic_lifting"}


def room_folder(room: str, out: Path, reporter: TerminalReporter) -> Path:
    """The scene folder that ROOM names; a `synth:` or `furnished:` room is made first, or completed."""
    kind, *words = room.split(":")
    if kind not in LAYOUT_OF:
        return Path(room)
    if len(words) not in (2, 3) or not words[0].isdigit() or (len(words) == 3 and not words[2].isdigit()):
        raise ConfigError(f"{room}: wanted {kind}:OBJECTS:NOISE or {kind}:OBJECTS:NOISE:SEED")
    seed = int(words[2]) if words[2:] else 0
    config = SynthConfig(objects=int(words[0]), noise=words[1], seed=seed, layout=LAYOUT_OF[kind])
    folder = out / "rooms" / f"{kind}_{config.objects}_{config.noise}_{config.seed}"
    with reporter.stage("synth", config.views) as on_step:
        synthesize(folder, config, on_step=on_step)
    return folder


def measure(room: str, config: Config, out: Path, reporter: TerminalReporter) -> dict[str, Any]:
    """One row of the table."""
    folder = room_folder(room, out, reporter)
    run = fit_run(folder, config, folder=out / folder.name, reporter=reporter)
    scores = evaluate_run(run, reporter=reporter)
    write_contact_sheet(run, run.folder / "contact_sheet.png")
    quality = segments_quality(read_scene(run))
    seconds = run.seconds
    return {
        "scene": folder.name,
        "2D PQ": quality.pq if quality else None,
        "PQ scene": scores.pq_scene,
        "SQ": scores.sq,
        "RQ": scores.rq,
        "PQ things": scores.pq_things,
        "PQ stuff": scores.pq_stuff,
        "mIoU": scores.miou,
        "found": f"{scores.objects_found}/{scores.objects_true}" if scores.objects_true is not None else None,
        "PSNR": scores.psnr,
        "SSIM": scores.ssim,
        "Gaussians": scores.gaussians,
        **{f"{stage} s": seconds.get(stage) for stage in ("points", "fit", "lift", "segment", "eval")},
    }


def cell(name: str, value: Any) -> str:
    """Shares as .830, decibels with two digits, seconds and counts whole."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name == "PSNR":
        return f"{value:.2f}"
    if name.endswith(" s") or name == "Gaussians":
        return f"{value:.0f}"
    return f"{value:.3f}".removeprefix("0")


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell(name, row[name]) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def main(
    rooms: Annotated[list[str], typer.Argument(help="Scene folders, or synth:OBJECTS:NOISE[:SEED].")],
    out: Annotated[Path, typer.Option(help="Where rooms and runs go.")] = Path("runs/line"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.field=value")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows here.")] = None,
) -> None:
    reporter = TerminalReporter(Console(stderr=True))
    show_warnings(reporter)
    rows = []
    for room in rooms:
        try:
            rows.append(measure(room, load_config(None, overrides), out, reporter))
        except GsLiftError as error:
            print(f"{room}: {error}", file=sys.stderr)
            rows.append(dict.fromkeys(COLUMNS) | {"scene": f"{room} (failed)"})
    print(markdown(rows))
    if json_file:
        write_text_atomic(json_file, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
