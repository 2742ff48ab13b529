"""The child's start, signals, modes and end, with real processes on real ptys."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import termios
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from ptys import CAP_SECONDS, child

from aider_guard.errors import LaunchError
from aider_guard.session.child import UNKNOWN_STATUS, Child, LineModes
from aider_guard.session.terminal import Size

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(24, 80)


def start(argv: list[str], **options: Any) -> Child:
    return Child.spawn(argv, size=options.pop("size", SIZE), env=os.environ, **options)


def read_until(running: Child, wanted: bytes = b"") -> bytes:
    """Read from the child until ``wanted`` was seen, or to its end."""
    data = b""
    while not wanted or wanted not in data:
        assert select.select([running.fd], [], [], CAP_SECONDS)[0], data
        try:
            data += os.read(running.fd, 65536)
        except OSError:
            return data
    return data


def report(argv: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """What a child that was started like this found."""
    with start(child("reports_start") if argv is None else argv, **options) as running:
        found: dict[str, Any] = json.loads(read_until(running))
        assert running.wait(CAP_SECONDS) == 0
    return found


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
        assert read_until(running) == b"lone\r\n"


def test_folder_and_environment(tmp_path: Path) -> None:
    """The child starts in the folder, and with the whole environment, that it was given."""
    env = {"PATH": os.environ["PATH"], "ONLY": "this"}
    with Child.spawn(child("reports_start"), size=SIZE, env=env, cwd=str(tmp_path)) as running:
        found = json.loads(read_until(running))

    assert found["cwd"] == os.path.realpath(tmp_path)
    assert {name: found["env"].get(name) for name in env} == env
    assert "HOME" not in found["env"]


def test_the_users_attributes() -> None:
    """``stty -a`` says inside what it says outside."""
    master, slave = os.openpty()
    with os.fdopen(master, "rb", 0), os.fdopen(slave, "rb", 0):
        attributes = termios.tcgetattr(slave)
    attributes[0] |= termios.IXANY
    attributes[3] &= ~termios.ECHOCTL
    attributes[6][termios.VERASE] = b"\x08"

    found = report(attributes=attributes)["attributes"]

    wanted = [*attributes[:6], [c.hex() for c in attributes[6]]]
    assert found == wanted


def test_signals_are_those_of_the_start() -> None:
    """What the guard ignores or holds back for itself, the child does not inherit."""
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    handled = signal.signal(signal.SIGTERM, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        found = report()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, handled)
        signal.signal(signal.SIGUSR1, ignored)

    assert signal.SIGUSR1 not in found["ignored"]
    assert found["blocked"] == sorted(mask)


def test_only_the_descriptors_passed_are_open() -> None:
    """A descriptor to pass keeps its number; no other one is open in the child."""
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb", 0), os.fdopen(sender, "wb", 0):
        os.set_inheritable(receiver, True)
        found = report(pass_fds=[sender])

    assert found["open"] == [sender]


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
    before = psutil.Process().num_fds()

    with pytest.raises(LaunchError) as caught:
        start([program], **options)

    assert str(caught.value).endswith(sentence)
    assert psutil.Process().children() == []
    assert psutil.Process().num_fds() == before


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """What the kernel refuses to execute is told in the kernel's words."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x00\x01\x02")
    nonsense.chmod(0o755)

    with pytest.raises(LaunchError, match="Exec format error"):
        start([str(nonsense)])


def test_the_size_is_there_at_once() -> None:
    """The first thing the child sees is the whole size; no SIGWINCH corrects it afterwards."""
    with start(child("sigwinch_report"), size=Size(31, 99, 800, 600)) as running:
        assert read_until(running, b"\n") == b"START 31 99 800 600\r\n"
        running.resize(Size(31, 99, 900, 600))
        assert read_until(running, b"\n") == b"WINCH 31 99 900 600\r\n"


@pytest.mark.parametrize("status", [0, 7, 255, -signal.SIGTERM, -signal.SIGKILL])
def test_exit_status(status: int) -> None:
    """The status is the child's own, minus the signal that killed it, and is remembered."""
    with start(child("exits_with", status)) as running:
        read_until(running)
        assert running.wait(CAP_SECONDS) == status
        assert running.poll() == status


def test_a_status_that_is_lost() -> None:
    """When something else has waited for the child, its status is 255, not success."""
    with start(child("exits_with", 0)) as running:
        os.waitpid(running.pid, 0)
        assert running.poll() == UNKNOWN_STATUS


def test_poll_never_blocks(tmp_path: Path) -> None:
    """A child that closed its terminal and lives on is running, and asking does not wait for it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with start(child("closes_tty_and_lives", fifo)) as running:
        with fifo.open("wb", 0):
            assert read_until(running) == b"READY\r\n"
            assert running.poll() is None
        assert running.wait(CAP_SECONDS) == 5


def test_signals_reach_the_group() -> None:
    """A signal goes to the child and to what it has started; sent after its end, it is nothing."""
    with start(["sh", "-c", "sleep 100; echo never"]) as running:
        while len(running.survivors()) < 2:
            assert running.poll() is None
        running.signal(signal.SIGTERM)
        assert running.wait(CAP_SECONDS) == -signal.SIGTERM
        running.signal(signal.SIGTERM)


def test_line_modes() -> None:
    """The modes of the pty as the child has set them; none once the pty is closed."""
    with start(child("echo_raw", 1)) as running:
        read_until(running, b"READY")
        raw = running.line_modes()
    with start(["cat"]) as running:
        cooked = running.line_modes()

    match raw, cooked:
        case LineModes() as found, LineModes() as user:
            assert found == LineModes(
                canonical=False, echo=False, signals=False, post_processing=False, suspend_byte=0x1A
            )
            assert user == LineModes(
                canonical=True, echo=True, signals=True, post_processing=True, suspend_byte=0x1A
            )
        case _:
            pytest.fail(f"{raw} {cooked}")
    assert running.line_modes() is None


def test_no_suspend_key() -> None:
    """A suspend character that was disabled (``stty susp undef``) is told as -1."""
    with start(["cat"]) as running:
        attributes = termios.tcgetattr(running.fd)
        attributes[6][termios.VSUSP] = os.fpathconf(running.fd, "PC_VDISABLE").to_bytes(1, "big")
        termios.tcsetattr(running.fd, termios.TCSANOW, attributes)
        modes = running.line_modes()

    assert modes is not None
    assert modes.suspend_byte == -1


@pytest.mark.parametrize("error", [False, True])
def test_nothing_is_left_running(*, error: bool) -> None:
    """Leaving the block ends a child that ignores every polite signal, and what it started."""
    running = start(["sh", "-c", "trap '' HUP TERM; sleep 100 & sleep 100"])
    with contextlib.suppress(ZeroDivisionError), running:
        while len(running.survivors()) < 3:
            assert running.poll() is None
        _ = 1 // (not error)

    assert running.poll() == -signal.SIGKILL
    assert running.survivors() == []
    assert running.fd == -1


def test_a_stopped_child_is_ended_too() -> None:
    """A child that is stopped gets to see the hang-up."""
    with start(["cat"]) as running:
        running.signal(signal.SIGSTOP)

    assert running.poll() == -signal.SIGHUP


def test_what_an_ended_child_left_running_is_left_alone() -> None:
    """A background process of a child that ended by itself lives on, as without the guard."""
    with start(["sh", "-c", "trap '' HUP; sleep 100 & echo $!"]) as running:
        pid = int(read_until(running, b"\n"))
        assert running.wait(CAP_SECONDS) == 0

    try:
        assert running.survivors() == [pid]
    finally:
        running.kill_group()


def test_closing_twice() -> None:
    """Closing is done once; the descriptor's number is never closed again when it is reused."""
    with start(["cat"]) as running:
        fd = running.fd
        running.close()
        reused = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, fd)
        running.close()
        running.resize(SIZE)

    assert reused == fd
    os.close(reused)
