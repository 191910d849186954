"""Videos that play everywhere: H.264 in MP4, 4:2:0, colours as BT.709; by the ffmpeg that imageio-ffmpeg brings."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gs_lift.errors import BackendError, VideoError
from gs_lift.files import atomic_path

QUALITY = 18
"""x264's constant rate factor: what most eyes cannot tell from the original."""

# Converted and tagged: without tags a player guesses the matrix by the size of the video, and colours shift.
_COLORS = (
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)


@contextmanager
def video_writer(path: Path, width: int, height: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame [height width 3] uint8; the video is at `path`, whole or not at all.

    width, height: even numbers, since colours have half the resolution. Raises VideoError for odd ones, and where
    ffmpeg did not write what it was given.
    """
    from imageio_ffmpeg import write_frames

    if width % 2 or height % 2:
        raise VideoError(f"{path}: {width} x {height} pixels; H.264 wants even numbers, or write a folder")
    with atomic_path(path) as temporary:
        encoder = write_frames(
            temporary.resolve(),  # a relative name could look like an option or a protocol
            (width, height),
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=[
                *("-crf", str(QUALITY), "-vf", _COLORS),
                *("-movflags", "+faststart"),  # plays while it loads
            ],
        )
        written = 0

        def append(frame: np.ndarray) -> None:
            nonlocal written
            if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                raise ValueError(f"frame {frame.shape} {frame.dtype}, wanted {(height, width, 3)} uint8")
            try:
                encoder.send(np.ascontiguousarray(frame))
            except OSError as error:
                raise VideoError(f"{path}: ffmpeg stopped ({str(error).splitlines()[0]})") from None
            written += 1

        try:
            _start(encoder)
            yield append
        finally:
            encoder.close()
        _check_whole(path, temporary, written)


def _start(encoder: Generator[None, np.ndarray | None, None]) -> None:
    try:
        encoder.send(None)
    except RuntimeError as error:  # no binary for this platform
        raise BackendError(
            f"no ffmpeg: {' '.join(str(error).split())[:100]}; write a folder instead"
        ) from None


def _check_whole(path: Path, temporary: Path, written: int) -> None:
    """Raise VideoError unless the file holds as many frames: imageio-ffmpeg does not look at ffmpeg's exit code."""
    from imageio_ffmpeg import count_frames_and_secs

    try:
        found, _ = count_frames_and_secs(temporary.resolve())
    except RuntimeError:
        found = 0
    if found != written:
        raise VideoError(f"{path}: ffmpeg wrote {found} of {written} frames; is the disk full?")
