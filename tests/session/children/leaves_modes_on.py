"""Do to the terminal what a prompt does (raw, bracketed paste, no cursor); wait to be killed."""

import os
import signal
import termios
import tty

tty.setraw(0, termios.TCSANOW)
os.write(1, b"\x1b[?2004h\x1b[?25l\x1b[?1049h\x1b[1mREADY %d\r\n" % os.getpid())
while True:
    signal.pause()
