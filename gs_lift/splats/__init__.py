"""Splats as files that other programs write: one function, which tells them apart.

- a PLY by the property names of 3DGS (Inria): see ply.py;
- checkpoints of gsplat's simple_trainer and of nerfstudio's splatfacto: checkpoints.py, nerfstudio.py;
- .compressed.ply, .splat, .ksplat, .spz and .sog, which are lossy: compact.py.
"""

import logging
from pathlib import Path

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import MAX_HEADER_BYTES, read_splat
from gs_lift.splats import checkpoints, compact, nerfstudio

log = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt")
SPLAT_SUFFIXES = (".ply", *CHECKPOINT_SUFFIXES, *compact.FORMATS)
"""By which a path that names a splat is known where there is no such file."""

MIP = (b"SplatRenderMode: mip", b"antialiased 1")
"""Comments of a PLY whose opacities were learnt with antialiasing: Brush's and Postshot's."""


def names_splat(path: Path) -> bool:
    """Whether a path is meant as a splat rather than as a folder, also where there is nothing."""
    return path.is_file() or (not path.is_dir() and path.name.lower().endswith(SPLAT_SUFFIXES))


def load_splat(path: Path) -> Gaussians:
    """The Gaussians of a file, told apart by how it begins, then by its name.

    float32 on the CPU, in the order of the file. Of a gsplat checkpoint those of the other ranks follow. Raises
    SplatError for whatever is no splat, or is damaged.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    if compact.is_compact(path, head):
        return compact.read(path)
    if head.startswith(b"ply") or path.suffix.lower() == ".ply":
        if any(comment in head.split(b"end_header")[0] for comment in MIP):
            log.warning(
                "%s: learnt with antialiasing (mip), rendered here without: thin things look fainter", path
            )
        return read_splat(path)
    if head.startswith(b"PK\x03\x04") or path.suffix.lower() in CHECKPOINT_SUFFIXES:
        content = checkpoints.load(path)
        return (
            nerfstudio.read(path, content) if nerfstudio.matches(content) else checkpoints.read(path, content)
        )
    raise SplatError(
        f"{path}: no splat that gs_lift knows (PLY, gsplat or nerfstudio checkpoint, "
        f"{', '.join(compact.FORMATS)}); convert it to PLY first (splat-transform, SuperSplat)"
    )
