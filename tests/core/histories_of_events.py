"""Histories of a session for the policy, written by hand or drawn at random with every kind of event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, get_args

from hypothesis import strategies as st

from aider_guard.core.actions import Action, Announce, CancelDeadline, SetDeadline
from aider_guard.core.chat.events import (
    DoorOpened,
    ModelWarmed,
    NextPromptCompared,
    NextPromptUnknown,
    PromptReadAhead,
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    ReloadSeen,
    RequestFinished,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.chat.types import Verdict
from aider_guard.core.egress import Layer, Protocol
from aider_guard.core.events import (
    AiderExited,
    AiderLogged,
    AiderRetired,
    AiderStarted,
    AirGapChosen,
    ChatSaved,
    CommandNotTyped,
    ConfirmShown,
    ContextRead,
    ContinuationShown,
    DeadlinePassed,
    EgressAllowed,
    EgressBlocked,
    Event,
    ExchangesCarried,
    FilesCounted,
    JobContinued,
    KeyTyped,
    MemoryRead,
    ModelsChosen,
    ModelsRead,
    ModelsUnloaded,
    NoticeShown,
    OfferAnswered,
    PromptClosed,
    PromptRedrawn,
    PromptSettled,
    PromptShown,
    RestartRequested,
    RetiredExited,
    ServerRead,
    SidecarLost,
    SidecarStarted,
    StandbyLost,
    StandbyReady,
    TerminationRequested,
    TextsCounted,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.findings import SEVERITIES, Finding
from aider_guard.core.fit import Need
from aider_guard.core.policy import decide
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.state import Limits, Phase, State

GIB = 1 << 30
WINDOW = 10_000
OURS, OTHERS = "ours:latest", "others:latest"
UNKNOWN = Unavailable("not read")


@dataclass(frozen=True)
class Step:
    """One event with the states before and after it, and its actions."""

    now: float
    event: Event
    actions: tuple[Action, ...]
    before: State = field(repr=False)
    after: State = field(repr=False)


@dataclass(frozen=True)
class Wait:
    """Some seconds pass."""

    seconds: float


class Story:
    """A session, event by event; a reading is taken at the moment of its event."""

    def __init__(self, limits: Limits | None = None, **known: Any) -> None:
        self.state = State(limits or Limits(), **known)
        self.now = 100.0
        self.steps: list[Step] = []
        self.deadlines: dict[str, float] = {}

    def tell(self, *events: Event | Wait) -> list[Action]:
        """The policy's actions on these events, in order."""
        actions: list[Action] = []
        for event in events:
            if isinstance(event, Wait):
                actions += self._pass(self.now + event.seconds)
            else:
                actions += self._decide(event)
        return actions

    def _pass(self, until: float) -> list[Action]:
        """Let time pass, with an event for each deadline that is due."""
        actions: list[Action] = []
        while due := sorted((at, name) for name, at in self.deadlines.items() if at <= until):
            self.now, name = max(self.now, due[0][0]), due[0][1]
            del self.deadlines[name]
            actions += self._decide(DeadlinePassed(name))
        self.now = until
        return actions

    def _decide(self, event: Event) -> tuple[Action, ...]:
        before = self.state
        self.state, actions = decide(before, event, self.now)
        for action in actions:
            match action:
                case SetDeadline(name, at):
                    self.deadlines[name] = at
                case CancelDeadline(name):
                    self.deadlines.pop(name, None)
        self.steps.append(Step(self.now, event, actions, before, self.state))
        for action in actions:
            if isinstance(action, Announce):
                actions += self._decide(action.event)
        return actions

    def prompt(self, *files: str, **more: Any) -> list[Action]:
        """The main prompt appears, and the user does not type."""
        return self.tell(PromptShown(files=files, **more), Wait(0.3), PromptSettled())

    def measured_turn(
        self,
        prompt: int,
        answer: int = 0,
        *,
        estimate: int | Unavailable = UNKNOWN,
        files: Sequence[str] = (),
        **more: Any,
    ) -> list[Action]:
        """A message passes the door and is answered; the prompt is back, and the user does not type."""
        request = finished(prompt, answer, **more)
        actions = self.tell(KeyTyped(), PromptClosed(), TurnStarted())
        actions += self.tell(RequestStarted(1, request.role, request.purpose, request.model))
        actions += self.tell(Wait(5.0), request, PromptShown(files=tuple(files)))
        return actions + self.tell(TurnFinished(1, estimate, 0), Wait(0.3), PromptSettled())

    def turn(self, *, tokens: int | Unavailable = UNKNOWN, mentioned: Sequence[str] = ()) -> None:
        """A message is sent and answered; the prompt is back, and the user types on at once."""
        self.tell(KeyTyped(), PromptClosed(), TurnStarted(), Wait(5.0), PromptShown())
        self.tell(TurnFinished(1, tokens, 0, tuple(mentioned)), KeyTyped())


def actions_of(steps: Iterable[Step], *kinds: type) -> list[Any]:
    """The actions of some kinds, in order."""
    return [action for step in steps for action in step.actions if isinstance(action, kinds)]


def at_first_prompt(limits: Limits | None = None) -> Story:
    """Aider runs at its first prompt, Ollama has nothing loaded."""
    story = Story(limits)
    story.tell(AiderStarted(1, 42), ModelsChosen("ours", ("ours", "weak"), WINDOW))
    story.tell(models(at=story.now), PromptShown())
    return story


def table(total: int, *, files: dict[str, int] | None = None, at: float = 0.0) -> ContextReading:
    """A /tokens table: these files, and the rest for the instructions."""
    rows = [ContextRow("file", name, tokens) for name, tokens in (files or {}).items()]
    system = ContextRow("system", "", total - sum(row.tokens for row in rows))
    return ContextReading("m", (system, *rows), total, WINDOW, at)


WHOLE = Verdict("whole", "prompt and answer are smaller than the window")


def finished(prompt: int | Unavailable, answer: int = 0, **more: Any) -> RequestFinished:
    """The main model answered; ``files`` are those of the prompt, the rest of it are instructions."""
    files: dict[str, int] = more.pop("files_of_prompt", {})
    facts: dict[str, Any] = {
        "number": 1,
        "role": "main",
        "purpose": "chat",
        "model": "ours",
        "outcome": "answered",
        "verdict": WHOLE,
        "window_tokens": WINDOW,
        "answer_tokens": answer,
    }
    if isinstance(prompt, int):
        facts["parts"] = table(prompt, files=files).rows
    return RequestFinished(**{**facts, "prompt_tokens": prompt, **more})


def models(*names: str, at: float, vram: int = GIB) -> ModelsRead:
    """Ollama's list has these models."""
    loaded = tuple(LoadedModel(name, "", GIB, vram, WINDOW) for name in names)
    return ModelsRead(ModelsReading(loaded, at))


def gpu_memory(percent: float, *, at: float) -> MemoryRead:
    """One GPU, this full."""
    card = Gpu(0, "card", 8 * GIB, ceil(8 * GIB * percent / 100), ())
    return MemoryRead(MemoryReading((card,), RamReading(16 * GIB, 8 * GIB, UNKNOWN), at))


# At random

NAMES = st.sampled_from([OURS, OTHERS, "ours", "weak", "a b.py", "c.py"])
SOME_NAMES = st.lists(NAMES, max_size=2).map(tuple)
TOKENS = st.sampled_from([0, 100, 5_000, 7_800, 8_500, 20_000])
MAYBE_TOKENS = TOKENS | st.just(UNKNOWN)
BYTES = st.sampled_from([0, GIB, 7 * GIB, 8 * GIB])
SOME_NEEDS = st.lists(st.builds(Need, NAMES, BYTES, BYTES, BYTES, BYTES), max_size=2).map(tuple)
TAKEN = st.sampled_from([0.0, -1.0, -9.0, -11.0, -1000.0])
"""Seconds before the event; made an instant when the story is told."""
GPUS = st.lists(
    st.builds(Gpu, st.just(0), st.just("card"), st.sampled_from([8 * GIB, 0]), BYTES, st.just(())),
    max_size=2,
).map(tuple)
RAM = st.builds(RamReading, st.sampled_from([8 * GIB, 0]), BYTES, st.just(UNKNOWN))
LOADED = st.lists(
    st.builds(LoadedModel, NAMES, st.just(""), BYTES, BYTES, MAYBE_TOKENS), max_size=3
).map(tuple)
ROW_KINDS = st.sampled_from(["system", "history", "map", "file"])
ROWS = st.lists(
    st.builds(ContextRow, ROW_KINDS, NAMES, TOKENS, st.booleans()),
    max_size=3,
    unique_by=lambda row: (row.kind, row.name),
).map(tuple)


PROMPTS = st.builds(
    PromptShown,
    st.sampled_from(["", "ask"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), ("c.py",)]),
)
DEADLINES = st.sampled_from(
    [
        *("stop", "kill", "unload", "backoff", "end", "else", "standby"),
        *("retired_stop", "retired_kill", "retired_unload"),
        *("sidecar_start", "sidecar_silent", "egress_gathered"),
    ]
)
EVENTS: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(AiderStarted, st.integers(1, 3), st.just(42)),
    st.builds(
        ModelsChosen, st.sampled_from(["", "ours"]), SOME_NAMES, MAYBE_TOKENS, needs=SOME_NEEDS
    ),
    st.builds(Finding, st.sampled_from("abcd"), st.sampled_from(SEVERITIES), st.just("what")),
    PROMPTS,
    st.builds(ConfirmShown),
    st.builds(ContinuationShown),
    st.builds(PromptRedrawn, st.booleans()),
    st.builds(PromptClosed),
    st.builds(KeyTyped),
    st.builds(PromptSettled),
    st.builds(TurnStarted),
    st.builds(AiderLogged, st.integers(0, 2), MAYBE_TOKENS, MAYBE_TOKENS),
    st.builds(TurnFinished, st.just(1), MAYBE_TOKENS, MAYBE_TOKENS, SOME_NAMES),
    st.builds(AiderExited, st.sampled_from([0, 1, -2, -9, -15])),
    st.builds(StandbyReady, st.just(43), TOKENS),
    st.builds(StandbyLost, st.just("it ended")),
    st.builds(AiderRetired),
    st.builds(JobContinued, st.just(5.0)),
    st.builds(RetiredExited, st.sampled_from([0, -15])),
    st.builds(ChatSaved, SOME_NAMES, SOME_NAMES, st.sampled_from(["", "it failed"])),
    st.builds(CommandNotTyped, st.sampled_from(["tokens", "save", "exit"])),
    st.builds(ExchangesCarried, st.integers(0, 3)),
    st.builds(NoticeShown, st.just("n")),
    st.builds(OfferAnswered, st.booleans()),
    st.builds(SidecarStarted, st.just(7), st.just("1")),
    st.builds(SidecarLost, st.just("it died")),
    st.builds(ServerRead, st.just(UNKNOWN)),
    st.builds(FilesCounted, st.dictionaries(NAMES, MAYBE_TOKENS, max_size=3)),
    st.builds(TextsCounted, st.integers(0, 3), st.lists(TOKENS, max_size=2).map(tuple)),
    st.builds(ModelsUnloaded, SOME_NAMES, MAYBE_TOKENS, st.just(1.0)),
    st.builds(RestartRequested),
    st.builds(TerminationRequested, st.sampled_from([1, 15])),
    st.builds(DeadlinePassed, DEADLINES),
    st.builds(
        MemoryRead, st.builds(MemoryReading, GPUS | st.just(UNKNOWN), RAM | st.just(UNKNOWN), TAKEN)
    ),
    st.builds(ModelsRead, st.builds(ModelsReading, LOADED, TAKEN) | st.just(UNKNOWN)),
    st.builds(
        ContextRead,
        st.builds(ContextReading, st.just("m"), ROWS, TOKENS, MAYBE_TOKENS, TAKEN)
        | st.just(UNKNOWN),
    ),
)
ROLES = st.sampled_from(["main", "editor", "weak"])
PURPOSES = st.sampled_from(["chat", "edit", "commit", "summary", "other"])
VERDICTS = st.builds(
    Verdict,
    st.sampled_from(["whole", "cut", "unknown"]),
    st.just("evidence"),
    st.sampled_from(["", "messages", "tokens", "generation"]),
    MAYBE_TOKENS,
)
HOSTS = st.sampled_from(["example.org", "127.0.0.1", "us.i.posthog.com", "/run/docker.sock", ""])
EGRESS: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(AirGapChosen, st.sampled_from(get_args(Layer)), st.sampled_from(["", "apparmor"])),
    st.builds(
        EgressBlocked,
        HOSTS,
        st.sampled_from([0, 443, 5432]),
        st.sampled_from(get_args(Protocol)),
        st.sampled_from(["", "curl", "python3"]),
        st.integers(1, 9),
    ),
    st.builds(EgressAllowed, HOSTS, st.just(22), st.integers(1, 9)),
)
NUMBERS = st.integers(1, 3)
TRAFFIC: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(DoorOpened, st.just(4711)),
    st.builds(
        ReadingEstimated, NUMBERS, NAMES, TOKENS, TOKENS, TOKENS, st.just(9.0), st.just("slots")
    ),
    st.builds(ReadingFinished, NUMBERS, NAMES, st.just(9.0), st.just(8.0)),
    st.builds(
        PromptReread,
        *(NUMBERS, NAMES, st.sampled_from(["map", "other_program"]), TOKENS, TOKENS, TOKENS),
        is_exact=st.booleans(),
    ),
    st.builds(RequestStarted, NUMBERS, ROLES, PURPOSES, NAMES),
    st.builds(
        RequestFinished,
        NUMBERS,
        ROLES,
        PURPOSES,
        NAMES,
        st.sampled_from(["answered", "cancelled", "broken"]),
        VERDICTS,
        *(MAYBE_TOKENS, MAYBE_TOKENS, MAYBE_TOKENS, MAYBE_TOKENS),
        counted_exactly=st.booleans(),
        parts=ROWS,
    ),
    st.builds(
        RequestRefused,
        NUMBERS,
        ROLES,
        PURPOSES,
        NAMES,
        st.sampled_from(["overflow", "cloud", "down"]),
        MAYBE_TOKENS,
        TOKENS,
        MAYBE_TOKENS,
        st.sampled_from([(), ("aider-guard: no", "because")]),
    ),
    st.builds(ModelWarmed, NAMES, st.just("load"), problem=st.sampled_from(["", "busy"])),
    st.builds(PromptReadAhead, NAMES, NUMBERS, problem=st.sampled_from(["", "busy"])),
    st.builds(NextPromptCompared, NAMES, NUMBERS, NUMBERS, st.sampled_from(["", "map"])),
    st.builds(NextPromptUnknown, st.just("it is another")),
    st.builds(ReloadSeen, NAMES, st.just(4.0), st.sampled_from(["a", "b"])),
)
KINDS = frozenset(get_args(Event))
LIMITS = st.builds(
    Limits,
    max_turns=st.sampled_from([0, 1, 2, 20]),
    probe=st.sampled_from(["auto", "always", "never"]),
    readings_for_pressure=st.just(2),
    readings_for_restart=st.just(3),
)


def next_events(story: Story) -> list[tuple[Event, ...]]:
    """The events that a healthy or an unlucky session could see next."""
    at = story.now
    match story.state.phase:
        case Phase.STARTING:
            begins = (AiderStarted(2, 42), ModelsChosen("ours", ("ours",), WINDOW))
            return [
                (*begins, PromptShown()),
                (*begins, PromptShown(), PromptSettled()),
                (AiderExited(1),),
            ]
        case Phase.RUNNING if story.state.hidden:
            return [(ContextRead(table(used, at=at)),) for used in (1_000, 7_800, 8_500)]
        case Phase.RUNNING:
            memory = [(gpu_memory(percent, at=at),) * 3 for percent in (50, 87, 95)]
            turn = (
                PromptClosed(),
                PromptShown(),
                TurnFinished(1, 6_000, 10, ("c.py",)),
                PromptSettled(),
            )
            measured = (
                PromptClosed(),
                RequestStarted(1, "main", "chat", "ours"),
                finished(6_000 + 2_000 * (story.state.turns % 2), 10),
                PromptShown(),
                TurnFinished(1, 5_000, 10, ("c.py",)),
                PromptSettled(),
            )
            idle = (PromptShown(files=("c.py",)), PromptSettled())
            ours, restart = (models(OURS, at=at),), (RestartRequested(),)
            ready = (StandbyReady(43, GIB), PromptSettled())
            behind = (RetiredExited(0), ModelsUnloaded((OURS,), GIB, 1.0))
            usual = [turn, measured, idle, ours, *memory, (KeyTyped(),), restart, ready, behind]
            return [*usual, (AiderExited(-9),)]
        case Phase.SAVING:
            return [(ChatSaved(("c.py",), ("a b.py",)),), (ChatSaved(problem="it failed"),)]
        case Phase.STOPPING if story.state.standby.stage == "asked":
            return [(AiderRetired(),), (CommandNotTyped("exit"),)]
        case Phase.UNLOADING:
            return [(ModelsUnloaded((OURS,), GIB, 1.0),)]
        case Phase.OFFERING:
            return [(OfferAnswered(accepted=True),)]
    return [(AiderExited(0),), (AiderExited(1),)]


NEXT = st.integers(0, 12)
# Mapped, or its branches would be as many as those beside it, and what fits would be rare.
ANY = st.one_of(*EVENTS, *TRAFFIC, *EGRESS).map(lambda event: event)
MOMENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 1.0, 3.0, 9.0, 60.0]),
        st.one_of(NEXT, NEXT, NEXT, ANY),
    ),
    min_size=8,
    max_size=60,
)


def with_age_at(event: Event, now: float) -> Event:
    """Date the reading of an event relative to *now*; its ``taken_at`` is minus its age."""
    match event:
        case MemoryRead(memory):
            return MemoryRead(replace(memory, taken_at=now + memory.taken_at))
        case ModelsRead(ModelsReading() as listed):
            return ModelsRead(replace(listed, taken_at=now + listed.taken_at))
        case ContextRead(ContextReading() as context):
            return ContextRead(replace(context, taken_at=now + context.taken_at))
    return event


def _story_of(
    limits: Limits, moments: Sequence[tuple[float, Any]], without: tuple[type, ...]
) -> list[Step]:
    story = at_first_prompt(limits)
    for seconds, event in moments:
        story.tell(Wait(seconds))
        if isinstance(event, int):
            choices = next_events(story)
            chosen = choices[event % len(choices)]
        else:
            chosen = (with_age_at(event, story.now),)
        story.tell(*(event for event in chosen if not isinstance(event, without)))
    return story.steps


def histories(without: tuple[type, ...] = ()) -> st.SearchStrategy[list[Step]]:
    """Histories with plausible and arbitrary events, fresh and old readings, and deadlines when they are due."""
    return st.tuples(LIMITS, MOMENTS).map(lambda drawn: _story_of(drawn[0], drawn[1], without))


def pairs(steps: Sequence[Step]) -> Iterator[tuple[Step, Action]]:
    """Each action with its step."""
    return ((step, action) for step in steps for action in step.actions)
