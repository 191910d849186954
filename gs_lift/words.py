"""Words for a line on a terminal or a page."""

from collections.abc import Iterable

LONGEST = 200
"""Letters of a name from anywhere."""


def clean(text: str) -> str:
    """A name from anywhere as it may be shown: one line of at most LONGEST printable letters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST].rstrip()


def listed(ids: Iterable[int]) -> str:
    """Ascending ids in words, runs of three and more as ranges.

    >>> listed([1, 2, 3, 5])
    '1 to 3, 5'
    """
    runs: list[list[int]] = []
    for one in ids:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words) or "none"
