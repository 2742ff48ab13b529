"""How often Ollama loads the model in one conversation: real Aider on a real Ollama, whose log is what counts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.bare import UNASKED, Bare
from e2e.conftest import PRIVATE, TODAY, windows_tokens
from e2e.people import Guarded

from aider_guard.demo.layout import Rig
from aider_guard.demo.ollama_server import PrivateOllama

pytestmark = pytest.mark.servers(PRIVATE, TODAY)
WINDOW_TOKENS = 4096
TRAINED_TOKENS = 8192
TURNS = (
    "Hello.",
    "Hello again.",
    "And once more, with more words than before.",
    "What is a basket?",
    "Thank you for all of these answers.",
)
COMMIT = "/commit"
CALLS = 1 + len(TURNS) + 1
"""The summary of the restored chat, the messages, and the commit message."""
ANSWER = "There are red apples in it, and many other things that nobody has counted."
HISTORY = "# aider chat started at 2026-01-01 00:00:00\n\n" + "".join(
    f"#### Question {number}: what is in the basket?\n\n{ANSWER}\n\n" for number in range(2)
)
"""Four messages, which Aider summarises with one call (history.py: min_split)."""


@dataclass(frozen=True)
class Log:
    """What Ollama's log has from a place on."""

    text: str

    @property
    def calls(self) -> int:
        """How often a model was asked for text."""
        return len(re.findall(r'\| +POST +"/api/chat"', self.text))

    @property
    def windows_tokens(self) -> list[int]:
        """The window of each runner that was started, in tokens."""
        return windows_tokens(self.text)

    @property
    def is_clean(self) -> bool:
        """Whether every call was answered."""
        return "| 500 |" not in self.text


def log_since(server: PrivateOllama, place: int) -> Log:
    """The log from a place on."""
    with server.log_path.open("rb") as file:
        file.seek(place)
        return Log(file.read().decode())


def conversation(repo: Path, model: str) -> list[str]:
    """Leave a chat that is too long to restore as it is, and a change to commit; Aider's arguments."""
    (repo / ".aider.chat.history.md").write_text(HISTORY)
    with (repo / "README.md").open("a") as readme:
        readme.write("One line more.\n")
    return [
        *("--model", f"ollama_chat/{model}", "--chat-mode", "ask", "--map-tokens", "0"),
        *("--restore-chat-history", "--max-chat-history-tokens", "64"),
        *("--no-show-model-warnings", "--no-gitignore"),
    ]


def commits(repo: Path) -> int:
    """How many commits there are."""
    counted = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=repo, check=True, capture_output=True
    )
    return int(counted.stdout)


def bare(aider: Path, arguments: Sequence[str], env: Mapping[str, str], repo: Path) -> None:
    """The conversation without the guard."""
    with Bare([str(aider), *arguments, *UNASKED], env=env, cwd=repo) as person:
        for line in (*TURNS, COMMIT, "/exit"):
            person.say(line)
        assert person.end() == 0


def guarded(aider: Path, arguments: Sequence[str], env: Mapping[str, str], repo: Path) -> None:
    """The conversation with the guard."""
    options = ["--num-ctx", str(WINDOW_TOKENS)]
    with Guarded(str(aider), arguments, options=options, env=env, cwd=repo) as person:
        person.wait_for_prompt()
        for line in (*TURNS, COMMIT):
            person.ask(line)
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.slow
def test_one_load_for_all_turns(
    rig: Rig, ollama: PrivateOllama, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """Five messages, a summary and a commit message: one load with the guard, of the pinned window; else one each.

    From 0.30 on the windows are cut to what the model was trained for before they are compared: Aider asks for more
    than this model's each time.
    """
    logs = {}
    for number, talk in enumerate((bare, guarded), 1):
        arguments = conversation(sample_repo, terse)
        ollama.unload(terse)
        place = ollama.log_path.stat().st_size
        talk(rig.aider_command, arguments, aider_env, sample_repo)
        logs[talk] = log_since(ollama, place)
        assert logs[talk].is_clean
        assert commits(sample_repo) == 1 + number
    assert logs[bare].calls == CALLS
    # The guard has an Ollama of today make the text of each prompt, too, which generates nothing.
    assert CALLS <= logs[guarded].calls <= CALLS * (1 if "--ctx-size" in logs[bare].text else 2)
    if "--ctx-size" in logs[bare].text:  # before 0.30
        assert len(logs[bare].windows_tokens) == CALLS
    else:
        assert logs[bare].windows_tokens == [TRAINED_TOKENS]
    assert logs[guarded].windows_tokens == [WINDOW_TOKENS]
