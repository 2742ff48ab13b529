from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import LogEvidence, LoggedCut, LoggedPrompt
from aider_guard.door.interfaces import LogWatch
from aider_guard.door.log_watch import (
    IN_FLIGHT_SECONDS,
    LATER,
    NOT_YET,
    RETRY_SECONDS,
    OllamaLogWatch,
)
from aider_guard.ollama.log_files import LogFileAt, LogOf

CUT = 'time=2026 level=WARN source=r.go:1 msg="truncating input prompt" limit=9 prompt=20 keep=4 new=9\n'
DEBUG = "time=2026 level=DEBUG source=r.go:1 msg=reloading\n"
SLOT = "slot update_slots: id  0 | task 1 | new prompt, n_ctx_slot = 256, n_keep = 4, task.n_tokens = 9\n"
ENDED = '[GIN] 2026/11/22 - 10:04:43 | 200 | 2.4s | 127.0.0.1 | POST     "/api/chat"\n'
OLLAMA = Upstream("", "http://127.0.0.1:11434", "ollama")
OTHER = Upstream("other", "http://127.0.0.1:8080/v1", "openai")


def settings(*upstreams: Upstream, log: str = "") -> DoorSettings:
    return DoorSettings("t", upstreams, (DoorRole("main", "m"),), 4096, ollama_log=log)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at_once(look: Callable[[], None]) -> None:
    look()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty log."""
    path = tmp_path / "server.log"
    path.touch()
    return path


@pytest.fixture
def witness(path: Path) -> Iterator[OllamaLogWatch]:
    """One that found the log."""
    witness = OllamaLogWatch(find=lambda _base, _named: LogFileAt(path), start=at_once)
    witness.serve(settings(OTHER, OLLAMA))
    yield witness
    witness.close()


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_it_is_a_witness() -> None:
    """It keeps the protocol."""
    witness: LogWatch = OllamaLogWatch()
    assert witness.mark() == 0


def test_what_a_request_left_in_the_log(witness: OllamaLogWatch, path: Path) -> None:
    """What was written between the mark and the question, not before; debug lines are remembered."""
    add(path, CUT + DEBUG)
    mark = witness.mark()
    add(path, SLOT + ENDED)
    assert asyncio.run(witness.since(mark)) == LogEvidence(
        prompts=(LoggedPrompt(9, 256),), tells_all=True
    )


def test_two_requests_at_once(witness: OllamaLogWatch, path: Path) -> None:
    """Each has its own mark."""
    first = witness.mark()
    add(path, CUT)
    second = witness.mark()
    add(path, SLOT + ENDED)

    async def both() -> tuple[LogEvidence | Unavailable, LogEvidence | Unavailable]:
        return await witness.since(first), await witness.since(second)

    one, other = asyncio.run(both())
    assert one == LogEvidence(cuts=(LoggedCut(20, 9),), prompts=(LoggedPrompt(9, 256),))
    assert other == LogEvidence(prompts=(LoggedPrompt(9, 256),))


def test_lines_in_flight_are_waited_for(path: Path) -> None:
    """A line that comes a moment later is still in the answer, and the request's last line ends the wait."""
    witness = OllamaLogWatch(
        find=lambda _base, _named: LogFileAt(path), start=at_once, in_flight_seconds=20
    )
    witness.serve(settings(OLLAMA))
    mark = witness.mark()

    async def ask() -> LogEvidence | Unavailable:
        asyncio.get_running_loop().call_later(0.05, add, path, CUT)
        asyncio.get_running_loop().call_later(0.1, add, path, ENDED)
        return await witness.since(mark)

    started_at = time.monotonic()
    assert asyncio.run(ask()) == LogEvidence(cuts=(LoggedCut(20, 9),))
    assert time.monotonic() - started_at < 10
    witness.close()


def test_a_silent_log_is_waited_for_briefly(witness: OllamaLogWatch) -> None:
    """The wait is bounded."""
    started_at = time.monotonic()
    assert asyncio.run(witness.since(witness.mark())) == LogEvidence()
    assert IN_FLIGHT_SECONDS <= time.monotonic() - started_at < IN_FLIGHT_SECONDS + 5


def test_the_loop_goes_on(witness: OllamaLogWatch) -> None:
    """While it waits others run."""

    async def ask() -> int:
        ticks, waiting = 0, asyncio.create_task(witness.since(witness.mark()))
        while not waiting.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert asyncio.run(ask()) >= 3


def test_no_log() -> None:
    """Its absence has the reason that was found, and costs no wait."""
    reason = Unavailable("no readable log of this Ollama server was found")
    witness = OllamaLogWatch(find=lambda _base, _named: reason, start=at_once, in_flight_seconds=60)
    assert asyncio.run(witness.since(witness.mark())) == NOT_YET
    witness.serve(settings(OLLAMA))
    started_at = time.monotonic()
    assert asyncio.run(witness.since(witness.mark())) == reason
    assert time.monotonic() - started_at < 30


def test_no_ollama(path: Path) -> None:
    """A session without Ollama has no log of it."""
    asked: list[str] = []

    def find(base: str, _named: str) -> LogFileAt:
        asked.append(base)
        return LogFileAt(path)

    witness = OllamaLogWatch(find=find, start=at_once)
    witness.serve(settings(OTHER))
    assert isinstance(asyncio.run(witness.since(witness.mark())), Unavailable)
    assert asked == []


def test_it_looks_again_now_and_then(path: Path) -> None:
    """A log that was not there is looked for again, not before a minute has passed."""
    clock, reason = Clock(), Unavailable("not yet")
    found: list[LogFileAt | Unavailable] = [reason, reason, LogFileAt(path)]
    witness = OllamaLogWatch(find=lambda _base, _named: found.pop(0), start=at_once, clock=clock)
    witness.serve(settings(OLLAMA))
    clock.now += RETRY_SECONDS - 1
    assert witness.mark() == 0
    assert len(found) == 2
    clock.now += 2
    assert witness.mark() == 0
    clock.now += RETRY_SECONDS + 1
    before = witness.mark()
    assert asyncio.run(witness.since(before)) == LATER
    assert witness.mark() > 0
    witness.close()


def test_the_same_settings_again(path: Path) -> None:
    """Only another server or another file is another log."""
    asked: list[tuple[str, str]] = []

    def find(base: str, named: str) -> LogFileAt:
        asked.append((base, named))
        return LogFileAt(path)

    witness = OllamaLogWatch(find=find, start=at_once)
    witness.serve(settings(OLLAMA))
    mark = witness.mark()
    witness.serve(settings(OTHER, OLLAMA))
    assert witness.mark() == mark
    witness.serve(settings(OLLAMA, log="/var/log/my.log"))
    assert asked == [(OLLAMA.base, ""), (OLLAMA.base, "/var/log/my.log")]
    assert asyncio.run(witness.since(mark)) == LATER
    witness.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """It went away between the search and the opening."""
    gone = LogFileAt(tmp_path / "gone.log")
    witness = OllamaLogWatch(find=lambda _base, _named: gone, start=at_once)
    witness.serve(settings(OLLAMA))
    assert isinstance(asyncio.run(witness.since(witness.mark())), Unavailable)


def test_a_child_and_its_end(path: Path) -> None:
    """What a child prints is read; when the child has ended the log is not read any more."""
    words = f"cat {path}; read line < {path.with_name('go')}"
    add(path, SLOT + ENDED)
    os.mkfifo(path.with_name("go"))
    command = LogOf(("sh", "-c", words), {"PATH": os.environ["PATH"]})
    witness = OllamaLogWatch(
        find=lambda _base, _named: command, start=at_once, in_flight_seconds=20
    )
    witness.serve(settings(OLLAMA))
    mark = 1 << 60  # the beginning of the first log
    assert asyncio.run(witness.since(mark)) == LogEvidence(prompts=(LoggedPrompt(9, 256),))
    path.with_name("go").write_text("on\n")
    deadline = time.monotonic() + 20
    while not isinstance(said := asyncio.run(witness.since(mark)), Unavailable):
        assert time.monotonic() < deadline
    assert "ended" in said.reason
    witness.close()
    assert isinstance(asyncio.run(witness.since(mark)), Unavailable)


def test_looking_does_not_hold_anybody_up(path: Path) -> None:
    """The search runs in the background; a close meanwhile leaves nothing behind."""
    begun, go_on = threading.Event(), threading.Event()

    def find(_base: str, _named: str) -> LogFileAt:
        begun.set()
        assert go_on.wait(20)
        return LogFileAt(path)

    witness = OllamaLogWatch(find=find)
    witness.serve(settings(OLLAMA))
    assert begun.wait(20)
    assert witness.mark() == 0
    assert asyncio.run(witness.since(0)) == NOT_YET
    go_on.set()
    witness.close()
    assert isinstance(asyncio.run(witness.since(0)), Unavailable)


def test_nothing_is_left_open(path: Path) -> None:
    """Another server's log takes the place of the first, and after the close there is none."""
    witness = OllamaLogWatch(find=lambda _base, _named: LogFileAt(path), start=at_once)
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = psutil.Process().num_fds()
    witness.serve(settings(OLLAMA))
    witness.serve(settings(OLLAMA, log=str(path)))
    assert psutil.Process().num_fds() == before + 1
    witness.close()
    witness.serve(settings(OLLAMA))
    assert psutil.Process().num_fds() == before
    assert witness.mark() == 0
