"""Which scenes a batch has: the lines of a file, or the sub-folders of a folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from gs_lift.datasets import layout_of
from gs_lift.errors import ConfigError, SceneError


def list_scenes(source: Path) -> list[Path]:
    """The scene folders that a file names, one a line, relative to the file, or all sub-folders of a folder.

    `#` at the start of a line or after a space begins a comment. Whether a folder is a scene shows when its turn comes.
    Raises SceneError or ConfigError where there is none, or two would share a run folder.
    """
    if source.is_dir():
        _refuse_scene(source)
        found = [
            (path.absolute(), path.name)
            for path in sorted(source.iterdir())
            if path.is_dir() and path.name[0] != "."
        ]
    else:
        found = [
            (Path(os.path.normpath(source.absolute().parent / line)), f"line {number}")
            for number, line in enumerate(_lines(source), start=1)
            if line
        ]
    if not found:
        raise SceneError(f"{source}: names no scene; wanted a scene folder a line, or a folder of scenes")
    _refuse_twins(source, found)
    return [path for path, _ in found]


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SceneError(
            f"{file}: cannot be read ({error.strerror}); wanted a list of scenes or a folder of them"
        ) from None
    except UnicodeDecodeError:
        raise SceneError(f"{file}: not text; wanted the path of a scene folder a line") from None
    return [_without_comment(line).strip() for line in text.splitlines()]


def _without_comment(line: str) -> str:
    for place, letter in enumerate(line):
        if letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


def _refuse_scene(folder: Path) -> None:
    try:
        layout = layout_of(folder.absolute())
    except SceneError:
        return
    raise ConfigError(
        f"{folder}: is itself a scene ({layout}); wanted the folder above it, or `gslift fit {folder}`"
    )


def _refuse_twins(source: Path, found: Sequence[tuple[Path, str]]) -> None:
    places: dict[Path, str] = {}
    names: dict[str, tuple[Path, str]] = {}
    for path, place in found:
        if not path.name:
            raise ConfigError(f"{source}, {place}: {path} has no name; wanted the folder of a scene")
        if (first := places.setdefault(path.resolve(), place)) != place:
            raise ConfigError(f"{source}: {path} is there twice ({first}, {place}); take one away")
        other, first = names.setdefault(path.name, (path, place))
        if first != place:
            raise ConfigError(
                f"{source}: two scenes are called {path.name} ({first}: {other}, {place}: {path}) and would share a "
                "run folder; rename one, or give them lists and --runs of their own"
            )
