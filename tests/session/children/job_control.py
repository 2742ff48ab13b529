"""A shell with one job: a guard's terminal that is suspended, continued behind, brought to the front.

Prints one JSON line: how the job stopped each time, and the terminal's modes seen on the way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import termios
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from aider_guard.session.terminal import Terminal


def job() -> None:
    terminal = Terminal()
    with terminal.raw_mode():
        with terminal.cooked():
            signal.raise_signal(signal.SIGSTOP)
        signal.raise_signal(signal.SIGSTOP)


def stopped_by(pid: int) -> int:
    """The signal that stopped the job, or minus its exit status."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    return os.WSTOPSIG(status) if os.WIFSTOPPED(status) else -os.waitstatus_to_exitcode(status)


def modes() -> list[Any]:
    attributes = termios.tcgetattr(0)
    return [*attributes[:6], [str(character) for character in attributes[6]]]


def main() -> None:
    observed: dict[str, Any] = {"before": modes()}
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        job()
        os._exit(0)
    observed["suspended"] = stopped_by(pid), modes()
    os.tcsetpgrp(0, os.getpid())
    editing = termios.tcgetattr(0)
    editing[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(0, termios.TCSADRAIN, editing)
    observed["editing"] = modes()
    os.kill(pid, signal.SIGCONT)  # bg
    observed["behind"] = stopped_by(pid), modes()
    editing[3] |= termios.ICANON | termios.ECHO
    editing[6][termios.VERASE] = b"\x08"
    termios.tcsetattr(0, termios.TCSADRAIN, editing)
    observed["changed"] = modes()
    os.tcsetpgrp(0, pid)
    os.kill(pid, signal.SIGCONT)  # fg
    observed["in front"] = stopped_by(pid), modes()
    os.kill(pid, signal.SIGCONT)
    observed["ended"] = stopped_by(pid), modes()
    os.tcsetpgrp(0, os.getpid())
    print(json.dumps(observed), flush=True)


main()
