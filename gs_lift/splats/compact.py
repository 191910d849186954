"""Compact splats of the web: .compressed.ply, .splat, .ksplat, .spz and .sog, through GaussForge.

They keep 8 to 16 bits of a number, which is enough to lift onto. GaussForge is native code: it runs in a process of its
own, which a damaged file may end, within limits of memory and time. What it writes is a PLY, read as any other.

An .spz has its axes right, up, back, where a PLY's are right, down, front (Niantic's specification): GaussForge 0.6
keeps them as they are, so they are turned here. A comment of a .compressed.ply, a flag of an .spz and meta.json of a
.sog say whether it was learnt with antialiasing; the others cannot.
"""

import gzip
import json
import tempfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import ANTIALIASED, read_splat
from gs_lift.splats.frames import Similarity, moved
from gs_lift.workers import run_script

FORMATS = {
    ".compressed.ply": "compressed.ply",
    ".splat": "splat",
    ".ksplat": "ksplat",
    ".spz": "spz",
    ".sog": "sog",
}
"""GaussForge's names, by the endings of files."""

WORKER = Path(__file__).with_name("forge_worker.py")
PATIENCE_S = 600.0

OPACITY_STEPS = 255
"""All of them keep opacities in a byte. GaussForge writes infinite logits for 0 and 1."""

FROM_SPZ = Similarity(
    torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)), torch.zeros(3).double(), 1.0
)
"""Right, up, back to right, down, front."""

SPZ_HEADER, SPZ_FLAGS = 16, 14
"""Bytes of the header of an .spz, of any version, and where in it the flags are: 1 = antialiased."""

MAX_META_BYTES = 1 << 20
"""A meta.json of a .sog is a few kilobytes."""


def is_compact(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head` is one of them; a PLY is known by its packed numbers, not by its name."""
    return _format(path, head) is not None


def _format(path: Path, head: bytes) -> str | None:
    if head.startswith(b"ply"):
        return "compressed.ply" if b" packed_position" in head.split(b"end_header")[0] else None
    endings = (one for one in FORMATS if path.name.lower().endswith(one) and not one.endswith(".ply"))
    return next((FORMATS[one] for one in endings), None)


def read(path: Path) -> Gaussians:
    """The Gaussians, in the order of the file. Raises SplatError where GaussForge cannot read it."""
    with path.open("rb") as file:
        name = _format(path, file.read(1 << 16))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "splat.ply"
        problem = run_script(WORKER, path, name, target, patience_s=PATIENCE_S)
        if problem is not None:
            raise SplatError(
                f"{path}: GaussForge cannot read it as {name} ({problem}); damaged, or of a newer version"
            )
        try:
            gaussians = read_splat(target, steps=OPACITY_STEPS)
        except SplatError as error:
            raise SplatError(str(error).replace(str(target), str(path))) from None
    return replace(
        moved(gaussians, FROM_SPZ) if name == "spz" else gaussians, antialiased=_antialiased(path, name)
    )


def _antialiased(path: Path, name: str | None) -> bool:
    """What a file that GaussForge could read says of itself."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    try:
        if name == "compressed.ply":
            return any(one.encode() in head.split(b"end_header")[0] for one in ANTIALIASED)
        if name == "spz":
            if head.startswith(b"\x1f\x8b"):
                with gzip.open(path) as unpacked:
                    head = unpacked.read(SPZ_HEADER)
            return bool(head[SPZ_FLAGS] & 1)
        if name == "sog":
            with zipfile.ZipFile(path) as archive, archive.open("meta.json") as meta:
                return json.loads(meta.read(MAX_META_BYTES)).get("antialias") is True
    except (
        OSError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        KeyError,
        IndexError,
        ValueError,
        AttributeError,
    ):
        pass  # GaussForge has read it all the same: as good as no word
    return False
