"""report.html: one file that shows a run: settings, curves, objects, test views, segments, calibration, time.

Every text in it may come from a stranger (names of scenes, views, classes, objects): all are escaped, and the page may
load nothing and run nothing.
"""

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jaxtyping import Int
from PIL import Image
from torch import Tensor

from gs_lift import __version__
from gs_lift.clustering import detections
from gs_lift.config import Config, differences, dump_config
from gs_lift.edits import Edits
from gs_lift.evaluation import Areas, Scores
from gs_lift.exports import Labelled
from gs_lift.figures import Curve, bars, curves, reliability
from gs_lift.files import write_text_atomic
from gs_lift.held_out import Judged, Looker, judge
from gs_lift.metrics import Reliability
from gs_lift.palette import palette
from gs_lift.pipeline import (
    Reporter,
    SilentReporter,
    evaluate_run,
    read_embeddings,
    read_gaussians,
    read_run_edits,
    read_scene,
    read_segmentation,
    scored_run,
    segment_run,
)
from gs_lift.portraits import best_views, portraits
from gs_lift.protocols import RELEASED
from gs_lift.report import Strip, strip_pictures
from gs_lift.run import Run
from gs_lift.scene import Scene
from gs_lift.segment_doctor import diagnose_run, heat_map, in_words, looks, table_rows, worst_first
from gs_lift.segmentation import Instances

MOST_VIEWS = 8
"""Test views that are shown, and frames' heat maps."""

MOST_OBJECTS = 300
"""Objects that have a picture; the others are in the table."""

PICTURE = 320
PORTRAIT = 180
"""Longest sides in pixels."""


def write_report(run: Run, out: Path, *, reporter: Reporter | None = None) -> Path:
    """Write the page of a run at `out`, segmenting and scoring it first if need be."""
    reporter = reporter or SilentReporter()
    segment_run(run, reporter=reporter)
    instances, recipe = read_segmentation(run)
    scene = read_scene(run)
    scores = (scored_run(run, (RELEASED,)) or evaluate_run(run, reporter=reporter)) if scene.test else None
    released = scores[RELEASED] if scores else None
    gaussians = read_gaussians(run)
    recipe = replace(recipe, edits=read_run_edits(run, gaussians))
    looker = Looker(scene, gaussians, read_embeddings(run), instances, run.config.backend)
    total = len(scene.test) + sum(view.truth is not None for view in scene.test)
    with reporter.stage("views", total) as on_step:
        judged, reliable = judge(looker, on_step=on_step)
    sections = {
        "Summary": _summary(instances, recipe.edits, released),
        "Settings": _settings(run),
        "Time and memory": _stages(run),
        "Curves": _curves(run),
        "Test views": _test_views(looker, judged),
        "Objects": _objects(looker, recipe.edits, reporter),
        "2D segments": _segments(run, scene, reporter),
        "Calibration": _calibration(reliable),
        "Classes": _classes(released),
    }
    write_text_atomic(out, _page(run.name, {name: text for name, text in sections.items() if text}))
    return out


def _page(title: str, sections: Mapping[str, str]) -> str:
    css = (files("gs_lift") / "pages" / "report.css").read_text(encoding="utf-8")
    names = {name: name.lower().replace(" ", "-") for name in sections}
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor in names.items())
    body = "".join(
        f'<section id="{names[name]}"><h2>{escape(name)}</h2>{text}</section>'
        for name, text in sections.items()
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - gs_lift</title><style>{css}</style></head><body>"
        f"<h1>{escape(title)}</h1><small>gs_lift {__version__}</small><nav>{links}</nav>{body}</body></html>\n"
    )


# ---- sections


def _summary(instances: Instances, edits: Edits, scores: Scores | None) -> str:
    tiles = {"objects": f"{len(instances.present)}", "Gaussians": f"{len(instances.labels):,}"}
    if scores is not None:
        shares = {"PQ scene": scores.pq_scene, "PQ things": scores.pq_things, "mIoU": scores.miou}
        tiles |= {name: f"{value:.3f}" for name, value in shares.items() if value is not None}
        tiles |= {"PSNR, dB": f"{scores.psnr:.2f}"} if scores.psnr is not None else {}
        if scores.objects_true:
            tiles["true objects found"] = f"{scores.objects_found} / {scores.objects_true}"
    text = '<div class="tiles">' + "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in tiles.items()
    )
    text += "</div>"
    if edits:
        said = ", ".join(edit.said for edit in edits.done)
        text += f"<p>After {len(edits.done)} edits: {escape(said)}.</p>"
    if scores is not None and scores.pq_scene is None:
        text += "<p>The scene has no truth: nothing here says whether an object is a true one.</p>"
    return text


def _settings(run: Run) -> str:
    config, plain = run.config, Config()
    changed = differences(plain, config)
    rows = [[name, _nameless(new), _nameless(old)] for name, (old, new) in changed.items()]
    # Names only: the page is for others, too, who need not know where things lie here.
    scene = f"<p>Scene {escape(run.scene.name)}, run {escape(run.folder.resolve().name)}.</p>"
    table = _table(["setting", "here", "by default"], rows) if rows else "<p>All by default.</p>"
    every = escape(_nameless(dump_config(config)))
    return f"{scene}{table}<details><summary>all settings</summary><pre>{every}</pre></details>"


def _nameless(value: object) -> str:
    """A setting without the folders that a path in it leads through."""
    return re.sub(r"/(?:[^/\s]+/)+", ".../", str(value))


def _stages(run: Run) -> str:
    memory = {name: float(value) for name, value in run.record.get("memory_gb", {}).items()}
    text = '<div class="figures">' + _figure(
        bars(run.seconds, "seconds of wall time"), "seconds of each stage"
    )
    if memory:
        text += _figure(
            bars(memory, "GB, the most until the stage was over"), "largest memory of the process"
        )
    text += "</div>"
    if missing := [name for name in run.seconds if name not in memory]:
        text += f"<p>Memory was not recorded of: {escape(', '.join(missing))}.</p>"
    return text


def _curves(run: Run) -> str:
    panels = _read_curves(run.folder / "metrics.jsonl")
    return _figure(curves(panels), "curves of the fit and of lifting") if panels else ""


def _read_curves(path: Path) -> dict[str, dict[str, Curve]]:
    """The figures of metrics.jsonl as panels; the last start of a stage counts where steps come again."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            content = json.loads(line)
            stage, step = str(content["stage"]), int(content["step"])
        except (ValueError, KeyError, TypeError):  # torn by a kill
            continue
        for name, value in content.items():
            if (
                name not in ("stage", "step", "time")
                and isinstance(value, int | float)
                and math.isfinite(value)
            ):
                values.setdefault((stage, name), {})[step] = float(value)
    wanted = {
        "fit: loss": [("fit", "loss")],
        "fit: PSNR on test views, dB": [("fit", "psnr")],
        "fit: Gaussians": [("fit", "gaussians")],
        "lift: losses": [key for key in values if key[0] == "lift"],
    }
    panels: dict[str, dict[str, Curve]] = {}
    for title, keys in wanted.items():
        found = {name: sorted(values[stage, name].items()) for stage, name in keys if (stage, name) in values}
        lines = {name: tuple(zip(*points, strict=True)) for name, points in found.items() if len(points) > 1}
        if lines:
            panels[title] = {name: (line[0], line[1]) for name, line in lines.items()}
    return panels


def _test_views(looker: Looker, judged: Sequence[Judged]) -> str:
    if not judged:
        return "<p>The scene has no test views.</p>"
    shown = judged[:MOST_VIEWS]
    strips = [
        Strip(
            one.view.name,
            one.view.image(),
            truth=one.view.truth().instance if one.view.truth else None,
            segments=_some(one.view.segments().instance) if one.view.segments else None,
            instances=looker.segments(one.view).instance,
        )
        for one in shown
    ]
    text = f"<p>The worst {len(shown)} of {len(judged)}."
    if any(strip.truth is not None for strip in strips):
        text += " A true object has the colour of our instance that it matches with an IoU over 1/2."
    text += "</p>"
    for one, pictures in zip(shown, strip_pictures(strips, PICTURE), strict=True):
        wrong = f", {one.wrong:.1%} of the pixels of objects are wrong" if one.wrong is not None else ""
        text += f"<p>{escape(one.view.name)}: PSNR {one.psnr:.2f} dB{wrong}</p>" + _strip(pictures)
    return text


def _some(labels: Int[Tensor, "H W"]) -> Int[Tensor, "H W"] | None:
    """None where nothing was segmented: some layouts have such a map for every test view."""
    return labels if bool((labels >= 0).any()) else None


def _strip(pictures: Mapping[str, Image.Image]) -> str:
    cells = "".join(
        f"<figure>{_image(picture, name, photo=name == 'image')}<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in pictures.items()
    )
    return f'<div class="wide"><div class="strip">{cells}</div></div>'


def _objects(looker: Looker, edits: Edits, reporter: Reporter) -> str:
    scene, gaussians, instances = looker.scene, looker.gaussians, looker.instances
    listed = Labelled.of_cut(gaussians, instances, scene.classes, edits.names(instances.labels)).objects
    if not listed:
        return "<p>No object was found. Are there 2D segments of things? See `gslift doctor`.</p>"
    evidence = looker.embeddings.evidence
    seen, detected = detections(instances, evidence) if evidence else (None, None)
    order = sorted(listed, key=lambda one: (one.score, one.count))
    with reporter.stage("areas", len(scene.train)) as on_view:
        best = best_views(Areas(scene.train, gaussians, backend=looker.backend).of(instances, on_view))
    best[[one.id - 1 for one in order[MOST_OBJECTS:]]] = -1
    pictures: dict[int, str] = {}
    with reporter.stage("objects", int((best >= 0).sum())) as on_step:
        for instance, pixels in portraits(scene.train, gaussians, instances, best, backend=looker.backend):
            pictures[instance] = _image(
                _limited(Image.fromarray(pixels), PORTRAIT), f"object {instance + 1}", photo=True
            )
            on_step(len(pictures), {})
    colors = palette(len(instances))
    cards = []
    for one in order:
        instance = one.id - 1
        figures = f"score {one.score:.2f}, {one.count:,} Gaussians"
        if seen is not None and detected is not None:
            figures += f", in a segment in {detected[instance]} of {seen[instance]} views"
        swatch = "#" + bytes(colors[instance].tolist()).hex()
        words = ", ".join(word for word in (one.name, one.class_name) if word)
        cards.append(
            f'<div class="object">{pictures.get(instance, "")}<i style="background:{swatch}"></i><b>{one.id}</b> '
            f"{escape(words)}<br><small>{escape(figures)}</small></div>"
        )
    more = f" The first {MOST_OBJECTS} have pictures." if len(order) > MOST_OBJECTS else ""
    return (
        f"<p>The least certain first, each in the view that shows most of it.{more}</p>"
        f'<div class="objects">{"".join(cards)}</div>'
    )


def _segments(run: Run, scene: Scene, reporter: Reporter) -> str:
    if not any(view.segments for view in scene.train):
        return ""
    found = diagnose_run(run, reporter=reporter)
    worst = worst_first(found.frames)
    text = "".join(f"<p>{escape(line)}</p>" for line in in_words(found))
    heads = ["frame", "differs", "merged", "split", "missed", "spurious", "look at"]
    rows = [
        [name, *(f"{share:.1%}" for share in shares), words] for name, shares, words in table_rows(worst[:20])
    ]
    text += _table(heads, rows, numbers=range(1, 6)) if rows else ""
    names = {frame.name for frame in worst[:MOST_VIEWS]}
    maps = {
        look.view.name: _image(Image.fromarray(heat_map(look)), f"segments of {look.view.name}", photo=True)
        for look in looks(run, names, unity=found.unity, reporter=reporter, stage="maps")
    }
    pictures = "".join(
        f"<figure>{maps[name]}</figure>" for name in (frame.name for frame in worst) if name in maps
    )
    if len(worst) > len(maps):
        text += f"<p>The worst {len(maps)} of {len(worst)} as pictures; gslift doctor RUN --out maps writes all.</p>"
    return text + f'<div class="maps">{pictures}</div>'


def _calibration(found: Reliability) -> str:
    if not found.counts.any():
        return ""
    words = (
        "<p>Of the pixels of the test views that show an object: how often it is the right one, by the blended "
        "instance_score of what they show. On the diagonal a score of .8 is right in 80 % of all cases. Mean distance "
        f"{found.error:.3f}.</p>"
    )
    return words + _figure(reliability(found, "pixels of objects"), "reliability diagram")


def _classes(scores: Scores | None) -> str:
    if scores is None or scores.pq_scene is None:
        return ""
    rows = []
    for one in scores.per_class:
        content: dict[str, Any] = vars(one)
        rows.append([_cell(value) for value in content.values()])
    heads = [name.replace("_", " ") for name in vars(scores.per_class[0])] if scores.per_class else []
    return _table(heads, rows, numbers=range(1, len(heads)))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# ---- pieces


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if place in right else ''}>{escape(text)}</{tag}>"
            for place, text in enumerate(texts)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'


def _figure(svg: bytes, words: str) -> str:
    data = base64.b64encode(svg).decode()
    return f'<img class="figure" alt="{escape(words)}" src="data:image/svg+xml;base64,{data}">'


def _image(picture: Image.Image, words: str, *, photo: bool = False) -> str:
    file = io.BytesIO()
    if photo:
        picture.convert("RGB").save(file, format="JPEG", quality=85)
    else:
        picture.save(file, format="PNG", optimize=True)
    kind, data = ("jpeg" if photo else "png"), base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(words)}" src="data:image/{kind};base64,{data}">'


def _limited(picture: Image.Image, longest: int) -> Image.Image:
    """As large as that, small ones enlarged."""
    factor = longest / max(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
