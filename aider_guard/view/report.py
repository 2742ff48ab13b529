"""Tells what a session was like, for ``aider-guard report``: as a page in a file, or as text in the terminal."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from aider_guard.core.egress import layer_in_words
from aider_guard.core.messages import count, size
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.core.session_report import (
    BlockedPlace,
    Number,
    SessionReport,
    TurnCost,
    known,
    sum_up,
)
from aider_guard.errors import ConfigError
from aider_guard.session import registry
from aider_guard.session.kept_sessions import kept_file, read_kept
from aider_guard.session.resuming import is_of
from aider_guard.view.charts import minutes
from aider_guard.view.status import notice_words

_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class NamedReport:
    """A report with the name of its session, and the names of folder and files where they are to be shown."""

    id: str
    report: SessionReport
    folder: str = ""
    files: tuple[str, ...] = ()


def run_report(
    sessions: Path,
    place: str | None,
    *,
    output: str | None,
    opens: bool,
    as_text: bool,
    as_json: bool,
    names: bool,
    columns: int,
) -> int:
    """Write the page, or print the text or all facts; the exit status. Raises ConfigError."""
    folder = find_session(sessions, place)
    if as_json:
        found = read_report(folder, names=names)
        told = {"folder": found.folder, "files": found.files} if names else {}
        click.echo(json.dumps({"id": found.id, **asdict(found.report), **told}, indent=2))
        return 0
    if as_text:
        click.echo(text(read_report(folder, names=names), columns), nl=False)
        return 0
    path = write_page(folder, names=names, output=output)
    click.echo(printable(str(path)))
    if opens and not open_page(path):
        raise ConfigError(f"no browser was found; open {path} in one")
    return 0


def write_page(folder: Path, *, names: bool = False, output: str | None = None) -> Path:
    """Write the page on a session to *output*, or to the folder of kept sessions, and return where it is.

    Not beside the journal: a program in the air gap could put a link to another file of the user's there. Raises
    ConfigError.
    """
    from aider_guard.view.report_page import page

    found = read_report(folder, names=names)
    path = Path(output).absolute() if output else kept_file(folder.parent, folder.name, ".html")
    try:
        if not output:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(page(found))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path


def open_page(path: Path) -> bool:
    """Have the browser show a page; whether there is one."""
    import webbrowser

    return webbrowser.open(path.as_uri())


def find_session(sessions: Path, place: str | None) -> Path:
    """Return the folder of the session that is named, or of the newest one of a folder. Raises ConfigError."""
    with_journal = sorted(path.parent for path in sessions.glob(f"*/{_JOURNAL}"))
    named = [path for path in with_journal if path.name == place]
    here = [
        path
        for path in with_journal
        if (found := registry.read(path)) and is_of(found.working_directory, place)
    ]
    if named or here:
        return (named or here)[-1]
    if not with_journal:
        raise ConfigError("there is no session to report on; aider-guard -- starts one")
    ids = ", ".join(path.name for path in with_journal[-5:])
    where = place or "this folder"
    raise ConfigError(f"no session of {where} is known; the newest of all are: {ids}")


def read_report(folder: Path, *, names: bool) -> NamedReport:
    """Read the journal of a session. With *names*, folder, files, programs and paths are named. Raises ConfigError."""
    try:
        # A program in the air gap may have put a pipe there, which would have no end.
        descriptor = os.open(folder / _JOURNAL, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            report = sum_up(_lines(file))
    except OSError as error:
        raise ConfigError(f"{folder / _JOURNAL} cannot be read: {error.strerror}") from error
    if not names:
        blocked = tuple(map(_without_names, report.blocked))
        return NamedReport(folder.name, replace(report, blocked=blocked))
    kept, session = read_kept(folder.parent, folder.name), registry.read(folder)
    files = (*kept.handoff.editable, *kept.handoff.read_only) if kept is not None else ()
    return NamedReport(folder.name, report, session.working_directory if session else "", files)


def _lines(file: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the lines that are JSON objects: a kill may have cut the last one short."""
    for line in file:
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            yield facts


def _without_names(place: BlockedPlace) -> BlockedPlace:
    host = "a Unix socket" if place.protocol == "unix" else place.host
    return replace(place, host=host, program="")


# Words for both forms


def heading(found: NamedReport) -> str:
    """Return when the session was and how long it took."""
    report = found.report
    try:
        started = datetime.fromisoformat(report.started_at.replace("Z", "+00:00")).astimezone()
        when = f"{started:%Y-%m-%d %H:%M}"
    except ValueError:
        when = "at a time that is not known"
    turns = count(len(report.turns), "turn")
    restarts = f", {count(report.restarts, 'restart')}" if report.restarts else ""
    return f"{when}, {minutes(report.seconds)}, {turns}{restarts}"


def facts(found: NamedReport) -> list[tuple[str, str]]:
    """Return the facts of the whole session, each with its name."""
    report = found.report
    waited = {
        "loading": sum(known(turn.load_seconds) for turn in report.turns),
        "reading": sum(known(turn.prefill_seconds) for turn in report.turns),
        "answering": sum(known(turn.generation_seconds) for turn in report.turns),
    }
    kinds = ", ".join(f"{name} {minutes(seconds)}" for name, seconds in waited.items())
    window = report.window_tokens
    rows = [
        ("session", found.id),
        ("model", report.model or "not known"),
        ("window", f"{window:,.0f} tokens" if isinstance(window, float) else "not known"),
        ("waited", f"{minutes(sum(waited.values()))}: {kinds}"),
        (
            "fill",
            f"at most {max(fill for _, fill in report.fills):.0f} %"
            if report.fills
            else "not measured",
        ),
        ("memory", memory_words(report)),
        ("network", layer_words(report.layer)),
    ]
    rows += [("folder", found.folder)] if found.folder else []
    rows += [("files", ", ".join(found.files))] if found.files else []
    return [(name, printable(value)) for name, value in rows]


def layer_words(layer: str) -> str:
    """Return what held the session's network, in words."""
    if layer in ("netns", "seccomp", "asked", "open"):
        return layer_in_words(layer)  # type: ignore[arg-type]
    return "not known"


def memory_words(report: SessionReport) -> str:
    """Return the most memory that was in use."""
    if not report.memory:
        return "not read"
    most = max(report.memory, key=lambda point: point.used_bytes)
    kind = "GPU" if most.is_gpu else "RAM"
    return f"{kind}, at most {size(most.used_bytes)} of {size(most.total_bytes)}"


def blocked_words(place: BlockedPlace) -> str:
    """Return a place that was tried, with how often."""
    port = f":{place.port}" if place.port and place.protocol != "unix" else ""
    lookup = " (its name was looked up)" if place.protocol == "dns" else ""
    by = f", by {place.program}" if place.program else ""
    times = "once" if place.count == 1 else f"{place.count} times"
    return printable(f"{place.host}{port}{lookup}: {times}{by}")


def mark_words(name: str) -> str:
    """Return in words what a mark on the line of time is."""
    notices = {"restart": "restarted", "reload": "reload_seen"}
    return "Aider died" if name == "death" else notice_words(notices.get(name, name))


# The text


def text(found: NamedReport, columns: int) -> str:
    """Return the report as lines of a terminal of this width."""
    report = found.report
    width = max(columns, 30)
    lines = [heading(found), ""]
    for name, value in facts(found):
        lines += _wrapped(f"{name:<9} {value}", width, " " * 10)
    if report.turns:
        lines += ["", *map(_table_row, _table(report.turns))]
    if report.marks:
        lines += ["", "what happened"]
        for mark in report.marks:
            lines += _wrapped(
                f"  {minutes(mark.at_seconds):>10}  {mark_words(mark.name)}", width, " " * 14
            )
    if report.blocked:
        lines += ["", "tried to leave"]
        for place in report.blocked:
            lines += _wrapped(f"  {blocked_words(place)}", width, " " * 4)
    lines += ["", "what to change"]
    for advice in report.advice or ("nothing follows from this session's numbers",):
        lines += _wrapped(f"  {printable(advice)}", width, " " * 4)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _wrapped(line: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


_COLUMNS = ("turn", "load s", "read s", "answer s", "prompt", "cached", "fill")
_WIDTHS = (4, 7, 7, 9, 8, 8, 6)


def _table(turns: tuple[TurnCost, ...]) -> Iterator[tuple[str, ...]]:
    yield _COLUMNS
    for turn in turns:
        yield (
            str(turn.number),
            seconds_words(turn.load_seconds),
            seconds_words(turn.prefill_seconds),
            seconds_words(turn.generation_seconds),
            tokens_words(turn.prompt_tokens),
            tokens_words(turn.cached_tokens),
            "-" if isinstance(turn.fill_percent, Unavailable) else f"{turn.fill_percent:.0f} %",
        )


def _table_row(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


def seconds_words(seconds: Number) -> str:
    """Return seconds with one decimal; a dash where they are not known."""
    return "-" if isinstance(seconds, Unavailable) else f"{seconds:.1f}"


def tokens_words(tokens: Number) -> str:
    """Return a number of tokens; a dash where it is not known."""
    return "-" if isinstance(tokens, Unavailable) else f"{tokens:,.0f}"
