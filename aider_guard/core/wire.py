"""Encodes and decodes the JSON lines between guard and sidecar, one event or request a line.

A line is ``{"type": "ModelsRead", "value": {...}}`` in ASCII, ended by a newline; codec.py checks the value's fields.
Names of files may hold bytes that are no UTF-8 (Python keeps them as lone surrogates): they survive, escaped.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, NoReturn, get_args

from aider_guard.core.actions import Request
from aider_guard.core.codec import WireError, build
from aider_guard.core.events import EgressAllowed, EgressBlocked, SidecarEvent

if TYPE_CHECKING:
    from aider_guard.core.events import Event

_TYPES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (*get_args(SidecarEvent), EgressAllowed, EgressBlocked, *get_args(Request))
}


def encode(value: Event | Request) -> bytes:
    """Encode a value as one line. Raises ``ValueError`` for NaN and infinity: JSON has neither."""
    envelope = {"type": type(value).__name__, "value": asdict(value)}
    return json.dumps(envelope, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Event | Request:
    """Decode one line, with or without its newline.

    Raises:
        WireError: the line is no JSON, names no type of the wire, or its value does not fit that type.
    """
    try:
        envelope = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON ({type(error).__name__})") from None
    match envelope:
        case {"type": str(name), "value": dict(value), **rest} if not rest:
            if name not in _TYPES:
                raise WireError("a type that is not of the wire")
            decoded: Event | Request = build(_TYPES[name], value)
            return decoded
        case _:
            raise WireError("no type and value")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
