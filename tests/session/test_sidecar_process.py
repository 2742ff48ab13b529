"""The guard's end of the sidecar: nothing blocks, nothing is lost, nothing is left."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from fakes.ollama_server import FakeOllama

from aider_guard.core.actions import CountTexts, StopSidecar, SurveyServer
from aider_guard.core.events import (
    Event,
    ModelsRead,
    ServerRead,
    ServerSurveyed,
    SidecarLost,
    SidecarStarted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts
from aider_guard.core.wire import encode
from aider_guard.loop import Loop
from aider_guard.ollama.access import ServerAccess
from aider_guard.process_starter import PACKAGE_PARENT
from aider_guard.session import sidecar_process as module
from aider_guard.session.sidecar_process import (
    SidecarProcess,
    SidecarSupervisor,
    sidecar_command,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAP_SECONDS = 30.0
BLOCKED_SECONDS = 20.0
"""What is a hang, and no stall of a busy machine."""
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system")
STARTED = SidecarStarted(1, "0")


def script(text: str) -> list[str]:
    """A stand-in for the sidecar, in Python."""
    return [sys.executable, "-c", f"import os, sys, signal\n{text}"]


@contextmanager
def running(command: list[str]) -> Iterator[SidecarProcess]:
    """A sidecar that is stopped at the end."""
    with SidecarProcess(command) as sidecar:
        yield sidecar


def events_until(sidecar: SidecarProcess, kind: type) -> list[Event]:
    """What comes up to and including the first event of a kind."""
    events: list[Event] = []
    deadline = time.monotonic() + CAP_SECONDS
    while not any(isinstance(event, kind) for event in events):
        left = deadline - time.monotonic()
        assert left > 0, f"no {kind.__name__}, but {events}"
        select.select([sidecar], [], [], left)
        events += sidecar.read()
    return events


def test_a_real_sidecar() -> None:
    """Start, readings, a request, the end; and it is in a session of its own."""
    with FakeOllama() as ollama, running(sidecar_command(ollama.url, "")) as sidecar:
        first, *_ = events_until(sidecar, ServerRead)
        assert isinstance(first, SidecarStarted)
        assert first.pid == sidecar.pid
        assert os.getsid(sidecar.pid) == sidecar.pid
        assert sidecar.send(SurveyServer(("qwen3:8b",)))
        events = events_until(sidecar, ServerSurveyed)
        (surveyed,) = (event for event in events if isinstance(event, ServerSurveyed))
        facts = surveyed.report.models["qwen3:8b"]
        assert isinstance(facts, ModelFacts)
        assert facts.trained_tokens == 40960
        assert sidecar.send(StopSidecar())
        assert isinstance(events_until(sidecar, SidecarLost)[-1], SidecarLost)


def test_a_sidecars_command_line_holds_no_secret() -> None:
    """Every user of the machine can read it. The server gets its key and its password all the same."""
    with FakeOllama() as ollama, Loop() as loop, socket.create_server(("127.0.0.1", 0)) as door:
        base = ollama.url.replace("//", "//me:secret@") + "/p4ssw0rd-p4ssw0rd"
        access = ServerAccess(base, (("X-Key", "sk-secret"),))
        events: list[object] = []
        with SidecarSupervisor(
            loop, ollama=access, environment=os.environ, tokenizers="", door_fd=door.fileno()
        ) as supervisor:
            supervisor.post = events.append
            supervisor.start()
            deadline = time.monotonic() + CAP_SECONDS
            while not any(isinstance(event, ModelsRead) for event in events):
                assert time.monotonic() < deadline
                loop.run_once(1.0)
            words = " ".join(psutil.Process(supervisor.pid).cmdline())
        seen = [
            (one.path, one.headers["x-key"], one.headers["authorization"])
            for one in ollama.received
        ]
    assert "secret" not in words
    assert "p4ssw0rd" not in words
    assert ("/p4ssw0rd-p4ssw0rd/api/version", "sk-secret", "Basic bWU6c2VjcmV0") in seen


def test_a_module_of_the_users_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is the user's repository, and it may hold a json.py."""
    monkeypatch.chdir(tmp_path)
    for name in ("json.py", "httpx.py", "psutil.py"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    with running(sidecar_command("http://127.0.0.1:1", "")) as sidecar:
        assert ServerRead in [type(event) for event in events_until(sidecar, ModelsRead)]


def test_what_a_sidecar_reports_at_its_end_is_read() -> None:
    """It ends because its stdin closes, and is heard to its last line; one that does not end is not waited for."""
    line = encode(STARTED)
    with running(script(f"while os.read(0, 1): pass\nos.write(1, {line!r})")) as sidecar:
        assert sidecar.finish(CAP_SECONDS) == (STARTED,)
        assert not sidecar.send(StopSidecar())
    with running(script("signal.pause()")) as sidecar:
        assert sidecar.finish(0.1) == ()


def test_read_never_blocks_and_keeps_partial_lines() -> None:
    """Half a line is nothing yet; with its other half it is an event."""
    line = encode(STARTED)
    halves = f"""
for half in ({line[:20]!r}, {line[20:]!r}):
    os.write(1, half)
    os.read(0, 1)
os.read(0, 1)
"""
    with running(script(halves)) as sidecar:
        assert sidecar.read() == ()
        select.select([sidecar], [], [], CAP_SECONDS)
        assert sidecar.read() == ()
        os.write(sidecar.requests_fileno, b"x")
        assert events_until(sidecar, SidecarStarted) == [STARTED]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sys.exit(3)", "the sidecar"),
        ("os.write(1, b'hello\\n'); os.read(0, 1)", "cannot be understood: not JSON"),
        (f"os.write(1, {encode(StopSidecar())!r}); os.read(0, 1)", "a request where an event"),
        ("os.write(1, b'x' * (9 << 20)); os.read(0, 1)", "more than 8388608 bytes"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the sidecar"),
    ],
)
def test_lost_is_said_once(text: str, reason: str) -> None:
    """An end, garbage, an endless line: one event with the reason, then nothing, and no request is accepted."""
    with running(script(text)) as sidecar:
        (lost,) = events_until(sidecar, SidecarLost)
        assert isinstance(lost, SidecarLost)
        assert reason in lost.reason
        assert sidecar.lost
        assert sidecar.read() == ()
        assert not sidecar.send(StopSidecar())


def test_events_before_the_garbage_are_kept() -> None:
    """What came in order before the line that is none still counts."""
    text = f"os.write(1, {encode(STARTED) + b'garbage' + encode(STARTED)!r}); os.read(0, 1)"
    with running(script(text)) as sidecar:
        assert [type(event) for event in events_until(sidecar, SidecarLost)] == [
            SidecarStarted,
            SidecarLost,
        ]


def test_the_end_has_its_status() -> None:
    """Once the process is collected, the reason says how it ended."""
    for text, words in (("sys.exit(3)", "status 3"), ("os.abort()", "signal 6")):
        with running(script(text)) as sidecar:
            sidecar._process.wait(CAP_SECONDS)
            assert sidecar.read() == (SidecarLost(f"the sidecar {_ended(words)}"),)


def _ended(words: str) -> str:
    return f"was ended by {words}" if words.startswith("signal") else f"ended with {words}"


def test_send_never_blocks_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar that reads nothing is sent what the pipe takes and a bound more; the rest is dropped."""
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 300_000)
    request = CountTexts(1, ("x" * 100_000,))
    with running(script("signal.pause()")) as sidecar:
        started_at = time.monotonic()
        accepted = [sidecar.send(request) for _ in range(6)]
        assert accepted == [True, True, True, False, False, False]
        assert sidecar.wants_write
        assert time.monotonic() - started_at < BLOCKED_SECONDS


def test_what_waited_is_sent_whole_when_there_is_room() -> None:
    """A request larger than the pipe arrives in pieces, in order, as the pipe takes them."""
    requests = [CountTexts(number, ("ab" * 200_000,)) for number in (1, 2)]
    total = sum(len(encode(request)) for request in requests)
    text = f"""
left = {total}
while left:
    left -= len(os.read(0, 65536))
os.write(1, {encode(STARTED)!r})
os.read(0, 1)
"""
    with running(script(text)) as sidecar:
        assert all(sidecar.send(request) for request in requests)
        deadline = time.monotonic() + CAP_SECONDS
        while sidecar.wants_write and time.monotonic() < deadline:
            select.select([], [sidecar.requests_fileno], [], 1.0)
            sidecar.flush()
        assert events_until(sidecar, SidecarStarted) == [STARTED]


def test_sending_to_a_dead_sidecar_is_harmless() -> None:
    """No SIGPIPE, no exception: the end of its output tells."""
    with running(script("signal.pause()")) as sidecar:
        sidecar._process.send_signal(signal.SIGKILL)
        sidecar._process.wait(CAP_SECONDS)
        assert sidecar.send(StopSidecar())
        assert not sidecar.wants_write
        assert isinstance(events_until(sidecar, SidecarLost)[-1], SidecarLost)


@needs_pidfd
def test_stop_is_bounded() -> None:
    """A sidecar that ignores everything is killed, with its helpers."""
    text = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = os.fork()
if helper:
    os.write(1, {encode(STARTED)!r}.replace(b"1", str(helper).encode(), 1))
signal.pause()
"""
    sidecar = SidecarProcess(script(text))
    (started,) = events_until(sidecar, SidecarStarted)
    assert isinstance(started, SidecarStarted)
    helper = os.pidfd_open(started.pid)
    began_at = time.monotonic()
    sidecar.stop()
    assert time.monotonic() - began_at < 10  # 0.9 s, and the stalls of a busy machine
    assert sidecar._process.wait(CAP_SECONDS) == -signal.SIGKILL
    assert select.select([helper], [], [], CAP_SECONDS)[0] == [helper]
    os.close(helper)
    sidecar.stop()


def test_a_real_sidecar_stops_at_once() -> None:
    """Nothing is waited for, and nothing killed."""
    with FakeOllama() as ollama:
        sidecar = SidecarProcess(sidecar_command(ollama.url, ""))
        events_until(sidecar, ModelsRead)
        sidecar.stop(grace_seconds=CAP_SECONDS)
        assert sidecar._process.poll() == 0


@needs_pidfd
def test_a_killed_guard_takes_it_along() -> None:
    """kill -9 of the guard closes the pipe, and the sidecar ends."""
    guard = """
import sys, time
from aider_guard.session.sidecar_process import SidecarProcess, sidecar_command
sidecar = SidecarProcess(sidecar_command("http://127.0.0.1:1", ""))
while not sidecar.read():
    time.sleep(0.01)
print(sidecar.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", guard], stdout=subprocess.PIPE, cwd=PACKAGE_PARENT
    ) as process:
        assert process.stdout is not None
        sidecar = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        assert select.select([sidecar], [], [], BLOCKED_SECONDS)[0] == [sidecar]
        os.close(sidecar)


def test_no_ollama_is_a_reading() -> None:
    """An address where no server listens is reported in words, by a sidecar that goes on."""
    with running(sidecar_command("http://127.0.0.1:1", "")) as sidecar:
        reading = next(
            event.reading
            for event in events_until(sidecar, ModelsRead)
            if isinstance(event, ModelsRead)
        )
        assert isinstance(reading, Unavailable)
        assert "connection refused" in reading.reason
