"""Scores as a table for people and as JSON for programs; pictures of what went in and what came out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gs_lift.evaluation import Scores
from gs_lift.files import write_atomic
from gs_lift.palette import colorize
from gs_lift.protocols import RELEASED, PanopticScores

Row = tuple[str, Mapping[str, Scores], Mapping[str, float]]
"""Name of a scene, its scores by each protocol, the seconds of its stages. All rows have the same protocols."""

FIGURES = (
    *("pq_scene", "sq", "rq", "pq_things", "pq_stuff", "miou"),
    *("psnr", "ssim", "objects_true", "objects_found", "halo", "gaussians"),
)
"""The fields of Scores that are one number; None where there is no truth."""

Figures = dict[str, float | None]

_HEADINGS = {
    **{
        "pq_scene": "PQ\nscene",
        "sq": "\nSQ",
        "rq": "\nRQ",
        "pq_things": "PQ\nthings",
        "pq_stuff": "PQ\nstuff",
    },
    **{"miou": "\nmIoU", "psnr": "\nPSNR", "ssim": "\nSSIM", "objects_found": "objects\nfound"},
    "gaussians": "\nsplats",
}
_BESIDE = ("pq_scene", "miou")
"""What a table has of any protocol but the first."""


def scores_table(rows: Sequence[Row], published: Mapping[str, float] | None = None) -> Table:
    """One line per scene, and their mean where there are several; a dash where there is no truth. 80 columns wide.

    Of any protocol but the first PQ^scene and mIoU stand beside its figures. published: method -> PQ^scene by the
    first, the mean over a data set's scenes.
    """
    first, *others = rows[0][1] if rows else (RELEASED,)
    # Three columns make room for the others.
    own = [name for name in _HEADINGS if not (others and name in ("pq_stuff", "ssim", "gaussians"))]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column("\nscene", overflow="fold")
    for heading in (
        *(_HEADINGS[name] for name in own),
        *(f"{protocol}\n{'PQ' if name == 'pq_scene' else 'mIoU'}" for protocol in others for name in _BESIDE),
        "\nsec.",
    ):
        table.add_column(heading, justify="right", no_wrap=True)

    def add(name: str, figures: Mapping[str, Figures], seconds: float) -> None:
        cells = [_text(each, figures[first]) for each in own]
        cells += [_text(each, figures[protocol]) for protocol in others for each in _BESIDE]
        table.add_row(Text(name), *cells, f"{seconds:.0f}")

    for name, scores, seconds in rows:
        add(name, {one: _figures(found) for one, found in scores.items()}, math.fsum(seconds.values()))
    if len(rows) > 1:
        table.add_section()
        total = math.fsum(sum(seconds.values()) for _, _, seconds in rows) / len(rows)
        add("mean" if published is None else f"mean of {len(rows)}", _means(rows), total)
    if published:
        table.add_section()
    for method, quality in (published or {}).items():
        table.add_row(Text(method), _text("pq_scene", {"pq_scene": quality}))
    return table


def scores_json(rows: Sequence[Row]) -> str:
    """{"scenes": [{"name", the figures, "seconds": {stage: s}}], "mean": {the figures}}; null where there is no truth.

    A mean is over the scenes that have the figure. Shares lie in 0..1, psnr in dB. The figures are by the first
    protocol; those by any other are an object under its name, beside them.
    """
    scenes = [
        {
            "name": name,
            **_first_and_others({protocol: _figures(found) for protocol, found in scores.items()}),
            "seconds": {stage: round(s, 2) for stage, s in seconds.items()},
        }
        for name, scores, seconds in rows
    ]
    content = {"scenes": scenes, "mean": _first_and_others(_means(rows))}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
"""By protocol and figure, low and high."""


def judged_table(scores: Mapping[str, PanopticScores], intervals: Intervals, frames: int) -> Table:
    """One line for each protocol, and below it the intervals of the figures that have one. 80 columns wide."""
    names = ("pq_scene", "sq", "rq", "pq_things", "pq_stuff", "miou", "objects_found")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(f"\n{frames} frames", no_wrap=True)
    for name in names:
        table.add_column(_HEADINGS[name], justify="right", no_wrap=True)
    for protocol, of_protocol in scores.items():
        table.add_row(protocol, *(_text(name, vars(of_protocol)) for name in names))
        ranges = {name: f"{low:.3f}-{high:.3f}" for name, (low, high) in intervals.get(protocol, {}).items()}
        if ranges:
            table.add_row("  95 %", *(ranges.get(name, "").replace("0.", ".") for name in names))
    return table


def judged_json(scores: Mapping[str, PanopticScores], intervals: Intervals, frames: int) -> str:
    """{"frames", protocol: {the figures, "intervals": {figure: [low, high]}, "per_class": [...]}}."""
    content: dict[str, Any] = {"frames": frames}
    for protocol, of_protocol in scores.items():
        content[protocol] = asdict(of_protocol) | {"intervals": dict(intervals.get(protocol, {}))}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def findings_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Lines of (how bad, what, found): what is wrong stands out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colors = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    for kind, what, found in rows:
        table.add_row(Text(kind, style=colors[kind]), Text(what), Text(found))
    return table


def stages_table(seconds: Mapping[str, float], results: Mapping[str, str]) -> Table:
    """One line for each stage that was done: its time and what it left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("stage", "seconds", "result"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for stage, result in results.items():
        spent = seconds.get(stage)
        table.add_row(Text(stage), "-" if spent is None else f"{spent:.1f}", Text(result))
    return table


def batch_table(rows: Sequence[tuple[str, float | None, int | None, float | None, str]]) -> Table:
    """One line for each scene of a batch: name, seconds, objects, PQ^scene, and why it failed; None = a dash."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("scene", overflow="fold")
    for heading in ("seconds", "objects", "PQ scene"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any(reason for *_, reason in rows):
        table.add_column("failed", overflow="fold")
    for name, seconds, objects, quality, reason in rows:
        cells = [
            "-" if seconds is None else f"{seconds:.0f}",
            "-" if objects is None else str(objects),
            _text("pq_scene", {"pq_scene": quality}),
        ]
        table.add_row(Text(name), *cells, *([Text(reason)] if reason else []))
    return table


def frames_table(rows: Sequence[tuple[str, Sequence[float], str]], *, most: int = 20) -> Table:
    """Frames as segment_doctor.table_rows has them: name, shares of differing pixels, words; the first `most`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("frame", overflow="fold")
    for heading in ("differ", "merged", "split", "missed", "spurious"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("objects to look at", overflow="fold")
    for name, shares, words in rows[:most]:
        table.add_row(Text(name), *(f"{share:.1%}" for share in shares), Text(words))
    if len(rows) > most:
        table.add_row(Text(f"and {len(rows) - most} more"))
    return table


def _first_and_others(figures: Mapping[str, Figures]) -> dict[str, Any]:
    first, *others = figures
    return {**figures[first], **{protocol: figures[protocol] for protocol in others}}


def _figures(scores: Scores) -> Figures:
    return {name: getattr(scores, name) for name in FIGURES}


def _means(rows: Sequence[Row]) -> dict[str, Figures]:
    """By each protocol."""
    means: dict[str, Figures] = {}
    for protocol in rows[0][1] if rows else (RELEASED,):
        means[protocol] = {}
        for name in FIGURES:
            found = [getattr(scores[protocol], name) for _, scores, _ in rows]
            values = [value for value in found if value is not None]
            means[protocol][name] = math.fsum(values) / len(values) if values else None
    return means


def _text(name: str, figures: Mapping[str, float | None]) -> str:
    """A figure as text: shares as .842, PSNR in dB, objects as found/true, Gaussians in thousands."""
    value = figures[name]
    if value is None:
        return "-"
    if name == "psnr":
        return f"{value:.2f}"
    if name == "gaussians":
        return f"{value / 1000:.0f}k"
    if name == "objects_found":
        return f"{value:.0f}/{figures['objects_true']:.0f}"
    return f"{value:.3f}".removeprefix("0")[:4]


@dataclass(frozen=True)
class Strip:
    """One view on a contact sheet: pictures side by side, None where there is none.

    image: colours in 0..1. Label maps: ids, -1 = none; those of `segments` mean something in their own image only.
    """

    name: str
    image: Float[Tensor, "H W 3"]
    truth: Int[Tensor, "H W"] | None = None
    segments: Int[Tensor, "H W"] | None = None
    instances: Int[Tensor, "H W"] | None = None


_COLUMNS = {
    "image": "image",
    "truth": "truth",
    "segments": "2D segments (input)",
    "instances": "our instances",
}
_GAP = 6
_SHADE = 0.25
"""How much of a label's colour gives way to the image's brightness."""


def contact_sheet(path: Path, strips: Sequence[Strip], *, width: int = 256) -> None:
    """A PNG with one row per view: image | truth | segments | our instances, those that any view has.

    Pictures are `width` pixels wide; labels are shaded by the image, grey where there is none, with a black line
    around each. Instances have the colours of labels.ply. A true object (over all views) or a segment (in its image)
    has the colour of the instance that it matches with an IoU over 1/2, else one that no instance has.
    """
    strips = _with_matching_colors(strips)
    columns = [name for name in _COLUMNS if any(getattr(strip, name) is not None for strip in strips)]
    font = ImageFont.load_default(size=15)
    caption = 24
    heights = [round(width * strip.image.shape[0] / strip.image.shape[1]) for strip in strips]
    rows = len(strips) + (len(columns) > 2 and "instances" in columns)  # the last one for the legend
    size = (_GAP + len(columns) * (width + _GAP), caption + sum(heights) + rows * (caption + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((_GAP + column * (width + _GAP), 3), _COLUMNS[name], fill="black", font=font)
    top = caption
    for strip, height in zip(strips, heights, strict=True):
        for column, name in enumerate(columns):
            picture = _picture(strip, name, width, height)
            if picture is not None:
                sheet.paste(picture, (_GAP + column * (width + _GAP), top))
        draw.text((_GAP, top + height + 2), _describe(strip), fill=(70, 70, 70), font=font)
        top += height + caption + _GAP
    if rows > len(strips):
        draw.text(
            (_GAP, top + 2), "same colour: IoU over 1/2 with our instance", fill=(70, 70, 70), font=font
        )
    write_atomic(path, lambda file: sheet.save(file, format="PNG"))


def strip_pictures(strips: Sequence[Strip], width: int) -> list[dict[str, Image.Image]]:
    """The pictures of a contact sheet by the names of its columns, those that each view has; colours as there."""
    result = []
    for strip in _with_matching_colors(strips):
        height = round(width * strip.image.shape[0] / strip.image.shape[1])
        pictures = {words: _picture(strip, name, width, height) for name, words in _COLUMNS.items()}
        result.append({words: picture for words, picture in pictures.items() if picture is not None})
    return result


def label_picture(labels: Int[Tensor, "H W"], image: Float[Tensor, "H W 3"] | None = None) -> np.ndarray:
    """[H W 3] uint8: the palette colour of each label, grey for none, shaded by the image where it is given."""
    ids = labels.cpu().numpy()
    colors = colorize(ids).astype(np.float64)
    if image is not None:
        brightness = image.detach().cpu().numpy().mean(axis=2, keepdims=True)
        colors = colors * (1 - _SHADE) + 255 * _SHADE * brightness
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    colors[border] = 0
    return colors.round().astype(np.uint8)


def _with_matching_colors(strips: Sequence[Strip]) -> list[Strip]:
    """The strips with truth and segments renamed to the instances that they match, as `contact_sheet` says."""
    if not strips:
        return []
    instances = [_labels(strip, "instances") for strip in strips]
    fresh = max(int(ids.max()) for ids in instances) + 1
    truth = _renamed(torch.cat([_labels(strip, "truth") for strip in strips]), torch.cat(instances), fresh)
    return [
        replace(
            strip,
            truth=None if strip.truth is None else ids.reshape(strip.truth.shape),
            segments=None if strip.segments is None else _renamed(strip.segments.cpu(), own, fresh),
        )
        for strip, own, ids in zip(
            strips, instances, truth.split([len(ids) for ids in instances]), strict=True
        )
    ]


def _labels(strip: Strip, name: str) -> Int[Tensor, "P"]:
    """One label map of a strip, flat; all -1 where there is none."""
    ids = getattr(strip, name)
    return torch.full(strip.image.shape[:2], -1).flatten() if ids is None else ids.cpu().long().flatten()


def _renamed(ids: Int[Tensor, "..."], instances: Int[Tensor, "P"], fresh: int) -> Int[Tensor, "..."]:
    """Ids that match an instance with an IoU over 1/2 take its number, the others numbers from `fresh` on; -1 stays."""
    names, rows = ids.unique(return_inverse=True)
    numbers, columns = instances.unique(return_inverse=True)
    size = len(names), len(numbers)
    overlap = torch.bincount(rows.flatten() * size[1] + columns, minlength=size[0] * size[1]).reshape(size)
    iou = overlap / (overlap.sum(dim=1, keepdim=True) + overlap.sum(dim=0) - overlap)
    iou[:, numbers < 0] = 0
    best, column = iou.max(dim=1)
    new = torch.where(best > 0.5, numbers[column], fresh + torch.arange(len(names)))
    new[names < 0] = -1
    return new[rows]


def depth_limits(depths: Float[Tensor, "H W"], alphas: Float[Tensor, "H W"]) -> tuple[float, float] | None:
    """The depths between which all but the nearest and the farthest hundredth lie; None where nothing is seen."""
    seen = depths[alphas > 0.5].float().cpu()
    if len(seen) == 0:
        return None
    # Not torch.quantile: it refuses more than 16 million numbers.
    near, far = np.quantile(seen.numpy(), [0.01, 0.99])
    return float(near), float(far)


def depth_picture(
    depths: Float[Tensor, "H W"], alphas: Float[Tensor, "H W"], limits: tuple[float, float] | None = None
) -> np.ndarray:
    """[H W 3] uint8: near is bright, black where nothing is. limits: near and far, by default `depth_limits`."""
    limits = limits or depth_limits(depths, alphas)
    if limits is None:
        return np.zeros((*depths.shape, 3), np.uint8)
    near, far = limits
    seen = alphas > 0.5
    brightness = (255 - 200 * ((depths - near) / max(far - near, 1e-9)).clamp(0, 1)) * seen
    return brightness.round().byte().cpu().numpy()[..., None].repeat(3, axis=2)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write [H W 3] uint8 as PNG."""
    write_atomic(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def _picture(strip: Strip, name: str, width: int, height: int) -> Image.Image | None:
    """One cell of the sheet, scaled; labels first, so that no colours mix."""
    content = getattr(strip, name)
    if content is None:
        return None
    pixels = (strip.image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    if name == "image":
        return picture
    ids = Image.fromarray(content.cpu().numpy().astype(np.int32)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    shading = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    return Image.fromarray(label_picture(torch.from_numpy(np.array(ids)), shading))


def _describe(strip: Strip) -> str:
    """The view's name and how much each picture holds."""
    counts = {"truth": strip.truth, "segments": strip.segments, "instances": strip.instances}
    parts = [f"{len(ids[ids >= 0].unique())} {name}" for name, ids in counts.items() if ids is not None]
    return "   ".join([f"view {strip.name}", *parts]).replace("truth", "true objects")
