"""One colour per instance, the same everywhere: files, pictures, tables."""

import colorsys

import numpy as np

GREY = (128, 128, 128)
"""Colour of what belongs to no instance."""


def palette(count: int) -> np.ndarray:
    """[count 3] uint8 RGB; the colour of an instance does not depend on how many there are.

    Hues advance by the golden angle, so that neighbours in number differ most; lightness and saturation take turns,
    so that the hues that come near each other again differ in those.
    """
    golden = (5**0.5 - 1) / 2
    rows = [
        colorsys.hls_to_rgb((0.03 + i * golden) % 1, (0.55, 0.4, 0.7)[i % 3], (0.9, 0.75)[i // 3 % 2])
        for i in range(count)
    ]
    return (np.array(rows).reshape(count, 3) * 255).round().astype(np.uint8)


def colorize(labels: np.ndarray) -> np.ndarray:
    """RGB of integer labels of any shape; negative ones are grey."""
    table = np.concatenate([palette(int(labels.max(initial=-1)) + 1), np.array([GREY], np.uint8)])
    return table[np.where(labels >= 0, labels, len(table) - 1)]


_VIRIDIS = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64
)
"""Five colours of matplotlib's map of that name, evenly spaced: readable by the colour-blind and in grey."""


def viridis(values: np.ndarray) -> np.ndarray:
    """[... 3] uint8 RGB of values [...] in 0..1, from dark violet to yellow; others are the nearest of those."""
    places = np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1) * (len(_VIRIDIS) - 1)
    below = np.minimum(places.astype(np.int64), len(_VIRIDIS) - 2)
    share = (places - below)[..., None]
    return ((1 - share) * _VIRIDIS[below] + share * _VIRIDIS[below + 1]).round().astype(np.uint8)
