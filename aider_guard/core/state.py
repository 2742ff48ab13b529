"""The state of a session, on which the policy decides, and what follows from it. Only ``policy.decide`` changes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal

from aider_guard.core.actions import Handoff
from aider_guard.core.chat.events import ReadingEstimated
from aider_guard.core.egress import ENFORCED, Layer, Place
from aider_guard.core.events import (
    AiderLogged,
    EgressAllowed,
    EgressBlocked,
    PromptShown,
    TurnFinished,
)
from aider_guard.core.fit import Need
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import (
    ContextReading,
    LastRequest,
    MemoryReading,
    ModelPresence,
    ModelsReading,
    Unavailable,
)

# The attempts that the air gap saw in a session

MOST_DESTINATIONS: Final = 256
"""The most destinations that are kept apart: a program can look up names without end."""
Kind = Literal["host", "lookup", "socket", "request"]


@dataclass(frozen=True)
class Destination:
    """The destination of an attempt: a port of a host, the address of a name, or the socket at a path.

    A ``request`` is one for a port of a host that the door answered in its place.
    """

    kind: Kind
    host: str
    port: int = 0


@dataclass(frozen=True)
class AttemptCount:
    """How often a destination was tried, and by which program first, "" where unknown."""

    count: int
    program: str


@dataclass(frozen=True)
class Ledger:
    """The attempts of a session; destinations stand in the order in which they were first tried."""

    layer: Layer = "open"
    because: str = ""
    tried: Mapping[Destination, AttemptCount] = field(default_factory=dict)
    others: int = 0
    """Attempts to destinations beyond the first ``MOST_DESTINATIONS``."""
    through: Mapping[Place, int] = field(default_factory=dict)
    unreported: tuple[Destination, ...] = ()
    notices: int = 0
    """How many notices on attempts were shown."""
    began: bool = True
    """Whether Aider was started."""

    @property
    def is_enforced(self) -> bool:
        """Whether the kernel enforces the layer, so that the words may say "blocked"."""
        return self.layer in ENFORCED

    def outside(self) -> dict[Destination, AttemptCount]:
        """Return all attempts but lookups of names that were connected to as well."""
        hosts = {place.host for place in self.tried if place.kind == "host"}
        return {
            place: count
            for place, count in self.tried.items()
            if place.kind != "lookup" or place.host not in hosts
        }

    def news(self) -> dict[Destination, AttemptCount]:
        """Return the attempts that were not reported to the user yet."""
        return {place: n for place, n in self.outside().items() if place in self.unreported}


def destination(event: EgressBlocked) -> Destination:
    """Return the destination of an attempt. Case, and a dot at the end, make no difference in names."""
    name = event.host.lower().removesuffix(".")
    match event.protocol:
        case "unix":
            return Destination("socket", event.host)
        case "dns":
            return Destination("lookup", name)
        case "http":
            return Destination("request", name, event.port)
    return Destination("host", name, event.port)


def with_blocked(ledger: Ledger, event: EgressBlocked) -> Ledger:
    """Return the ledger after an attempt."""
    place, count = destination(event), max(event.count, 0)
    before = ledger.tried.get(place)
    if before is None:
        if len(ledger.tried) >= MOST_DESTINATIONS:
            return replace(ledger, others=ledger.others + count)
        before = AttemptCount(0, "")
        ledger = replace(ledger, unreported=(*ledger.unreported, place))
    tried = AttemptCount(before.count + count, before.program or event.program)
    return replace(ledger, tried={**ledger.tried, place: tried})


def with_allowed(ledger: Ledger, event: EgressAllowed) -> Ledger:
    """Return the ledger after an allowed connection."""
    place = Place(event.host, event.port)
    count = ledger.through.get(place, 0) + max(event.count, 0)
    return replace(ledger, through={**ledger.through, place: count})


class Phase(Enum):
    """The life of Aider under the guard."""

    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    STOPPING = "stopping"
    UNLOADING = "unloading"
    OFFERING = "offering"
    BACKOFF = "backoff"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True)
class Limits:
    """The user's settings, and the constants, that the rules compare with."""

    warn_at_percent: int = 80
    hysteresis_percent: int = 5
    max_turns: int = 20
    vram_warn_at_percent: int = 90
    readings_for_pressure: int = 3
    readings_for_restart: int = 30
    """Readings in a row (every 2 s) above the limit before a restart is tried against it: a minute."""
    notify_after_seconds: int = 0
    """The bell rings after a turn that took longer; 0: never."""
    greets: bool = False
    """Whether the first prompt of the session comes with a line on what holds."""
    allowed_places: int = 0
    """How many places the user lets through the air gap."""
    probe: Literal["auto", "always", "never"] = "auto"
    probe_margin_percent: int = 20
    """Probing starts this far below the warning: Aider's estimate is 1.1 to 1.4 times too low on code."""
    stop_wait_seconds: float = 5.0
    kill_wait_seconds: float = 1.0
    unload_wait_seconds: float = 6.0
    end_wait_seconds: float = 2.0
    stale_after_seconds: float = 10.0
    start_attempts: int = 3
    standby_wait_seconds: float = 30.0
    """How long a restart that is due waits for the Aider that is started ahead."""
    standby_needs_bytes: int = 1 << 30
    """No Aider is started ahead with less main memory available: it holds about a quarter of that."""
    standby_least_bytes: int = 1 << 29
    """The one that waits is ended when less than this is left."""
    sidecar_silence_seconds: float = 30.0


@dataclass(frozen=True)
class Restart:
    """A restart under way, from the decision to the next prompt."""

    reason: str
    started_at: float
    handoff: Handoff = Handoff()
    freed_bytes: int | Unavailable = Unavailable("not measured")
    unloaded: tuple[str, ...] = ()
    exchanges: int = 0


@dataclass(frozen=True)
class Standby:
    """The Aider that is started ahead of a restart."""

    stage: Literal["none", "starting", "ready", "asked"] = "none"
    failures: int = 0
    """How many ended before their time; after two no other is started."""


@dataclass(frozen=True)
class TurnReports:
    """What the door reported since the last turn ended, and what Aider logged of it."""

    started: bool = False
    """Whether the beginning of the turn was announced."""
    totals: TurnFinished = TurnFinished(0)
    """What its requests took, as far as their servers told; a commit message is among them."""
    answered: bool = False
    """Whether a model answered a message of the user's."""
    reached: bool = False
    """Whether a message of the user's reached a model."""
    refused: bool = False
    """Whether the door answered a message of the user's itself."""
    lost: bool = False
    """Whether a request will not be reported on any more."""
    logged: AiderLogged | None = None
    """Set once the main prompt is back after a turn whose last requests are not reported on yet."""


@dataclass(frozen=True)
class State:
    """One session at one moment."""

    limits: Limits = Limits()
    phase: Phase = Phase.STARTING
    launch: int = 0
    prompt: PromptShown | None = None
    """The main prompt that is open, else None."""
    prompt_files: tuple[str, ...] = ()
    """The lines that name the chat's files, at the newest main prompt."""
    settled: bool = False
    hidden: str = ""
    """The hidden command that runs, if any."""
    probe_failures: int = 0
    save_failures: int = 0

    turns: int = 0
    turn_ended_at: float = math.inf
    """When the newest turn ended; never, as long as there was none."""
    turns_in_launch: int = 0
    restarts: int = 0
    restart_due: str = ""
    """Why a restart is due at the next chance; empty when none is."""
    restart: Restart | None = None
    start_failures: int = 0
    standby: Standby = Standby()
    retired: Literal["none", "ending", "unloading"] = "none"
    """What is still done behind the new Aider: the old one ends, then its models are unloaded."""
    died_with: int = 0
    handoff: Handoff = Handoff(known=False)
    """What the running Aider took over when it was started again."""
    last_mode: str = ""
    last_multiline: bool = False
    termination: int = 0
    """The signal that ends the session, if one came."""

    plain_input: bool = False
    """Whether Aider reads lines without prompt_toolkit: there is no hidden command and no planned restart."""
    map_follows_words: bool = False
    """Whether the repository map is chosen by the words of each message, as nothing else was set."""
    map_seconds: tuple[float, ...] = (0.0,)
    """What was read again because of a changed map took in each of the newest turns, the running one last."""
    root: str = ""
    main_model: str = ""
    models: tuple[str, ...] = ()
    foreign_models: frozenset[str] | None = None
    """Models of other programs, loaded before this session's first request. None until Ollama was read once."""
    foreign_settled: bool = False
    """Whether later lists may have models of this session, so that they say nothing on other programs."""
    requested: frozenset[str] = frozenset()
    """The models that this session loaded ahead or sent a request to."""
    unlisted: frozenset[str] = frozenset()
    """Those of ``requested`` that were not in Ollama's list since."""
    presence: ModelPresence = ModelPresence()
    server_answered: bool = False
    pinned_tokens: int | Unavailable = Unavailable("the model is not known yet")
    loaded: ModelsReading | Unavailable = Unavailable("Ollama was not read yet")

    context: ContextReading | Unavailable = Unavailable("no /tokens was run yet")
    context_changed: bool = False
    files_changed: bool = False
    file_growth_tokens: int = 0
    """By how much the files grew since the newest table or request, as Aider counts."""
    file_sizes: Mapping[str, int] = field(default_factory=dict)
    """The files as they were in the newest table or request, as Aider counts."""
    counted_sizes: Mapping[str, int] = field(default_factory=dict)
    """The files as they were counted last."""
    turn_tokens: int | Unavailable = Unavailable("no turn was taken yet")
    turns_since_probe: int = 0
    restored: bool = False
    """The chat was restored and no message was sent since: ``/tokens`` counts what will be summarised."""
    warned: bool = False
    last_request: LastRequest | Unavailable = Unavailable("no request was measured yet")
    """Unavailable again after something newer: a table after an ``/add``, or a turn that was not measured."""
    tokens_per_estimate: float = 1.0
    """How many tokens the model counts for one of Aider's, by the last request."""
    open_requests: frozenset[int] = frozenset()
    """The requests of the conversation that are not answered yet."""
    turn: TurnReports = TurnReports()
    working_since: float | None = None
    """When the user's last prompt was answered, while Aider works."""
    worked_seconds: float = 0.0
    """How long Aider worked until the main prompt that is open."""
    turn_measured: bool = False
    """Whether a request was measured since the last turn ended."""
    last_prompt_tokens: int | Unavailable = Unavailable("no request was measured yet")
    """Of the newest request of the conversation, if it was the main model's."""
    prompt_accounted: bool = False
    """Whether the newest request measured the chat as it is at the next main prompt."""
    prompt_files_changed: bool = False
    """Whether the newest main prompt names other files than the one before."""
    last_seen: Mapping[str, int] = field(default_factory=dict)

    memory: MemoryReading | Unavailable = Unavailable("the memory was not read yet")
    pressure_readings: int = 0
    memory_warned: bool = False
    memory_restart_tried: bool = False

    needs: tuple[Need, ...] = ()
    """The memory that each model was computed to need."""
    fit_checked: frozenset[str] = frozenset()
    """The models that were compared with that already."""
    reported_findings: frozenset[str] = frozenset()
    """The ids of the findings that were reported."""

    reported_in_turn: frozenset[str] = frozenset()
    """What was reported on requests since the last turn ended."""
    reported: frozenset[str] = frozenset()
    """What was reported on requests, and is reported only once a session."""
    egress: Ledger = Ledger()
    leads_elsewhere: bool = False
    """Whether a model of the session runs on another machine that the user named."""

    sidecar_failures: int = 0
    last_notice: str = ""
    reading: ReadingEstimated | None = None
    """How far the prompt is that is read now, if that takes long."""
    last_turn: TurnFinished | None = None


def window_tokens(state: State) -> int | Unavailable:
    """Return the window of the main model: the smallest of the pin, Ollama's list and the newest request.

    Without a pin it is Ollama's, else that of the newest request.
    """
    pinned, loaded, last = state.pinned_tokens, loaded_window_tokens(state), state.last_request
    judged = last.window_tokens if isinstance(last, LastRequest) else loaded
    if isinstance(pinned, int):
        return min([pinned, *(size for size in (loaded, judged) if isinstance(size, int))])
    return judged if isinstance(loaded, Unavailable) else loaded


def loaded_window_tokens(state: State) -> int | Unavailable:
    """Return the window that Ollama lists for the main model."""
    if isinstance(state.loaded, Unavailable):
        return state.loaded
    for model in state.loaded.models:
        if same_model(model.name, state.main_model):
            return model.window_tokens
    return Unavailable("the model is not loaded")


def used_tokens(state: State) -> int | Unavailable:
    """Return the tokens of the chat: the newest request with its answer, and the growth of the files since.

    Where no request was measured, it is the newest table and the growth of the files, by Aider's own estimate, scaled
    to tokens of the model by the ratio of the last request.
    """
    if isinstance(state.last_request, LastRequest):
        return state.last_request.used_tokens + in_tokens(state, state.file_growth_tokens)
    context, turn = state.context, state.turn_tokens
    if isinstance(context, Unavailable):
        return in_tokens(state, turn) if isinstance(turn, int) else context
    estimate = context.total_tokens + state.file_growth_tokens
    if state.context_changed and isinstance(turn, int):
        estimate = max(estimate, turn)
    return in_tokens(state, estimate)


def is_measured(state: State) -> bool:
    """Whether ``used_tokens`` is a server's count, and no change since is known."""
    changed = state.context_changed or state.files_changed or state.file_growth_tokens
    return (
        isinstance(state.last_request, LastRequest) and state.last_request.is_sure and not changed
    )


def in_tokens(state: State, estimate: int) -> int:
    """Scale an estimate of Aider's to tokens of the main model."""
    return round(estimate * state.tokens_per_estimate)


def fill_percent(state: State) -> float | Unavailable:
    """Return how full the window is, in per cent, by the newest measurement or estimate."""
    used, window = used_tokens(state), window_tokens(state)
    if isinstance(used, Unavailable):
        return used
    if isinstance(window, Unavailable):
        return window
    return 100.0 * used / window if window > 0 else Unavailable("the window is empty")
