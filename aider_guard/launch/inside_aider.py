"""Runs in Aider's own process, before Aider: describes to the guard what Aider will use, and adds what it answers.

Started as ``INTERPRETER inside_aider.py FD SCRIPT ARGS…``. It sends one JSON line on the socket FD, reads one, and then
runs Aider as its script would have run it. With ``only:FD`` it sends the line and ends. With ``standby:FD`` it loads
Aider's code first, and waits until the guard says that it is its turn. With ``FD/REPORTS/HOST:PORT,…``
attempts to reach other places than these are refused, and reported on the socket REPORTS, and Aider fetches no lists
from there.

Describing Aider in its own process costs little, since nearly everything that is imported for it is what Aider imports
anyway, and the description is right by construction: it is Aider's own parser and ``Model`` that resolve the command
line, ``AIDER_*``, every ``.env``, every ``.aider.conf.yml``, aliases and model settings.

Only the standard library and Aider itself may be imported here; this file runs on any Python that Aider runs on.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import select
import socket
import sys
from typing import Any

_AT_ONCE_SECONDS = 0.1
"""A server on this machine has mostly answered by then, and Aider begins as early as without the guard."""
_NEW_OBJECTS = 50_000
"""How many new objects are looked through for garbage at once. With Python's 700 that is done 600 times while Aider's
code is loaded, which makes hardly any: a tenth of the processor time of a start (CPython 3.11, Aider 0.86.2).
"""
_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "_aider_guard_launch"


def load_inside(module: str) -> Any:
    """Import a module of launch/inside by its file, so that the guard's installation does not get on Aider's path."""
    if _PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _PACKAGE, os.path.join(_HERE, "__init__.py"), submodule_search_locations=[_HERE]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[_PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.inside.{module}")


def become_script(script: str, arguments: list[str]) -> None:
    """Set the program's name, its arguments and the first folder of its path to those of Aider's script."""
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(_HERE):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.argv = [script, *arguments]


def describe_aider(arguments: list[str]) -> dict[str, Any]:
    """Describe what Aider will use, or say why that is not known."""
    try:
        description: dict[str, Any] = load_inside("describing").describe(arguments)
    except Exception as error:
        # Another Aider than those tried: say so, and run it all the same.
        return {"problem": f"{type(error).__name__}: {error}"}
    return description


def ask_guard(
    channel: socket.socket, description: dict[str, Any], arguments: list[str]
) -> dict[str, Any]:
    """Send the description and wait for the guard's answer; an empty one when the guard is gone.

    Where the answer does not come at once, as a server is asked first, Aider's code is loaded meanwhile, with the
    variables that the guard has told before.
    """
    try:
        send_line(channel, description)
        answer = receive_line(channel)
        if "variables" in answer:
            if not select.select([channel], [], [], _AT_ONCE_SECONDS)[0]:
                load_inside("standby").load_beside(arguments, answer["variables"])
            answer = receive_line(channel)
    except OSError:
        return {}
    return answer


def receive_line(channel: socket.socket) -> dict[str, Any]:
    """Receive one line, and nothing of the next; an empty value at the end. Raises OSError."""
    line = b""
    while not line.endswith(b"\n"):
        seen = channel.recv(65536, socket.MSG_PEEK)
        if not seen:
            return {}
        line += channel.recv(seen.find(b"\n") + 1 or len(seen))
    value: dict[str, Any] = json.loads(line)
    return value


def send_line(channel: socket.socket, description: dict[str, Any]) -> None:
    """Send the description as one line. Raises OSError when the guard is gone."""
    channel.sendall(json.dumps(description, default=str).encode() + b"\n")


def install_audit_hook(hook: str) -> list[str]:
    """Report attempts to connect from now on, and refuse all but the allowed ones: *hook* is ``FD/HOST:PORT,…``.

    Returns the allowed hosts.
    """
    report_fd, _, places = hook.partition("/")
    allowed = [place.rpartition(":") for place in places.split(",") if place]
    parsed = [(host.strip("[]"), int(port)) for host, _, port in allowed]
    load_inside("audit_hook").install_audit_hook(int(report_fd), parsed)
    return [host for host, _ in parsed]


def main() -> Any:
    """Describe Aider, wait for the guard, and run Aider; or only describe it."""
    channels, script, *arguments = sys.argv[1:]
    number, _, hook = channels.partition("/")
    way, _, number = number.rpartition(":")
    become_script(script, arguments)
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    allowed_hosts = install_audit_hook(hook) if hook else None
    faster_start = load_inside("faster_start")
    with faster_start.read_settings_faster():
        from aider.main import main as run_aider

    if allowed_hosts is not None:
        faster_start.skip_fetches(allowed_hosts)
    faster_start.read_faster()
    faster_start.build_models_late()
    with socket.socket(fileno=int(number)) as channel:
        channel.set_inheritable(False)
        if way == "standby":
            load_inside("standby").wait_for_turn(channel, arguments, receive_line)
        description = describe_aider(arguments)
        if way == "only":
            return send_line(channel, description)
        answer = ask_guard(channel, description, arguments)
    os.environ.update(answer.get("environment", {}))
    forced = answer.get("after_dotenv", {})
    if forced:
        force = load_inside("environment").force_variables
        force(os.environ, forced.get("set", {}), forced.get("unset", []))
    if "next_prompts_fd" in answer:
        load_inside("next_prompt").tell_next_prompts(answer["next_prompts_fd"])
    # Python looks through all that it holds for garbage before it ends: half a second after /exit and in a restart, for
    # Aider's code. What Aider makes from here on is looked through as ever: the map's cache is closed by that.
    gc.freeze()
    # After a "--" there are names of files only.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return run_aider(arguments[:end] + answer.get("arguments", []) + arguments[end:])


if __name__ == "__main__":
    sys.exit(main())
