"""Files of 2D segments: id maps, COCO panoptic, Segment Anything's masks, Panoptic Lifting's .ptz.

Every reader takes a path and returns RawSegments of the file's own size, or raises SceneError in one line.
"""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gs_lift.datasets import files
from gs_lift.datasets.scannet import CLASSES as SCANNET_CLASSES
from gs_lift.errors import SceneError
from gs_lift.segmentation import VOID, Classes

OBJECTS = Classes(names=("background", "object"), is_thing=(False, True))
"""Of segments without classes: what is in none is background."""

MAX_PIXELS = 2**28
"""Of a map; a larger one is not what it says."""
MAX_MASKS = 2**16
MAX_STACK = 2**30
"""Bytes of masks that lie one over the other."""
MAX_ID = 2**31
MAX_PTZ = 2**31
"""Bytes that a .ptz may unpack to: 1024 x 768 pixels with 100 classes take a seventh."""


class RawSegments(NamedTuple):
    """[h w] each, of one file: instance (-1 = none) and semantic (VOID = unknown) int64, confidence float32."""

    instance: np.ndarray
    semantic: np.ndarray
    confidence: np.ndarray


def is_mask(path: Path) -> bool:
    """Whether a file, or a folder as Segment Anything's script writes it, is the mask of one image."""
    if path.is_dir():
        return (path / "metadata.csv").is_file()
    return path.suffix.lower() in FORMATS


def read_mask(path: Path) -> RawSegments:
    """The segments of one image, by what the file is."""
    return _read_sam_folder(path) if path.is_dir() else FORMATS[path.suffix.lower()](path)


def classes_of(path: Path) -> Classes:
    """The classes that `read_mask` would give."""
    return SCANNET_CLASSES if path.suffix.lower() == ".ptz" else OBJECTS


def without_classes(ids: np.ndarray, confidence: np.ndarray | None = None) -> RawSegments:
    """Segments from a map of ids, 0 or less = none; all that is in one is an object."""
    instance = np.where(ids > 0, ids, -1).astype(np.int64)
    sure = np.ones(ids.shape, np.float32) if confidence is None else confidence
    return RawSegments(instance, (instance >= 0).astype(np.int64), sure)


# --- Id maps ----------------------------------------------------------------------------------------------------------


def read_png(path: Path) -> np.ndarray:
    """[h w] ids of a PNG: grey of 8 or 16 bits, a palette's indices, or R + 256 G + 65536 B."""
    pixels = files.read_ids_or_colors(path)
    if pixels.ndim == 2:
        return pixels
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def _read_id_map(path: Path) -> RawSegments:
    return without_classes(read_png(path))


def _read_npy(path: Path) -> RawSegments:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SceneError(
            f"{path}: not a plain .npy array ({_one_line(error)}); write it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise SceneError(
            f"{path}: {getattr(array, 'dtype', 'objects')} of shape {getattr(array, 'shape', '?')}; "
            "wanted ids [H W] or masks [M H W]"
        )
    if array.ndim == 3:
        return paint(path, _stack(path, array))
    _check_pixels(path, array.shape)
    return without_classes(_ids(path, np.asarray(array)))


def _ids(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise SceneError(
            f"{path}: fractions among the ids; wanted whole numbers: resize by nearest neighbour"
        )
    if array.size and not -1 <= float(array.min()) <= float(array.max()) < MAX_ID:
        raise SceneError(
            f"{path}: ids from {array.min()} to {array.max()}; wanted 0 = none, or 1 to 2147483647"
        )
    return array.astype(np.int64)


def _check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 0 < shape[0] * shape[1] <= MAX_PIXELS or min(shape) < 1:
        raise SceneError(
            f"{path}: a map of shape {tuple(shape)}; wanted [H W] of at most {MAX_PIXELS} pixels"
        )


# --- Masks that may overlap -------------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """[h w] bool, and how sure it is, in 0..1."""

    inside: np.ndarray
    confidence: float


def paint(path: Path, masks: Iterable[Mask]) -> RawSegments:
    """Masks as one map: the smaller over the larger, so that no part of one is lost under it. Of none: one pixel."""
    order = sorted(masks, key=lambda mask: -int(mask.inside.sum()))
    if not order:
        return without_classes(np.zeros((1, 1), np.int64))
    shape = order[0].inside.shape
    if wrong := next((mask.inside.shape for mask in order if mask.inside.shape != shape), None):
        raise SceneError(f"{path}: masks of {shape} and of {wrong} pixels; wanted one size")
    ids, confidence = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    for number, mask in enumerate(order, start=1):
        ids[mask.inside] = number
        confidence[mask.inside] = mask.confidence
    return without_classes(ids, confidence)


def _stack(path: Path, masks: Any) -> list[Mask]:
    """Of an array [M h w] of bools or numbers, > 0 = inside."""
    count, *shape = masks.shape
    _check_pixels(path, tuple(shape))
    if count > MAX_MASKS or masks.size > MAX_STACK:
        raise SceneError(
            f"{path}: {count} masks of {shape[1]}x{shape[0]} pixels; wanted at most 1 GiB of them"
        )
    return [Mask(np.asarray(mask) > 0, 1.0) for mask in masks]


def _read_sam_json(path: Path) -> RawSegments:
    """What Segment Anything's automatic mask generator returns: a list, or that in `annotations` (SA-1B)."""
    content = files.read_any_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and "segmentation" in one for one in entries
    ):
        raise SceneError(f"{path}: no list of masks with a `segmentation`; wanted Segment Anything's output")
    if len(entries) > MAX_MASKS:
        raise SceneError(f"{path}: {len(entries)} masks; wanted at most {MAX_MASKS}")
    sizes = {_rle_size(path, one["segmentation"]) for one in entries}
    if len(sizes) > 1:
        raise SceneError(f"{path}: masks of {len(sizes)} sizes; wanted one")
    if sizes and len(entries) * np.prod(next(iter(sizes))) > MAX_STACK:
        raise SceneError(f"{path}: {len(entries)} masks take more than 1 GiB; make them of smaller photos")
    return paint(path, [Mask(decode_rle(path, one["segmentation"]), _sureness(path, one)) for one in entries])


def _sureness(path: Path, entry: dict[str, Any]) -> float:
    value = entry.get("predicted_iou", entry.get("score", 1.0))
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise SceneError(f"{path}: predicted_iou is {value!r}; wanted a number in 0..1")
    return float(np.clip(value, 0.0, 1.0))


def _rle_size(path: Path, rle: Any) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(one) is int for one in size)):
        raise SceneError(
            f"{path}: a segmentation without size and counts; wanted COCO's run lengths, not polygons"
        )
    _check_pixels(path, tuple(size))
    return size[0], size[1]


def decode_rle(path: Path, rle: Any) -> np.ndarray:
    """[h w] bool of COCO's run lengths: counts of pixels outside, inside, outside ... down the columns.

    As a list, or as its string: each count's difference to the one before the last, in groups of 5 bits.
    """
    height, width = _rle_size(path, rle)
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(path, counts)
    if not (isinstance(counts, list) and all(type(one) is int and one >= 0 for one in counts)):
        raise SceneError(f"{path}: run lengths that are no counts; wanted COCO's")
    if sum(counts) != height * width:
        raise SceneError(
            f"{path}: run lengths of {sum(counts)} pixels in a mask of {height * width}; cut short?"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts of a mask [h w] bool: what `decode_rle` takes."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def _unpacked(path: Path, text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise SceneError(
                f"{path}: run lengths with the letter {letter!r}; wanted COCO's compressed string"
            )
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise SceneError(f"{path}: run lengths that end within a number; cut short?")
    return counts


def _read_sam_folder(path: Path) -> RawSegments:
    """What Segment Anything's script writes: 0.png, 1.png ... of one mask each, and metadata.csv."""
    table = path / "metadata.csv"
    try:
        if table.stat().st_size > files.MAX_JSON_BYTES:
            raise SceneError(f"{table}: too large for a list of masks")
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SceneError(f"{table}: cannot be read ({_one_line(error)})") from None
    if len(rows) > MAX_MASKS or any(not (row.get("id") or "").isdigit() for row in rows):
        raise SceneError(f"{table}: wanted one row with an `id` for each of at most {MAX_MASKS} masks")
    masks = []
    for row in rows:
        file = path / f"{int(row['id'])}.png"
        files.check_inside(path, file, False)
        try:
            sure = float(row.get("predicted_iou") or 1.0)
        except ValueError:
            sure = float("nan")
        inside = read_png(file) > 0
        masks.append(Mask(inside, _sureness(table, {"predicted_iou": sure})))
        if len(masks) * inside.size > MAX_STACK:
            raise SceneError(f"{path}: its masks take more than 1 GiB; make them of smaller photos")
    return paint(path, masks)


# --- Tensors ----------------------------------------------------------------------------------------------------------


def _read_pt(path: Path) -> RawSegments:
    """A tensor of masks [M H W], as SAGA keeps them, or of ids [H W]."""
    masks = _load(path, path)
    if (
        not isinstance(masks, torch.Tensor)
        or masks.ndim not in (2, 3)
        or masks.is_complex()
        or masks.is_sparse
    ):
        raise SceneError(
            f"{path}: holds {type(masks).__name__}; wanted a tensor of masks [M H W] or of ids [H W]"
        )
    if masks.numel() * masks.element_size() > path.stat().st_size:
        raise SceneError(f"{path}: claims the shape {list(masks.shape)}, more than the file holds")
    if masks.ndim == 3:
        return paint(path, _stack(path, masks.numpy()))
    _check_pixels(path, tuple(masks.shape))
    return without_classes(_ids(path, masks.numpy()))


def _read_ptz(path: Path) -> RawSegments:
    """Panoptic Lifting's: a compressed dict of mask [H W] (0 = none), segments [{id, isthing, category_id}] and
    confidences [H W], in ScanNet's 22 reduced classes, of which 0 is void."""
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_PTZ + 1)
    except (OSError, EOFError, ValueError) as error:
        raise SceneError(f"{path}: not a .ptz of Panoptic Lifting ({_one_line(error)})") from None
    if len(content) > MAX_PTZ:
        raise SceneError(f"{path}: unpacks to more than {MAX_PTZ >> 30} GiB; not a .ptz of Panoptic Lifting")
    found = _load(path, io.BytesIO(content))
    mask = found.get("mask") if isinstance(found, dict) else None
    segments = found.get("segments") if isinstance(found, dict) else None
    if not isinstance(mask, torch.Tensor) or not isinstance(segments, list) or mask.ndim != 2:
        raise SceneError(f"{path}: wanted a dict with mask [H W] and segments, as Panoptic Lifting writes it")
    _check_pixels(path, tuple(mask.shape))
    ids = _ids(path, mask.numpy())
    try:
        rows = {int(one["id"]): (int(one["category_id"]), bool(one["isthing"])) for one in segments}
    except (TypeError, KeyError, ValueError):
        raise SceneError(f"{path}: a segment without id, category_id or isthing") from None
    semantic, thing = _looked_up(path, ids, rows, len(SCANNET_CLASSES))
    confidence = found.get("confidences")
    if (
        isinstance(confidence, torch.Tensor)
        and confidence.shape == mask.shape
        and confidence.is_floating_point()
    ):
        sure = np.nan_to_num(confidence.float().numpy(), nan=0.0).clip(0.0, 1.0)
    else:
        sure = np.ones(ids.shape, np.float32)
    return RawSegments(np.where(thing, ids, -1), np.where(semantic == 0, VOID, semantic), sure)


def _load(path: Path, source: Path | io.BytesIO) -> Any:
    """What torch.save wrote, tensors and plain containers alone."""
    try:
        with zipfile.ZipFile(source) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = path.stat().st_size if isinstance(source, Path) else len(source.getbuffer())
        if unpacked > size:
            raise SceneError(f"{path}: a compressed archive; torch.save stores tensors as they are")
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return torch.load(source, map_location="cpu", weights_only=True)
    except SceneError:
        raise
    except Exception as error:  # a torn or foreign file: any of a dozen types
        raise SceneError(
            f"{path}: not a file of tensors as torch.save writes it ({_one_line(error)})"
        ) from None


def _looked_up(
    path: Path, ids: np.ndarray, rows: dict[int, tuple[int, bool]], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[h w] class of each pixel, VOID where its id is not among `rows`, and whether that is a segment of a thing."""
    if wrong := next((one for one, _ in rows.values() if not 0 <= one < classes), None):
        raise SceneError(f"{path}: category {wrong}; wanted 0 to {classes - 1}")
    known, place = np.unique(ids, return_inverse=True)
    found = [rows.get(int(one), (VOID, False)) for one in known]
    semantic = np.array([semantic for semantic, _ in found], np.int64)[place]
    thing = np.array([thing for _, thing in found], bool)[place]
    return semantic.reshape(ids.shape), thing.reshape(ids.shape)


# --- COCO panoptic ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoPanoptic:
    """A folder of id PNGs and what its JSON says of them.

    rows: file name -> id -> (class, whether it is a thing).
    """

    folder: Path
    classes: Classes
    rows: dict[str, dict[int, tuple[int, bool]]]

    def read(self, path: Path) -> RawSegments:
        """Pixels of no segment, and of crowds, are VOID."""
        ids = read_png(path)
        name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        name = name if name in self.rows else path.name
        if name not in self.rows:
            raise SceneError(f"{path}: not in the annotations of the COCO panoptic JSON beside it")
        semantic, thing = _looked_up(path, ids, self.rows[name], len(self.classes))
        return RawSegments(np.where(thing, ids, -1), semantic, np.ones(ids.shape, np.float32))


def find_coco(folder: Path) -> CocoPanoptic | None:
    """The COCO panoptic JSON in `folder`, or of its name beside it; None if there is none."""
    beside = folder.with_name(f"{folder.name}.json")
    candidates = [path for path in (*sorted(folder.glob("*.json")), beside) if path.is_file()]
    if len(candidates) > 2:
        return None  # one for each photo
    for path in candidates:
        content = files.read_any_json(path)
        entries = content.get("annotations") if isinstance(content, dict) else None
        if isinstance(entries, list) and any(
            isinstance(one, dict) and "segments_info" in one for one in entries
        ):
            return _coco(path, folder, content)
    return None


def _coco(path: Path, folder: Path, content: dict[str, Any]) -> CocoPanoptic:
    try:
        categories = [(one["id"], str(one["name"]), bool(one["isthing"])) for one in content["categories"]]
        number = {one: place for place, (one, _, _) in enumerate(categories)}
        is_thing = tuple(thing for _, _, thing in categories)
        rows = {}
        for image in content["annotations"]:
            # A crowd is several things in one segment, which nobody can tell apart: as if it were not there.
            kept = [one for one in image["segments_info"] if not one.get("iscrowd", 0)]
            rows[str(image["file_name"])] = {
                int(one["id"]): (number[one["category_id"]], is_thing[number[one["category_id"]]])
                for one in kept
            }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SceneError(
            f"{path}: not COCO's panoptic format ({type(error).__name__}: {_one_line(error)})"
        ) from None
    if not categories:
        raise SceneError(f"{path}: no categories; wanted COCO's panoptic format")
    pictures = folder / path.stem if (folder / path.stem).is_dir() else folder
    return CocoPanoptic(pictures, Classes(tuple(name for _, name, _ in categories), is_thing), rows)


FORMATS: dict[str, Callable[[Path], RawSegments]] = {
    ".png": _read_id_map,
    ".json": _read_sam_json,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".ptz": _read_ptz,
}
"""By the ending of a file's name."""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
