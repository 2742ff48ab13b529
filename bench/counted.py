"""What the door adds to an answer's first byte where a prompt does not certainly fit, by how it is known that it does.

The vocabulary is as large as Qwen's. A prompt of half the size fits by its bytes; the others have more bytes than the
window has tokens. One was counted a turn before, but for the new message; or all of it is new, and the counting process
is there (a key was typed, or a prompt counted in the last minute); or that process has ended. Beside each the same
prompt goes directly.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from bench.door import PROMPT_BYTES, TOKEN, Asker, Row, chat_body, process, sidecar

WINDOW_TOKENS = 32_768
AFTER_SECONDS = 0.3
"""Between two prompts: what of one is counted after its answer is not measured as the next one's wait."""
SIDECARS = 5
_PATIENCE_SECONDS = 30.0


@dataclass
class Counted:
    """Seconds to the first byte, direct and through the door; and what the counting process takes of the memory."""

    fits: list[tuple[float, float]] = field(default_factory=list)
    known: list[tuple[float, float]] = field(default_factory=list)
    warm: list[tuple[float, float]] = field(default_factory=list)
    cold: list[tuple[float, float]] = field(default_factory=list)
    counter_bytes: int = 0


def measure(requests: int, sidecars: int) -> Counted:
    """So many prompts of each kind, and one to each of so many new sidecars whose counting process has ended."""
    found, numbers = Counted(), itertools.count(1)
    with tempfile.TemporaryDirectory(prefix="aider-guard-bench-") as state:
        for left in range(sidecars, 0, -1):
            _measure_one(found, numbers, state, requests if left == 1 else 0)
    return found


def _measure_one(found: Counted, numbers: Iterator[int], state: str, requests: int) -> None:
    environment = {**os.environ, "AIDER_GUARD_CACHE_DIR": state}
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(process("upstream"))
        port = running.enter_context(
            sidecar(upstream, window_tokens=WINDOW_TOKENS, environment=environment)
        )
        direct = running.enter_context(Asker(upstream, ""))
        door = running.enter_context(Asker(port, f"/{TOKEN}"))

        def ask(
            number: int, message: str = "Rename compute.", size_bytes: int = PROMPT_BYTES
        ) -> tuple[float, float]:
            window, size = WINDOW_TOKENS, size_bytes
            body = chat_body(number, message, window_tokens=window, size_bytes=size)
            seconds = tuple(way.ask(body).first_bytes[0] for way in (direct, door))
            time.sleep(AFTER_SECONDS)
            return seconds[0], seconds[1]

        _until_idle()
        found.cold.append(ask(next(numbers)))
        known = next(numbers)
        ask(known)
        for turn in range(requests):
            found.warm.append(ask(next(numbers)))
            found.known.append(ask(known, f"Now rename it to compute_{turn}, and say why."))
            found.fits.append(ask(next(numbers), size_bytes=PROMPT_BYTES // 2))
            found.counter_bytes = max(0, *map(_pss, _counters()), found.counter_bytes)


def _until_idle() -> None:
    """The vocabulary was learned, and the process that did it has ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    seen = False
    while not seen or _counters():
        seen = seen or bool(_counters())
        if time.monotonic() > deadline:
            raise TimeoutError("the counting process did not end")
        time.sleep(0.05)


def _counters() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "aider_guard.counting.process" in one.cmdline():
                found.append(one)
    return found


def _pss(counter: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(counter.memory_full_info().pss)
    return 0


def rows(found: Counted) -> Iterator[Row]:
    """The medians, and the lowest: the machine may have had something else to do."""
    kinds = {
        "fits by bytes": (found.fits, "at most 2 ms added"),
        "counted before": (found.known, "at most 2 ms added"),
        "counted": (found.warm, ""),
        "counter ended": (found.cold, ""),
    }
    for name, (pairs, aim) in kinds.items():
        for word, of in (("median", statistics.median), ("lowest", min)):
            direct, door = (of([pair[at] for pair in pairs]) * 1000 for at in (0, 1))
            row_aim = aim if of is statistics.median else ""
            yield Row(f"door: first byte, {name}, {word}, ms", direct, None, door, row_aim)


def memory_line(found: Counted) -> str:
    """What the counting process takes while it is there."""
    return (
        f"door: the counting process, while it is there: {found.counter_bytes / 1e6:.0f} MB (PSS)"
    )
