"""Files of a scene folder, read as a stranger's: headers before pixels, no pickles, no links that lead out.

Every function raises SceneError in one line that names the file, what was wanted, what came, and the way out.
"""

import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gs_lift.errors import SceneError

MAX_MATRIX_BYTES = 2**12
"""Sixteen numbers of any length that makes sense."""

MAX_JSON_BYTES = 64 * 2**20
"""More than a million poses; a larger file is not what it says."""

MAX_PIXELS = 2**26
"""Of a map that is no PNG; painting it takes 1 GB. Pillow's limit for a PNG is a third more."""

MAX_HEADER_BYTES = 2**14
"""Of an array in an archive; numpy reads no longer ones."""

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg")

PHOTO_ENDINGS = (*PHOTO_SUFFIXES, ".JPG", ".PNG")
"""Tried in this order where a name has none, or another one than the file."""


def check_inside(root: Path, path: Path, allow_outside: bool) -> None:
    """Refuse a path that leads out of `root`, through `..` or a link, unless that is allowed."""
    if not allow_outside and not path.resolve().is_relative_to(root.resolve()):
        raise SceneError(
            f"{path}: leads out of the scene folder, to {path.resolve()}; "
            "copy it there or set data.allow_outside=true"
        )


def existing(root: Path, names: Iterable[str], allow_outside: bool) -> Path | None:
    """The first file, from `root` on, that is there, of `names` that a foreign file gives; None if none is.

    Raises SceneError for one that leads out of `root`, unless that is allowed; nothing is opened.
    """
    for name in names:
        path = root / name
        try:
            check_inside(root, path, allow_outside)
            if path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links: no file has this name
            continue
    return None


def finite_number(value: object, name: str, where: Path) -> float:
    """A number of a JSON file. Raises SceneError where it is none, infinite or nan."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        pass
    raise SceneError(f"{where}: {name} is {repr(value)[:40]}; wanted a finite number")


def read_matrix(path: Path) -> np.ndarray:
    """The 4x4 matrix of finite numbers in a text file, as float64."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MATRIX_BYTES + 1)
    except FileNotFoundError:
        raise SceneError(f"{path}: missing; wanted 4 lines of 4 numbers") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        values = [float(word) for word in content.split()]
    except ValueError:
        raise SceneError(f"{path}: not a matrix of numbers; wanted 4 lines of 4 numbers") from None
    if len(content) > MAX_MATRIX_BYTES or len(values) != 16:
        many = "more than 4 KiB" if len(content) > MAX_MATRIX_BYTES else f"{len(values)} numbers"
        raise SceneError(f"{path}: {many}; wanted 4 lines of 4 numbers")
    matrix = np.array(values).reshape(4, 4)
    if not np.isfinite(matrix).all():
        raise SceneError(f"{path}: holds nan or inf; wanted finite numbers; leave the frame out")
    return matrix


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    content = read_any_json(path)
    if not isinstance(content, dict):
        raise SceneError(f"{path}: holds a JSON {type(content).__name__}; wanted an object")
    return content


def read_any_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise SceneError(
                f"{path}: {size / 2**20:.0f} MiB; wanted JSON of at most {MAX_JSON_BYTES >> 20} MiB"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: not valid JSON ({_one_line(error)})") from None


def list_photos(folder: Path) -> list[Path]:
    """The photos of a folder in the order of frames: by number if all names are numbers, else by name."""
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
        ]
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read ({error.strerror})") from None
    by_stem: dict[str, Path] = {}
    for path in sorted(paths):
        if path.stem in by_stem:
            raise SceneError(f"{path}: the same frame as {by_stem[path.stem].name}; remove one of them")
        by_stem[path.stem] = path
    numbered = all(stem.isascii() and stem.isdigit() for stem in by_stem)
    return [by_stem[stem] for stem in sorted(by_stem, key=lambda stem: (int(stem) if numbered else 0, stem))]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header has been read; what Pillow or the disk say against it becomes a SceneError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 megapixels and raises at 179; a photo has neither.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # No other formats: some of Pillow's decoders start programs or read further files.
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                yield image
    except SceneError:
        raise
    except FileNotFoundError:
        raise SceneError(f"{path}: missing") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise SceneError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; resize the photos") from None
    except MemoryError:
        raise SceneError(f"{path}: does not fit into memory; resize the photos") from None
    except Exception as error:  # Pillow's decoders raise a dozen types
        reason = "not a PNG or JPEG" if isinstance(error, Image.UnidentifiedImageError) else _one_line(error)
        raise SceneError(f"{path}: broken image ({reason}); replace the file") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header alone."""
    with _opened(path) as image:
        return image.size


def read_photo(path: Path, width: int, height: int) -> Float[Tensor, "H W 3"]:
    """The colours of a photo in 0..1. Grey and palette images become RGB; alpha is dropped, not blended."""
    with _opened(path) as image:
        _check_size(path, image.size, (width, height))
        if image.mode.startswith(("I", "F")):
            raise SceneError(f"{path}: pixels of mode {image.mode}; wanted 8-bit colours")
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).float() / 255


def read_depth_mm(path: Path, width: int, height: int) -> Float[Tensor, "H W"]:
    """A 16-bit depth image in millimetres, as metres; 0 = none."""
    with _opened(path) as image:
        _check_size(path, image.size, (width, height))
        if not image.mode.startswith("I"):
            raise SceneError(f"{path}: pixels of mode {image.mode}; wanted 16-bit grey, millimetres")
        millimetres = np.array(image).astype(np.float32)
    return torch.from_numpy(millimetres) / 1000


def read_id_image(path: Path, width: int, height: int) -> np.ndarray:
    """An image of ids, 8 or 16 bits grey or a palette's indices, as int64 [H W]."""
    with _opened(path) as image:
        _check_size(path, image.size, (width, height))
        # Pillow calls 16-bit grey I;16 or, in older versions, I.
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise SceneError(f"{path}: pixels of mode {image.mode}; wanted ids as grey of 8 or 16 bits")
        return np.array(image).astype(np.int64)


def read_ids_or_colors(path: Path) -> np.ndarray:
    """A PNG's ids as int32 [H W] (grey of 8 or 16 bits, a palette's indices), or its colours as uint8 [H W 3]."""
    with _opened(path) as image:
        if image.format != "PNG":
            raise SceneError(f"{path}: a {image.format}, which blurs ids; wanted a PNG")
        if image.mode in ("RGB", "RGBA"):
            return np.array(image)[..., :3]
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise SceneError(f"{path}: pixels of mode {image.mode}; wanted ids as grey, palette or RGB")
        return np.array(image).astype(np.int32)


def open_array(path: Path, shape: tuple[int, int], kinds: str) -> np.ndarray:
    """A `.npy` file of `shape` whose dtype is one of `kinds` (numpy's letters), mapped but not read."""
    array = map_array(path)
    if array.dtype.kind not in kinds:
        wanted = "whole numbers" if "u" in kinds else "floats"
        raise SceneError(f"{path}: dtype {array.dtype}; wanted {wanted}")
    if array.shape != shape:
        height, width = shape
        raise SceneError(
            f"{path}: shape {array.shape}; wanted ({height}, {width}), the photo's height and width; "
            "resize it by nearest neighbour"
        )
    return array


def map_array(path: Path) -> np.ndarray:
    """A `.npy` file of any shape and dtype, mapped but not read.

    Pickled objects are refused; a header that promises more than the file holds allocates nothing.
    """
    try:
        with warnings.catch_warnings():
            # A size that overflows is a warning to numpy, which then maps something else.
            warnings.simplefilter("error", RuntimeWarning)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SceneError(f"{path}: missing") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or _one_line(error)})") from None
    except Exception as error:  # numpy's header parser raises whatever the bytes provoke
        said = _one_line(error)
        reason = "pickled objects" if "pickle" in said or "Python objects" in said else said
        raise SceneError(f"{path}: not a plain .npy array ({reason}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise SceneError(f"{path}: an archive of arrays; wanted one plain .npy array")
    return array


def archived_shape(path: Path, name: str, most: int) -> tuple[int, ...] | None:
    """The shape of the array of floats `name` in an .npz file, from its header; None if there is no such array.

    most: numbers that it may hold. Pickled objects are refused.
    """
    with _archive(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return None
        with _member(path, archive, name, most) as (_, shape):
            return shape


def read_archived(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of floats `name` in an .npz file, as float32; its shape is known from archived_shape."""
    with _archive(path) as archive, _member(path, archive, name, math.prod(shape)) as (file, found):
        if found != shape:
            raise SceneError(f"{path}: `{name}` has shape {found}; wanted {shape} as at first")
        return np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file; what zipfile and numpy say against it becomes a SceneError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except SceneError:
        raise
    except FileNotFoundError:
        raise SceneError(f"{path}: missing") from None
    except Exception as error:  # both raise whatever the bytes provoke
        raise SceneError(
            f"{path}: not a plain .npz archive ({_one_line(error)}); write it with numpy.savez_compressed"
        ) from None


@contextmanager
def _member(
    path: Path, archive: zipfile.ZipFile, name: str, most: int
) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """An array in an archive, at its start, and its shape: both its header and its size are looked at before."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > 8 * most + MAX_HEADER_BYTES:
        raise SceneError(f"{path}: `{name}` is {info.file_size} bytes; wanted at most {most} floats")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise SceneError(f"{path}: `{name}` is of .npy version {version[0]}.{version[1]}; wanted 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind != "f":
            raise SceneError(f"{path}: `{name}` has dtype {dtype}; wanted floats")
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize > info.file_size:
            raise SceneError(f"{path}: `{name}` has shape {shape}, more than its {info.file_size} bytes")
    with archive.open(info) as file:
        yield file, shape


def read_ids(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """An id map as int64 [H W]: any integers, booleans, or floats that hold whole numbers; none below -1."""
    array = np.asarray(open_array(path, shape, "biuf"))
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise SceneError(
            f"{path}: fractions among the ids; wanted whole numbers: resize by nearest neighbour"
        )
    if array.size and not (float(array.min()) >= -1 and float(array.max()) < 2**31):
        raise SceneError(
            f"{path}: ids from {array.min()} to {array.max()}; wanted 0 = none, or 1 to 2147483647"
        )
    return array.astype(np.int64)


def read_confidence(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A map of probabilities as float32 [H W]."""
    array = np.asarray(open_array(path, shape, "f")).astype(np.float32)
    if not ((array >= 0) & (array <= 1)).all():  # NaN included
        raise SceneError(f"{path}: values outside 0..1; wanted probabilities")
    return array


def check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 0 < shape[0] * shape[1] <= MAX_PIXELS or min(shape) < 1:
        raise SceneError(
            f"{path}: a map of shape {str(tuple(shape))[:60]}; wanted [H W] of at most {MAX_PIXELS} pixels"
        )


def check_image_size(path: Path, width: int, height: int) -> None:
    """Read an image's header and compare its size."""
    _check_size(path, image_size(path), (width, height))


def _check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    if size != wanted:
        raise SceneError(
            f"{path}: {size[0]}x{size[1]} pixels; wanted {wanted[0]}x{wanted[1]} as the scene's first photo"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
