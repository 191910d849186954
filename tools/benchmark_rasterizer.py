"""How fast the CPU rasterizer is, kernel by kernel, against the arithmetic that it must do and against plain torch.

    python tools/benchmark_rasterizer.py [--json FILE] [--simd avx512|avx2|baseline] [--repeats N] [--threads 1 2]
                                         [--gaussians 50000 300000] [--only kernels|growth|torch|gsplat]

kernels  ms of each kernel on a synthetic room, by Gaussians, size of the image, channels and threads; for blending
         also nanoseconds per evaluated pair (its alpha is worked out) and per blended pair (it is not skipped), and the
         ratio to the floor.
growth   the time of all kernels together against Gaussians, pixels and channels, with the exponent (least squares).
torch    a crop of --crop pixels along a side, rendered by the plain torch backend too: that one takes minutes for a
         whole image. Whole calls, through autograd.
gsplat   the same calls by gsplat on a CUDA device, where there is one, and by the CPU on --threads: ms of wall-clock.

The floor is the time of the vector operations that no implementation of this algorithm can do without: 5 for an
evaluated pair (u, v, two for the exponent, the comparison), and for a blended one 15 + D more (exp2 10, clamp, mask,
transmittance, its comparison, weight; D sums), in the backward pass 33 + 2 D (the same 15; R 2, alpha / (1 - alpha) 3,
sigma 2, six moments and their factors 8, and what they share; D sums for the colour, D for the gradient's product). A
fused multiply-add counts as one. The rate is measured in the same run: half the floating-point operations per second of
a 1024 x 1024 matrix product on as many threads. Sorting, masks, loads and stores count as nothing.

Cases are interleaved; medians with the minimum in brackets. Read ratios and minima on a shared machine.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py

import torch
from torch import Tensor

from gs_lift import _native
from gs_lift.geometry import look_at
from gs_lift.rendering import BACKENDS, cpu

ROOM = (4.0, 3.0, 4.0)  # metres
MATRIX = torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0))
KERNELS = ("project", "lists", "blend", "blend_backward", "project_backward")


@dataclass(frozen=True)
class Room:
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmat: Tensor


def synthetic_room(count: int, channels: int = 64, seed: int = 0) -> Room:
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
        colors=torch.rand(count, channels, generator=generator),
        viewmat=look_at(
            torch.tensor([-1.6, -0.9, -1.6]), torch.tensor([0.6, 0.5, 0.6]), torch.tensor([0.0, -1.0, 0.0])
        ),
    )


def intrinsics(size: int, crop: int | None = None) -> Tensor:
    """A camera of 80 degrees; of the middle `crop` pixels where given."""
    center = (crop or size) / 2
    return torch.tensor([[0.6 * size, 0, center], [0, 0.6 * size, center], [0, 0, 1]])


class Case(NamedTuple):
    gaussians: int
    size: int
    channels: int
    threads: int


class Times:
    """Milliseconds by name: of CPU time on one thread, which other programs disturb least, else of wall-clock."""

    def __init__(self, threads: int):
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self.all: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        start = self.clock()
        result = function()
        self.all[name].append(1000 * (self.clock() - start))
        return result

    def median(self, name: str) -> float:
        return statistics.median(self.all[name])

    def least(self, name: str) -> float:
        return min(self.all[name])


class Bench:
    """The kernels on one case, into memory that is there already. K: of another camera than the whole view's."""

    def __init__(self, case: Case, room: Room, K: Tensor | None = None):
        self.case, self.room, self.times = case, room, Times(case.threads)
        self.K = intrinsics(case.size) if K is None else K
        count, size, channels = case.gaussians, case.size, case.channels
        self.colors = room.colors[:, :channels].contiguous()
        self.projected = [torch.empty(count, 2), torch.empty(count, 3), torch.empty(count)]
        self.radii = torch.empty(count, 2, dtype=torch.int32)
        self.image, self.left = torch.empty(size, size, channels), torch.empty(size, size)
        self.v_image, self.v_alpha = torch.ones_like(self.image), torch.zeros_like(self.left)
        self.v_splats = [
            torch.empty(count, 2),
            torch.empty(count, 3),
            torch.empty(count),
            torch.empty(count, channels),
        ]
        self.v_geometry = [torch.zeros_like(tensor) for tensor in (room.means, room.quats, room.scales)]
        self.frame = _native.Frame()

    def run(self) -> None:
        case, room, times = self.case, self.room, self.times
        geometry, threads = (room.means, room.quats, room.scales), case.threads
        camera = (room.viewmat, self.K, case.size, case.size)
        means2d, conics, depths = self.projected
        times(
            "project",
            lambda: _native.project(
                *geometry,
                room.opacities,
                *camera,
                0.01,
                1e10,
                0.3,
                means2d,
                conics,
                depths,
                None,
                self.radii,
                threads,
            ),
        )
        times(
            "lists",
            lambda: self.frame.build(
                means2d, conics, room.opacities, depths, self.radii, case.size, case.size, threads
            ),
        )
        times("blend", lambda: self.frame.blend(self.colors, None, self.image, self.left, threads))
        times(
            "blend_backward",
            lambda: self.frame.blend_backward(
                room.opacities, self.colors, self.image, self.left, self.v_image, self.v_alpha, *self.v_splats, None,
                threads,
            ),
        )  # fmt: skip
        times(
            "project_backward",
            lambda: _native.project_backward(
                *geometry,
                *camera,
                0.3,
                False,
                self.radii,
                *self.v_splats[:2],
                None,
                None,
                *self.v_geometry,
                threads,
            ),
        )
        torch.set_num_threads(threads)
        times("matrix product", lambda: MATRIX @ MATRIX)

    def figures(self) -> dict[str, Any]:
        """A row: the case, milliseconds, pairs, nanoseconds per pair, floors and ratios."""
        case, times = self.case, self.times
        evaluated, blended = self.frame.pixel_pairs()
        rate = 1024**3 / (times.least("matrix product") / 1000)  # vector operations' lanes per second
        operations = {
            "blend": 5 * evaluated + (15 + case.channels) * blended,
            "blend_backward": 5 * evaluated + (33 + 2 * case.channels) * blended,
        }
        floor = {name: 1000 * count / rate for name, count in operations.items()}
        return {
            "case": case._asdict() | {"simd": cpu.simd_level()},
            "visible": int((self.radii > 0).all(dim=1).sum()),
            "tile_pairs": self.frame.pairs,
            "evaluated_per_pixel": evaluated / case.size**2,
            "blended_per_pixel": blended / case.size**2,
            "ms": {name: {"median": times.median(name), "minimum": times.least(name)} for name in KERNELS},
            "ns_per_evaluated": {name: 1e6 * times.least(name) / evaluated for name in operations},
            "ns_per_blended": {name: 1e6 * times.least(name) / blended for name in operations},
            "floor": floor,
            "ratio_to_floor": {name: times.least(name) / floor[name] for name in floor},
            "gflops_of_matrix_product": 2 * rate / 1e9,
        }

    def total(self) -> float:
        """Milliseconds of all kernels, the least of each."""
        return sum(self.times.least(name) for name in KERNELS)


def interleaved(cases: Sequence[Case], repeats: int) -> list[Bench]:
    rooms = {count: synthetic_room(count) for count in {case.gaussians for case in cases}}
    benches = [Bench(case, rooms[case.gaussians]) for case in cases]
    for _ in range(repeats):
        for bench in benches:
            bench.run()
    return benches


def kernels(gaussians: Sequence[int], threads: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    rows = []
    print(
        f"{'Gaussians':>9} {'size':>4} {'D':>2} {'thr':>3} {'eval':>5} {'blend':>5}"
        + "".join(f"{name.replace('_', ' '):>19}" for name in KERNELS)
        + f"{'ns/eval':>12}{'ns/blended':>13}{'ratio to floor':>16}"
    )
    for count in gaussians:
        cases = [Case(count, size, D, t) for size in (256, 512) for D in (3, 16, 32) for t in threads]
        for bench in interleaved(cases, repeats):
            row = bench.figures()
            rows.append({"benchmark": "kernels", **row})
            case, per_pixel = bench.case, (row["evaluated_per_pixel"], row["blended_per_pixel"])
            ms = [f"{row['ms'][name]['median']:.2f} [{row['ms'][name]['minimum']:.2f}]" for name in KERNELS]
            pairs = [
                " / ".join(f"{value:.{digits}f}" for value in row[name].values())
                for name, digits in (("ns_per_evaluated", 1), ("ns_per_blended", 1), ("ratio_to_floor", 1))
            ]
            print(
                f"{case.gaussians:9} {case.size:4} {case.channels:2} {case.threads:3} "
                + "{:5.1f} {:5.1f}".format(*per_pixel)
                + "".join(f"{cell:>19}" for cell in ms)
                + f"{pairs[0]:>12}{pairs[1]:>13}{pairs[2]:>16}"
            )
    print(f"matrix product: {max(row['gflops_of_matrix_product'] for row in rows):.0f} GFLOP/s at best")
    return rows


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """b of the least-squares fit y = a x^b."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def growth(repeats: int) -> list[dict[str, Any]]:
    series = {
        "Gaussians": [
            (count, Case(count, 256, 3, 1)) for count in (10_000, 30_000, 100_000, 300_000, 1_000_000)
        ],
        "pixels": [(size**2, Case(50_000, size, 3, 1)) for size in (128, 256, 512, 1024)],
        "channels": [(D, Case(50_000, 256, D, 1)) for D in (1, 3, 8, 16, 32, 64)],
    }
    rows = []
    for name, points in series.items():
        benches = interleaved([case for _, case in points], repeats)
        totals = [(x, bench.total()) for (x, _), bench in zip(points, benches, strict=True)]
        power = exponent(totals)
        print(f"ms by {name}: " + ", ".join(f"{x:,}: {y:.1f}" for x, y in totals) + f"; exponent {power:.2f}")
        floors = [sum(bench.figures()["floor"].values()) for bench in benches]
        rows.append(
            {
                "benchmark": "growth",
                "case": {"by": name},
                "ms": dict(totals),
                "exponent": power,
                "floor": floors,
            }
        )
    return rows


def against_torch(crop: int, repeats: int) -> list[dict[str, Any]]:
    room, rows = synthetic_room(50_000), []
    torch.set_num_threads(1)
    for channels in (3, 16, 32):
        times = Times(1)
        for _ in range(min(repeats, 3)):
            for backend in ("cpu", "reference"):
                inputs = (room.means, room.quats, room.scales, room.opacities, room.colors[:, :channels])
                leaves = [tensor.clone().requires_grad_() for tensor in inputs]
                camera = (room.viewmat[None], intrinsics(256, crop)[None], crop, crop)
                module = BACKENDS[backend]()
                images = times(
                    f"{backend} forward", lambda m=module, x=leaves, c=camera: m.rasterize(*x, *c)[0]
                )
                times(f"{backend} backward", lambda i=images: i.backward(torch.ones_like(i)))
        ratios = {
            part: times.median(f"reference {part}") / times.median(f"cpu {part}")
            for part in ("forward", "backward")
        }
        print(
            f"torch / ours, the middle {crop} x {crop} pixels of 256, D = {channels}: "
            + ", ".join(f"{part} {ratio:.0f}x" for part, ratio in ratios.items())
        )
        ms = {name: times.median(name) for name in times.all}
        bench = Bench(Case(50_000, crop, channels, 1), room, intrinsics(256, crop))
        bench.run()
        case, floor = {"crop": crop, "channels": channels}, bench.figures()["floor"]
        rows.append({"benchmark": "torch", "case": case, "ms": ms, "ratios": ratios, "floor": floor})
    return rows


def against_gsplat(threads: int, repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if not torch.cuda.is_available():
        print("gsplat: no CUDA device here")
        return rows
    torch.set_num_threads(threads)
    device = torch.cuda.get_device_name()
    for count in (50_000, 300_000):
        room = synthetic_room(count)
        for size, channels in ((256, 3), (256, 16), (512, 3), (512, 16)):
            times = Times(2)  # wall-clock
            for _ in range(repeats + 1):
                for backend, place in (("gsplat", "cuda"), ("cpu", "cpu")):
                    inputs = (room.means, room.quats, room.scales, room.opacities, room.colors[:, :channels])
                    leaves = [tensor.to(place).clone().requires_grad_() for tensor in inputs]
                    camera = (room.viewmat[None].to(place), intrinsics(size)[None].to(place), size, size)
                    torch.cuda.synchronize()
                    images = times(
                        f"{backend} forward", lambda b=backend, x=leaves, c=camera: _forward(b, x, c)
                    )
                    times(f"{backend} backward", lambda i=images: _backward(i))
            ms = {
                name: statistics.median(values[1:]) for name, values in times.all.items()
            }  # the first warms up
            print(
                f"{count} Gaussians, {size}, D = {channels}: "
                + ", ".join(f"{name} {value:.2f} ms" for name, value in ms.items())
            )
            case = {
                "gaussians": count,
                "size": size,
                "channels": channels,
                "threads": threads,
                "device": device,
            }
            bench = Bench(Case(count, size, channels, threads), room)
            bench.run()
            rows.append(
                {"benchmark": "gsplat", "case": case, "ms": ms, "floor": bench.figures()["floor"]}
            )  # of the CPU
    return rows


def _forward(backend: str, leaves: list[Tensor], camera: tuple[Any, ...]) -> Tensor:
    images = BACKENDS[backend]().rasterize(*leaves, *camera)[0]
    torch.cuda.synchronize()
    return images


def _backward(images: Tensor) -> None:
    images.backward(torch.ones_like(images))
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[50_000, 300_000])
    parser.add_argument(
        "--simd", choices=["avx512", "avx2", "baseline"], help="the best of this CPU by default"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--only", choices=["kernels", "growth", "torch", "gsplat"])
    options = parser.parse_args()
    if options.simd and not _native.use_simd_level(options.simd):
        parser.error(f"--simd {options.simd}: this CPU or build does not have it")
    print(f"{cpu.simd_level()}; ms of CPU on one thread, of wall-clock on more: median [minimum]")
    rows: list[dict[str, Any]] = []
    if options.only in (None, "kernels"):
        rows += kernels(options.gaussians, options.threads, options.repeats)
    if options.only in (None, "growth"):
        rows += growth(max(2, options.repeats // 2))
    if options.only in (None, "torch"):
        rows += against_torch(options.crop, options.repeats)
    if options.only in (None, "gsplat"):
        rows += against_gsplat(max(options.threads), options.repeats)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
