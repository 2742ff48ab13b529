"""Runs the sidecar (``python -m aider_guard.sidecar``): requests on stdin, events on stdout, until stdin closes."""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

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
from aider_guard.core.codec import WireError
from aider_guard.core.events import (
    MemoryRead,
    ModelsRead,
    ServerRead,
    ServerSurveyed,
    SidecarStarted,
)
from aider_guard.core.readings import GPU_NOT_YET
from aider_guard.core.wire import decode, encode
from aider_guard.line_process import (
    claim_stdout,
    end_process,
    read_lines,
    reap,
    start_thread,
    write_all,
)
from aider_guard.ollama.access import ServerAccess, environment_headers, take_from_environment
from aider_guard.ollama.names import DEFAULT_BASE, connectable_base, is_this_machine
from aider_guard.ollama.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aider_guard.core.events import Event
    from aider_guard.counting.files import FileCounter
    from aider_guard.door.other_servers import OtherServerModels
    from aider_guard.door.reading import ReadingWatch
    from aider_guard.door.residency import OllamaResidency
    from aider_guard.door.server import DoorHost
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.sidecar.memory import MemorySensor
    from aider_guard.sidecar.unloading import Unloader

_READINGS = (MemoryRead, ModelsRead, ServerRead)
_MANY_LINES = 1000
_FLUSH_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the sidecar until the guard closes its stdin, also while a thread hangs."""
    parser = argparse.ArgumentParser(prog="python -m aider_guard.sidecar", description=__doc__)
    parser.add_argument("--ollama", default=DEFAULT_BASE, metavar="URL")
    parser.add_argument("--tokenizers", default="", metavar="DIR")
    parser.add_argument("--door-fd", type=int, default=-1, metavar="FD")
    parser.add_argument("--relay", action="append", default=[], metavar="FD=HOST:PORT")
    parser.add_argument("--next-prompts-fd", type=int, default=-1, metavar="FD")
    options = parser.parse_args(arguments)
    server = take_from_environment(os.environ) or ServerAccess(
        connectable_base(options.ollama), environment_headers()
    )
    writer = EventWriter(claim_stdout())
    emit = writer.emit
    try:
        emit(SidecarStarted(os.getpid(), __version__))
        from aider_guard.sidecar.gpu import GpuSensor
        from aider_guard.sidecar.memory import MemorySensor

        is_here = is_this_machine(server.base)
        sensor = MemorySensor(GpuSensor(), is_here=is_here)
        start_thread("memory", lambda: poll_memory(sensor, emit))
        _start_relays(options.relay, emit)
        dispatcher = _start_ollama(options, server, sensor, emit)
        status = _serve(dispatcher)
        dispatcher.close()
    except (BrokenPipeError, KeyboardInterrupt):
        end_process(0)
    sensor.close()
    writer.flush(_FLUSH_SECONDS)
    end_process(status)


class EventWriter:
    """Writes events as whole lines, from any thread, in their order.

    It never waits for the guard, which may be stopped: the door must go on. While very many lines wait to be written,
    readings are left out, because newer ones follow.
    """

    def __init__(self, lines_fd: int) -> None:
        self._lines_fd = lines_fd
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        start_thread("lines", self._write)

    def emit(self, event: Event) -> None:
        """Have an event written."""
        if self._lines.qsize() < _MANY_LINES or not isinstance(event, _READINGS):
            self._lines.put(encode(event))

    def flush(self, within_seconds: float) -> None:
        """Wait until what was emitted is written, but not longer than that: the guard may read no more."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(within_seconds)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
            else:
                write_all(self._lines_fd, line)


def _start_relays(relays: Sequence[str], emit: Callable[[Event], None]) -> None:
    """Start the relays to the allowed places, one for each socket."""
    if not relays:
        return
    import asyncio

    from aider_guard.core.egress import Place, parse_place
    from aider_guard.core.events import EgressAllowed
    from aider_guard.sidecar.relays import AllowedRelay, serve_relays

    def report(place: Place) -> None:
        emit(EgressAllowed(place.host, place.port))

    parts = (relay.partition("=") for relay in relays)
    served = [AllowedRelay(int(fd), parse_place(place)) for fd, _, place in parts]
    start_thread("relays", lambda: asyncio.run(serve_relays(served, report)))


def _start_ollama(
    options: argparse.Namespace,
    server: ServerAccess,
    sensor: MemorySensor,
    emit: Callable[[Event], None],
) -> RequestDispatcher:
    from aider_guard.counting.files import FileCounter
    from aider_guard.door.other_servers import ANSWER_SECONDS as OTHERS_SECONDS
    from aider_guard.door.other_servers import OtherServerModels
    from aider_guard.door.reading import ReadingWatch
    from aider_guard.door.residency import OllamaResidency
    from aider_guard.ollama.client import OllamaClient
    from aider_guard.paths import patience_seconds
    from aider_guard.sidecar.unloading import Unloader

    client = OllamaClient(server.base, headers=server.headers)
    here = is_this_machine(server.base)
    readings = ReadingWatch()

    def report_of_residency(event: Event) -> None:
        readings.observe(event)
        emit(event)

    residency = OllamaResidency(
        client, report_of_residency, why_rest=partial(_why_rest, sensor) if here else lambda: ""
    )

    def report(event: Event) -> None:
        residency.observe(event)
        emit(event)

    start_thread("ollama", lambda: poll_ollama(client, report))
    readings.read_ahead = residency.read_ahead_tokens
    if options.next_prompts_fd >= 0:
        start_thread("next prompts", lambda: read_next_prompts(options.next_prompts_fd, residency))
    others = OtherServerModels(answer_seconds=patience_seconds(OTHERS_SECONDS))
    door = _door(
        options.door_fd, client, emit, residency=residency, others=others, readings=readings
    )
    dispatcher = RequestDispatcher(door.take if door else _no_door, others.close)
    memory = sensor.read if here else None
    unloader = Unloader(client, memory, release=residency.release)
    dispatcher.start(client, unloader, FileCounter(options.tokenizers), emit)
    return dispatcher


def _why_rest(sensor: MemorySensor) -> str:
    """Return why the machine should be left alone now, "" for no reason. Takes half a second, or two."""
    from aider_guard.sidecar.machine_use import read_machine_use, why_rest

    return why_rest(read_machine_use(gpus=lambda: sensor.read().gpus))


def read_next_prompts(fd: int, residency: OllamaResidency) -> None:
    """Pass on what Aider tells of its next prompts, for ever. A line that is no whole one is left out."""
    from aider_guard.core.chat.next_prompt import parse_told

    lines = read_lines(fd)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except WireError:  # endless: not from our script
            lines = read_lines(fd)
            continue
        if (told := parse_told(line)) is not None:
            residency.expect(told)


def _door(
    door_fd: int,
    client: OllamaClient,
    emit: Callable[[Event], None],
    *,
    residency: OllamaResidency,
    others: OtherServerModels,
    readings: ReadingWatch,
) -> DoorHost | None:
    """The door, which opens when its settings come; None without a socket."""
    if door_fd < 0:
        return None
    import socket

    from aider_guard.door.interfaces import Services
    from aider_guard.door.log_watch import OllamaLogWatch
    from aider_guard.door.model_info import InstalledModelsByServer, OllamaModelInfo
    from aider_guard.door.prompt_counter import SERVER_SECONDS, WAIT_SECONDS, CounterProcess
    from aider_guard.door.server import DoorHost
    from aider_guard.door.server_counter import ANSWER_SECONDS, ServerCounter
    from aider_guard.door.slots import SlotReader
    from aider_guard.paths import patience_seconds, vocabularies_dir

    asked = ServerCounter(answer_seconds=patience_seconds(ANSWER_SECONDS))
    counter = CounterProcess(
        vocabularies=str(vocabularies_dir()),
        wait_seconds=patience_seconds(WAIT_SECONDS),
        server_seconds=patience_seconds(SERVER_SECONDS),
        server=asked,
        others=others,
    )
    model_info = OllamaModelInfo(client)
    readings.slots = SlotReader(asked.process_of).read
    readings.goes_back, readings.even_tokens = model_info.goes_back, model_info.even_tokens
    services = Services(
        counter=counter,
        log_watch=OllamaLogWatch(),
        residency=residency,
        installed=InstalledModelsByServer(others=others),
        model_info=model_info,
        others=others,
        readings=readings,
    )
    return DoorHost(socket.socket(fileno=door_fd), services, emit)


def _serve(dispatcher: RequestDispatcher) -> int:
    """Dispatch requests until stdin closes or one of them says stop. Other lines are reported on stderr."""
    try:
        for line in read_lines(0):
            try:
                request = decode(line)
            except WireError as error:
                print(f"sidecar: a request was not understood: {error}", file=sys.stderr)
                continue
            if isinstance(request, Request) and not dispatcher.take(request):
                return 0
    except (WireError, OSError) as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return 1
    return 0


# Polls and requests, each in its own thread: a slow Ollama delays neither the memory readings nor the counting, and
# none of them delays the end of the process.

POLL_SECONDS: Final = 2.0


def poll_memory(
    sensor: MemorySensor, emit: Callable[[Event], None], interval_seconds: float = POLL_SECONDS
) -> None:
    """Read the memory for ever. The driver's first answer is reported as soon as it comes: a launch waits for it."""
    while True:
        reading = sensor.read()
        emit(MemoryRead(reading))
        reap()
        if reading.gpus != GPU_NOT_YET:  # the reading itself has waited
            time.sleep(interval_seconds)


def poll_ollama(
    client: OllamaClient, emit: Callable[[Event], None], interval_seconds: float = POLL_SECONDS
) -> None:
    """Ask Ollama for its version and its loaded models, for ever."""
    while True:
        emit(ServerRead(client.version()))
        emit(ModelsRead(client.loaded_models()))
        time.sleep(interval_seconds)


def _no_door(request: ServeDoor | WarmModel | WakeCounter) -> None:
    """Report a request for the door to a sidecar that was started without the door's socket."""
    print(f"sidecar: there is no door for {type(request).__name__}", file=sys.stderr)


@dataclass(frozen=True)
class RequestDispatcher:
    """Passes each request to the thread for its kind; never blocks."""

    door: Callable[[ServeDoor | WarmModel | WakeCounter], None] = _no_door
    close: Callable[[], None] = lambda: None
    """Called at the end: it may have models unloaded."""

    survey: queue.SimpleQueue[SurveyServer] = field(default_factory=queue.SimpleQueue)
    unload: queue.SimpleQueue[UnloadModels] = field(default_factory=queue.SimpleQueue)
    count: queue.SimpleQueue[CountFiles | CountTexts] = field(default_factory=queue.SimpleQueue)

    def take(self, request: Request) -> bool:
        """Queue a request; False if it is the one to stop."""
        match request:
            case SurveyServer():
                self.survey.put(request)
            case UnloadModels():
                self.unload.put(request)
            case CountFiles() | CountTexts():
                self.count.put(request)
            case ServeDoor() | WarmModel() | WakeCounter():
                self.door(request)
            case StopSidecar():
                return False
        return True

    def start(
        self,
        client: OllamaClient,
        unloader: Unloader,
        counting: FileCounter,
        emit: Callable[[Event], None],
    ) -> None:
        """Start the threads that carry out the requests."""

        def answer_surveys() -> None:
            while True:
                request = self.survey.get()
                within, others = request.within_seconds, request.others
                report = survey(client, request.names, others=others, within_seconds=within)
                emit(ServerSurveyed(report))

        def answer_unloads() -> None:
            while True:
                emit(unloader.unload(self.unload.get()))

        start_thread("survey", answer_surveys)
        start_thread("unload", answer_unloads)
        start_thread("count", lambda: counting.run(self.count, emit))


if __name__ == "__main__":
    main()
