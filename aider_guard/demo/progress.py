"""A long wait shows that it is alive: a spinner on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REDRAW_SECONDS = 0.1
REPORT_SECONDS = 4.0  # a wait is never silent for more than 5 s
PULSE_SECONDS = 0.1
DETAIL_COLUMNS = 70


@dataclass
class Step:
    """One wait, shown by `tick`, which any thread may call as often as it likes."""

    title: str
    stream: TextIO
    live: bool
    clock: Callable[[], float]
    columns: Callable[[], int]
    started: float = field(init=False)
    next_at: float = field(init=False)
    detail: str = field(default="", init=False)
    frames: Iterator[str] = field(default_factory=lambda: cycle("|/-\\"), init=False)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.next_at = self.started + (0.0 if self.live else REPORT_SECONDS)
        if not self.live:
            self._write(f"{self.title} ...\n")

    @property
    def elapsed_seconds(self) -> int:
        """Whole seconds since the step began."""
        return int(self.clock() - self.started)

    def tick(self, detail: str = "") -> None:
        """Show that the wait goes on; a non-empty ``detail`` replaces the last one."""
        with self.lock:
            self.detail = detail or self.detail
            if self.clock() < self.next_at:
                return
            self.next_at = self.clock() + (REDRAW_SECONDS if self.live else REPORT_SECONDS)
            detail = f": {self.detail[:DETAIL_COLUMNS]}" if self.detail else ""
            text = f"  {self.elapsed_seconds} s{detail}\n"
            if self.live:
                line = f"{next(self.frames)} {self.title}, {self.elapsed_seconds} s  {self.detail}"
                text = f"\r\x1b[K{line[: max(self.columns() - 1, 1)]}"
            self._write(text)

    def end(self, outcome: str) -> None:
        """Write the step's last line."""
        clear = "\r\x1b[K" if self.live else ""
        self._write(f"{clear}{self.title}: {outcome} ({self.elapsed_seconds} s)\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


@dataclass(frozen=True)
class Progress:
    """Where steps are reported. ``live``: the stream can redraw a line; None: find out.

    A step ticks by itself every ``pulse_seconds``, so that what blocks (unpacking, a request)
    cannot make it silent; None leaves the ticking to the caller.
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    live: bool | None = None
    clock: Callable[[], float] = time.monotonic
    columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns
    pulse_seconds: float | None = PULSE_SECONDS

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Report one wait, from its beginning to ``done``, ``failed`` or ``interrupted``."""
        live = self.live
        if live is None:
            live = self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        step = Step(title, self.stream, live, self.clock, self.columns)
        try:
            with _pulse(step, self.pulse_seconds):
                yield step
        except KeyboardInterrupt:
            step.end("interrupted")
            raise
        except BaseException:
            step.end("failed")
            raise
        step.end("done")


@contextmanager
def _pulse(step: Step, interval: float | None) -> Iterator[None]:
    """Tick ``step`` from a thread of its own, which has ended when the block has."""
    if interval is None:
        yield
        return
    over = threading.Event()

    def tick_until_over() -> None:
        while not over.wait(interval):
            step.tick()

    thread = threading.Thread(target=tick_until_over, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
