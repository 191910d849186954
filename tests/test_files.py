"""Atomic writes: whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gs_lift.files import atomic_path, locked, write_atomic, write_text_atomic


def test_a_finished_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    write_text_atomic(target, "old")
    write_text_atomic(target, "new")
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def fail(file: object) -> None:
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_atomic(target, fail)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_keeps_the_suffix_since_writers_look_at_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "image.png") as temporary:
        temporary.write_bytes(b"x")
        assert temporary.suffix == ".png"
    assert (tmp_path / "image.png").exists()


def test_threads_that_write_the_same_file_do_not_tear_each_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "file.txt", ["a" * 10_000, "b" * 10_000]

    def write(text: str) -> None:
        for _ in range(20):
            write_text_atomic(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, texts))  # raises what a thread raised
    assert list(tmp_path.iterdir()) == [path]


def test_only_one_at_a_time_is_in_a_locked_folder(tmp_path: Path) -> None:
    path = tmp_path / "count.txt"
    path.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locked(tmp_path):
                path.write_text(str(int(path.read_text()) + 1))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count) for _ in range(4)]:
            done.result()
    assert path.read_text() == "200"
