"""One seed for a run, and a stream of random numbers of its own for everything that is drawn in it."""

from enum import IntEnum, unique

import numpy as np


@unique
class Purpose(IntEnum):
    """What random numbers are for. All are listed here, so that no two share a stream."""

    FIT_POINTS = 1
    FIT_STRATEGY = 2
    FIT_ORDER = 3
    FIT_BACKGROUND = 4
    LIFT_ORDER = 5
    LIFT_PIXELS = 6
    LIFT_START = 7
    LIFT_CANDIDATES = 8
    LIFT_EVIDENCE = 9
    BLOCKS = 10


def seed_of(seed: int, purpose: Purpose, count: int) -> int:
    """A seed in 0..2^63 - 1 of its own for each purpose and each count (step, epoch, view) of a run.

    It depends on nothing else, so that a step draws the same after a resume.
    """
    # Numbers of 32 bits, each at a place of its own: a larger one would take two, and runs
    # 2^32 and 0 would share streams.
    high, low = divmod(seed % 2**64, 2**32)
    sequence = np.random.SeedSequence([low, int(purpose), count, high])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
