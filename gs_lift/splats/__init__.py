"""Splats as files that other programs write: one function, which tells them apart.

- a PLY by the property names of 3DGS (Inria): see ply.py;
- checkpoints of gsplat's simple_trainer and of nerfstudio's splatfacto: checkpoints.py, nerfstudio.py;
- .compressed.ply, .splat, .ksplat, .spz and .sog, which are lossy: compact.py.
"""

import re
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import MAX_HEADER_BYTES, read_splat
from gs_lift.splats import checkpoints, compact, nerfstudio

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt")
SPLAT_SUFFIXES = (".ply", *CHECKPOINT_SUFFIXES, *compact.FORMATS)
"""By which a path that names a splat is known where there is no such file."""

WRITTEN = (
    (("", "ckpts"), r"ckpt_(\d+)(?:_rank0*\d+)?\.pt"),
    (("", "nerfstudio_models"), r"step-(\d+)\.ckpt"),
    (("", "point_cloud"), r"iteration_(\d+)/point_cloud\.ply"),
)
"""Where gsplat, nerfstudio and 3DGS leave their splats in a folder, with the step in the name."""


def find_splat(path: Path) -> Path:
    """The file itself, or of a folder that gsplat, nerfstudio or 3DGS wrote the splat of the last step.

    Raises SplatError for a folder without one.
    """
    if not path.is_dir():
        return path
    for folders, pattern in WRITTEN:
        deep = pattern.count("/") + 1
        found = [
            (int(match[1]), file)
            for folder in folders
            for file in sorted((path / folder).glob("/".join("*" * deep)))
            if (match := re.fullmatch(pattern, file.relative_to(path / folder).as_posix())) and file.is_file()
        ]
        if found:
            last = max(step for step, _ in found)
            return next(file for step, file in found if step == last)
    raise SplatError(
        f"{path}: no splat of gsplat (ckpts/ckpt_*.pt), nerfstudio (nerfstudio_models/step-*.ckpt) or 3DGS "
        "(point_cloud/iteration_*/point_cloud.ply) in this folder; name the file"
    )


def names_splat(path: Path) -> bool:
    """Whether a path is meant as a splat rather than as a folder, also where there is nothing."""
    return path.is_file() or (not path.is_dir() and path.name.lower().endswith(SPLAT_SUFFIXES))


def load_splat(path: Path, *, applied_transform: Float[Tensor, "4 4"] | None = None) -> Gaussians:
    """The Gaussians of a file (or of a folder: see `find_splat`), told apart by how it begins, then by its name.

    float32 on the CPU, in the order of the file. Of a gsplat checkpoint those of all ranks, rank by rank. nerfstudio's
    come back to its data's original frame, and by a scene's `applied_transform` from there to its cameras. Raises
    SplatError for whatever is no splat, or is damaged.
    """
    path = find_splat(path)
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    if compact.is_compact(path, head):
        return compact.read(path)
    if head.startswith(b"ply") or path.suffix.lower() == ".ply":
        return read_splat(path)
    if head.startswith(b"PK\x03\x04") or path.suffix.lower() in CHECKPOINT_SUFFIXES:
        content = checkpoints.load(path)
        if nerfstudio.matches(content):
            return nerfstudio.read(path, content, applied_transform)
        return checkpoints.read(path, content)
    raise SplatError(
        f"{path}: no splat that gs_lift knows (PLY, gsplat or nerfstudio checkpoint, "
        f"{', '.join(compact.FORMATS)}); convert it to PLY first (splat-transform, SuperSplat)"
    )
