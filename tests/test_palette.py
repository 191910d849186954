"""Instance colours: stable, apart from each other, grey for none."""

import numpy as np

from gs_lift.palette import GREY, colorize, palette


def test_a_colour_does_not_depend_on_how_many_there_are() -> None:
    assert (palette(500)[:7] == palette(7)).all()
    assert palette(0).shape == (0, 3)
    assert palette(3).dtype == np.uint8


def test_the_first_hundred_colours_differ() -> None:
    colors = palette(100).astype(int)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 999 * np.eye(100, dtype=int)
    assert distance.min() >= 10
    neighbours = np.abs(np.diff(colors, axis=0)).sum(axis=1)
    assert neighbours.min() >= 100


def test_no_instance_is_grey() -> None:
    labels = np.array([[-1, 0], [2, -1]])
    assert colorize(labels).tolist() == [[[*GREY], [*palette(3)[0]]], [[*palette(3)[2]], [*GREY]]]
    assert colorize(np.empty((0, 4), int)).shape == (0, 4, 3)
    assert colorize(np.full(3, -1)).tolist() == [[*GREY]] * 3
