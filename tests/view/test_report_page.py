"""What ``aider-guard report`` prints at three sizes, and its page: offline, well formed, without the user's names."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from golden import assert_is_screen
from view import journals

from aider_guard.core.actions import Handoff
from aider_guard.core.session_report import SessionReport
from aider_guard.errors import ConfigError
from aider_guard.session import registry
from aider_guard.session.kept_sessions import KeptSession, kept_file
from aider_guard.view import report
from aider_guard.view.charts import Axis, Series, line_chart, minutes, stacked_bars
from aider_guard.view.report_page import page

ID = "20260301-101500-4242"
_VOID = {"meta"}


class Checker(HTMLParser):
    """Notes the tags that are open, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in _VOID else [tag]
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<line/>`` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """With one session, of a folder that is named."""
    folder = tmp_path / "sessions" / ID
    journals.write(folder)
    session = registry.SessionFolder(folder, os.getpid(), 0.0, str(tmp_path), "")
    registry.record(session, "")
    return folder.parent


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_text(sessions: Path, columns: int) -> None:
    """What it waited for, what happened, what was blocked, and what to change."""
    found = report.read_report(sessions / ID, names=False)
    assert_is_screen(f"report-{columns}", report.text(found, columns))


def test_the_page_is_one_file_that_needs_no_network(sessions: Path) -> None:
    """No script, no address, each tag closed; the charts have a bar a turn and a mark for each notice."""
    html = page(report.read_report(sessions / ID, names=False))
    checker = Checker()
    checker.feed(html)
    assert (checker.open, checker.addresses) == ([], [])
    assert "<script" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert html.count("<svg") == 4
    assert html.count("turn 12: loading") == 1
    assert html.count('class="mark') == 3
    assert "--map-refresh files saves about 3 s a turn" in html


@pytest.mark.parametrize("form", [page, lambda found: report.text(found, 80)])
def test_names_are_shown_only_on_request(sessions: Path, form: Any) -> None:
    """Of the folder, of files, of sockets and of programs."""
    kept = KeptSession(ID, "/", handoff=Handoff(("secret.py",)))
    path = kept_file(sessions, ID, ".json")
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(kept)))
    shown = form(report.read_report(sessions / ID, names=False))
    assert "secret" not in shown
    assert "a Unix socket" in shown
    assert str(sessions.parent) not in shown
    named = form(report.read_report(sessions / ID, names=True))
    assert {"secret.py", "secret-program", "secret.sock"} <= set(re.findall(r"[\w.-]+", named))


def test_a_session_without_a_turn_has_a_page() -> None:
    """It says what is not known."""
    found = report.NamedReport("a-1", SessionReport())
    assert "Nothing follows" in page(found)
    assert "not measured" in report.text(found, 60)


def run(sessions: Path, place: str | None = None, **options: Any) -> int:
    given = {
        "output": None,
        "opens": False,
        "as_text": False,
        "as_json": False,
        "names": False,
        "columns": 80,
    }
    return report.run_report(sessions, place, **{**given, **options})


def test_the_page_is_kept_with_the_session(
    sessions: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """For the user alone, and its path is printed; or where it is wanted."""
    assert run(sessions, ID) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == kept_file(sessions, ID, ".html")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run(sessions, str(tmp_path), output=str(tmp_path / "a.html")) == 0
    assert (tmp_path / "a.html").exists()
    with pytest.raises(ConfigError, match=r"/nowhere/a.html cannot be written: No such file"):
        run(sessions, ID, output="/nowhere/a.html")


def test_json_has_all_facts_of_the_report(
    sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not known has a reason, as in the journal."""
    assert run(sessions, ID, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["id"], facts["model"], len(facts["turns"])) == (ID, "qwen3:8b", 12)
    assert facts["turns"][0]["load_seconds"] == 12.0
    assert "folder" not in facts
    assert run(sessions, ID, as_json=True, names=True) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(sessions.parent)


def test_a_browser_opens_it(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the path is named."""
    opened: list[str] = []

    def browse(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", browse)
    assert run(sessions, ID, opens=True) == 0
    assert opened == [kept_file(sessions, ID, ".html").as_uri()]
    with pytest.raises(ConfigError, match="no browser was found; open "):
        run(sessions, ID, opens=True)


def test_a_session_that_is_not_there_is_said(
    sessions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those that are; a place that leads elsewhere is none, nor is a misspelt name the repository it is in."""
    with pytest.raises(ConfigError, match=f"the newest of all are: {ID}"):
        run(sessions, f"../sessions/{ID}")
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=f"no session of b-2 is known; the newest of all are: {ID}"
    ):
        run(sessions, "b-2")
    with pytest.raises(ConfigError, match="there is no session to report on"):
        run(tmp_path / "none")


def test_charts_take_any_numbers() -> None:
    """None at all, only zeros, values beyond the axis, and words with markup."""
    axis = Axis(0.0, lambda value: f"<{value:.0f}>")
    for chart in (
        line_chart("a <b>", [], [], most_seconds=0.0, axis=axis),
        line_chart(
            "x", [(0.0, 5.0), (9.0, -1.0)], [(99.0, "m", "<i>")], most_seconds=1.0, axis=axis
        ),
        stacked_bars("x", [], axis=axis),
        stacked_bars("x", [Series("<s>", "a", [0.0, 3.0])], axis=axis),
    ):
        checker = Checker()
        checker.feed(chart)
        assert checker.open == []
        assert not re.search(r"nan|inf|<b>|<i>|<s>", chart)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0 s"), (59.4, "59 s"), (750.0, "12 min"), (3900.0, "1 h 05 min")]
)
def test_durations_are_words(seconds: float, words: str) -> None:
    """Seconds, minutes, or hours with minutes."""
    assert minutes(seconds) == words
