"""Raw terminal: write all 256 byte values, in many orders, then end."""

import os
import termios
import tty

tty.setraw(0, termios.TCSANOW)
data = memoryview(b"".join(bytes((i * step) % 256 for i in range(256)) for step in range(1, 64, 2)))
while data:
    data = data[os.write(1, data) :]
