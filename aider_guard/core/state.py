"""Everything the policy knows. Only ``policy.decide`` makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal

from aider_guard.core.actions import Handoff
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

# What the air gap saw in a session: who tried to reach what, how often, and what was let through.

MOST_DESTINATIONS: Final = 256
"""Told apart in a session: a program can ask for names without end."""
Kind = Literal["host", "lookup", "socket"]


@dataclass(frozen=True)
class Destination:
    """What somebody tried to reach: a port of a host, the address of a name, or the socket at a path."""

    kind: Kind
    host: str
    port: int


@dataclass(frozen=True)
class AttemptCount:
    """How often, and by which program first; "" where that is not known."""

    count: int
    program: str


@dataclass(frozen=True)
class Ledger:
    """Everything that the air gap saw; destinations in the order in which they were first tried."""

    layer: Layer = "open"
    because: str = ""
    tried: Mapping[Destination, AttemptCount] = field(default_factory=dict)
    others: int = 0
    """Attempts to destinations beyond those that are told apart."""
    through: Mapping[Place, int] = field(default_factory=dict)
    unreported: tuple[Destination, ...] = ()
    notices: int = 0
    """How many were shown about attempts."""
    began: bool = True
    """Whether Aider was let begin."""

    @property
    def is_enforced(self) -> bool:
        """Whether the kernel blocks, so that this may be said."""
        return self.layer in ENFORCED

    def outside(self) -> dict[Destination, AttemptCount]:
        """All that was tried, without lookups of names that were connected to as well."""
        return {one: tried for one, tried in self.tried.items() if not self._has_followed(one)}

    def news(self) -> dict[Destination, AttemptCount]:
        """What the user was not told of yet."""
        return {one: tried for one, tried in self.outside().items() if one in self.unreported}

    def _has_followed(self, one: Destination) -> bool:
        """Whether a name that was looked up was tried, too."""
        return one.kind == "lookup" and any(
            other.host == one.host for other in self.tried if other.kind == "host"
        )


def destination(event: EgressBlocked) -> Destination:
    """What an attempt was for. Names are the same in any case, and with a dot at their end."""
    match event.protocol:
        case "unix":
            return Destination("socket", event.host, 0)
        case "dns":
            return Destination("lookup", _name(event.host), 0)
    return Destination("host", _name(event.host), event.port)


def _name(host: str) -> str:
    return host.lower().removesuffix(".")


def with_blocked(ledger: Ledger, event: EgressBlocked) -> Ledger:
    """The ledger after an attempt."""
    one, count = destination(event), max(event.count, 0)
    before = ledger.tried.get(one)
    if before is None and len(ledger.tried) >= MOST_DESTINATIONS:
        return replace(ledger, others=ledger.others + count)
    if before is None:
        ledger = replace(ledger, unreported=(*ledger.unreported, one))
    tried = AttemptCount((before.count if before else 0) + count, before.program if before else "")
    tried = replace(tried, program=tried.program or event.program)
    return replace(ledger, tried={**ledger.tried, one: tried})


def with_allowed(ledger: Ledger, event: EgressAllowed) -> Ledger:
    """The ledger after something was let through."""
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
    """The user's settings that decide something."""

    warn_at_percent: int = 80
    hysteresis_percent: int = 5
    max_turns: int = 20
    vram_warn_at_percent: int = 90
    readings_for_pressure: int = 3
    readings_for_restart: int = 30
    """Readings in a row (every 2 s) above the limit before a restart is tried against it: a minute."""
    probe: Literal["auto", "always", "never"] = "auto"
    probe_margin_percent: int = 20
    """Probing starts this far below the warning: Aider's estimate is 1.1 to 1.4 times too low on code."""
    stop_wait_seconds: float = 5.0
    kill_wait_seconds: float = 1.0
    unload_wait_seconds: float = 6.0
    end_wait_seconds: float = 2.0
    stale_after_seconds: float = 10.0
    start_attempts: int = 3
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
    turn_ended_at: float = 0.0
    turns_in_launch: int = 0
    restarts: int = 0
    restart_due: str = ""
    """Why a restart shall happen at the next chance; empty when none is due."""
    restart: Restart | None = None
    start_failures: int = 0
    died_with: int = 0
    handoff: Handoff = Handoff(known=False)
    """What the running Aider was given when it was started again."""
    last_mode: str = ""
    last_multiline: bool = False
    termination: int = 0
    """The signal that ends the session, if one came."""

    root: str = ""
    main_model: str = ""
    models: tuple[str, ...] = ()
    foreign_models: frozenset[str] | None = None
    """Loaded before this session asked Ollama for anything: they are others'. None until Ollama was read once."""
    foreign_settled: bool = False
    """Whether a list that is read from now on may have models of this session."""
    requested: frozenset[str] = frozenset()
    """Models that this session loaded ahead, or sent a request to."""
    unlisted: frozenset[str] = frozenset()
    """Those of the session's models that were asked for and not seen in Ollama's list since."""
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
    """Unavailable again where something newer is known: a table after an ``/add``, a turn past the door."""
    tokens_per_estimate: float = 1.0
    """How many tokens the model counts for one of Aider's, by the last request."""
    open_requests: frozenset[int] = frozenset()
    """Requests of the conversation that are not answered yet."""
    turn: TurnReports = TurnReports()
    turn_measured: bool = False
    """Whether a request was measured since the last turn ended."""
    last_prompt_tokens: int | Unavailable = Unavailable("no request was measured yet")
    """Of the newest request of the conversation, if it was the main model's."""
    prompt_accounted: bool = False
    """Whether what the next main prompt holds is what the newest request was measured with."""
    prompt_files_changed: bool = False
    """Whether the newest main prompt names other files than the one before."""
    last_seen: Mapping[str, int] = field(default_factory=dict)

    memory: MemoryReading | Unavailable = Unavailable("the memory was not read yet")
    pressure_readings: int = 0
    memory_warned: bool = False
    memory_restart_tried: bool = False

    needs: tuple[Need, ...] = ()
    """What each model was computed to need."""
    fit_checked: frozenset[str] = frozenset()
    """Models that were compared with that already."""
    reported_findings: frozenset[str] = frozenset()
    """Findings before the first prompt that were said."""

    reported_in_turn: frozenset[str] = frozenset()
    """What was said of the traffic since the last turn ended."""
    reported: frozenset[str] = frozenset()
    """What is said of the traffic once a session, and was."""
    egress: Ledger = Ledger()

    sidecar_failures: int = 0
    last_notice: str = ""


def window_tokens(state: State) -> int | Unavailable:
    """The window of the main model: the pin, at most what is loaded if Ollama says so, and what the newest request
    was judged by; without a pin what is loaded, else what the newest request was judged by.
    """
    loaded = loaded_window_tokens(state)
    judged = (
        state.last_request.window_tokens if isinstance(state.last_request, LastRequest) else loaded
    )
    match state.pinned_tokens, loaded:
        case int() as pinned, _:
            return min([pinned, *(one for one in (loaded, judged) if isinstance(one, int))])
        case _, Unavailable() if isinstance(state.last_request, LastRequest):
            return state.last_request.window_tokens
        case _:
            return loaded


def loaded_window_tokens(state: State) -> int | Unavailable:
    """The window that Ollama reports for the main model."""
    if isinstance(state.loaded, Unavailable):
        return state.loaded
    for model in state.loaded.models:
        if same_model(model.name, state.main_model):
            return model.window_tokens
    return Unavailable("the model is not loaded")


def used_tokens(state: State) -> int | Unavailable:
    """Tokens of the chat: the newest request and its answer as measured, and what the files grew since.

    Where nothing newer was measured: the newest table and what the files grew, by Aider's own estimate, in tokens of
    the model as far as the last request told how many those are.
    """
    if isinstance(state.last_request, LastRequest):
        return state.last_request.used_tokens + in_tokens(state, state.file_growth_tokens)
    estimate = _estimated_tokens(state)
    return in_tokens(state, estimate) if isinstance(estimate, int) else estimate


def is_measured(state: State) -> bool:
    """Whether the tokens in use are what a server counted, and nothing is known to have changed since."""
    changed = state.context_changed or state.files_changed or state.file_growth_tokens
    return (
        isinstance(state.last_request, LastRequest) and state.last_request.is_sure and not changed
    )


def in_tokens(state: State, estimate: int) -> int:
    """An estimate of Aider's in tokens of the main model."""
    return round(estimate * state.tokens_per_estimate)


def _estimated_tokens(state: State) -> int | Unavailable:
    match state.context, state.turn_tokens:
        case ContextReading() as context, int() as turn if state.context_changed:
            return max(context.total_tokens + state.file_growth_tokens, turn)
        case ContextReading() as context, _:
            return context.total_tokens + state.file_growth_tokens
        case _, int() as turn:
            return turn
        case Unavailable() as unavailable, _:
            return unavailable


def fill_percent(state: State) -> float | Unavailable:
    """How full the window is, in per cent, by what is newest of what was measured and estimated."""
    used, window = used_tokens(state), window_tokens(state)
    if isinstance(used, Unavailable):
        return used
    if isinstance(window, Unavailable):
        return window
    return 100.0 * used / window if window > 0 else Unavailable("the window is empty")
