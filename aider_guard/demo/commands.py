"""Run a program that takes long: its output feeds the progress line, or explains its failure."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
from collections import deque
from typing import TYPE_CHECKING

from aider_guard.demo.layout import RigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from aider_guard.demo.progress import Step

LAST_LINES = 12
TICK_SECONDS = 0.1


def run_command(
    command: Sequence[str | Path], step: Step, *, environ: Mapping[str, str] | None = None
) -> None:
    """Run ``command`` to its end, ticking ``step`` with each line that it prints.

    Raises:
        RigError: it cannot be started or ends with a status other than 0; the message holds the
            command and the last lines of its output.
    """
    words = [os.fspath(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if environ is None else dict(environ),
        )
    except OSError as error:
        raise RigError(f"Cannot run {words[0]}: {error.strerror}.") from error
    with process:
        try:
            last = _follow(process, step)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RigError(_failure(words, process.returncode, last))


def _follow(process: subprocess.Popen[bytes], step: Step) -> deque[str]:
    """Read until the output's end and the program's; return the last lines."""
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=LAST_LINES)
    pending = b""
    for chunk in _chunks(process.stdout.fileno()):
        *lines, pending = (pending + chunk).split(b"\n")
        last.extend(text for line in lines if (text := _readable(line)))
        step.tick(last[-1] if last else "")
    if text := _readable(pending):
        last.append(text)
    process.wait()
    return last


def _chunks(descriptor: int) -> Iterator[bytes]:
    """Yield what can be read, and an empty chunk whenever nothing came for `TICK_SECONDS`."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(TICK_SECONDS):
                yield b""
            elif chunk := os.read(descriptor, 65536):
                yield chunk
            else:
                return


def _readable(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()


def _failure(words: Sequence[str], status: int, last: deque[str]) -> str:
    ended = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    printed = "".join(f"\n  {line}" for line in last)
    return f"`{shlex.join(words)}` {ended}.{' Its last lines:' if printed else ''}{printed}"
