"""The answering end of a line process: lines in, lines out, and an end that waits for nothing."""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Final, NoReturn

from aider_guard.core.wire import LineSplitter, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
