"""Atomic writes: whole or not at all."""

from pathlib import Path

import pytest

from gs_lift.files import atomic_path, write_atomic, write_text_atomic


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
