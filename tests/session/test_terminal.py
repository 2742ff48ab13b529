"""The terminal's size and modes, and private ways in and out of it, on real ptys."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from session.ptys import CHILDREN, Person

from aider_guard.errors import TerminalError
from aider_guard.session.terminal import Size, Terminal, put_size

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    """The emulator's and the program's end of a new terminal."""
    master, slave = os.openpty()
    with os.fdopen(master, "rb", 0), os.fdopen(slave, "rb", 0):
        yield master, slave


def readable(fd: int, seconds: float = 5) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


@pytest.mark.parametrize("size", [Size(5, 20), Size(40, 132, 1320, 800), Size(65535, 65535, 1, 2)])
def test_size(pty: tuple[int, int], size: Size) -> None:
    """The size is the terminal's, pixels included."""
    put_size(pty[0], size)

    assert Terminal(pty[1], pty[1]).size() == size


def test_size_unknown(pty: tuple[int, int]) -> None:
    """A terminal that does not know its size, and no terminal at all, count as 24 rows of 80."""
    put_size(pty[0], Size(0, 0))
    pipe = os.pipe()
    with os.fdopen(pipe[0], "rb", 0), os.fdopen(pipe[1], "wb", 0):
        sizes = {Terminal(pty[1], pty[1]).size(), Terminal(*pipe).size()}

    assert sizes == {Size(24, 80)}


def test_size_of_the_input_when_the_output_is_none(pty: tuple[int, int]) -> None:
    """Where the output knows no size, the input's is taken."""
    put_size(pty[0], Size(30, 90))
    with Path(os.devnull).open("wb") as nowhere:
        assert Terminal(pty[1], nowhere.fileno()).size() == Size(30, 90)


def test_raw_mode_hands_all_bytes_through(pty: tuple[int, int]) -> None:
    """All 256 byte values pass a raw terminal unchanged in both directions."""
    every = bytes(range(256))
    with Terminal(pty[1], pty[1]).raw_mode():
        os.write(pty[0], every)
        assert readable(pty[1])
        assert os.read(pty[1], 1000) == every
        os.write(pty[1], every)
        assert readable(pty[0])
        assert os.read(pty[0], 1000) == every


def test_raw_mode_equals_cfmakeraw(pty: tuple[int, int]) -> None:
    """The raw modes are those of cfmakeraw(3), also where the user had set odd ones."""
    attributes = termios.tcgetattr(pty[1])
    attributes[0] |= termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXOFF
    termios.tcsetattr(pty[1], termios.TCSANOW, attributes)

    with Terminal(pty[1], pty[1]).raw_mode():
        iflag, oflag, cflag, lflag, _, _, characters = termios.tcgetattr(pty[1])

    unwanted = termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXOFF | termios.ICRNL
    assert not iflag & unwanted
    assert not oflag & termios.OPOST
    assert cflag & termios.CSIZE == termios.CS8
    assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    assert (characters[termios.VMIN], characters[termios.VTIME]) == (1, 0)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_raw_mode_restores(pty: tuple[int, int], error: type[BaseException] | None) -> None:
    """The modes after the block are exactly those before, whatever ends it."""
    attributes = termios.tcgetattr(pty[1])
    attributes[3] &= ~termios.ECHO
    attributes[6][termios.VERASE] = b"\x08"
    termios.tcsetattr(pty[1], termios.TCSANOW, attributes)
    before = termios.tcgetattr(pty[1])

    try:
        with Terminal(pty[1], pty[1]).raw_mode():
            assert termios.tcgetattr(pty[1]) != before
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass

    assert termios.tcgetattr(pty[1]) == before


def test_type_ahead_is_kept(pty: tuple[int, int]) -> None:
    """What was typed before raw mode, and inside it, can still be read after either switch."""
    terminal = Terminal(pty[1], pty[1])
    os.write(pty[0], b"before ")
    with terminal.raw_mode():
        assert readable(pty[1])
        assert os.read(pty[1], 100) == b"before "
        os.write(pty[0], b"inside\n")
        assert readable(pty[1])

    assert os.read(pty[1], 100) == b"inside\n"


def test_raw_mode_of_no_terminal() -> None:
    """A pipe cannot be made raw: one sentence says so."""
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb", 0), os.fdopen(sender, "wb", 0):
        terminal = Terminal(receiver, sender)
        with pytest.raises(TerminalError, match="not a terminal"), terminal.raw_mode():
            pass
        assert terminal.attributes() is None


def test_attributes_are_the_users(pty: tuple[int, int]) -> None:
    """The attributes for the child's pty are those before raw mode, also inside it."""
    terminal = Terminal(pty[1], pty[1])
    before = termios.tcgetattr(pty[1])

    with terminal.raw_mode():
        inside = terminal.attributes()

    assert inside == before == terminal.attributes()


def test_cooked_goes_back_and_returns(pty: tuple[int, int]) -> None:
    """Inside ``cooked`` the terminal is the user's; after it, it is raw as before."""
    terminal = Terminal(pty[1], pty[1])
    before = termios.tcgetattr(pty[1])
    with terminal.raw_mode():
        raw = termios.tcgetattr(pty[1])
        with terminal.cooked():
            assert termios.tcgetattr(pty[1]) == before
        assert termios.tcgetattr(pty[1]) == raw

    assert termios.tcgetattr(pty[1]) == before


def test_cooked_keeps_what_the_user_changed(pty: tuple[int, int]) -> None:
    """Modes set while the guard is stopped (``stty``) are the ones restored at the end."""
    terminal = Terminal(pty[1], pty[1])
    with terminal.raw_mode():
        with terminal.cooked():
            changed = termios.tcgetattr(pty[1])
            changed[6][termios.VERASE] = b"\x08"
            termios.tcsetattr(pty[1], termios.TCSANOW, changed)
        assert terminal.attributes() == changed

    assert termios.tcgetattr(pty[1]) == changed


def test_cooked_outside_raw_mode(pty: tuple[int, int]) -> None:
    """Outside raw mode there is nothing to go back to, and nothing is changed."""
    before = termios.tcgetattr(pty[1])
    with Terminal(pty[1], pty[1]).cooked():
        assert termios.tcgetattr(pty[1]) == before

    assert termios.tcgetattr(pty[1]) == before


def test_a_terminal_that_hung_up_is_let_go() -> None:
    """Modes of a terminal that went away meanwhile are not restored, and that is no error."""
    master, slave = os.openpty()
    with os.fdopen(slave, "rb", 0):
        terminal = Terminal(slave, slave)
        with terminal.raw_mode(), terminal.cooked():
            os.close(master)
        assert terminal.attributes() is None


def test_private_fds_do_not_block_and_do_not_leak_flags(pty: tuple[int, int]) -> None:
    """The private descriptors are non-blocking; the flags of the shared ones stay."""
    with Terminal(pty[1], pty[1]).raw_mode(), Terminal(pty[1], pty[1]).private_fds() as fds:
        assert not os.get_blocking(fds.in_fd)
        assert not os.get_blocking(fds.out_fd)
        assert os.get_blocking(pty[1])
        os.write(fds.out_fd, b"out")
        os.write(pty[0], b"in")
        assert readable(pty[0])
        assert os.read(pty[0], 10) == b"out"
        assert readable(fds.in_fd)
        assert os.read(fds.in_fd, 10) == b"in"
        with pytest.raises(BlockingIOError):
            os.read(fds.in_fd, 10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.fcntl(fds.out_fd, fcntl.F_GETFD)


def test_private_fds_without_a_name() -> None:
    """Descriptors of something that cannot be opened by name are copies, with its own flags."""
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb", 0), os.fdopen(sender, "wb", 0):
        private = Terminal(receiver, sender).private_fds()
        with private as fds:
            os.write(fds.out_fd, b"through")
            assert os.read(fds.in_fd, 10) == b"through"
            assert os.get_blocking(receiver)


def test_job_control() -> None:
    """Suspended, the shell has its own modes; behind, they are left alone; in front, it is raw."""
    with Person([sys.executable, str(CHILDREN / "job_control.py")]) as person:
        assert person.finish() == 0
        observed = json.loads(person.shown)

    raw = observed["in front"][1]
    assert observed["suspended"] == [signal.SIGSTOP, observed["before"]]
    assert observed["behind"] == [signal.SIGTTOU, observed["editing"]]
    assert observed["in front"][0] == signal.SIGSTOP
    assert raw not in (observed["before"], observed["changed"], observed["editing"])
    assert observed["ended"] == [0, observed["changed"]]
