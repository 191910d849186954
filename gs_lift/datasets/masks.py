"""2D segments in files of any segmenter, beside the photos or where the user says, matched to photos by name.

What a file is, its ending and content tell (mask_files.py); whose it is, its name without endings: `a.png`,
`a.jpg.png`, `a.json` and the folder `a/` are all of the photo `a.jpg`. Sizes are matched by nearest neighbour, nothing
else: between two ids there is no third. An archive `a.npz` beside has the confidence of a's pixels.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.coco_panoptic import CocoPanoptic, find_coco
from gs_lift.datasets.mask_files import (
    FORMATS,
    OBJECTS,
    RawSegments,
    classes_of,
    is_mask,
    read_mask,
)
from gs_lift.errors import SceneError
from gs_lift.scene import View
from gs_lift.segmentation import VOID, Classes, Segments

log = logging.getLogger(__name__)

FOLDERS = ("masks", "segments", "sam_masks", "panoptic", "panoptic_masks")
"""Where segments lie in a scene, looked for in this order."""

ENDINGS = (".png", ".jpg", ".jpeg", ".json", ".npy", ".npz", ".pt", ".ptz")
"""Of masks and of photos: a mask may keep its photo's."""

NAMED = 3
"""Of files without a partner so many are named."""


@dataclass(frozen=True)
class Masks:
    """The segments of some photos. paths: by the photo's name; coco: what a COCO panoptic file says of them.

    gaps_unknown: pixels without a segment are VOID, also where the file calls them background.
    confidences: archives with `confidence` [h w], in the place of the file's own, by the photo's name.
    """

    classes: Classes
    paths: Mapping[str, Path]
    coco: CocoPanoptic | None
    gaps_unknown: bool = False
    confidences: Mapping[str, Path] = field(default_factory=dict)

    def of(self, name: str, width: int, height: int) -> Callable[[], Segments] | None:
        """What reads the segments of a photo of that size in pixels; None if there are none.

        Raises SceneError, when called, for a file that is broken or has another shape.
        """
        return partial(self._read, name, width, height) if name in self.paths else None

    def _read(self, name: str, width: int, height: int) -> Segments:
        path = self.paths[name]
        raw = _read_raw(path, self.coco)
        instance, semantic, confidence = (_matched(path, values, width, height) for values in raw)
        if name in self.confidences:
            confidence = _read_confidence(self.confidences[name], width, height)
        segments = _segments(RawSegments(instance, semantic, confidence))
        if not self.gaps_unknown:
            return segments
        return replace(segments, semantic=segments.semantic.masked_fill(segments.instance < 0, VOID))

    def read(self, name: str) -> Callable[[], Segments]:
        """What reads the segments of a photo, of the file's own size."""
        return partial(_read_whole, self.paths[name], self.coco)


def _read_whole(path: Path, coco: CocoPanoptic | None) -> Segments:
    return _segments(_read_raw(path, coco))


def find_masks(root: Path, names: Sequence[str], config: DataConfig) -> Masks | None:
    """The segments of a scene's photos; None where there are none, or none are wanted.

    names: the photos' paths below their folder, without ending. Photos without a file, and files without a photo, are
    counted in a warning. Raises SceneError for a folder that is not there, or has nothing for any photo.
    """
    folder = masks_folder(root, config)
    if folder is None:
        return None
    # Where the user names a folder elsewhere, its links are the user's too. Only the names count: `auto` and a link
    # called masks/ would lead out of the scene otherwise.
    outside = not Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(root))
    within = None if config.allow_outside or outside else root
    coco = find_coco(folder, within)
    by_name, confidences = _by_name(coco.folder if coco else folder)
    if coco:  # its JSON is no mask
        by_name = {name: path for name, path in by_name.items() if path.suffix.lower() == ".png"}
    paths, sure = _matched_names(names, by_name), _matched_names(names, confidences)
    if not paths:
        there = ", ".join(sorted(by_name)[:NAMED]) or f"no {' '.join(FORMATS)} at all"
        raise SceneError(
            f"{folder}: no segments for any of {len(names)} photos (photos: {', '.join(names[:NAMED])}; "
            f"masks: {there}); name them as the photos, or set data.segments=none"
        )
    _warn(folder, [name for name in names if name not in paths], "photos without segments")
    taken = set(paths.values())
    _warn(folder, [name for name, path in by_name.items() if path not in taken], "segments without a photo")
    if within is not None:
        for path in (*paths.values(), *sure.values()):
            files.check_inside(within, path, False)
    classes = coco.classes if coco else _common_classes(folder, list(paths.values()))
    gaps_unknown = classes == OBJECTS and config.unlabelled == "unknown"
    return Masks(classes, paths, coco, gaps_unknown, {name: sure[name] for name in paths if name in sure})


def _matched_names(names: Sequence[str], by_name: Mapping[str, Path]) -> dict[str, Path]:
    """The file of each photo that has one."""
    times = Counter(_short(name) for name in names)
    found = {}
    for name in names:
        # A flat folder of masks serves photos in sub folders, as long as their names differ.
        path = by_name.get(name) or (by_name.get(_short(name)) if times[_short(name)] == 1 else None)
        if path is not None:
            found[name] = path
    return found


def _common_classes(folder: Path, paths: Sequence[Path]) -> Classes:
    first = classes_of(paths[0])
    if other := next((path for path in paths if classes_of(path) != first), None):
        raise SceneError(
            f"{folder}: {paths[0].name} and {other.name} are in different classes; keep one kind of segments"
        )
    return first


def masks_folder(root: Path, config: DataConfig) -> Path | None:
    """The folder that data.segments names (from the scene's folder, if it is relative), or with `auto` the first of
    FOLDERS that is there. None: there is none, or none is wanted."""
    if config.segments == "none":
        return None
    if config.segments == "auto":
        return next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    folder = root / config.segments
    if not folder.is_dir():
        raise SceneError(
            f"{folder}: no such folder; data.segments wants the folder of the segments, auto or none"
        )
    return folder


def replaced_segments(
    root: Path, views: Sequence[View], classes: Classes, config: DataConfig
) -> tuple[View, ...] | None:
    """The views of a layout that has segments of its own, with those that the user names instead, or with none.

    None: the user wants the layout's own. Raises SceneError where the classes are others than the scene's.
    """
    if config.segments == "auto":
        return None
    masks = find_masks(root, [view.name for view in views], config)
    if masks and masks.classes.is_thing != classes.is_thing:
        raise SceneError(
            f"{root / config.segments}: segments of {len(masks.classes)} classes ({', '.join(masks.classes.names[:3])}"
            f"{', ...' if len(masks.classes) > 3 else ''}); wanted the {len(classes)} of the scene"
        )

    def of(view: View) -> Callable[[], Segments] | None:
        return masks.of(view.name, view.camera.width, view.camera.height) if masks else None

    return tuple(replace(view, segments=of(view)) for view in views)


def _by_name(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Masks, and archives of confidences, below a folder by their path in it, without endings.

    A folder with metadata.csv is one mask.
    """
    found: dict[str, Path] = {}
    confidences: dict[str, Path] = {}

    def look(below: Path) -> None:
        try:
            entries = sorted(below.iterdir())
        except OSError as error:
            raise SceneError(f"{below}: cannot be read ({error.strerror})") from None
        for path in entries:
            if path.name.startswith(".") or (path.is_symlink() and path.is_dir()):
                continue
            if path.is_dir() and not is_mask(path):
                look(path)
                continue
            archive = path.suffix.lower() == ".npz"
            if not archive and not is_mask(path):
                continue
            name = _without_endings(path.relative_to(folder).as_posix())
            kind = confidences if archive else found
            if name in kind:
                raise SceneError(
                    f"{path}: segments of the same photo as {kind[name].name}; remove one of them"
                )
            kind[name] = path

    look(folder)
    return found, confidences


def _without_endings(name: str) -> str:
    while True:
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
        if ending is None or len(name) == len(ending):
            return name
        name = name[: -len(ending)]


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _warn(folder: Path, names: Sequence[str], what: str) -> None:
    if names:
        more = ", ..." if len(names) > NAMED else ""
        log.warning("%s: %d %s (%s%s)", folder, len(names), what, ", ".join(sorted(names)[:NAMED]), more)


def _matched(path: Path, values: np.ndarray, width: int, height: int) -> np.ndarray:
    """[H W] of [h w]: of each pixel, what lies under its centre."""
    there = values.shape
    # Rounded to whole pixels, a photo and its smaller copy may differ by one pixel of the copy.
    if abs(there[1] * height - there[0] * width) > max(width, height):
        raise SceneError(
            f"{path}: {there[1]}x{there[0]} pixels, another shape than the photo's {width}x{height}; "
            "make segments of the uncropped photo"
        )
    rows, columns = (
        ((np.arange(wanted) + 0.5) * (own / wanted)).astype(np.int64)
        for wanted, own in zip((height, width), there, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _read_confidence(path: Path, width: int, height: int) -> np.ndarray:
    shape = files.archived_shape(path, "confidence", files.MAX_PIXELS)
    if shape is None or len(shape) != 2 or 0 in shape:
        raise SceneError(
            f"{path}: {'no array' if shape is None else f'shape {shape} of'} `confidence`; "
            "wanted one [h w] in 0..1, beside the segments"
        )
    confidence = _matched(path, files.read_archived(path, "confidence", shape), width, height)
    # A mean of probabilities may be rounded to a little more than 1.
    if not ((confidence >= -1e-3) & (confidence <= 1.001)).all():  # NaN included
        raise SceneError(f"{path}: `confidence` outside 0..1; wanted probabilities")
    return confidence.clip(0, 1)


def _read_raw(path: Path, coco: CocoPanoptic | None) -> RawSegments:
    return coco.read(path) if coco else read_mask(path)


def _segments(raw: RawSegments) -> Segments:
    return Segments(
        torch.from_numpy(raw.instance.astype(np.int64)),
        torch.from_numpy(raw.semantic.astype(np.int64)),
        torch.from_numpy(raw.confidence.astype(np.float32)),
    )
