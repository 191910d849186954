"""Views of photos: undistorted, reduced to the size that is wanted, with segments that follow pixel by pixel.

Colours are interpolated; ids, classes and depths are taken from the nearest pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.datasets import files
from gs_lift.datasets.lens import Lens
from gs_lift.errors import SceneError
from gs_lift.scene import Camera, View
from gs_lift.segmentation import VOID, Segments


@dataclass(frozen=True)
class Photo:
    """A photo on disk of `width` x `height` pixels, the lens that it was taken through, and where.

    lens: it may be of another size, in proportion. viewmat: world -> camera, OpenCV axes.
    """

    name: str
    path: Path
    width: int
    height: int
    lens: Lens
    viewmat: Float[Tensor, "4 4"]


def photo_view(
    photo: Photo, segments: Callable[[], Segments] | None, depth: Callable[[], Tensor] | None, max_size: int
) -> View:
    """The view of the photo without its lens, at most `max_size` pixels long (0 = as it is).

    segments, depth: of the photo as it is on disk. Raises SceneError where the photo and its camera have other shapes.
    """
    lens = photo.lens
    if abs(photo.width * lens.height - photo.height * lens.width) > max(lens.width, lens.height):
        raise SceneError(
            f"{photo.path}: {photo.width}x{photo.height} pixels, another shape than its camera's "
            f"{lens.width}x{lens.height}; the photo was cropped or turned"
        )
    flat = Camera(lens.K, photo.viewmat, *lens.pinhole_size)
    scale = (photo.width / lens.width, photo.height / lens.height)
    flat = flat.resized(max(round(flat.width * scale[0]), 1), max(round(flat.height * scale[1]), 1))
    camera = flat.resized(*reduced_size(flat.width, flat.height, max_size))
    return View(
        name=photo.name,
        camera=camera,
        image=partial(_read_image, photo, (flat.width, flat.height), (camera.width, camera.height)),
        segments=segments and partial(_pick_segments, segments, lens, (camera.width, camera.height)),
        depth=depth and partial(_pick_depth, depth, lens, (camera.width, camera.height)),
    )


def reduced_view(view: View, max_size: int) -> View:
    """The same view, at most `max_size` pixels long (0 = as it is)."""
    camera = view.camera
    size = reduced_size(camera.width, camera.height, max_size)
    if size == (camera.width, camera.height):
        return view
    return replace(
        view,
        camera=camera.resized(*size),
        image=lambda: _reduce(view.image(), size),
        segments=view.segments and partial(_pick_segments, view.segments, None, size),
        truth=view.truth and partial(_pick_segments, view.truth, None, size),
        depth=view.depth and partial(_pick_depth, view.depth, None, size),
    )


def segments_outside(read: Callable[[], Segments], hidden: Path) -> Segments:
    """The segments of a photo, unknown where the image `hidden`, of its shape and perhaps smaller, is black."""
    segments = read()
    height, width = segments.instance.shape
    pixels = files.read_ids_or_colors(hidden)
    rows, columns = pixels.shape[:2]
    if abs(columns * height - rows * width) > max(width, height):
        raise SceneError(
            f"{hidden}: {columns}x{rows} pixels, another shape than the photo's {width}x{height}"
        )
    black = torch.from_numpy(pixels.reshape(rows, columns, -1) == 0).all(dim=2)
    outside = black.flatten()[_nearest((rows, columns), None, (width, height))]
    return replace(
        segments,
        instance=segments.instance.masked_fill(outside, -1),
        semantic=segments.semantic.masked_fill(outside, VOID),
    )


def reduced_size(width: int, height: int, max_size: int) -> tuple[int, int]:
    """The size in the same proportions whose longer side is at most `max_size`; 0 = any."""
    longest = max(width, height)
    if max_size == 0 or longest <= max_size:
        return width, height
    return max(round(width * max_size / longest), 1), max(round(height * max_size / longest), 1)


def _read_image(photo: Photo, flat: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "H W 3"]:
    image = files.read_photo(photo.path, photo.width, photo.height)
    if not photo.lens.is_pinhole:
        u, v = _sources(photo.lens, flat)
        # grid_sample's -1 and 1 are the outer edges of the outer pixels.
        grid = torch.from_numpy(np.stack([2 * u - 1, 2 * v - 1], axis=-1))[None]
        image = torch.nn.functional.grid_sample(
            image.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=False
        )[0].permute(1, 2, 0)
    return _reduce(image, size)


def _reduce(image: Float[Tensor, "H W 3"], size: tuple[int, int]) -> Float[Tensor, "h w 3"]:
    """By the mean over what each new pixel covers (bilinear, widened)."""
    if (image.shape[1], image.shape[0]) == size:
        return image.contiguous()
    smaller = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None], (size[1], size[0]), mode="bilinear", antialias=True, align_corners=False
    )
    return smaller[0].permute(1, 2, 0).clamp(0, 1).contiguous()


@lru_cache(maxsize=4)
def _sources(lens: Lens, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[H W] Where each pixel's centre of the pinhole picture, brought to `size`, lies in the photo: shares of its
    width and of its height, float32."""
    width, height = size
    x = (np.arange(width) + 0.5) * (lens.pinhole_size[0] / width)
    y = (np.arange(height) + 0.5) * (lens.pinhole_size[1] / height)
    (fx, _, cx), (_, fy, cy) = lens.K[:2].tolist()
    u, v = lens.pixels(*np.meshgrid((x - cx) / fx, (y - cy) / fy))
    return (u / lens.width).astype(np.float32), (v / lens.height).astype(np.float32)


def _nearest(shape: tuple[int, ...], lens: Lens | None, size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """Index into the pixels of a map [h w] of the photo, of each pixel of the view."""
    rows, columns = shape
    if lens is None or lens.is_pinhole:
        u = np.broadcast_to((np.arange(size[0]) + 0.5) / size[0], (size[1], size[0]))
        v = np.broadcast_to(((np.arange(size[1]) + 0.5) / size[1])[:, None], (size[1], size[0]))
    else:
        u, v = _sources(lens, size)
    row = (v * rows).astype(np.int64).clip(0, rows - 1)
    column = (u * columns).astype(np.int64).clip(0, columns - 1)
    return torch.from_numpy(row * columns + column)


def _pick_segments(read: Callable[[], Segments], lens: Lens | None, size: tuple[int, int]) -> Segments:
    segments = read()
    index = _nearest(tuple(segments.instance.shape), lens, size)
    return Segments(*(values.flatten()[index] for values in vars(segments).values()))


def _pick_depth(read: Callable[[], Tensor], lens: Lens | None, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    depth = read()
    return depth.flatten()[_nearest(tuple(depth.shape), lens, size)]
