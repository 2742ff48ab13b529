"""Shows what sessions had open, for ``aider-guard sessions``: a few lines for each, the newest first."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from aider_guard.core.messages import count
from aider_guard.core.printable import printable
from aider_guard.session.kept_sessions import (
    KeptSession,
    kept_sessions,
    local_time,
    prune_kept,
    read_chat,
    still_runs,
)
from aider_guard.session.resuming import kept_in

_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class ListedSession:
    """A kept session, how it is now (``runs``, ``ended``, ``killed``), and the user's last line where it is shown."""

    kept: KeptSession
    state: str
    last: str = ""


def run_sessions(
    sessions: Path,
    place: str | None,
    *,
    keep: int,
    every: bool,
    last: bool,
    as_json: bool,
    columns: int,
) -> int:
    """Print the sessions of a folder's work tree, or *every* one; the exit status. *keep* of them stay on disk."""
    prune_kept(sessions, keep=keep)
    found = kept_sessions(sessions) if every else kept_in(sessions, place)
    listed = [_listed(sessions, kept, with_last=last) for kept in found]
    if as_json:
        click.echo(json.dumps({"sessions": [_facts(each, with_last=last) for each in listed]}))
    else:
        is_of_all = every or not kept_sessions(sessions)
        click.echo(page(listed, columns, with_folder=is_of_all), nl=False)
    return 0


def _listed(sessions: Path, kept: KeptSession, *, with_last: bool) -> ListedSession:
    state = "ended" if kept.ended else "killed"
    if still_runs(sessions, kept):
        state = "runs"
    chat = read_chat(sessions, kept).exchanges if with_last else ()
    return ListedSession(kept, state, chat[-1].user if chat else "")


def page(listed: Sequence[ListedSession], columns: int, *, with_folder: bool) -> str:
    """Return the sessions as lines of a terminal of this width."""
    if not listed:
        where = "" if with_folder else " of this folder; --all shows those of others"
        return f"no session was kept{where}\n"
    blocks = (_lines(each, with_folder=with_folder) for each in listed)
    return "\n".join(
        "".join(f"{line}\n" for text in block for line in _wrapped(text, columns))
        for block in blocks
    )


def _wrapped(text: str, columns: int) -> list[str]:
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(
        printable(text),
        max(columns, 30),
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _lines(each: ListedSession, *, with_folder: bool) -> list[str]:
    kept, handoff = each.kept, each.kept.handoff
    turns = count(kept.turns, "turn")
    lines = [f"{kept.id}  {local_time(kept.saved_at)}, {turns}, {_STATES[each.state]}"]
    if with_folder:
        lines.append(f"  folder: {kept.folder}")
    fill = "context not measured"
    if kept.fill_percent is not None:
        fill = f"context about {kept.fill_percent:.0f} % full"
    mode = f"{handoff.mode or 'code'} mode"
    lines.append(f"  {kept.model or 'a model that is not known'}, {mode}, {fill}")
    files = ", ".join(handoff.editable) or "none"
    if not handoff.known:
        files = "those of the command line"
    lines.append(f"  files: {files}")
    if handoff.read_only:
        lines.append(f"  read-only: {', '.join(handoff.read_only)}")
    if each.last:
        lines.append(f"  last: {_first_line(each.last)}")
    return lines


_STATES = {
    "runs": "runs",
    "ended": "ended",
    "killed": "was killed",
}


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"


def _facts(each: ListedSession, *, with_last: bool) -> dict[str, Any]:
    kept = each.kept
    saved_at = datetime.fromtimestamp(kept.saved_at, timezone.utc)
    facts = {
        "id": kept.id,
        "folder": kept.folder,
        "state": each.state,
        "saved_at": saved_at.isoformat(timespec="seconds"),
        "model": kept.model or None,
        "mode": kept.handoff.mode or "code",
        "turns": kept.turns,
        "files": [*kept.handoff.editable] if kept.handoff.known else None,
        "read_only_files": [*kept.handoff.read_only] if kept.handoff.known else None,
        "window_tokens": kept.window_tokens,
        "fill_percent": kept.fill_percent,
    }
    return {**facts, "last": each.last or None} if with_last else facts
