"""What a session leaves behind for ``sessions`` and ``resume``, on the real command line (``guards.py``)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from session.guards import CHECKOUT, Place, prompts

from aider_guard.session.kept_sessions import read_kept


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With an Aider that says what it will use."""
    return Place.make(tmp_path / "place")


def run(place: Place, *options: str) -> None:
    command = place.guarded("--model", "ollama_chat/qwen3:8b", options=options)
    with place.person(prompts(1), command) as person:
        assert person.finish() == 0


def said(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command prints at no terminal."""
    return subprocess.run(
        [*place.guarded()[:-3], *words],
        env={**place.env([]), "PYTHONPATH": str(CHECKOUT)},
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_session_that_ended_is_kept_and_listed(place: Place) -> None:
    """Its record is for the user alone; resume takes it, and needs a terminal."""
    none = said(place, "resume")
    assert (none.returncode, none.stderr) == (
        64,
        "aider-guard: no session was kept; aider-guard -- starts one\n",
    )
    run(place)
    (folder,) = place.sessions
    kept = read_kept(folder.parent, folder.name)
    assert kept is not None
    assert (kept.ended, kept.arguments) == (True, ("--model", "ollama_chat/qwen3:8b"))
    listed = said(place, "sessions")
    assert listed.stdout.startswith(f"{folder.name}  ")
    assert " ended\n" in listed.stdout
    without = said(place, "resume")
    assert (without.returncode, without.stderr) == (69, "aider-guard: resume needs a terminal\n")


def test_nothing_is_kept_where_none_shall_be(place: Place) -> None:
    """Neither the record nor the journal: the folder is gone, and those of earlier sessions are."""
    run(place)
    run(place, "--keep-sessions", "0")
    assert place.sessions == []
    assert [*(place.state / "kept").iterdir()] == []
    assert said(place, "sessions").stdout.startswith("no session was kept")
