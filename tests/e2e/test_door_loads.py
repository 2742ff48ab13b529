"""One load: whatever a session asks for, each model has the pinned window; and other ways to use the door."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from e2e.chatting import ChattingOllama
from e2e.desk import ANOTHER, COUNTABLE, QUIET, Desk

from aider_guard.demo.ollama_server import PrivateOllama

WINDOW_TOKENS = 4096
SAME_FILE = replace(COUNTABLE, name="twin:latest")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ChattingOllama]:
    """A server with a log, two files of weights, and two names for one of them."""
    models = (COUNTABLE, SAME_FILE, ANOTHER)
    log = tmp_path / "server.log"
    with ChattingOllama(version="0.9.3", models=models, log_path=log) as one:
        yield one


def windows(server: ChattingOllama) -> list[int]:
    """The window of each runner that was started."""
    assert server.log_path is not None
    return [int(window) for window in re.findall(r"--ctx-size (\d+)", server.log_path.read_text())]


def commits(repo: Path) -> int:
    """How many there are."""
    command = ["git", "rev-list", "--count", "HEAD"]
    return int(subprocess.run(command, cwd=repo, check=True, capture_output=True).stdout)


def test_each_model_is_loaded_once(desk: Desk, server: ChattingOllama) -> None:
    """Messages, /model to another tag and to another file, and a commit message: one load each, of one window."""
    (desk.repo / "README.md").write_text("changed\n")
    before = commits(desk.repo)
    with desk.session(server.url, window_tokens=WINDOW_TOKENS) as person:
        person.wait_for_prompt()
        for line in ("Hello.", "/model ollama_chat/twin", "And you?", "/commit"):
            person.ask(line)
        assert commits(desk.repo) == before + 1
        assert windows(server) == [WINDOW_TOKENS]
        for line in ("/model ollama_chat/other", "Hello.", "Hello again."):
            person.ask(line)
        assert windows(server) == [WINDOW_TOKENS, WINDOW_TOKENS]
        assert {body["options"]["num_ctx"] for body in server.chats} == {WINDOW_TOKENS}
        assert {body["keep_alive"] for body in server.chats} == {"30m"}
        person.type(b"/exit\r")
        assert person.end() == 0
    assert server.loaded == []


def test_the_model_is_there_before_the_first_message(desk: Desk, server: ChattingOllama) -> None:
    """It is loaded before the user types, with the very options of the first message."""
    with desk.session(server.url, window_tokens=WINDOW_TOKENS) as person:
        person.wait_for_prompt()
        person.wait_for(lambda: windows(server) == [WINDOW_TOKENS])
        assert not server.chats
        person.ask("Hello.")
        assert windows(server) == [WINDOW_TOKENS]
        assert person.wait_for_event("request_finished")["load_seconds"] < 0.5
        person.type(b"/exit\r")
        assert person.end() == 0


def test_an_unloaded_model_is_there_again_before_the_next_message(
    desk: Desk, server: ChattingOllama
) -> None:
    """``ollama stop`` in another pane, while the prompt is shown: the next message waits for no load."""
    with desk.session(server.url, window_tokens=WINDOW_TOKENS) as person:
        person.wait_for_prompt()
        person.ask("Hello.")
        person.wait_for(lambda: "small:latest" in str(person.journal("models_read")[-1]))
        body = {"model": "small", "keep_alive": 0}
        httpx.post(
            f"{server.url}/api/generate", json=body, trust_env=False, verify=False
        ).raise_for_status()
        person.wait_for(lambda: windows(server) == [WINDOW_TOKENS, WINDOW_TOKENS])
        person.ask("Hello again.")
        assert person.wait_for_event("request_finished", 2)["load_seconds"] < 0.5
        assert windows(server) == [WINDOW_TOKENS, WINDOW_TOKENS]
        person.type(b"/exit\r")
        assert person.end() == 0
    assert server.loaded == []


def test_nothing_is_loaded_over_a_model_of_somebody_else_s(
    desk: Desk, server: ChattingOllama
) -> None:
    """Before the user asks for something, another's model stays; and it stays at the end as well."""
    server.loaded.append("other:latest")
    with desk.session(server.url, window_tokens=WINDOW_TOKENS) as person:
        person.wait_for_prompt()
        person.ask("/ls")
        assert windows(server) == []
        person.ask("Hello.")
        assert windows(server) == [WINDOW_TOKENS]
        person.type(b"/exit\r")
        assert person.end() == 0
    assert server.loaded == ["other:latest"]


def one_shot(
    desk: Desk,
    server: ChattingOllama,
    *words: str,
    message: tuple[str, ...] = ("--message", "Say hello."),
) -> str:
    """The output of Aider with ``--message``; its status is 0."""
    guard = [sys.executable, "-m", "aider_guard", "--aider", str(desk.aider)]
    pinned = ["--num-ctx", str(WINDOW_TOKENS)]
    ended = subprocess.run(
        [
            *guard,
            *pinned,
            "--",
            "--model",
            "ollama_chat/small",
            *QUIET,
            *message,
            "--yes-always",
            *words,
        ],
        cwd=desk.repo,
        env={**desk.env, "OLLAMA_API_BASE": server.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_one_shot(desk: Desk, server: ChattingOllama) -> None:
    """``--message`` goes through the door too: pinned, and kept loaded as long as Ollama itself would. The model is
    loaded while Aider starts.
    """
    assert "It is well" in one_shot(desk, server)
    asked = [one for one in server.received if one.path in ("/api/generate", "/api/chat")]
    assert [one.path for one in asked] == ["/api/generate", "/api/chat"]
    assert [one.body["options"]["num_ctx"] for one in asked] == [WINDOW_TOKENS] * 2
    assert not any("keep_alive" in one.body for one in asked)


def test_one_shot_without_a_message(desk: Desk, server: ChattingOllama) -> None:
    """Nothing is loaded for a run that may never ask the model."""
    one_shot(desk, server, "--exit", message=())
    assert not [one for one in server.received if one.path in ("/api/generate", "/api/chat")]


def test_one_shot_that_does_not_fit(desk: Desk, server: ChattingOllama) -> None:
    """It is not sent, and a line says so."""
    said = one_shot(desk, server, desk.file("large.py", 150))
    assert "aider-guard: not sent: " in said
    assert not server.chats


def test_a_model_that_another_session_turned_to_stays_for_it(
    desk: Desk, server: ChattingOllama
) -> None:
    """Who had it loaded first leaves, and the other finds it loaded."""
    with (
        desk.session(server.url, model="ollama_chat/other", window_tokens=WINDOW_TOKENS) as first,
        desk.session(server.url, window_tokens=WINDOW_TOKENS) as second,
    ):
        for person in (first, second):
            person.wait_for_prompt()
        first.ask("Hello.")
        for line in ("/model ollama_chat/other", "Hello."):
            second.ask(line)
        first.type(b"/exit\r")
        assert first.end() == 0
        assert "other:latest" in server.loaded
        second.ask("Hello again.")
        assert second.wait_for_event("request_finished", 2)["load_seconds"] < 0.5
        second.type(b"/exit\r")
        assert second.end() == 0


def test_two_sessions_at_once(desk: Desk, ollama: PrivateOllama, terse: str) -> None:
    """Each has a door of its own; one ends, and the other goes on without a word about it."""
    model = f"ollama_chat/{terse}"
    with (
        desk.session(ollama.url, model=model, window_tokens=1024) as first,
        desk.session(ollama.url, model=model, window_tokens=1024) as second,
    ):
        for person in (first, second):
            person.wait_for_prompt()
        doors = {person.journal("door_opened")[0]["port"] for person in (first, second)}
        assert len(doors) == 2
        for person in (first, second):
            person.ask("What is a basket?")
        first.type(b"/exit\r")
        assert first.end() == 0
        second.ask("And a box?")
        assert second.wait_for_event("request_finished", 2)["load_seconds"] < 0.5
        assert "loaded again" not in second.text()
        second.type(b"/exit\r")
        assert second.end() == 0
