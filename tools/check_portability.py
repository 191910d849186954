"""One fitting step of the native kernels on every instruction set, also on emulated processors: the same numbers?

    python tools/check_portability.py        # emulated ones where qemu-x86_64 (Debian: qemu-user) is installed

Runs a step (projection, harmonics, tile lists, blending, loss, gradients, Adam) on a small random scene and what
lifting computes of random weights, in a process for each of: GS_LIFT_SIMD = avx512, avx2, baseline on this processor;
a Nehalem (no AVX: must take `baseline` by itself); a Haswell (AVX2, no AVX-512); aarch64 where check_aarch64.sh built
for it. An instruction that a processor lacks ends its process. PyTorch is not needed there. Exit code 1 if a process
fails or a number differs by more than 1e-4 of itself.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

GAUSSIANS, WIDTH, HEIGHT = 300, 45, 38


def step(library: Path) -> None:
    """Print the level, the loss, the sum of the absolute gradients by each parameter, and what `lifting` returns."""
    spec = importlib.util.spec_from_file_location("_native", library)
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
        return (rng.normal(size=shape) * scale + mean).astype(np.float32)

    parameters = [
        normal(GAUSSIANS, 3), normal(GAUSSIANS, 4), normal(GAUSSIANS, 3, scale=0.5, mean=-2), normal(GAUSSIANS),
        normal(GAUSSIANS, 16, 3, scale=0.3),
    ]  # fmt: skip
    viewmat, K = (
        np.eye(4, dtype=np.float32),
        np.array([[40, 0, 22], [0, 41, 19], [0, 0, 1]], dtype=np.float32),
    )
    viewmat[2, 3] = 4
    target, black = rng.random((HEIGHT, WIDTH, 3), dtype=np.float32), np.zeros(3, dtype=np.float32)
    radii, v_means2d = np.zeros((GAUSSIANS, 2), dtype=np.int32), np.zeros((GAUSSIANS, 2), dtype=np.float32)
    fit_step = native.FitStep()
    loss = fit_step.forward(parameters, viewmat, K, WIDTH, HEIGHT, 3, black, target, 0.2, radii, 1)
    learners = [(value, np.zeros_like(value), np.zeros_like(value), 1, 1e-3, 0, 0.0) for value in parameters]
    fit_step.update(learners, (0.9, 0.999, 1e-15), v_means2d, None, None, None, True, 1)
    sums = [float(np.abs(moment, dtype=np.float64).sum()) for _, moment, *_ in learners]
    values = (loss, *sums, float(np.abs(v_means2d).sum()), *lifting(native))
    print(native.simd_level(), *(f"{value:.9e}" for value in values))


def lifting(native: ModuleType) -> list[float]:
    """Sums of pixels blended of embeddings with weights in half precision, and both losses with their gradients."""
    rng = np.random.default_rng(1)
    pixels, each, channels = 64, 20, 16
    starts = np.arange(pixels + 1) * each
    ids = rng.integers(0, GAUSSIANS, pixels * each, dtype=np.int32)
    weights = (rng.random(pixels * each) / each).astype(np.float16)
    features = rng.normal(size=(GAUSSIANS, channels)).astype(np.float32)
    blended = np.zeros((pixels, channels), dtype=np.float32)
    native.weights_blend(starts, None, ids, weights, features, blended, 1)
    half = pixels // 2
    segments, confidence = rng.integers(0, 4, pixels), rng.random(half, dtype=np.float32)
    results = [float(np.abs(blended).sum())]
    for loss in (native.lifting_contrastive, native.lifting_concentration):
        gradient = np.zeros((half, channels), dtype=np.float32)
        halves = (blended[:half], blended[half:], segments[:half], segments[half:], confidence, gradient)
        results += [loss(*halves, 1), float(np.abs(gradient).sum())]
    return results


def run(
    library: Path, *, simd: str | None = None, cpu: str | None = None, aarch64: Path | None = None
) -> list[str] | None:
    """The words that a process prints; None where it ends otherwise."""
    emulator = ["qemu-x86_64", "-cpu", cpu] if cpu else []
    # The real file: an emulator starts no links, and finds no virtual environment.
    interpreter = Path(sys.executable).resolve()
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    if aarch64:
        emulator, packages = ["qemu-aarch64", "-L", str(aarch64 / "sysroot")], str(aarch64 / "site-packages")
        interpreter = aarch64 / "sysroot/usr/bin/python3.11"
    environment = {name: value for name, value in os.environ.items() if name != "GS_LIFT_SIMD"}
    if simd:
        environment["GS_LIFT_SIMD"] = simd
    environment["PYTHONPATH"] = packages
    command = [*emulator, str(interpreter), __file__, "--library", str(library)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.stdout.split() if result.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--aarch64", type=Path, metavar="FOLDER", help="what tools/check_aarch64.sh built")
    options = parser.parse_args()
    if options.library:
        step(options.library)
        return 0
    from gs_lift import _native

    library = Path(_native.__file__)
    processes: dict[str, Callable[[], list[str] | None]] = {
        f"here, {simd}": partial(run, library, simd=simd)
        for simd in ("avx512", "avx2", "baseline")
        if _native.use_simd_level(simd)
    }
    if shutil.which("qemu-x86_64"):
        processes |= {cpu: partial(run, library, cpu=cpu) for cpu in ("Nehalem", "Haswell")}
    else:
        print("qemu-x86_64 is not installed: no emulated processors")
    if options.aarch64:
        (built,) = (options.aarch64 / "build").glob("_native*.so")
        processes["aarch64"] = partial(run, built, aarch64=options.aarch64)
    wanted, failed = None, False
    for name, process in processes.items():
        words = process()
        if words is None:
            print(f"{name:16} FAILED")
            failed = True
            continue
        values = np.array([float(word) for word in words[1:]])
        wanted = values if wanted is None else wanted
        apart = float(np.abs(values / wanted - 1).max())
        failed |= apart > 1e-4 or (name == "Nehalem" and words[0] != "baseline")
        print(f"{name:16} {words[0]:9} loss {values[0]:.6f}, differs by {apart:.1e} from the first")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
