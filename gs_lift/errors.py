"""Errors that a user can act on. Each says what was wanted, what came, and the way out, in one line."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


class GsLiftError(Exception):
    """Base of every error that gs_lift raises on purpose; the command line prints it and exits with 2."""


class ConfigError(GsLiftError):
    """An option or a config field has a value that it does not take."""


class SceneError(GsLiftError):
    """A scene folder, or a file in it, is not what its layout says."""


class TooFewPoints(SceneError):
    """The files are as they should be, but the photos and poses do not give enough points to start from."""


class SplatError(GsLiftError):
    """A splat file cannot be read as 3D Gaussians."""


class RunError(GsLiftError):
    """A run folder is missing, belongs to other settings, or lacks an earlier stage."""


class ConstraintError(GsLiftError):
    """A constraint file is not what it should be, or asks for what cannot be."""


class CameraPathError(GsLiftError):
    """A camera path cannot be read, or does not go with what is rendered."""


class VideoError(GsLiftError):
    """A video cannot be written."""


class WorldError(GsLiftError):
    """Processes that share a scene have lost each other, or no longer hold the same numbers."""


class BackendError(GsLiftError):
    """A package or a device that was asked for is not here."""


def suggestion(name: str, names: Mapping[str, object] | list[str]) -> str:
    """`" Did you mean 'x'?"` for the closest of `names`, else an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def pick(table: Mapping[str, Value], name: str, what: str) -> Value:
    """`table[name]`, or a ConfigError that lists what there is.

    >>> pick({"cpu": 1}, "cuda", "backend")
    Traceback (most recent call last):
    gs_lift.errors.ConfigError: no backend 'cuda'; one of: cpu
    """
    if name not in table:
        raise ConfigError(f"no {what} {name!r}; one of: {', '.join(sorted(table))}")
    return table[name]
