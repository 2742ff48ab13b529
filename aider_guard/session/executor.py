"""Carries out the policy's actions with the parts of a session. Nothing is decided here."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass

from aider_guard.core.actions import (
    Action,
    AskStandby,
    CountFiles,
    CountTexts,
    EndSession,
    Handoff,
    Notice,
    OfferRestart,
    RememberNeed,
    RetireAider,
    RingBell,
    RunHidden,
    ShowNotice,
    ShowTitle,
    SignalAider,
    SignalRetired,
    StartAider,
    StartSidecar,
    StartStandby,
    StopAider,
    StopStandby,
    UnloadModels,
    WakeCounter,
    WarmModel,
)
from aider_guard.core.chat.events import RequestStarted
from aider_guard.core.chat_contents import is_among
from aider_guard.core.chatlog import Exchange
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    AiderStarted,
    CommandNotTyped,
    Event,
    ExchangesCarried,
    ModelsChosen,
    ModelsUnloaded,
    OfferAnswered,
    TextsCounted,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.state import Phase, State
from aider_guard.errors import LaunchError
from aider_guard.loop import Loop
from aider_guard.session import notices
from aider_guard.session.aider_process import AiderProcess
from aider_guard.session.bell import Bell
from aider_guard.session.console import QUESTION, Console, RestartOffer
from aider_guard.session.hidden import HiddenCommands
from aider_guard.session.launches import Launches, estimate_tokens
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.standby import RetiredAider, StandbyAider
from aider_guard.session.start_aider import Started
from aider_guard.session.terminal import Terminal

SHOW_START = "show_start"
_SHOW_START_SECONDS = 20.0
_TICK_SECONDS = 0.5
_PROGRESS = {
    Phase.STOPPING: "stopping it",
    Phase.UNLOADING: "unloading the model",
    Phase.STARTING: "starting it",
}
_SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


@dataclass(kw_only=True)
class ActionExecutor:
    """Carries actions out, and keeps what they wait for."""

    terminal: Terminal
    console: Console
    bell: Bell
    loop: Loop
    launches: Launches
    aider: AiderProcess
    standby: StandbyAider
    retired: RetiredAider
    sidecar: SidecarSupervisor
    hidden: HiddenCommands
    await_question: Callable[[], None]
    state: Callable[[], State]
    colour: bool
    post: Callable[[Event], None]
    remember: Callable[[str, int], None]
    clock: Callable[[], float]
    exit_status: int = 0
    parting: Notice | None = None
    _exchanges: tuple[Exchange, ...] = ()
    _counted: TextsCounted | None = None

    def __post_init__(self) -> None:
        self.offer = RestartOffer(self._on_offer_answered, self.clock)

    def perform(self, action: Action) -> None:
        """Carry one action out."""
        match action:
            case ShowNotice(notice):
                self.console.show(notice)
            case ShowTitle(text):
                self.console.set_title(text)
            case RingBell():
                self.bell.ring(action)
            case RunHidden(command, needs):
                if command == "save":
                    self._snapshot_chat()
                self.hidden.run(command, self.launches, needs)
            case CountFiles() | WarmModel() | WakeCounter():
                self.sidecar.send(action)
            case StopAider():
                self._stop()
            case SignalAider(name):
                self.aider.signal(_SIGNALS[name])
            case StartStandby():
                self.standby.start()
            case AskStandby():
                self.standby.ask()
            case StopStandby():
                self.standby.stop()
            case RetireAider():
                self._retire()
            case SignalRetired(name):
                self.retired.signal(_SIGNALS[name])
            case UnloadModels(names, wait_seconds):
                self._unload(names, wait_seconds)
            case StartAider(_, handoff, standby):
                self._start_aider(handoff, self.standby.take() if standby else None)
            case OfferRestart(notice):
                self._offer_restart(notice)
            case EndSession(status, notice):
                self.console.abandon_restart()
                self.exit_status, self.parting = status, notice
            case StartSidecar():
                self.sidecar.start()
            case RememberNeed(name, error_bytes):
                # A cache: at worst the next start computes what this one did.
                with contextlib.suppress(OSError):
                    self.remember(name, error_bytes)

    def on_event(self, event: Event) -> None:
        """Take note of an answer that an action waits for, and of what other sessions must know."""
        match event:
            case ModelsChosen(models=models):
                self.launches.note_models(models)
            case RequestStarted(model=model, server="ollama"):  # one that /model turned to, maybe
                self.launches.note_models((model,))
            case TextsCounted(request=request) if request == self.launches.count:
                self._counted = event

    def announce_launch(self) -> None:
        """Report that Aider was started, and wait for its question."""
        self.await_question()
        pid = self.aider.child.pid if self.aider.child else 0
        self.post(AiderStarted(self.launches.count, pid))

    def _stop(self) -> None:
        """Type /exit without showing it; from here to the next prompt the user sees one line of progress."""
        self.hidden.run("exit", self.launches)
        self.loop.after("tick", 0.0, self._show_progress)

    def _retire(self) -> None:
        """Let go of Aider, which is to end by itself; what it still writes is not shown."""
        if not self.hidden.retire(self.launches):
            self.post(CommandNotTyped("exit"))
            return
        child = self.aider.retire()
        if child is not None:
            self.retired.adopt(child)
        self._begin_restart()
        self.post(AiderRetired())

    def _begin_restart(self) -> None:
        self.console.begin_restart()
        self.loop.after("tick", 0.0, self._show_progress)

    def _show_progress(self) -> None:
        """Draw the line of progress, again and again until the restart is over."""
        state = self.state()
        if state.restart is None:
            return
        step = _PROGRESS.get(state.phase, "waiting")
        seconds = self.clock() - state.restart.started_at
        self.console.progress(f"restarting Aider ({state.restart.reason}): {step}, {seconds:.0f} s")
        self.loop.after("tick", _TICK_SECONDS, self._show_progress)

    def _snapshot_chat(self) -> None:
        """Keep the exchanges of the chat, and have them counted while Aider stops."""
        self._exchanges, self._counted = self.launches.snapshot_chat(), None
        texts = tuple(f"{exchange.user}\n{exchange.assistant}" for exchange in self._exchanges)
        if texts:
            self.sidecar.send(CountTexts(self.launches.count, texts))

    def _unload(self, names: tuple[str, ...], wait_seconds: float) -> None:
        others = self.launches.models_of_others()
        ours = tuple(name for name in names if not is_among(name, others))
        if not ours or not self.sidecar.send(UnloadModels(ours, wait_seconds)):
            why = "the sidecar does not run" if ours else "another session works with the model"
            self.post(ModelsUnloaded((), Unavailable(why), 0.0))

    def _start_aider(self, handoff: Handoff, started: Started | None) -> None:
        tokens = self._counted.tokens if self._counted is not None else Unavailable("not counted")
        if isinstance(tokens, Unavailable) or len(tokens) != len(self._exchanges):
            tokens = tuple(estimate_tokens(exchange) for exchange in self._exchanges)
        self.post(ExchangesCarried(self.launches.select_exchanges(self._exchanges, tokens)))
        self.console.new_child()
        self.loop.after(SHOW_START, _SHOW_START_SECONDS, self.console.abandon_restart)
        size, attributes = self.terminal.size(), self.terminal.attributes()
        try:
            started = started or self.launches.start(size, attributes)
            self.launches.adopt(started, handoff)
            self.aider.adopt(started.child)
            self.announce_launch()
        except LaunchError as error:
            # For the policy it is an Aider that ended at once: tried again, and given up in the end.
            self.console.show(Notice("launch_failed", (str(error),)))
            self.post(AiderExited(error.exit_code))

    def _on_offer_answered(self, accepted: bool) -> None:
        self.console.to_screen(b"\r\n")
        if accepted:
            self._begin_restart()
        self.post(OfferAnswered(accepted))

    def _offer_restart(self, notice: Notice) -> None:
        self._snapshot_chat()
        self.console.new_child()
        text = notices.render(notice, self.terminal.size().columns, colour=self.colour)
        # A menu may be open below the line of the prompt.
        self.console.to_screen(b"\r\n\x1b[J" + text.encode("utf-8", "replace") + QUESTION)
        self.offer.make()
