"""Raw terminal: give back every byte typed, as it is, as many as the argument says."""

import os
import sys
import termios
import tty

tty.setraw(0, termios.TCSANOW)
os.write(1, b"READY")
left = int(sys.argv[1])
while left:
    data = memoryview(os.read(0, min(left, 65536)))
    left -= len(data)
    while data:
        data = data[os.write(1, data) :]
