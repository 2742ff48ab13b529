"""The instructions of a filter of system calls (classic BPF, linux/filter.h), as bytes, and what they can look at."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

# linux/seccomp.h
ALLOW: Final = 0x7FFF0000
ASK: Final = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
_ERRNO: Final = 0x00050000

# struct seccomp_data (linux/seccomp.h): number, architecture, instruction pointer, six arguments of eight bytes. Both
# machines are little-endian, so an argument's lower half comes first.
NUMBER: Final = 0
ARCHITECTURE: Final = 4
ARGUMENTS: Final = 16

# linux/bpf_common.h: load a word, and its lower bits, compare, return
_LOAD: Final = 0x20
_AND: Final = 0x54
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One struct sock_filter, linux/filter.h; the jumps count instructions from the next one on."""
    return struct.pack("<HBBI", code, then, otherwise, value)


def load(offset: int) -> bytes:
    """A word of what is known of the call."""
    return _instruction(_LOAD, offset)


def argument(number: int) -> bytes:
    """The lower half: the kernel itself looks at no more of what it takes for an int."""
    return load(ARGUMENTS + 8 * number)


def lower_bits(mask: int) -> bytes:
    """Keep these bits only of what was loaded."""
    return _instruction(_AND, mask)


def give(verdict: int) -> bytes:
    """The end: this becomes of the call."""
    return _instruction(_RETURN, verdict)


def refuse(error: int) -> bytes:
    """The end: the call fails with this error."""
    return give(_ERRNO | error)


def when(value: int, block: list[bytes]) -> list[bytes]:
    """The block where this was loaded."""
    return [_instruction(_EQUAL, value, 0, len(block)), *block]


def unless(value: int, block: list[bytes]) -> list[bytes]:
    """The block where something else was loaded."""
    return [_instruction(_EQUAL, value, len(block), 0), *block]


def when_at_least(value: int, block: list[bytes]) -> list[bytes]:
    """The block where this or more was loaded."""
    return [_instruction(_AT_LEAST, value, 0, len(block)), *block]


def when_any(values: Iterable[int], block: list[bytes]) -> list[bytes]:
    """The same block for each value; each must end with a return."""
    return [instruction for value in values for instruction in when(value, block)]
