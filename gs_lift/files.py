"""Files that are never half written: a temporary beside the target, fsync, rename."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import BinaryIO


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix; renamed onto it if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{get_ident()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` and put the result at `path`, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write(file)


def write_text_atomic(path: Path, text: str) -> None:
    """Put `text` at `path`, whole or not at all."""
    write_atomic(path, lambda file: file.write(text.encode()))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else who asks for it is inside the block, in this process or another: waits for them. Not to be nested."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
