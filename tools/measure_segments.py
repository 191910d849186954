"""Quality of the 2D segments of scenes, per training frame against the truth, as a Markdown table.

python tools/measure_segments.py ROOM...
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gs_lift.datasets import load_scene
from gs_lift.errors import GsLiftError, SceneError
from gs_lift.evaluation import segments_quality

FIGURES = ("recall", "precision", "sq", "pq", "small_recall", "spurious", "segments")


def main(rooms: Annotated[list[Path], typer.Argument(help="Scene folders.")]) -> None:
    print(f"| room | {' | '.join(FIGURES)} |")
    print("|---" * (len(FIGURES) + 1) + "|")
    try:
        for room in rooms:
            quality = segments_quality(load_scene(room))
            if quality is None:
                raise SceneError(f"{room}: has no segments with truth to measure")
            cells = (f"{getattr(quality, name):.3f}" for name in FIGURES)
            print(f"| {room.name} | {' | '.join(cells)} |")
    except GsLiftError as error:
        print(f"measure_segments: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
