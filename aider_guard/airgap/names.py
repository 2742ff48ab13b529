"""Names inside the air gap: each has a loopback address of its own, so that whoever is reached for is known by name.

Questions and answers are those of RFC 1035, 4.1. No question leaves the machine.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_FIRST: Final = int(ipaddress.IPv4Address("127.77.0.1"))
_MOST: Final = 0xFFFE
"""As many names as 127.77.0.0/16 has addresses; further ones have none, and do not exist."""
_A, _AAAA, _IN = 1, 28, 1
_HEADER: Final = struct.Struct("!HHHHHH")
_RESPONSE, _OPCODES, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_NOT_IMPLEMENTED, _NO_SUCH_NAME = 4, 3
_SECONDS_KEPT: Final = 1
_COMPRESSED: Final = b"\xc0\x0c"  # the name of the question, which begins at byte 12
LOCAL: Final = ("localhost", "localhost.localdomain")
"""This machine, and nobody outside; so is its own name."""
_HERE: Final = "127.0.0.1"


class Names:
    """The addresses of one session's names, in the order in which they were asked for."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self.local: Final = frozenset({*LOCAL, own, own.partition(".")[0]} - {""})
        """Names of this machine."""
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name in known:
            self.address_of(name)

    def address_of(self, name: str) -> str | None:
        """The address that stands for this name, the same each time; None when there are no more."""
        name = name.lower().removesuffix(".")
        if name not in self._addresses:
            if len(self._addresses) >= _MOST:
                return None
            address = str(ipaddress.IPv4Address(_FIRST + len(self._addresses)))
            self._addresses[name], self._names[address] = address, name
        return self._addresses[name]

    def __contains__(self, name: str) -> bool:
        return name.lower().removesuffix(".") in self._addresses

    def name_of(self, address: str) -> str:
        """The name that an address stands for, else the address."""
        return self._names.get(address, address)

    def stands_for_a_name(self, address: str) -> bool:
        """Whether it is one of ours."""
        return address in self._names


@dataclass(frozen=True)
class Answered:
    """What was asked, and the whole answer. ``is_new`` is whether the name was never asked for before."""

    name: str
    reply: bytes
    is_new: bool = True


def answer(
    query: bytes, names: Names, is_absent: Callable[[str], bool] = lambda _name: False
) -> Answered | None:
    """Answer a question for a name; None when the datagram is no question.

    Every name that is not *absent* exists, with one IPv4 address and no other record: a program that insists on another
    kind gets none.
    """
    question = _question(query)
    if question is None:
        return None
    name, kind, raw = question
    identifier, flags, *_ = _HEADER.unpack_from(query)
    before = _RESPONSE | _RECURSION_AVAILABLE | flags & (_OPCODES | _RECURSION_DESIRED)
    if flags & _OPCODES:
        return Answered(name, _HEADER.pack(identifier, before | _NOT_IMPLEMENTED, 1, 0, 0, 0) + raw)
    is_local = name in names.local and name not in names
    is_new = not is_local and name not in names
    address = _HERE if is_local else None if is_absent(name) else names.address_of(name)
    if address is None:
        return Answered(name, _HEADER.pack(identifier, before | _NO_SUCH_NAME, 1, 0, 0, 0) + raw)
    records = b""
    if kind == _A:
        fixed = struct.pack("!HHIH", _A, _IN, _SECONDS_KEPT, 4)
        records = _COMPRESSED + fixed + ipaddress.IPv4Address(address).packed
    head = _HEADER.pack(identifier, before, 1, 1 if records else 0, 0, 0)
    return Answered(name, head + raw + records, is_new)


def _question(query: bytes) -> tuple[str, int, bytes] | None:
    """The name, the kind of record, and the bytes of the one question."""
    if len(query) < _HEADER.size or query[2] & 0x80 or query[4:6] != b"\0\1":
        return None
    labels, at = [], _HEADER.size
    while at < len(query) and query[at]:
        length = query[at]
        if length > 63 or at + 1 + length >= len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    if len(query) < at + 5:
        return None
    name = "".join(c if c.isprintable() else "\ufffd" for c in ".".join(labels)).lower()
    return name, int.from_bytes(query[at + 1 : at + 3], "big"), query[_HEADER.size : at + 5]
