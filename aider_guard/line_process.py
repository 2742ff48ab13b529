"""Child processes that speak in lines: what can hang, or needs much memory for a moment, runs in one.

That is the NVIDIA driver, the tokenisers and the sidecar. Their users never wait for them without a bound: a child that
does not answer is killed. A child ends itself when its stdin closes, even in the middle of an answer.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from aider_guard import process_starter
from aider_guard.core.codec import LineSplitter, WireError
from aider_guard.core.readings import Unavailable

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

CHUNK_BYTES: Final = 65536

# The child's end.


def claim_stdout() -> int:
    """Return a private descriptor for the lines; all other output goes to stderr from now on."""
    sys.stdout.flush()
    lines_fd = os.dup(1)
    os.dup2(2, 1)
    return lines_fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking descriptor. Raises ``OSError`` when its reader is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_lines(fd: int) -> Iterator[bytes]:
    """Yield the lines of a blocking descriptor, until its end. Raises ``WireError`` if one is endless."""
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
            end_process(0)  # the parent is gone
        except BaseException:  # noqa: BLE001  # half a sidecar would look like a silent Ollama
            traceback.print_exc()
            end_process(70)

    threading.Thread(target=body, name=name, daemon=True).start()


def serve_lines(answer: Callable[[bytes], bytes]) -> NoReturn:
    """Answer each line of stdin with a line, and end at once when stdin closes."""
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


# The parent's end.

_given_up: list[subprocess.Popen[bytes] | process_starter.ForkedProcess] = []


class LinePipes:
    """A child with pipes for lines in both directions. No call here blocks.

    Lines that the pipe does not take at once are kept in ``pending``, and sent by later calls of ``flush``.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        own_session: bool = False,
    ) -> None:
        reap()
        self._process = process_starter.start(
            command, environment, stderr=stderr, pass_fds=pass_fds, own_session=own_session
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)
        self._splitter = LineSplitter()
        self.pending = bytearray()

    @property
    def pid(self) -> int:
        """The child's process id; 0 for one that is not forked yet."""
        return self._process.pid

    def flush(self) -> None:
        """Write what the pipe takes now."""
        try:
            while self.pending:
                del self.pending[: os.write(self._to.fileno(), self.pending)]
        except BlockingIOError:
            return
        except OSError:
            self.pending.clear()  # the child is gone, which the end of its output reports

    def read_lines(self) -> list[bytes] | None:
        """Return the lines of the next chunk; None at the end of the output.

        Raises ``BlockingIOError`` when nothing has come, and ``WireError`` for an endless line.
        """
        chunk = os.read(self._from.fileno(), CHUNK_BYTES)
        return list(self._splitter.feed(chunk)) if chunk else None

    def close_pipes(self) -> None:
        """Close both pipes: a child that works ends then by itself."""
        with suppress(OSError):  # it ended with a line unread
            self._to.close()
        self._from.close()

    def give_up(self) -> None:
        """Remember the child as one that may not have ended yet, to be collected by a later ``reap``."""
        _given_up.append(self._process)


class LineProcess(LinePipes):
    """A child that runs one of our modules and answers in lines. Every call ends in bounded time."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__([sys.executable, "-m", module, *arguments], environment)
        self._lines: list[bytes] = []
        self.ended = False
        """Whether the child closed its output, or was closed: no answer comes any more."""

    def ask(self, line: bytes) -> None:
        """Queue a question (with its newline); it is sent while an answer is waited for."""
        self.pending += line

    def answer(self, timeout_seconds: float) -> bytes | None:
        """Return the next answer; None when none came in time or the child ``ended``."""
        deadline = time.monotonic() + timeout_seconds
        while not self._lines and not self.ended:
            left = deadline - time.monotonic()
            readers, writers = [self._from], [self._to] if self.pending else []
            readable, writable, _ = select.select(readers, writers, [], max(0.0, left))
            if writable:
                self.flush()
            if readable:
                self._receive()
            if left <= 0:
                break
        return self._lines.pop(0) if self._lines else None

    def _receive(self) -> None:
        try:
            lines = self.read_lines()
        except BlockingIOError:
            return
        except (OSError, WireError):
            lines = None
        self._lines += lines or []
        self.ended = lines is None

    def kill(self) -> None:
        """Kill the child, from any thread. One that is not forked yet ends when its pipes are closed."""
        if self._process.poll() is None and self.pid:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the child and give it up. Never waits: one stuck in the kernel does not die."""
        self.ended = True
        self.close_pipes()
        self.kill()
        self.give_up()


class OnDemandProcess:
    """A line process that is started when it is asked, and killed when it gives no answer.

    ``name`` and ``work`` are words for the reasons: "the counter", "counting". One thread asks.
    """

    def __init__(self, start: Callable[[], LineProcess], name: str, work: str) -> None:
        self._start = start
        self._name, self._work = name, work
        self._process: LineProcess | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process was started, and not closed since."""
        return self._process is not None

    def ask(self, line: bytes, timeout_seconds: float) -> bytes | Unavailable:
        """Return the answer to a line; Unavailable when the process takes too long, dies or cannot start."""
        try:
            process = self._process = self._process or self._start()
        except OSError as error:
            return Unavailable(f"no process can be started ({error.strerror})")
        process.ask(line)
        answer = process.answer(timeout_seconds)
        if answer is not None:
            return answer
        reason = f"{self._name} died" if process.ended else f"{self._work} took too long"
        self.close()
        return Unavailable(reason)

    def close(self) -> None:
        """Kill the process, without waiting for it."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def kill(self) -> None:
        """Kill the process from another thread: the one that asks gets no answer."""
        if (process := self._process) is not None:
            process.kill()


def reap() -> None:
    """Collect the processes that were given up and died since; those stuck in the kernel stay."""
    _given_up[:] = [process for process in _given_up if process.poll() is None]
