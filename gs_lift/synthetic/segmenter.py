"""What a panoptic segmenter like Mask2Former says of a frame of a furnished room, made from the truth and its errors.

The error model of `noise` gives the segments of the objects; here they get classes, and the rest of the frame, too.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from gs_lift.synthetic.furniture import CLASSES, FLOOR, THINGS, WALL
from gs_lift.synthetic.noise import LEVELS, NoiseLevel, NoisySegments

CONFUSABLE = {
    "wall": ("door", "window", "curtain"),
    "floor": ("otherprop", "wall"),
    "bed": ("sofa", "table"),
    "chair": ("sofa", "table"),
    "table": ("counter", "cabinet", "chair"),
    "lamp": ("otherprop", "chair"),
    "bag": ("otherprop", "chair"),
}
"""What a class is taken for."""

SPURIOUS = ("otherprop", "bag", "cabinet", "chair")
"""Classes of segments where there is nothing."""

VOID_SHARE = 0.3
"""Share of missed objects that nothing claims; the others' pixels go to the segments beside them."""


@dataclass(frozen=True)
class PanopticSegments:
    """A frame's segments.

    instance: ids of things from 1, 0 = none. segment: ids of things and of stuff from 1, 0 = none; a stuff class is one
    segment. semantic: classes, 0 = void. probability: of each class, 1 in sum. confidence: of each pixel's segment,
    less near its border.
    """

    instance: Int[np.ndarray, "H W"]
    segment: Int[np.ndarray, "H W"]
    semantic: Int[np.ndarray, "H W"]
    probability: Float[np.ndarray, "H W C"]
    confidence: Float[np.ndarray, "H W"]


def panoptic(
    truth: Int[np.ndarray, "H W"],
    classes: Int[np.ndarray, "K"],
    noisy: NoisySegments,
    level: NoiseLevel,
    rng: np.random.Generator,
) -> PanopticSegments:
    """Classes and the rest of the segments for `noisy`, those of the objects; `classes` of the ids in `truth`."""
    true_class = classes[truth]
    ids = noisy.instance.astype(np.int64)
    class_of, true_of = _classes_of_segments(ids, true_class, level, rng)
    # Floor and walls are segments, too, behind those of the objects.
    for stuff in (FLOOR, WALL):
        ids = np.where((ids == 0) & (true_class == stuff), len(class_of), ids)
        class_of, true_of = np.append(class_of, stuff), np.append(true_of, stuff)
    ids = _filled(ids, truth, len(classes), rng)
    class_of[0] = 0
    semantic = class_of[ids]
    merged = np.where(np.isin(class_of, list(THINGS)), len(CLASSES) + np.arange(len(class_of)), class_of)
    segment = np.unique(np.append(0, merged[ids]), return_inverse=True)[1][1:].reshape(ids.shape)
    thing = np.isin(semantic, list(THINGS))
    instance = np.unique(np.append(0, np.where(thing, ids, 0)), return_inverse=True)[1][1:].reshape(ids.shape)
    score = _scores(ids, noisy, level, rng)
    rows = np.stack(
        [
            _probabilities(*row, rng)
            for row in zip(class_of.tolist(), true_of.tolist(), score.tolist(), strict=True)
        ]
    )
    confidence = np.where(ids > 0, score[ids] * _certainty(ids, level), 1.0)
    return PanopticSegments(instance, segment, semantic, rows[ids], confidence)


def _classes_of_segments(
    ids: Int[np.ndarray, "H W"],
    true_class: Int[np.ndarray, "H W"],
    level: NoiseLevel,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """The class that each segment is given, and the one that most of it is; entry 0 means nothing."""
    count, width = int(ids.max()) + 1, len(CLASSES)
    joint = np.bincount((ids * width + true_class).ravel(), minlength=count * width).reshape(count, width)
    true_of = joint.argmax(axis=1)
    class_of = true_of.copy()
    for index in range(1, count):
        name, draw = CLASSES[true_of[index]], rng.random()
        if true_of[index] in (0, WALL, FLOOR):
            class_of[index] = CLASSES.index(str(rng.choice(SPURIOUS)))
        elif draw < level.confused:
            class_of[index] = CLASSES.index(str(rng.choice(CONFUSABLE[name])))
    return class_of, true_of


def _filled(
    ids: Int[np.ndarray, "H W"], truth: Int[np.ndarray, "H W"], objects: int, rng: np.random.Generator
) -> Int[np.ndarray, "H W"]:
    """The pixels of each object that no segment claims given to the nearest segment, or left by chance."""
    left = rng.random(objects) < VOID_SHARE
    given = (ids == 0) & (truth > 0) & ~left[truth]
    if not given.any() or not (ids > 0).any():
        return ids
    rows, columns = ndimage.distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
    return np.where(given, ids[rows, columns], ids)


def _scores(
    ids: Int[np.ndarray, "H W"], noisy: NoisySegments, level: NoiseLevel, rng: np.random.Generator
) -> Float[np.ndarray, "S"]:
    """Of each segment: the error model's; of floor and walls, which are the last two, near 1."""
    count = int(noisy.instance.max()) + 1
    score = np.ones(count + 2)
    score[noisy.instance.ravel()] = noisy.probability.ravel()
    if level != LEVELS["none"]:
        score[count:] = rng.uniform(0.9, 0.98, 2)
    return score


def _certainty(ids: Int[np.ndarray, "H W"], level: NoiseLevel) -> Float[np.ndarray, "H W"]:
    """Averaged masks are vague at their borders: from 0.6 there to 1 a few pixels (of 256) inside."""
    if level == LEVELS["none"]:
        return np.ones(ids.shape)
    padded = np.pad(ids, 1, mode="edge")
    inner = np.ones(ids.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inner &= other == ids
    if inner.all():
        return np.ones(ids.shape)
    distance = ndimage.distance_transform_edt(inner) / (ids.size / 256**2) ** 0.5
    return 1 - 0.4 * np.exp(-distance / 1.5)


def _probabilities(given: int, true: int, score: float, rng: np.random.Generator) -> Float[np.ndarray, "C"]:
    """Of a segment's classes: the most for the one it is given, then those it is taken for, some for all but void."""
    row = np.zeros(len(CLASSES))
    if given == 0:
        row[0] = 1
        return row
    near = {CLASSES.index(name) for name in CONFUSABLE.get(CLASSES[given], ())} | {true} - {0}
    row[1:] = 0.3 * rng.dirichlet(np.ones(len(CLASSES) - 1))
    row[list(near)] += 0.7 * rng.dirichlet(np.full(len(near), 2.0)) if near else 0
    row[given] = 0
    certain = 0.5 + 0.45 * score if given == true else 0.5 + 0.2 * score
    row *= (1 - certain) / row.sum()
    row[given] = certain
    return row
