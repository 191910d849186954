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
_inside = 0
_before = 1


@contextmanager
def torch_on_one_thread(*, kernels: int | None = None) -> Iterator[None]:
    """Inside, torch has one thread, and native kernels have `kernels`, or as many as before.

    Torch's number is the process's: it returns when the last of those that are inside at once leaves.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        token = _for_kernels.set(kernels or _for_kernels.get() or _before)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
        _for_kernels.reset(token)
