"""Carrying actions out. Nothing is decided here."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

from aider_guard.core import requests
from aider_guard.core.actions import (
    Action,
    CancelDeadline,
    CountFiles,
    EndSession,
    Handoff,
    Notice,
    OfferRestart,
    RememberNeed,
    RunHidden,
    SetDeadline,
    ShowNotice,
    SignalAider,
    StartAider,
    StartSidecar,
    StopAider,
    UnloadModels,
    WakeCounter,
    WarmModel,
)
from aider_guard.core.chat.events import RequestStarted
from aider_guard.core.chatlog import Exchange
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    ContextRead,
    Event,
    ExchangesCarried,
    ModelsChosen,
    ModelsUnloaded,
    OfferAnswered,
    TextsCounted,
)
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.loop import Loop
from aider_guard.session import console, notices
from aider_guard.session.console import Console
from aider_guard.session.hidden import HiddenCommands
from aider_guard.session.launches import Launches, estimate_tokens
from aider_guard.session.relay import Relay
from aider_guard.session.sidecar_process import SidecarSupervisor
from aider_guard.session.startup import AiderProcess, Startup

SHOW_START = "show_start"
TICK = "tick"
_SHOW_START_SECONDS = 20.0
_SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class ActionExecutor:
    """Does what the policy asks for, with the parts of the session."""

    def __init__(
        self,
        *,
        front: Console,
        relay: Relay,
        loop: Loop,
        launches: Launches,
        running: AiderProcess,
        watcher: SidecarSupervisor,
        hidden: HiddenCommands,
        beginning: Startup,
        columns: Callable[[], int],
        colour: bool,
        post: Callable[[Event], None],
        remember: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        self._front = front
        self._relay = relay
        self._loop = loop
        self._launches = launches
        self._running = running
        self._watcher = watcher
        self._hidden = hidden
        self._beginning = beginning
        self._columns = columns
        self._colour = colour
        self._post = post
        self._remember = remember
        self._clock = clock
        self._said: tuple[Exchange, ...] = ()
        self._counted: TextsCounted | None = None
        self.offer = console.RestartOffer(self._answered, clock)
        self.exit_status = 0
        self.parting: Notice | None = None

    def perform(self, action: Action) -> None:
        """Carry one action out."""
        match action:
            case ShowNotice(notice):
                self._front.show(notice)
            case RunHidden(command):
                self._run_hidden(command)
            case CountFiles(paths):
                self._watcher.send(requests.CountFiles(self._launches.root, paths))
            case StopAider():
                self._stop()
            case SignalAider(name):
                self._running.signal(_SIGNALS[name])
            case UnloadModels(names, wait_seconds):
                self._unload(names, wait_seconds)
            case StartAider(_, handoff):
                self._start_again(handoff)
            case OfferRestart(notice):
                self._offer_restart(notice)
            case EndSession(status, notice):
                self._end(status, notice)
            case StartSidecar():
                self._watcher.start()
            case RememberNeed(name, error_bytes):
                # A cache: at worst the next start computes what this one did.
                with contextlib.suppress(OSError):
                    self._remember(name, error_bytes)
            case WarmModel(ours):
                self._watcher.send(requests.WarmModel(ours))
            case WakeCounter():
                self._watcher.send(requests.WakeCounter())
            case SetDeadline(name, at):
                self._loop.at(name, at)
            case CancelDeadline(name):
                self._loop.cancel(name)

    def heard(self, event: Event) -> None:
        """Take note of an answer that an action waits for, and of what other sessions must know."""
        match event:
            case ModelsChosen(models=models):
                self._launches.note_models(models)
            case RequestStarted(model=model, server="ollama"):  # one that /model turned to, maybe
                self._launches.note_models((model,))
        if isinstance(event, TextsCounted) and event.request == self._launches.count:
            self._counted = event

    def begun(self) -> None:
        """Aider was started: wait for its question."""
        self._beginning.expect()
        pid = self._running.child.pid if self._running.child else 0
        self._post(AiderStarted(self._launches.count, pid))

    def _run_hidden(self, command: str) -> None:
        launch, histories = self._launches.current, self._launches.histories
        if launch is None or launch.files is None or histories is None:
            problem = "Aider's settings could not be read"
            self._post(
                ContextRead(Unavailable(problem))
                if command == "tokens"
                else ChatSaved(problem=problem)
            )
            return
        self._hidden.run("tokens" if command == "tokens" else "save", launch, histories, self._type)

    def _type(self, keys: bytes) -> None:
        self._relay.to_child(keys)

    def _stop(self) -> None:
        """Type /exit where nobody sees it; from here to the next prompt the user sees one line of progress."""
        multiline = self._front.prompt is not None and self._front.prompt.multiline
        self._take_stock()
        if self._launches.histories is not None:
            # A failure to note it down only leaves "/exit" in the user's history.
            self._launches.histories.begin_hidden()
        self._front.begin_restart()
        self._loop.at(TICK, self._clock())
        self._type(b"/exit" + (b"\x1b\r" if multiline else b"\r"))

    def _take_stock(self) -> None:
        """Note what was said, and have it counted while Aider stops."""
        self._said, self._counted = self._launches.take_stock(), None
        texts = tuple(f"{said.user}\n{said.assistant}" for said in self._said)
        if texts:
            self._watcher.send(requests.CountTexts(self._launches.count, texts))

    def _unload(self, names: tuple[str, ...], wait_seconds: float) -> None:
        others = self._launches.models_of_others()
        ours = tuple(name for name in names if not any(same_model(name, other) for other in others))
        if not ours or not self._watcher.send(requests.UnloadModels(ours, wait_seconds)):
            kept = Unavailable(
                "another session works with the model" if not ours else "nobody can be asked"
            )
            self._post(ModelsUnloaded((), kept, 0.0))

    def _start_again(self, handoff: Handoff) -> None:
        counted = self._counted.tokens if self._counted is not None else Unavailable("not counted")
        if isinstance(counted, Unavailable) or len(counted) != len(self._said):
            counted = tuple(estimate_tokens(said) for said in self._said)
        self._post(ExchangesCarried(self._launches.carry(self._said, counted)))
        self._front.new_child()
        self._loop.at(SHOW_START, self._clock() + _SHOW_START_SECONDS)
        try:
            self._running.start(handoff)
            self.begun()
        except LaunchError as error:
            # For the policy it is an Aider that ended at once: tried again, and given up in the end.
            self._front.show(Notice("launch_failed", (str(error),)))
            self._post(AiderExited(error.exit_code))

    def _answered(self, accepted: bool) -> None:
        self._front.to_screen(b"\r\n")
        if accepted:
            self._front.begin_restart()
            self._loop.at(TICK, self._clock())
        self._post(OfferAnswered(accepted))

    def _offer_restart(self, notice: Notice) -> None:
        self._take_stock()
        self._front.new_child()
        text = notices.render(notice, self._columns(), colour=self._colour)
        self._front.to_screen(b"\r\n" + text.encode("utf-8", "replace") + console.QUESTION)
        self.offer.make()

    def _end(self, status: int, notice: Notice | None) -> None:
        self._front.abandon_restart()
        self.exit_status, self.parting = status, notice
