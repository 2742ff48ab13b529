"""Report the terminal's size, with pixels, at the start and at each SIGWINCH; end at a key."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import tty


def report(name: bytes) -> None:
    size = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    os.write(1, b"%s %d %d %d %d\r\n" % (name, *size))


wakeup_read, wakeup_write = os.pipe()
os.set_blocking(wakeup_write, False)
signal.set_wakeup_fd(wakeup_write)
signal.signal(signal.SIGWINCH, lambda *_: None)
tty.setraw(0, termios.TCSANOW)
report(b"START")
while True:
    ready: list[int] = []
    with contextlib.suppress(InterruptedError):
        ready, _, _ = select.select([0, wakeup_read], [], [])
    if wakeup_read in ready:
        os.read(wakeup_read, 64)
        report(b"WINCH")
    if 0 in ready:
        break
