"""The child's start, signals, modes and end, with real processes on real ptys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from session.ptys import CAP_SECONDS, child, read_until

from aider_guard.loop import Loop
from aider_guard.session.aider_process import UNKNOWN_STATUS, AiderProcess, Child, LineModes
from aider_guard.session.relay import Relay
from aider_guard.session.terminal import Size, Terminal

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(24, 80)


def start(argv: list[str], **options: Any) -> Child:
    return Child.spawn(argv, size=options.pop("size", SIZE), env=os.environ, **options)


@pytest.mark.parametrize("status", [0, 7, 255, -signal.SIGTERM, -signal.SIGKILL])
def test_exit_status(status: int) -> None:
    """The status is the child's own, minus the signal that killed it, and is remembered."""
    with start(child("exits_with", status)) as running:
        read_until(running.fd)
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
            assert read_until(running.fd) == b"READY\r\n"
            assert running.poll() is None
        assert running.wait(CAP_SECONDS) == 5


def test_signals_reach_the_group() -> None:
    """A signal goes to what the child runs as well; sent after the child's end, it is nothing."""
    with start(["sh", "-c", "trap : TERM; sleep 100; exit 9"]) as running:
        while not any(psutil.Process(pid).name() == "sleep" for pid in running.survivors()):
            assert running.poll() is None
        running.signal(signal.SIGTERM)
        assert running.wait(CAP_SECONDS) == 9
        running.signal(signal.SIGTERM)


def test_line_modes() -> None:
    """The modes of the pty as the child has set them; none once the pty is closed."""
    with start(child("echo_raw", 1)) as running:
        read_until(running.fd, b"READY")
        raw = running.line_modes()
    with start(["cat"]) as running:
        cooked = running.line_modes()

    match raw, cooked:
        case LineModes() as set_by_child, LineModes() as user:
            assert set_by_child == LineModes(
                canonical=False, echo=False, signals=False, post_processing=False, suspend_byte=0x1A
            )
            assert user == LineModes(
                canonical=True, echo=True, signals=True, post_processing=True, suspend_byte=0x1A
            )
        case _:
            pytest.fail(f"{raw} {cooked}")
    assert running.line_modes() is None


def test_no_suspend_key() -> None:
    """A suspend character that was disabled (``stty susp undef``) is reported as -1."""
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
        pid = int(read_until(running.fd, b"\n"))
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


def ended(argv: list[str]) -> tuple[int, bytes, list[int]]:
    """The status of a child that is relayed, all that was taken of it, and what it left running."""
    relay, shown = Relay(0, 1), bytearray()
    with Loop() as loop, AiderProcess(Terminal(), relay, loop) as aider:
        running = start(argv)
        aider.on_output = shown.extend
        aider.adopt(running)
        while (status := aider.reap()) is None:
            loop.run_once(0.05)
        left = running.survivors()
        running.kill_group()
        assert aider.child is None
    return status, bytes(shown), left


def test_all_output_is_taken_before_the_end() -> None:
    """What a child wrote before its end is taken, however much it is; only then it counts as ended."""
    status, shown, _ = ended(child("prints_1mb_and_exits", 40_000))
    assert (status, shown) == (0, b"".join(b"%09d " % i for i in range(4000)))


def test_a_process_that_holds_the_pty_is_not_waited_for() -> None:
    """The child's own output is complete, and what it left in the background runs on."""
    status, shown, left = ended(["sh", "-c", "trap '' HUP; sleep 100 & echo done"])
    assert (status, shown, len(left)) == (0, b"done\r\n", 1)
