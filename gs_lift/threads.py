"""How many threads work: native kernels give the same bytes on any number of them, torch's own operations do not.

Torch cuts a tensor into one piece for each thread and takes the rest of a piece that fills no vector by other code,
whose last bit may differ (exp, hypot). So where bytes must not depend on the machine, torch works on one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch

_for_kernels: ContextVar[int | None] = ContextVar("_for_kernels", default=None)


def kernel_threads() -> int:
    """Threads for a native kernel: as many as torch has, or as `torch_on_one_thread` says."""
    return _for_kernels.get() or torch.get_num_threads()


_lock = Lock()
_inside: list[int] = []
"""Of the calls that are inside now, on any thread: the number of threads that each found and gives back."""


@contextmanager
def torch_on_one_thread(*, kernels: int | None = None) -> Iterator[None]:
    """Inside, torch has one thread, and native kernels have `kernels`, or as many as before.

    The number is the calling thread's own (OpenMP's); but a thread that never asked before finds the number that was
    set last on any other: so what another one, now inside, had found counts as well.
    """
    with _lock:
        before = max([torch.get_num_threads(), *_inside]) if _for_kernels.get() is None else 1
        _inside.append(before)
    token = _for_kernels.set(kernels or _for_kernels.get() or before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _for_kernels.reset(token)
        with _lock:
            _inside.remove(before)
