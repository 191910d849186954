"""Foreign native code in a process of its own: a damaged file may end that, not this one."""

import subprocess
import sys
from pathlib import Path


def run_script(script: Path, *arguments: object, patience_s: float) -> str | None:
    """Run a Python script to its end. None if it went well, else what it printed last, or why it printed nothing."""
    command = [sys.executable, str(script), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done in {patience_s:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"it stopped with code {done.returncode}"
