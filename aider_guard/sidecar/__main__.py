"""``python -m aider_guard.sidecar``: requests on stdin, events on stdout, until stdin closes."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from aider_guard import __version__
from aider_guard.core.events import SidecarStarted
from aider_guard.core.requests import Request
from aider_guard.core.wire import WireError, decode, encode
from aider_guard.sidecar.lines import (
    claim_stdout,
    end_process,
    read_lines,
    start_thread,
    write_all,
)
from aider_guard.sidecar.names import DEFAULT_BASE, connectable_base, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aider_guard.core.events import Event
    from aider_guard.sidecar.memory import MemorySensor
    from aider_guard.sidecar.service import Answers


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run until the guard closes our stdin, whatever hangs at that moment."""
    options = _parse(arguments)
    emit = _emitter(claim_stdout())
    try:
        emit(SidecarStarted(os.getpid(), __version__))
        sensor = _start_memory(emit)
        answers = _start_ollama(connectable_base(options.ollama), options.tokenizers, sensor, emit)
        status = _serve(answers)
    except (BrokenPipeError, KeyboardInterrupt):
        end_process(0)
    sensor.close()
    end_process(status)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aider_guard.sidecar", description=__doc__)
    parser.add_argument("--ollama", default=DEFAULT_BASE, metavar="URL")
    parser.add_argument("--tokenizers", default="", metavar="DIR")
    parser.add_argument("--door-fd", type=int, default=-1, metavar="FD")
    return parser.parse_args(arguments)


def _emitter(lines_fd: int) -> Callable[[Event], None]:
    """Writes whole lines, from any thread."""
    lock = threading.Lock()

    def emit(event: Event) -> None:
        line = encode(event)
        with lock:
            write_all(lines_fd, line)

    return emit


def _start_memory(emit: Callable[[Event], None]) -> MemorySensor:
    from aider_guard.sidecar.gpu import GpuSensor
    from aider_guard.sidecar.memory import MemorySensor
    from aider_guard.sidecar.service import poll_memory

    sensor = MemorySensor(GpuSensor())
    start_thread("memory", lambda: poll_memory(sensor, emit))
    return sensor


def _start_ollama(
    base_url: str, tokenizers: str, sensor: MemorySensor, emit: Callable[[Event], None]
) -> Answers:
    # httpx imports what its command line needs when it is there: 2 MB that nobody uses here.
    sys.modules.setdefault("click", None)  # type: ignore[arg-type]  # None: not to be found
    from aider_guard.sidecar.counting import Counting
    from aider_guard.sidecar.ollama import OllamaClient
    from aider_guard.sidecar.service import Answers, poll_ollama
    from aider_guard.sidecar.unloading import Unloader

    client = OllamaClient(base_url)
    start_thread("ollama", lambda: poll_ollama(client, emit))
    answers = Answers()
    unloader = Unloader(client, sensor.read if is_loopback(base_url) else None)
    answers.start(client, unloader, Counting(tokenizers), emit)
    return answers


def _serve(answers: Answers) -> int:
    """Take requests until stdin closes or one says stop. Lines that are none are told on stderr."""
    try:
        for line in read_lines(0):
            try:
                request = decode(line)
            except WireError as error:
                print(f"sidecar: a request was not understood: {error}", file=sys.stderr)
                continue
            if isinstance(request, Request) and not answers.take(request):
                return 0
    except (WireError, OSError) as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
