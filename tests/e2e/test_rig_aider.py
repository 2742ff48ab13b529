"""The private Aider runs from where it was moved to, on the private server."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from e2e.conftest import PRIVATE

from aider_guard.demo.demo import demo_arguments
from aider_guard.demo.rig import ensure_rig

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama


@pytest.mark.servers(PRIVATE)
def test_aider_answers_in_the_sample_repository(
    rig: Rig, ollama: PrivateOllama, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """Called as the demo calls it, Aider knows the model, adds the files and gets an answer."""
    # Without instructions for edits the prompt has a third of the tokens: reading it takes most of the time.
    quick = ["--map-tokens", "0", "--edit-format", "ask"]
    extra = ["--no-pretty", *quick, "--message", "Say hello.", "--yes-always"]
    loads = ollama.loads()
    ended = subprocess.run(
        [rig.aider_command, *demo_arguments(), *extra],
        cwd=sample_repo,
        env=aider_env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Aider v0.86.2" in ended.stdout
    assert "Added till/prices.py to the chat" in ended.stdout
    assert "Tokens: " in ended.stdout
    assert ollama.loads() > loads


def test_a_complete_rig_is_found_at_once(rig: Rig) -> None:
    """The second call builds nothing and says nothing."""
    assert ensure_rig() == rig
