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
from collections.abc import Callable
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
_ENCODING = "litellm.litellm_core_utils.default_encoding"
"""Reads the encoding with which Aider counts a chat that it restores: most of the way to its prompt (litellm 1.81)."""
_WAY = "standby:"


def wait_for_turn(
    channel: socket.socket,
    arguments: list[str],
    receive_line: Callable[[socket.socket], dict[str, Any]],
) -> None:
    """Load the code, tell the guard so, and return when it is this Aider's turn.

    The guard's two lines give the variables that Aider gets after every ``.env`` was read, in the form of its answer.
    The process ends where the guard does, and where the settings cannot be read: the usual start says why. So it does
    on Python 3.9, which does not tell its own command line.
    """
    if not hasattr(sys, "orig_argv"):
        os._exit(1)
    try:
        variables = _variables(arguments, receive_line(channel)["variables"])
        added = _load_code(variables, (*_LATER, _ENCODING))
        if any(name in variables for name in added):
            os._exit(1)  # at a usual start, what Aider reads from a .env is set before
        message = {"standby": {"memory_bytes": _resident_bytes()}}
        channel.sendall(json.dumps(message).encode() + b"\n")
        at_turn = _variables(arguments, receive_line(channel)["variables"])
    except KeyError:  # the guard has ended
        os._exit(0)
    except (Exception, SystemExit):  # noqa: BLE001  # the usual start says what is wrong
        os._exit(1)
    if at_turn != {**variables, **added}:
        _begin_anew(len(arguments))


def load_beside(arguments: list[str], forced: dict[str, Any]) -> None:
    """Load the code while the guard waits for a server; where the settings cannot be read, Aider says why."""
    with contextlib.suppress(Exception, SystemExit):
        _load_code(_variables(arguments, forced), _LATER)


def _load_code(variables: dict[str, str], modules: tuple[str, ...]) -> dict[str, str]:
    """Import with these variables what Aider names as slow, and these modules; another version may lack some.

    Returns the variables that this set; they stay.
    """
    with restore_environment():
        os.environ.clear()
        os.environ.update(variables)
        with contextlib.suppress(Exception):
            import_module("aider.main").load_slow_imports()
        for module in modules:
            with contextlib.suppress(Exception):
                import_module(module)
        added = {name: text for name, text in os.environ.items() if variables.get(name) != text}
    os.environ.update(added)
    return added


def _variables(arguments: list[str], forced: dict[str, Any]) -> dict[str, str]:
    """The environment as Aider will have it, with the settings as they are now; it is as before afterwards.

    Raises what Aider's parser raises.
    """
    with restore_environment(), contextlib.redirect_stderr(io.StringIO()):
        parse(import_module("aider.main"), arguments)
        os.environ.update(forced.get("set", {}))
        for name in forced.get("unset", []):
            os.environ.pop(name, None)
        return dict(os.environ)


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


def _resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not tell (proc(5))."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
