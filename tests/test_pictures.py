"""The pictures of the README: small, readable anywhere, and in the words that the program still says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from test_docs import ROOT, first_notice, gone_through, last_line

from aider_guard.core import messages
from aider_guard.core.actions import Notice
from aider_guard.core.drop_advice import Advice
from aider_guard.core.events import EgressBlocked, ModelsChosen
from aider_guard.core.readings import ContextReading, ContextRow, RowKind
from aider_guard.core.session_report import SessionReport
from aider_guard.session import notices
from aider_guard.view.top_page import TopSession, TopView, screen
from release.badges import BADGES, badges, read_pyproject
from release.pictures import COLUMNS, SESSION, TOP
from release.terminal_picture import picture, words

MOST_BYTES = 60_000
KINDS: dict[str, RowKind] = {
    "files": "file",
    "instructions": "system",
    "map": "map",
    "history": "history",
}


def number(text: str) -> int:
    """A number as the program writes it."""
    return int(text.replace(",", ""))


def drawn(data: str) -> str:
    """The picture of a small terminal after this text."""
    return picture(data.encode(), columns=20, rows=4, title="A title & more")


def test_a_picture_holds_the_words_of_the_screen() -> None:
    """Signs of XML and blanks between stretches of colour too; empty rows at the end are left out."""
    svg = drawn("a <b> & \x1b[31mred\x1b[0m  c\r\n\r\nlast")
    assert words(svg) == ["a <b> & red  c", "", "last"]
    assert ET.fromstring(svg).findtext("{*}title") == "A title & more"


def test_rows_that_were_scrolled_away_are_drawn() -> None:
    """In their order, above those of the terminal."""
    assert words(drawn("\r\n".join("abcdef"))) == [*"abcdef"]


def test_colours_are_drawn_on_a_frame_of_their_own() -> None:
    """So that it is readable on a light page as on a dark one; a reversed stretch is drawn as a block."""
    svg = drawn("\x1b[31mred \x1b[38;5;40mgreen \x1b[7mblock")
    assert svg.count("<rect") == 2
    assert 'fill="#ff7b72"' in svg
    assert 'fill="#00d700"' in svg


@pytest.mark.parametrize("path", [SESSION, TOP, BADGES], ids=lambda path: str(path.stem))
def test_a_kept_picture_is_small_and_loads_nothing(path: Path) -> None:
    """And the README shows it."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(text).iter()}
    assert tags - {"g"} == {"svg", "title", "rect", "text"}
    assert re.findall(r"https?://[^\"<]*", re.sub(r">[^<]*<", "><", text)) == [
        "http://www.w3.org/2000/svg"
    ]
    assert f"]({path.relative_to(ROOT).as_posix()})" in (ROOT / "README.md").read_text("utf-8")


def test_the_badges_are_true() -> None:
    """They are what pyproject.toml says; another project has others."""
    pyproject = read_pyproject()
    assert BADGES.read_text(encoding="utf-8") == badges(pyproject)
    assert "3.10 to 3.13" in badges(pyproject)
    project = {**pyproject["project"], "license": "A & B"}
    other = {"project": project, "tool": {"mypy": {"strict": False}}}
    assert "A &amp; B" in badges(other)
    assert "mypy" not in badges(other)


def printed(notice: Notice) -> list[str]:
    """The lines of a notice in a terminal as wide as the picture."""
    return notices.render(notice, COLUMNS, colour=False, newline="\n").splitlines()


def test_the_session_is_told_in_the_programs_words() -> None:
    """The numbers are the picture's, the sentences round them those of the program today."""
    shown = words(SESSION.read_text(encoding="utf-8"))
    text = "\n".join(shown)
    found = re.search(r"full: ([\d,]+) of ([\d,]+) tokens \(([^)]*)\)", text)
    freed = re.search(
        r"^  (/drop (\S+))   \(frees about ([\d,]+) tokens, then (\d+) %\)", text, re.M
    )
    assert found
    assert freed
    used, window = number(found[1]), number(found[2])
    parts = re.findall(r"(?:repository )?(\w+)\s+([\d,]+)(?:, |$)", " ".join(found[3].split()))
    rows = tuple(ContextRow(KINDS[name], "", number(tokens)) for name, tokens in parts)
    reading = ContextReading("m", rows, used, window, 0.0)
    advice = Advice(freed[1], (freed[2],), number(freed[3]), float(freed[4]))
    blocked = EgressBlocked("api.openai.com", 443, "tcp", "curl")
    for notice in (
        messages.context_filling(reading, used, window, advice),
        messages.greeting(gone_through(ModelsChosen("tiny", ("tiny",), window))),
        first_notice(blocked),
        last_line(blocked),
    ):
        lines = printed(notice)
        assert any(shown[at : at + len(lines)] == lines for at in range(len(shown))), lines


def test_top_is_drawn_as_the_program_draws_it() -> None:
    """From the numbers of the picture come its own lines again."""
    shown = words(TOP.read_text(encoding="utf-8"))
    text = "\n".join(shown)
    fill = re.search(
        r"(\d+) % full: (about )?([\d,]+) of ([\d,]+) tokens, .([\d,]+) to answer", text
    )
    turns = re.search(r"^  (\S+) \(\S+ MiB\) · (\d+) turns?, restart in (\d+)$", text, re.M)
    assert fill
    assert turns
    legend = re.findall(r"[▓▒█░](\w+) ([\d,]+)", text)
    facts: dict[str, Any] = {
        "id": "",
        "folder": "/till",
        "phase": "prompt",
        "model": turns[1],
        "models": None,
        "turns": int(turns[2]),
        "turns_until_restart": int(turns[3]),
        "restarts": 0,
        "used_tokens": number(fill[3]),
        "used_is_measured": not fill[2],
        "window_tokens": number(fill[4]),
        "fill_percent": float(fill[1]),
        "parts": [{"kind": KINDS[name], "tokens": number(tokens)} for name, tokens in legend],
        "reserve_tokens": number(fill[5]),
        "memory": None,
    }
    clock = shown[0].split()[-1]
    today = screen([TopSession(facts, SessionReport())], clock, TopView(COLUMNS, len(shown)))
    size = re.sub(r" \([^)]*\)", "", turns[0])
    lines = [line.rstrip() for line in today]
    assert (lines[:3], lines[3]) == (shown[:3], size)
    assert lines[4:6] == shown[4:6]
    assert lines[-1] == shown[-1]
