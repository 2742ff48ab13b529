"""Lets an Aider that was started ahead load its code, and wait until it is to take the place of the running one.

It reads no setting and no file of the user's for later: at its turn it reads all of them as an Aider does that starts
then. Only the variables are looked at before, since libraries read some when they are imported. If these are other
ones at its turn, the process begins anew, as an Aider that was not started ahead.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import sys
from importlib import import_module
from typing import Any

from .environment import restore_environment
from .parsing import parse

_LATER = (
    "prompt_toolkit.input.vt100",
    "prompt_toolkit.key_binding.bindings.search",
    "prompt_toolkit.patch_stdout",
    "litellm.llms.ollama.chat.transformation",
    "litellm.llms.ollama.completion.transformation",
    "httpcore",
)
"""What Aider and litellm import on the way to the first prompt, beside what Aider itself names as slow to import."""
_WAY = "standby:"


def wait_for_turn(channel: socket.socket, arguments: list[str]) -> None:
    """Load the code, tell the guard so, and return when it is this Aider's turn.

    The guard's two lines give the variables that Aider gets after every ``.env`` was read, in the form of its answer.
    The process ends where the guard does, and where the settings cannot be read: the usual start says why. So it does
    on Python 3.9, which does not tell its own command line.
    """
    if not hasattr(sys, "orig_argv"):
        os._exit(1)
    variables = _variables(arguments, _line(channel))
    with _as_environment(variables) as before:
        load_code()
        added = {name: text for name, text in os.environ.items() if before.get(name) != text}
    if any(name in variables for name in added):
        os._exit(1)  # the user's own value would win at a usual start, as it is set later there
    os.environ.update(added)
    _send(channel, {"standby": {"memory_bytes": _resident_bytes()}})
    turn = _line(channel)
    if _variables(arguments, turn) != {**variables, **added}:
        _begin_anew(len(arguments))


def load_code() -> None:
    """Import what Aider imports on the way to its first prompt; another version may lack some of it."""
    with contextlib.suppress(Exception):
        import_module("aider.main").load_slow_imports()
    for module in _LATER:
        with contextlib.suppress(Exception):
            import_module(module)


def _variables(arguments: list[str], forced: dict[str, Any]) -> dict[str, str]:
    """The environment as Aider will have it, with the settings as they are now; it is as before afterwards."""
    with restore_environment(), contextlib.redirect_stderr(io.StringIO()):
        try:
            parse(import_module("aider.main"), arguments)
        except (Exception, SystemExit):  # noqa: BLE001  # the usual start says what is wrong
            os._exit(1)
        os.environ.update(forced.get("set", {}))
        for name in forced.get("unset", []):
            os.environ.pop(name, None)
        return dict(os.environ)


@contextlib.contextmanager
def _as_environment(variables: dict[str, str]) -> Any:
    with restore_environment():
        os.environ.clear()
        os.environ.update(variables)
        yield dict(os.environ)


def _begin_anew(arguments: int) -> None:
    """Become an Aider that was not started ahead, and asks on the same channel; *arguments* is how many Aider has."""
    command = list(sys.orig_argv)
    place = len(command) - arguments - 2  # before the script
    command[place] = channels = command[place].removeprefix(_WAY)
    for number in channels.split("/")[
        :2
    ]:  # the guard's, and that of the reports where there is one
        os.set_inheritable(int(number), True)
    os.execv(sys.executable, command)


def _line(channel: socket.socket) -> dict[str, Any]:
    """The guard's next line; the process ends with the guard."""
    try:
        with channel.makefile("rb") as lines:
            line = lines.readline()
    except OSError:
        line = b""
    if not line.endswith(b"\n"):
        os._exit(0)
    value: dict[str, Any] = json.loads(line)
    return value


def _send(channel: socket.socket, value: dict[str, Any]) -> None:
    try:
        channel.sendall(json.dumps(value).encode() + b"\n")
    except OSError:
        os._exit(0)


def _resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not tell (proc(5))."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
