"""Pictures as every layout writes them."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image

from gs_lift.files import write_atomic


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Colours [H W 3] or grey [H W] of uint8, or grey of uint16: Pillow's versions differ in other types."""
    write_atomic(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def millimetres(depth_m: Float[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """Depth as 16-bit pictures hold it, up to 65.535 m; 0 = none."""
    return np.rint(1000 * depth_m).clip(0, 65535).astype(np.uint16)
