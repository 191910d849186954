"""Several processes on one scene, as torchrun starts them: they share its views and hold the same parameters.

Inside `joined` they talk by gloo (tensors on CPUs) or NCCL (on GPUs: written to PyTorch's documentation, never run).
Outside, and in one process, everything here does what that process needs: nothing is sent, a sum is one's own. A
process that ends, or does not answer, is a WorldError in all others: nothing waits for it to come back, and the same
command goes on from the last checkpoint.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gs_lift.errors import WorldError
from gs_lift.progress import OnStep

Value = TypeVar("Value")

TIMEOUT_S = 1800.0
"""How long a process waits for the others before it gives them up. One that is killed is noticed at once; the longest
that all wait for the first is while it makes the starting points."""

SUM = torch.float64
"""What gradients are added up and sent in. Sums of a few float32 numbers are as good as exact in it: the order, and so
the number of processes, changes no byte of the result. float32 halves the traffic; then results are close only."""

CHECK_EVERY = 100
"""Steps from one comparison of the parameters to the next."""


@dataclass(frozen=True)
class World:
    """This process's number, from 0, and how many there are."""

    rank: int = 0
    size: int = 1


_world = World()


def world() -> World:
    """The processes that share the work; one outside of `joined`."""
    return _world


def rank_zero() -> bool:
    """Whether this is the process that writes and speaks."""
    return _world.rank == 0


def launched() -> World:
    """The processes that torchrun has started, joined or not; one where something else did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return World()
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@contextmanager
def joined(device: str = "cpu", timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """Inside, the processes that torchrun has started are one world. device: `cuda` gives each of a machine's its GPU.

    Raises WorldError where they do not find each other.
    """
    global _world
    if launched().size == 1:
        yield _world
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    with _talking():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    _world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield _world
        wait_for_all()
    finally:
        _world = World()
        dist.destroy_process_group()


@contextmanager
def _talking() -> Iterator[None]:
    """What PyTorch raises where another process has gone becomes a WorldError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise WorldError(
            f"another process has ended, or does not answer; run the same command again to go on ({reason})"
        ) from error


def any_of_all(flag: bool) -> bool:
    """Whether it is set in any process; all have to ask."""
    if _world.size == 1:
        return flag
    value = torch.tensor([flag], dtype=torch.uint8)
    with _talking():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def asked_to_stop(on_step: OnStep | None, step: int, figures: dict[str, float]) -> bool:
    """Call it; whether it raised KeyboardInterrupt, in this process or another."""
    stopped = False
    if on_step:
        try:
            on_step(step, figures)
        except KeyboardInterrupt:
            stopped = True
    return any_of_all(stopped)


def wait_for_all() -> None:
    """Until every process is here: torchrun ends the others when one has ended, whatever they are writing."""
    any_of_all(False)


def from_rank_zero(value: Value) -> Value:
    """What the first process gives, in all of them. It is pickled; tensors have to lie on the CPU."""
    if _world.size == 1:
        return value
    values = [value if rank_zero() else None]
    with _talking():
        dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


def to_rank_zero(value: Value) -> list[Value] | None:
    """In the first process what each gives, by rank; None in the others. Pickled as by `from_rank_zero`."""
    if _world.size == 1:
        return [value]
    values: list[Any] | None = [None] * _world.size if rank_zero() else None
    with _talking():
        dist.gather_object(value, values, dst=0)
    return values


class RowSum:
    """A sum of gradients of a table [N D], of which a step touches few rows."""

    def __init__(self, count: int, width: int, device: torch.device | None = None):
        self._total = torch.zeros(count, width, dtype=SUM, device=device)
        self._touched = torch.zeros(count, dtype=torch.uint8, device=device)

    @property
    def shape(self) -> tuple[int, int]:
        count, width = self._total.shape
        return count, width

    def add(self, rows: Int[Tensor, "T"], values: Float[Tensor, "T D"]) -> None:
        """rows: each at most once in a call."""
        self._total.index_add_(0, rows, values.to(SUM))
        self._touched[rows] = 1


@dataclass(frozen=True)
class Reduced:
    """Sums over all processes, of type SUM: of each RowSum the rows that any has touched, ascending, and values."""

    rows: list[tuple[Int[Tensor, "_"], Float[Tensor, "_ _"]]]
    figures: Float[Tensor, "F"]
    counts: UInt8[Tensor, "C"]


def all_reduce_rows(
    sums: Sequence[RowSum], figures: Float[Tensor, "F"], counts: UInt8[Tensor, "C"] | None = None
) -> Reduced:
    """Add up what the processes have gathered, and empty the sums.

    Two messages: one byte a row (in how many processes it was touched) with `counts`, of uint8; then the touched rows
    with `figures`. The same bytes in all processes, and for any number of them as far as SUM is exact.
    """
    own = [one._touched for one in sums]
    device = own[0].device
    if counts is None:
        counts = torch.zeros(0, dtype=torch.uint8, device=device)
    marks = _all_reduced(torch.cat([*own, counts]))
    places = [len(one) for one in own]
    rows = [mark.nonzero()[:, 0] for mark in marks[: sum(places)].split(places)]
    values = [one._total[taken] for one, taken in zip(sums, rows, strict=True)]
    flat = _all_reduced(torch.cat([*(value.flatten() for value in values), figures.to(device, SUM)]))
    sizes = [value.numel() for value in values]
    pieces = [*flat[: sum(sizes)].split(sizes)]
    for one, taken in zip(sums, rows, strict=True):
        one._total[taken] = 0
        one._touched.zero_()
    return Reduced(
        [(taken, piece.view(value.shape)) for taken, piece, value in zip(rows, pieces, values, strict=True)],
        flat[sum(sizes) :],
        marks[sum(places) :],
    )


def _all_reduced(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if _world.size > 1:
        with _talking():
            dist.all_reduce(tensor)
    return tensor


def checksum(tensors: Iterable[Tensor]) -> str:
    """Sixteen hexadecimal digits of the tensors' bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_same(what: str, tensors: Iterable[Tensor]) -> None:
    """Raises WorldError in all processes unless these tensors have the same bytes in all."""
    if _world.size == 1:
        return
    sums: list[Any] = [None] * _world.size
    with _talking():
        dist.all_gather_object(sums, checksum(tensors))
    if others := [str(rank) for rank, one in enumerate(sums) if one != sums[0]]:
        raise WorldError(
            f"{what}: process {', '.join(others)} of {_world.size} does not have the numbers of process 0; wanted "
            "machines with the same processor, the same packages and the same scene"
        )
