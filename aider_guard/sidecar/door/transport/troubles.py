"""What went wrong on the way to an upstream, from httpx's exceptions to a trouble in the system's words. Pure."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import httpx

from aider_guard.sidecar.door.seam import Trouble

MAX_WORDS: Final = 200
_DEPTH: Final = 12
_SILENT: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH})


def trouble_of(error: httpx.HTTPError | httpx.InvalidURL | OSError) -> Trouble:
    """What an exception means for the request that it ended."""
    system = next(_system_errors(error), None)
    words = _words(error, system)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL):
        return Trouble("down", words)
    if isinstance(error, httpx.UnsupportedProtocol):
        return Trouble("down", words)
    if isinstance(error, httpx.ReadTimeout) or (system and system.errno in _SILENT):
        return Trouble("silent", words)
    return Trouble("broken", words)


def _words(error: Exception, system: OSError | None) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    # These two bring the library's own sentence; asyncio's of the others repeats the address.
    if isinstance(system, ssl.SSLError | socket.gaierror):
        return str(system.strerror)[:MAX_WORDS]
    if system is not None and system.errno:
        return os.strerror(system.errno)
    return str(error)[:MAX_WORDS] or type(error).__name__


def _system_errors(error: BaseException, depth: int = _DEPTH) -> Iterator[OSError]:
    """The system's own errors that an exception came from, nearest first.

    httpcore drops causes (``raise … from None``) but hands the first exception on as an argument.
    """
    if isinstance(error, OSError) and error.errno is not None:
        yield error
    if depth == 0:
        return
    behind = [error.__cause__, *error.args, *getattr(error, "exceptions", ()), error.__context__]
    for other in behind:
        if isinstance(other, BaseException):
            yield from _system_errors(other, depth - 1)
