"""Keystroke echo and bulk output through a relay, beside a plain pty and script(1), in one run.

``python -m bench.relay [--relay COMMAND]``: COMMAND is put before the child's command line; by default
it is the relay put together from the parts in ``aider_guard/session``. Nothing is written but the table.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import shlex
import shutil
import statistics
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CHILDREN = Path(__file__).resolve().parents[1] / "tests" / "session" / "children"
MINI_GUARD = f"{sys.executable} {CHILDREN / 'mini_guard.py'} --"
WARM_UP_KEYS = 50
WARM_UP_SECONDS = 1.0
"""What still starts beside a relay is not its relaying."""
KEY_PAUSE_SECONDS = 0.002
LINE = "\\033[38;5;40mThe quick brown fox\\033[0m jumps over the lazy dog, and says so at length."


class Command(NamedTuple):
    """What is started in the terminal."""

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | None = None


Way = Callable[[Sequence[str]], Command]
"""How a child's command line is run."""


@dataclass
class Measured:
    """One way's results: seconds for each key, and megabytes per second in each round."""

    echoes: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)


@contextlib.contextmanager
def terminal_of(command: Command) -> Iterator[int]:
    """The emulator's end of a terminal in which the command runs."""
    master, slave = os.openpty()
    with subprocess.Popen(
        command.argv,
        env=command.env,
        cwd=command.cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # one thread
    ) as process:
        os.close(slave)
        try:
            yield master
        finally:
            os.close(master)
            process.wait(10)


def read(master: int) -> bytes:
    """What is shown next; b"" at the end."""
    try:
        return os.read(master, 65536)
    except OSError:
        return b""


def echo_seconds(way: Way, keys: int) -> list[float]:
    """How long each key took from the keyboard to the child and back to the screen."""
    total = keys + WARM_UP_KEYS
    child = [sys.executable, "-I", "-S", str(CHILDREN / "echo_raw.py"), str(total)]
    seconds = []
    with terminal_of(way(child)) as master:
        shown = b""
        while not shown.endswith(b"READY"):
            shown += read(master)
        time.sleep(WARM_UP_SECONDS)
        for _ in range(total):
            time.sleep(KEY_PAUSE_SECONDS)
            started = time.perf_counter()
            os.write(master, b"x")
            select.select([master], [], [])
            os.read(master, 16)
            seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP_KEYS:]


def bulk_megabytes_per_second(way: Way, megabytes: int) -> float:
    """Coloured lines, from the first byte on the screen to the last."""
    lines = megabytes * 1_000_000 // len(LINE)
    child = ["sh", "-c", f"sleep {WARM_UP_SECONDS}; yes \"$(printf '{LINE}')\" | head -n {lines}"]
    shown_bytes = 0
    with terminal_of(way(child)) as master:
        read(master)
        started = time.perf_counter()
        while data := read(master):
            shown_bytes += len(data)
        return shown_bytes / (time.perf_counter() - started) / 1e6


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def direct_ways() -> dict[str, Way]:
    """The ways to run a child without a relay of ours, by name."""
    found: dict[str, Way] = {"plain pty": Command}
    if shutil.which("script"):
        found["script"] = lambda child: Command(["script", "-qc", shlex.join(child), os.devnull])
    return found


def measure(ways: Mapping[str, Way], rounds: int, keys: int, megabytes: int) -> dict[str, Measured]:
    """Measure all of them, the ways taking turns."""
    found = {name: Measured() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].echoes += echo_seconds(way, keys)
            found[name].speeds.append(bulk_megabytes_per_second(way, megabytes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", default=MINI_GUARD, help="the command under test")
    parser.add_argument("--keys", type=int, default=1000, help="keys typed in each round")
    parser.add_argument("--megabytes", type=int, default=20, help="output in each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the ways taking turns")
    options = parser.parse_args()
    ways = direct_ways()
    ways["relay"] = lambda child: Command([*shlex.split(options.relay), *child])
    print(f"{'':12} {'echo p50 ms':>12} {'p99 ms':>8} {'MB/s median':>12} {'low':>8} {'high':>8}")
    measured = measure(ways, options.rounds, options.keys, options.megabytes)
    for name, way in measured.items():
        p50, p99 = (percentile(way.echoes, percent) * 1000 for percent in (50, 99))
        print(
            f"{name:12} {p50:12.3f} {p99:8.3f}"
            f" {statistics.median(way.speeds):12.1f} {min(way.speeds):8.1f} {max(way.speeds):8.1f}"
        )


if __name__ == "__main__":
    main()
