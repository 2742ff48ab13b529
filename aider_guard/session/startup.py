"""Answers the question that Aider asks before it begins: with its window, its files and the door, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from aider_guard.core.actions import SurveyServer
from aider_guard.core.events import Event, LaunchForbidden, MemoryRead, ModelsChosen, ServerSurveyed
from aider_guard.core.fit import Need
from aider_guard.core.readings import GPU_NOT_YET, MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.door_settings import served_models
from aider_guard.launch.facts import NOT_ASKED
from aider_guard.loop import READ, Loop
from aider_guard.process_starter import ProcessStarter
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.launches import Launches, ollama_names
from aider_guard.session.loaded_code import finish_loading
from aider_guard.session.planning import Planner
from aider_guard.session.side_channels import SideChannels
from aider_guard.session.sidecar_process import SidecarSupervisor

_DEADLINE = "server_surveyed"
# Ollama answers these questions in milliseconds, and Aider needs seconds to start. More than this is not waited for:
# the window would then be the cautious one for the whole session.
_WAIT_SECONDS = 1.5
_SILENT = Unavailable("Ollama did not answer in time")


@dataclass
class Startup:
    """Answers the question once Ollama and the memory were read, or when the time for that is over."""

    launches: Launches
    aider: AiderProcess
    sidecar: SidecarSupervisor
    loop: Loop
    _: KW_ONLY
    planner: Planner
    starter: ProcessStarter | None = None
    """What starts the helpers: Aider begins once it has loaded their code."""
    post: Callable[[Event], None]
    warn: Callable[[str, str], None]
    _expected: frozenset[str] | None = None
    _report: ServerReport | Unavailable = _SILENT
    _memory: MemoryReading | Unavailable = Unavailable("the memory was not read in time")

    def await_question(self) -> None:
        """Wait for the question of an Aider that was just started."""
        launch = self.launches.current
        if launch is not None:
            self.loop.watch(launch.channel.fileno(), READ, lambda _events: self._read_question())

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
        launch = self.launches.current
        self._expected = None
        self.loop.cancel(_DEADLINE)
        if launch is not None and launch.channel.fileno() >= 0:
            self.loop.forget(launch.channel.fileno())
            launch.channel.close()

    def _read_question(self) -> None:
        launch = self.launches.current
        question = launch.read_question() if launch is not None else b""
        if question is None or launch is None:
            return
        self.loop.forget(launch.channel.fileno())
        if not question:
            launch.channel.close()
            return
        names = self.launches.understand(question)
        settings = launch.settings
        if not isinstance(settings, AiderSettings) or not self.planner.may_ask(settings):
            self._report = NOT_ASKED
            self._answer()
            return
        self._report = _SILENT
        self.sidecar.watch_server(self.planner.access(settings), settings.tokenizers)
        if self.sidecar.send(SurveyServer(names, others=served_models(settings))):
            self._expected = frozenset(names)
            launch.tell_variables(self.planner.local_environment(settings))
            patience = self.planner.patience_seconds(_WAIT_SECONDS)
            self.loop.after(_DEADLINE, patience, self._answer)
        else:
            self._answer()

    def _on_loaded(self) -> None:
        assert self.starter is not None
        self.loop.forget(self.starter.fileno())
        if self.launches.current is not None and self.launches.current.channel.fileno() >= 0:
            self._answer()

    def _answer(self) -> None:
        """Answer with what is known now; the session ends when Aider must not begin."""
        self.loop.cancel(_DEADLINE)
        self._expected = None
        if self.starter is not None and not self.starter.has_loaded():
            self.loop.watch(self.starter.fileno(), READ, lambda _events: self._on_loaded())
            return
        launch = self.launches.current
        assert launch is not None
        plan = self.planner.plan(launch.settings, self._report, self._memory)
        for finding in plan.findings:
            self.post(finding)
        if plan.is_forbidden:
            self.post(LaunchForbidden(plan.stops, plan.leaks))
            return
        if plan.door is not None:
            self.sidecar.serve_door(plan.door)
        finish_loading(self.starter, _encoding_of(launch.settings))
        self.launches.let_begin(plan)
        if (files := launch.files) is not None:
            self.aider.channels = SideChannels(
                files.analytics_log, files.chat_history, files.bell, files.encoding
            )
        if launch.number == 1:
            for text in plan.start_messages:
                self.warn("another_machine", text)
        for name in self.launches.unnameable_files:
            text = f"no command of Aider's can name {name!r}: add it again by hand"
            self.warn("not_handed_over", text)
        launch.channel.close()
        root = self.launches.root
        self.post(models_chosen(launch.settings, launch.window_tokens, root, launch.needs))


def models_chosen(
    settings: AiderSettings | Unavailable,
    window: int | Unavailable,
    root: str,
    needs: tuple[Need, ...],
) -> ModelsChosen:
    """Return the event that names the session's models as Ollama knows them."""
    if isinstance(settings, Unavailable):
        return ModelsChosen("", (), Unavailable(settings.reason), root)
    main = (ollama_name(settings.models[0]) or "") if settings.models else ""
    return ModelsChosen(
        *(main, ollama_names(settings), window, root, needs),
        plain_input=not settings.fancy_input,
        map_follows_words=settings.map_follows_words,
    )


def _encoding_of(settings: AiderSettings | Unavailable) -> str:
    """Return the encoding of Aider's files, its default where the settings are not known."""
    return settings.encoding if isinstance(settings, AiderSettings) else "utf-8"
