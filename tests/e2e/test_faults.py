"""Whatever is killed, the terminal stays usable, no work is lost, no process is left, and a notice tells it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.people import Guarded, Onlooker
from e2e.test_session import QUIET

from aider_guard.demo.layout import Rig
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama

Start = Callable[..., Guarded]

MOMENTS = ("starting", "at the prompt", "probing", "busy", "restarting")


@pytest.fixture
def start(rig: Rig, terse: str, wordy: str, sample_repo: Path, aider_env: dict[str, str]) -> Start:
    """Starts a guarded session in the sample repository; where it shall be ``busy``, with a slower model."""

    def started(*options: str, busy: bool = False, **changes: str) -> Guarded:
        model = wordy if busy else terse
        arguments = ["--model", f"ollama_chat/{model}", *QUIET, "till/prices.py"]
        aider = str(rig.aider_command)
        return Guarded(
            aider, arguments, options=options, env={**aider_env, **changes}, cwd=sample_repo
        )

    return started


def reach(person: Guarded, moment: str) -> None:
    """Bring the session to a moment."""
    match moment:
        case "starting":
            person.wait_for_event("aider_started")
        case "probing":
            person.wait_for_event("run_hidden")
        case "at the prompt":
            person.wait_for_event("context_read")
        case "busy":
            person.wait_for_event("context_read")
            person.say("What does the first function return?")
            person.wait_for_event("turn_started")
        case "restarting":
            person.wait_for_event("context_read")
            person.ask("What does the first function return?")
            person.wait_for_event("start_aider")


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_guard_is_killed(start: Start, sample_repo: Path, moment: str) -> None:
    """After kill -9 no process is left, and the next start brings home what was typed."""
    with start("--max-turns", "1", busy=moment == "busy") as person:
        reach(person, moment)
        typed = (person.folder() / "launch-1" / "input").exists()
        person.process.kill()
        person.process.wait()
        person.wait_for_none_left()
        assert typed or moment == "starting"

    users = sample_repo / ".aider.input.history"
    with start() as person:
        person.wait_for_prompt()
        person.type(b"/exit\r")
        assert person.end() == 0
    entries = [line for line in users.read_text().splitlines() if line.startswith("+")]
    asked = ["+What does the first function return?"] if moment in ("busy", "restarting") else []
    assert entries == [*asked, "+/exit"]


def test_the_shell_has_its_terminal_back_after_the_guard_was_killed(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """In an interactive shell, the modes after kill -9 are those before, and commands run."""
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET]
    command = [
        sys.executable,
        "-m",
        "aider_guard",
        "--aider",
        str(rig.aider_command),
        "--",
        *arguments,
    ]
    with Onlooker(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**aider_env, "PS1": "ready> "},
        cwd=sample_repo,
    ) as shell:
        shell.wait_for(r"^ready>$")
        shell.type(b"stty -g > before\r")
        shell.wait_for(r"before\nready>$")
        shell.type(" ".join(command).encode() + b"\r")
        shell.wait_for(r"^ask> *$")
        (folder,) = (Path(aider_env["AIDER_GUARD_STATE_DIR"]) / "sessions").iterdir()
        os.kill(int(folder.name.rpartition("-")[2]), signal.SIGKILL)
        shell.wait_for(r"Killed")
        # Ctrl-U: the terminal's answer to a question of Aider's may have come to the shell.
        shell.type(b"\x15stty -g > after; echo still here\r")
        shell.wait_for(r"^still here$")
        assert (sample_repo / "after").read_text() == (sample_repo / "before").read_text()
        shell.type(b"exit\r")
        shell.end()


@pytest.mark.parametrize("moment", ["at the prompt", "probing", "busy"])
def test_aider_is_killed_and_taken_back(start: Start, moment: str) -> None:
    """A notice says what happened, the session is offered back with its file, and a y brings it back."""
    with start(busy=moment == "busy") as person:
        reach(person, moment)
        os.kill(person.aider_pid(), signal.SIGKILL)
        screen = person.wait_for(r"any other key: leave")
        assert "Aider was killed by SIGKILL." in screen
        assert "Start it again with" in screen
        person.wait_out_the_deaf_moment()
        person.type(b"y")
        person.wait_for(r"Aider restarted in [\d.]+ s \(Aider died\)")
        person.wait_for(r"^till/prices.py$" if moment != "probing" else r"^ask> *$")
        person.type(b"/exit\r")
        assert person.end() == 0
        person.wait_for_none_left()


def test_aider_is_killed_and_left(start: Start) -> None:
    """Any other key is a no: the status is 128 + 9, the terminal as it was, the modes Aider left on are off."""
    with start() as person:
        modes = person.attributes()
        reach(person, "at the prompt")
        os.kill(person.aider_pid(), signal.SIGKILL)
        person.wait_for(r"any other key: leave")
        person.wait_out_the_deaf_moment()
        person.type(b"\r")
        assert person.end() == 128 + 9
        assert person.attributes() == modes
        assert person.shown.rfind(b"\x1b[?2004l") > person.shown.rfind(b"\x1b[?2004h")
        person.wait_for_none_left()


def test_aider_dies_while_it_starts_again(start: Start) -> None:
    """A start that fails after a planned restart is tried again, and nothing is lost."""
    with start("--max-turns", "1") as person:
        reach(person, "restarting")
        person.wait_for_event("aider_started", 2)
        os.kill(person.aider_pid(), signal.SIGKILL)
        person.wait_for_event("aider_started", 3)
        person.wait_for(r"Aider restarted in [\d.]+ s")
        person.wait_for(r"^till/prices.py$")
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.parametrize("moment", ["starting", "at the prompt", "busy"])
def test_the_sidecar_is_killed(start: Start, moment: str) -> None:
    """The session goes on, and another sidecar reads again."""
    with start(busy=moment == "busy") as person:
        reach(person, moment)
        sidecars = len(person.journal("sidecar_started"))
        os.kill(person.sidecar_pid(), signal.SIGKILL)
        person.wait_for_event("sidecar_lost")
        person.wait_for_event("sidecar_started", max(sidecars, 1) + 1)
        if moment == "starting":
            person.wait_for_prompt()
        elif moment == "busy":
            person.wait_for_prompt(2)
        person.ask("Does it still answer?")
        person.type(b"/exit\r")
        assert person.end() == 0
        person.wait_for_none_left()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hung"])
def test_ollama_goes_away(
    rig: Rig, ollama: PrivateOllama, start: Start, tmp_path: Path, how: signal.Signals
) -> None:
    """With Ollama dead or hung the keyboard works, no restart is made, and the end comes at once."""
    del ollama
    (tmp_path / "own-ollama").mkdir()
    models = tmp_path / "models"
    shutil.copytree(rig.models, models, copy_function=os.symlink)
    library = models / "manifests" / "registry.ollama.ai" / "library"
    shutil.copytree(library / "small", library / "terse")  # a second tag on the same file
    with private_ollama(rig.ollama, models, folder=tmp_path / "own-ollama") as own:
        with start("--max-turns", "1", OLLAMA_API_BASE=own.url) as person:
            reach(person, "at the prompt")
            os.kill(own.pid, how)
            person.ask("/ls")
            person.type(b"half a line")
            person.wait_for(r"^ask> half a line$")
            person.type(b"\x15/exit\r")
            assert person.end(seconds=20) == 0
            assert not person.journal("stop_aider")
            person.wait_for_none_left()
        if how is signal.SIGSTOP:
            os.kill(own.pid, signal.SIGCONT)


def test_there_is_no_ollama(start: Start) -> None:
    """Nothing listens: Aider says it in its own words, and the guard neither fails nor delays it."""
    with start(OLLAMA_API_BASE="http://127.0.0.1:9") as person:
        person.wait_for_prompt()
        person.type(b"/exit\r")
        assert person.end() == 0
        assert "reason" in person.journal("models_read")[-1]["reading"]


def test_the_disk_is_full(start: Start, tmp_path: Path) -> None:
    """A state folder that takes nothing: one sentence, exit 78, and the terminal was never touched."""
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with start(AIDER_GUARD_STATE_DIR=str(blocked / "state")) as person:
        modes = person.attributes()
        assert person.end() == 78
        assert person.text().startswith("aider-guard: no session can be kept in")
        assert "Traceback" not in person.text()
        assert person.attributes() == modes
