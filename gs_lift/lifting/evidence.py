"""What the segments of each view cover, gathered while the views are prepared."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Int
from torch import Tensor

from gs_lift.lifting.sampling import LabelledPixels, ThingPixels
from gs_lift.rendering.weights import Weights
from gs_lift.segmentation import Classes, Evidence

FAINT = 0.01
"""Pixels: less of a Gaussian in a region is left out."""


@dataclass
class EvidenceOfViews:
    """Gathers Evidence view by view; at the end nothing has to be rendered again."""

    classes: Classes
    _kinds: dict[int, list[int]] = field(default_factory=dict)
    _regions: dict[int, scipy.sparse.csr_array] = field(default_factory=dict)

    def add(
        self, view: int, weights: Weights, things: ThingPixels, labelled: LabelledPixels, scale: float
    ) -> None:
        """Regions of a view, of whose pixels `weights` holds one in `scale`. view: any number, ascending ones are those
        of the result, which has no gaps."""
        region, kinds = self._regions_of(len(weights), things, labelled)
        blend = scipy.sparse.csr_array(
            (weights.values.float().numpy(), weights.indices.numpy(), weights.indptr.numpy()),
            shape=(len(weights), weights.columns),
        )
        pixels = np.arange(len(weights))
        members = scipy.sparse.csr_array(
            (np.full(len(pixels), scale, dtype=np.float32), (region, pixels)), shape=(len(kinds), len(pixels))
        )
        covered = members @ blend
        covered.data[covered.data < FAINT] = 0
        covered.eliminate_zeros()
        covered.sort_indices()
        self._kinds[view] = kinds
        self._regions[view] = covered.astype(np.float32)

    def take(self, other: "EvidenceOfViews") -> None:
        """Add the views that another has gathered."""
        self._kinds |= other._kinds
        self._regions |= other._regions

    def _regions_of(
        self, count: int, things: ThingPixels, labelled: LabelledPixels
    ) -> tuple[np.ndarray, list[int]]:
        """The region of each of `count` pixels, and the kind of each region."""
        segments, stuff = (
            len(things.offsets) - 1,
            [i for i, thing in enumerate(self.classes.is_thing) if not thing],
        )
        kinds = [Evidence.THING] * segments + [Evidence.STUFF] * len(stuff) + [Evidence.UNKNOWN]
        # A thing's class without a segment says nothing of which thing.
        of_class = np.full(len(self.classes), len(kinds) - 1)
        of_class[stuff] = segments + np.arange(len(stuff))
        region = np.full(count, len(kinds) - 1)
        region[labelled.rows.numpy()] = of_class[labelled.classes.numpy()]
        region[things.rows.numpy()] = things.segment.numpy()
        return region, kinds

    def result(self, order: Int[Tensor, "N"]) -> Evidence:
        """All that was added; column g of what was added is Gaussian order[g]."""
        views = sorted(self._regions)
        stacked = scipy.sparse.vstack([self._regions[view] for view in views], format="csr")
        indices = order.cpu().numpy()[stacked.indices]
        placed = scipy.sparse.csr_array((stacked.data, indices, stacked.indptr), shape=stacked.shape)
        placed.sort_indices()
        return Evidence(
            view=torch.tensor(
                [number for number, view in enumerate(views) for _ in self._kinds[view]], dtype=torch.int32
            ),
            kind=torch.tensor([kind for view in views for kind in self._kinds[view]], dtype=torch.int8),
            indptr=torch.from_numpy(placed.indptr.astype(np.int64)),
            indices=torch.from_numpy(placed.indices.astype(np.int32)),
            # 65504 is float16's largest: a Gaussian that fills a photo of 40 megapixels has more.
            values=torch.from_numpy(np.minimum(placed.data, 65504).astype(np.float16)),
        )
