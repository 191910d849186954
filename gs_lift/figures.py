"""Figures of a report, as SVG: curves of a run, its calibration, where its time went."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gs_lift.metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""


def curves(panels: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """One panel beside the other; each by its title, with curves by name; those of positive values on a log scale."""
    figure, axes = _figure(4.2 * max(len(panels), 1), 2.7, max(len(panels), 1))
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for name, (steps, values) in lines.items():
            axis.plot(steps, values, label=name, linewidth=1.2)
        if "loss" in title and all(min(values) > 0 for _, values in lines.values()):
            axis.set_yscale("log")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        if len(lines) > 1:
            axis.legend(fontsize=7, frameon=False)
    return _svg(figure)


def reliability(found: Reliability, what: str) -> bytes:
    """How often what has a score is right: on the diagonal if the scores are honest."""
    figure, (axis, counts) = _figure(3.6, 3.9, 1, rows=2, heights=(4, 1))
    filled, bins = found.counts > 0, len(found.counts)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axis.plot(found.said[filled], found.right[filled], marker="o", markersize=4, linewidth=1.2)
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.set_ylabel("share that is right", fontsize=8)
    axis.set_title(f"{what}: calibration error {found.error:.3f}", fontsize=9)
    counts.bar((np.arange(bins) + 0.5) / bins, found.counts, width=0.9 / bins, color="0.6")
    counts.set(xlim=(0, 1), yticks=[])
    counts.set_xlabel("score, and how many have it", fontsize=8)
    return _svg(figure)


def bars(values: Mapping[str, float], unit: str) -> bytes:
    """One bar for each, the first on top."""
    figure, (axis,) = _figure(4.6, 0.5 + 0.32 * max(len(values), 1), 1)
    names = list(values)
    axis.barh(names[::-1], [values[name] for name in names[::-1]], color="#33848f", height=0.7)
    for place, name in enumerate(names[::-1]):
        axis.text(values[name], place, f" {values[name]:,.1f}", va="center", fontsize=8)
    axis.set_xlabel(unit, fontsize=8)
    axis.margins(x=0.15)
    return _svg(figure)


def _figure(
    width: float, height: float, columns: int, *, rows: int = 1, heights: Sequence[float] | None = None
) -> tuple["Figure", list]:
    """In inches; not pyplot's, which keeps figures and asks for a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flatten().tolist()
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: "Figure") -> bytes:
    """The same bytes each time."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gs_lift"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
