"""Which frames' 2D segments disagree with what was lifted from all of them: figures, and a heat map of each frame."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gs_lift.disagreement import KINDS, SUBSTANTIAL, Concern, Disagreement, disagreement
from gs_lift.errors import ConfigError
from gs_lift.evaluation import panoptic
from gs_lift.files import write_text_atomic
from gs_lift.lifting.views import read_segments
from gs_lift.pipeline import (
    Reporter,
    SilentReporter,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_scene,
)
from gs_lift.report import write_picture
from gs_lift.run import Run
from gs_lift.scene import View
from gs_lift.segmentation import Segments

WORTH = 0.1
"""Share of a frame's pixels of things that disagrees, from which on the frame is worth segmenting anew."""

SMALL = 0.01
"""Share of a frame's pixels of things below which a concern is not worth a word."""

VISIBLE = 0.0005
"""Share of a frame's pixels from which on an object counts as seen: 33 of 256 x 256."""

DOUBTED = 1 / 3
"""Share of the frames that see an object from which on, if more split it, it may be several. Of four that were, in five
rooms, three were split in .38 to .54 of the frames, one in .25; of 70 that were one, four in .35 to .46."""


@dataclass(frozen=True)
class Frame:
    """The figures of one view, see Disagreement. area: all its pixels."""

    name: str
    area: int
    pixels: int
    shares: dict[str, float]
    concerns: tuple[Concern, ...]
    objects: dict[int, int]

    @property
    def differing(self) -> float:
        """The share that disagrees; the rest agrees, or is too uncertain to judge."""
        return sum(self.shares.values())


@dataclass(frozen=True)
class Diagnosis:
    """Of a run: the figures of each training view that has segments, in the scene's order, and which objects to doubt.

    seen: how many frames see an object (VISIBLE), by its id; split: how many of these split SUBSTANTIAL of it. Lifted
    objects that are several in truth are split wherever a frame is right. So a split counts with the share of the
    frames that see its object and hold it as one, `unity`; the other kinds are not touched.
    """

    frames: tuple[Frame, ...]
    seen: dict[int, int]
    split: dict[int, int]

    @property
    def unity(self) -> dict[int, float]:
        return {one: 1 - self.split.get(one, 0) / count for one, count in self.seen.items()}

    @property
    def doubted(self) -> list[int]:
        """The objects that are split in more than DOUBTED of the frames that see them, the most often first."""
        unity = self.unity
        return sorted((one for one in unity if 1 - unity[one] > DOUBTED), key=lambda one: (unity[one], one))


@dataclass(frozen=True)
class Look:
    """A view with its segments, what was lifted, and how they disagree."""

    view: View
    segments: Segments
    lifted: Segments
    found: Disagreement

    @property
    def frame(self) -> Frame:
        found = self.found
        return Frame(
            self.view.name, found.kind.size, found.pixels, found.shares, found.concerns, found.objects
        )


def looks(
    run: Run,
    names: Collection[str] | None = None,
    *,
    unity: Mapping[int, float] | None = None,
    reporter: Reporter | None = None,
    stage: str = "segments",
) -> Iterator[Look]:
    """Each training view that has segments, or those of `names`, beside what it shows of the run's last cut.

    A pixel of an object counts with its share of the blending weight times the object's score. unity: a Diagnosis's.
    Raises RunError where nothing was segmented yet.
    """
    reporter = reporter or SilentReporter()
    scene, gaussians, config = read_scene(run), read_gaussians(run), run.config
    embeddings, instances = read_embeddings(run), read_instances(run)
    scores = torch.cat([instances.object_scores.cpu(), torch.ones(1)])  # the last one is that of no object
    views = [one for one in scene.train if one.segments is not None and (names is None or one.name in names)]
    with reporter.stage(stage, len(views)) as on_step:
        for step, view in enumerate(views, start=1):
            segments = read_segments(view, len(scene.classes))
            with torch.no_grad():
                lifted = panoptic(
                    view.camera, gaussians, embeddings, instances, scene.classes, backend=config.backend
                )
            lifted = replace(lifted, confidence=lifted.confidence * scores[lifted.instance])
            yield Look(view, segments, lifted, disagreement(segments, lifted, scene.classes, unity=unity))
            on_step(step, {})


def diagnose_run(run: Run, *, reporter: Reporter | None = None) -> Diagnosis:
    """What is to be said of a run's segments. Raises as `looks` does."""
    return diagnosis([look.frame for look in looks(run, reporter=reporter)])


def diagnosis(frames: Sequence[Frame]) -> Diagnosis:
    """Of frames that were looked at without a unity: with it."""
    seen: Counter[int] = Counter()
    split: Counter[int] = Counter()
    for frame in frames:
        visible = {one for one, area in frame.objects.items() if area >= VISIBLE * frame.area}
        seen.update(visible)
        for one in frame.concerns:
            if one.kind == "split" and one.objects[0] in visible:
                split[one.objects[0]] += (
                    one.share * frame.pixels >= SUBSTANTIAL * frame.objects[one.objects[0]]
                )
    found = Diagnosis(tuple(frames), dict(seen), dict(split))
    return replace(found, frames=tuple(_weighed(frame, found.unity) for frame in frames))


def _weighed(frame: Frame, unity: Mapping[int, float]) -> Frame:
    concerns = [
        replace(one, share=one.share * unity.get(one.objects[0], 1.0)) if one.kind == "split" else one
        for one in frame.concerns
    ]
    split = math.fsum(one.share for one in concerns if one.kind == "split")
    return replace(
        frame,
        shares=frame.shares | {"split": split},
        concerns=tuple(sorted(concerns, key=lambda one: -one.share)),
    )


def worst_first(frames: Sequence[Frame], *, least: float = WORTH) -> list[Frame]:
    """Those of which at least that share disagrees."""
    return sorted(
        (one for one in frames if one.differing >= least), key=lambda one: (-one.differing, one.name)
    )


def what_to_look_at(frame: Frame, *, most: int = 3) -> str:
    """The frame's largest concerns in words."""
    worth = [str(one) for one in frame.concerns if one.share >= SMALL]
    more = f" and {len(worth) - most} more" if len(worth) > most else ""
    return ", ".join(worth[:most]) + more


def table_rows(frames: Sequence[Frame]) -> list[tuple[str, list[float], str]]:
    """For `report.frames_table`: name; the shares that differ, in all and by KINDS; what to look at."""
    return [(one.name, [one.differing, *one.shares.values()], what_to_look_at(one)) for one in frames]


def in_words(found: Diagnosis, *, most: int = 5) -> list[str]:
    """What is to be said below the table: how many frames, and the objects that may be several."""
    worth, all_ = len(worst_first(found.frames)), len(found.frames)
    lines = [
        f"{worth} of {all_} frames with segments differ on {WORTH:.0%} or more of their pixels of things"
    ]
    for one in found.doubted[:most]:
        lines.append(
            f"object {one + 1} is in several segments in {found.split[one]} of the {found.seen[one]} frames that see "
            f"it: if it is several, `gslift edit --split {one + 1}`"
        )
    return lines


def write_heat_maps(
    run: Run, folder: Path, found: Diagnosis, *, reporter: Reporter | None = None
) -> list[Path]:
    """A `heat_map` of each frame as `<view>.png`, and the figures of all in frames.json.

    A view whose name has folders is put into them, without any that would lead out of `folder`. Raises ConfigError
    where a picture would replace a file that is none of an earlier time: a photo.
    """
    pictures: dict[str, str] = {}
    kept = _foreign(folder)
    for frame in found.frames:
        if (folder / picture_name(frame.name)) in kept:
            raise ConfigError(
                f"--out {folder}: holds a {picture_name(frame.name)} that is no heat map; name another folder"
            )
    for look in looks(run, unity=found.unity, reporter=reporter, stage="maps"):
        picture = picture_name(look.view.name, set(pictures.values()))
        pictures[look.view.name] = picture
        write_picture(folder / picture, heat_map(look))
    write_text_atomic(folder / "frames.json", frames_json(found.frames, pictures))
    return [folder / "frames.json", *(folder / one for one in pictures.values())]


def _foreign(folder: Path) -> set[Path]:
    """The files below a folder that its frames.json does not call heat maps of an earlier time."""
    try:
        frames = json.loads((folder / "frames.json").read_text())["frames"]
        own = {folder / str(frame["picture"]) for frame in frames}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    return {path for path in folder.rglob("*") if path.is_file()} - own


def picture_name(name: str, taken: Collection[str] = ()) -> str:
    """A view's picture as a path below any folder; numbered where it is `taken`."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    stem = "/".join(parts) or "view"
    tries = (f"{stem}{'' if number == 1 else f'_{number}'}.png" for number in range(1, len(taken) + 2))
    return next(one for one in tries if one not in taken)


def frames_json(frames: Sequence[Frame], pictures: dict[str, str]) -> str:
    """{"frames": [{"name", "picture", "pixels", "differing", the shares by KINDS, "concerns": [...]}]}, worst first.

    Ids of objects are those of labels.json, from 1; those of segments as the reader has them.
    """
    rows = [
        {
            "name": frame.name,
            "picture": pictures.get(frame.name),
            "pixels": frame.pixels,
            "differing": round(frame.differing, 6),
            **{name: round(share, 6) for name, share in frame.shares.items()},
            "concerns": [
                {
                    "kind": one.kind,
                    "objects": [each + 1 for each in one.objects],
                    "segments": list(one.segments),
                    "share": round(one.share, 6),
                    "at": list(one.at),
                }
                for one in frame.concerns
                if one.share > 0
            ],
        }
        for frame in worst_first(frames, least=0)
    ]
    return json.dumps({"frames": rows}, indent=1, allow_nan=False) + "\n"


COLORS = {
    "merged": (213, 94, 0),
    "split": (0, 114, 178),
    "missed": (240, 228, 66),
    "spurious": (204, 121, 167),
}
"""Four of Okabe and Ito's colours, which the colour-blind tell apart."""

LEAST_WIDTH = 512
"""Narrower photos are enlarged, by a whole number: the words below need room."""

_BAR = 22


def heat_map(look: Look) -> np.ndarray:
    """[H W 3] uint8: the photo in grey, what disagrees in the colour of its kind, stronger where it counts more.

    White lines are borders of segments, numbers the objects of labels.json. Below it a legend with the shares, and a
    line of what to look at.
    """
    found, frame = look.found, look.frame
    factor = max(1, -(-LEAST_WIDTH // found.kind.shape[1]))
    pixels = _tinted(look.view.image(), found, factor)
    pixels[_borders(_enlarged(look.segments.instance.cpu().numpy(), factor))] = 255
    height, width = pixels.shape[:2]
    sheet = Image.new("RGB", (width, height + 2 * _BAR + 4), "white")
    sheet.paste(Image.fromarray(pixels))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for one in frame.concerns:
        if one.share >= SMALL and one.objects:
            number = "+".join(str(each + 1) for each in one.objects)
            at = (min(max(one.at[0] * factor, 12), width - 12), min(max(one.at[1] * factor, 9), height - 9))
            draw.text(at, number, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    column, top = 6, height + 4
    for name, color in COLORS.items():
        text = f"{name} {frame.shares[name]:.1%}"
        draw.rectangle((column, top + 2, column + 12, top + 14), fill=color, outline="black")
        draw.text((column + 17, top), text, fill="black", font=font)
        column += 17 + int(draw.textlength(text, font=font)) + 14
    line = f"{frame.name}: {frame.differing:.1%} of {frame.pixels} pixels differ"
    if words := what_to_look_at(frame):
        line += f"; {words}"
    while len(line) > 3 and draw.textlength(line, font=font) > width - 12:
        line = line.removesuffix("...")[:-1] + "..."
    draw.text((6, top + _BAR), line, fill=(70, 70, 70), font=font)
    return np.array(sheet)


def _enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def _tinted(image: Float[Tensor, "H W 3"], found: Disagreement, factor: int) -> np.ndarray:
    height, width = found.kind.shape
    photo = Image.fromarray((image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()).convert("L")
    grey = np.asarray(photo.resize((width * factor, height * factor), Image.Resampling.BICUBIC), np.float64)
    pixels = (60 + 150 / 255 * grey)[..., None].repeat(3, axis=2)
    kind, weight = _enlarged(found.kind, factor), _enlarged(found.weight, factor)
    for name, code in KINDS.items():
        inside = kind == code
        strength = 0.8 * weight[inside][:, None]
        pixels[inside] = (1 - strength) * pixels[inside] + strength * np.array(COLORS[name])
    return pixels.round().astype(np.uint8)


def _borders(ids: np.ndarray) -> np.ndarray:
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    return border
