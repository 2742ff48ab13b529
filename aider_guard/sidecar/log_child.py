"""A child that follows a log for us, and ends when we do, however we end.

A shell starts it and waits for the end of a pipe that we hold: it closes when this process is gone, killed by SIGKILL
too, which a child cannot learn otherwise before it writes its next line.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from aider_guard.sidecar.log_follow import LogStream

STOP_SECONDS: Final = 2.0

_WATCHED: Final = (
    '"$@" </dev/null & child=$!; exec >/dev/null; cat; kill "$child" 2>/dev/null; wait'
)


@contextmanager
def followed_child(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[LogStream]:
    """What ``command`` prints, as a log. Raises ``OSError`` when there is no shell."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHED, "sh", *command],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stream = LogStream(process.stdout.fileno(), lambda: f"{command[0]} has ended")
    try:
        yield stream
    finally:
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        stream.close()
        process.stdout.close()
