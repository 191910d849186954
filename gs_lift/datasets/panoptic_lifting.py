"""The layout of Panoptic Lifting (ScanNet, Replica, HyperSim, in the wild), also that of Contrastive Lift's scenes.

    color/<frame>.jpg or .png       photos of one size
    pose/<frame>.txt                4x4, camera to world, OpenCV axes
    intrinsic/intrinsic_color.txt   4x4, one K for all frames; pixel centres at whole numbers
    splits.json                     optional; {"train": [frame, ...], "test": [frame, ...]}; "val" stands for a
                                    missing "test". Without the file every 6th frame, the first one too, is for test
    m2f_instance/<frame>.png        optional; segments of things: ids of this frame only, 0 = none
    m2f_semantics/<frame>.png       optional; classes 0..21, read where there is no .npz file
    m2f_probabilities/<frame>.npz   optional; `probability` [h w 22], `confidence` [h w]; perhaps of fewer pixels
    rs_semantics/<frame>.png        optional; truth: classes 0..21
    rs_instance/<frame>.png         with it; truth: ids of the scene's things, 0 = none
    depth/<frame>.png               optional; 16 bit, millimetres along the optical axis, 0 = none

Nothing else is read, segmentation_data.pkl in particular. Classes keep their numbers; 0, void, becomes VOID.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.datasets import DataConfig, files
from gs_lift.datasets.masks import replaced_segments
from gs_lift.datasets.scannet import CLASSES
from gs_lift.errors import SceneError
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import VOID, Segments

LAYOUT = "pose/ and intrinsic/intrinsic_color.txt beside color/"

TEST_EVERY = 6
"""The original's share of test frames for scenes of its own, where no splits.json says another."""


@dataclass(frozen=True)
class SegmentFiles:
    """Where the segments of one frame lie; at least one of semantic and probabilities is a file. size: of the arrays in
    `probabilities`, height and width; has_confidence: whether one of them is the confidence."""

    instance: Path
    semantic: Path | None
    probabilities: Path | None
    size: tuple[int, int]
    has_confidence: bool


def matches(path: Path) -> bool:
    """Whether `path` looks like this layout, perhaps with a part missing, which `read` then names."""
    parts = (path / "color", path / "pose", path / "intrinsic" / "intrinsic_color.txt")
    return sum(part.exists() for part in parts) >= 2


def read(path: Path, config: DataConfig) -> Scene:
    """Read cameras and the headers of all files; pixels later, when they are asked for."""
    for name in ("color", "pose", "intrinsic/intrinsic_color.txt"):
        if not (path / name).exists():
            raise SceneError(f"{path}: no {name}; the Panoptic Lifting layout wants {LAYOUT}")
    photos = {photo.stem: photo for photo in files.list_photos(path / "color")}
    if len(photos) < 2:
        found = "no photos" if not photos else "a single photo"
        raise SceneError(
            f"{path / 'color'}: {found}; wanted at least 2 PNG or JPEG files, to train and to test on"
        )
    train, test = _splits(path, list(photos), config)
    first = next(iter(photos.values()))
    files.check_inside(path, first, config.allow_outside)
    size = files.image_size(first)
    K = _intrinsics(path, size, config)
    views = [
        tuple(
            _view(path, photos[stem], Camera(K, _viewmat(path, stem, config), *size), config)
            for stem in stems
        )
        for stems in (train, test)
    ]
    taught = replaced_segments(path, views[0], CLASSES, config) or views[0]
    nothing = torch.zeros(0, 3)
    return Scene(path.resolve().name, taught, views[1], nothing, nothing, CLASSES)


def _splits(root: Path, stems: list[str], config: DataConfig) -> tuple[list[str], list[str]]:
    """The frames to train and to test on, in the order of frames."""
    path = root / "splits.json"
    if not path.exists():
        test = stems[::TEST_EVERY]
        return [stem for stem in stems if stem not in set(test)], test
    files.check_inside(root, path, config.allow_outside)
    content = files.read_json(path)
    chosen: list[list[str]] = []
    for name in ("train", "test" if content.get("test") else "val"):
        frames = content.get(name)
        wanted = "test" if name == "val" else name
        if not isinstance(frames, list) or not frames or not all(isinstance(stem, str) for stem in frames):
            raise SceneError(
                f"{path}: no frames in `{wanted}`; wanted a list of the names in color/ without suffix"
            )
        unknown = sorted(set(frames) - set(stems))
        if unknown:
            raise SceneError(
                f"{path}: {unknown[0][:80]!r} in `{name}` is no photo; wanted names of photos in color/"
            )
        chosen.append([stem for stem in stems if stem in set(frames)])
    both = sorted(set(chosen[0]) & set(chosen[1]))
    if both:
        raise SceneError(f"{path}: {both[0]!r} is both for training and for test; wanted each frame once")
    return chosen[0], chosen[1]


def _intrinsics(root: Path, size: tuple[int, int], config: DataConfig) -> Float[Tensor, "3 3"]:
    """K for pixel centres at +0.5."""
    path = root / "intrinsic" / "intrinsic_color.txt"
    files.check_inside(root, path, config.allow_outside)
    K = files.read_matrix(path)[:3, :3]
    if K[0, 0] <= 0 or K[1, 1] <= 0 or K[1, 0] or K[2, 0] or K[2, 1] or K[2, 2] != 1:
        raise SceneError(f"{path}: K is {K.tolist()}; wanted [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    if K[0, 1]:
        raise SceneError(
            f"{path}: a skew of {K[0, 1]:g}; wanted 0, as no renderer here knows skew; "
            "resample the photos to a camera without it"
        )
    K[:2, 2] += 0.5
    if not (0 < K[0, 2] < size[0] and 0 < K[1, 2] < size[1]):
        raise SceneError(
            f"{path}: the principal point ({K[0, 2]:g}, {K[1, 2]:g}) is outside the photos of {size[0]}x{size[1]} "
            "pixels; wanted K of photos of that size: multiply its first two rows by the factors of resizing"
        )
    return torch.from_numpy(K)


def _viewmat(root: Path, stem: str, config: DataConfig) -> Float[Tensor, "4 4"]:
    path = root / "pose" / f"{stem}.txt"
    files.check_inside(root, path, config.allow_outside)
    pose = files.read_matrix(path)
    rotation = pose[:3, :3]
    orthogonal = np.abs(rotation.T @ rotation - np.eye(3)).max() < 0.01
    if not orthogonal or np.linalg.det(rotation) < 0 or (pose[3] != [0, 0, 0, 1]).any():
        raise SceneError(f"{path}: not a rotation and a position; wanted camera to world, last line 0 0 0 1")
    return torch.linalg.inv(torch.from_numpy(pose))


def _view(root: Path, photo: Path, camera: Camera, config: DataConfig) -> View:
    size = (camera.width, camera.height)

    def there(folder: str, suffix: str = "png") -> Path | None:
        path = root / folder / f"{photo.stem}.{suffix}"
        if not path.exists():
            return None
        files.check_inside(root, path, config.allow_outside)
        if suffix == "png":
            files.check_image_size(path, *size)
        return path

    files.check_inside(root, photo, config.allow_outside)
    files.check_image_size(photo, *size)
    segments = _segment_files(
        there("m2f_instance"), there("m2f_semantics"), there("m2f_probabilities", "npz"), camera
    )
    semantic, instance, depth = there("rs_semantics"), there("rs_instance"), there("depth")
    if (semantic is None) != (instance is None):
        missing = root / ("rs_semantics" if semantic is None else "rs_instance") / f"{photo.stem}.png"
        raise SceneError(f"{missing}: missing; wanted a truth of both classes and instances, or none")
    return View(
        name=photo.stem,
        camera=camera,
        image=partial(files.read_photo, photo, *size),
        segments=partial(read_segments, segments, *size) if segments else None,
        truth=partial(read_truth, semantic, instance, *size) if semantic and instance else None,
        depth=partial(files.read_depth_mm, depth, *size) if depth else None,
    )


def _segment_files(
    instance: Path | None, semantic: Path | None, probabilities: Path | None, camera: Camera
) -> SegmentFiles | None:
    """The files of a frame's segments, whose headers are checked here; None without a map of instances."""
    if instance is None:
        return None
    if probabilities is None:
        if semantic is None:
            raise SceneError(
                f"{instance}: segments without classes; wanted {instance.stem}.npz in m2f_probabilities/ "
                "or a map in m2f_semantics/"
            )
        return SegmentFiles(instance, semantic, None, (0, 0), False)
    most = len(CLASSES) * camera.height * camera.width
    shape = files.archived_shape(probabilities, "probability", most)
    if shape is None:
        raise SceneError(
            f"{probabilities}: no array `probability`; wanted one of shape (h, w, {len(CLASSES)})"
        )
    if len(shape) != 3 or shape[2] != len(CLASSES) or 0 in shape:
        raise SceneError(f"{probabilities}: `probability` has shape {shape}; wanted (h, w, {len(CLASSES)})")
    confidence = files.archived_shape(probabilities, "confidence", most)
    if confidence not in (None, shape[:2]):
        raise SceneError(f"{probabilities}: `confidence` has shape {confidence}; wanted {shape[:2]}")
    return SegmentFiles(instance, semantic, probabilities, (shape[0], shape[1]), confidence is not None)


def read_segments(segments: SegmentFiles, width: int, height: int) -> Segments:
    """The segments of one frame; what is in the archive takes the photo's size by nearest neighbour."""
    ids = files.read_id_image(segments.instance, width, height)
    confidence = np.ones((height, width), np.float32)
    if segments.probabilities is None:
        assert segments.semantic is not None, "_segment_files saw to it"
        semantic = _read_classes(segments.semantic, width, height)
    else:
        nearest = np.ix_(_nearest(segments.size[0], height), _nearest(segments.size[1], width))
        probability = files.read_archived(
            segments.probabilities, "probability", (*segments.size, len(CLASSES))
        )
        if not np.isfinite(probability).all():
            raise SceneError(f"{segments.probabilities}: nan or inf in `probability`; wanted probabilities")
        semantic = probability.argmax(axis=2)[nearest]
        semantic = np.where(semantic == 0, VOID, semantic)
        if segments.has_confidence:
            values = files.read_archived(segments.probabilities, "confidence", segments.size)
            # A mean of probabilities may be rounded to a little more than 1.
            if not ((values >= -1e-3) & (values <= 1.001)).all():  # NaN included
                raise SceneError(f"{segments.probabilities}: `confidence` outside 0..1; wanted probabilities")
            confidence = values.clip(0, 1)[nearest]
    return Segments(
        instance=torch.from_numpy(np.where(ids > 0, ids, -1)),
        semantic=torch.from_numpy(semantic),
        confidence=torch.from_numpy(confidence),
    )


def read_truth(semantic: Path, instance: Path, width: int, height: int) -> Segments:
    """The truth of one frame."""
    ids = files.read_id_image(instance, width, height)
    return Segments(
        instance=torch.from_numpy(np.where(ids > 0, ids, -1)),
        semantic=torch.from_numpy(_read_classes(semantic, width, height)),
        confidence=torch.ones(height, width),
    )


def _read_classes(path: Path, width: int, height: int) -> np.ndarray:
    classes = files.read_id_image(path, width, height)
    if not ((classes >= 0) & (classes < len(CLASSES))).all():
        raise SceneError(
            f"{path}: classes {classes.min()} to {classes.max()}; wanted 0 void to {len(CLASSES) - 1} "
            f"{CLASSES.names[-1]}"
        )
    return np.where(classes == 0, VOID, classes)


def _nearest(count: int, wanted: int) -> np.ndarray:
    """Which of `count` rows each of `wanted` rows takes, by the places of their centres."""
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)
