"""Who takes what a program in a network namespace sends: somebody inside, or nobody, though somebody outside would."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from aider_guard.airgap import diag, tables
from aider_guard.airgap.diag import End, Kind, diag_socket
from aider_guard.airgap.packets import Packet, is_for_one, is_loopback

_KINDS: Final[tuple[Kind, ...]] = ("tcp", "udp")


class Takers:
    """Asks the kernel about one packet at a time, and reads its tables where it does not answer.

    Args:
        inside: a socket of airgap/diag.py of the inside; it stays its owner's.
        inside_tables: /proc/net/tcp and its like, of the inside.
        known: somebody who waits inside, of each kind: whether the kernel answers is found by asking for them.

    Raises:
        OSError: nothing can be asked about this machine.
    """

    def __init__(
        self, inside: socket.socket, inside_tables: Mapping[str, int], known: Mapping[Kind, End]
    ) -> None:
        self._inside, self._inside_tables = inside, inside_tables
        self._outside = diag_socket()
        self._asked = {kind for kind in _KINDS if diag.has_server(inside, kind, known[kind])}

    def close(self) -> None:
        """Ask no more. Twice is no error."""
        self._outside.close()

    def is_taken_inside(self, packet: Packet) -> bool:
        """Whether another program inside has got it, so that nothing was refused."""
        if packet.kind == "other" or not is_for_one(packet.destination):
            return False
        if packet.kind == "udp" and packet.source_port == packet.port:
            return False  # every address leads back to whoever sends from the port it sends to
        if packet.kind in self._asked:
            return diag.is_taken(self._inside, packet.kind, packet.sender, packet.receiver)
        if not is_loopback(packet.destination):
            return False  # a table does not tell who waits at all addresses
        inside = (tables.read(self._inside_tables[name]) for name in _names(packet.kind))
        return any(tables.has_server(packet.kind, packet.port, table) for table in inside)

    def is_server_outside(self, packet: Packet) -> bool:
        """Whether this machine has somebody at that place."""
        if packet.kind == "other":
            return False
        if packet.kind in self._asked:
            return diag.has_server(self._outside, packet.kind, packet.receiver)
        outside = tables.of_this_machine(packet.kind)
        return any(tables.has_server(packet.kind, packet.port, table) for table in outside)


def _names(kind: Kind) -> tuple[str, str]:
    return kind, f"{kind}6"
