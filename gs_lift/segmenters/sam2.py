"""SAM 2 through transformers: a folder that `save_pretrained` wrote, or a name on the user's hub.

Photos are stretched to a square, as the model was trained (Sam2ImageProcessor), and points with them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """[1 3 h w] of a photo [.. .. 3] uint8 brought to size (width, height), with ImageNet's mean and deviation."""
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    scaled = (resized - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None]


@dataclass(frozen=True)
class Sam2:
    """model: a Sam2Model in eval mode."""

    model: Any

    @classmethod
    def load(cls, name: str) -> "Sam2":
        from transformers import Sam2Model

        return cls(Sam2Model.from_pretrained(name, use_safetensors=True).eval())

    def encode(self, pixels: np.ndarray) -> "Sam2Image":
        """What the decoder needs of a photo [h w 3] uint8."""
        side = int(self.model.config.prompt_encoder_config.image_size)
        with torch.no_grad():
            embeddings = self.model.get_image_embeddings(normalised(pixels, (side, side)))
        height, width = pixels.shape[:2]
        return Sam2Image(self.model, embeddings, (height, width), side)


@dataclass(frozen=True)
class Sam2Image:
    """A photo of `shape` (height, width) that was encoded as a square of `side` pixels."""

    model: Any
    embeddings: list[Tensor]
    shape: tuple[int, int]
    side: int

    def masks_at(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [3 h w] of the masks that a point (x, y), pixels of the photo, is in, and their predicted IoU [3]."""
        height, width = self.shape
        place = torch.from_numpy(point * self.side / np.array([width, height])).float()
        with torch.no_grad():
            found = self.model(
                image_embeddings=self.embeddings,
                input_points=place.view(1, 1, 1, 2),
                input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
                multimask_output=True,
            )
            masks = torch.nn.functional.interpolate(
                found.pred_masks[0].float(), self.shape, mode="bilinear", align_corners=False
            )
        return masks[0].numpy(), found.iou_scores[0, 0].float().numpy()
