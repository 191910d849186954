"""Scenes in processes of this machine: a crash of native code takes one scene only."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType

import gs_lift
from gs_lift.batch.engines import BatchConfig, cores
from gs_lift.batch.task import Task
from gs_lift.config import config_hash, dump_config
from gs_lift.errors import BackendError
from gs_lift.files import write_text_atomic

PACKAGE = Path(gs_lift.__file__).parent

OUR_OWN = "import sys; sys.path[0] = sys.argv.pop(1); from gs_lift.cli import main; main()"
"""The command line of this very package: `-m` would take another one that lies in the working directory, a source tree
without its kernels."""


@dataclass(frozen=True)
class _Running:
    task: Task
    slot: int
    process: subprocess.Popen[bytes]
    said_before: int
    """Bytes of the log before this process wrote there."""


class LocalEngine:
    """At most `slots` processes, each of a process group of its own: Ctrl-C reaches them through us, once."""

    def __init__(self, slots: int, cpus: int, devices: Sequence[str | None]):
        self._cpus, self._devices = cpus, devices
        self._slots = list(range(slots))
        self._running: dict[int, _Running] = {}
        self._ends: SimpleQueue[int] = SimpleQueue()

    @property
    def free(self) -> bool:
        return bool(self._slots)

    def start(self, task: Task) -> None:
        slot = self._slots.pop()
        task.log.parent.mkdir(parents=True, exist_ok=True)
        settings = task.log.with_name(f".batch-{config_hash(task.config)}.yaml")
        write_text_atomic(settings, dump_config(task.config))
        command = [*(sys.executable, "-X", "faulthandler", "-c", OUR_OWN), str(PACKAGE.parent), "batch-scene"]
        command += [str(task.scene), str(task.folder), "--config", str(settings)]
        command += ["--threads", str(self._cpus), *(["--overwrite"] if task.overwrite else [])]
        with task.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end tells the process that we are gone
                stdout=log,
                stderr=log,
                env=self._environment(slot),
                start_new_session=True,
            )
            self._running[process.pid] = _Running(task, slot, process, log.tell())
        Thread(target=self._tell_end, args=(process,), daemon=True).start()

    def _environment(self, slot: int) -> Mapping[str, str]:
        device = self._devices[slot]
        chosen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        return {**os.environ, "OMP_NUM_THREADS": str(self._cpus), **chosen}

    def _tell_end(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ends.put(process.pid)

    def ended(self, wait_s: float | None) -> list[tuple[Task, str | None]]:
        try:
            one = self._running.pop(self._ends.get(timeout=wait_s))
        except Empty:
            return []
        self._slots.append(one.slot)
        assert one.process.stdin is not None
        one.process.stdin.close()
        return [(one.task, _reason(one.process.returncode, one.task.log, one.said_before))]

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop(signal.SIGINT)
        except BaseException:
            self._stop(signal.SIGKILL)  # whatever they write is whole or not there
            raise

    def _stop(self, number: signal.Signals) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(pid, number)
        while self._running:
            self.ended(None)


def _reason(code: int, log: Path, start: int) -> str | None:
    """Why a process ended with this code, from what it has written to its log; None if it went well."""
    if code == 0:
        return None
    if code < 0:
        names = {one.value: one.name for one in signal.Signals}
        guess = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"killed by {names.get(-code, f'signal {-code}')}{guess}; see {log}"
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    if code == 2 and (own := [line for line in lines if line.startswith("gslift: ")]):
        return own[-1].removeprefix("gslift: ")
    return f"stopped with code {code} ({lines[-1][:200] if lines else 'no message'}); see {log}"


def open_engine(config: BatchConfig, count: int) -> LocalEngine:
    slots = max(1, min(config.jobs or 1, count))
    devices = _devices(slots, config.gpus) if config.gpus else [None] * slots
    return LocalEngine(slots, config.cpus or max(1, cores() // slots), devices)


def _devices(slots: int, gpus: float) -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        visible = [str(number) for number in range(torch.cuda.device_count())]
    else:
        visible = [one for one in named.split(",") if one.strip()]
    return share_devices(visible, slots, gpus)


def share_devices(visible: Sequence[str], slots: int, gpus: float) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each slot: `gpus` devices of its own, or below 1 one that it shares.

    >>> share_devices(["0", "1", "2", "3"], 2, 2), share_devices(["0", "1"], 3, 0.5)
    (['0,1', '2,3'], ['0', '0', '1'])
    """
    each, together = max(1, int(gpus)), int(1 / gpus) if gpus < 1 else 1
    wanted = -(-slots // together) * each
    if wanted > len(visible):
        raise BackendError(
            f"--gpus {gpus:g} for {slots} scenes at a time: wanted {wanted} CUDA devices, found {len(visible)}; "
            "use a smaller --jobs or --gpus"
        )
    firsts = [slot // together * each for slot in range(slots)]
    return [",".join(visible[first : first + each]) for first in firsts]


def stop_with_parent() -> None:
    """From now on the end of standard input, which `LocalEngine` holds, is a Ctrl-C; and Ctrl-C is heard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a thread would hold when Python ends
            pass
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=watch, daemon=True).start()
