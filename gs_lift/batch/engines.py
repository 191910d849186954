"""What runs the scenes of a batch: one contract, two engines.

An engine is a module with `open_engine(config, count) -> Engine`, for `count` tasks. It starts tasks and says which
have ended; what is done, tried again or failed is decided by `run_batch`, and nowhere else.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, TracebackType
from typing import Protocol, runtime_checkable

from gs_lift.batch.task import Task
from gs_lift.errors import ConfigError, pick

ENGINES: dict[str, Callable[[], ModuleType]] = {
    "local": lambda: import_module("gs_lift.batch.local"),
    "ray": lambda: import_module("gs_lift.batch.on_ray"),
}
"""Processes of this machine; tasks of a Ray cluster. Each value loads its module."""


@dataclass(frozen=True)
class BatchConfig:
    """Where the scenes of a batch are done, how many at a time, and with what; changes no result."""

    engine: str = "local"
    """One of ENGINES."""
    jobs: int | None = None
    """Scenes at a time; None = one here, as many as there is room for on a cluster."""
    cpus: int | None = None
    """Threads of a scene, and what it takes of a cluster; None = a fair share of all cores."""
    gpus: float = 0
    """CUDA devices of a scene; below 1 scenes share one. 0 = none declared."""
    address: str | None = None
    """Of a Ray cluster; None = RAY_ADDRESS, else one of this machine's own while the batch lasts."""
    retries: int = 1
    """How often a scene that failed is tried again, after the others."""

    def __post_init__(self) -> None:
        pick(ENGINES, self.engine, "engine")
        for name, value in {"--jobs": self.jobs, "--cpus": self.cpus}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name}: wanted 1 or more, got {value}")
        if not (0 <= self.gpus < 1 or (self.gpus >= 1 and self.gpus % 1 == 0)):
            raise ConfigError(f"--gpus: wanted a whole number, or a share below 1, got {self.gpus}")
        if self.retries < 0:
            raise ConfigError(f"--retries: wanted 0 or more, got {self.retries}")
        if self.address is not None and self.engine != "ray":
            raise ConfigError(
                f"--address is of a Ray cluster; with it wanted --engine ray, got {self.engine}"
            )


@runtime_checkable
class Engine(Protocol):
    """Starts tasks; leaving it stops those that run at a whole step and waits for them, a second Ctrl-C kills them."""

    @property
    def free(self) -> bool:
        """Whether it takes another task now."""
        ...

    def start(self, task: Task) -> None: ...

    def ended(self, wait_s: float) -> list[tuple[Task, str | None]]:
        """Tasks that have ended since, after waiting for one at most so long; each with a line that says why it failed,
        or None."""
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_engine(config: BatchConfig, count: int) -> Engine:
    """The engine of a batch of `count` tasks. Raises BackendError where a package, device or cluster is not here."""
    engine: Engine = ENGINES[config.engine]().open_engine(config, count)
    return engine


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
