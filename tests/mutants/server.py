"""Runs pytest again and again, each time in a fork of a process that has imported all but the code and its tests.

Reads a JSON line for each run: the arguments, the environment, the file for what is printed, and the seconds it may
take. Answers with the status, null for a run that took longer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

LOOKS_EVERY_S = 0.02


def main() -> None:
    """Imports the modules that are named in the file of the first argument, then serves until its input ends."""
    for name in json.loads(Path(sys.argv[1]).read_text()):
        with contextlib.suppress(ImportError):  # made by the tests themselves, say
            importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.update(order["env"])
            _run(order["arguments"], order["output"])
        sys.stdout.write(json.dumps(_status(child, order["limit"])) + "\n")
        sys.stdout.flush()


def _run(arguments: Sequence[str], output: str) -> None:
    """Becomes pytest, in a process group of its own."""
    status = 3
    try:
        os.setsid()
        to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(to, 1)
        os.dup2(to, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.dont_write_bytecode = True  # no bytecode of a changed file may outlive the change
        import pytest

        status = int(pytest.main(list(arguments)))
        sys.stdout.flush()
    except Exception:  # noqa: BLE001  # a fork must end here, whatever it was
        traceback.print_exc()
    finally:
        os._exit(status)


def _status(child: int, limit: float) -> int | None:
    """The status of the run, or None when it was ended at its limit. A death by a signal is a failure, too."""
    end = time.monotonic() + limit
    status: int | None = None
    while True:
        ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(wait_status)
            status = code if code >= 0 else 1
            break
        if time.monotonic() > end:
            break
        time.sleep(LOOKS_EVERY_S)
    with contextlib.suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)
    return status


if __name__ == "__main__":
    main()
