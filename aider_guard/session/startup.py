"""Answers the question that Aider asks before it begins: with its window, its files and the door, or not at all."""

from __future__ import annotations

from collections.abc import Callable

from aider_guard.core.actions import SurveyServer
from aider_guard.core.events import Event, LaunchForbidden, MemoryRead, ModelsChosen, ServerSurveyed
from aider_guard.core.fit import Need
from aider_guard.core.readings import GPU_NOT_YET, MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.door_settings import served_models
from aider_guard.launch.facts import NOT_ASKED
from aider_guard.loop import READ, Loop
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.launches import Launches
from aider_guard.session.planning import Planner
from aider_guard.session.side_channels import SideChannels
from aider_guard.session.sidecar_process import SidecarSupervisor

_DEADLINE = "server_surveyed"
# Ollama answers these questions in milliseconds, and Aider needs seconds to start. More than this is not waited for:
# the window would then be the cautious one for the whole session.
_WAIT_SECONDS = 1.5
_SILENT = Unavailable("Ollama did not answer in time")


class Startup:
    """Answers the question once Ollama and the memory were read, or when the time for that is over."""

    def __init__(
        self,
        launches: Launches,
        aider: AiderProcess,
        sidecar: SidecarSupervisor,
        loop: Loop,
        *,
        planner: Planner,
        post: Callable[[Event], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self._launches = launches
        self._aider = aider
        self._sidecar = sidecar
        self._loop = loop
        self._planner = planner
        self._post = post
        self._warn = warn
        self._expected: frozenset[str] | None = None
        self._report: ServerReport | Unavailable = _SILENT
        self._memory: MemoryReading | Unavailable = Unavailable("the memory was not read in time")

    def await_question(self) -> None:
        """Wait for the question of an Aider that was just started."""
        launch = self._launches.current
        if launch is not None:
            self._loop.watch(launch.channel.fileno(), READ, lambda _events: self._read_question())

    def on_event(self, event: Event) -> None:
        """Take note of what the sidecar read, and answer Aider once all of it is there."""
        match event:
            case MemoryRead(reading):
                self._memory = reading
            case ServerSurveyed(report) if self._expected == frozenset(report.models):
                self._report = report
        memory = self._memory
        is_read = isinstance(memory, MemoryReading) and memory.gpus != GPU_NOT_YET
        if self._expected is not None and is_read and self._report is not _SILENT:
            self._answer()

    def abort(self) -> None:
        """Stop waiting, because Aider ended."""
        launch = self._launches.current
        self._expected = None
        self._loop.cancel(_DEADLINE)
        if launch is not None and launch.channel.fileno() >= 0:
            self._loop.forget(launch.channel.fileno())
            launch.channel.close()

    def _read_question(self) -> None:
        launch = self._launches.current
        question = launch.read_question() if launch is not None else b""
        if question is None or launch is None:
            return
        self._loop.forget(launch.channel.fileno())
        if not question:
            launch.channel.close()
            return
        names = self._launches.understand(question)
        settings = launch.settings
        if isinstance(settings, AiderSettings) and self._planner.may_ask(settings):
            self._survey_server(settings, names)
        else:
            self._report = NOT_ASKED
            self._answer()

    def _survey_server(self, settings: AiderSettings, names: tuple[str, ...]) -> None:
        self._report = _SILENT
        self._sidecar.watch_server(self._planner.server(settings), settings.tokenizers)
        if self._sidecar.send(SurveyServer(names, others=served_models(settings))):
            self._expected = frozenset(names)
            patience = self._planner.patience_seconds(_WAIT_SECONDS)
            self._loop.after(_DEADLINE, patience, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        """Answer with what is known now; the session ends when Aider must not begin."""
        self._loop.cancel(_DEADLINE)
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
            self._sidecar.serve_door(plan.door)
        self._launches.let_begin(plan)
        if launch.files is not None:
            files = launch.files
            self._aider.channels = SideChannels(files.analytics_log, files.chat_history, files.bell)
        if launch.number == 1:
            for text in plan.start_messages:
                self._warn("another_machine", text)
        for name in self._launches.unnameable_files:
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
    """Return the event that names the session's models as Ollama knows them."""
    if isinstance(settings, Unavailable):
        return ModelsChosen("", (), Unavailable(settings.reason), root)
    names = tuple(name for name in map(ollama_name, settings.models) if name is not None)
    main = (ollama_name(settings.models[0]) or "") if settings.models else ""
    return ModelsChosen(main, names, window, root, needs)
