"""SIFT features by pycolmap, run as a script: `python sift_worker.py FOLDER FIRST STRIDE`.

A process of its own, because one that imports pycolmap 4.2.1 first crashes when Pillow writes a PNG (two
zlibs); and by path, not by `-m`, because the package around it imports torch.

Reads FOLDER/gray_*.npy (float32 [H W] in 0..1), every STRIDE-th from the FIRST-th, and writes beside each
sift_*.npz: xy [F 2] in pixels with centres at +0.5, descriptors [F 128] uint8.
"""

import os
import sys
import threading
from pathlib import Path

import numpy as np

PEAK_THRESHOLD = 0.004
"""Weakest extremum of the difference of Gaussians. On messy_sam_50 3,890 points; 3,483 with COLMAP's 0.0067."""


def _exit_with_parent() -> None:
    """The parent holds our standard input open: its end, however it came, is ours."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: Path, first: int, stride: int) -> None:
    import pycolmap

    pycolmap.logging.minloglevel = 2
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = 1
    options.sift.peak_threshold = PEAK_THRESHOLD
    extractor = pycolmap.FeatureExtractor.create(options)
    for path in sorted(folder.glob("gray_*.npy"))[first::stride]:
        keypoints, descriptors = extractor.extract_from_float32_array(np.load(path))
        xy = pycolmap.keypoints_to_matrix(keypoints)[:, :2].reshape(-1, 2)
        result = path.with_name(path.stem.replace("gray", "sift") + ".npz")
        np.savez(result.with_suffix(".part.npz"), xy=xy, descriptors=descriptors.data.reshape(-1, 128))
        os.replace(result.with_suffix(".part.npz"), result)


if __name__ == "__main__":
    _exit_with_parent()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
