"""Scenes as tasks of a Ray cluster: https://docs.ray.io. Scenes and runs lie where all its machines see them."""

import logging
import os
import traceback
from dataclasses import replace
from types import TracebackType
from typing import Any

from rich.console import Console

from gs_lift.batch.engines import BatchConfig, cores
from gs_lift.batch.task import Task, do_scene
from gs_lift.errors import BackendError, GsLiftError
from gs_lift.terminal import TerminalReporter, show_warnings

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20
"""Of a cluster of our own, the least that Ray takes: tasks exchange lines of text."""


def attempt(task: Task) -> str | None:
    """In a worker: `do_scene`, what it says in the task's log. None if it went well, else why not, in a line."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a") as file:
        reporter = TerminalReporter(Console(file=file))
        show_warnings(reporter)
        try:
            do_scene(task, reporter)
        except GsLiftError as error:
            reason = str(error)
        except Exception as error:  # a scene's failure is its own
            traceback.print_exc(file=file)
            reason = f"{type(error).__name__}: {error}; see {task.log}"
        else:
            return None
        reason = " ".join(reason.split())
        reporter.say(f"gslift: {reason}")
        return reason


class RayEngine:
    """At most `slots` tasks handed in; the cluster runs those that it has `cpus` and `gpus` for."""

    def __init__(self, ray: Any, slots: int, cpus: int, gpus: float, *, own: bool):
        self._ray, self._slots, self._own = ray, slots, own
        # Tried again by run_batch alone. A worker for each scene: its memory returns, and what it has set.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "max_calls": 1}
        self._attempt = ray.remote(**options)(attempt)
        self._cpus = cpus
        self._running: dict[Any, Task] = {}

    @property
    def free(self) -> bool:
        return len(self._running) < self._slots

    def start(self, task: Task) -> None:
        self._running[self._attempt.remote(replace(task, threads=self._cpus))] = task

    def ended(self, wait_s: float | None) -> list[tuple[Task, str | None]]:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=wait_s)
        return [(task, self._reason(one, task)) for one in ready for task in [self._running.pop(one)]]

    def _reason(self, one: Any, task: Task) -> str | None:
        errors = self._ray.exceptions
        try:
            reason: str | None = self._ray.get(one)
            return reason
        except errors.OutOfMemoryError:
            return f"stopped by Ray, as memory ran out; use more --cpus or a smaller --jobs; see {task.log}"
        except (errors.WorkerCrashedError, errors.NodeDiedError):
            return f"its worker died: killed, out of memory, or a crash of native code; see {task.log}"
        except errors.RayError as error:
            lines = str(error).strip().splitlines()
            return f"{type(error).__name__}: {lines[-1].strip()[:200] if lines else 'no message'}; see {task.log}"

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop(force=False)
        except BaseException:
            self._stop(force=True)  # whatever they write is whole or not there
            raise
        finally:
            if self._own:
                self._ray.shutdown()

    def _stop(self, *, force: bool) -> None:
        """Ray raises SIGINT in a task that it cancels; with force it kills the worker."""
        for one in self._running:
            self._ray.cancel(one, force=force)
        while self._running:
            self.ended(None)


def open_engine(config: BatchConfig, count: int) -> RayEngine:
    try:
        import ray
    except ImportError:
        raise BackendError(
            "--engine ray: needs the package ray; pip install 'gs_lift[ray]', or use --engine local"
        ) from None
    own = not ray.is_initialized()
    if own:
        _connect(ray, config.address)
    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    most = int(max((one.get("CPU", 0) for one in machines), default=0))
    every = int(sum(one.get("CPU", 0) for one in machines))
    slots = max(1, min(config.jobs or count, count))
    cpus = config.cpus or max(1, min(most, every // slots))
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= config.gpus for one in machines):
        lacking = f"no machine of the Ray cluster has {cpus} CPUs and {config.gpus:g} GPUs"
        if own and _is_ours(config.address):
            ray.shutdown()
            raise BackendError(f"{lacking}, what a scene is to have; use a smaller --cpus or --gpus")
        log.warning("%s; scenes wait until one comes", lacking)
    return RayEngine(ray, slots, cpus, config.gpus, own=own)


def _is_ours(address: str | None) -> bool:
    """Whether Ray starts a cluster of this machine, rather than joining one."""
    return address == "local" or (address is None and not os.environ.get("RAY_ADDRESS"))


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if _is_ours(address):
        options |= {
            "num_cpus": cores(),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(address, **options)
    except Exception as error:  # of any of a dozen types
        raise BackendError(
            f"--address {address or 'local'}: no Ray cluster ({' '.join(str(error).split())[:200]}); "
            "start one with `ray start --head`, or leave --address out"
        ) from None
