"""Sums up the journal of a session: turns with what they waited for, the fill, memory, what was blocked, and advice.

The journal's words are in docs/journal.md. A fact that a line does not have, as an older version did not write it, is
Unavailable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aider_guard.core.readings import Unavailable

NOT_WRITTEN: Final = Unavailable("the journal does not say")
_LEAST_SAVED_SECONDS: Final = 0.5
"""Advice that saves less a turn is not given."""

Number = float | Unavailable


@dataclass(frozen=True)
class TurnCost:
    """One turn: when it ended (seconds since the start), what was waited for, and the tokens of its prompts."""

    number: int
    at_seconds: float
    load_seconds: Number = NOT_WRITTEN
    prefill_seconds: Number = NOT_WRITTEN
    generation_seconds: Number = NOT_WRITTEN
    prompt_tokens: Number = NOT_WRITTEN
    cached_tokens: Number = NOT_WRITTEN
    answer_tokens: Number = NOT_WRITTEN
    fill_percent: Number = NOT_WRITTEN

    @property
    def waited_seconds(self) -> float:
        """All that is known of its waiting."""
        return sum(map(known, (self.load_seconds, self.prefill_seconds, self.generation_seconds)))


@dataclass(frozen=True)
class Mark:
    """Something to show on the line of time: a notice by its name, ``restart``, ``death`` or ``reload``."""

    at_seconds: float
    name: str


@dataclass(frozen=True)
class MemoryPoint:
    """The memory in use at one moment: that of the GPU with most in use, or of the machine where none tells."""

    at_seconds: float
    used_bytes: int
    total_bytes: int
    is_gpu: bool


@dataclass(frozen=True)
class BlockedPlace:
    """A place that was tried, with how often. ``host`` is a path where ``protocol`` is ``unix``."""

    host: str
    port: int
    protocol: str
    program: str
    count: int


@dataclass(frozen=True)
class SessionReport:
    """What a session was like."""

    started_at: str = ""
    """The time of the journal's first line, in UTC (ISO 8601)."""
    seconds: float = 0.0
    model: str = ""
    window_tokens: Number = NOT_WRITTEN
    layer: str = ""
    turns: tuple[TurnCost, ...] = ()
    fills: tuple[tuple[float, float], ...] = ()
    """The fill of the window in per cent, by seconds since the start."""
    marks: tuple[Mark, ...] = ()
    memory: tuple[MemoryPoint, ...] = ()
    blocked: tuple[BlockedPlace, ...] = ()
    restarts: int = 0
    deaths: int = 0
    exit_status: Number = NOT_WRITTEN
    advice: tuple[str, ...] = ()


def known(value: Number) -> float:
    """Return a number for a sum: what is not known adds nothing."""
    return 0.0 if isinstance(value, Unavailable) else value


def number(value: object) -> Number:
    """Return a number of the journal."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else NOT_WRITTEN  # type: ignore[arg-type]


class _Sums:
    """What is added up while the lines are read."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self.turns: list[TurnCost] = []
        self.fills: list[tuple[float, float]] = []
        self.marks: list[Mark] = []
        self.memory: list[MemoryPoint] = []
        self.blocked: Counter[tuple[str, int, str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.reloads: list[tuple[str, float]] = []
        self.rereads: list[tuple[str, Number]] = []
        self.side_seconds = 0.0
        self.map_follows_words = True


def sum_up(lines: Iterable[Mapping[str, Any]]) -> SessionReport:
    """Return the report on a journal. A line with facts of another kind than documented counts as not written."""
    sums = _Sums()
    for line in lines:
        at = known(number(line.get("t")))
        sums.report.setdefault("started_at", str(line.get("at", "")))
        sums.report["seconds"] = at
        try:
            _add(sums, line, at)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    places = sums.blocked.most_common()
    return SessionReport(
        **sums.report,
        turns=tuple(sums.turns),
        fills=tuple(sums.fills),
        marks=tuple(sums.marks),
        memory=tuple(sums.memory),
        blocked=tuple(BlockedPlace(*place, count) for place, count in places),
        restarts=sums.counts["restart"],
        deaths=sums.counts["death"],
        advice=tuple(_advice(sums)),
    )


def _add(sums: _Sums, line: Mapping[str, Any], at: float) -> None:
    match line.get("event"):
        case "models_chosen":
            sums.report["model"] = str(line["main"])
            sums.report["window_tokens"] = number(line["window_tokens"])
            sums.map_follows_words = line.get("map_follows_words", True) is True
        case "air_gap_chosen":
            sums.report["layer"] = str(line["layer"])
        case "turn_finished":
            sums.turns.append(_turn(line, len(sums.turns) + 1, at, sums.fills))
        case "request_finished":
            _add_request(sums, line, at)
        case "request_refused":
            sums.counts[f"refused {line['reason']}"] += 1
        case "context_read":
            reading = line["reading"]
            _add_fill(sums, at, reading.get("total_tokens"), sums.report.get("window_tokens"))
        case "memory_read":
            _add_memory(sums, line["reading"], at)
        case "notice_shown":
            sums.counts[str(line["notice"])] += 1
            if line["notice"] not in ("restarted", "reload_seen"):  # these have marks of their own
                sums.marks.append(Mark(at, str(line["notice"])))
        case "start_aider":
            sums.counts["restart"] += 1
            sums.marks.append(Mark(at, "restart"))
        case "offer_restart":
            sums.counts["death"] += 1
            sums.marks.append(Mark(at, "death"))
        case "reload_seen":
            sums.reloads.append((str(line["cause"]), known(number(line["load_seconds"]))))
            sums.marks.append(Mark(at, "reload"))
        case "prompt_reread" if sums.map_follows_words or line["cause"] != "map":
            sums.rereads.append((str(line["cause"]), number(line.get("seconds"))))
        case "egress_blocked":
            program = str(line.get("program", ""))
            place = (str(line["host"]), int(line["port"]), str(line["protocol"]), program)
            sums.blocked[place] += int(line["count"])
        case "end_session":
            sums.report["exit_status"] = number(line["exit_status"])


def _turn(
    line: Mapping[str, Any], count: int, at: float, fills: Sequence[tuple[float, float]]
) -> TurnCost:
    names = ("load_seconds", "prefill_seconds", "generation_seconds")
    tokens = ("prompt_tokens", "cached_tokens", "answer_tokens")
    fill = fills[-1][1] if fills else NOT_WRITTEN
    facts = {name: number(line.get(name)) for name in (*names, *tokens)}
    return TurnCost(count, at, **facts, fill_percent=fill)


def _add_request(sums: _Sums, line: Mapping[str, Any], at: float) -> None:
    if line["purpose"] in ("commit", "summary"):
        names = ("load_seconds", "prefill_seconds", "generation_seconds")
        sums.side_seconds += sum(known(number(line.get(name))) for name in names)
    elif line["role"] == "main":
        used = known(number(line["prompt_tokens"])) + known(number(line["answer_tokens"]))
        _add_fill(sums, at, used or None, line["window_tokens"])
    if line["verdict"].get("outcome") == "cut":
        sums.counts["cut"] += 1


def _add_fill(sums: _Sums, at: float, used: object, window: object) -> None:
    tokens = number(used)
    size = window if isinstance(window, Unavailable) else number(window)
    if isinstance(tokens, float) and isinstance(size, float) and size > 0:
        sums.fills.append((at, 100 * tokens / size))


def _add_memory(sums: _Sums, reading: Mapping[str, Any], at: float) -> None:
    gpus, ram = reading.get("gpus"), reading.get("ram")
    told = (
        [gpu for gpu in gpus if isinstance(gpu["vram_used_bytes"], int)]
        if isinstance(gpus, list)
        else []
    )
    if told:
        most = max(told, key=lambda gpu: int(gpu["vram_used_bytes"]))
        used, total = most["vram_used_bytes"], int(most["vram_total_bytes"])
        sums.memory.append(MemoryPoint(at, used, total, is_gpu=True))
    elif isinstance(ram, Mapping) and "total_bytes" in ram:
        total = int(ram["total_bytes"])
        used = total - int(ram["available_bytes"])
        sums.memory.append(MemoryPoint(at, used, total, is_gpu=False))


# Advice


def _advice(sums: _Sums) -> Iterable[str]:
    """Return what to change, as far as the numbers of this session show that it helps."""
    turns = len(sums.turns)
    yield from _about_rereading(sums.rereads, turns)
    if sums.reloads:
        seconds = sum(seconds for _, seconds in sums.reloads)
        cause = Counter(cause for cause, _ in sums.reloads).most_common(1)[0][0]
        yield f"the model was loaded again {_times(len(sums.reloads))} ({seconds:.0f} s): {cause}"
    if refused := sums.counts["refused overflow"]:
        yield f"{_times(refused)} a message did not fit the window: fewer files in the chat, or a larger --num-ctx"
    elif sums.counts["context_filling"] > 1:
        yield "the window filled up again and again: fewer files in the chat, or a larger --num-ctx"
    if sums.counts["cut"]:
        yield f"{_times(sums.counts['cut'])} the server cut a prompt: --on-overflow refuse holds such a message back"
    if sums.counts["model_spilled"]:
        yield "the model ran partly on the CPU: aider-guard fit shows the window or model that fits"
    if sums.counts["memory_short"]:
        yield "memory was short: a smaller --num-ctx or model needs less"
    waited = sum(turn.waited_seconds for turn in sums.turns)
    if (
        turns
        and sums.side_seconds / turns > _LEAST_SAVED_SECONDS
        and sums.side_seconds > waited / 5
    ):
        yield (
            f"commit messages and summaries took {sums.side_seconds:.0f} s: a smaller --weak-model that fits beside"
            " the main one, or --no-auto-commits"
        )
    if sums.counts["death"]:
        yield f"Aider died {_times(sums.counts['death'])}: aider-guard doctor shows what may be wrong"


_REREAD: Final = {
    "map": "the repository map changed in {turns}: --map-refresh files saves about {seconds:.0f} s a turn",
    "other_program": "another program used the model in {turns}: one of its own saves about {seconds:.0f} s a turn",
}


def _about_rereading(rereads: Sequence[tuple[str, Number]], turns: int) -> Iterable[str]:
    for cause, words in _REREAD.items():
        seconds = [known(each) for name, each in rereads if name == cause]
        saved = sum(seconds) / turns if turns else 0.0
        if saved >= _LEAST_SAVED_SECONDS:
            share = f"{len(seconds)} of {turns} turns"
            yield words.format(turns=share, seconds=max(1.0, saved))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
