"""Shows the running sessions until a key ends it, for ``aider-guard top``; asks them anew every second."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from aider_guard.core.printable import printable
from aider_guard.core.session_report import SessionReport
from aider_guard.errors import GuardError
from aider_guard.loop import READ, Loop
from aider_guard.session import registry
from aider_guard.session.control import ask, stopped_facts
from aider_guard.session.notices import has_colour
from aider_guard.session.registry import SessionFolder
from aider_guard.signals import Wakeups, signals_as_wakeups
from aider_guard.view import status
from aider_guard.view.report import open_page, read_report, write_page
from aider_guard.view.top_page import TopSession, TopView, block, screen

_REFRESH_SECONDS = 1.0
_ASK_SECONDS = 0.5
_ASK_ONCE_SECONDS = 2.0
_ENTER = b"\x1b[?1049h\x1b[?25l"
_LEAVE = b"\x1b[?25h\x1b[?1049l"


@dataclass
class Watcher:
    """Gathers what is shown. A journal is read again only where it grew; a session that is slow to answer stays."""

    sessions: Path
    place: str | None = None
    ask_seconds: float = _ASK_SECONDS
    """How long an answer is waited for, while keys wait as well."""
    _reports: dict[Path, tuple[int, SessionReport]] = field(default_factory=dict)
    _last: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def look(self) -> list[tuple[SessionFolder, TopSession]]:
        """Return the sessions that run and answer, oldest first."""
        found = []
        for folder in registry.at(registry.running(self.sessions), self.place):
            facts = _facts(folder, self.ask_seconds) or self._last.get(folder.path)
            if facts is not None and status.is_answer(facts):
                self._last[folder.path] = facts
                report = self._report(folder.path)
                found.append((folder, TopSession(facts, report, _age_seconds(report.started_at))))
        return found

    def none(self) -> str:
        """Say why there is nothing to show."""
        return registry.none_at([*registry.running(self.sessions)], self.place)

    def _report(self, folder: Path) -> SessionReport:
        try:
            size = (folder / "journal.jsonl").stat().st_size
            known = self._reports.get(folder)
            if known is None or known[0] != size:
                known = (size, read_report(folder, names=False).report)
                self._reports[folder] = known
        except (OSError, GuardError):
            return SessionReport()
        return known[1]


def _facts(folder: SessionFolder, ask_seconds: float) -> Mapping[str, Any] | None:
    if registry.is_stopped(folder):
        return stopped_facts(folder)
    try:
        return ask(folder.socket, "status", timeout_seconds=ask_seconds)
    except (OSError, ValueError, RecursionError):
        return None  # it ended just now, or the machine is busy


def _age_seconds(started_at: str) -> float:
    try:
        started = datetime.fromisoformat(started_at.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return max(0.0, time.time() - started.timestamp())


def run_top(
    sessions: Path,
    place: str | None,
    *,
    once: bool,
    as_json: bool,
    once_seconds: float = _ASK_ONCE_SECONDS,
) -> int:
    """Show the sessions until ``q``; the exit status. At no terminal, or with *once*, print them and end.

    A session is waited for so many seconds where it is asked only once.
    """
    watcher = Watcher(sessions, place, once_seconds)
    if as_json:
        click.echo(
            json.dumps({"sessions": [_as_json(each) for _, each in watcher.look()]}, indent=2)
        )
        return 0
    is_screen = os.isatty(0) and os.isatty(1) and has_screen(os.environ)
    if once or not is_screen:
        view = TopView(_size().columns, 0, colour=has_colour(os.environ) and os.isatty(1))
        blocks = ["\n".join(block(each, view)) for _, each in watcher.look()]
        click.echo("\n\n".join(blocks) or watcher.none())
        return 0
    watched = (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with signals_as_wakeups(watched) as wakeups, _full_screen(), Loop() as loop:
        return Top(Watcher(sessions, place), loop, wakeups).run()


def has_screen(environment: Mapping[str, str]) -> bool:
    """Whether the terminal can be drawn on: its type says what it knows."""
    return environment.get("TERM", "dumb").lower() not in ("dumb", "unknown", "")


def _as_json(session: TopSession) -> dict[str, Any]:
    report = session.report
    turn = report.turns[-1] if report.turns else None
    names = ("load_seconds", "prefill_seconds", "generation_seconds")
    tokens = ("prompt_tokens", "cached_tokens", "answer_tokens")
    costs = {name: getattr(turn, name, None) for name in (*names, *tokens)}
    return {
        **session.facts,
        "turn_costs": {
            name: value if isinstance(value, float) else None for name, value in costs.items()
        },
        "blocked_attempts": sum(place.count for place in report.blocked),
        "notices": [mark.name for mark in report.marks],
    }


def _size() -> os.terminal_size:
    with contextlib.suppress(OSError):
        size = os.get_terminal_size(1)
        if size.columns and size.lines:
            return size
    return os.terminal_size((80, 24))


@contextlib.contextmanager
def _full_screen() -> Iterator[None]:
    """Draw on the terminal's other screen, with keys one by one; it is as it was afterwards."""
    before = termios.tcgetattr(0)
    tty.setcbreak(0, termios.TCSANOW)
    modes = termios.tcgetattr(0)
    modes[6][termios.VSUSP] = b"\0"  # a stopped top would leave its screen behind
    termios.tcsetattr(0, termios.TCSANOW, modes)
    try:
        os.write(1, _ENTER)
        yield
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(1, _LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)


class Top:
    """Draws anew every second, after each key and when the size changes."""

    def __init__(self, watcher: Watcher, loop: Loop, wakeups: Wakeups) -> None:
        self._watcher = watcher
        self._loop = loop
        self._wakeups = wakeups
        self._found: list[tuple[SessionFolder, TopSession]] = []
        self._view = TopView(80, 24, colour=has_colour(os.environ))
        self._is_over = False
        self._keys: dict[bytes, Callable[[], str]] = {
            b"r": self._restart,
            b"d": self._copy_drop,
            b"o": self._open_report,
            b"\t": self._next,
            b"j": self._next,
            b"q": self._quit,
            b"": self._quit,  # the terminal was closed
        }

    def run(self) -> int:
        """Serve keys until the end; the exit status."""
        self._loop.watch(0, READ, lambda _events: self._on_keys())
        self._loop.watch(self._wakeups.fileno(), READ, lambda _events: self._on_signals())
        self._refresh()
        self._loop.run(lambda: self._is_over)
        return 0

    def _refresh(self) -> None:
        self._found = self._watcher.look()
        if not self._found:
            self._view = replace(self._view, none=self._watcher.none())
        self._draw()
        self._loop.after("refresh", _REFRESH_SECONDS, self._refresh)

    def _draw(self) -> None:
        size = _size()
        selected = min(self._view.selected, max(0, len(self._found) - 1))
        self._view = replace(self._view, columns=size.columns, rows=size.lines, selected=selected)
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        lines = screen([each for _, each in self._found], clock, self._view)
        drawn = "\r\n".join(f"{line}\x1b[K" for line in lines)
        with contextlib.suppress(OSError):
            os.write(1, f"\x1b[H{drawn}".encode("utf-8", "replace"))

    def _on_signals(self) -> None:
        for number in self._wakeups.read():
            if number != signal.SIGWINCH:
                self._is_over = True
        self._draw()

    def _on_keys(self) -> None:
        try:
            typed = os.read(0, 64)
        except OSError:
            typed = b""
        for key in [typed[at : at + 1] for at in range(len(typed))] or [b""]:
            if key in self._keys:
                self._view = replace(self._view, message=self._keys[key]())
        if not self._is_over:
            self._draw()

    def _selected(self) -> tuple[SessionFolder, TopSession] | None:
        return self._found[self._view.selected] if self._found else None

    def _quit(self) -> str:
        self._is_over = True
        return ""

    def _next(self) -> str:
        following = (self._view.selected + 1) % max(1, len(self._found))
        self._view = replace(self._view, selected=following)
        return ""

    def _restart(self) -> str:
        chosen = self._selected()
        if chosen is None:
            return self._view.none
        try:
            answer = ask(chosen[0].socket, "restart")
        except (OSError, ValueError, RecursionError):
            return "the session does not answer"
        return str(answer.get("error") or "Aider restarts at its next idle prompt")

    def _copy_drop(self) -> str:
        """Copy the command by OSC 52, which most terminals and tmux know; it is shown as well."""
        chosen = self._selected()
        command = chosen and chosen[1].facts.get("drop_command")
        if not command:
            return "nothing has to be dropped now"
        text = printable(str(command))
        encoded = base64.b64encode(text.encode()).decode("ascii")
        os.write(1, f"\x1b]52;c;{encoded}\x07".encode("ascii"))
        return f"copied: {text}"

    def _open_report(self) -> str:
        """Write the report, and open it where there is a desktop: a browser in this terminal would draw over it."""
        chosen = self._selected()
        if chosen is None:
            return self._view.none
        try:
            path = write_page(chosen[0].path)
        except GuardError as error:
            return str(error)
        if sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            open_page(path)
        return f"wrote {path}"
