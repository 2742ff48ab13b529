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
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at_once(search: Callable[[], None]) -> None:
    search()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty log."""
    path = tmp_path / "server.log"
    path.touch()
    return path


@pytest.fixture
def log_watch(path: Path) -> Iterator[OllamaLogWatch]:
    """One that found the log."""
    log_watch = OllamaLogWatch(find=lambda _base, _named: LogFileAt(path), start=at_once)
    log_watch.serve(settings(OTHER, OLLAMA))
    yield log_watch
    log_watch.close()


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_it_follows_the_protocol() -> None:
    """``interfaces.LogWatch``."""
    log_watch: LogWatch = OllamaLogWatch()
    assert log_watch.mark() == 0


def test_what_a_request_left_in_the_log(log_watch: OllamaLogWatch, path: Path) -> None:
    """Lines that were written between mark and question, not before; debug lines are remembered."""
    add(path, CUT + DEBUG)
    mark = log_watch.mark()
    add(path, SLOT + ENDED)
    assert asyncio.run(log_watch.since(mark)) == LogEvidence(
        prompts=(LoggedPrompt(9, 256),), tells_all=True
    )


def test_two_requests_at_once(log_watch: OllamaLogWatch, path: Path) -> None:
    """Each has its own mark."""
    first = log_watch.mark()
    add(path, CUT)
    second = log_watch.mark()
    add(path, SLOT + ENDED)

    async def both() -> tuple[LogEvidence | Unavailable, LogEvidence | Unavailable]:
        return await log_watch.since(first), await log_watch.since(second)

    one, other = asyncio.run(both())
    assert one == LogEvidence(cuts=(LoggedCut(20, 9),), prompts=(LoggedPrompt(9, 256),))
    assert other == LogEvidence(prompts=(LoggedPrompt(9, 256),))


def test_lines_in_flight_are_waited_for(path: Path) -> None:
    """A line that comes a moment later is still in the answer, and the request's last line ends the wait."""
    log_watch = OllamaLogWatch(
        find=lambda _base, _named: LogFileAt(path), start=at_once, in_flight_seconds=20
    )
    log_watch.serve(settings(OLLAMA))
    mark = log_watch.mark()

    async def ask() -> LogEvidence | Unavailable:
        asyncio.get_running_loop().call_later(0.05, add, path, CUT)
        asyncio.get_running_loop().call_later(0.1, add, path, ENDED)
        return await log_watch.since(mark)

    started_at = time.monotonic()
    assert asyncio.run(ask()) == LogEvidence(cuts=(LoggedCut(20, 9),))
    assert time.monotonic() - started_at < 10
    log_watch.close()


def test_a_silent_log_is_waited_for_briefly(log_watch: OllamaLogWatch) -> None:
    """The wait is bounded."""
    started_at = time.monotonic()
    assert asyncio.run(log_watch.since(log_watch.mark())) == LogEvidence()
    assert IN_FLIGHT_SECONDS <= time.monotonic() - started_at < IN_FLIGHT_SECONDS + 5


def test_the_loop_goes_on(log_watch: OllamaLogWatch) -> None:
    """While it waits others run."""

    async def ask() -> int:
        ticks, waiting = 0, asyncio.create_task(log_watch.since(log_watch.mark()))
        while not waiting.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert asyncio.run(ask()) >= 3


def test_no_log() -> None:
    """Its absence has the reason that was found, and costs no wait."""
    reason = Unavailable("no readable log of this Ollama server was found")
    log_watch = OllamaLogWatch(
        find=lambda _base, _named: reason, start=at_once, in_flight_seconds=60
    )
    assert asyncio.run(log_watch.since(log_watch.mark())) == NOT_YET
    log_watch.serve(settings(OLLAMA))
    started_at = time.monotonic()
    assert asyncio.run(log_watch.since(log_watch.mark())) == reason
    assert time.monotonic() - started_at < 30


def test_no_ollama(path: Path) -> None:
    """A session without Ollama has no log of it."""
    searched: list[str] = []

    def find(base: str, _named: str) -> LogFileAt:
        searched.append(base)
        return LogFileAt(path)

    log_watch = OllamaLogWatch(find=find, start=at_once)
    log_watch.serve(settings(OTHER))
    assert isinstance(asyncio.run(log_watch.since(log_watch.mark())), Unavailable)
    assert searched == []


def test_it_searches_again_after_a_while(path: Path) -> None:
    """A log that was not there is looked for again, not before a minute has passed."""
    clock, reason = Clock(), Unavailable("not yet")
    found: list[LogFileAt | Unavailable] = [reason, reason, LogFileAt(path)]
    log_watch = OllamaLogWatch(find=lambda _base, _named: found.pop(0), start=at_once, clock=clock)
    log_watch.serve(settings(OLLAMA))
    clock.now += RETRY_SECONDS - 1
    assert log_watch.mark() == 0
    assert len(found) == 2
    clock.now += 2
    assert log_watch.mark() == 0
    clock.now += RETRY_SECONDS + 1
    before = log_watch.mark()
    assert asyncio.run(log_watch.since(before)) == LATER
    assert log_watch.mark() > 0
    log_watch.close()


def test_the_same_settings_again(path: Path) -> None:
    """Only another server or another file is another log."""
    searched: list[tuple[str, str]] = []

    def find(base: str, named: str) -> LogFileAt:
        searched.append((base, named))
        return LogFileAt(path)

    log_watch = OllamaLogWatch(find=find, start=at_once)
    log_watch.serve(settings(OLLAMA))
    mark = log_watch.mark()
    log_watch.serve(settings(OTHER, OLLAMA))
    assert log_watch.mark() == mark
    log_watch.serve(settings(OLLAMA, log="/var/log/my.log"))
    assert searched == [(OLLAMA.base, ""), (OLLAMA.base, "/var/log/my.log")]
    assert asyncio.run(log_watch.since(mark)) == LATER
    log_watch.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """It was deleted between the search and the opening."""
    missing = LogFileAt(tmp_path / "gone.log")
    log_watch = OllamaLogWatch(find=lambda _base, _named: missing, start=at_once)
    log_watch.serve(settings(OLLAMA))
    assert isinstance(asyncio.run(log_watch.since(log_watch.mark())), Unavailable)


def test_a_child_and_its_end(path: Path) -> None:
    """What a child prints is read; when the child has ended the log is not read any more."""
    words = f"cat {path}; read line < {path.with_name('go')}"
    add(path, SLOT + ENDED)
    os.mkfifo(path.with_name("go"))
    command = LogOf(("sh", "-c", words), {"PATH": os.environ["PATH"]})
    log_watch = OllamaLogWatch(
        find=lambda _base, _named: command, start=at_once, in_flight_seconds=20
    )
    log_watch.serve(settings(OLLAMA))
    mark = 1 << 60  # the beginning of the first log
    assert asyncio.run(log_watch.since(mark)) == LogEvidence(prompts=(LoggedPrompt(9, 256),))
    path.with_name("go").write_text("on\n")
    deadline = time.monotonic() + 20
    while not isinstance(evidence := asyncio.run(log_watch.since(mark)), Unavailable):
        assert time.monotonic() < deadline
    assert "ended" in evidence.reason
    log_watch.close()
    assert isinstance(asyncio.run(log_watch.since(mark)), Unavailable)


def test_searching_delays_no_request(path: Path) -> None:
    """The search runs in the background; a close meanwhile leaves nothing behind."""
    started, go_on = threading.Event(), threading.Event()

    def find(_base: str, _named: str) -> LogFileAt:
        started.set()
        assert go_on.wait(20)
        return LogFileAt(path)

    log_watch = OllamaLogWatch(find=find)
    log_watch.serve(settings(OLLAMA))
    assert started.wait(20)
    assert log_watch.mark() == 0
    assert asyncio.run(log_watch.since(0)) == NOT_YET
    go_on.set()
    log_watch.close()
    assert isinstance(asyncio.run(log_watch.since(0)), Unavailable)


def test_nothing_is_left_open(path: Path) -> None:
    """Another server's log takes the place of the first, and after the close there is none."""
    log_watch = OllamaLogWatch(find=lambda _base, _named: LogFileAt(path), start=at_once)
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = psutil.Process().num_fds()
    log_watch.serve(settings(OLLAMA))
    log_watch.serve(settings(OLLAMA, log=str(path)))
    assert psutil.Process().num_fds() == before + 1
    log_watch.close()
    log_watch.serve(settings(OLLAMA))
    assert psutil.Process().num_fds() == before
    assert log_watch.mark() == 0
