"""A COLMAP project: photos beside a sparse model, binary or text, as COLMAP, hloc, Glomap and ns-process-data write it.

    images/ or images_2/ _4/ _8/        photos, also in sub folders
    sparse/0/ or sparse/, also below colmap/     cameras, images and points3D, .bin or .txt
    masks/ and the like                 optional; segments: see masks.py

Poses are world to camera in OpenCV axes, pixel centres at +0.5. Of several models the one with the most photos is
taken. Photos that COLMAP could not register have no pose and are left out. Every data.test_every-th photo is for
testing.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.lens import Lens, lenses_in, run_worker
from gs_lift.datasets.mask_files import OBJECTS
from gs_lift.datasets.masks import find_masks
from gs_lift.datasets.photos import Photo, photo_view, segments_outside
from gs_lift.errors import SceneError
from gs_lift.scene import Scene, View

log = logging.getLogger(__name__)

LAYOUT = "sparse/0 of COLMAP beside images/"

MODELS = ("sparse", "colmap/sparse")
IMAGES = ("images", "images_2", "images_4", "images_8")
NAMED = 3
"""Of photos that are left out so many are named."""


def matches(path: Path) -> bool:
    return bool(_models(path))


def read(path: Path, config: DataConfig) -> Scene:
    folder = _largest_model(path, config)
    arrays = run_worker("model", folder, folder)
    lenses = lenses_in(arrays, folder)
    names = arrays["names"].tolist()
    strange = next((name for name in names if not name.isprintable()), None)
    if strange is not None:
        raise SceneError(
            f"{folder}: a photo is called {strange[:80]!r}; wanted names without control characters"
        )
    if not np.isfinite(arrays["viewmats"]).all() or not np.isfinite(arrays["means"]).all():
        raise SceneError(f"{folder}: poses or points that are not finite; reconstruct it again")
    photos = _photos(path, names, [lenses[one] for one in arrays["camera"]], arrays["viewmats"], config)
    if len(photos) < 2:
        raise SceneError(f"{folder}: {len(photos)} photos with a pose; wanted at least 2")
    return scene_of(
        path,
        photos,
        config,
        points=torch.from_numpy(arrays["means"]).float(),
        colors=torch.from_numpy(arrays["colors"]).float() / 255,
    )


def scene_of(
    path: Path,
    photos: Sequence[Photo],
    config: DataConfig,
    *,
    points: torch.Tensor,
    colors: torch.Tensor,
    test: set[str] | None = None,
    hidden: Mapping[str, Path] = MappingProxyType({}),
) -> Scene:
    """A scene of photos with the segments that lie beside them.

    test: names of the photos for testing, None = every data.test_every-th. hidden: by the photo's name, an image
    that is black where the photo has no segment.
    """
    masks = find_masks(path, [photo.name for photo in photos], config)
    views: list[View] = []
    for photo in photos:
        segments = masks.of(photo.name, photo.width, photo.height) if masks else None
        if segments and photo.name in hidden:
            segments = partial(segments_outside, segments, hidden[photo.name])
        views.append(photo_view(photo, segments, None, config.max_size))
    every = config.test_every
    if test is None:
        test = {view.name for view in views[::every]} if every else set()
    train = tuple(view for view in views if view.name not in test)
    if not train:
        raise SceneError(f"{path}: no photo is left to train on; change data.test_every")
    return Scene(
        path.resolve().name,
        train,
        tuple(view for view in views if view.name in test),
        points,
        colors,
        masks.classes if masks else OBJECTS,
    )


def _models(path: Path) -> list[Path]:
    """Folders that hold a model: the numbered ones in sparse/, or sparse/ itself."""
    found = []
    for name in MODELS:
        root = path / name
        if root.is_dir():
            numbered = sorted(
                (one for one in root.iterdir() if one.name.isdigit()), key=lambda one: int(one.name)
            )
            found += [one for one in (*numbered, root) if _is_model(one)]
    return found


def _is_model(folder: Path) -> bool:
    return any(
        all((folder / f"{name}.{ending}").is_file() for name in ("cameras", "images"))
        for ending in ("bin", "txt")
    )


def _largest_model(path: Path, config: DataConfig) -> Path:
    models = _models(path)
    if not models:
        raise SceneError(f"{path}: no model of COLMAP; looked for {LAYOUT}")
    for model in models:
        for file in model.iterdir():
            files.check_inside(path, file, config.allow_outside)
    # The list of images grows with the photos that are registered; nothing has to be read to compare.
    chosen = max(models, key=lambda model: max(one.stat().st_size for one in model.glob("images.*")))
    if len(models) > 1:
        others = ", ".join(str(one.relative_to(path)) for one in models if one != chosen)
        log.warning("%s: %d models; took the largest, not %s", chosen, len(models), others)
    return chosen


def _photos(
    path: Path, names: list[str], lenses: list[Lens], viewmats: np.ndarray, config: DataConfig
) -> list[Photo]:
    """The registered photos that are there, in the order of their names."""
    folder = _images(path, names, config)
    stems = [str(Path(name).with_suffix("")) for name in names]
    if len(set(stems)) < len(stems):
        stems = names
    photos, missing = [], []
    for name, stem, lens, viewmat in zip(names, stems, lenses, viewmats, strict=True):
        file = _photo(path, folder, name, config)
        if file is None:
            missing.append(name)
            continue
        photos.append(Photo(stem, file, *files.image_size(file), lens, torch.from_numpy(viewmat)))
    if not photos:
        raise SceneError(
            f"{folder}: none of the model's {len(names)} photos ({', '.join(names[:NAMED])}) is here"
        )
    if missing:
        log.warning(
            "%s: %d photos of the model are missing (%s)", folder, len(missing), ", ".join(missing[:NAMED])
        )
    there = sum(1 for one in folder.rglob("*") if one.suffix.lower() in files.PHOTO_SUFFIXES)
    if there > len(photos):
        log.warning("%s: %d of %d photos have no pose and are left out", folder, there - len(photos), there)
    return photos


def _images(path: Path, names: list[str], config: DataConfig) -> Path:
    """The folder of the smallest photos that are not smaller than data.max_size, else of the largest."""
    sizes = {}
    for name in (one for one in IMAGES if (path / one).is_dir()):
        there = (_photo(path, path / name, one, config) for one in names)
        first = next((file for file in there if file is not None), None)
        if first is not None:
            sizes[path / name] = max(files.image_size(first))
    if not sizes:
        raise SceneError(
            f"{path}: no photos; wanted images/ (or images_2/ ...) with {', '.join(names[:NAMED])}"
        )
    enough = {folder: size for folder, size in sizes.items() if config.max_size and size >= config.max_size}
    return min(enough, key=lambda one: enough[one]) if enough else max(sizes, key=lambda one: sizes[one])


def _photo(root: Path, folder: Path, name: str, config: DataConfig) -> Path | None:
    """The file of a photo; reduced copies may be of another kind (images_4/a.png of images/a.JPG)."""
    stem = os.path.splitext(name)[0]
    others = (stem + ending for ending in files.PHOTO_ENDINGS)
    names = (str(folder / one) for one in (name, *others))
    return files.existing(root, names, config.allow_outside)
