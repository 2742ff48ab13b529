"""Names of clouds and of models that nobody has, typed on real Aider in a session that stays on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

if TYPE_CHECKING:
    from e2e.desk import Desk
    from e2e.people import Guarded

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)
AT_ONCE_SECONDS = 20.0
"""Far less than the minute for which Aider tries a host again and again; enough for litellm's import."""
CLOUDS = [
    ("gpt-4o", "gpt-4o would run at api.openai.com"),
    ("o3-pro", "o3-pro would run at api.openai.com"),
    ("sonnet", r"claude-[\w-]+ would run at api.anthropic.com"),
    ("gemini/gemini-2.5-pro", "gemini-2.5-pro would run at generativelanguage.googleapis.com"),
    ("deepseek/deepseek-chat", "deepseek-chat would run at api.deepseek.com"),
    ("openrouter/some/model", "some/model would run at openrouter.ai"),
]


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """An Ollama that answers with one sentence."""
    with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as ollama:
        yield ollama


def written(person: Guarded) -> str:
    """All that the terminal got, in one line."""
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", bytes(person.shown)).decode(errors="replace")
    return " ".join(plain.split())


def leave(person: Guarded) -> str:
    """Leave; all that the terminal got in the session."""
    person.type(b"/exit\r")
    assert person.end() == 0
    return written(person)


def test_the_model_of_a_cloud_is_refused_in_words_at_once(desk: Desk, server: FakeOllama) -> None:
    """Aider tries nothing again, the next model works, and each attempt is in the closing line."""
    with desk.session(server.url) as person:
        person.wait_for_prompt()
        for name, sentence in CLOUDS:
            person.ask(f"/model {name}")
            before, since = len(person.shown), time.monotonic()
            person.ask("hello")
            assert time.monotonic() - since < AT_ONCE_SECONDS, name
            said = written(person)
            found = re.findall(
                f"aider-guard: this session is offline: {sentence}; /model NAME", said
            )
            assert len(found) == 1, bytes(person.shown[before:])
        person.ask("/model ollama_chat/small")
        person.ask("hello")
        assert person.wrote("It is well.")
        said = leave(person)
    assert "Retrying in" not in said
    assert "refused by the door: 6 requests to 5 hosts (api.openai.com:443 2 times, " in said
    assert len(server.chats) >= 1


def test_an_unknown_name_prints_no_errors_of_connections(desk: Desk, server: FakeOllama) -> None:
    """Neither when it is typed nor at a restart; the user's cache of prices is not emptied either."""
    with desk.session(server.url, options=("--probe", "never")) as person:
        person.wait_for_prompt()
        person.ask("/model ollama_chat/nosuchname")
        person.ask("/model openrouter/no/such")
        person.ask("/model ollama_chat/nosuchname")
        person.ask("hello")
        prompts = len(person.journal("prompt_shown"))
        restart = [sys.executable, "-m", "aider_guard", "restart"]
        subprocess.run(restart, env=desk.env, cwd=desk.repo, check=True, capture_output=True)
        person.wait_for_event("aider_started", 2)
        person.wait_for_prompt(prompts + 1)
        said = leave(person)
    assert "HTTPSConnectionPool" not in said
    assert "raw.githubusercontent.com" not in said
    caches = desk.repo.parent.glob("**/.aider/caches/*.json")
    assert [path.name for path in caches if path.read_text() == "{}"] == []
