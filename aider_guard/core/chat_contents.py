"""What the chat holds, in tokens of the model; what to drop from it; and what a session unloads and hands over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aider_guard.core.actions import Handoff
from aider_guard.core.drop_advice import Advice, advise
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    LastRequest,
    ModelsReading,
    Unavailable,
    age_seconds,
)
from aider_guard.core.state import State


def scaled(rows: Sequence[ContextRow], factor: float) -> tuple[ContextRow, ...]:
    """Scale the rows to other tokens."""
    return tuple(replace(row, tokens=round(row.tokens * factor)) for row in rows)


def rows_of_request(
    parts: Sequence[ContextRow], prompt_tokens: int, answer_tokens: int
) -> tuple[ContextRow, ...]:
    """Return the parts of a prompt, scaled to the server's count, and its answer, which is history now.

    Empty where the parts are unknown.
    """
    total = sum(row.tokens for row in parts)
    if not total:
        return ()
    return (*scaled(parts, prompt_tokens / total), ContextRow("history", "", answer_tokens))


def newest_rows(state: State) -> tuple[ContextRow, ...]:
    """Return the parts of the chat by the newest request or table; empty when neither has them."""
    if isinstance(state.last_request, LastRequest) and state.last_request.rows:
        return state.last_request.rows
    if isinstance(state.context, Unavailable):
        return ()
    return scaled(state.context.rows, state.tokens_per_estimate)


def file_names(state: State) -> tuple[str, ...]:
    """Return the files in the chat by the newest request or table."""
    return tuple(dict.fromkeys(row.name for row in newest_rows(state) if row.kind == "file"))


def as_reading(
    rows: tuple[ContextRow, ...], used_tokens: int, window_tokens: int
) -> ContextReading:
    """Return the rows of a request as a table."""
    return ContextReading("", rows, used_tokens, window_tokens, 0.0)


def advise_room(
    state: State, rows: tuple[ContextRow, ...], used_tokens: int, window_tokens: int
) -> Advice | None:
    """Return what to drop so that the fill is well below the warning; None when nothing can be dropped."""
    return advise(
        as_reading(rows, used_tokens, window_tokens),
        window_tokens=window_tokens,
        used_tokens=used_tokens,
        last_seen=state.last_seen,
        turn=state.turns,
        aim_percent=state.limits.warn_at_percent - state.limits.hysteresis_percent,
        root=state.root,
    )


def session_models(state: State, now: float) -> tuple[str, ...]:
    """Return the models that this session loaded, which it unloads at its end.

    These are its own models and those it sent requests to, if Ollama lists them or was not read since, but not those
    that were loaded before its first request. None when Ollama was not read lately: an old reading unloads nothing.
    """
    if not isinstance(state.loaded, ModelsReading):
        return ()
    if age_seconds(state.loaded.taken_at, now) > state.limits.stale_after_seconds:
        return ()
    listed = tuple(model.name for model in state.loaded.models)
    ours = (*state.models, *state.requested)
    brought = tuple(name for name in listed if is_among(name, ours))
    loading = tuple(name for name in sorted(state.unlisted) if not is_among(name, listed))
    foreign = state.foreign_models or frozenset()
    return tuple(name for name in brought + loading if not is_among(name, foreign))


def is_among(name: str, others: Iterable[str]) -> bool:
    """Whether a model is one of *others*."""
    return any(same_model(name, other) for other in others)


def last_known_handoff(state: State) -> Handoff:
    """Return the handoff when Aider can no longer be asked: the files of the newest request or table.

    Where a later prompt names other files, it is those, and before the first request or table what this Aider itself
    took over. A prompt that names none says nothing: to bring a file back that was dropped harms less than to lose one.
    """
    rows = newest_rows(state)
    if state.files_changed and state.prompt_files:
        return _handoff_of_prompt(state)
    if not rows and isinstance(state.context, Unavailable):
        return replace(state.handoff, mode=state.last_mode, multiline=state.last_multiline)
    files = [row for row in rows if row.kind == "file"]
    return Handoff(
        editable=tuple(row.name for row in files if not row.read_only),
        read_only=tuple(row.name for row in files if row.read_only),
        mode=state.last_mode,
        multiline=state.last_multiline,
    )


def _handoff_of_prompt(state: State) -> Handoff:
    """Return the files that the newest prompt names, for when no request or table has them yet."""
    known = [row.name for row in newest_rows(state) if row.kind == "file"]
    known += [*state.handoff.editable, *state.handoff.read_only]
    editable, read_only = files_of_prompt(state.prompt_files, known)
    return Handoff(editable, read_only, state.last_mode, state.last_multiline)


def _squeezed(text: str) -> str:
    return "".join(text.split())


_LABELS = {"Editable:": False, "Readonly:": True}
_READ_ONLY = "(read only)"


def files_of_prompt(
    rows: Sequence[str], known: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the editable and the read-only files that the lines above a prompt name.

    Aider prints them in columns, after the labels ``Readonly:`` and ``Editable:`` where there are both, or one a line
    with ``(read only)`` behind it (io.py 0.86.2, ``format_files_for_input``). A name with a blank in it, or one that
    is wider than the terminal and continues in the next line, is recognised where it is one of *known*.
    """
    files: dict[str, bool] = {}
    longest = sorted(known, key=len, reverse=True)
    is_read_only = False
    name = ""
    for row in rows:
        rest = row.strip()
        while rest:
            if rest.startswith(_READ_ONLY) and name:
                files[name] = True
                rest = rest.removeprefix(_READ_ONLY).lstrip()
                continue
            whole = (each for each in longest if f"{rest} ".startswith(f"{each} "))
            name = next(whole, rest.split(maxsplit=1)[0])
            if name in _LABELS:
                is_read_only = _LABELS[name]
            else:
                files[name] = is_read_only
            rest = rest[len(name) :].lstrip()
    all_text, widest = _squeezed("".join(rows)), max(map(len, rows), default=0)
    for name in longest:
        if len(name) > widest and _squeezed(name) in all_text:
            parts = [each for each in files if each not in known and each in name]
            files = {each: locked for each, locked in files.items() if each not in parts}
            files[name] = is_read_only
    return (
        tuple(each for each, locked in files.items() if not locked),
        tuple(each for each, locked in files.items() if locked),
    )
