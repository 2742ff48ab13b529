"""What a session keeps for ``resume``: when it is written, what is in it, who may read it, and how it is read back."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aider_guard.core.actions import Handoff
from aider_guard.core.chatlog import Announced, Exchange, render_for_restore
from aider_guard.core.events import KeyTyped, PromptShown, TurnFinished
from aider_guard.core.readings import LastRequest
from aider_guard.core.state import State
from aider_guard.session import registry
from aider_guard.session.kept_sessions import (
    KeptSession,
    SessionKeeper,
    kept_file,
    kept_sessions,
    prune_kept,
    read_chat,
    read_kept,
    without_secrets,
)

CHAT = """
# aider chat started at 2026-11-30 10:00:00

> Aider v0.86.2  
> Model: ollama_chat/small with ask edit format  
> Git repo: none  

#### How is it?  

It is well.

"""  # noqa: W291  # as Aider writes it
ANNOUNCED = Announced("ollama_chat/small", "ask", "ollama_chat/small")
AT_PROMPT = State(
    prompt=PromptShown("ask"),
    last_mode="ask",
    root="/repo",
    main_model="small",
    turns=3,
    pinned_tokens=1000,
    last_request=LastRequest(410, rows=()),
    handoff=Handoff(("a.py",), ("b c.md",)),
    files_changed=True,
    prompt_files=("Readonly: b c.md", "Editable: a.py"),
)


class Launched:
    """What a keeper asks of a session's launches."""

    current = None

    def chat_text(self) -> str:
        return CHAT


def keeper(tmp_path: Path, *arguments: str, keep: float = 0.1) -> SessionKeeper:
    path = tmp_path / "sessions" / "20261130-100000-1"
    path.mkdir(parents=True, exist_ok=True)
    folder = registry.SessionFolder(path, 1, 0.0, str(tmp_path), "")
    launches: Any = Launched()
    return SessionKeeper(folder, launches, arguments, keep=keep, clock=lambda: 7.0)


def only(tmp_path: Path) -> KeptSession:
    (kept,) = kept_sessions(tmp_path / "sessions")
    return kept


def test_it_is_there_from_the_first_prompt_on(tmp_path: Path) -> None:
    """So that a kill leaves it; what is not shown as changed is not written again."""
    (tmp_path / "a.py").touch()
    ours = keeper(tmp_path, "--model", "m", "--file=a.py", "gone.py", "--api-key", "openai=secret")
    ours.on_event(TurnFinished(1), State())
    assert kept_sessions(tmp_path / "sessions") == []
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    kept = only(tmp_path)
    assert kept == KeptSession(
        "20261130-100000-1",
        str(tmp_path),
        7.0,
        "/repo",
        ("--model", "m", "--file=a.py", "gone.py"),
        ("--api-key",),
        ("a.py",),
        "small",
        handoff=Handoff(("a.py",), ("b c.md",), mode="ask"),
        turns=3,
        window_tokens=1000,
        fill_percent=41.0,
    )
    path = kept_file(tmp_path / "sessions", kept.id, ".json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"secret" not in path.read_bytes()
    path.unlink()
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    ours.on_event(KeyTyped(), replace(AT_PROMPT, turns=4))
    assert not path.exists()
    ours.on_event(PromptShown("ask"), replace(AT_PROMPT, turns=4))
    assert only(tmp_path).turns == 4


def test_the_end_keeps_models_and_exchanges(tmp_path: Path) -> None:
    """Aider's private history is removed then; the user alone may read what is kept of it."""
    ours = keeper(tmp_path)
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    ours.finish(AT_PROMPT)
    kept = only(tmp_path)
    assert (kept.ended, kept.announced, kept.has_git) == (True, ANNOUNCED, False)
    chat = read_chat(tmp_path / "sessions", kept)
    assert chat.exchanges == (Exchange("How is it?", "It is well."),)
    assert (chat.announced, chat.has_git) == (ANNOUNCED, False)
    modes = {path.stat().st_mode for path in (tmp_path / "kept").iterdir()}
    assert {stat.S_IMODE(mode) for mode in modes} == {0o600}


def test_without_a_share_for_exchanges_none_are_kept(tmp_path: Path) -> None:
    """With ``keep = 0`` no restart carries them on, and no session that is resumed."""
    ours = keeper(tmp_path, keep=0)
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    ours.finish(AT_PROMPT)
    assert not kept_file(tmp_path / "sessions", only(tmp_path).id, ".md").exists()


def test_a_session_that_showed_no_prompt_is_not_kept(tmp_path: Path) -> None:
    """There is nothing to open again."""
    ours = keeper(tmp_path)
    ours.finish(State())
    assert kept_sessions(tmp_path / "sessions") == []


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    """Nor does a folder that was removed."""
    ours = keeper(tmp_path)
    shutil.rmtree(tmp_path / "sessions")
    (tmp_path / "kept").touch()
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    ours.finish(AT_PROMPT)


def test_the_chat_of_a_killed_session_is_read_from_its_newest_launch(tmp_path: Path) -> None:
    """The newest that came to its first prompt: one that was killed before has announced nothing."""
    ours = keeper(tmp_path)
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    kept = only(tmp_path)
    seed = render_for_restore([Exchange("Before?", "Before.")])
    for number, text in ((1, "#### older  \n"), (2, seed + CHAT), (10, seed)):
        launch = tmp_path / "sessions" / kept.id / f"launch-{number}"
        launch.mkdir()
        (launch / "seeds.json").write_text("{}")
        (launch / "chat.md").write_text(text)
    chat = read_chat(tmp_path / "sessions", kept)
    assert [exchange.user for exchange in chat.exchanges] == ["Before?", "How is it?"]
    assert (chat.announced, chat.has_git) == (ANNOUNCED, False)


BROKEN = ["", "{", "7", "{}", "[" * 100_000, '{"arguments": "abc"}']


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    """A program of the user's may have written anything there."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a-1.json").write_text(text)
    assert read_kept(tmp_path / "sessions", "a-1") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("root", 7), ("saved_at", "x"), ("unknown", 1), ("arguments", "x"), ("announced", [1])],
)
def test_a_record_with_other_facts_is_left_out(tmp_path: Path, key: str, value: object) -> None:
    """Each fact must be of its kind."""
    ours = keeper(tmp_path)
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    name = only(tmp_path).id
    path = kept_file(tmp_path / "sessions", name, ".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert read_kept(tmp_path / "sessions", name) is None


def test_another_users_record_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would name arguments for a program that the user then runs."""
    ours = keeper(tmp_path)
    ours.on_event(PromptShown("ask"), AT_PROMPT)
    assert kept_sessions(tmp_path / "sessions")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert kept_sessions(tmp_path / "sessions") == []


ARGUMENTS: list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = [
    (("--model", "m", "a.py"), ("--model", "m", "a.py"), ()),
    (("--api-key", "x=y", "a.py"), ("a.py",), ("--api-key",)),
    (("--openai-api-key=k", "--set-env", "A=b"), (), ("--openai-api-key", "--set-env")),
    (("--map-tokens", "0"), ("--map-tokens", "0"), ()),
    (("--max-chat-history-tokens=9",), ("--max-chat-history-tokens=9",), ()),
]


@pytest.mark.parametrize(("given", "kept", "left_out"), ARGUMENTS)
def test_secrets_among_the_arguments_are_not_kept(
    given: tuple[str, ...], kept: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    """The names of their options are, so that it can be said."""
    assert without_secrets(given) == (kept, left_out)


def test_only_so_many_are_kept_and_for_so_long(tmp_path: Path) -> None:
    """The newest, for 30 days, with all that is kept of each; one that runs stays."""
    sessions = tmp_path / "sessions"
    (tmp_path / "kept").mkdir()
    days = {f"e-{os.getpid()}": 31, "d-4": 29, "c-3": 2, "b-2": 1, f"a-{os.getpid()}": 40}
    for name, age in days.items():
        facts = asdict(KeptSession(name, "/", time.time() - age * 86_400))
        kept_file(sessions, name, ".json").write_text(json.dumps(facts))
        for ending in (".md", ".html"):
            kept_file(sessions, name, ending).touch()
    running = sessions / f"a-{os.getpid()}"
    running.mkdir(parents=True)
    registry.record(registry.SessionFolder(running, os.getpid(), 0.0, "/", ""), "")

    def left() -> set[str]:
        return {kept.id.partition("-")[0] for kept in kept_sessions(sessions)}

    prune_kept(sessions, keep=20)
    assert left() == {"a", "b", "c", "d"}
    prune_kept(sessions, keep=1)
    assert left() == {"a", "b"}
    prune_kept(sessions, keep=0)
    assert left() == {"a"}
    assert len([*(tmp_path / "kept").iterdir()]) == 3


def test_a_pipe_in_the_place_of_a_chat_is_not_read(tmp_path: Path) -> None:
    """A program in the air gap may write in the session's folder."""
    launch = tmp_path / "sessions" / "a-1" / "launch-1"
    launch.mkdir(parents=True)
    (launch / "seeds.json").write_text("{}")
    os.mkfifo(launch / "chat.md")
    assert read_chat(tmp_path / "sessions", KeptSession("a-1", "/")).exchanges == ()
