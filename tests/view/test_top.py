"""What ``aider-guard top`` draws at three sizes, and its keys, typed in a real terminal."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from e2e.people import PATIENCE_SECONDS, Onlooker
from golden import assert_is_screen
from session.guards import CHECKOUT
from test_docs import blocks
from view import journals

from aider_guard.core.screen import columns_of
from aider_guard.core.session_report import Mark, SessionReport, sum_up
from aider_guard.session import registry
from aider_guard.session.kept_sessions import kept_file
from aider_guard.view import top
from aider_guard.view.top import Watcher, has_screen, run_top
from aider_guard.view.top_page import TopSession, TopView, block, screen

GIB = 1 << 30
FACTS: dict[str, Any] = {
    "id": "20260301-101500-4242",
    "pid": 4242,
    "folder": "/home/me/till",
    "model": "qwen3:8b",
    "phase": "busy",
    "turns": 12,
    "turns_until_restart": 8,
    "used_tokens": 6750,
    "used_is_measured": True,
    "window_tokens": 8192,
    "fill_percent": 82.4,
    "parts": [
        {"kind": "file", "tokens": 4200},
        {"kind": "history", "tokens": 1500},
        {"kind": "system", "tokens": 700},
        {"kind": "map", "tokens": 350},
    ],
    "drop_command": "/drop till/catalogue.py",
    "reserve_tokens": 1024,
    "memory": {
        "gpus": [{"index": 0, "vram_used_bytes": 12 * GIB, "vram_total_bytes": 16 * GIB}],
        "ram_used_bytes": 9 * GIB,
        "ram_total_bytes": 32 * GIB,
    },
    "models": [{"name": "qwen3:8b", "size_bytes": 8 * GIB}],
    "restarts": 1,
    "reading": {
        "prompt_tokens": 6600,
        "cached_tokens": 4400,
        "read_tokens": 1100,
        "seconds_left": 14.0,
    },
    "last_notice": "reload_seen",
}
STARTING = {
    **FACTS,
    "id": "b-2",
    "folder": "/home/me/日本語のフォルダ",
    "model": None,
    "phase": "starting",
    "turns": 0,
    "turns_until_restart": None,
    "used_tokens": None,
    "fill_percent": None,
    "parts": [],
    "drop_command": None,
    "memory": None,
    "models": None,
    "restarts": 0,
    "reading": None,
}
STOPPED = {**STARTING, "id": "c-3", "folder": "/home/me/other", "phase": "stopped", "turns": None}
SESSIONS = [
    TopSession(FACTS, sum_up(journals.lines()), 900.0),
    TopSession(STARTING, SessionReport()),
    TopSession(STOPPED, SessionReport()),
]


def width(line: str) -> int:
    return sum(map(columns_of, line))


@pytest.mark.parametrize(("columns", "rows"), [(60, 15), (80, 24), (120, 40)])
def test_the_screen(columns: int, rows: int) -> None:
    """As many lines as the terminal has, none wider; sessions that find no room are counted."""
    lines = screen(SESSIONS, "18:30:12", TopView(columns, rows))
    assert len(lines) == rows
    assert max(map(width, lines)) <= columns
    assert_is_screen(f"top-{columns}x{rows}", "".join(f"{line.rstrip()}\n" for line in lines))


def test_a_slow_model_is_not_shown_as_one_that_says_nothing() -> None:
    """15 tokens in 45 seconds."""
    slow = {"answer_tokens": 15, "generation_seconds": 45.0}
    lines = [line | slow if line["event"] == "turn_finished" else line for line in journals.lines()]
    shown = block(TopSession(FACTS, sum_up(lines)), TopView(120, 40))
    assert any("answers 0.3 t/s" in line for line in shown)


def test_the_selected_session_is_shown_whole() -> None:
    """The others have a line each where there is room."""
    lines = screen(SESSIONS, "", TopView(60, 8, selected=1, message="copied"))
    assert lines[1] == "> 日本語のフォルダ  starting"
    assert lines[-1] == "copied"


def test_notices_in_the_same_words_are_one_line() -> None:
    """The newest of them: two findings at the start would take the place of what came before."""
    named = ((1.0, "restarted"), (9.0, "finding"), (10.0, "finding"))
    report = SessionReport(marks=tuple(Mark(seconds, name) for seconds, name in named))
    drawn = block(TopSession(STARTING, report, 20.0), TopView(80, 24))
    assert [line for line in drawn if " ago: " in line] == [
        "  19 s ago: Aider was restarted",
        "  10 s ago: a check found something: aider-guard doctor",
    ]


@pytest.mark.parametrize("size", [(20, 4), (1, 1), (200, 200)])
def test_any_size_is_drawn(size: tuple[int, int]) -> None:
    """Too small for anything is no error."""
    for sessions in (SESSIONS, []):
        lines = screen(sessions, "18:30:12", TopView(*size))
        assert all(width(line) <= max(size[0], 3) for line in lines)


def test_colours_are_the_themes_own_and_only_where_wanted() -> None:
    """Numbers 31 to 36 and inverse: no white on white, no black on black."""
    plain = "\n".join(screen(SESSIONS, "", TopView(80, 24)))
    coloured = "\n".join(screen(SESSIONS, "", TopView(80, 24, colour=True)))
    assert "\x1b" not in plain
    codes = {code.partition("m")[0] for code in coloured.split("\x1b[")[1:]}
    assert codes == {"0", "1", "2", "7", "32", "34", "35", "36"}


def test_a_hostile_name_draws_nothing() -> None:
    """Names of folders and models may hold escape sequences."""
    evil = {**FACTS, "folder": "/a/\x1b[2Jx", "model": "\x1b]0;m\x07"}
    assert "\x1b" not in "\n".join(screen([TopSession(evil, SessionReport())], "", TopView(80, 24)))


@pytest.mark.parametrize(("term", "has"), [("xterm", True), ("dumb", False), ("", False)])
def test_a_terminal_that_cannot_be_drawn_on_is_known(term: str, *, has: bool) -> None:
    """Such a one gets the sessions once, as a pipe does."""
    assert has_screen({"TERM": term}) == has
    assert not has_screen({})


def test_the_picture_in_the_documentation_is_the_screen() -> None:
    """As it is while the model answers nothing."""
    session = TopSession({**FACTS, "reading": None}, SESSIONS[0].report, 900.0)
    drawn = screen([session], "18:30:12", TopView(60, 13))
    assert "".join(f"{line.rstrip()}\n" for line in drawn) in blocks("docs/usage.md")


# In a terminal


@contextmanager
def answering(sessions: Path, asked: list[str]) -> Iterator[Path]:
    """A session with a journal, which answers on its socket; its folder."""
    folder = sessions / "20260301-101500-4242"
    journals.write(folder)
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        registry.record(registry.SessionFolder(folder, os.getpid(), 0.0, "/home/me/till", ""), path)

        def serve() -> None:
            while True:
                client, _ = listener.accept()
                with client:
                    question = client.recv(100).decode().strip()
                    if question == "end":
                        return
                    asked.append(question)
                    answer = FACTS if question == "status" else {"ok": True}
                    client.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield folder
        finally:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"end\n")
            thread.join()


def test_its_keys(tmp_path: Path) -> None:
    """r asks for a restart, d copies the command, o writes the report, q ends and leaves the terminal as it was."""
    asked: list[str] = []
    state = tmp_path / "state"
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "PYTHONPATH": str(CHECKOUT),
        "AIDER_GUARD_STATE_DIR": str(state),
    }
    command = [sys.executable, "-m", "aider_guard", "top"]
    with (
        answering(state / "sessions", asked) as folder,
        Onlooker(command, rows=15, columns=60, env=env, cwd=tmp_path) as person,
    ):
        before = person.attributes()
        person.wait_for(r"^> till  busy")
        person.wait_for("82 % full")
        answer = ""
        while "at its next idle prompt" not in answer:  # a busy machine may answer too late
            person.type(b"r")
            answer = person.wait_for("at its next idle prompt|does not answer")
        assert "restart" in asked
        person.type(b"d")
        person.wait_for("copied: /drop till/catalogue.py")
        copied = base64.b64encode(b"/drop till/catalogue.py")
        assert b"\x1b]52;c;" + copied + b"\x07" in person.shown
        person.type(b"o")
        person.wait_for("wrote ")
        assert kept_file(folder.parent, folder.name, ".html").exists()
        person.resize_to(24, 80)
        person.wait_for(lambda: "q quit" in person.lines()[-1] or "wrote" in person.lines()[-1])
        person.type(b"q")
        assert person.end() == 0
        assert person.attributes() == before
        assert person.shown.endswith(b"\x1b[?25h\x1b[?1049l")


def test_a_session_that_is_slow_to_answer_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said last is shown; one that never answered is left out."""
    watcher = Watcher(tmp_path, ask_seconds=PATIENCE_SECONDS)
    with answering(tmp_path, []):
        (before,) = watcher.look()
        monkeypatch.setattr(top, "ask", lambda *_, **__: (_ for _ in ()).throw(TimeoutError))
        (after,) = watcher.look()
        assert after[1].facts == before[1].facts
        assert Watcher(tmp_path).look() == []


def test_another_place_has_none_and_those_that_run_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed as well as on the screen."""
    with answering(tmp_path, []):
        (folder,) = (each.id for each in registry.running(tmp_path))
        said = f"no session x is running; these are: {folder}"
        assert run_top(tmp_path, "x", once=True, as_json=False) == 0
        assert Watcher(tmp_path, "x").none() == said
    assert capsys.readouterr().out == f"{said}\n"
    assert screen([], "", TopView(80, 24, none=said))[1] == said


def test_once_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a script reads: the facts of status, and what the journal has of the last turn."""
    with answering(tmp_path, []):
        assert run_top(tmp_path, None, once=True, as_json=False, once_seconds=PATIENCE_SECONDS) == 0
        text = capsys.readouterr().out
        assert text.startswith("  till  busy\n")
        assert "\x1b" not in text
        assert run_top(tmp_path, None, once=False, as_json=True, once_seconds=PATIENCE_SECONDS) == 0
    (session,) = json.loads(capsys.readouterr().out)["sessions"]
    assert {key: session[key] for key in FACTS} == FACTS
    assert session["turn_costs"]["cached_tokens"] == 4400.0
    assert session["blocked_attempts"] == 15
    assert session["notices"] == ["context_filling", "restart", "reload"]
    assert (
        run_top(tmp_path / "none", None, once=True, as_json=False, once_seconds=PATIENCE_SECONDS)
        == 0
    )
    assert capsys.readouterr().out == "no session is running\n"
