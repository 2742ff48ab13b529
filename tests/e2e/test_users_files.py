"""What a user wrote stays: every key of the model settings reaches Ollama, and no file of the repository changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from e2e.bare import UNASKED, Bare
from e2e.chatting import ChattingOllama
from e2e.people import Guarded

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

WINDOW_TOKENS = 2048
MODEL = "ollama_chat/small"
SETTINGS = f"""\
- name: {MODEL}
  use_temperature: 0.25
  system_prompt_prefix: "Speak slowly."
  extra_params:
    top_p: 0.5
    keep_alive: 17m
- name: aider/extra_params
  extra_params:
    seed: 7
    num_ctx: 1234
"""
FILES = {
    ".aider.conf.yml": f"model: {MODEL}\nmap-tokens: 512\n# a comment\n",
    ".aider.model.settings.yml": SETTINGS,
    ".aider.model.metadata.json": '{"ollama_chat/small": {"max_input_tokens": 4000}}\n',
    ".aider.chat.history.md": "\n# aider chat started at 2026-01-01 00:00:00\n\n#### before\n",
    ".aider.input.history": "\n# 2026-01-01 00:00:00\n+before\n",
    ".aiderignore": "docs/\n",
    ".env": "SOMETHING=else\n",
    ".gitignore": "*.pyc\n",
}
MAY_GROW = {".aider.chat.history.md", ".aider.input.history"}
"""What the user would find there without the guard too."""
ARGUMENTS = ["--no-show-model-warnings", "--no-gitignore"]
TALK = ("Hello.", "/ask Is it well?")


@pytest.fixture
def server() -> Iterator[ChattingOllama]:
    """An Ollama that remembers what it was asked."""
    with ChattingOllama() as one:
        yield one


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository that was used with Aider before, with settings of all kinds."""
    folder = make_sample(tmp_path / "till")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def env(server: ChattingOllama, tmp_path: Path) -> dict[str, str]:
    """A home folder with settings of its own, and the server."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".aider.conf.yml").write_text("dark-mode: true\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
        "OLLAMA_API_BASE": server.url,
    }


def guarded(rig: Rig, env: Mapping[str, str], repo: Path) -> None:
    """A short session with the guard."""
    options = ["--num-ctx", str(WINDOW_TOKENS)]
    with Guarded(str(rig.aider_command), ARGUMENTS, options=options, env=env, cwd=repo) as person:
        person.wait_for_prompt()
        for line in TALK:
            person.ask(line)
        person.type(b"/exit\r")
        assert person.end() == 0


def bare(rig: Rig, env: Mapping[str, str], repo: Path) -> None:
    """The same without."""
    with Bare([str(rig.aider_command), *ARGUMENTS, *UNASKED], env=env, cwd=repo) as person:
        for line in (*TALK, "/exit"):
            person.say(line)
        assert person.end() == 0


def without_window(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request, but for the window, and for what forbids this Ollama to cut it."""
    options = {name: value for name, value in body["options"].items() if name != "num_ctx"}
    return {**{name: body[name] for name in body if name != "truncate"}, "options": options}


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, by its name, and what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_only_the_window_differs_in_what_reaches_ollama(
    rig: Rig, server: ChattingOllama, repo: Path, env: dict[str, str]
) -> None:
    """The requests are those of bare Aider with the user's settings, word for word, but for num_ctx and truncate."""
    bare(rig, env, repo)
    without = list(server.chats)
    guarded(rig, env, repo)
    with_guard = server.chats[len(without) :]

    assert len(without) == len(TALK)
    for body in with_guard:
        options = body["options"]
        assert (options["temperature"], options["top_p"], options["seed"]) == (0.25, 0.5, 7)
        assert body["keep_alive"] == "17m"
        assert body["messages"][0]["content"].startswith("Speak slowly.")
        assert options["num_ctx"] == WINDOW_TOKENS
        assert body["truncate"] is False
    assert list(map(without_window, with_guard)) == list(map(without_window, without))


def test_the_repository_is_as_it_was(rig: Rig, repo: Path, env: dict[str, str]) -> None:
    """Every file has the same bytes, but the two histories that grew, and Aider's cache of tags, as ever."""
    home = Path(env["HOME"])
    before, home_before = contents(repo), contents(home)
    old = {name: (repo / name).read_bytes() for name in MAY_GROW}
    guarded(rig, env, repo)
    after, home_after = contents(repo), contents(home)

    came = {name for name in after if name not in before}
    assert all(name.startswith(".aider.tags.cache") for name in came), came
    assert {name for name in before if before[name] != after.get(name)} == MAY_GROW
    for name in MAY_GROW:
        text = (repo / name).read_bytes()
        assert text.startswith(old[name])
        assert all(line.encode() in text for line in TALK)
    assert {name: home_after.get(name) for name in home_before} == home_before
    assert all(name.startswith((".aider/", ".cache/")) for name in home_after.keys() - home_before)
