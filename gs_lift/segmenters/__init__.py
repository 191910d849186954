"""2D segments of photos by a segmenter that the user has: what `gslift masks` writes and datasets/masks.py reads.

One file for each photo, in Segment Anything's own format (a list of masks in COCO's run lengths with predicted_iou and
stability_score), written whole: a run that was stopped goes on with the photos that have none.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gs_lift.datasets import files
from gs_lift.datasets.mask_files import run_lengths
from gs_lift.errors import ConfigError, SceneError
from gs_lift.files import write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.segmenters.automatic import AutomaticMasks, Found, automatic_masks
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


def load_model(path: Path) -> SamOnnx:
    """The segmenter in a folder: a SAM-style pair of ONNX files. Raises ConfigError for anything else."""
    if not path.is_dir():
        raise ConfigError(
            f"--model {path}: no such folder; wanted one with encoder and decoder of a SAM as ONNX"
        )
    return SamOnnx.load(path)


def write_masks(
    scene: Path,
    out: Path,
    model: SamOnnx,
    settings: AutomaticMasks,
    *,
    on_step: OnStep = lambda step, figures: None,
) -> tuple[int, int]:
    """Segment the photos of a scene that have no file in `out` yet; how many there are, and how many were segmented."""
    folder, photos = photos_of(scene)
    if settings.stride > 1:
        photos = photos[:: settings.stride]
    made = 0
    for step, photo in enumerate(photos, start=1):
        target = out / photo.relative_to(folder).with_suffix(".json")
        found: Sequence[Found] = ()
        if not target.exists():
            size = files.image_size(photo)
            pixels = (files.read_photo(photo, *size).numpy() * 255).round().astype(np.uint8)
            found = automatic_masks(model, reduced(pixels, settings.size), settings)
            write_text_atomic(target, json.dumps([_entry(one) for one in found]) + "\n")
            made += 1
        on_step(step, {"masks": float(len(found))})
    return len(photos), made


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
