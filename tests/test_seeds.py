"""Seeds: every stream of a run differs, whatever the run's seed."""

import pytest
import torch

from gs_lift.seeds import Purpose, seed_of

LARGEST = 2**63 - 1


def test_seeds_differ_by_run_purpose_and_count() -> None:
    runs = (0, 1, -1, 2**32, 10_000_000_000_000, LARGEST)
    seeds = {seed_of(run, purpose, count) for run in runs for purpose in Purpose for count in range(50)}
    assert len(seeds) == len(runs) * len(Purpose) * 50


@pytest.mark.parametrize("run", [0, 10_000_000_000_000, LARGEST])
@pytest.mark.parametrize("count", [0, 4000, 2**32])
def test_a_generator_takes_every_seed(run: int, count: int) -> None:
    for purpose in Purpose:
        seed = seed_of(run, purpose, count)
        assert 0 <= seed <= LARGEST
        assert torch.Generator().manual_seed(seed).initial_seed() == seed


def test_seeds_stay_what_they_are_so_that_older_runs_resume() -> None:
    assert seed_of(0, Purpose.FIT_ORDER, 7) == 6_812_392_217_526_899_882
