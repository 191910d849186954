"""Videos read back by ffmpeg itself."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np


@dataclass(frozen=True)
class Video:
    """frames: [F H W 3] uint8; codec and pix_fmt as ffmpeg names them."""

    frames: np.ndarray
    fps: float
    codec: str
    pix_fmt: str


def read_video(path: Path) -> Video:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    said = result.stderr.decode(errors="replace")
    stream = re.search(r"Video: (\w+)[^\n]*? (yuv\w+\([^)]*\))[^\n]*? (\d+)x(\d+)[^\n]*? ([\d.]+) fps", said)
    assert stream, said
    width, height = int(stream[3]), int(stream[4])
    frames = np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)
    return Video(frames, float(stream[5]), stream[1], stream[2])
