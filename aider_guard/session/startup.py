"""From Aider's first question to its beginning: what it will use, what that means here, and then its files."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from aider_guard.core import requests
from aider_guard.core.actions import Handoff
from aider_guard.core.events import Event, LaunchForbidden, MemoryRead, ModelsChosen, ServerSurveyed
from aider_guard.core.fit import Need
from aider_guard.core.readings import GPU_NOT_YET, MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.facts import NOT_ASKED
from aider_guard.loop import READ, Loop
from aider_guard.session.aider_process import Child, LineModes
from aider_guard.session.launches import Launches
from aider_guard.session.planning import Planner
from aider_guard.session.relay import Relay
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.terminal import Terminal
from aider_guard.session.turns import Turns

# The Aider that runs now: its process on the relay, and its end.


class AiderProcess:
    """At most one Aider at a time. As a ``with``, none is left behind."""

    def __init__(self, terminal: Terminal, relay: Relay, loop: Loop, launches: Launches) -> None:
        self._terminal = terminal
        self._relay = relay
        self._loop = loop
        self._launches = launches
        self.child: Child | None = None
        self.turns: Turns | None = None
        self.readable: Callable[[], None] = lambda: None
        """Called when Aider wrote something."""

    def __enter__(self) -> AiderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.child is not None:
            self._loop.forget(self.child.fd)
            self.child.end()

    def start(self, handoff: Handoff) -> None:
        """Start Aider again. Raises LaunchError."""
        size, attributes = self._terminal.size(), self._terminal.attributes()
        self.adopt(self._launches.start(size, attributes, handoff))

    def adopt(self, child: Child) -> None:
        """Relay this Aider from now on."""
        self.child, self.turns = child, None
        child.resize(self._terminal.size())
        self._relay.attach(child.fd)
        self._loop.watch(child.fd, READ, lambda _events: self.readable())

    def line_modes(self) -> LineModes | None:
        """How Aider's terminal treats what is typed; None when no Aider runs."""
        return self.child.line_modes() if self.child is not None else None

    def has_begun(self) -> None:
        """Aider's files exist from now on: its turns can be counted."""
        files = self._launches.current.files if self._launches.current else None
        if files is not None:
            self.turns = Turns(files.analytics_log, files.chat_history, files.bell)

    def resize(self) -> None:
        """Give Aider the terminal's size."""
        if self.child is not None:
            self.child.resize(self._terminal.size())

    def signal(self, signum: int) -> None:
        """Send a signal to Aider's process group."""
        if self.child is not None:
            self.child.signal(signum)

    def reap(self, take: Callable[[bytes], None]) -> int | None:
        """Aider's status once it ended, after *take* got all that it wrote; None while it runs."""
        child = self.child
        status = child.poll() if child is not None else None
        if child is None or status is None:
            return None
        while data := self._relay.read_child():
            take(data)
        self.child = None
        self._loop.forget(child.fd)
        self._relay.detach()
        child.end()
        return status


DEADLINE = "server_surveyed"
# Ollama answers these questions in milliseconds, and Aider needs seconds to start. More than this is not waited for:
# the window would then be the cautious one for the whole session.
_WAIT_SECONDS = 1.5
_SILENT = Unavailable("Ollama did not answer in time")


class Startup:
    """Answers Aider's question as soon as Ollama and the memory were read, or have not been in time."""

    def __init__(
        self,
        launches: Launches,
        running: AiderProcess,
        watcher: SidecarSupervisor,
        loop: Loop,
        *,
        planner: Planner,
        post: Callable[[Event], None],
        warn: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._launches = launches
        self._running = running
        self._watcher = watcher
        self._loop = loop
        self._planner = planner
        self._post = post
        self._warn = warn
        self._clock = clock
        self._expected: frozenset[str] | None = None
        self._report: ServerReport | Unavailable = _SILENT
        self._memory: MemoryReading | Unavailable = Unavailable("the memory was not read in time")

    def expect(self) -> None:
        """A new Aider was started and will ask."""
        launch = self._launches.current
        if launch is not None:
            self._loop.watch(launch.channel.fileno(), READ, lambda _events: self._question())

    def heard(self, event: Event) -> None:
        """Take note of what the sidecar read."""
        match event:
            case MemoryRead(reading):
                self._memory = reading
            case ServerSurveyed(report) if self._expected == frozenset(report.models):
                self._report = report
        if self._expected is not None and self._is_complete():
            self.answer()

    def _is_complete(self) -> bool:
        memory = self._memory
        known = isinstance(memory, MemoryReading) and memory.gpus != GPU_NOT_YET
        return known and self._report is not _SILENT

    def forget(self) -> None:
        """Aider ended before it began."""
        launch = self._launches.current
        self._expected = None
        self._loop.cancel(DEADLINE)
        if launch is not None and launch.channel.fileno() >= 0:
            self._loop.forget(launch.channel.fileno())
            launch.channel.close()

    def _question(self) -> None:
        launch = self._launches.current
        question = launch.read_question() if launch is not None else b""
        if question is None or launch is None:
            return
        self._loop.forget(launch.channel.fileno())
        if not question:
            launch.channel.close()
            return
        names = self._launches.understand(question)
        self._report = _SILENT
        if isinstance(launch.settings, AiderSettings):
            self._ask_server(launch.settings, names)
        else:
            self._report = NOT_ASKED
            self.answer()

    def _ask_server(self, settings: AiderSettings, names: tuple[str, ...]) -> None:
        if not self._planner.may_ask(settings):
            self._report = NOT_ASKED
            self.answer()
            return
        self._watcher.watch_server(self._planner.server(settings), settings.tokenizers)
        others = self._planner.others(settings)
        if self._watcher.send(requests.SurveyServer(names, others=others)):
            self._expected = frozenset(names)
            self._loop.at(DEADLINE, self._clock() + self._planner.patience_seconds(_WAIT_SECONDS))
        else:
            self.answer()

    def answer(self) -> None:
        """Let Aider begin with what is known now, or end the session when it must not begin."""
        self._loop.cancel(DEADLINE)
        self._expected = None
        launch = self._launches.current
        assert launch is not None
        plan = self._planner.plan(launch.settings, self._report, self._memory)
        for finding in plan.findings:
            self._post(finding)
        if plan.is_forbidden:
            self._post(LaunchForbidden(plan.stops, plan.leaks))
            return
        if plan.door is not None:
            self._watcher.serve_door(plan.door)
        self._launches.let_begin(plan)
        self._running.has_begun()
        if launch.number == 1:
            for text in plan.said_at_start:
                self._warn("another_machine", text)
        for name in self._launches.not_handed_over:
            self._warn(
                "not_handed_over", f"no command of Aider's can name {name!r}: add it again by hand"
            )
        launch.channel.close()
        self._post(
            models_chosen(launch.settings, launch.window_tokens, self._launches.root, launch.needs)
        )


def models_chosen(
    settings: AiderSettings | Unavailable,
    window: int | Unavailable,
    root: str,
    needs: tuple[Need, ...],
) -> ModelsChosen:
    """The session's models by Ollama's names."""
    if isinstance(settings, Unavailable):
        return ModelsChosen("", (), Unavailable(settings.reason))
    names = tuple(name for name in map(ollama_name, settings.models) if name is not None)
    main = (ollama_name(settings.models[0]) or "") if settings.models else ""
    return ModelsChosen(main, names, window, root, needs)
