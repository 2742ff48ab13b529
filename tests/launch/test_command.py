"""What the session adds to Aider's command line, and which calls are no session."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.config import Config
from aider_guard.core.actions import Handoff
from aider_guard.core.chatlog import Announced
from aider_guard.launch.aider import Aider
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.command import (
    LaunchFiles,
    handoff_arguments,
    load_commands,
    one_shot_arguments,
    send_answer,
    session_arguments,
)
from aider_guard.launch.start_command import (
    INSIDE_AIDER,
    aider_command,
    aider_environment,
    is_one_shot,
)

ONE_SHOTS: list[tuple[list[str], bool]] = [
    ([], False),
    (["--model", "ollama_chat/m", "a.py"], False),
    (["--message", "hi"], True),
    (["--message=hi"], True),
    (["-m", "hi"], True),
    (["--msg", "hi"], True),
    (["--message-file", "f"], True),
    (["-f", "f"], True),
    (["--exit"], True),
    (["--version"], True),
    (["--help"], True),
    (["-h"], True),
    (["--commit"], True),
    (["--lint"], True),
    (["--test"], True),
    (["--apply", "f"], True),
    (["--list-models", "gpt"], True),
    (["--show-repo-map"], True),
    (["--gui"], True),
    (["--browser"], True),
    (["--upgrade"], True),
    (["--shell-completions", "bash"], True),
    (["--test-cmd", "make"], False),
    (["--lint-cmd", "ruff"], False),
    (["--commit-prompt", "x"], False),
    (["--auto-test"], False),
    (["--", "--message"], False),
    (["--exit", "--", "a.py"], True),
    (["message"], False),
]


@pytest.mark.parametrize(("arguments", "one_shot"), ONE_SHOTS)
def test_what_does_one_thing_and_ends_is_no_session(arguments: list[str], one_shot: bool) -> None:
    """Aider's own flags for that, with their values after a blank or an equals sign, before a ``--``."""
    assert is_one_shot(arguments) is one_shot


def test_the_command_asks_on_its_channel_and_keeps_the_users_arguments() -> None:
    """The interpreter with its flags, our script, the channel, Aider's script, then the user's words untouched."""
    guards_end, aiders_end = socket.socketpair()
    with guards_end, aiders_end:
        words = ["--model", "m", "a b.py", "--", "-x"]
        command = aider_command(Aider("/bin/aider", ("/p/python", "-E")), aiders_end, words)
        assert command == [
            "/p/python",
            "-E",
            str(INSIDE_AIDER),
            str(aiders_end.fileno()),
            "/bin/aider",
            *words,
        ]
    assert INSIDE_AIDER.is_file()


ADDRESSES = [
    ("", {}, "http://127.0.0.1:11434"),
    ("", {"OLLAMA_API_BASE": "http://box:1"}, "http://box:1"),
    ("http://other:2", {"OLLAMA_API_BASE": "http://box:1"}, "http://other:2"),
    ("other:2", {}, "http://other:2"),
    ("", {"OLLAMA_HOST": "0.0.0.0:11500"}, "http://127.0.0.1:11500"),
    ("", {"OLLAMA_HOST": "box"}, "http://box:11434"),
    ("", {"OLLAMA_HOST": "box", "OLLAMA_API_BASE": "http://box:1"}, "http://box:1"),
    ("other:2", {"OLLAMA_HOST": "box"}, "http://other:2"),
]


@pytest.mark.parametrize(("configured", "environment", "address"), ADDRESSES)
def test_aider_finds_the_ollama_that_was_named(
    configured: str, environment: dict[str, str], address: str
) -> None:
    """The guard's setting, the user's variable, Ollama's usual address; everything else of the environment stays."""
    given_environment = {"HOME": "/h", **environment}
    found = aider_environment(Config(ollama=configured), given_environment)
    assert found["OLLAMA_API_BASE"] == address
    assert (found["HOME"], found["LITELLM_LOCAL_MODEL_COST_MAP"]) == ("/h", "True")
    assert given_environment == {"HOME": "/h", **environment}


def files(folder: Path) -> LaunchFiles:
    names = ("chat", "input", "log", "the bell's", "load", "settings.yml", "metadata.json")
    paths = [folder / name for name in names]
    return LaunchFiles(paths[0], paths[1], paths[2], paths[3], paths[4], paths[5], paths[6])


def value(arguments: list[str], flag: str) -> str:
    """What follows a flag that is there once."""
    (found,) = (after for before, after in pairwise(arguments) if before == flag)
    return found


def test_a_session_gets_private_files_and_makes_no_calls(tmp_path: Path) -> None:
    """Histories, pins and the log in the session's folder; no update check, no analytics, no release notes."""
    arguments = session_arguments(files(tmp_path), AiderSettings())
    assert value(arguments, "--chat-history-file") == str(tmp_path / "chat")
    assert value(arguments, "--input-history-file") == str(tmp_path / "input")
    assert value(arguments, "--model-settings-file") == str(tmp_path / "settings.yml")
    assert value(arguments, "--model-metadata-file") == str(tmp_path / "metadata.json")
    assert value(arguments, "--analytics-log") == str(tmp_path / "log")
    assert {
        "--notifications",
        "--no-check-update",
        "--no-analytics",
        "--no-show-release-notes",
    } <= set(arguments)


def test_a_one_shot_gets_the_pins_only(tmp_path: Path) -> None:
    """No private histories: what it writes goes to the user's own."""
    arguments = one_shot_arguments(tmp_path / "s", tmp_path / "m")
    assert value(arguments, "--model-settings-file") == str(tmp_path / "s")
    assert "--chat-history-file" not in arguments
    assert "--no-analytics" in arguments


def ring(folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the notification command as Aider does: one line of shell, output captured."""
    aider = AiderSettings(**settings)  # type: ignore[arg-type]  # fields by name
    line = value(session_arguments(files(folder), aider), "--notifications-command")
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False, cwd=folder)


COMMANDS = [
    "echo done > users",
    "printf '%s' \"it's done\" > users",
    "test -n \"$HOME\" && echo 'a \"b\" c' > users # a remark",
    "(cd / ; true) && { echo done; } > users",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_users_notification_still_runs(tmp_path: Path, command: str) -> None:
    """Ours rings first, then the user's own command runs in the same shell, quotes and all; its status counts."""
    process = ring(tmp_path, notifications=True, notifications_command=command)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert (tmp_path / "the bell's").read_text() == ".\n"
    assert (tmp_path / "users").read_text().strip()
    assert ring(tmp_path, notifications=True, notifications_command="exit 3").returncode == 3


def test_a_notification_that_the_user_did_not_ask_for_does_not_run(tmp_path: Path) -> None:
    """Without --notifications the user's command is only a setting; Aider's own is run where it would have been."""
    ring(tmp_path, notifications=False, notifications_command="echo x > users")
    assert not (tmp_path / "users").exists()
    ring(tmp_path, notifications=True, default_notifications_command="echo x > users")
    assert (tmp_path / "users").exists()
    assert (tmp_path / "the bell's").read_text() == ".\n.\n"


FIRST = Announced("ollama_chat/m", "diff", "ollama_chat/w", "ollama_chat/e", "editor-diff")

HANDOFFS: list[tuple[Announced, Announced, list[str]]] = [
    (FIRST, FIRST, ["--edit-format", "diff"]),
    (FIRST, Announced("ollama_chat/m", "ask", "ollama_chat/w"), ["--edit-format", "ask"]),
    (
        FIRST,
        Announced("ollama_chat/n", "diff", "ollama_chat/v", "ollama_chat/f"),
        [
            *("--edit-format", "diff", "--model", "ollama_chat/n"),
            *("--weak-model", "ollama_chat/v", "--editor-model", "ollama_chat/f"),
        ],
    ),
    (Announced("", "", ""), Announced("", "", ""), []),
]


@pytest.mark.parametrize(("first", "last", "expected"), HANDOFFS)
def test_only_what_changed_is_named(
    tmp_path: Path, first: Announced, last: Announced, expected: list[str]
) -> None:
    """The mode, and models that were switched since the first launch; the rest is in the user's own arguments."""
    load = ["--restore-chat-history", "--load", str(tmp_path / "load")]
    answered = ["--no-gitignore", "--no-show-model-warnings"]
    arguments = handoff_arguments(files(tmp_path), Handoff(), first, last, has_git=True)
    assert arguments == [*load, *answered, "--no-multiline", *expected]


def test_an_aider_without_git_goes_on_so(tmp_path: Path) -> None:
    """It asked once whether to create a repository."""
    for has_git in (True, False):
        arguments = handoff_arguments(files(tmp_path), Handoff(), FIRST, FIRST, has_git=has_git)
        assert ("--no-git" in arguments) is not has_git


def test_multiline_mode_is_handed_over(tmp_path: Path) -> None:
    """On and off alike: a settings file of the user's may say otherwise."""
    for multiline, flag in ((True, "--multiline"), (False, "--no-multiline")):
        handoff = Handoff(multiline=multiline)
        assert flag in handoff_arguments(files(tmp_path), handoff, FIRST, FIRST, has_git=True)


LOADS: list[tuple[Handoff, tuple[str, ...], str]] = [
    (Handoff(), (), "/drop\n"),
    (Handoff(known=False), ("conventions.md",), ""),
    (Handoff(("a.py", "a b.py")), (), '/drop\n/add a.py\n/add "a b.py"\n'),
    (
        Handoff((), ("../x y.md", "/abs/z.md")),
        (),
        '/drop\n/read-only "../x y.md"\n/read-only /abs/z.md\n',
    ),
    (Handoff(("~a.py",)), (), "/drop\n/add ./~a.py\n"),
    (Handoff(('"q.py', "a\nb.py", 'a "b" c.py', "ok.py")), (), "/drop\n/add ok.py\n"),
    (
        Handoff((), ("kept.md",)),
        ("kept.md", "dropped by.md"),
        '/drop\n/drop "dropped by.md"\n/read-only kept.md\n',
    ),
]


@pytest.mark.parametrize(("handoff", "launched", "text"), LOADS)
def test_the_files_are_loaded_by_commands(
    handoff: Handoff, launched: tuple[str, ...], text: str
) -> None:
    """Blanks are quoted, what cannot be is left out, what the command line added and the user dropped is dropped."""
    assert load_commands(handoff, launched) == text


NAMES = st.text(
    st.characters(exclude_characters='"\n\r', exclude_categories=["Cs", "Zl", "Zp", "Cc"]),
    min_size=1,
)


@given(st.lists(NAMES, max_size=4))
def test_aider_reads_the_names_back(names: list[str]) -> None:
    """By the rule of its own commands: a quoted part or a word without blanks, one command a line."""
    lines = load_commands(Handoff(tuple(names)), ()).splitlines()
    read = [re.findall(r"\"(.+?)\"|(\S+)", line.removeprefix("/add ")) for line in lines[1:]]
    assert ["".join(words[0]).removeprefix("./") for words in read] == [
        n.removeprefix("./") for n in names
    ]


def test_the_answer_lets_aider_begin() -> None:
    """One line of JSON with the arguments; an Aider that is gone is an OSError."""
    guards_end, aiders_end = socket.socketpair()
    with guards_end, aiders_end:
        send_answer(guards_end, ["--load", "a b"])
        answer = json.loads(aiders_end.makefile("rb").readline())
        assert answer["arguments"] == ["--load", "a b"]
        assert "next_prompts_fd" not in answer
        send_answer(guards_end, [], next_prompts_fd=7)
        assert json.loads(aiders_end.makefile("rb").readline())["next_prompts_fd"] == 7
        aiders_end.close()
        with pytest.raises(OSError, match="pipe"):
            send_answer(guards_end, [])
