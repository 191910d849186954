"""What is foretold is made once, in the background; whatever it raises, the asker gets."""

import threading

import pytest

from gs_lift.ahead import Ahead


def test_what_is_foretold_is_made_once_on_another_thread() -> None:
    makers: dict[int, list[str]] = {}

    def make(key: int) -> int:
        makers.setdefault(key, []).append(threading.current_thread().name)
        return key * key

    with Ahead(make) as ahead:
        assert [ahead.get(key, then=[key + 1] if key < 3 else []) for key in range(4)] == [0, 1, 4, 9]
    assert {key: len(names) for key, names in makers.items()} == {0: 1, 1: 1, 2: 1, 3: 1}
    assert makers[0] == [threading.current_thread().name]
    assert all(makers[key][0].startswith("ahead") for key in (1, 2, 3))


def test_several_are_made_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def make(key: int) -> int:
        if key:
            meeting.wait()  # neither ends before the other has begun
        return key

    with Ahead(make, threads=2) as ahead:
        ahead.get(0, then=[1, 2])
        assert (ahead.get(1, then=[2]), ahead.get(2)) == (1, 2)


def test_an_error_reaches_whoever_asks_and_nobody_else() -> None:
    def make(key: int) -> int:
        if key == 1:
            raise ValueError("broken")
        return key

    with Ahead(make) as ahead:
        assert ahead.get(0, then=[1]) == 0
        with pytest.raises(ValueError, match="broken"):
            ahead.get(1)
        assert ahead.get(2, then=[1]) == 2  # and never asks for 1


def test_what_is_no_longer_foretold_is_thrown_away() -> None:
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        return key

    with Ahead(make) as ahead:
        ahead.get(0, then=[1])
        ahead.get(2, then=[3])
        assert ahead.get(3) == 3
        made.clear()
        ahead.get(1)
        assert made == [1]


def test_its_threads_end_with_it() -> None:
    with Ahead(lambda key: threading.current_thread()) as ahead:
        ahead.get(0, then=[1])
        maker = ahead.get(1)
        assert maker.is_alive()
    assert not maker.is_alive()
