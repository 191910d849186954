"""2D segments of photos by a segmenter that the user has: what `gslift masks` writes and datasets/masks.py reads.

A prompted segmenter (SAM) gives one file for each photo, in Segment Anything's own format: a list of masks in COCO's
run lengths with predicted_iou and stability_score. Mask2Former gives COCO's panoptic format, with classes. Every file
is written whole: a run that was stopped goes on with the photos that have none.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gs_lift.datasets import files
from gs_lift.datasets.rle import run_lengths
from gs_lift.errors import BackendError, ConfigError, SceneError
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.segmenters.automatic import AutomaticMasks, Found, Segmenter, automatic_masks
from gs_lift.segmenters.mask2former import Mask2Former, PanopticMap
from gs_lift.segmenters.sam2 import Sam2
from gs_lift.segmenters.sam_onnx import SamOnnx

PHOTO_FOLDERS = ("images", "color", "keyframes/corrected_images", "keyframes/images", "results", "rgb")
"""Where the photos of a scene lie, looked for in this order."""


def photos_of(scene: Path) -> tuple[Path, list[Path]]:
    """The folder of a scene's photos, or the folder itself, and its photos. Raises SceneError for none."""
    for folder in (*(scene / name for name in PHOTO_FOLDERS), scene):
        if folder.is_dir():
            photos = sorted(
                path
                for path in folder.rglob("*")
                if path.suffix.lower() in files.PHOTO_SUFFIXES and not path.name.startswith((".", "depth"))
            )
            if photos:
                return folder, photos
    raise SceneError(f"{scene}: no photos; looked in {', '.join(PHOTO_FOLDERS)} and the folder itself")


def load_model(name: str, things: Sequence[str] | None = None) -> Segmenter | Mask2Former:
    """A segmenter: a folder with a SAM-style pair of ONNX files, or SAM 2 or Mask2Former for transformers (a folder, or
    a name on the hub that transformers asks).

    things: names of Mask2Former's classes that are things. Raises ConfigError for anything else, BackendError where
    the package that it needs is missing.
    """
    folder = Path(name)
    if folder.is_dir() and (any(folder.glob("*.onnx")) or not (folder / "config.json").is_file()):
        return SamOnnx.load(folder)
    try:
        from transformers import AutoConfig
    except ImportError:
        raise BackendError(
            f"--model {name}: no folder of ONNX files, and transformers is missing: pip install 'gs_lift[masks]'"
        ) from None
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind == "mask2former":
            return Mask2Former.load(name, things)
        if kind in ("sam2", "sam2_video"):
            return Sam2.load(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(f"--model {name}: no segmenter that can be read ({reason})") from None
    raise ConfigError(f"--model {name}: a {kind}; wanted sam2, mask2former, or a SAM as ONNX")


def write_masks(
    scene: Path,
    out: Path,
    model: Segmenter | Mask2Former,
    settings: AutomaticMasks,
    *,
    on_step: OnStep = lambda step, figures: None,
) -> tuple[int, int]:
    """Segment the photos of a scene that `out` does not have yet; how many there are, and how many were segmented."""
    folder, photos = photos_of(scene)
    photos = photos[:: settings.stride]
    writer = _Panoptic(out, model) if isinstance(model, Mask2Former) else _Automatic(out, model, settings)
    made = 0
    for step, photo in enumerate(photos, start=1):
        name = photo.relative_to(folder).with_suffix("").as_posix()
        found = 0
        if not writer.has(name):
            size = files.image_size(photo)
            pixels = (files.read_photo(photo, *size).numpy() * 255).round().astype(np.uint8)
            found = writer.write(name, reduced(pixels, settings.size))
            made += 1
        on_step(step, {"masks": float(found)})
    return len(photos), made


class _Automatic:
    """Segment Anything's JSON, one for each photo."""

    def __init__(self, folder: Path, model: Segmenter, settings: AutomaticMasks) -> None:
        self.folder, self.model, self.settings = folder, model, settings

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def write(self, name: str, pixels: np.ndarray) -> int:
        found = automatic_masks(self.model, pixels, self.settings)
        write_text_atomic(self.folder / f"{name}.json", json.dumps([_entry(one) for one in found]) + "\n")
        return len(found)


class _Panoptic:
    """COCO's panoptic format: a PNG for each photo, and panoptic.json, which says what is done."""

    def __init__(self, folder: Path, model: Mask2Former) -> None:
        self.folder, self.model = folder, model
        listed = folder / "panoptic.json"
        self.annotations: list[dict[str, Any]] = (
            files.read_json(listed).get("annotations", []) if listed.is_file() else []
        )
        self.categories = [
            {"id": number, "name": name, "isthing": int(thing)}
            for number, (name, thing) in enumerate(
                zip(model.classes.names, model.classes.is_thing, strict=True)
            )
        ]

    def has(self, name: str) -> bool:
        return any(one.get("file_name") == f"{name}.png" for one in self.annotations)

    def write(self, name: str, pixels: np.ndarray) -> int:
        found = self.model.segment(pixels)
        path = self.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colors = np.stack([found.ids % 256, found.ids // 256 % 256, found.ids // 65536], axis=-1).astype(
            np.uint8
        )
        write_atomic(path, lambda file: Image.fromarray(colors).save(file, "PNG"))
        self.annotations.append({"file_name": f"{name}.png", "segments_info": list(_rows(found))})
        content = {"annotations": self.annotations, "categories": self.categories}
        write_text_atomic(self.folder / "panoptic.json", json.dumps(content) + "\n")
        return len(found.rows)


def _rows(found: PanopticMap) -> Iterator[dict[str, object]]:
    for one, (number, score) in found.rows.items():
        area = int((found.ids == one).sum())
        yield {"id": one, "category_id": number, "area": area, "iscrowd": 0, "score": round(score, 4)}


def reduced(pixels: np.ndarray, longest: int) -> np.ndarray:
    """[h w 3] uint8, at most `longest` pixels long."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _entry(found: Found) -> dict[str, object]:
    rows, columns = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "segmentation": {"size": list(found.mask.shape), "counts": run_lengths(found.mask)},
        "area": int(found.mask.sum()),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "predicted_iou": round(found.predicted_iou, 4),
        "stability_score": round(found.stability, 4),
    }
