"""What a child finds at its start, and starts that fail, with real processes on real ptys."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import termios
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from session.ptys import CAP_SECONDS, child, read_until

from aider_guard.errors import LaunchError
from aider_guard.session.aider_process import Child
from aider_guard.session.terminal import Size

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(24, 80)


def start(argv: list[str], **options: Any) -> Child:
    return Child.spawn(argv, size=options.pop("size", SIZE), env=os.environ, **options)


def report(argv: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """The report of a child that was started like this."""
    with start(child("reports_start") if argv is None else argv, **options) as running:
        observed: dict[str, Any] = json.loads(read_until(running.fd))
        assert running.wait(CAP_SECONDS) == 0
    return observed


def test_leads_its_session() -> None:
    """The child leads a session and the foreground of its own terminal, so that ^C reaches it."""
    assert report()["leader"] is True


def test_arguments_are_handed_on_as_they_are(tmp_path: Path) -> None:
    """Blanks, quotes and an empty argument arrive; a lone command is not split at its blanks."""
    lone = tmp_path / "a program"
    lone.write_text(f"#!{sys.executable}\nprint('lone')\n")
    lone.chmod(0o755)

    assert report([*child("reports_start"), "a b", "", "'"])["argv"] == ["a b", "", "'"]
    with start([str(lone)]) as running:
        assert read_until(running.fd) == b"lone\r\n"


def test_folder_and_environment(tmp_path: Path) -> None:
    """The child starts in the folder, and with the whole environment, that it was given."""
    env = {"PATH": os.environ["PATH"], "ONLY": "this"}
    with Child.spawn(child("reports_start"), size=SIZE, env=env, cwd=str(tmp_path)) as running:
        observed = json.loads(read_until(running.fd))

    assert observed["cwd"] == os.path.realpath(tmp_path)
    assert {name: observed["env"].get(name) for name in env} == env
    assert "HOME" not in observed["env"]


def test_the_users_attributes() -> None:
    """``stty -a`` says inside what it says outside."""
    master, slave = os.openpty()
    with os.fdopen(master, "rb", 0), os.fdopen(slave, "rb", 0):
        attributes = termios.tcgetattr(slave)
    attributes[0] |= termios.IXANY
    attributes[3] &= ~termios.ECHOCTL
    attributes[6][termios.VERASE] = b"\x08"

    observed = report(attributes=attributes)["attributes"]

    wanted = [*attributes[:6], [c.hex() for c in attributes[6]]]
    assert observed == wanted


def test_signals_are_those_of_the_start() -> None:
    """What the guard ignores or holds back for itself, the child does not inherit."""
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    handled = signal.signal(signal.SIGTERM, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        observed = report()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, handled)
        signal.signal(signal.SIGUSR1, ignored)

    assert signal.SIGUSR1 not in observed["ignored"]
    assert observed["blocked"] == sorted(mask)


def test_only_the_descriptors_passed_are_open() -> None:
    """A descriptor to pass keeps its number; no other one is open in the child."""
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb", 0), os.fdopen(sender, "wb", 0):
        os.set_inheritable(receiver, True)
        observed = report(pass_fds=[sender])

    assert observed["open"] == [sender]


def test_preexec_runs_in_the_child_only() -> None:
    """``preexec`` runs in the fork, after the folder and the signals are set."""
    assert report(preexec=lambda: os.chdir("/"))["cwd"] == "/"
    assert os.getcwd() != "/"


def raise_system_exit() -> None:
    raise SystemExit(3)


def raise_os_error() -> None:
    raise PermissionError(1, "Operation not permitted")


FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "absent": ("no-such-program", {}, "no-such-program cannot be started: it was not found."),
    "absent path": ("/no/such", {}, "/no/such cannot be started: it was not found."),
    "not executable": (__file__, {}, "cannot be started: it is not executable."),
    "folder": ("true", {"cwd": "/no/such"}, "cannot be started: No such file or directory."),
    "exit": ("true", {"preexec": raise_system_exit}, "true cannot be started: 3."),
    "kernel": ("true", {"preexec": raise_os_error}, "started: Operation not permitted."),
}


@pytest.mark.parametrize(("program", "options", "sentence"), FAILURES.values(), ids=FAILURES.keys())
def test_cannot_be_started(program: str, options: dict[str, Any], sentence: str) -> None:
    """A start that fails is one clear sentence; neither a process nor a descriptor is left."""
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before, others = psutil.Process().num_fds(), psutil.Process().children()

    with pytest.raises(LaunchError) as caught:
        start([program], **options)

    assert str(caught.value).endswith(sentence)
    assert psutil.Process().children() == others
    assert psutil.Process().num_fds() == before


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """What the kernel refuses to execute is reported in the kernel's words."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x00\x01\x02")
    nonsense.chmod(0o755)

    with pytest.raises(LaunchError, match="Exec format error"):
        start([str(nonsense)])


def test_the_size_is_there_at_once() -> None:
    """The first thing the child sees is the whole size; no SIGWINCH corrects it afterwards."""
    with start(child("sigwinch_report"), size=Size(31, 99, 800, 600)) as running:
        assert read_until(running.fd, b"\n") == b"START 31 99 800 600\r\n"
        running.resize(Size(31, 99, 900, 600))
        assert read_until(running.fd, b"\n") == b"WINCH 31 99 900 600\r\n"
