"""A person sees and does the same through a guard as without one: byte for byte, on real ptys.

``GUARD`` is the command under test; what follows it is the child's command line.
"""

from __future__ import annotations

import os
import signal
import termios
from typing import TYPE_CHECKING

import psutil
import pytest
from session.ptys import MINI_GUARD, Person, child

if TYPE_CHECKING:
    from pathlib import Path

GUARD = (*MINI_GUARD, "--")
CRASHING_GUARD = (*MINI_GUARD, "--crash-on-key", "--")
BYTES = bytes(range(256))
RESET = b"\x1b[?2004l\x1b[?1049l\x1b[0m\x1b[?25h"


def counted(size: int) -> bytes:
    return b"".join(b"%09d " % i for i in range(size // 10))


@pytest.mark.parametrize(
    ("runs", "size"),
    [
        (200, 20_000),
        pytest.param(200, 1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_the_end_of_the_output(runs: int, size: int, tmp_path: Path) -> None:
    """What a child writes just before it exits is complete, in each of the runs."""
    text = tmp_path / "text"
    text.write_bytes(counted(size))
    whole = 0
    with Person([*MINI_GUARD, "--repeat", str(runs), "--", "cat", str(text)]) as person:
        while whole < runs:
            person.until(lambda: len(person.shown) >= size)
            assert person.shown[:size] == counted(size), f"run {whole + 1}"
            del person.shown[:size]
            whole += 1
        assert person.finish() == 0
        assert person.shown == b""

    assert whole == runs


def test_every_byte_is_shown() -> None:
    """All byte values that the child writes reach the terminal, in every neighbourhood tried."""
    expected = b"".join(bytes((i * step) % 256 for i in range(256)) for step in range(1, 64, 2))
    with Person([*GUARD, *child("dumps_bytes")]) as person:
        assert person.finish() == 0
        assert person.shown == expected


def test_every_byte_typed_arrives() -> None:
    """All byte values typed reach the child, once each, alone and together."""
    with Person([*GUARD, *child("echo_raw", 512)]) as person:
        person.until(b"READY")
        for value in BYTES:
            person.type(bytes([value]))
        person.type(BYTES)
        assert person.finish() == 0
        assert person.shown == b"READY" + BYTES + BYTES


def test_a_large_paste_while_the_child_prints() -> None:
    """Two megabytes pasted while the child prints them back, unread for a while, are complete."""
    paste = counted(2_000_000)
    with Person([*GUARD, *child("echo_raw", len(paste))]) as person:
        person.until(b"READY")
        typed = person.paste_without_looking(paste)
        assert 0 < typed < len(paste)  # both sides are full: the deadlock of a naive relay
        person.type(paste[typed:])
        assert person.finish() == 0
        assert person.shown == b"READY" + paste


def test_the_size() -> None:
    """The child has the terminal's size from the start and at each resize, pixels included."""
    with Person([*GUARD, *child("sigwinch_report")], size=(31, 99, 800, 600)) as person:
        person.until(b"START 31 99 800 600\r\n")
        for size in [(40, 132, 1320, 800), (40, 132, 1300, 800), (5, 20, 0, 0)]:
            person.resize(size)
            person.until(b"WINCH %d %d %d %d\r\n" % size)
        person.type(b"q")
        assert person.finish() == 0


def test_type_ahead() -> None:
    """What was typed before the guard started, and before the child read, reaches the child."""
    with Person([*GUARD, *child("echo_raw", 11)], type_ahead=b"git ") as person:
        person.type(b"status\n")
        assert person.finish() == 0
        assert person.shown.endswith(b"READYgit status\n")


def test_type_ahead_for_the_shell() -> None:
    """What was typed and not read by the child is there for the next reader of the terminal."""
    with Person([*GUARD, *child("exits_with", 0)], type_ahead=b"") as person:
        assert person.finish() == 0
        person.type(b"ls\n")
        assert os.read(person.tty, 100) == b"ls\n"


@pytest.mark.parametrize(
    ("status", "outside"), [(0, 0), (7, 7), (255, 255), (-15, 143), (-9, 137), (-2, 130)]
)
def test_the_exit_status(status: int, outside: int) -> None:
    """The exit status is the child's, or 128 + the signal that killed it."""
    with Person([*GUARD, *child("exits_with", status)]) as person:
        assert person.finish() == outside
        assert person.shown == b"READY\r\n"


def test_control_keys_reach_the_child() -> None:
    """^C and ^\\ are the child's: in its own terminal modes they end it as without a guard."""
    for key, outside in ((b"\x03", 130), (b"\x1c", 131)):
        with Person([*GUARD, "sh", "-c", "echo READY; exec cat"]) as person:
            person.until(b"READY\r\n")
            person.type(key)
            assert person.finish() == outside


def test_the_end_of_input_reaches_the_child() -> None:
    """^D ends the input of a child that reads lines."""
    with Person([*GUARD, "sh", "-c", "echo READY; cat; echo over"]) as person:
        person.until(b"READY\r\n")
        person.type(b"line\n\x04")
        assert person.finish() == 0
        assert person.shown == b"READY\r\nline\r\nline\r\nover\r\n"


def test_the_modes_inside_are_the_users() -> None:
    """``stty -a`` prints inside what it printed in the user's terminal before, odd settings included."""
    with Person(["true"]) as person:
        person.finish()
        plain = person.attributes()
    plain[3] &= ~termios.ECHOCTL
    plain[6][termios.VERASE] = b"\x08"

    def set_odd_modes() -> None:
        termios.tcsetattr(0, termios.TCSANOW, plain)

    outputs = []
    for guard in ((), GUARD):
        with Person([*guard, "stty", "-a"], prepare=set_odd_modes, size=(24, 80, 0, 0)) as person:
            assert person.finish() == 0
            assert person.attributes() == plain
            outputs.append(bytes(person.shown))

    assert outputs[0] == outputs[1]
    assert b"erase = ^H" in outputs[0]


ENDS = {
    "normal exit": (GUARD, child("exits_with", 0), None, 0),
    "exception in the guard": (CRASHING_GUARD, child("leaves_modes_on"), b"x", 1),
    "SIGTERM": (GUARD, child("leaves_modes_on"), signal.SIGTERM, 143),
    "SIGHUP": (GUARD, child("leaves_modes_on"), signal.SIGHUP, 129),
    "SIGTERM, a child that ignores it": (GUARD, child("ignores_term"), signal.SIGTERM, 143),
    "child killed": (GUARD, child("leaves_modes_on"), "kill", 137),
}


@pytest.mark.parametrize(("guard", "command", "end", "status"), ENDS.values(), ids=ENDS.keys())
def test_the_terminal_is_left_as_it_was(
    guard: tuple[str, ...], command: list[str], end: bytes | str | int | None, status: int
) -> None:
    """However it ends, the modes are exactly those of before, and no process is left."""
    with Person([*guard, *command]) as person:
        before = person.attributes()
        person.until(b"READY")
        match end:
            case bytes():
                person.type(end)
            case int():
                assert person.attributes() != before
                os.kill(person.process.pid, end)
            case str():
                person.until(b"\r\n")
                pid = int(person.shown.split(b"READY")[1].split()[0])
                os.kill(pid, signal.SIGKILL)
            case None:
                pass
        assert person.finish() == status
        assert person.attributes() == before
        assert person.left() == []
        if command == child("leaves_modes_on") and guard is GUARD:
            assert person.shown.endswith(RESET)


def test_a_guard_that_is_killed_leaves_no_process() -> None:
    """After kill -9 of the guard its child loses the terminal, and ends."""
    with Person([*GUARD, *child("leaves_modes_on")]) as person:
        person.until(b"READY")
        person.process.kill()
        assert person.finish() == -signal.SIGKILL
        person.until(lambda: person.left() == [])


@pytest.mark.parametrize("ignored", [False, True], ids=["SIGHUP", "under nohup"])
def test_the_terminal_hangs_up(*, ignored: bool) -> None:
    """When the terminal goes away the guard and its child end, without spinning until then."""

    def prepare() -> None:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Person([*GUARD, *child("ignores_term")], prepare=prepare) as person:
        person.until(b"READY")
        person.until(b"\r\n")
        guard = psutil.Process(person.process.pid)
        # What the child has used is the guard's once it was waited for.
        before = sum(sum(process.cpu_times()[:2]) for process in (guard, *guard.children()))
        person.hang_up()
        status, cpu_seconds = person.wait()
        assert person.left() == []

    assert status == 128 + signal.SIGHUP
    assert cpu_seconds - before < 0.2  # of the half second that the child is given


def test_a_child_that_closes_its_terminal(tmp_path: Path) -> None:
    """A child without a terminal is waited for, without spinning, and its status is the status."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Person([*GUARD, *child("closes_tty_and_lives", fifo)]) as person:
        with fifo.open("wb", 0):
            person.until(b"READY\r\n")
            guard = psutil.Process(person.process.pid)
            before = sum(guard.cpu_times()[:2])
            person.pump(seconds=0.5)
            assert sum(guard.cpu_times()[:2]) - before < 0.2  # of the half second
        assert person.finish() == 5


def test_idle_is_idle() -> None:
    """With nothing to do the guard sleeps: it does not look around every now and then."""
    with Person([*GUARD, *child("echo_raw", 1)]) as person:
        person.until(b"READY")
        guard = psutil.Process(person.process.pid)

        def switches_in_a_second() -> int:
            before = sum(guard.num_ctx_switches())
            person.pump(seconds=1)
            return sum(guard.num_ctx_switches()) - before

        # The last of its start comes as late as a busy machine lets it.
        assert any(switches_in_a_second() < 5 for _ in range(3))
        person.type(b"x")
        assert person.finish() == 0
