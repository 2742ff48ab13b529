"""What ``aider-guard sessions`` prints, at three sizes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from golden import assert_is_screen
from test_docs import blocks

from aider_guard.core.actions import Handoff
from aider_guard.core.chatlog import Exchange, render_for_restore
from aider_guard.session import registry
from aider_guard.session.kept_sessions import KeptSession, kept_file
from aider_guard.view.sessions import ListedSession, page, run_sessions

SAVED_AT = 1_772_360_141.0
"""1 March 2026, 10:15:41 UTC."""
FULL = KeptSession(
    "20260301-101500-4242",
    "/home/me/till",
    SAVED_AT,
    "/home/me/till",
    model="qwen3:8b",
    handoff=Handoff(
        ("till/catalogue.py", "till/prices.py", "tests/test_prices.py"),
        ("docs/coding conventions.md",),
        mode="ask",
    ),
    turns=12,
    window_tokens=8192,
    fill_percent=41.3,
    ended=True,
)
BARE = KeptSession("20260228-090000-77", "/home/me/other", SAVED_AT - 90_000, turns=1)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_page(columns: int) -> None:
    """The newest first, each wrapped at words; a name of a file is never broken."""
    message = "Why does the price of a bundle differ from the sum of its parts, and where is that decided?"
    listed = [ListedSession(FULL, "runs", message), ListedSession(BARE, "killed")]
    assert_is_screen(f"sessions-{columns}", page(listed, columns, with_folder=True))


def test_the_example_in_the_documentation_is_the_page() -> None:
    """With the last message, in a wide terminal."""
    handoff = replace(FULL.handoff, editable=FULL.handoff.editable[:2])
    listed = ListedSession(
        replace(FULL, handoff=handoff), "ended", "Why does the price of a bundle differ?"
    )
    printed = page([listed], 120, with_folder=False)
    assert f"$ aider-guard sessions --last\n{printed}" in blocks("docs/usage.md")


def test_nothing_was_kept() -> None:
    """And how to see those of other folders."""
    assert page([], 80, with_folder=False) == (
        "no session was kept of this folder; --all shows those of others\n"
    )
    assert page([], 80, with_folder=True) == "no session was kept\n"


def test_where_there_are_no_others_none_are_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the first day."""
    run_sessions(tmp_path, None, keep=20, every=False, last=False, as_json=False, columns=80)
    assert capsys.readouterr().out == "no session was kept\n"


def test_json_has_all_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last message only where it was asked for."""
    sessions = tmp_path / "sessions"
    folder = sessions / FULL.id
    folder.mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    kept_file(sessions, FULL.id, ".json").write_text(json.dumps(asdict(FULL)))
    kept_file(sessions, FULL.id, ".md").write_text(
        render_for_restore([Exchange("Why?\nHow?", "So.")])
    )
    registry.record(registry.SessionFolder(folder, os.getpid(), 0.0, FULL.folder, ""), "")
    for last in (False, True):
        run_sessions(sessions, None, keep=20, every=True, last=last, as_json=True, columns=80)
    without, with_last = (
        json.loads(line)["sessions"][0] for line in capsys.readouterr().out.splitlines()
    )
    assert without == {
        "id": FULL.id,
        "folder": "/home/me/till",
        "state": "runs",
        "saved_at": "2026-03-01T10:15:41+00:00",
        "model": "qwen3:8b",
        "mode": "ask",
        "turns": 12,
        "files": ["till/catalogue.py", "till/prices.py", "tests/test_prices.py"],
        "read_only_files": ["docs/coding conventions.md"],
        "window_tokens": 8192,
        "fill_percent": 41.3,
    }
    assert with_last == {**without, "last": "Why?\nHow?"}
