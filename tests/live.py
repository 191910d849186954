"""Counts what is in memory at once: what is read view by view shall be let go view by view."""

import weakref
from typing import TypeVar

Thing = TypeVar("Thing")


class Live:
    """most: of the things that were `made`, how many were alive at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def made(self, thing: Thing) -> Thing:
        """The thing itself, counted until nobody holds it any more."""
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self._gone)
        return thing

    def _gone(self) -> None:
        self.now -= 1
