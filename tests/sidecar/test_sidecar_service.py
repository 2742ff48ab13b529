"""The sidecar as a process: what it says, and that it ends with its guard, whatever hangs."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import httpx
import psutil
import pytest
from fakes.model_servers import LMStudio, Model
from fakes.nvml import GIB, Card, FakeDriver
from fakes.ollama_server import FakeModel, FakeOllama, Hang

from aider_guard import __version__
from aider_guard.core.actions import (
    CountFiles,
    CountTexts,
    Request,
    ServeDoor,
    StopSidecar,
    SurveyServer,
    UnloadModels,
    WakeCounter,
    WarmModel,
)
from aider_guard.core.chat.events import DoorOpened
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.codec import LineSplitter
from aider_guard.core.events import (
    FilesCounted,
    MemoryRead,
    ModelsRead,
    ModelsUnloaded,
    ServerRead,
    ServerSurveyed,
    SidecarStarted,
    TextsCounted,
)
from aider_guard.core.readings import ModelsReading, RamReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerProcess
from aider_guard.core.wire import decode, encode
from aider_guard.process_starter import PACKAGE_PARENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aider_guard.core.events import Event

Kind = TypeVar("Kind")
CAP_SECONDS = 30.0


class Sidecar:
    """A running sidecar, its lines read as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin, self.stdout = process.stdin, process.stdout
        self.seen: list[Event] = []
        self._splitter = LineSplitter()
        self._waiting: deque[Event] = deque()

    def send(self, *requests: Request) -> None:
        """Send requests, whole."""
        self.stdin.write(b"".join(map(encode, requests)))
        self.stdin.flush()

    def next(self, kind: type[Kind]) -> Kind:
        """The next event of a kind."""
        deadline = time.monotonic() + CAP_SECONDS
        while self._waiting or time.monotonic() < deadline:
            while self._waiting:  # several may come at once
                event = self._waiting.popleft()
                self.seen.append(event)
                if isinstance(event, kind):
                    return event
            self._waiting.extend(self._read(deadline))
        raise AssertionError(f"no {kind.__name__} in {CAP_SECONDS} s, but {self.seen}")

    def _read(self, deadline: float) -> Iterator[Event]:
        left = max(0.0, deadline - time.monotonic())
        if select.select([self.stdout], [], [], left)[0]:
            chunk = os.read(self.stdout.fileno(), 65536)
            assert chunk, f"the sidecar ended after {self.seen}"
            for line in self._splitter.feed(chunk):
                value = decode(line)
                assert not isinstance(value, Request)
                yield value

    def family(self) -> list[int]:
        """It and its helpers, by pid."""
        process = psutil.Process(self.process.pid)
        return [process.pid, *(child.pid for child in process.children(recursive=True))]


@contextmanager
def sidecar(
    ollama_url: str,
    tokenizers: str = "",
    environment: Mapping[str, str] | None = None,
    door: socket.socket | None = None,
) -> Iterator[Sidecar]:
    """A sidecar; it and its helpers are gone afterwards."""
    fds = [door.fileno()] if door is not None else []
    arguments = ["--ollama", ollama_url, "--tokenizers", tokenizers]
    arguments += [word for fd in fds for word in ("--door-fd", str(fd))]
    with subprocess.Popen(
        [sys.executable, "-m", "aider_guard.sidecar", *arguments],
        cwd=PACKAGE_PARENT,
        env=environment,
        pass_fds=fds,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        running = Sidecar(process)
        try:
            yield running
        finally:
            process.kill()


@contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when a process ends."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def still_running(processes: list[int], within_seconds: float) -> list[int]:
    """The pidfds of processes that have not ended by then; reaping them is another matter."""
    deadline = time.monotonic() + within_seconds
    alive = set(processes)
    while alive and (left := deadline - time.monotonic()) > 0:
        alive -= set(select.select(alive, [], [], left)[0])
    return sorted(alive)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A driver of today."""
    return FakeDriver(tmp_path_factory.mktemp("driver"))


def test_reads_everything(driver: FakeDriver) -> None:
    """The start is reported first; version, models and memory are reported again and again."""
    driver.write(Card(24 * GIB, 20 * GIB))
    with (
        FakeOllama(loaded=["qwen3:8b"]) as ollama,
        sidecar(ollama.url, environment=driver.environment) as running,
    ):
        started = running.next(SidecarStarted)
        assert started == SidecarStarted(running.process.pid, __version__)
        assert running.seen == [started]
        assert running.next(ServerRead) == ServerRead("0.15.5")
        models = running.next(ModelsRead).reading
        memory = running.next(MemoryRead).reading
        assert isinstance(models, ModelsReading)
        assert [model.name for model in models.models] == ["qwen3:8b"]
        while not isinstance(memory.gpus, tuple):
            memory = running.next(MemoryRead).reading
        assert [gpu.vram_used_bytes for gpu in memory.gpus] == [20 * GIB]
        assert isinstance(memory.ram, RamReading)
        ollama.loaded.clear()
        while models.models:
            again = running.next(ModelsRead).reading
            assert isinstance(again, ModelsReading)
            models = again
        assert abs(models.taken_at - time.monotonic()) < CAP_SECONDS


def test_answers_requests(driver: FakeDriver) -> None:
    """Each request gets its answer, and another line does no harm."""
    driver.write(Card(24 * GIB, 20 * GIB))
    with (
        FakeOllama(loaded=["qwen3:8b"]) as ollama,
        sidecar(ollama.url, environment=driver.environment) as running,
    ):
        ollama.runners.on_unload = lambda _name: driver.write(Card(24 * GIB, 2 * GIB))
        memory = running.next(MemoryRead)
        while not isinstance(memory.reading.gpus, tuple):
            memory = running.next(MemoryRead)
        running.stdin.write(b"garbage\n\n")
        running.send(CountFiles("/", ("a",)), CountTexts(7, ("a",)))
        why = Unavailable("Aider's token encodings were not found")
        assert running.next(FilesCounted) == FilesCounted({"a": why})
        assert running.next(TextsCounted) == TextsCounted(7, why)
        running.send(UnloadModels(("qwen3:8b",)))
        unloaded = running.next(ModelsUnloaded)
        assert (unloaded.names, unloaded.freed_bytes) == (("qwen3:8b",), 18 * GIB)
        running.send(StopSidecar())
        assert running.process.wait(CAP_SECONDS) == 0


def test_surveys_the_server() -> None:
    """One answer has the server, the process behind it and each model in the request."""
    with FakeOllama() as ollama, sidecar(ollama.url) as running:
        # The search for the process has 0.05 s: on a busy machine the first one may find nothing.
        running.send(*[SurveyServer(("qwen3:8b", "nope"))] * 20)
        reports = (running.next(ServerSurveyed).report for _ in range(20))
        report = next(each for each in reports if getattr(each.process, "pid", 0))
    assert (report.base, report.is_local, report.version) == (ollama.url, True, "0.15.5")
    assert isinstance(report.process, ServerProcess)
    assert report.process.pid == os.getpid()
    assert isinstance(report.models["qwen3:8b"], ModelFacts)
    assert isinstance(report.models["nope"], ModelMissing)


def test_a_hung_ollama_delays_nothing_else() -> None:
    """Memory goes on being read, and counting is answered, while every call to Ollama hangs."""
    with FakeOllama() as ollama:
        ollama.answers = dict.fromkeys(("/api/ps", "/api/version", "/api/show"), Hang())
        with sidecar(ollama.url) as running:
            running.send(SurveyServer(("qwen3:8b",), within_seconds=0.5))
            report = running.next(ServerSurveyed).report
            assert isinstance(report.version, Unavailable)
            running.send(SurveyServer(("qwen3:8b",)))
            running.send(CountTexts(1, ()))
            running.next(TextsCounted)
            while [type(event) for event in running.seen].count(MemoryRead) < 2:
                running.next(MemoryRead)
            assert not [event for event in running.seen if isinstance(event, ServerRead)]


def test_every_address_of_this_machine_is_measured_here() -> None:
    """Not only loopback: freed memory is also measured for an Ollama that listens to the network."""
    on_cpu = FakeModel("qwen3:8b", vram_bytes=0)
    host = _own_address()
    with (
        FakeOllama(models=(on_cpu,), loaded=["qwen3:8b"], host=host) as ollama,
        sidecar(ollama.url) as running,
    ):
        running.send(UnloadModels(("qwen3:8b",), wait_seconds=1.0))
        unloaded = running.next(ModelsUnloaded)
    assert unloaded.names == ("qwen3:8b",)
    assert unloaded.freed_bytes != Unavailable("Ollama runs on another machine")


def test_a_sidecar_without_a_door_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """What only a door can do harms nothing else."""
    with FakeOllama() as ollama, sidecar(ollama.url) as running:
        running.send(WarmModel(), WakeCounter(), CountTexts(1, ()))
        running.next(TextsCounted)
    received = capfd.readouterr().err
    for name in ("WarmModel", "WakeCounter"):
        assert f"there is no door for {name}" in received


def test_what_lm_studio_loaded_for_the_session_is_unloaded_at_its_end() -> None:
    """The main model is loaded as soon as there is a door, and other models stay."""
    with (
        LMStudio([Model("small"), Model("other", loaded=True)]) as studio,
        socket.create_server(("127.0.0.1", 0)) as listener,
        sidecar("http://127.0.0.1:9", door=listener) as running,
    ):
        upstreams = (
            Upstream("", "http://127.0.0.1:9", "ollama"),
            Upstream("studio", f"{studio.url}/v1", "openai"),
        )
        role = DoorRole("main", "small", "studio", window_tokens=6144)
        running.send(ServeDoor(DoorSettings("token", upstreams, (role,), 0)))
        running.next(DoorOpened)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/token/studio/chat/completions"
        asked = {"model": "small", "messages": [{"role": "user", "content": "a"}]}
        assert httpx.post(url, json=asked, timeout=CAP_SECONDS).status_code == 200
        assert studio.models[0].window_tokens == 6144
        running.send(StopSidecar())
        assert running.process.wait(CAP_SECONDS) == 0
        assert [model.loaded for model in studio.models] == [False, True]


def _own_address() -> str:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family.name == "AF_INET" and not entry.address.startswith("127."):
                return str(entry.address)
    pytest.skip("this machine has no network interface but loopback")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system")
@pytest.mark.parametrize("how", ["stdin closes", "guard is killed", "sidecar is killed"])
def test_ends_at_once_whatever_hangs(driver: FakeDriver, how: str) -> None:
    """Nothing of it is left, while all calls to Ollama and the driver hang for much longer than is waited here."""
    driver.write(Card(), also=["hang init"])
    with FakeOllama() as ollama, ExitStack() as stack:
        hanging = ("/api/ps", "/api/version", "/api/show", "/api/generate")
        ollama.answers = dict.fromkeys(hanging, Hang())
        with sidecar(ollama.url, environment=driver.environment) as running:
            running.next(SidecarStarted)
            running.send(UnloadModels(("qwen3:8b",)))
            running.send(SurveyServer(("qwen3:8b",), within_seconds=600))
            running.next(MemoryRead)
            family = [stack.enter_context(pidfd(pid)) for pid in running.family()]
            assert len(family) == 2
            if how == "sidecar is killed":
                running.process.kill()
            elif how == "stdin closes":
                running.stdin.close()
            else:  # both pipes lose their other end at once
                running.stdin.close()
                running.stdout.close()
            assert still_running(family, within_seconds=20) == []


def test_the_terminals_interrupt_does_not_print(capfd: pytest.CaptureFixture[str]) -> None:
    """A Ctrl-C that reaches it ends it without a traceback on the terminal."""
    with FakeOllama() as ollama, sidecar(ollama.url) as running:
        running.next(MemoryRead)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(CAP_SECONDS) == 0
    assert "Traceback" not in capfd.readouterr().err


_TALKS = """
import os, sys
from aider_guard.core.readings import Unavailable
from aider_guard.core.events import ModelsRead, SidecarStarted
from aider_guard.sidecar.__main__ import EventWriter

emit = EventWriter(1).emit
for number in range(5000):
    emit(SidecarStarted(number, "1"))
    emit(ModelsRead(Unavailable("not read")))
sys.stderr.write("sent")
sys.stderr.flush()
sys.stdin.read()
os._exit(0)
"""


def test_a_guard_that_does_not_read_does_not_block_the_sidecar() -> None:
    """Much more than the pipe holds can be emitted; then all of it comes in order, without old readings."""
    with subprocess.Popen(
        [sys.executable, "-c", _TALKS],
        cwd=PACKAGE_PARENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        received: list[int] = []
        readings = 0
        try:
            assert select.select([process.stderr], [], [], CAP_SECONDS)[0]
            assert process.stderr.read(4) == b"sent"
            while len(received) < 5000:
                event = decode(process.stdout.readline())
                received += [event.pid] if isinstance(event, SidecarStarted) else []
                readings += isinstance(event, ModelsRead)
        finally:
            process.kill()
    assert received == list(range(5000))
    assert 0 < readings < 5000
