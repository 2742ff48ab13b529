"""A model needs more than was computed: a notice says so once, and the next start takes a smaller window.

The card is the fake driver's, under the real bindings; Aider is real.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from e2e.chatting import ChattingOllama
from e2e.people import Guarded
from fakes.answering import Json
from fakes.nvml import Card, FakeDriver
from fakes.ollama_models import GIB, FakeModel

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

ARGUMENTS = ("--model", "ollama_chat/qwen3:8b", "--no-show-model-warnings", "--no-gitignore")
QUIET = ("--map-tokens", "0", "--chat-mode", "ask")


def spilled_list(size_bytes: int, vram_bytes: int) -> Json:
    """The answer of /api/ps: so much of the model is on the card."""
    entry = {
        "name": "qwen3:8b",
        "model": "qwen3:8b",
        "digest": "ab" * 32,
        "size": size_bytes,
        "size_vram": vram_bytes,
        "context_length": 40_960,
    }
    return Json({"models": [entry]})


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with one card of 16 GiB."""
    folder = tmp_path / "driver"
    folder.mkdir()
    driver = FakeDriver(folder)
    driver.write(Card(16 * GIB, 1 * GIB // 4))
    home = tmp_path / "home"
    home.mkdir()
    return {
        **driver.environment,
        "HOME": str(home),
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
    }


def window_of(user: Guarded) -> int:
    """The window that was pinned."""
    return int(user.wait_for_event("models_chosen")["window_tokens"])


def test_a_model_that_spilled_is_said_and_gets_a_smaller_window_next_time(
    rig: Rig, environment: dict[str, str], tmp_path: Path
) -> None:
    """The computed window is pinned first; 2 of 16 GiB are on the CPU after a turn; the second session knows it."""
    repo = make_sample(tmp_path / "till")
    with ChattingOllama(models=(FakeModel("qwen3:8b", size_bytes=5 * GIB),)) as ollama:
        env = {**environment, "OLLAMA_API_BASE": ollama.url}
        words = (*ARGUMENTS, *QUIET)
        with Guarded(str(rig.aider_command), words, env=env, cwd=repo) as user:
            user.wait_for_prompt()
            first = window_of(user)
            ollama.answers["/api/ps"] = spilled_list(16 * GIB, 14 * GIB)
            user.ask("Hello.")
            user.wait_for("qwen3:8b does not fit: 2.0 GiB of it")
            user.wait_for("--num-ctx [0-9]+ would fit")
            user.type(b"/exit\r")
            assert user.end() == 0
        kept = json.loads((tmp_path / "state" / "needs.json").read_text())
        del ollama.answers["/api/ps"]
        shutil.rmtree(tmp_path / "state" / "sessions")  # the next session's is the only one then
        with Guarded(str(rig.aider_command), words, env=env, cwd=repo) as user:
            user.wait_for_prompt()
            second = window_of(user)
            user.type(b"/exit\r")
            assert user.end() == 0
    assert kept["qwen3:8b"] > 0
    assert 4096 <= second < first
    assert first % 1024 == second % 1024 == 0
