"""Wait until a daemon that has ended is gone, as scripts do by ``kill -0``; then end with status 7."""

import os
import sys
import time

CAP_SECONDS = 10.0

reading, writing = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.write(writing, b"%d" % os.getpid())
    os._exit(0)
os.wait()
os.close(writing)
daemon = int(os.read(reading, 20))
os.read(reading, 1)  # it ends
until = time.monotonic() + CAP_SECONDS
try:
    while time.monotonic() < until:
        os.kill(daemon, 0)
        time.sleep(0.005)
except ProcessLookupError:
    sys.exit(7)
