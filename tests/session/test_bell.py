"""What rings: the terminal, by what it is known to show, or a command that runs beside the session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from session.test_title import console

from aider_guard.config import command_words
from aider_guard.core.actions import RingBell
from aider_guard.core.readings import Unavailable
from aider_guard.session.bell import BELL, Bell, NotifyCommand, terminal_bytes

RING = RingBell("turn_finished", 42.4, "qwen3:8b", 51.6)
TEXT = b"Aider is done after 42 s\x1b\\"
OSC_9, OSC_777 = BELL + b"\x1b]9;" + TEXT, BELL + b"\x1b]777;notify;aider-guard;" + TEXT


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, BELL),
        ({"TERM": "xterm-256color"}, BELL),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"}, BELL),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, OSC_9),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, OSC_9),
        ({"TERM": "xterm-kitty"}, OSC_9),
        ({"TERM": "xterm-ghostty"}, OSC_9),
        ({"TERM": "foot-extra"}, OSC_777),
        ({"TERM": "rxvt-unicode-256color"}, OSC_777),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "WezTerm", "TMUX": "/tmp/t,1,0"}, BELL),
        ({"TERM": "xterm-kitty", "STY": "1.pts"}, BELL),
    ],
)
def test_the_terminal_shows_what_it_is_known_to(environment: dict[str, str], shown: bytes) -> None:
    assert terminal_bytes(RING, environment) == shown


def test_a_question_is_told_apart() -> None:
    (said,) = {terminal_bytes(RingBell("question", 31.0), {"TERM": "foot"})}
    assert b"Aider asks after 31 s" in said


def test_nothing_of_aiders_is_cut_apart() -> None:
    """Inside an escape sequence or a character it waits for the end of that."""
    for begun, rest in ((b"\x1b[3", b"1m"), ("é".encode()[:1], "é".encode()[1:])):
        made, screen = console()
        made.child_wrote(begun)
        made.ring(BELL)
        assert bytes(screen) == begun
        made.child_wrote(rest)
        assert bytes(screen) == begun + rest + BELL


# Commands


@dataclass
class Rung:
    """A bell, and what came of it."""

    command: NotifyCommand | Unavailable
    environment: Mapping[str, str]
    written: bytearray = field(default_factory=bytearray)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bell = Bell(
            command=self.command,
            environment=self.environment,
            folder="/work",
            write=self.written.extend,
            warn=self.said.append,
        )

    def ring(self, ring: RingBell = RING) -> None:
        """Ring, and wait until the command has ended."""
        self.bell.ring(ring)
        self.wait()

    def wait(self) -> None:
        """Wait until the command that runs has ended, as for the signal of that."""
        if self.bell._running is not None:
            os.waitid(os.P_PID, self.bell._running.pid, os.WEXITED | os.WNOWAIT)
            self.bell.reap()
        assert self.bell._running is None


def rung(command: str, path: str = os.defpath) -> Rung:
    environment = {"PATH": path, "MINE": "1"}
    return Rung(NotifyCommand.of(command_words(command), environment), environment)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program that writes down how it was run, and ends with the status that its argument says."""
    program = tmp_path / "ring it"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, sys\n"
        "facts = {key: os.environ[key] for key in os.environ if key.startswith('AIDER_') or key == 'MINE'}\n"
        "told = [sys.argv[1:], facts, os.getcwd(), os.getsid(0) == os.getpid(), sys.stdin.read()]\n"
        f"json.dump(told, open({str(tmp_path / 'told')!r}, 'w'))\n"
        "print('noise')\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    program.chmod(0o755)
    return program


def test_a_command_gets_the_facts_and_nothing_of_the_terminal(
    script: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its words are split as a shell's are; it runs in a session of its own, and not in the working folder."""
    made = rung(f"'{script}' 0 'two words'")
    made.ring()
    arguments, facts, folder, leads, stdin = json.loads((script.parent / "told").read_text())
    assert arguments == ["0", "two words"]
    assert facts == {
        "AIDER_GUARD_EVENT": "turn_finished",
        "AIDER_GUARD_SECONDS": "42",
        "AIDER_GUARD_MODEL": "qwen3:8b",
        "AIDER_GUARD_FOLDER": "/work",
        "AIDER_GUARD_FILL_PERCENT": "52",
        "MINE": "1",
    }
    assert (folder, leads, stdin) == ("/", True, "")
    assert (bytes(made.written), made.said, capfd.readouterr().out) == (b"", [], "")
    made.ring(RingBell("question", 31.0))
    facts = json.loads((script.parent / "told").read_text())[1]
    assert (facts["AIDER_GUARD_EVENT"], facts["AIDER_GUARD_FILL_PERCENT"]) == ("question", "")


def test_a_failure_is_said_once(script: Path) -> None:
    made = rung(f"'{script}' 3")
    made.ring()
    made.ring()
    assert made.said == ["notify-command: it ended with status 3"]


def test_without_the_program_the_terminal_rings(tmp_path: Path) -> None:
    """And the user is told once."""
    made = rung("no-such-program -x", str(tmp_path))
    made.ring()
    made.ring()
    assert bytes(made.written) == BELL * 2
    (said,) = made.said
    assert said.startswith("notify-command: no-such-program is not a program that can be run")


def test_a_program_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    made = rung(str(broken))
    made.ring()
    assert made.said == ["notify-command: No such file or directory"]


@pytest.mark.parametrize("change", ["write", "replace", "link", "remove"])
def test_a_command_that_was_changed_meanwhile_is_not_run(script: Path, change: str) -> None:
    """It would run outside the air gap what a program inside wrote; also as an argument, or behind a link."""
    link, argument = script.parent / "link", script.parent / "argument"
    link.symlink_to(script)
    argument.write_text("one")
    made = rung(f"'{link}' 0 '{argument}'")
    match change:
        case "write":
            argument.write_text("two")
        case "replace":
            other = script.parent / "other"
            other.write_bytes(script.read_bytes())
            other.chmod(0o755)
            other.replace(script)
        case "link":
            link.unlink()
            link.symlink_to("/bin/true")
        case "remove":
            argument.unlink()
    made.ring()
    assert not (script.parent / "told").exists()
    assert made.said == [
        "notify-command: a file of it was changed in this session, so it is not run any more"
    ]


def test_commands_do_not_pile_up(tmp_path: Path) -> None:
    """One that hangs is left alone, and no other is started beside it."""
    waits = tmp_path / "fifo"
    os.mkfifo(waits)
    made = rung(f"/bin/cat {waits}")
    made.bell.ring(RING)
    first = made.bell._running
    made.bell.ring(RING)
    assert made.bell._running is first
    waits.write_bytes(b"")
    made.wait()
