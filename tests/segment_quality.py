"""Quality of id maps as the error model writes them: 0 = none."""

import numpy as np
import torch

from gs_lift.metrics import FrameQuality, frame_quality
from gs_lift.segmentation import Segments


def as_segments(ids: np.ndarray) -> Segments:
    instance = torch.from_numpy(ids.astype(np.int64)) - 1
    return Segments(instance, (instance >= 0).long(), torch.ones(instance.shape))


def segment_quality(
    *pairs: tuple[np.ndarray, np.ndarray], minimum_area_px: float | None = None
) -> FrameQuality:
    """Quality of frames (segments, truth)."""
    segments = [(as_segments(found), as_segments(truth)) for found, truth in pairs]
    return frame_quality(segments, things=[1], minimum_area_px=minimum_area_px)
