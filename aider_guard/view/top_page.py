"""Draws what ``aider-guard top`` shows: for each session its window by part, its last turn, memory and notices.

A pure function from facts and a size to lines. Every kind of part has a sign of its own beside its colour, so that the
bar can be read without colours; colours are those of the user's own theme, in the light and the dark. It is drawn
without a library: rich would be a dependency with three of its own, for a dozen lines of text whose keys it does not
read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aider_guard.core.messages import count, size
from aider_guard.core.model_names import same_model
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.core.screen import columns_of
from aider_guard.core.session_report import SessionReport, TurnCost
from aider_guard.session.control import STOPPED
from aider_guard.view.charts import minutes
from aider_guard.view.report import mark_words
from aider_guard.view.status import memory_line

KEYS = "r restart  d copy the /drop  o report  tab next  q quit"
_RESET, _DIM, _BOLD, _REVERSE = "\x1b[0m", "\x1b[2m", "\x1b[1m", "\x1b[7m"
_PARTS = {
    "system": ("instructions", "▓", "\x1b[34m"),
    "map": ("map", "▒", "\x1b[36m"),
    "file": ("files", "█", "\x1b[32m"),
    "history": ("history", "░", "\x1b[35m"),
}
"""The words, the sign and the colour of each kind of part."""
_FREE, _RESERVED = "·", "╌"
_WIDEST_BAR = 60
_MOST_NOTICES = 2


@dataclass(frozen=True)
class TopSession:
    """One session: what it answers to ``status``, what its journal says, and the age of the journal's start.

    ``seconds_ago`` is how long ago the journal began, 0 where that is not known.
    """

    facts: Mapping[str, Any]
    report: SessionReport
    seconds_ago: float = 0.0


@dataclass(frozen=True)
class TopView:
    """The size of the terminal, whether it has colours, which session is selected, and a line that answers a key.

    ``none`` is shown where there is no session.
    """

    columns: int
    rows: int
    colour: bool = False
    selected: int = 0
    message: str = ""
    none: str = "no session is running"


def screen(sessions: Sequence[TopSession], clock: str, view: TopView) -> list[str]:
    """Return the lines of the whole screen, as many as it has rows: a headline, the sessions, and the keys.

    The selected session is shown whole; of others that find no room there is one line each, or their number.
    """
    room = max(1, view.rows - 2)
    body = _body(sessions, view, room)[:room]
    below = view.message or KEYS
    left = f"aider-guard top  {count(len(sessions), 'session')}"
    head = f"{left}{clock:>{max(1, view.columns - len(left) - 1)}}"
    lines = [_styled(head, _REVERSE, view), *body]
    lines += [""] * (view.rows - 1 - len(lines))
    return [*lines, _styled(below, _DIM, view)][: view.rows]


def _body(sessions: Sequence[TopSession], view: TopView, room: int) -> list[str]:
    if not sessions:
        return [_cut(view.none, view.columns)]
    blocks = [block(each, view, is_selected=n == view.selected) for n, each in enumerate(sessions)]
    if sum(map(len, blocks)) + len(blocks) - 1 <= room:
        return [line for one in blocks for line in (*one, "")][:-1]
    whole = blocks[min(view.selected, len(blocks) - 1)]
    others = [_short(each, view) for n, each in enumerate(sessions) if n != view.selected]
    spare = max(0, room - len(whole) - 1)
    if len(others) > spare:
        hidden = len(others) - max(0, spare - 1)
        more = _cut(f"and {count(hidden, 'other session')}", view.columns)
        others = [*others[: max(0, spare - 1)], more][:spare]
    return [*whole, "", *others] if others else whole


def block(session: TopSession, view: TopView, *, is_selected: bool = False) -> list[str]:
    """Return one session in some eight lines, each no wider than the terminal."""
    facts = session.facts
    name = _folder(facts)
    title = f"{name}  {facts['phase']}"
    sign = ">" if is_selected else " "
    lines = [_styled(f"{sign} {title}", _BOLD, view)]
    if facts["phase"] == STOPPED:
        return [*lines, _cut("  fg in its terminal continues it", view.columns)]
    lines.append(_bar(facts, view))
    texts = [
        _model(facts),
        _fill(facts),
        _legend(facts),
        _last_turn(session.report),
        _reading(facts),
        memory_line(facts["memory"]),
        _others_loaded(facts),
        _blocked(session.report),
        *_notices(session),
    ]
    return [*lines, *(_cut(f"  {printable(text)}", view.columns) for text in texts if text)]


def _short(session: TopSession, view: TopView) -> str:
    facts = session.facts
    fill = "-" if facts["fill_percent"] is None else f"{facts['fill_percent']:.0f} %"
    return _cut(f"  {_folder(facts)}  {facts['phase']}  {fill}", view.columns)


def _folder(facts: Mapping[str, Any]) -> str:
    folder = str(facts.get("folder") or facts["id"])
    return printable(folder.rstrip("/").rpartition("/")[2] or folder)


def _turns(facts: Mapping[str, Any]) -> str:
    left = facts.get("turns_until_restart")
    until = f", restart in {left}" if left is not None else ""
    restarts = facts["restarts"]
    done = f", {count(restarts, 'restart')}" if restarts else ""
    return f"{count(facts['turns'], 'turn')}{until}{done}"


def _fill(facts: Mapping[str, Any]) -> str:
    used, window, fill = facts["used_tokens"], facts["window_tokens"], facts["fill_percent"]
    if fill is None:
        return "the context is not measured yet"
    about = "" if facts.get("used_is_measured") else "about "
    reserve = facts.get("reserve_tokens")
    answer = f", {_RESERVED}{reserve:,} to answer" if reserve else ""
    return f"{fill:.0f} % full: {about}{used:,} of {window:,} tokens{answer}"


def _bar(facts: Mapping[str, Any], view: TopView) -> str:
    """Return the window as a bar: a stretch for each part, then what is free, its end kept for the answer."""
    width = max(1, min(view.columns - 4, _WIDEST_BAR))
    used, window = facts["used_tokens"], facts["window_tokens"]
    if not used or not window:
        return f"  {_FREE * width}"
    parts = [part for part in facts.get("parts") or () if part["kind"] in _PARTS]
    total = sum(part["tokens"] for part in parts)
    filled = min(width, round(width * used / window))
    drawn, done, before = "", 0, 0
    for kind in _PARTS:
        tokens = sum(part["tokens"] for part in parts if part["kind"] == kind)
        before += tokens
        end = round(filled * before / total) if total else 0
        drawn += _coloured(_PARTS[kind][1] * (end - done), _PARTS[kind][2], view)
        done = end
    if not total:
        drawn = "█" * filled
    free = width - filled
    kept = min(free, round(width * (facts.get("reserve_tokens") or 0) / window))
    return f"  {drawn}{_FREE * (free - kept)}{_RESERVED * kept}"


def _legend(facts: Mapping[str, Any]) -> str:
    sums = {part["kind"]: part["tokens"] for part in facts.get("parts") or ()}
    shown = (
        f"{sign}{words} {sums[kind]:,}"
        for kind, (words, sign, _) in _PARTS.items()
        if sums.get(kind)
    )
    return " ".join(shown)


def _last_turn(report: SessionReport) -> str:
    """Return what the last turn waited for, its speeds, and the share of its prompts that came from the cache."""
    if not report.turns:
        return ""
    turn = report.turns[-1]
    return ", ".join([f"turn {turn.waited_seconds:.1f} s", *_speeds(turn)])


def _speeds(turn: TurnCost) -> Iterator[str]:
    prompt, cached, answer = turn.prompt_tokens, turn.cached_tokens, turn.answer_tokens
    reading, answering = turn.prefill_seconds, turn.generation_seconds
    if isinstance(prompt, float) and isinstance(cached, float) and prompt:
        yield f"{100 * cached / prompt:.0f} % cached"
        if isinstance(reading, float) and reading:
            yield f"reads {_rate((prompt - cached) / reading)}"
    if not isinstance(answer, Unavailable) and isinstance(answering, float) and answering:
        yield f"answers {_rate(answer / answering)}"


def _rate(tokens_per_second: float) -> str:
    digits = 0 if tokens_per_second >= 9.5 else 1
    return f"{tokens_per_second:,.{digits}f} t/s"


def _reading(facts: Mapping[str, Any]) -> str:
    reading = facts.get("reading")
    if not reading:
        return ""
    read, whole = reading["read_tokens"], reading["prompt_tokens"] - reading["cached_tokens"]
    return f"reads the prompt: {read:,} of {whole:,} tokens, about {minutes(reading['seconds_left'])} left"


def _model(facts: Mapping[str, Any]) -> str:
    """Return the main model, with its size in memory where it is loaded, and the turns."""
    name = facts.get("model")
    sizes = [each["size_bytes"] for each in facts["models"] or () if _is_main(each, name)]
    loaded = f" ({size(sizes[0])})" if sizes else ""
    return f"{name or 'the model is not known yet'}{loaded} · {_turns(facts)}"


def _others_loaded(facts: Mapping[str, Any]) -> str:
    others = [
        f"{each['name']} ({size(each['size_bytes'])})"
        for each in facts["models"] or ()
        if not _is_main(each, facts.get("model"))
    ]
    return f"loaded beside it: {', '.join(others)}" if others else ""


def _is_main(model: Mapping[str, Any], name: object) -> bool:
    return bool(name) and same_model(str(model["name"]), str(name))


def _blocked(report: SessionReport) -> str:
    attempts = sum(place.count for place in report.blocked)
    if not attempts:
        return ""
    return f"blocked {count(attempts, 'attempt')} to {count(len(report.blocked), 'place')}"


def _notices(session: TopSession) -> Iterator[str]:
    """Yield the last notices, oldest first; of those in the same words the newest."""
    newest: dict[str, float] = {}
    for mark in reversed(session.report.marks):
        newest.setdefault(mark_words(mark.name), mark.at_seconds)
    for words, at_seconds in [*newest.items()][:_MOST_NOTICES][::-1]:
        ago = max(0.0, session.seconds_ago - at_seconds)
        yield (f"{minutes(ago)} ago: " if session.seconds_ago else "") + words


def _styled(text: str, style: str, view: TopView) -> str:
    text = _cut(printable(text), view.columns)
    return _coloured(text, style, view)


def _coloured(text: str, style: str, view: TopView) -> str:
    return f"{style}{text}{_RESET}" if view.colour and text else text


def _cut(text: str, columns: int) -> str:
    """Return as much of a text as fits; an ellipsis tells that there was more."""
    if sum(map(columns_of, text)) <= columns:
        return text
    kept, width = "", 1
    for character in text:
        width += columns_of(character)
        if width > columns:
            break
        kept += character
    return f"{kept.rstrip()}…"
