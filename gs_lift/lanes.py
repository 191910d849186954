"""Which views a step takes: a function of seed and step alone, whoever works on them.

A batch of B has B lanes. Lane l holds the views v with v % B == l and takes one of them at each step, all in a random
order before any comes again. Process r of R owns the lanes l with l % R == r: it reads only its own lanes' views.
"""

from dataclasses import dataclass

import torch

from gs_lift.distributed import world
from gs_lift.errors import ConfigError
from gs_lift.seeds import Purpose, seed_of

MOST = 255
"""Views of a step at most: what counts them has a byte."""


@dataclass(frozen=True)
class Lanes:
    """`count` lanes: the batch, or the number of views where that is smaller."""

    count: int
    seed: int

    @property
    def own(self) -> range:
        """The lanes of this process."""
        return range(world().rank, self.count, world().size)

    def owns(self, view: int) -> bool:
        """Whether a view, by its number, is in a lane of this process."""
        return view % self.count in self.own

    def size(self, lane: int, views: int) -> int:
        """How many of so many views are in a lane."""
        return len(range(lane, views, self.count))

    def turn(self, lane: int, step: int, length: int, purpose: Purpose) -> int:
        """Which of the `length` views of a lane has its turn at `step`, from 1."""
        lap, place = divmod(step - 1, length)
        stream = seed_of(self.seed, purpose, lap * self.count + lane)
        return int(torch.randperm(length, generator=torch.Generator().manual_seed(stream))[place])

    def draw(self, lane: int, step: int) -> int:
        """A number of its own for each lane and step, from 1: what is drawn for them follows from it."""
        return (step - 1) * self.count + lane + 1


def check_batches(**batches: int) -> None:
    """Raises ConfigError if there are more processes than views in the steps of any stage (`fit=4, lift=4`)."""
    size = world().size
    if any(batch < size for batch in batches.values()):
        got = ", ".join(f"{stage}.batch={batch}" for stage, batch in batches.items())
        wanted = " ".join(f"--set {stage}.batch={size}" for stage in batches)
        raise ConfigError(
            f"{size} processes share the views of a step, and there are too few: {got}; wanted one or more for each: "
            f"{wanted}"
        )
