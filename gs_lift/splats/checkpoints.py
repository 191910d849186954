"""Checkpoints of gsplat's simple_trainer (`ckpt_29999_rank0.pt`), one file for each GPU.

A dict whose "splats" are means [N 3], quats [N 4] (wxyz), scales [N 3] (logarithms), opacities [N] (logits),
sh0 [N 1 3] and shN [N K-1 3].

A checkpoint is a pickle in a zip archive, and a pickle may run code: torch's `weights_only` refuses any that needs more
than tensors and plain containers. Whatever an archive merely claims is compared with the size of the file first.
"""

import logging
import pickle
import re
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians

log = logging.getLogger(__name__)

_NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN")
_HIGHER_TERMS = (0, 3, 8, 15, 24)
"""K - 1 of the degrees 0 to 4."""


def load(path: Path) -> Any:
    """What torch.save wrote, where it is tensors, plain containers and single numbers of numpy."""
    _check_archive(path)
    try:
        with _numbers_of_numpy():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SplatError(
            f"{path}: holds more than tensors, which could run code and is refused; export the splat as PLY"
        ) from None
    except Exception as error:  # a torn or foreign file: any of a dozen types
        raise SplatError(
            f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:100]})"
        ) from None


def _numbers_of_numpy() -> AbstractContextManager[Any]:
    """nerfstudio's checkpoints hold a few; these rebuild nothing but a number. torch 2.4 cannot allow them for once."""
    if not hasattr(torch.serialization, "safe_globals"):
        return nullcontext()
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    return torch.serialization.safe_globals([scalar, np.dtype, *dtypes])


def read(path: Path, content: Any) -> Gaussians:
    """The Gaussians of a checkpoint that is loaded, and of those of the other ranks beside it, rank by rank.

    Raises SplatError where a rank is missing among them, and for ranks that do not belong together.
    """
    ranks = sorted([path, *_other_ranks(path)], key=_rank)
    numbers = [_rank(one) for one in ranks]
    if len(ranks) > 1 and (missing := sorted(set(range(numbers[-1])) - set(numbers))):
        raise SplatError(
            f"{path}: rank {missing[0]} is missing beside ranks {', '.join(map(str, numbers))}: each has a part of the "
            "scene; copy it there, or this file to a folder of its own to go without the others"
        )
    parts = [_checked(one, content if one == path else load(one)) for one in ranks]
    if len(parts) > 1:
        if len({own["shN"].shape[1] for own in parts}) > 1:
            raise SplatError(f"{path}: ranks of different degrees; are they of one training?")
        log.warning("%s: with the Gaussians of %d ranks", path, len(parts))
    joined = {name: torch.cat([own[name] for own in parts]) for name in _NAMES}
    return Gaussians(
        means=joined["means"],
        quats=joined["quats"],
        log_scales=joined["scales"],
        logit_opacities=joined["opacities"],
        sh0=joined["sh0"],
        shN=joined["shN"],
    )


def _checked(path: Path, content: Any) -> dict[str, Tensor]:
    tensors = _tensors(path, content)
    _check_shapes(path, tensors)
    check_values(path, tensors)
    return tensors


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
    """The six tensors of "splats"."""
    splats = content.get("splats") if isinstance(content, dict) else None
    if not isinstance(splats, dict):
        there = f"keys {listed(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise SplatError(f'{path}: {there}; wanted "splats", as gsplat\'s simple_trainer writes it')
    if missing := [name for name in _NAMES if name not in splats]:
        raise SplatError(
            f"{path}: splats has no {', '.join(missing)}; there are {listed(splats)} "
            "(with app_opt the colours need its network: train without)"
        )
    return {name: plain_tensor(path, f"splats.{name}", splats[name]) for name in _NAMES}


def plain_tensor(path: Path, name: str, tensor: Any) -> Tensor:
    """float32 numbers, no more of them than the file can hold."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise SplatError(f"{path}: {name}: wanted a tensor of floating point numbers")
    size = path.stat().st_size
    # A view may repeat one number for ever: such a tensor is larger than what it was read from.
    if tensor.is_meta or tensor.numel() * tensor.element_size() > size:
        raise SplatError(
            f"{path}: {name} claims the shape {list(tensor.shape)}, more than the file's {size} bytes"
        )
    return tensor.detach().float().contiguous()


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


def check_values(path: Path, tensors: dict[str, Tensor]) -> None:
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


def _rank(path: Path) -> int:
    number = re.search(r"_rank(\d+)$", path.stem)
    return int(number[1]) if number else 0


def listed(content: dict[Any, Any]) -> str:
    names = [str(name)[:30] for name in list(content)[:8]]
    return ", ".join(names) + (", ..." if len(content) > 8 else "") if names else "none"
