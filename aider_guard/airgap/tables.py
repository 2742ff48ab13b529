"""Which ports of the loopback somebody listens on, by the kernel's own tables (/proc/net/tcp and its like, proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_LISTENING, _UNCONNECTED = "0A", "07"  # TCP_LISTEN and TCP_CLOSE, net/tcp_states.h
_CHUNK: Final = 1 << 16


def has_server(kind: str, port: int, table: bytes) -> bool:
    """Whether a table of this kind ("tcp" or "udp", of IPv4 or IPv6) has somebody waiting on this port."""
    wanted = (_LISTENING if kind == "tcp" else _UNCONNECTED).encode()
    ending = f":{port:04X}".encode()
    return any(
        fields[1].endswith(ending) and fields[3] == wanted
        for fields in map(bytes.split, table.splitlines()[1:])
        if len(fields) > 3
    )


def read(fd: int) -> bytes:
    """An open table from its beginning; empty when it cannot be read."""
    parts: list[bytes] = []
    with suppress(OSError):
        os.lseek(fd, 0, os.SEEK_SET)
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    return b"".join(parts)


def of_this_machine(kind: str) -> Iterator[bytes]:
    """The tables of the guard's own network."""
    for name in (kind, f"{kind}6"):
        with suppress(OSError), open(f"/proc/net/{name}", "rb") as file:
            yield file.read()
