"""The user's terminal: its size, its modes, and private, non-blocking descriptors for it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any, NamedTuple

from aider_guard.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WINSIZE = "HHHH"
"""struct winsize: four unsigned shorts; ``h``, as in pexpect's own example, is signed."""
_GONE = frozenset({errno.EIO, errno.ENXIO, errno.ENOTTY})
"""What a terminal that hung up answers to tcsetattr."""


class Size(NamedTuple):
    """A terminal's size in character cells, and in pixels where it tells (else 0)."""

    rows: int
    columns: int
    x_pixels: int = 0
    y_pixels: int = 0


class TerminalFds(NamedTuple):
    """Descriptors of the terminal that only the guard has: their flags do not reach the shell."""

    in_fd: int
    out_fd: int


class Terminal:
    """The user's terminal, read from ``in_fd`` and written to ``out_fd``; their flags stay."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1) -> None:
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._before_raw: list[Any] | None = None

    def size(self) -> Size:
        """Return the size now, pixels included; 24 rows of 80 columns when the terminal does not know."""
        for fd in (self._out_fd, self._in_fd):
            with contextlib.suppress(OSError):
                size = Size(*struct.unpack(_WINSIZE, fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))))
                if size.rows and size.columns:
                    return size
        return Size(24, 80)

    def attributes(self) -> list[Any] | None:
        """Return the user's own termios attributes, also while it is raw; None when it is no terminal."""
        return _attributes(self._in_fd) if self._before_raw is None else list(self._before_raw)

    def is_foreground(self) -> bool:
        """Whether this process may use the terminal: not after ``bg``. True without job control."""
        try:
            return os.tcgetpgrp(self._in_fd) == os.getpgrp()
        except OSError:
            return True

    @contextlib.contextmanager
    def raw_mode(self) -> Iterator[None]:
        """Pass every byte as it is, both ways, until the block ends. Type-ahead is kept.

        Raises:
            TerminalError: the input is not a terminal, or it hung up.
        """
        before = _attributes(self._in_fd)
        if before is None:
            raise TerminalError("The standard input is not a terminal.")
        self._before_raw = before
        try:
            _set_attributes(self._in_fd, _raw(before))
            yield
        finally:
            before, self._before_raw = self._before_raw, None
            # In the background the modes are the shell's: it took the terminal and set its own.
            if self.is_foreground():
                _tolerating_hangup(lambda: _set_attributes(self._in_fd, before))

    @contextlib.contextmanager
    def cooked(self) -> Iterator[None]:
        """Restore the user's own modes inside the block, within ``raw_mode``, to be suspended or to ask.

        Modes that the user changes meanwhile (``stty`` while the guard is stopped) are the ones
        restored at the end. Continued in the background, the process stops again (SIGTTOU) until it
        is brought to the front.
        """
        if self._before_raw is None:
            yield
            return
        _tolerating_hangup(lambda: _set_attributes(self._in_fd, self.attributes() or []))
        try:
            yield
        finally:
            if not self.is_foreground():
                signal.raise_signal(signal.SIGTTOU)
            if self.is_foreground():
                self._before_raw = _attributes(self._in_fd) or self._before_raw
            _tolerating_hangup(lambda: _set_attributes(self._in_fd, _raw(self.attributes() or [])))

    @contextlib.contextmanager
    def private_fds(self) -> Iterator[TerminalFds]:
        """Open non-blocking descriptors of our own for the same terminal, closed at the end.

        O_NONBLOCK on fd 0 or 1 would reach the parent shell, which shares them. Where the terminal
        has no name that can be opened (some containers), the descriptors are copies that block.
        """
        with contextlib.ExitStack() as stack:
            in_fd = _reopen(self._in_fd, os.O_RDONLY)
            stack.callback(os.close, in_fd)
            out_fd = _reopen(self._out_fd, os.O_WRONLY)
            stack.callback(os.close, out_fd)
            yield TerminalFds(in_fd, out_fd)


def put_size(fd: int, size: Size) -> None:
    """Give a pty this size, pixels included; its foreground gets SIGWINCH if it is another one."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack(_WINSIZE, *size))


def _reopen(fd: int, access: int) -> int:
    try:
        return os.open(os.ttyname(fd), access | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


def _attributes(fd: int) -> list[Any] | None:
    try:
        return termios.tcgetattr(fd)
    except termios.error:
        return None


def _set_attributes(fd: int, attributes: list[Any]) -> None:
    """Set them once the output is out. TCSAFLUSH would throw away what was typed ahead."""
    while True:
        try:
            return termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
        except termios.error as error:  # noqa: PERF203  # seldom more than one round
            # Unlike the functions of os (PEP 475) it is not tried again after a signal.
            if error.args[0] != errno.EINTR:
                raise


def _tolerating_hangup(change: Callable[[], None]) -> None:
    """Make the change; there is nothing to restore on a terminal that is gone."""
    try:
        change()
    except termios.error as error:
        if error.args[0] not in _GONE:
            raise


def _raw(attributes: list[Any]) -> list[Any]:
    """Return the attributes that cfmakeraw(3) would set; before 3.12, tty.setraw leaves some input bits alone."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = attributes
    iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR)
    iflag &= ~(termios.IGNCR | termios.ICRNL | termios.IXON | termios.IXOFF | termios.INPCK)
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag & ~termios.OPOST, cflag, lflag, ispeed, ospeed, characters]
