"""A person's session on a real Aider, a real Ollama and a small model."""

from __future__ import annotations

import subprocess
import termios
from pathlib import Path

import pytest
from e2e.conftest import PRIVATE, TODAY, windows_tokens
from e2e.people import Guarded

from aider_guard.demo.layout import Rig
from aider_guard.demo.ollama_server import PrivateOllama

QUIET = ["--no-show-model-warnings", "--no-gitignore", "--map-tokens", "0", "--chat-mode", "ask"]


def a_file(folder: Path, name: str, functions: int) -> str:
    """A Python file of about 17 tokens a function; its name."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join(f"def function_{n}(a, b):\n    return a * {n} + b\n" for n in range(functions))
    )
    return name


def commit(folder: Path) -> None:
    """Make the files known to Aider."""
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-qm", "files"], cwd=folder, check=True)


@pytest.mark.slow
@pytest.mark.servers(PRIVATE, TODAY)
def test_the_story_of_a_session(
    rig: Rig, ollama: PrivateOllama, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """Three messages, a warning with the right /drop, a restart that keeps three files, and all as it was after."""
    one, two = a_file(sample_repo, "one.py", 2), a_file(sample_repo, "two.py", 3)
    large = a_file(sample_repo, "large one.py", 45)
    conventions = sample_repo / "docs" / "coding conventions.md"
    assert conventions.exists()
    commit(sample_repo)
    ollama.unload(terse)
    before = {path: path.read_bytes() for path in sample_repo.rglob("*") if path.is_file()}

    options = ["--num-ctx", "1024", "--max-turns", "2", "--keep", "0.3"]
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET, one, two]
    with Guarded(
        str(rig.aider_command),
        arguments,
        options=options,
        env=aider_env,
        cwd=sample_repo,
        rows=40,
        columns=140,
    ) as person:
        modes = person.attributes()
        person.wait_for_prompt()
        person.ask_and_probe('/read-only "docs/coding conventions.md"')

        full = person.ask_and_probe(f'/add "{large}"')["total_tokens"]
        screen = person.wait_for(r"aider-guard: context about (8|9)\d % full")
        assert '/drop "large one.py"' in screen
        assert person.ask_and_probe('/drop "large one.py"')["total_tokens"] < full - 500

        person.ask("What does the first function return?")
        person.ask("And the second one?")
        person.wait_for_event("notice_shown", 2)
        screen = person.wait_for(
            r"Aider restarted in [\d.]+ s \(2 turns\): 3 files and the last 2 exchanges kept"
        )
        assert "Editable: one.py two.py" in screen
        assert "Readonly: docs/coding conventions.md" in screen
        assert "And the second one?" in person.text()
        person.wait_for(r"unloaded, [\d.]+ [GM]iB freed")

        person.ask("Thank you. Is there a third?")
        assert person.journal("turn_finished")[-1]["sent_tokens"] > 100
        person.type(b"/exit\r")
        assert person.end() == 0
        assert person.attributes() == modes
        person.wait_for_none_left()

    events = [line["event"] for line in person.journal()]
    assert events.count("retire_aider") == 1
    assert events.count("aider_started") == 2
    assert person.journal("aider_exited")[-1]["status"] == 0
    assert f"{terse}:latest" not in ollama.loaded()
    after = {path: path.read_bytes() for path in before if path.exists()}
    assert after == before
    assert not list(person.folder().glob("launch-*"))

    typed = [
        line[1:]
        for line in (sample_repo / ".aider.input.history").read_text().splitlines()
        if line[:1] == "+"
    ]
    assert typed == [
        '/read-only "docs/coding conventions.md"',
        '/add "large one.py"',
        '/drop "large one.py"',
        "What does the first function return?",
        "And the second one?",
        "Thank you. Is there a third?",
        "/exit",
    ]
    chat = (sample_repo / ".aider.chat.history.md").read_text()
    said = [
        line.removeprefix("#### ").rstrip()
        for line in chat.splitlines()
        if line.startswith("#### ")
    ]
    assert said == typed
    assert "/tokens" not in chat
    assert "/save" not in chat
    assert str(person.state) not in chat


@pytest.mark.servers(PRIVATE, TODAY)
def test_the_window_is_pinned_for_every_request(
    rig: Rig, ollama: PrivateOllama, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """The model is loaded once, with the pinned window, while Aider starts or for the first message; bare Aider asks
    for another one each time.
    """
    ollama.unload(terse)
    loads = ollama.loads()
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET]
    with Guarded(
        str(rig.aider_command),
        arguments,
        options=["--num-ctx", "2048"],
        env=aider_env,
        cwd=sample_repo,
    ) as person:
        person.wait_for_prompt()
        for question in ("Hello.", "Hello again.", "And once more, with more words than before."):
            person.ask(question)
        assert ollama.loads() == loads + 1
        assert windows_tokens(ollama.log_path.read_text())[-1] == 2048
        person.type(b"/exit\r")
        assert person.end() == 0


def test_a_one_shot_needs_no_terminal(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """With --message and a pipe, Aider gets the pins, answers, and its status is ours; no session is left."""
    import sys

    command = [
        sys.executable,
        "-m",
        "aider_guard",
        "--aider",
        str(rig.aider_command),
        "--num-ctx",
        "1024",
        "--",
    ]
    arguments = [
        "--model",
        f"ollama_chat/{terse}",
        *QUIET,
        "--message",
        "Say hello.",
        "--yes-always",
    ]
    ended = subprocess.run(
        [*command, *arguments],
        cwd=sample_repo,
        env=aider_env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Tokens: " in ended.stdout
    wrong = subprocess.run(
        [*command, "--no-such-option"],
        cwd=sample_repo,
        env=aider_env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "unrecognized arguments: --no-such-option" in wrong.stderr


def test_stty_is_the_same_inside(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """What the user set with stty before, Aider's own terminal has too."""
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET]
    with Guarded(str(rig.aider_command), arguments, env=aider_env, cwd=sample_repo) as person:
        modes = person.attributes()
        person.wait_for_prompt()
        assert person.attributes()[3] & termios.ICANON == 0
        person.type(b"\x04")
        assert person.end() == 0
        assert person.attributes() == modes
