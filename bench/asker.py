"""A program in an air gap that times its own calls: ``python -m bench.asker LAYER PORT FD``.

It reads lines ``KIND COUNT``, and answers each with the seconds of so many calls, as JSON. The door listens on PORT; on
FD the hook of the layer "asked" tells.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from aider_guard.launch.inside.audit_hook import install_audit_hook
from bench.door import PROMPT_BYTES

KINDS: Final = ("door", "own", "refused", "kept", "new")
_HERE: Final = "127.0.0.1"
_NOBODY: Final = ("192.0.2.1", 9)  # documentation (RFC 5737), the discard port
_REQUEST: Final = (
    b"POST /as-large-as-aiders HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Length: %d\r\n\r\n" % PROMPT_BYTES
) + bytes(PROMPT_BYTES)


class Calls:
    """What an asker times, by its kind: seconds of one. A connection is timed with its socket."""

    def __init__(self, layer: str, port: int) -> None:
        self._door = (_HERE, port)
        self._own = socket.create_server((_HERE, 0))
        self._closed = socket.socket()
        self._closed.bind((_HERE, 0))  # and nothing listens there
        # Without an air gap there is no other address that refuses at once.
        self._refuses = self._closed.getsockname() if layer == "open" else _NOBODY
        self._kept = _connected(self._door)
        self.kinds: Mapping[str, Callable[[], float]] = {
            "door": lambda: _connect_seconds(self._door),
            "own": self._own_seconds,
            "refused": self._refused_seconds,
            "kept": lambda: _request_seconds(self._kept),
            "new": self._new_seconds,
        }

    def _own_seconds(self) -> float:
        seconds = _connect_seconds(self._own.getsockname())
        self._own.accept()[0].close()
        return seconds

    def _refused_seconds(self) -> float:
        started = time.perf_counter()
        with socket.socket() as one:
            try:
                one.connect(self._refuses)
            except ConnectionRefusedError:
                return time.perf_counter() - started
        raise AssertionError(f"{self._refuses} was reached")

    def _new_seconds(self) -> float:
        started = time.perf_counter()
        with _connected(self._door) as one:
            _request_seconds(one)
            return time.perf_counter() - started


def _connect_seconds(address: tuple[str, int]) -> float:
    started = time.perf_counter()
    with socket.socket() as one:
        one.connect(address)
        return time.perf_counter() - started


def _connected(address: tuple[str, int]) -> socket.socket:
    one = socket.create_connection(address)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _request_seconds(one: socket.socket) -> float:
    started = time.perf_counter()
    one.sendall(_REQUEST)
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        piece = one.recv(65536)
        assert piece, "the door hung up"
        received += piece
    return time.perf_counter() - started


def main() -> None:
    layer, port, report_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if layer == "asked":
        install_audit_hook(report_fd, [])
    kinds = Calls(layer, port).kinds
    for line in sys.stdin:
        kind, count = line.split()
        print(json.dumps([kinds[kind]() for _ in range(int(count))]), flush=True)


if __name__ == "__main__":
    main()
