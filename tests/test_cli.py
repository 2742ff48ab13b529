"""The command line, run as a user does: what is the guard's, what is Aider's, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aider_guard import __version__, cli
from aider_guard.core.events import Event, RestartRequested
from aider_guard.core.state import State
from aider_guard.loop import READ, Loop
from aider_guard.session import registry
from aider_guard.session.control import Control, control_socket, session_facts

ROOT = Path(__file__).resolve().parents[1]
FAKE_AIDER = """
import json, os, signal, sys
def main(argv):
    print(json.dumps(argv))
    print("on stderr", file=sys.stderr)
    sys.stdout.flush()
    if "die" in argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(argv[-1]) if argv and argv[-1].isdigit() else 0
"""


class User:
    """A user with a home folder, an Aider on the path, and no terminal."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"
        package = home / "bin" / "aider_package" / "aider"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "main.py").write_text(FAKE_AIDER)
        # Not named aider: a script beside its package would be the package's folder.
        script = home / "bin" / "aider_package" / "run"
        script.write_text(f"#!{sys.executable}\n")
        script.chmod(0o755)
        (home / "bin" / "aider").symlink_to(script)
        self.script = script

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "AIDER_GUARD_STATE_DIR": str(self.state),
            "AIDER_GUARD_AIDER": str(self.script),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aider_guard", *arguments],
            env={**self.environment(), **environment},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


COMMANDS_THAT_PRINT = [["config", "show"], ["status", "--json"], ["--help"], ["doctor"]]


def status_on(user: User, stdout: int, words: list[str]) -> tuple[int, str]:
    """The exit status of a command with this standard output, and what it says on standard error."""
    command = [sys.executable, "-m", "aider_guard", *words]
    done = subprocess.run(
        command,
        env=user.environment(),
        cwd=user.home,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_guards(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """It says how to call it, the settings and the commands; the status is 0."""
    assert cli.run([flag]) == 0
    output = capsys.readouterr().out
    for word in ("[OPTIONS] [--] [AIDER ARGS]", "--num-ctx N", "status", "restart", "demo"):
        assert word in output


def test_version_is_the_guards(user: User) -> None:
    """One line with the name and the number."""
    process = user.run("--version")
    assert (process.returncode, process.stdout) == (0, f"aider-guard, version {__version__}\n")


SPLITS: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["--"], []),
    (["--", "a.py"], ["a.py"]),
    (["a.py", "b.py"], ["a.py", "b.py"]),
    (["--model", "m", "a b.py"], ["--model", "m", "a b.py"]),
    (["--model=m"], ["--model=m"]),
    (["-m", "hi"], ["-m", "hi"]),
    (["--warn-at", "70", "--", "--help"], ["--help"]),
    (["--warn-at=70", "--model", "m"], ["--model", "m"]),
    (["--", "--version"], ["--version"]),
    (["--", "status", "--json"], ["status", "--json"]),
    (["--", "--warn-at", "nonsense"], ["--warn-at", "nonsense"]),
    (["--", "--", "-x"], ["--", "-x"]),
    (["--model", "m", "--", "b.py"], ["--model", "m", "b.py"]),
    (["--", "statsu"], ["statsu"]),
    (["stats.py"], ["stats.py"]),
    (["--map-tokens", "0"], ["--map-tokens", "0"]),
    (["", "--model"], ["", "--model"]),
]


@pytest.mark.parametrize(("arguments", "aiders"), SPLITS, ids=[" ".join(s[0]) for s in SPLITS])
def test_what_is_not_the_guards_is_aiders(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], aiders: list[str]
) -> None:
    """Everything after a --, and everything from the first word on that is none of the guard's, untouched."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        cli, "guarded_session", lambda words, _flags, **_: started.append(list(words))
    )
    assert cli.run(arguments) == 0
    assert started == [aiders]


def test_flags_before_aiders_words_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, with None where they were not given."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(cli, "guarded_session", lambda _words, flags, **_: given.append(flags))
    cli.run(["--warn-at", "70", "--keep=0.2", "--model", "m", "-x", "3"])
    assert {name: value for name, value in given[0].items() if value} == {
        "warn-at": "70",
        "keep": "0.2",
    }


def test_each_allow_is_a_place_and_the_required_gap_is_a_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The places of all flags together; a switch that was not given says nothing."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(cli, "guarded_session", lambda _words, flags, **_: given.append(flags))
    cli.run(["--allow", "a:1", "--allow=b:2", "--require-airgap", "--model", "m"])
    cli.run(["--model", "m"])
    assert [(one["allow"], one["require-airgap"]) for one in given] == [
        ("a:1,b:2", True),
        (None, None),
    ]


def test_a_wrong_place_is_one_sentence(user: User) -> None:
    """The list as it was given, and what it takes."""
    process = user.run("--allow", "github.com:22", "--allow", "github.com")
    assert (process.returncode, process.stdout) == (64, "")
    assert process.stderr == (
        "aider-guard: the flag --allow is 'github.com:22,github.com':"
        " it takes places as HOST:PORT, such as github.com:22, and complete paths of sockets\n"
    )


def test_aider_gets_its_words_and_our_files(user: User) -> None:
    """Without a terminal it inherits what we have: its output is our output, and its errors are our errors."""
    process = user.run("--max-turns", "3", "--model", "m", "--", "a b.py", "--x")
    assert json.loads(process.stdout) == ["--model", "m", "a b.py", "--x"]
    assert (process.returncode, process.stderr) == (0, "on stderr\n")


@pytest.mark.parametrize(("word", "status"), [("0", 0), ("1", 1), ("7", 7), ("die", 137)])
def test_the_status_is_aiders(user: User, word: str, status: int) -> None:
    """Or 128 and the signal that killed it."""
    assert user.run("--", word).returncode == status


def test_a_bad_setting_is_one_sentence(user: User) -> None:
    """On standard error, with status 64, and Aider is not started."""
    process = user.run("--warn-at", "200", "--", "a.py")
    assert (process.returncode, process.stdout) == (64, "")
    assert (
        process.stderr
        == "aider-guard: the flag --warn-at is '200': it takes a whole number from 10 to 99\n"
    )


def test_a_flag_without_its_value_is_a_usage_error(user: User) -> None:
    """The words are click's, the status is ours: it must not be taken for Aider's 2."""
    process = user.run("--num-ctx")
    assert process.returncode == 64
    assert "--num-ctx" in process.stderr


def test_a_missing_aider_is_one_sentence(user: User) -> None:
    """With the way to get it, and status 78."""
    process = user.run("--aider", "/nowhere/aider")
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (78, "", 1)
    assert "pipx install aider-chat" in process.stderr


def test_the_projects_settings_are_read(user: User) -> None:
    """From the git root of the folder it is called in, with the file's name where they are wrong."""
    (user.home / ".git").mkdir()
    (user.home / ".aider-guard.toml").write_text("max-turns = -1\n")
    process = user.run()
    assert process.returncode == 64
    assert f"max-turns in {user.home / '.aider-guard.toml'} is -1" in process.stderr


# Sessions that run


@contextmanager
def session(
    user: User, name: str, posted: list[Event], folder: str = "/elsewhere"
) -> Iterator[str]:
    """A session of this process that answers on its socket; its id."""
    sessions = user.state / "sessions"
    (sessions / name).mkdir(parents=True)
    found = registry.SessionFolder(sessions / name, os.getpid(), 0.0, folder, "")
    stop = threading.Event()
    with ExitStack() as stack:
        listener, path = stack.enter_context(control_socket(found.path))
        loop = stack.enter_context(Loop())
        recorded = registry.record(found, path)
        control = Control(
            listener,
            loop,
            status=lambda: session_facts(
                State(), session_id=recorded.id, pid=recorded.pid, folder=folder
            ),
            post=posted.append,
        )
        stack.callback(control.close)
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        loop.watch(theirs.fileno(), READ, lambda _events: stop.set())
        thread = threading.Thread(target=loop.run, args=(stop.is_set,))
        thread.start()
        stack.callback(theirs.close)
        stack.callback(thread.join)
        stack.callback(ours.send, b"stop")
        yield recorded.id


NONE = [((), "no session is running\n"), (("--line",), "no session\n")]


@pytest.mark.parametrize(("flags", "text"), NONE)
def test_status_without_a_session(user: User, flags: tuple[str, ...], text: str) -> None:
    """It says so, and that is no error; a folder that was never made is none either."""
    process = user.run("status", *flags)
    assert (process.returncode, process.stdout, process.stderr) == (0, text, "")
    assert json.loads(user.run("status", "--json").stdout) == {"sessions": []}


def test_status_shows_each_session_that_runs(user: User) -> None:
    """As a table, as a line, and as JSON with the keys that are promised; one that ended is left out."""
    gone = user.state / "sessions" / "20200101-000000-1"
    gone.mkdir(parents=True)
    facts = {"pid": os.getpid(), "started": 1.0, "working_directory": "/", "socket": "/s"}
    (gone / "session.json").write_text(json.dumps(facts))
    with session(user, "a-1", []), session(user, "b-2", []):
        output: list[dict[str, Any]] = json.loads(user.run("status", "--json").stdout)["sessions"]
        table, line = user.run("status").stdout, user.run("status", "--line").stdout
    assert [one["id"] for one in output] == ["a-1", "b-2"]
    assert set(output[0]) == {
        *("id", "pid", "phase", "turns", "used_tokens", "window_tokens", "fill_percent"),
        *("turns_until_restart", "parts", "drop_command", "reserve_tokens"),
        *("used_is_measured", "memory", "models", "restarts", "last_notice", "folder", "model"),
        *("reading", "last_turn"),
    }
    assert (output[0]["pid"], output[0]["phase"], output[0]["memory"]) == (
        os.getpid(),
        "starting",
        None,
    )
    assert table.count("session   ") == 2
    assert line == "aider starting - turn 0  aider starting - turn 0\n"


def test_a_session_that_does_not_answer_is_left_out(user: User) -> None:
    """Its process runs, but nothing listens on its socket."""
    folder = user.state / "sessions" / "a-1"
    folder.mkdir(parents=True)
    registry.record(registry.SessionFolder(folder, os.getpid(), 0.0, "/", ""), str(folder / "gone"))
    assert json.loads(user.run("status", "--json").stdout) == {"sessions": []}
    process = user.run("restart")
    assert (process.returncode, process.stderr) == (
        64,
        "aider-guard: the session a-1 does not answer\n",
    )


def test_restart_reaches_the_session(user: User) -> None:
    """The only one there is, without its name."""
    posted: list[Event] = []
    with session(user, "a-1", posted):
        process = user.run("restart")
    assert (process.returncode, process.stdout) == (
        0,
        "Aider restarts at its next idle prompt (a-1)\n",
    )
    assert posted == [RestartRequested()]


def test_restart_of_several_needs_a_name_or_a_folder(user: User) -> None:
    """The one that was named, else the one of this folder; never a guess."""
    first: list[Event] = []
    second: list[Event] = []
    with session(user, "a-1", first), session(user, "b-2", second):
        unsure = user.run("restart")
        assert (unsure.returncode, "name one: a-1, b-2" in unsure.stderr) == (64, True)
        assert user.run("restart", "b-2").returncode == 0
        assert (first, second) == ([], [RestartRequested()])
        with session(user, "c-3", first, folder=str(user.home)):
            assert "(c-3)" in user.run("restart").stdout
    assert first == [RestartRequested()]


def test_a_session_is_found_by_its_folder(user: User) -> None:
    """By any way to write it; one that is no session's is none."""
    posted: list[Event] = []
    (user.home / "a").mkdir()
    folder = str(user.home / "a")
    with session(user, "a-1", posted, folder), session(user, "b-2", [], "/elsewhere"):
        shown = user.run("status", "a/").stdout
        assert f"session   a-1  (process {os.getpid()})\nfolder    {folder}\n" in shown
        assert "b-2" not in shown
        assert user.run("restart", f"{folder}/../a").returncode == 0
        assert user.run("status", "b").stdout == "no session b is running; these are: a-1, b-2\n"
    assert posted == [RestartRequested()]


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that was stopped, as a session is by Ctrl-Z."""
    with subprocess.Popen(["sleep", "600"]) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process.pid
        process.kill()


def test_a_stopped_session_is_said_to_be_stopped(user: User, stopped: int) -> None:
    """At once: it would not answer."""
    folder = user.state / "sessions" / "20260101-000000-1"
    folder.mkdir(parents=True)
    registry.record(registry.SessionFolder(folder, stopped, 0.0, "/repo", ""), "/nowhere")
    shown = user.run("status").stdout
    assert "folder    /repo\nAider     stopped; fg in its terminal continues it\n" in shown
    assert user.run("status", "--line").stdout == "aider stopped\n"
    (facts,) = json.loads(user.run("status", "--json").stdout)["sessions"]
    assert (facts["phase"], facts["turns"], facts["folder"]) == ("stopped", None, "/repo")
    asked = user.run("restart")
    assert (asked.returncode, "is stopped; fg in its terminal" in asked.stderr) == (64, True)


def test_restart_without_a_session_says_so(user: User) -> None:
    """None at all, and none of that name: then those that run are listed."""
    assert user.run("restart").stderr == "aider-guard: no session is running\n"
    with session(user, "a-1", []), session(user, "b-2", []):
        process = user.run("restart", "x")
    said = "aider-guard: no session x is running; these are: a-1, b-2\n"
    assert (process.returncode, process.stderr) == (64, said)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--", "a.py"], ["--show"], ["doctor"], ["fit", "qwen3:8b"], ["init"], ["status"]),
        *(["status", "--line"], ["restart"], ["demo", "--remove"], ["--", "--message", "hi"], []),
    ],
)
def test_a_working_folder_that_was_removed_is_said_in_one_sentence(
    user: User, arguments: list[str]
) -> None:
    """By every command, and Aider is not started."""
    gone = user.home / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "aider_guard", *arguments]
    process = subprocess.run(
        ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", str(gone), *command],
        env={**os.environ, "HOME": str(user.home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "aider-guard: the folder you are in was removed; cd to one that exists\n"
    assert (process.returncode, process.stdout) == (78, "")
    assert process.stderr.splitlines(keepends=True)[-1] == expected


def test_a_state_folder_that_others_may_write_into_is_not_used(user: User) -> None:
    """The sentence has the command that helps, which helps."""
    user.state.mkdir()
    user.state.chmod(0o777)
    process = user.run("--", "0")
    assert process.returncode == 78
    assert process.stderr == (
        f"aider-guard: other users may write into {user.state}; chmod go-w {user.state} ends that\n"
    )
    user.state.chmod(0o755)
    assert user.run("--", "0").returncode == 0


@pytest.mark.parametrize("words", COMMANDS_THAT_PRINT, ids=" ".join)
def test_a_reader_that_leaves_ends_it_quietly(user: User, words: list[str]) -> None:
    """As it ends other programs: ``aider-guard config show | head -1`` is no fault."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert status_on(user, writing, words) == (128 + signal.SIGPIPE, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
@pytest.mark.parametrize("words", COMMANDS_THAT_PRINT, ids=" ".join)
def test_an_output_that_cannot_be_written_is_said(user: User, words: list[str]) -> None:
    """A full disk under a file that the output goes to."""
    with Path("/dev/full").open("wb") as full:
        said = "aider-guard: the output cannot be written: No space left on device\n"
        assert status_on(user, full.fileno(), words) == (70, said)
