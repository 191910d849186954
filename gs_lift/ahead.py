"""What the next steps need, made in the background while this one works."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Ahead(Generic[Key, Value]):
    """Gives `make(key)`, begun on another thread where the key was foretold.

    make: depends on its key alone; runs on `threads` threads, side by side. What is foretold and not asked for is
    thrown away with the next foretelling, so that no more than one foretelling's worth waits in memory.
    """

    def __init__(self, make: Callable[[Key], Value], threads: int = 1):
        self._make = make
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._begun: dict[Key, Future[Value]] = {}

    def get(self, key: Key, then: Iterable[Key] = ()) -> Value:
        """What belongs to `key`; `then` are those that will be asked for next. Raises what `make` raises."""
        begun = self._begun.pop(key, None)
        self.foretell(then)
        return self._make(key) if begun is None else begun.result()

    def foretell(self, keys: Iterable[Key]) -> None:
        waiting, self._begun = self._begun, {}
        for key in keys:
            if key in waiting:
                self._begun[key] = waiting.pop(key)
            elif key not in self._begun:
                # In this thread's context: how many threads its kernels may use (see threads.py).
                self._begun[key] = self._pool.submit(copy_context().run, self._make, key)
        for unwanted in waiting.values():
            unwanted.cancel()

    def __enter__(self) -> "Ahead[Key, Value]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
