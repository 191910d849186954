"""Mask2Former through transformers: panoptic segments with classes, a folder or a name on the user's hub.

Cheng et al. 2022: each query has a class and a mask; a pixel goes to the query with the greatest product of both
probabilities, and a query stays if it is sure and keeps most of its own mask (thresholds .8 and .8, as released).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gs_lift.errors import ConfigError
from gs_lift.segmentation import Classes
from gs_lift.segmenters.sam2 import normalised

SURE, OWN = 0.8, 0.8
STEP = 32
"""Sides of what the backbone sees are multiples of it."""

COCO_THINGS = 80
"""Of COCO's 133 panoptic classes the first 80 are things."""


class PanopticMap(NamedTuple):
    """ids [h w], 0 = none; rows: of each id its class and how sure it is."""

    ids: np.ndarray
    rows: dict[int, tuple[int, float]]


@dataclass(frozen=True)
class Mask2Former:
    """model: a Mask2FormerForUniversalSegmentation in eval mode."""

    model: Any
    classes: Classes

    @classmethod
    def load(cls, name: str, things: Sequence[str] | None) -> "Mask2Former":
        """things: names of the classes that are things, None = as COCO has them.

        Raises ConfigError for a name that is no class, and where the classes are not COCO's and none are given.
        """
        from transformers import Mask2FormerForUniversalSegmentation

        model = Mask2FormerForUniversalSegmentation.from_pretrained(name, use_safetensors=True).eval()
        names = tuple(str(model.config.id2label[number]) for number in range(model.config.num_labels))
        if things is None:
            if len(names) not in (COCO_THINGS, 133):
                raise ConfigError(
                    f"--model {name}: {len(names)} classes, not COCO's; name the things with --thing"
                )
            return cls(model, Classes(names, tuple(number < COCO_THINGS for number in range(len(names)))))
        if unknown := [one for one in things if one not in names]:
            raise ConfigError(f"--thing {unknown[0]}: no class of the model; it has {', '.join(names[:20])}")
        return cls(model, Classes(names, tuple(one in things for one in names)))

    def segment(self, pixels: np.ndarray) -> PanopticMap:
        """The panoptic segments of a photo [h w 3] uint8."""
        height, width = pixels.shape[:2]
        size = (max(round(width / STEP), 1) * STEP, max(round(height / STEP), 1) * STEP)
        with torch.no_grad():
            found = self.model(pixel_values=normalised(pixels, size))
            masks = torch.nn.functional.interpolate(
                found.masks_queries_logits.float(), (height, width), mode="bilinear", align_corners=False
            )[0]
        return merged(found.class_queries_logits[0].float(), masks, self.classes)


def merged(class_logits: Tensor, mask_logits: Tensor, classes: Classes) -> PanopticMap:
    """Segments of queries: class_logits [Q S+1], the last "nothing"; mask_logits [Q h w]. Stuff of a class is one."""
    score, kind = class_logits.softmax(dim=1).max(dim=1)
    kept = torch.nonzero((kind < len(classes)) & (score > SURE))[:, 0]
    ids = np.zeros(tuple(mask_logits.shape[1:]), np.int64)
    rows: dict[int, tuple[int, float]] = {}
    if not len(kept):
        return PanopticMap(ids, rows)
    probability = mask_logits[kept].sigmoid()
    winner = (probability * score[kept, None, None]).argmax(dim=0)
    of_class: dict[int, int] = {}
    for place, query in enumerate(kept.tolist()):
        whole = probability[place] >= 0.5
        inside = whole & (winner == place)
        if not bool(inside.any()) or float(inside.sum()) < OWN * float(whole.sum()):
            continue
        number = int(kind[query])
        one = of_class.get(number, len(rows) + 1)
        if not classes.is_thing[number]:
            of_class[number] = one
        ids[inside.numpy()] = one
        rows[one] = (number, max(float(score[query]), rows.get(one, (number, 0.0))[1]))
    return PanopticMap(ids, rows)
