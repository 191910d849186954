"""Compact splats of the web: .compressed.ply, .splat, .ksplat, .spz and .sog, through GaussForge.

They keep 8 to 16 bits of a number, which is enough to lift onto. GaussForge is native code: it runs in a process of its
own, which a damaged file may end, within limits of memory and time. What it writes is a PLY, read as any other.
"""

import tempfile
from pathlib import Path

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.ply import read_splat
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
            return read_splat(target)
        except SplatError as error:
            raise SplatError(str(error).replace(str(target), str(path))) from None
