"""How many threads work: native kernels give the same bytes on any number of them, torch's own operations do not.

Torch cuts a tensor into one piece for each thread and takes the rest of a piece that fills no vector by other code,
whose last bit may differ (exp, hypot). So where bytes must not depend on the machine, torch works on one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_for_kernels: ContextVar[int | None] = ContextVar("_for_kernels", default=None)


def kernel_threads() -> int:
    """Threads for a native kernel: as many as torch has, or as `torch_on_one_thread` says."""
    return _for_kernels.get() or torch.get_num_threads()


@contextmanager
def torch_on_one_thread(*, kernels: int | None = None) -> Iterator[None]:
    """Inside, torch has one thread, and native kernels have `kernels`, or as many as before."""
    before = torch.get_num_threads()
    token = _for_kernels.set(kernels or kernel_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _for_kernels.reset(token)
