"""Videos: decoded again they are what was put in; one that fails leaves nothing."""

import resource
from pathlib import Path

import numpy as np
import pytest
from videos import read_video

from gs_lift.errors import VideoError
from gs_lift.video import video_writer

SEED = 2


def painted(color: tuple[int, int, int], *, width: int = 48, height: int = 32) -> np.ndarray:
    """The left half in that colour, the right half black."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2] = color
    return frame


COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (30, 120, 200)]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "new" / "v.mp4"
    with video_writer(path, 48, 32, 12.5) as append:
        for color in COLORS:
            append(painted(color))
    video = read_video(path)
    assert (video.codec, video.pix_fmt, video.fps) == ("h264", "yuv420p(tv, bt709, progressive)", 12.5)
    assert video.frames.shape == (5, 32, 48, 3)
    for frame, color in zip(video.frames, COLORS, strict=True):
        np.testing.assert_allclose(frame[4:-4, 4:20].mean(axis=(0, 1)), color, atol=8)
        assert frame[4:-4, 28:].mean() < 8
    assert list(path.parent.iterdir()) == [path]


def test_a_frame_that_is_not_contiguous_is_not_torn(tmp_path: Path) -> None:
    with video_writer(tmp_path / "v.mp4", 48, 32, 10) as append:
        append(painted((200, 0, 0))[:, ::-1])
    frames = read_video(tmp_path / "v.mp4").frames
    assert frames[0, 4:-4, 28:, 0].min() > 180
    assert frames[0, 4:-4, :20, 0].max() < 20


@pytest.mark.parametrize("name", ["-v.mp4", "a:b %d.mp4"])
def test_any_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with video_writer(Path(name), 48, 32, 10) as append:
        append(painted((1, 2, 3)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("size", [(47, 32), (48, 31)])
def test_an_odd_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with (
        pytest.raises(VideoError, match=f"{size[0]} x {size[1]} pixels; H.264 wants even numbers"),
        video_writer(tmp_path / "v.mp4", *size, 10),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_video_that_is_stopped_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")

    def stopped() -> None:
        with video_writer(path, 48, 32, 10) as append:
            append(painted((1, 2, 3)))
            raise error

    with pytest.raises(error):
        stopped()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frame"), video_writer(tmp_path / "v.mp4", 48, 32, 10) as append:
        append(painted((1, 2, 3), width=50))
    assert not list(tmp_path.iterdir())


def test_a_video_of_which_a_part_is_missing_is_not_kept(tmp_path: Path) -> None:
    """A file may not grow beyond 20 kB for a while: ffmpeg fails as it does on a full disk."""
    noise = np.random.default_rng(SEED).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)

    def write() -> None:
        with video_writer(tmp_path / "v.mp4", 64, 64, 10) as append:
            for frame in noise:
                append(frame)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(VideoError, match="ffmpeg"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    write()
    assert len(read_video(tmp_path / "v.mp4").frames) == 30
