"""``--show`` prints what would be run, and runs nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from fakes.ollama_server import FakeModel, FakeOllama
from session.guards import Place
from session.ptys import child

from aider_guard.config import SETTINGS


def show(
    place: Place, *arguments: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        place.guarded(*arguments, options=("--show", *options)),
        env=place.env(child("exits_with", 9), OPENAI_API_KEY="sk-secret"),
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With an Aider that says what it will use."""
    return Place.make(tmp_path / "place")


def test_command_environment_and_files_are_shown_and_nothing_is_done(tmp_path: Path) -> None:
    """The user's words, ours, what holds after every .env, and the files as Aider would read them."""
    with FakeOllama(models=(FakeModel("qwen3:8b"),)) as ollama:
        place = Place.make(tmp_path / "place", ollama=ollama.url)
        process = show(place, "--model", "ollama_chat/qwen3:8b", "a b.py")
    assert (process.returncode, process.stderr) == (0, "")
    for line in (
        f"  {place.aider} --model ollama_chat/qwen3:8b 'a b.py'",
        "    --no-check-update",
        "    --chat-history-file SESSION/chat.md",
        f"  OLLAMA_API_BASE={ollama.url}",
        "  set after Aider has read every .env, so that none can change it:",
        f"  http://127.0.0.1:PORT/TOKEN forwards to {ollama.url}",
        "    OLLAMA_API_BASE=http://127.0.0.1:PORT/TOKEN",
        "    OPENAI_API_KEY=switched-off-by-aider-guard",
        "    GITHUB_COPILOT_TOKEN removed",
    ):
        assert line in process.stdout.splitlines()
    settings = process.stdout.split("SESSION/model.settings.yml:\n")[1].split("\n\n")[0]
    last = process.stdout.split(
        "the guard's settings (aider-guard config show has their sources):\n"
    )[1]
    assert [line.split()[0] for line in last.splitlines()] == list(SETTINGS)
    assert yaml.safe_load(settings)[0]["extra_params"]["num_ctx"] > 0
    assert "sk-secret" not in process.stdout
    assert not (place.work / "aider.argv").exists()
    assert not place.sessions


def test_a_one_shot_shows_its_fewer_arguments(place: Place) -> None:
    """No private histories, no side channels."""
    process = show(place, "--message", "hi")
    assert process.returncode == 0
    assert "--model-settings-file" in process.stdout
    assert "--chat-history-file" not in process.stdout


def test_with_an_open_network_nothing_holds_against_a_dotenv(place: Place) -> None:
    """Keys and proxies are the user's; only the door is still the way to Ollama."""
    process = show(place, options=("--network", "open"))
    assert process.returncode == 0
    variables = process.stdout.split(
        "set after Aider has read every .env, so that none can change it:\n"
    )[1].split("\n\n")[0]
    assert {line.partition("=")[2] for line in variables.splitlines()} == {
        "http://127.0.0.1:PORT/TOKEN",
        "http://127.0.0.1:PORT/TOKEN/llamafile",
    }


def test_a_launch_that_would_be_refused_says_why(place: Place) -> None:
    """With the status that the launch would have."""
    process = show(place, "--model", "gpt-4o")
    assert (process.returncode, process.stdout) == (78, "")
    assert "would run in a cloud" in process.stderr


def test_without_an_aider_it_is_a_sentence(place: Place) -> None:
    """As at a start."""
    os.unlink(place.aider)
    process = show(place)
    assert process.returncode == 78
    assert process.stderr.startswith("aider-guard: Aider was not found")


def test_an_aider_that_cannot_be_asked_is_a_sentence(tmp_path: Path) -> None:
    """There is nothing to show of it."""
    process = show(Place.make(tmp_path / "place", "problem"))
    assert process.returncode == 78
    assert "what Aider will use is not known" in process.stderr
