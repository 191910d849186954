"""What the viewer shows of each Gaussian: its colour by the mode of the view."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gs_lift.editing import Editor
from gs_lift.exports import Labelled, Object
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0, quats_to_rotmats
from gs_lift.palette import colorize, viridis
from gs_lift.segmentation import VOID

DIMMED = 0.3
"""Share of its colour that stays of what is not selected."""


@dataclass(frozen=True)
class Shown:
    """Gaussians with the object of each: labels [N], -1 = none, and scores [N].

    classes: [N] of class_names, VOID = unknown.
    """

    gaussians: Gaussians
    labels: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]
    classes: Int[np.ndarray, "N"]
    class_names: tuple[str, ...]
    objects: tuple[Object, ...]

    @classmethod
    def of_editor(cls, editor: Editor) -> "Shown":
        """The classes of what belongs to no object are those that were learnt."""
        shown = cls.of_labelled(
            Labelled.of_cut(editor.gaussians, editor.instances, editor.scene.classes, editor.names)
        )
        learnt = editor.embeddings.semantic.argmax(dim=1).numpy()
        # Behind those of the objects, whose numbers must be the same without them.
        names = editor.scene.classes.names
        order = (*shown.class_names, *(name for name in names if name not in shown.class_names))
        number = np.array([order.index(name) for name in names])
        classes = np.where(shown.labels >= 0, shown.classes, number[learnt])
        return replace(shown, classes=classes, class_names=order)

    @classmethod
    def of_labelled(cls, labelled: Labelled) -> "Shown":
        """Classes are numbered by their names."""
        labels, objects = labelled.ids.numpy() - 1, labelled.objects
        names = sorted({one.class_name for one in objects if one.class_name})
        of_object = np.full(int(labels.max(initial=-1)) + 2, VOID)  # the last one is that of none
        for one in objects:
            if one.class_name:
                of_object[one.id - 1] = names.index(one.class_name)
        gaussians = labelled.gaussians.detach().to("cpu")
        return cls(gaussians, labels, labelled.scores.numpy(), of_object[labels], tuple(names), objects)

    def __len__(self) -> int:
        return len(self.labels)


def covariances_of(gaussians: Gaussians) -> Float[np.ndarray, "N 3 3"]:
    """In world units squared."""
    axes = quats_to_rotmats(gaussians.quats.float()) * gaussians.scales.float()[:, None, :]
    return (axes @ axes.transpose(1, 2)).detach().cpu().numpy()


def colors_of(gaussians: Gaussians) -> UInt8[np.ndarray, "N 3"]:
    """From all sides alike: spherical harmonics of degree 0."""
    colors = (gaussians.sh0[:, 0].detach().cpu() * SH_C0 + 0.5).clamp(0, 1)
    return (colors * 255).round().byte().numpy()


def _by_color(shown: Shown, position: Float[np.ndarray, "3"] | None) -> UInt8[np.ndarray, "N 3"]:
    return colors_of(shown.gaussians)


def _by_instance(shown: Shown, position: Float[np.ndarray, "3"] | None) -> UInt8[np.ndarray, "N 3"]:
    return colorize(shown.labels)


def _by_class(shown: Shown, position: Float[np.ndarray, "3"] | None) -> UInt8[np.ndarray, "N 3"]:
    return colorize(shown.classes)


def _by_confidence(shown: Shown, position: Float[np.ndarray, "3"] | None) -> UInt8[np.ndarray, "N 3"]:
    return np.where(shown.labels[:, None] >= 0, viridis(shown.scores), np.uint8(60))


def _by_depth(shown: Shown, position: Float[np.ndarray, "3"] | None) -> UInt8[np.ndarray, "N 3"]:
    means = shown.gaussians.means.double().numpy()
    off = np.linalg.norm(means - (means.mean(axis=0) if position is None else position), axis=1)
    near, far = np.quantile(off, [0.01, 0.99]) if len(off) else (0.0, 1.0)
    # As in rendered depth pictures.
    grey = 255 - 200 * np.clip((off - near) / max(far - near, 1e-9), 0, 1)
    return grey.round().astype(np.uint8)[:, None].repeat(3, axis=1)


MODES: dict[str, Callable[[Shown, Float[np.ndarray, "3"] | None], UInt8[np.ndarray, "N 3"]]] = {
    "color": _by_color,
    "instance": _by_instance,
    "class": _by_class,
    "confidence": _by_confidence,
    "depth": _by_depth,
}
"""Name -> colours; depth is the distance from a place, by default the middle of the scene; near is bright."""


def paint(
    mode: str, shown: Shown, *, position: Float[np.ndarray, "3"] | None = None, selected: Sequence[int] = ()
) -> UInt8[np.ndarray, "N 3"]:
    """Colours by a mode; where objects are selected (instances, from 0) all others are dimmed."""
    colors = MODES[mode](shown, position)
    if len(selected):
        others = ~np.isin(shown.labels, list(selected))
        colors = colors.copy()
        colors[others] = (colors[others] * DIMMED + 40).astype(np.uint8)
    return colors


def visible(
    shown: Shown, hidden: Collection[int] = (), isolated: Collection[int] | None = None
) -> Bool[np.ndarray, "N"]:
    """Which Gaussians are shown: those of the isolated objects only (None: all), none of the hidden ones."""
    kept = np.ones(len(shown), dtype=bool) if isolated is None else np.isin(shown.labels, list(isolated))
    return kept & ~np.isin(shown.labels, list(hidden))
