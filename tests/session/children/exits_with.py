"""End with the status given; a negative one: killed by that signal."""

import os
import signal
import sys

status = int(sys.argv[1])
os.write(1, b"READY\n")
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
