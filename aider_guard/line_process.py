"""The asking end of a line process: what can hang or needs much memory for a moment runs in one.

That is the NVIDIA driver and the tokeniser. Nobody waits for such a process: it is asked, and given
up when it stays silent. It ends itself when its stdin closes (lines.py), even in the middle of an
answer.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from aider_guard.core.wire import LineSplitter, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# The answering end of a line process: lines in, lines out, and an end that waits for nothing.

CHUNK_BYTES: Final = 65536


def claim_stdout() -> int:
    """A private descriptor for the lines; whatever else is printed from now on goes to stderr."""
    sys.stdout.flush()
    lines_fd = os.dup(1)
    os.dup2(2, 1)
    return lines_fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking descriptor. Raises ``OSError`` when nobody reads."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_lines(fd: int) -> Iterator[bytes]:
    """The lines of a blocking descriptor, until its end. Raises ``WireError`` if one is endless."""
    splitter = LineSplitter()
    while chunk := os.read(fd, CHUNK_BYTES):
        yield from splitter.feed(chunk)


def end_process(status: int) -> NoReturn:
    """End now: an orderly exit would wait for threads that hang in a driver."""
    sys.stderr.flush()
    os._exit(status)


def start_thread(name: str, run: Callable[[], None]) -> None:
    """Run something in the background; a bug in it ends the process, with its traceback."""

    def body() -> None:
        try:
            run()
        except BrokenPipeError:
            end_process(0)  # whom we work for is gone
        except BaseException:  # noqa: BLE001  # half a sidecar would look like a silent Ollama
            traceback.print_exc()
            end_process(70)

    threading.Thread(target=body, name=name, daemon=True).start()


def serve_lines(answer: Callable[[bytes], bytes]) -> NoReturn:
    """The asked end: answer each line of stdin with a line, and end at once when stdin closes."""
    lines_fd = claim_stdout()
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def work() -> None:
        while True:
            write_all(lines_fd, answer(questions.get()))

    start_thread("answers", work)
    try:
        for line in read_lines(0):
            questions.put(line)
    except (OSError, WireError, KeyboardInterrupt):
        end_process(1)
    end_process(0)


# `python -m` looks for modules in the working directory first, and the user's may hold a json.py.
PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]

_given_up: list[subprocess.Popen[bytes]] = []


class LineProcess:
    """A process that runs one of our modules and answers in lines. Every call ends in bounded time."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        reap()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=PACKAGE_PARENT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)
        self._pending = bytearray()
        self._lines: list[bytes] = []
        self._splitter = LineSplitter()
        self.ended = False
        """Whether the process closed its end, or was closed: no answer comes any more."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, line: bytes) -> None:
        """Queue a question (with its newline); it is sent while an answer is waited for."""
        self._pending += line

    def answer(self, timeout_seconds: float) -> bytes | None:
        """The next answer; None when none came in time or the process ``ended``."""
        deadline = time.monotonic() + timeout_seconds
        while not self._lines and not self.ended:
            left = deadline - time.monotonic()
            readers, writers = [self._from], [self._to] if self._pending else []
            readable, writable, _ = select.select(readers, writers, [], max(0.0, left))
            if writable:
                self._send()
            if readable:
                self._receive()
            if left <= 0:
                break
        return self._lines.pop(0) if self._lines else None

    def _send(self) -> None:
        try:
            del self._pending[: os.write(self._to.fileno(), self._pending)]
        except BlockingIOError:
            return
        except OSError:
            self._pending.clear()  # it is gone: reading tells

    def _receive(self) -> None:
        try:
            chunk = os.read(self._from.fileno(), CHUNK_BYTES)
            self._lines += self._splitter.feed(chunk)
        except BlockingIOError:
            return
        except (OSError, WireError):
            self.ended = True
            return
        self.ended = not chunk

    def close(self) -> None:
        """Kill the process and give it up. Never waits: one stuck in the kernel does not die."""
        self.ended = True
        self._from.close()
        with suppress(OSError):  # it ended with a question unread
            self._to.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            _given_up.append(self._process)


def reap() -> None:
    """Collect the processes that were given up and died since; those stuck in the kernel stay."""
    _given_up[:] = [process for process in _given_up if process.poll() is None]
