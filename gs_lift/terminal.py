"""What a person sees while a stage runs: bars with rate and ETA on a terminal, plain lines elsewhere."""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gs_lift.progress import OnStep

PLAIN_EVERY_S = 15.0
"""Seconds between two lines where there is no terminal."""


class _Rate(ProgressColumn):
    """Steps per second, or per hour."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed) if task.speed else "", style="cyan")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 0.05 or not per_second else f"{per_second * 3600:.0f}/h"


def _figures(figures: dict[str, float]) -> str:
    """Whole numbers in full, others to four digits."""
    return "  ".join(
        f"{name} {value:,.0f}" if value >= 1000 and value == int(value) else f"{name} {value:.4g}"
        for name, value in figures.items()
    )


class Interrupt:
    """Turns the first Ctrl-C into a wish to stop at the next whole step; the second stops at once."""

    def __init__(self) -> None:
        self.wished = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM this way inside the block, on the main thread: others get no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.wished:
            raise KeyboardInterrupt


class TerminalReporter:
    """The pipeline's Reporter on a rich console."""

    def __init__(self, console: Console):
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def panel(self, title: str, rows: Mapping[str, str]) -> None:
        if not self.console.is_terminal:
            for name, value in rows.items():
                self.say(f"{name}: {value}")
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(Text(name), Text(value))
        self.console.print(Panel(table, title=Text(title), title_align="left", expand=False))

    def wait(self, *lines: str) -> None:
        """Say some lines, and wait until Ctrl-C, which ends it without an error."""
        interrupt = Interrupt()
        with suppress(KeyboardInterrupt), interrupt.installed():
            for line in lines:
                self.say(line)
            while not interrupt.wished:
                time.sleep(0.2)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[OnStep]:
        """A bar, or a line now and then; the OnStep raises KeyboardInterrupt at a whole step after Ctrl-C."""
        interrupt, start = Interrupt(), time.perf_counter()
        show = self._bar if self.console.is_terminal else self._lines
        with interrupt.installed(), show(name, total) as update:

            def on_step(step: int, figures: dict[str, float]) -> None:
                update(step, figures)
                if interrupt.wished:
                    raise KeyboardInterrupt

            yield on_step
        self.say(f"{name}: {time.perf_counter() - start:.1f} s")

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[OnStep]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        # Rich forgets steps after so long, or after a thousand: a scene of a batch is a step of minutes.
        forget_s = 86400.0
        with Progress(
            *columns, console=self.console, transient=True, speed_estimate_period=forget_s
        ) as progress:
            task = progress.add_task(name, total=total, figures="")

            def update(step: int, figures: dict[str, float]) -> None:
                progress.update(task, completed=step, figures=_figures(figures))

            yield update

    @contextmanager
    def _lines(self, name: str, total: int | None) -> Iterator[OnStep]:
        start = last = time.perf_counter()
        first: int | None = None

        def update(step: int, figures: dict[str, float]) -> None:
            nonlocal last, first
            first = max(step - 1, 0) if first is None else first
            now = time.perf_counter()
            if now - last < PLAIN_EVERY_S:
                return
            last, rate = now, (step - first) / (now - start)
            left = f", {(total - step) / rate:.0f} s left" if total and rate else ""
            self.say(
                f"{name}: {step}{f'/{total}' if total else ''}, {_rate(rate)}{left}  {_figures(figures)}"
            )

        yield update


class _Warnings(logging.Handler):
    """Prints the library's warnings where the bars are, so that neither tears the other."""

    def __init__(self, reporter: TerminalReporter):
        super().__init__(logging.WARNING)
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.say(f"note: {record.getMessage()}")


def show_warnings(reporter: TerminalReporter) -> None:
    """From now on the warnings of gs_lift appear on the reporter's console."""
    logging.getLogger("gs_lift").addHandler(_Warnings(reporter))
