"""Commands in processes of their own, with the gs_lift that the tests import: installed, or built in place."""

import os
import subprocess
import sys
from pathlib import Path

import gs_lift

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(Path(gs_lift.__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    ),
}


def python(code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code, away from the source tree, with more environment variables."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **variables})


def gslift(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "gs_lift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)


def start_gslift(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line; what it prints comes at once."""
    command = [sys.executable, "-u", "-m", "gs_lift", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=ENVIRONMENT)
