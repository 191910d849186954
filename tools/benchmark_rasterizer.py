"""How fast the CPU rasterizer is: ms per image, forward and backward, on a synthetic room of 50,000 Gaussians.

    python tools/benchmark_rasterizer.py [--json FILE] [--threads N] [--simd avx512|avx2|baseline] [--repeats N]

Each row is one image size and one number of channels. `forward` and `backward` are the whole calls, through
autograd; the other columns are their kernels alone, projection to blending. `weights` is the making of every
pixel's blending weights >= 1e-3. The last lines compare a crop of the same view, of --crop pixels along a side, with
the plain torch backend: that one takes minutes for a whole image. Everything is interleaved, and the median of the
repeats is shown with the minimum in brackets: of CPU time on one thread, of wall-clock on more. On a shared machine
read the ratios and the minima.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gs_lift import _native
from gs_lift.geometry import look_at
from gs_lift.rendering import BACKENDS, cpu

SIZES, CHANNELS = (256, 512), (3, 16, 32)
ROOM = (4.0, 3.0, 4.0)  # metres


@dataclass(frozen=True)
class Room:
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    viewmat: Tensor


def synthetic_room(count: int, seed: int = 0) -> Room:
    """Gaussians on the walls, the floor and the ceiling, and a quarter of them as clutter on the floor."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(ROOM)
    means = torch.rand(count, 3, generator=generator) * size
    part = torch.randint(0, 8, (count,), generator=generator)
    for wall in range(6):
        means[part == wall, wall // 2] = size[wall // 2] * (wall % 2)
    clutter = part >= 6
    spread = torch.tensor([0.8, 0.3, 0.8])
    means[clutter] = (
        size * torch.tensor([0.5, 0.8, 0.5])
        + torch.randn(int(clutter.sum()), 3, generator=generator) * spread
    )
    return Room(
        means=means - size / 2,
        quats=torch.randn(count, 4, generator=generator),
        scales=0.022 * torch.exp(0.5 * torch.randn(count, 3, generator=generator)) * (50_000 / count) ** 0.5,
        opacities=0.1 + 0.8 * torch.rand(count, generator=generator),
        viewmat=look_at(
            torch.tensor([-1.6, -0.9, -1.6]), torch.tensor([0.6, 0.5, 0.6]), torch.tensor([0.0, -1.0, 0.0])
        ),
    )


class Stopwatch:
    """Milliseconds by name: of CPU time on one thread, which other programs disturb least, else of wall-clock."""

    def __init__(self) -> None:
        self.clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.times: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        start = self.clock()
        result = function()
        self.times[name].append(1000 * (self.clock() - start))
        return result

    def figures(self) -> dict[str, dict[str, float]]:
        return {
            name: {"median": round(statistics.median(times), 3), "minimum": round(min(times), 3)}
            for name, times in self.times.items()
        }


def whole_call(
    watch: Stopwatch, backend: str, room: Room, colors: Tensor, K: Tensor, size: int, prefix: str = ""
) -> None:
    """One training step's rasterization, with the gradients of everything."""
    inputs = (room.means, room.quats, room.scales, room.opacities, colors)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    module = BACKENDS[backend]()
    images, _, _ = watch(
        prefix + "forward", lambda: module.rasterize(*leaves, room.viewmat[None], K[None], size, size)
    )
    v_images = torch.ones_like(images)
    watch(prefix + "backward", lambda: images.backward(v_images))


def kernels(watch: Stopwatch, room: Room, colors: Tensor, K: Tensor, size: int) -> dict[str, int]:
    """The kernels one by one, into memory that is there already; -> what there was to do."""
    count, channels, threads = len(room.means), colors.shape[1], torch.get_num_threads()
    geometry = (room.means, room.quats, room.scales)
    means2d, conics, depths = torch.empty(count, 2), torch.empty(count, 3), torch.empty(count)
    radii = torch.empty(count, 2, dtype=torch.int32)
    image, left = torch.empty(size, size, channels), torch.empty(size, size)
    v_image, v_alpha = torch.ones_like(image), torch.zeros_like(left)
    gradients = [torch.zeros_like(tensor) for tensor in (means2d, conics, depths, colors)]
    v_geometry = [torch.zeros_like(tensor) for tensor in geometry]
    frame = _native.Frame()
    watch(
        "project",
        lambda: _native.project(
            *geometry, room.opacities, room.viewmat, K, size, size, 0.01, 1e10, 0.3, means2d, conics, depths,
            None, radii, threads,
        ),
    )  # fmt: skip
    watch(
        "lists",
        lambda: frame.build(means2d, conics, room.opacities, depths, radii, size, size, threads),
    )
    watch("blend", lambda: frame.blend(colors, None, image, left, threads))
    watch(
        "blend_backward",
        lambda: frame.blend_backward(
            room.opacities, colors, image, left, v_image, v_alpha, *gradients, None, threads
        ),
    )
    watch(
        "project_backward",
        lambda: _native.project_backward(
            *geometry, room.viewmat, K, size, size, 0.3, False, radii, gradients[0], gradients[1], None, None,
            *v_geometry, threads,
        ),
    )  # fmt: skip
    pairs = watch("weights", lambda: _native.frame_weights(frame, None, 1e-3, threads))[1]
    return {
        "visible": int((radii > 0).all(dim=1).sum()),
        "tile_pairs": frame.pairs,
        "weights_per_pixel": round(len(pairs) / size**2, 1),
    }


def intrinsics(size: int, crop: int | None = None) -> Tensor:
    """A camera of 80 degrees; of the middle `crop` pixels where given."""
    center = (crop or size) / 2
    return torch.tensor([[0.6 * size, 0, center], [0, 0.6 * size, center], [0, 0, 1]])


def measure(room: Room, repeats: int, crop: int) -> list[dict[str, Any]]:
    configurations = [(size, channels) for size in SIZES for channels in CHANNELS]
    watches = {configuration: Stopwatch() for configuration in configurations}
    facts: dict[tuple[int, int], dict[str, int]] = {}
    colors = torch.rand(len(room.means), max(CHANNELS), generator=torch.Generator().manual_seed(1))
    for repeat in range(repeats):
        for size, channels in configurations:
            watch, values = watches[size, channels], colors[:, :channels].contiguous()
            whole_call(watch, "cpu", room, values, intrinsics(size), size)
            facts[size, channels] = kernels(watch, room, values, intrinsics(size), size)
            if size == SIZES[0] and repeat < 3:
                inner = intrinsics(size, crop)
                whole_call(watch, "cpu", room, values, inner, crop, "crop_")
                whole_call(watch, "reference", room, values, inner, crop, "torch_crop_")
    return [
        {"size": size, "channels": channels, **facts[size, channels], "ms": watches[size, channels].figures()}
        for size, channels in configurations
    ]


def show(rows: list[dict[str, Any]], crop: int) -> None:
    stages = [
        "forward",
        "backward",
        "project",
        "lists",
        "blend",
        "blend_backward",
        "project_backward",
        "weights",
    ]
    print("size  D  " + "".join(f"{stage:>18}" for stage in stages))
    for row in rows:
        cells = [f"{row['ms'][stage]['median']:.2f} [{row['ms'][stage]['minimum']:.2f}]" for stage in stages]
        print(f"{row['size']:4} {row['channels']:2}  " + "".join(f"{cell:>18}" for cell in cells))
    print(f"the middle {crop} x {crop} pixels: torch / ours")
    for row in rows:
        ms = row["ms"]
        if "crop_forward" not in ms:
            continue
        ratios = [
            f"{pass_} {ms['torch_crop_' + pass_]['median']:.0f} / {ms['crop_' + pass_]['median']:.1f} ms = "
            f"{ms['torch_crop_' + pass_]['median'] / ms['crop_' + pass_]['median']:.0f}x"
            for pass_ in ("forward", "backward")
        ]
        print(f"{row['size']:4} {row['channels']:2}  " + ", ".join(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--simd", choices=["avx512", "avx2", "baseline"], help="the best of this CPU by default"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gaussians", type=int, default=50_000)
    parser.add_argument("--crop", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.simd and not _native.use_simd_level(options.simd):
        parser.error(f"--simd {options.simd}: this CPU or build does not have it")
    room = synthetic_room(options.gaussians)
    rows = measure(room, options.repeats, options.crop)
    first = rows[0]
    clock = "CPU" if options.threads == 1 else "wall-clock"
    print(
        f"{cpu.simd_level()}, {options.threads} thread(s), {options.gaussians} Gaussians, "
        f"{first['visible']} visible at {first['size']}, {clock} ms: median [minimum]"
    )
    show(rows, options.crop)
    if options.json:
        about = {"simd": cpu.simd_level(), "threads": options.threads, "gaussians": options.gaussians}
        options.json.write_text(json.dumps([{**about, **row} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
