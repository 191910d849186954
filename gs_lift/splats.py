"""Splats as files that other programs write: one function, which tells them apart.

- a PLY by the property names of 3DGS (Inria): see ply.py;
- a checkpoint of gsplat's simple_trainer (`ckpt_29999_rank0.pt`): a dict whose "splats" are means [N 3], quats [N 4]
  (wxyz), scales [N 3] (logarithms), opacities [N] (logits), sh0 [N 1 3] and shN [N K-1 3].

A checkpoint is a pickle in a zip archive, and a pickle may run code: torch's `weights_only` refuses any that needs more
than tensors and plain containers. Whatever an archive merely claims is compared with the size of the file first.
"""

import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import read_splat

log = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt")
SPLAT_SUFFIXES = (".ply", *CHECKPOINT_SUFFIXES)
"""By which a path that names a splat is known where there is no such file."""

_NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN")
_HIGHER_TERMS = (0, 3, 8, 15, 24)
"""K - 1 of the degrees 0 to 4."""


def names_splat(path: Path) -> bool:
    """Whether a path is meant as a splat rather than as a folder, also where there is nothing."""
    return path.is_file() or (not path.is_dir() and path.suffix.lower() in SPLAT_SUFFIXES)


def load_splat(path: Path) -> Gaussians:
    """The Gaussians of a PLY or of a gsplat checkpoint, told apart by how the file begins, then by its name.

    float32 on the CPU, in the order of the file. Raises SplatError for whatever is neither, or is damaged.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"ply") or path.suffix.lower() == ".ply":
        return read_splat(path)
    if head == b"PK\x03\x04" or path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return _read_checkpoint(path)
    raise SplatError(
        f"{path}: neither a PLY nor a gsplat checkpoint; convert it to PLY first (splat-transform, SuperSplat)"
    )


def _read_checkpoint(path: Path) -> Gaussians:
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SplatError(
            f"{path}: holds more than tensors, which could run code and is refused; export the splat as PLY"
        ) from None
    except Exception as error:  # a torn or foreign file: any of a dozen types
        raise SplatError(
            f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:100]})"
        ) from None
    tensors = _tensors(path, content)
    _check_shapes(path, tensors)
    _check_values(path, tensors)
    if others := [other.name for other in _other_ranks(path)]:
        log.warning("%s holds the Gaussians of one rank; not read: %s", path, ", ".join(others))
    return Gaussians(
        means=tensors["means"],
        quats=tensors["quats"],
        log_scales=tensors["scales"],
        logit_opacities=tensors["opacities"],
        sh0=tensors["sh0"],
        shN=tensors["shN"],
    )


def _check_archive(path: Path) -> None:
    """Raise SplatError unless the file is a zip archive as torch.save writes it: it unpacks to no more than itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SplatError(
            f"{path}: not a checkpoint as torch.save writes it ({error}); cut short, or another format"
        ) from None
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise SplatError(
            f"{path}: a compressed archive ({unpacked} bytes in {size}); torch.save stores them as they are"
        )


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The six tensors of "splats" as float32; none has more numbers than the file can hold."""
    splats = content.get("splats") if isinstance(content, dict) else None
    if not isinstance(splats, dict):
        there = f"keys {_listed(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise SplatError(f'{path}: {there}; wanted "splats", as gsplat\'s simple_trainer writes it')
    if missing := [name for name in _NAMES if name not in splats]:
        raise SplatError(
            f"{path}: splats has no {', '.join(missing)}; there are {_listed(splats)} "
            "(with app_opt the colours need its network: train without)"
        )
    tensors = {name: splats[name] for name in _NAMES}
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise SplatError(f"{path}: splats.{name}: wanted a tensor of floating point numbers")
        # A view may repeat one number for ever: such a tensor is larger than what it was read from.
        if tensor.is_meta or tensor.numel() * tensor.element_size() > size:
            raise SplatError(
                f"{path}: splats.{name} claims the shape {list(tensor.shape)}, more than the file's {size} bytes"
            )
    return {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def _check_shapes(path: Path, tensors: dict[str, Tensor]) -> None:
    means, shN = tensors["means"], tensors["shN"]
    count = means.shape[0] if means.dim() else 0
    if count == 0:
        raise SplatError(f"{path}: holds no Gaussians (splats.means is {list(means.shape)})")
    terms = shN.shape[1] if shN.dim() == 3 else 15
    rows = {"means": [3], "quats": [4], "scales": [3], "opacities": [], "sh0": [1, 3], "shN": [terms, 3]}
    for name, row in rows.items():
        if list(tensors[name].shape) != [count, *row]:
            raise SplatError(
                f"{path}: splats.{name} has the shape {list(tensors[name].shape)}; wanted {[count, *row]}"
            )
    if terms not in _HIGHER_TERMS:
        raise SplatError(f"{path}: splats.shN has {terms} terms; wanted 0, 3, 8, 15 or 24 (degrees 0 to 4)")


def _check_values(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        wrong = ~tensor.reshape(len(tensor), -1).isfinite().all(dim=1)
        if bool(wrong.any()):
            raise SplatError(
                f"{path}: splats.{name} holds nan or infinity in {int(wrong.sum())} of {len(tensor)} rows "
                f"(first: {int(wrong.nonzero()[0])})"
            )
    zero = ~tensors["quats"].any(dim=1)
    if bool(zero.any()):
        raise SplatError(
            f"{path}: splats.quats are all zero in {int(zero.sum())} rows (first: {int(zero.nonzero()[0])})"
        )


def _other_ranks(path: Path) -> list[Path]:
    """The checkpoints of the same step that other GPUs have written: each holds its own part of the scene."""
    begin = re.fullmatch(r"(.*_rank)\d+", path.stem)
    if not begin:
        return []
    return [
        other
        for other in sorted(path.parent.iterdir())
        if other != path and re.fullmatch(re.escape(begin[1]) + r"\d+" + re.escape(path.suffix), other.name)
    ]


def _listed(content: dict[Any, Any]) -> str:
    names = [str(name)[:30] for name in list(content)[:8]]
    return ", ".join(names) + (", ..." if len(content) > 8 else "") if names else "none"
