"""One compact splat to PLY, run as a script: `python forge_worker.py IN FORMAT OUT`; see compact.py."""

import resource
import sys
from pathlib import Path

MOST_MEMORY = 16 << 30
"""Bytes of address space."""


def main(source: Path, name: str, target: Path) -> str | None:
    """What went wrong, or None."""
    import gaussforge

    result = gaussforge.GaussForge().convert(source.read_bytes(), name, "ply")
    if not result.get("data"):
        return str(result.get("error") or "nothing in it")
    target.write_bytes(result["data"])
    return None


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        problem = main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    except Exception as error:  # whatever the bytes provoke; the parent makes one line of it
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(" ".join(problem.split()))
        sys.exit(1)
