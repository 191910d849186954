"""Files of 2D segments: id maps, Segment Anything's masks, Panoptic Lifting's .ptz. COCO panoptic: coco_panoptic.py.

Every reader takes a path and returns RawSegments of the file's own size, or raises SceneError in one line.
"""

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gs_lift.datasets import files, rle
from gs_lift.datasets.scannet import CLASSES as SCANNET_CLASSES
from gs_lift.errors import SceneError
from gs_lift.segmentation import VOID, Classes

OBJECTS = Classes(names=("background", "object"), is_thing=(False, True))
"""Of segments without classes: what is in none is background."""

MAX_MASKS = 2**16
MAX_PAINTED = 2**32
"""Pixels of all masks that lie one over the other: 300 of 12 megapixels each; painting them takes seconds."""
NOTHING = (1, 1)
"""Shape of a map without a mask: as good as any."""
MAX_ID = 2**31
ID = re.compile("[0-9]{1,9}")
SURENESS = ("predicted_iou", "stability_score", "score")
"""Of a mask of Segment Anything: the first of them that is there."""
MAX_PTZ = 2**30
"""Bytes that a .ptz may unpack to: 1024 x 768 pixels with 100 classes take a third."""


class RawSegments(NamedTuple):
    """[h w] each, of one file: instance (-1 = none) and semantic (VOID = unknown), confidence float32.

    Integers are as short as they may be, and the confidence may be one number seen everywhere: a file can be much
    larger than the photo.
    """

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
    inside = ids > 0
    sure = np.broadcast_to(np.float32(1), ids.shape) if confidence is None else confidence
    return RawSegments(np.where(inside, ids, -1), inside.view(np.int8), sure)


# --- Id maps ----------------------------------------------------------------------------------------------------------


def read_png(path: Path) -> np.ndarray:
    """int32 [h w] ids of a PNG: grey of 8 or 16 bits, a palette's indices, or R + 256 G + 65536 B."""
    pixels = files.read_ids_or_colors(path)
    if pixels.ndim == 2:
        return pixels
    ids = pixels[..., 2].astype(np.int32)
    for channel in (1, 0):
        ids *= 256
        ids += pixels[..., channel]
    return ids


def _read_id_map(path: Path) -> RawSegments:
    return without_classes(read_png(path))


def _read_npy(path: Path) -> RawSegments:
    return _ids_or_masks(path, files.map_array(path))


def _ids_or_masks(path: Path, array: np.ndarray) -> RawSegments:
    """Ids [H W], also of one channel more, or masks [M H W]."""
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise SceneError(f"{path}: {array.dtype} of shape {array.shape}; wanted ids [H W] or masks [M H W]")
    if array.ndim == 3 and len(array) == 1 and array.dtype.kind in "iu":
        array = array[0]
    if array.ndim == 3:
        return _stack(path, array)
    files.check_pixels(path, array.shape)
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
    return array.astype(np.int32)


# --- Masks that may overlap -------------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """One of many: its pixels, how sure it is in 0..1, and what writes a number into its pixels of a map [h w]."""

    area: int
    confidence: float
    draw: Callable[[np.ndarray, int], None]


def paint(path: Path, shape: tuple[int, int], masks: Sequence[Mask]) -> RawSegments:
    """Masks as one map: the smaller over the larger, so that no part of one is lost under it.

    One after the other: what lies over one another takes the memory of one map.
    """
    if len(masks) > MAX_MASKS or sum(mask.area for mask in masks) > MAX_PAINTED:
        raise SceneError(
            f"{path}: {len(masks)} masks of {shape[1]}x{shape[0]} pixels; wanted at most {MAX_MASKS}, that cover "
            f"{MAX_PAINTED} pixels: make them of smaller photos"
        )
    order = sorted(masks, key=lambda mask: -mask.area)
    ids = np.zeros(shape, np.int32, order="F")  # down the columns, as run lengths go
    for number, mask in enumerate(order, start=1):
        mask.draw(ids, number)
    sure = np.array([1.0, *(mask.confidence for mask in order)], np.float32)
    return without_classes(ids, sure[ids])


def _stack(path: Path, masks: np.ndarray) -> RawSegments:
    """Of an array [M h w] of bools, or of 0 and one number more, such as 255."""
    height, width = masks.shape[1:]
    files.check_pixels(path, (height, width))
    if len(masks) > MAX_MASKS:
        raise SceneError(f"{path}: {len(masks)} masks; wanted at most {MAX_MASKS}")

    def draw(ids: np.ndarray, number: int, place: int) -> None:
        ids[_inside(path, masks[place])] = number

    areas = [int(_inside(path, mask).sum()) for mask in masks]
    return paint(
        path,
        (height, width),
        [Mask(area, 1.0, partial(draw, place=place)) for place, area in enumerate(areas)],
    )


def _inside(path: Path, mask: np.ndarray) -> np.ndarray:
    if mask.dtype.kind == "b":
        return mask
    top = mask.max()
    if not ((mask == top) | (mask == 0)).all() or top < 0:  # NaN is not even itself
        raise SceneError(
            f"{path}: several numbers in one mask; wanted masks [M H W] of 0 and 1, or ids as [H W]"
        )
    inside: np.ndarray = mask > 0
    return inside


def _read_sam_json(path: Path) -> RawSegments:
    """What Segment Anything's automatic mask generator returns: a list, or that in `annotations` (SA-1B)."""
    content = files.read_any_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and "segmentation" in one for one in entries
    ):
        raise SceneError(f"{path}: no list of masks with a `segmentation`; wanted Segment Anything's output")
    sizes = {rle.size_of(path, one["segmentation"]) for one in entries}
    if len(sizes) > 1:
        raise SceneError(f"{path}: masks of {len(sizes)} sizes; wanted one")
    masks = []
    for one in entries:
        counts = rle.counts_of(path, one["segmentation"])
        masks.append(Mask(sum(counts[1::2]), _sureness(path, one), partial(rle.draw, counts)))
    return paint(path, sizes.pop() if sizes else NOTHING, masks)


def _sureness(path: Path, entry: dict[str, Any]) -> float:
    name = next((name for name in SURENESS if name in entry), None)
    return min(max(files.finite_number(entry[name], name, path), 0.0), 1.0) if name else 1.0


def _read_sam_folder(path: Path) -> RawSegments:
    """What Segment Anything's script writes: 0.png, 1.png ... of one mask each, and metadata.csv."""
    table = path / "metadata.csv"
    try:
        if table.stat().st_size > files.MAX_JSON_BYTES:
            raise SceneError(f"{table}: too large for a list of masks")
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SceneError(f"{table}: cannot be read ({_one_line(error)})") from None
    if len(rows) > MAX_MASKS or any(not ID.fullmatch(row.get("id") or "") for row in rows):
        raise SceneError(f"{table}: wanted one row with an `id` for each of at most {MAX_MASKS} masks")
    masks: list[Mask] = []
    shape = NOTHING
    for row in rows:
        file = path / f"{int(row['id'])}.png"
        files.check_inside(path, file, False)
        inside = read_png(file) > 0
        if masks and inside.shape != shape:
            raise SceneError(f"{file}: {inside.shape} pixels, others have {shape}; wanted masks of one size")
        shape = inside.shape
        masks.append(Mask(int(inside.sum()), _sureness(table, _numbers(row)), partial(_draw_png, file)))
    return paint(path, shape, masks)


def _draw_png(file: Path, ids: np.ndarray, number: int) -> None:
    ids[read_png(file) > 0] = number  # read again: all of them together may not fit


def _numbers(row: dict[str, str | None]) -> dict[str, float | str]:
    """What a row says of its mask's sureness."""
    said: dict[str, float | str] = {}
    for name in SURENESS:
        if text := row.get(name):
            try:
                said[name] = float(text)
            except ValueError:
                said[name] = text
    return said


# --- Tensors ----------------------------------------------------------------------------------------------------------


def _read_pt(path: Path) -> RawSegments:
    """A tensor of masks [M H W], as SAGA keeps them, or of ids [H W]."""
    return _ids_or_masks(path, _array(path, _load(path, path), "a tensor of masks [M H W] or of ids [H W]"))


def _array(path: Path, tensor: Any, wanted: str) -> np.ndarray:
    """A foreign tensor as an array."""
    try:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise SceneError(f"{path}: claims the shape {list(tensor.shape)}, more than the file holds")
        tensor = tensor.detach()
        array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (AttributeError, TypeError, RuntimeError):  # no tensor, or sparse, quantized, without data
        what = f"a tensor of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise SceneError(f"{path}: holds {what}; wanted {wanted}") from None
    return array


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
    files.check_pixels(path, tuple(mask.shape))
    ids = _array(path, mask, "a mask of whole numbers")
    if ids.dtype.kind not in "biuf":
        raise SceneError(f"{path}: a mask of {ids.dtype}; wanted whole numbers")
    ids = _ids(path, ids)
    try:
        rows = {whole(one["id"]): (whole(one["category_id"]), bool(one["isthing"])) for one in segments}
    except (TypeError, KeyError, ValueError):
        raise SceneError(
            f"{path}: a segment without id, category_id or isthing, or they are no whole numbers"
        ) from None
    semantic, thing = looked_up(path, ids, rows, len(SCANNET_CLASSES))
    confidence = found.get("confidences")
    sure = np.broadcast_to(np.float32(1), ids.shape)
    if (
        isinstance(confidence, torch.Tensor)
        and confidence.shape == mask.shape
        and confidence.is_floating_point()
    ):
        values = _array(path, confidence, "confidences as floats").astype(np.float32)
        sure = np.nan_to_num(values, nan=0.0).clip(0.0, 1.0)
    return RawSegments(np.where(thing, ids, -1), np.where(semantic == 0, VOID, semantic), sure)


def whole(value: Any) -> int:
    """A foreign number as an id or a class. Raises ValueError where it is none of 0 to 2147483647."""
    if not 0 <= value < MAX_ID or int(value) != value:  # nan and inf are not between
        raise ValueError(f"{str(value)[:40]} is no whole number of an id or a class")
    return int(value)


def looked_up(
    path: Path, ids: np.ndarray, rows: dict[int, tuple[int, bool]], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[h w] class of each pixel, VOID where its id is not among `rows`, and whether that is a segment of a thing."""
    if wrong := next((one for one, _ in rows.values() if not 0 <= one < classes), None):
        raise SceneError(f"{path}: category {wrong}; wanted 0 to {classes - 1}")
    if not rows:
        return np.full(ids.shape, VOID, np.int32), np.zeros(ids.shape, bool)
    known = np.array(sorted(rows), np.int32)
    kinds = np.array([rows[one][0] for one in known.tolist()], np.int32)
    things = np.array([rows[one][1] for one in known.tolist()], bool)
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    found = known[place] == ids
    return np.where(found, kinds[place], VOID).astype(np.int32), found & things[place]


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
