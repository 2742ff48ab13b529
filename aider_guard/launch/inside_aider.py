"""Runs in Aider's own process, before Aider: tells the guard what Aider will use, and takes what the session adds.

Started as ``INTERPRETER inside_aider.py FD SCRIPT ARGS…``. One JSON line goes out on the socket FD, one comes back,
then Aider runs as its script would have run it. With ``only:FD`` the line goes out and that is all. With
``FD/REPORT_FD/HOST:PORT,…`` attempts to reach any other place are refused, and reported on the socket REPORT_FD.

Asking in Aider's own process costs little, since nearly everything that is imported for the question is what Aider
imports anyway, and the answer is right by construction: it is Aider's own parser and ``Model`` that resolve the command
line, ``AIDER_*``, every ``.env``, every ``.aider.conf.yml``, aliases and model settings.

Only the standard library and Aider itself may be imported here; this file runs on any Python that Aider runs on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import sys
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "_aider_guard_launch"


def load_inside(module: str) -> Any:
    """A module of launch/inside, by its file: the guard's installation does not get on Aider's path."""
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
    """Have the name, the arguments and the first folder of the path that Aider's script would have."""
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(_HERE):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.argv = [script, *arguments]


def question(arguments: list[str]) -> dict[str, Any]:
    """What Aider will use, or why that is not known."""
    try:
        described: dict[str, Any] = load_inside("describing").describe(arguments)
    except Exception as error:
        # Another Aider than those tried: say so, and run it all the same.
        return {"problem": f"{type(error).__name__}: {error}"}
    return described


def ask_guard(channel: socket.socket, asked: dict[str, Any]) -> dict[str, Any]:
    """Send one line, wait for one; an empty answer when the guard is gone."""
    try:
        tell_guard(channel, asked)
        with channel.makefile("rb") as lines:
            answer = lines.readline()
    except OSError:
        return {}
    return json.loads(answer) if answer.endswith(b"\n") else {}


def tell_guard(channel: socket.socket, asked: dict[str, Any]) -> None:
    """Send one line. Raises OSError when the guard is gone."""
    channel.sendall(json.dumps(asked, default=str).encode() + b"\n")


def listen_in(limits: str) -> None:
    """Report from now on where this Python wants to connect, and refuse all but the allowed places."""
    report_fd, _, places = limits.partition("/")
    allowed = [place.rpartition(":") for place in places.split(",") if place]
    known = [(host.strip("[]"), int(port)) for host, _, port in allowed]
    load_inside("listening_in").listen_in(int(report_fd), known)


def main() -> Any:
    """Ask, then be Aider; or only describe, and end."""
    channels, script, *arguments = sys.argv[1:]
    number, _, limits = channels.partition("/")
    only = number.startswith("only:")
    become_script(script, arguments)
    if limits:
        listen_in(limits)
    from aider.main import main as run_aider

    with socket.socket(fileno=int(number.rpartition(":")[2])) as channel:
        channel.set_inheritable(False)
        asked = question(arguments)
        if only:
            return tell_guard(channel, asked)
        answer = ask_guard(channel, asked)
    os.environ.update(answer.get("environment", {}))
    held = answer.get("after_dotenv", {})
    if held:
        load_inside("environment").hold(os.environ, held.get("set", {}), held.get("unset", []))
    # After a "--" there are names of files only.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return run_aider(arguments[:end] + answer.get("arguments", []) + arguments[end:])


if __name__ == "__main__":
    sys.exit(main())
